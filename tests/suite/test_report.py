"""`vissl-swav report`: a page from the files of a run, whatever is missing of them."""

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import host_runs
import pytest
import torch
import yaml

from vissl_swav.suite import line_chart, report, report_charts
from vissl_swav.suite.line_chart import Line, Mark
from vissl_swav.suite.run_folder import read_run, restarts

NOW = 10_000.0
EVIL = "<script>alert(1)</script>\"'&"


class Parsed(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


def config():
    """As much of a `train_config.yaml` as a report reads, with values of no sense."""
    return {
        "LOSS": {
            "name": "swav",
            "swav": {
                "num_prototypes": [100],
                "embedding_dim": 16,
                "temperature": 0.2,
                "epsilon": 0.05,
                "queue_length": 320,
                "num_crops": 4,
                "crops_for_assign": [0, 1],
            },
        },
        "MODEL": {
            "TRUNK": {"NAME": EVIL},
            "AMP_PARAMS": {"USE_AMP": True, "AMP_DTYPE": "bfloat16"},
        },
        "DATA": {
            "TRAIN": {
                "BATCHSIZE_PER_REPLICA": 32,
                "DATA_PATHS": [EVIL],
                "TRANSFORMS": [{"size_crops": [24, 16], "num_crops": [2, 2]}],
            }
        },
        "DISTRIBUTED": {"NUM_NODES": 1, "NUM_PROC_PER_NODE": 2},
        "MACHINE": {"DEVICE": "cpu"},
        "SEED_VALUE": 7,
    }


def step(number, *, total=40, at=None, loss=4.0, rate=0.1):
    time = NOW - 2 * (total - number) if at is None else at
    return {
        "step": number,
        "max_step": total,
        "epoch": 0,
        "loss": loss,
        "lr": rate,
        "time": time,
    }


def reading(number, **figures):
    return {
        "step": number,
        "epoch": 0,
        "loss": 4.0,
        "ceiling": 4.6052,
        "floor": 1.139,
        "progress": 0.17,
        "feature_spread": 0.8,
        "prototype_spread": 0.99,
        "norm_error": 0.0,
        **figures,
    }


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def folder(tmp_path):
    """A run of 40 steps with everything that a run can leave behind."""
    run = tmp_path / "a run"
    run.mkdir()
    (run / "train_config.yaml").write_text(yaml.dump(config()))
    write_lines(run / "steps.jsonl", [step(n) for n in range(1, 41)])
    verdict = {
        "step": 30,
        "epoch": 0,
        "verdict": "COLLAPSED",
        "why": f"the loss {EVIL}",
        "remedies": ["first this", "then that"],
    }
    codes = {"code_entropy": 3.4, "mean_code_entropy": 4.59, "prototypes_used": 90.0}
    queue = {"queue_age": 10.0, "queue_drift": 0.05, "waiting_share": 0.1}
    write_lines(
        run / "health.jsonl",
        [
            *(reading(n, **codes, **queue) for n in (10, 20, 30)),
            verdict,
            {"step": 40, "epoch": 0, "distinct_prototypes": 98, "num_prototypes": 100},
        ],
    )
    write_lines(
        run / "unreadable.train.0.jsonl",
        [{"name": f"a{EVIL}.png", "reason": "cut short", "index": 3, "time": 0.0}],
    )
    write_lines(
        run / "unreadable.train.1.jsonl",
        [
            {"name": f"a{EVIL}.png", "reason": "cut short", "index": 3, "time": 0.0},
            {"name": "b.png", "reason": "no image", "index": 4, "time": 0.0},
        ],
    )
    facts = {"message": f"crops {EVIL}", "rank": 1, "step": 12}
    torch.save({"facts": facts}, run / "nonfinite_step12_rank1.pt")
    warned = "WARNING 2026-11-21 16:00:01,655 plan.py:  63: vissl_swav plan: WATCH OUT"
    resumed = (
        "INFO 2026-11-21 16:00:02,1 resume.py: 66: Resuming from model_phase0.torch"
    )
    other = "WARNING 2026-11-21 16:00:02,1 perf.py: 6: not of ours"
    died = "Traceback (most recent call last):\n  File x\n    y = 1\nOSError: <b>full"
    lines = [warned, warned, resumed, other, died, "\x00\xff nonsense"]
    (run / "log.txt").write_text("\n".join(lines), encoding="latin-1")
    (run / "model_phase0.torch").write_bytes(b"0" * 2_000_000)
    (run / "model_final_checkpoint_phase1.torch").write_bytes(b"0" * 1000)
    return run


def page_of(folder, now=NOW):
    path = report.write_report(folder, now=now)
    assert path == folder / "report.html"
    return Parsed(path.read_text(encoding="utf-8"))


def test_the_page_says_what_the_files_say(folder):
    text = page_of(folder).text
    for words in (
        *("FINISHED", "40 steps in 78 s", "COLLAPSED", "at step 30", "first this"),
        *("swav", "100 prototypes of dimension 16", "2x24 + 2x16", "bfloat16"),
        *(
            "32 images x 2 processes = 64",
            "temperature 0.2, epsilon 0.05, queue of 320",
        ),
        *("rank 1, step 12: crops", "cut short", "b.png", "WATCH OUT"),
        *("Resuming from model_phase0.torch", "2.0 MB", "vissl-swav gallery"),
        *("Loss", "Entropies", "Prototypes", "Spread", "Drift of the queue"),
        *("Learning rate", "Share of the time", "seed"),
    ):
        assert words in text, words
    assert text.count("WATCH OUT") == 1 and text.count("cut short") == 1
    assert "ended by OSError: <b>full" in text
    assert "not of ours" not in text and "nonsense" not in text
    assert text.index("first this") < text.index("then that")


def test_what_files_hold_stays_text_and_nothing_is_fetched(folder):
    page = page_of(folder)
    assert "script" not in page.tags
    assert page.text.count("<script>alert(1)") >= 4, "shown, as text"
    names = {name for name, _ in page.attributes}
    assert not names & {"src", "href", "onload", "onerror"}
    raw = (folder / "report.html").read_text()
    assert "http" not in raw and "url(" not in raw and "@import" not in raw


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("train_config.yaml", "no summary, no plan"),
        ("steps.jsonl", "no learning rate"),
        ("health.jsonl", "no verdicts"),
        ("log.txt", "no warnings"),
    ],
)
def test_a_missing_file_is_named_and_the_rest_is_there(folder, name, gone):
    (folder / name).unlink()
    text = page_of(folder).text
    assert "is not there: " in text and gone in text
    assert "vissl-swav assign" in text
    # Without steps the loss is that of the readings.
    assert "Loss" in text and "COLLAPSED" in text or name == "health.jsonl"


def test_files_of_nonsense_are_counted_and_end_nothing(folder):
    (folder / "train_config.yaml").write_text("a: [1, 2\nb: {")
    with (folder / "steps.jsonl").open("a") as file:
        file.write('{"step": "x", "loss": 1}\n[1]\n{"step": 41, "los')
    with (folder / "health.jsonl").open("a") as file:
        file.write('{"step": 41, "loss": NaN, "feature_spread": Infinity}\n')
        file.write('{"step": 42, "loss": 3.0, "progress": "high", "floor": null}\n')
        file.write('{"step": 43, "verdict": "DIVERGING", "remedies": "none"}\n')
    (folder / "nonfinite_step12_rank1.pt").write_bytes(b"not a file of torch")
    text = page_of(folder).text
    assert "cannot be read (" in text and "3 lines left out" in text
    assert "DIVERGING" in text
    assert "nan" not in (folder / "report.html").read_text().lower().split("<svg", 1)[1]


def test_a_config_of_the_hosts_own_loss_has_no_plan(folder):
    tree = config()
    tree["LOSS"] = {"name": "simclr_info_nce_loss"}
    (folder / "train_config.yaml").write_text(yaml.dump(tree))
    text = page_of(folder).text
    assert "simclr_info_nce_loss" in text and "a plan is for ours" in text


def test_of_a_weighted_sum_every_term_is_drawn(folder):
    """The sum has no bounds; the ceiling is that of the loss with prototypes."""
    lines = [
        {**step(number), "terms": {"swav": 3.0, "barlow": 40.0 / number}}
        for number in range(1, 30)
    ]
    lines[3]["terms"] = "nonsense"
    write_lines(folder / "steps.jsonl", lines)
    words = [word.strip() for word in page_of(folder).words]
    assert words.count("swav") > 1 and "barlow" in words
    assert "each term before its weight" in " ".join(words)


def test_a_run_under_way_and_one_that_stands_still(folder):
    (folder / "model_final_checkpoint_phase1.torch").unlink()
    write_lines(folder / "steps.jsonl", [step(n, total=400) for n in range(1, 101)])
    last = step(100, total=400)["time"]
    text = page_of(folder, last + 5).text
    assert "UNDER WAY" in text and "step 100 of 400, about 10.0 minutes to go" in text
    assert "vissl-swav report" in text and "model_phase0.torch" in text
    text = page_of(folder, last + 7200).text
    assert "STANDS STILL" in text and "the last step was 2.0 hours ago" in text


def test_no_readings_is_no_verdict_and_readings_without_one_are_healthy(folder):
    write_lines(folder / "health.jsonl", [reading(10), reading(20)])
    assert "nothing to object to in 2 readings up to step 20" in page_of(folder).text
    write_lines(folder / "health.jsonl", [])
    assert "HEALTHY" not in page_of(folder).text


def test_restarts_are_where_steps_go_back_or_pause(folder):
    lines = [step(n, at=float(n)) for n in range(1, 21)]
    again = [step(n, at=1000.0 + n) for n in range(16, 31)]
    later = [step(n, at=9000.0 + n) for n in range(31, 41)]
    found = restarts(lines + again + later)
    assert [(r.step, r.repeated) for r in found] == [(16, 5), (31, 0)]
    assert found[0].seconds == 996 and found[1].seconds == 9031 - 1030
    write_lines(folder / "steps.jsonl", lines + again + later)
    run = read_run(folder)
    assert [line["step"] for line in run.steps] == list(range(1, 41)), "each once"
    assert run.steps[15]["time"] == 1016.0, "the last of each"
    (folder / "train_config.1.yaml").write_text("a: 1")
    text = page_of(folder).text
    assert "16.6 minutes" in text and "train_config.1.yaml" in text


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda place: None, "does not exist"),
        (lambda place: place.write_text("x"), "is a file"),
        (lambda place: place.mkdir(), "holds none of train_config.yaml"),
    ],
)
def test_what_is_no_run_ends_with_one_message(tmp_path, capsys, make, words):
    place = tmp_path / "run"
    make(place)
    options = type("Options", (), {"folder": str(place), "out": None})
    assert report.main(options) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("vissl-swav report: ")
    assert words in said.err and len(said.err.splitlines()) == 1


def test_the_page_goes_where_it_is_asked_to(folder, tmp_path, capsys):
    out = tmp_path / "page.html"
    options = type("Options", (), {"folder": str(folder), "out": str(out)})
    assert report.main(options) == 0
    assert str(out) in capsys.readouterr().out and out.read_text().endswith("</html>\n")
    assert not (folder / "report.html").exists()
    options.out = str(folder)
    assert report.main(options) == 2
    assert "is a folder; wanted a file" in capsys.readouterr().err
    options.out = str(tmp_path / "no such folder" / "page.html")
    assert report.main(options) == 2


def test_the_command_line_knows_it():
    import argparse

    from vissl_swav.suite import report_arguments

    parser = argparse.ArgumentParser()
    report_arguments.add_command(parser.add_subparsers(dest="command"))
    found = parser.parse_args(["report", "runs/a", "-o", "b.html"])
    assert (found.command, found.folder, found.out) == ("report", "runs/a", "b.html")


def test_commands_can_be_pasted_whatever_the_folder_is_called(folder):
    odd = folder.with_name("it's a $HOME; run")
    folder.rename(odd)
    for _, command in report.next_commands(read_run(odd), NOW):
        words = shlex.split(command)
        assert words[0] == "vissl-swav"
        assert any(str(odd.resolve()) in word for word in words)


def test_it_is_written_where_vissl_is_not_installed(folder):
    program = (
        "import sys\n"
        "for name in ('vissl', 'classy_vision', 'hydra'):\n"
        "    sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from vissl_swav.suite.report import write_report\n"
        "write_report(Path(sys.argv[1]))\n"
    )
    done = host_runs.python("-c", program, folder)
    assert done.returncode == 0, done.stderr
    assert "COLLAPSED" in (folder / "report.html").read_text()


def test_a_chart_is_drawn_to_scale():
    points = [(0.0, 1.0), (50.0, 2.0), (100.0, 3.0)]
    drawn = line_chart.chart(
        "T", [Line("a", points, "red")], marks=[Mark(50.0, "M"), Mark(500.0, "OUT")]
    )
    path = re.search(r'polyline points="([^"]*)"', drawn)[1]
    xy = [tuple(map(float, pair.split(","))) for pair in path.split()]
    assert xy[1][0] == pytest.approx((xy[0][0] + xy[2][0]) / 2, abs=0.1)
    assert xy[1][1] == pytest.approx((xy[0][1] + xy[2][1]) / 2, abs=0.1)
    assert xy[0][1] > xy[2][1], "up is more"
    assert f"M{xy[1][0]:.1f} " in drawn and "OUT" not in drawn
    assert all(
        0 <= x <= line_chart.WIDTH and 0 <= y <= line_chart.HEIGHT for x, y in xy
    )


@pytest.mark.parametrize("points", [[], [(1.0, float("nan"))], [(float("inf"), 1.0)]])
def test_no_point_is_no_chart(points):
    assert line_chart.chart("T", [Line("a", points, "red")]) == ""


def test_one_point_and_a_flat_line_can_be_drawn():
    assert "<circle" in line_chart.chart("T", [Line("a", [(3.0, 0.0)], "red")])
    flat = line_chart.chart("T", [Line("a", [(1.0, 5.0), (2.0, 5.0)], "red")])
    assert "<polyline" in flat and "nan" not in flat


def test_many_points_become_few_with_the_same_mean():
    points = [(float(n), float(n % 7)) for n in range(100_001)]
    few = line_chart.thinned(points)
    assert 200 <= len(few) <= 400 and few[-1] == points[-1]
    assert sum(y for _, y in few) / len(few) == pytest.approx(3.0, abs=0.05)
    assert [x for x, _ in few] == sorted(x for x, _ in few)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0, 450, [0, 100, 200, 300, 400])],
)
def test_ticks_are_round(low, high, wanted):
    assert line_chart.ticks(low, high) == pytest.approx(wanted)
    assert line_chart.ticks(3.0, 3.0) == [3.0]


def test_series_skip_what_is_no_number():
    lines = [
        {"step": 1, "a": 2},
        {"step": 2},
        {"step": 3, "a": "x"},
        {"step": 4, "a": 1e999},
    ]
    assert report_charts.series(lines, "a") == [(1.0, 2.0)]


def test_a_real_run_has_a_plan_and_a_probe_that_composes(host, tmp_path):
    """The config as a start would write it; the probe's overrides as the page gives."""
    from vissl_swav.host import launch, settings

    images = host_runs.make_images(tmp_path / "images", per_class=8)
    folder = tmp_path / "run"
    folder.mkdir()
    _, cfg = launch.compose(host_runs.overrides(images, folder))
    tree = settings.storable(cfg).to_dict()
    (folder / "train_config.yaml").write_text(yaml.dump(tree))
    write_lines(folder / "steps.jsonl", [step(n, total=6) for n in range(1, 7)])
    (folder / "model_final_checkpoint_phase1.torch").write_bytes(b"0")
    text = page_of(folder).text
    assert "16 images x 1 process = 16" in text and "48 in whole batches" in text
    assert "ln K = 2.4849" in text and "3 an epoch, 6 in all" in text
    assert "resnet_small, depth 18, width 2" in text
    found = dict(report.next_commands(read_run(folder), NOW))
    probe = next(command for what, command in found.items() if "probe" in what)
    words = shlex.split(probe)
    assert words[:2] == ["vissl-swav", "train"]
    filled = [word.replace("CLASSES", "2") for word in words[2:]]
    filled = [word for word in filled if "FOLDER" not in word and word != "data=IMAGES"]
    _, composed = launch.compose([*filled, f"config.CHECKPOINT.DIR={tmp_path}"])
    assert composed.MODEL.HEAD.PARAMS[0][1]["dims"] == [16, 2]
    weights = Path(composed.MODEL.WEIGHTS_INIT.PARAMS_FILE)
    assert weights == folder.resolve() / "model_final_checkpoint_phase1.torch"
