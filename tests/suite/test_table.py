"""The transfer table's rows, data, order and resumption, on made-up runs."""

import csv
import io
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import table_fakes
import torch

from vissl_swav.data.errors import DataError
from vissl_swav.host.errors import StartError
from vissl_swav.suite import (
    stage,
    table,
    table_data,
    table_outputs,
    table_runs,
    table_subsets,
)
from vissl_swav.suite.recipe import Subset, load_recipe
from vissl_swav.suite.table_jobs import final_checkpoint
from vissl_swav.suite.table_rows import checkpoint_rows


@pytest.fixture
def runs(monkeypatch):
    fake = table_fakes.FakeRuns()
    monkeypatch.setattr(stage, "run", fake)
    return fake


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return table_fakes.make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "fake.yaml"
    file.write_text(table_fakes.RECIPE)
    return file


@pytest.fixture
def made(host, tmp_path, images, recipe):
    """Runs the command on a made-up checkpoint; returns its exit code and folder."""
    folder = table_fakes.checkpoint(tmp_path / "run")
    out = tmp_path / "out"

    def run(*more):
        arguments = [folder, "--suite", recipe, "--data", f"main={images}"]
        line = table_fakes.options(*arguments, "--out", out, "--device", "cpu", *more)
        return table.main(line), out

    return run


def kept(out):
    return json.loads((out / "table.json").read_text())["columns"]


def names(runs):
    return [name for name, _, _ in runs.calls]


def test_a_table(made, runs, capsys):
    code, out = made()
    assert code == 0
    assert names(runs) == ["linear", "few"] * 2 + ["supervised", "linear", "few"]
    assert kept(out) == {
        "swav": {"linear": 65.0, "few": 60.0, "elsewhere": None},
        "random trunk": {"linear": 20.0, "few": 20.0, "elsewhere": None},
        "supervised": {"linear": 65.0, "few": 60.0, "elsewhere": None},
    }
    said = " ".join(capsys.readouterr().out.split())
    assert "swav is above the random trunk in 2 of 2 columns" in said
    assert "no data" in said and "--data other=PATH: more images" in said


def test_what_has_finished_is_not_run_again(made, runs):
    made()
    before = len(runs.calls)
    code, _ = made()
    assert code == 0 and len(runs.calls) == before


def test_broken_off_and_gone_on(made, runs, capsys):
    runs.interrupt = "few"
    code, out = made()
    assert code == table.INTERRUPTED and names(runs) == ["linear", "few"]
    assert kept(out)["swav"] == {"linear": 65.0, "few": None, "elsewhere": None}
    assert "The same command goes on" in capsys.readouterr().err
    assert "not run" in (out / "report.html").read_text()
    runs.interrupt, runs.calls = None, []
    code, out = made()
    assert code == 0 and names(runs)[:3] == ["few", "linear", "few"]
    assert kept(out)["swav"]["few"] == 60.0


def test_what_fails_is_said_and_the_rest_goes_on(made, runs, capsys):
    runs.fail = {"linear"}
    code, out = made()
    assert code == 1 and names(runs).count("few") == 3
    assert kept(out)["swav"] == {"linear": None, "few": 60.0, "elsewhere": None}
    assert "linear: failed. linear ended with exit code 1" in capsys.readouterr().out
    assert "&lt;the log&gt;" in (out / "report.html").read_text()
    runs.fail = set()
    assert made()[0] == 0


def test_a_training_that_fails_empties_its_row_only(made, runs):
    runs.fail = {"supervised"}
    code, out = made()
    assert code == 1 and kept(out)["swav"]["few"] == 60.0
    assert kept(out)["supervised"] == {"linear": None, "few": None, "elsewhere": None}


def test_other_weights_are_another_job(made, runs, tmp_path):
    made("--only-checkpoints")
    file = next((tmp_path / "run").glob("*.torch"))
    file.write_bytes(b"other weights")
    made("--only-checkpoints")
    assert names(runs) == ["linear", "few"] * 2


def test_columns_and_rows_of_a_table(made, runs, capsys):
    assert made("--columns", "linear", "--row", "random trunk")[0] == 0
    assert names(runs) == ["linear"]
    assert "not run" in capsys.readouterr().out
    assert made("--columns", "liner")[0] == 2
    assert "has elsewhere, few, linear" in capsys.readouterr().err
    assert made("--row", "nobody")[0] == 2


def test_list_runs_nothing(made, runs, capsys):
    code, out = made("--list")
    assert code == 0 and not runs.calls and not out.exists()
    said = capsys.readouterr().out
    assert "supervised: trained here" in said and "elsewhere" in said


def test_the_command_line_of_a_run(made, runs, images):
    made("--only-checkpoints", "--columns", "linear", "--seed", "7", "--workers", "3")
    ((_, line, folder),) = runs.calls
    assert "config=benchmark/linear/small_images" == line[0]
    assert f"config.DATA.TRAIN.DATA_PATHS=['{images / 'train'}']" in line
    assert "config.MODEL.TRUNK.NAME=resnet_small" in line
    assert "++config.MODEL.TRUNK.RESNET_SMALL.WIDTH=2" in line
    assert (
        "config.SEED_VALUE=7" in line and "config.DATA.NUM_DATALOADER_WORKERS=3" in line
    )
    # 30 images in batches of 16, two epochs.
    assert "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=16" in line
    assert "config.OPTIMIZER.num_epochs=2" in line
    assert line[-1] == "config.MODEL.HEAD.PARAMS=[[eval_mlp,{dims:[16,3]}]]"
    assert folder.parent.name == "swav"


def test_a_foreign_folder_is_left_alone(made, runs, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    assert made()[0] == 2 and not runs.calls
    assert "is not a table's folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no checkpoint named"),
        (("nowhere",), "there is no checkpoint"),
        (("{run}", "--suite", "qick"), "there is no recipe"),
        (("{run}", "--suite", "{recipe}"), "no data; wanted --data"),
        (("{run}", "--suite", "{recipe}", "--data", "mian=x"), "does not have"),
        (("{run}", "--suite", "{recipe}", "--data", "x"), "wanted NAME=PATH"),
        (("{run}", "{run}"), "two rows are called"),
        (("a={run}", "random trunk={run}"), "as a row of the recipe is"),
        (("supervised={run}",), "as a row of the recipe is"),
        (("{run}", "--processes", "-1"), "wanted at least 1"),
        (("{run}", "--processes", "0"), "--processes is 0"),
        (("{run}", "--seed", "-1"), "--seed is -1; wanted 0"),
        (("{run}", "--seed", "5000000000"), "wanted 0 to"),
        (("{run}", "--out", "/dev/null/x"), "/dev/null is no folder"),
        (("{run}", "--slurm", "hours=x"), "--slurm hours is 'x'"),
        (("{run}", "--suite", "crops"), "takes no checkpoint"),
    ],
)
def test_bad_input_is_one_message(
    host, tmp_path, recipe, capsys, arguments, words, runs
):
    run = table_fakes.checkpoint(tmp_path / "run")
    filled = [a.format(run=run, recipe=recipe) for a in arguments]
    line = table_fakes.options("--device", "cpu", "--out", tmp_path / "out", *filled)
    assert table.main(line) == 2 and not runs.calls
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_dollar_that_stands_for_nothing(made, runs, recipe, capsys):
    recipe.write_text(table_fakes.RECIPE.replace("$feature_dim", "$width"))
    assert made()[0] == 2 and not runs.calls
    assert "$feature_dim" in capsys.readouterr().err


class TestRows:
    def test_names(self, host, tmp_path):
        a = table_fakes.checkpoint(tmp_path / "a" / "pretrain")
        b = table_fakes.checkpoint(tmp_path / "b")
        assert [row.name for row in checkpoint_rows([str(a)])] == ["swav"]
        both = checkpoint_rows([str(a), str(b)])
        assert [row.name for row in both] == ["swav a", "swav b"]
        assert checkpoint_rows([f"my run={a}"])[0].name == "my run"
        assert len({row.identity for row in both}) == 1

    def test_what_is_read_of_a_run(self, host, tmp_path):
        (row,) = checkpoint_rows([str(table_fakes.checkpoint(tmp_path / "run"))])
        trunk = row.trunk
        assert (trunk.name, trunk.feature_dim, trunk.layer) == (
            "resnet_small",
            16,
            "res5avg",
        )
        assert trunk.settings == {"RESNET_SMALL.DEPTH": 18, "RESNET_SMALL.WIDTH": 2}
        assert (trunk.crop_size, trunk.mean, trunk.batch_size) == (24, (0.5,) * 3, 16)

    def test_a_resnet_names_all_its_settings(self, host, tmp_path):
        model = {
            "TRUNK": {
                "NAME": "resnet",
                "RESNETS": {"DEPTH": 50, "WIDTH_MULTIPLIER": 2},
            },
            "HEAD": {"PARAMS": [["swav_head", {"dims": [4096, 128]}]]},
        }
        folder = table_fakes.checkpoint(tmp_path / "run", MODEL=model)
        (row,) = checkpoint_rows([str(folder)])
        lines = table_runs.trunk_overrides(row.trunk)
        assert "++config.MODEL.TRUNK.RESNETS.DEPTH=50" in lines
        assert "++config.MODEL.TRUNK.RESNETS.WIDTH_MULTIPLIER=2" in lines

    def test_weights_of_others(self, host, tmp_path):
        import torchvision

        from vissl_swav.suite.table_rows import ready

        file = tmp_path / "r50.pth"
        torch.save(torchvision.models.resnet50().state_dict(), file)
        (row,) = checkpoint_rows([str(file)])
        assert (row.trunk.name, row.trunk.feature_dim) == ("resnet", 2048)
        assert row.trunk.settings["RESNETS.DEPTH"] == 50 and row.is_foreign
        whole = ready(row, tmp_path / "out")
        kept = torch.load(whole.weights)["classy_state_dict"]["base_model"]["model"]
        assert "_feature_blocks.conv1.weight" in kept["trunk"]
        assert ready(row, tmp_path / "out") == whole

    @pytest.mark.parametrize(
        ("content", "words"),
        [({"a": 1}, "was read as a file of weights alone"), (b"", "weights alone")],
    )
    def test_a_file_that_holds_no_weights(self, host, tmp_path, content, words):
        file = tmp_path / "x.pth"
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            torch.save(content, file)
        with pytest.raises(StartError, match=words):
            checkpoint_rows([str(file)])

    def test_a_trunk_that_we_cannot_build(self, host, tmp_path):
        import torchvision

        file = tmp_path / "r18.pth"
        torch.save(torchvision.models.resnet18().state_dict(), file)
        with pytest.raises(StartError, match="ResNet-50, -101 or -152"):
            checkpoint_rows([str(file)])

    def test_folders_of_rows_do_not_meet(self, host, tmp_path):
        run = table_fakes.checkpoint(tmp_path / "run")
        rows = checkpoint_rows([f"a b={run}", f"a-b={run}", f"a:b={run}"])
        folders = [row.folder for row in rows]
        assert len(set(folders)) == 3 and not any("/" in f for f in folders)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"MODEL": {"TRUNK": {"NAME": "alexnet_bvlc"}}}, "alexnet_bvlc"),
            ({"MODEL": {}}, "not the config of a run"),
        ],
    )
    def test_a_config_that_is_none(self, host, tmp_path, changes, words):
        folder = table_fakes.checkpoint(tmp_path / "run", **changes)
        with pytest.raises(StartError) as error:
            checkpoint_rows([str(folder)])
        assert words in str(error.value) and "train_config.yaml" in str(error.value)


class TestData:
    def test_parts_by_class(self, images, tmp_path):
        whole = table_data.read("main", images)
        assert (whole.train.num_images, whole.test.num_images) == (30, 6)
        few = table_subsets.take_subset(whole, Subset(2, None, 0), tmp_path)
        share = table_subsets.take_subset(whole, Subset(None, 0.3, 0), tmp_path)
        assert few.train.num_images == 6 and share.train.num_images == 9
        assert few.test == whole.test and few.num_classes == 3
        assert len({whole.identity, few.identity, share.identity}) == 3
        again = table_subsets.take_subset(whole, Subset(2, None, 0), tmp_path)
        assert again == few

    def test_rows_that_draw_at_once(self, images, tmp_path):
        """As the jobs of a table do that run in parallel: each finds all of it."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["vissl_swav.suite.table_subsets"])
        pool = ProcessPoolExecutor(
            3, context, table_fakes.draw_at_once, (context.Barrier(3),)
        )
        with pool:
            tasks = [pool.submit(table_fakes.draw, images, tmp_path) for _ in range(3)]
            assert [task.result(60) for task in tasks] == [6] * 3
        (drawn,) = tmp_path.iterdir()
        assert len(list(drawn.rglob("*.png"))) == 6

    def test_more_than_there_are(self, images, tmp_path):
        whole = table_data.read("main", images)
        with pytest.raises(DataError, match="fewer than 11"):
            table_subsets.take_subset(whole, Subset(11, None, 0), tmp_path)

    def test_lists_of_the_host(self, images, tmp_path):
        labels = np.repeat([0, 1, 2], 10)
        files = sorted((images / "train").rglob("*.png"))
        for split in ("train", "val"):
            np.save(tmp_path / f"{split}_images.npy", np.array([str(f) for f in files]))
            np.save(tmp_path / f"{split}_labels.npy", labels)
        found = table_data.read("lists", tmp_path)
        assert (found.num_classes, found.train.num_images) == (3, 30)
        assert "config.DATA.TRAIN.DATA_SOURCES=[disk_filelist]" in found.overrides()
        part = table_subsets.take_subset(
            found, Subset(None, 0.2, 3), tmp_path / "parts"
        )
        assert part.train.num_images == 6
        drawn = np.load(part.train.labels)
        assert np.bincount(drawn).tolist() == [2, 2, 2]
        listed = np.load(part.train.images)
        assert {labels[[str(f) for f in files].index(n)] for n in listed} == {0, 1, 2}

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda p: np.save(p / "train_images.npy", [1]), "no train_labels.npy"),
            (lambda p: (p / "ImageSets" / "Main").mkdir(parents=True), "VOC tree"),
            (lambda p: None, "has no train/"),
        ],
    )
    def test_no_data(self, tmp_path, make, words):
        make(tmp_path)
        with pytest.raises(DataError, match=words):
            table_data.read("x", tmp_path)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"train_labels": np.array([0])}, "as many of both"),
            ({"train_images": np.arange(6)}, "one text a path"),
            ({"train_images": np.array([b"a"] * 6)}, "one text a path"),
            ({"train_images": np.array(["gone.png"] * 6)}, "no such file"),
            ({"test_images": np.array(["gone.png"] * 6)}, "6 of 6 images tried"),
            ({"train_labels": np.array(list("001122"))}, "wanted whole numbers"),
            ({"train_labels": np.array(3)}, "wanted whole numbers"),
            ({"test_labels": np.arange(6) / 4}, "wanted whole numbers"),
            ({"train_labels": np.full(6, -1)}, "all are -1"),
            ({"train_labels": np.arange(6) - 2}, "the label -2"),
            ({"test_labels": np.arange(6) + 1}, "no training image has: 3, 4, 5, 6"),
            ({"test_labels": np.eye(6, dtype=int)}, "one label an image in both"),
            ({"train_labels": np.full((6, 2), 2)}, "with the values 2"),
        ],
    )
    def test_lists_that_cannot_be_used(self, images, tmp_path, changes, words):
        """Each is one message before a run: the host would take grey images."""
        files = [str(f) for f in sorted((images / "val").rglob("*.png"))]
        arrays = {"train_images": np.array(files), "test_images": np.array(files)}
        labels = np.repeat([0, 1, 2], 2)
        arrays |= {"train_labels": labels, "test_labels": labels, **changes}
        for name, array in arrays.items():
            np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(DataError) as error:
            table_data.read("x", tmp_path)
        assert words in str(error.value)

    def test_a_list_that_was_mended_is_other_data(self, images, tmp_path):
        files = [str(f) for f in sorted((images / "val").rglob("*.png"))]
        for split in ("train", "test"):
            np.save(tmp_path / f"{split}_images.npy", np.array(files))
            np.save(tmp_path / f"{split}_labels.npy", np.repeat([0, 1, 2], 2))
        before = table_data.read("x", tmp_path)
        np.save(tmp_path / "train_images.npy", np.array(files[::-1]))
        assert table_data.read("x", tmp_path).identity != before.identity

    def test_a_pickle_in_place_of_a_list_is_not_read(self, tmp_path):
        np.save(tmp_path / "train_images.npy", np.array([{"a": 1}], dtype=object))
        np.save(tmp_path / "train_labels.npy", np.array([0]))
        with pytest.raises(DataError, match="cannot be read as a NumPy array"):
            table_data.read("x", tmp_path)


class TestOutputs:
    @pytest.fixture
    def out(self, made, runs):
        return made()[1]

    def test_csv(self, out):
        lines = list(csv.reader(io.StringIO((out / "table.csv").read_text())))
        assert lines[0] == ["row", "measured", "linear", "few", "elsewhere"]
        assert lines[1] == ["swav", "here", "65.0", "60.0", ""]
        assert lines[-1] == ["paper", "quoted", "75.3", "", ""]

    def test_markdown(self, out):
        text = (out / "table.md").read_text()
        assert "| swav | 65.0 | 60.0 | no data |" in text
        assert "| paper (quoted) | 75.3 |" in text and "Table 2" in text
        assert "**Linear & more**: A linear <layer>." in text

    def test_latex(self, out):
        text = (out / "table.tex").read_text()
        assert r"\begin{tabular}{lrrr}" in text and r"Linear \& more" in text
        assert r"swav & \textbf{65.0} & \textbf{60.0} & no data \\" in text

    def test_html(self, out):
        text = (out / "report.html").read_text()
        assert "A &lt;made up&gt; table" in text and "<made up>" not in text
        assert "A linear &lt;layer&gt;." in text
        assert text.count('src="data:image/png;base64,') == 2
        assert "http" not in text.split("<body>")[1]
        assert "<td class=best>65.0</td>" in text


COST = """
data: {images: any}
settings:
  two crops: [config.OPTIMIZER.momentum=0.5]
  one crop: []
benchmarks:
  cost:
    kind: cost
    config: pretrain/swav/quickstart
    data: images
    columns:
      peak: {metric: peak_gb, unit: GB, more_is_better: false}
      rate: {metric: images_per_second, unit: 1/s}
      hours: {metric: hours_100_epochs, unit: h, more_is_better: false}
"""


class FakeCost:
    """Steps of a second for two crops, of half a second for one, after a slow start."""

    steps = 9

    def __call__(self, name, overrides, folder, report=None):
        self.line = list(overrides)
        seconds = 1.0 if "config.OPTIMIZER.momentum=0.5" in overrides else 0.5
        folder.mkdir(parents=True)
        lines = [
            {
                "step": step,
                "time": 100.0 if step < 6 else 100.0 + seconds * step,
                "images": 64,
                "peak_memory": 2e9 * seconds + step,
            }
            for step in range(1, self.steps + 1)
        ]
        (folder / "steps.jsonl").write_text("\n".join(map(json.dumps, lines)))


@pytest.fixture
def cost(host, tmp_path, images, monkeypatch):
    fake, file = FakeCost(), tmp_path / "cost.yaml"
    file.write_text(COST)
    monkeypatch.setattr(stage, "run", fake)
    arguments = ("--suite", file, "--data", images, "--out", tmp_path / "out")
    return fake, table_fakes.options(*arguments, "--device", "cpu"), tmp_path / "out"


def test_what_ways_to_pretrain_cost(cost):
    fake, options, out = cost
    assert table.main(options) == 0
    found = kept(out)
    assert found["two crops"]["rate"] == pytest.approx(64)
    assert found["one crop"]["rate"] == pytest.approx(128)
    assert found["two crops"]["hours"] == pytest.approx(100 * 1281167 / 64 / 3600)
    assert found["one crop"]["peak"] == pytest.approx(1.0)
    # The training images alone, by the run's own source; no trunk and no weights.
    assert not any("DATA_SOURCES" in o or "PARAMS_FILE" in o for o in fake.line)
    assert "<td class=best>1</td>" in (out / "report.html").read_text()


def test_too_few_steps_to_say_what_one_costs(cost, capsys):
    fake, options, _ = cost
    fake.steps = 6
    assert table.main(options) == 1
    assert "made 6 steps; wanted more than 6" in capsys.readouterr().out


def test_the_last_of_two_final_checkpoints(tmp_path):
    for phase in (9, 11):
        (tmp_path / f"model_final_checkpoint_phase{phase}.torch").touch()
    assert final_checkpoint(tmp_path).name.endswith("phase11.torch")


def test_figures_of_several_outputs():
    lines = [
        {"train_accuracy_list_meter": {"top_1": {"0": 99.0}}},
        {"test_accuracy_list_meter": {"top_1": {"0": 1.0, "1": 2.0}}},
        {
            "test_accuracy_list_meter": {
                "top_1": {"0": 3.0, "1": 2.5},
                "top_5": {"0": 9},
            }
        },
    ]
    assert table_runs.accuracies(lines) == {
        "top_1": 3.0,
        "top_1_0": 3.0,
        "top_1_1": 2.5,
        "top_5": 9.0,
    }
    assert table_runs.accuracies(lines[:1]) == {}


def test_latex_of_every_sign():
    assert table_outputs._tex("a_b\\50%~^{}") == (
        r"a\_b\textbackslash{}50\%\textasciitilde{}\textasciicircum{}\{\}"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (True, "true"),
        (None, "null"),
        ("a b", "'a b'"),
        ([1, "x"], "[1,'x']"),
        ({"a": [1]}, "{a:[1]}"),
    ],
)
def test_values_in_hydras_grammar(value, text):
    assert table_runs.value_text(value) == text


def of_size(count):
    return table_data.DataSet(
        "main",
        table_data.Split(None, None, count),
        table_data.Split(None, None, 1),
        2,
        "",
        count // 2,
    )


@pytest.mark.parametrize("count", [32, 33, 127, 128, 129, 255, 256, 257, 4993, 5000])
@pytest.mark.parametrize("processes", [1, 2])
def test_no_step_has_a_few_images_only(count, processes):
    machine = table_runs.Machine("cpu", processes, 0)
    batch = table_runs._batch(128, of_size(count), machine)
    share = -(-count // processes)
    assert min(share, 128 // processes) // 2 <= batch <= share
    last = share % batch
    assert last == 0 or last >= 7


@pytest.mark.parametrize(
    ("count", "epochs"), [(5000, 6), (2560, 6), (150, 60), (3, 120)]
)
def test_a_probe_takes_enough_steps(count, epochs):
    """Six epochs, and 120 steps at least: batch norm needs them."""
    entry = load_recipe("quickstart").benchmarks[-1]
    one = table_runs.Machine("cpu", 1, 0)
    batch = table_runs._batch(entry.batch, of_size(count), one)
    assert table_runs._epochs(entry, of_size(count), batch) == epochs
