"""What becomes of a benchmark: too few images, wrong metrics, files deleted, notes."""

import json

import feature_files
import numpy as np
import pytest
import table_fakes

from vissl_swav.suite import stage, table

RECIPE = """
name: on features
data: {main: images}
rows:
  random trunk: {}
benchmarks:
  features: {kind: features, config: benchmark/knn/small_images, data: main}
  knn:
    kind: knn
    features: features
    k: [3, 200]
    columns:
      three: {title: 3-NN, metric: k3_t0.1_top1}
      many: {title: 200-NN, metric: k200_t0.1_top1}
"""
SVM = """
  svm:
    kind: svm
    features: features
    costs: [0.1, 1.0]
    folds: %d
    columns: {svm: {metric: accuracy}}
"""


class FakeExtraction(table_fakes.FakeRuns):
    """Leaves features, too, three classes that lie apart."""

    def __call__(self, name, overrides, folder, report=None):
        super().__call__(name, overrides, folder, report)
        if "engine_name=extract_features" in overrides:
            for split, count in (("train", 30), ("test", 6)):
                features = feature_files.blobs(count, 3, 16, noise=0.1)
                feature_files.write(folder, split, *features)


@pytest.fixture
def runs(monkeypatch):
    fake = FakeExtraction()
    monkeypatch.setattr(stage, "run", fake)
    return fake


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return table_fakes.make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def made(host, tmp_path, images, runs):
    """Runs the command with a recipe; its exit code, and what `table.json` holds."""
    folder = table_fakes.checkpoint(tmp_path / "run")
    out = tmp_path / "out"

    def run(recipe, *more):
        file = tmp_path / "recipe.yaml"
        file.write_text(recipe)
        arguments = [folder, "--suite", file, "--data", f"main={images}", *more]
        line = table_fakes.options(*arguments, "--out", out, "--device", "cpu")
        code = table.main(line)
        kept = out / "table.json"
        return code, json.loads(kept.read_text()) if kept.exists() else None, out

    return run


def started(runs):
    """The names of the runs since this was asked last."""
    names = [name for name, _, _ in runs.calls]
    runs.calls.clear()
    return names


def test_fewer_images_than_a_part_takes(made, runs, capsys):
    """Expected of small data: no failure, and the report says it."""
    recipe = table_fakes.RECIPE.replace("per_class: 2", "per_class: 11")
    code, kept, out = made(recipe, "--only-checkpoints")
    assert code == 0 and started(runs) == ["linear"]
    assert kept["rows"]["swav"]["few"]["state"] == "too few images"
    assert kept["columns"]["swav"]["linear"] == 65.0
    said = "has classes with fewer than 11 images (10 in the smallest)"
    assert said in (out / "report.html").read_text()
    assert said in capsys.readouterr().out and not (out / "data").exists()


def test_a_metric_that_a_run_does_not_give(made, runs, capsys):
    """Its column fails and names what there is; the other one's figure stays."""
    right = "columns: {few: {title: Few, metric: top_1}}"
    wrong = "columns: {few: {metric: top_1}, five: {metric: top_5}}"
    recipe = table_fakes.RECIPE.replace(right, wrong)
    code, kept, out = made(recipe, "--only-checkpoints")
    assert code == 1 and kept["columns"]["swav"]["few"] == 60.0
    assert kept["columns"]["swav"]["five"] is None
    assert "want top_5; few gives top_1." in capsys.readouterr().out
    assert "| 60.0 | failed |" in (out / "table.md").read_text()
    assert len(started(runs)) == 2
    assert made(table_fakes.RECIPE, "--only-checkpoints")[0] == 0
    assert not started(runs)


def test_features_that_do_not_suffice_are_a_failure(made, runs, capsys):
    code, kept, _ = made(RECIPE + SVM % 40, "--only-checkpoints")
    assert code == 1 and kept["rows"]["swav"]["svm"]["state"] == "failed"
    assert "take fewer folds" in capsys.readouterr().out
    assert kept["columns"]["swav"]["three"] == 100.0


def test_notes(made, runs, capsys):
    """A figure of fewer neighbours than its title says so, wherever it is shown."""
    code, kept, out = made(RECIPE)
    note = "200 neighbours, but 30 labelled training images: 30 used"
    assert code == 0 and kept["rows"]["swav"]["knn"]["notes"] == [note]
    shown = f"3-NN, 200-NN (swav, random trunk): {note}."
    assert shown in capsys.readouterr().out
    assert shown in (out / "table.md").read_text()
    assert shown in (out / "report.html").read_text()
    # A result of before there were notes is as good.
    started(runs)
    for file in (out / "rows").rglob("knn-*/result.json"):
        content = json.loads(file.read_text())
        assert content.pop("notes") == [note]
        file.write_text(json.dumps(content))
    code, kept, _ = made(RECIPE)
    assert code == 0 and kept["rows"]["swav"]["knn"]["notes"] == []
    assert kept["columns"]["swav"]["three"] == 100.0 and not started(runs)


def test_features_that_were_deleted(made, runs):
    """They are missed in the report only, until a benchmark wants them again."""
    out = made(RECIPE)[2]
    assert "<h3>swav</h3>" in (out / "report.html").read_text()
    started(runs)
    for file in (out / "rows" / "swav").rglob("*.npy"):
        file.unlink()
    assert made(RECIPE)[0] == 0 and not started(runs)
    page = (out / "report.html").read_text()
    assert "<p>Left out: " in page and page.count("<div class=near>") == 6
    code, kept, _ = made(RECIPE + SVM % 3)
    assert code == 0 and kept["columns"]["swav"]["svm"] == 100.0
    assert started(runs) == ["Feature extraction"]
    assert "Left out" not in (out / "report.html").read_text()


def test_checkpoints_of_a_trained_row_that_were_deleted(made, runs, capsys):
    """Nothing wants them when all is done; a new benchmark trains the row again."""
    out = made(table_fakes.RECIPE)[2]
    started(runs)

    def delete():
        (trained,) = (out / "rows" / "supervised").glob("supervised-*")
        for file in trained.glob("*.torch"):
            file.unlink()

    delete()
    assert made(table_fakes.RECIPE)[0] == 0 and not started(runs)
    # What cannot be drawn wants them as little.
    large = table_fakes.RECIPE.replace("per_class: 2", "per_class: 11")
    assert made(large)[0] == 0 and not started(runs)
    more = table_fakes.RECIPE.replace("per_class: 2", "per_class: 3")
    code, kept, _ = made(more, "--row", "supervised")
    assert code == 0 and started(runs) == ["supervised", "few"]
    assert kept["columns"]["supervised"]["few"] == 60.0
    # Where that fails, its row does, and no other.
    delete()
    runs.fail = {"supervised"}
    again = table_fakes.RECIPE.replace("per_class: 2", "per_class: 4")
    code, kept, _ = made(again)
    assert code == 1 and kept["columns"]["supervised"]["few"] is None
    assert kept["columns"]["swav"]["few"] == 60.0


def test_a_list_says_what_is_done(made, runs, capsys):
    recipe = table_fakes.RECIPE.replace("per_class: 2", "per_class: 11")
    assert made(recipe, "--list")[1] is None
    said = capsys.readouterr().out
    assert "linear: benchmark/linear/small_images (to do)" in said
    assert "supervised: trained here (to do)" in said
    runs.interrupt = "supervised"
    made(recipe)
    capsys.readouterr()
    made(recipe, "--list")
    said = capsys.readouterr().out.splitlines()
    linear = "  linear: benchmark/linear/small_images"
    assert [line for line in said if line.startswith(linear)] == [
        *(f"{linear} (done)",) * 2,
        f"{linear} (to do)",
    ]
    few = "  few: benchmark/finetune/small_images (too few images)"
    assert said.count(few) == 3
    assert "  elsewhere: benchmark/linear/small_images (no data)" in said
    runs.interrupt = None
    made(recipe)
    capsys.readouterr()
    made(recipe, "--list")
    said = capsys.readouterr().out
    assert "supervised: trained here (done)" in said and "(to do)" not in said


@pytest.mark.parametrize(
    ("training", "state"),
    [
        ("data: other", "no data"),
        ("data: main, subset: {per_class: 11}", "too few images"),
    ],
)
def test_a_row_whose_training_has_no_data(made, runs, capsys, training, state):
    """The row is empty, in the table and in the list; the others are not."""
    of_row = "small_images, data: main}"
    assert table_fakes.RECIPE.count(of_row) == 1
    recipe = table_fakes.RECIPE.replace(of_row, f"small_images, {training}}}")
    made(recipe, "--list")
    said = capsys.readouterr().out.split("supervised: ")[1]
    assert said.startswith(f"trained here ({state})") and said.count(state) == 4
    code, kept, _ = made(recipe)
    assert code == 0 and "supervised" not in started(runs)
    states = {outcome["state"] for outcome in kept["rows"]["supervised"].values()}
    assert states == {state} and kept["columns"]["swav"]["few"] == 60.0


def test_a_list_of_ways_to_pretrain_names_their_settings(
    host, images, tmp_path, capsys
):
    line = ("--suite", "crops", "--data", images, "--out", tmp_path / "o", "--list")
    assert table.main(table_fakes.options(*line, "--device", "cpu")) == 0
    said = capsys.readouterr().out
    assert "2x224: +config/pretrain/swav/crops=2x224" in said
    assert "2x224+6x96: the config as it is" in said and "random" not in said


def test_labels_decide_what_an_svm_gives(made, runs, capsys):
    recipe = RECIPE + (SVM % 3).replace("accuracy", "mean_ap")
    assert made(recipe)[0] == 2 and not started(runs)
    assert "svm gives accuracy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (RECIPE, "k-NN, which wants one label an image"),
        (table_fakes.RECIPE, "few takes a part of main by class"),
    ],
)
def test_several_labels_an_image(host, images, tmp_path, runs, capsys, recipe, words):
    """What needs one label is refused before anything runs."""
    files = [str(file) for file in sorted((images / "val").rglob("*.png"))]
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}_images.npy", files)
        np.save(tmp_path / f"{split}_labels.npy", np.eye(6, 3, dtype=int))
    (tmp_path / "recipe.yaml").write_text(recipe)
    run = table_fakes.checkpoint(tmp_path / "run")
    line = table_fakes.options(
        *(run, "--suite", tmp_path / "recipe.yaml", "--data", f"main={tmp_path}"),
        *("--device", "cpu", "--out", tmp_path / "out"),
    )
    assert table.main(line) == 2 and not started(runs)
    assert words in " ".join(capsys.readouterr().err.split())
