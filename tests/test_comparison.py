"""The comparison's plan, its table and plot, and that it goes on where it stopped."""

import json
import sys

import host_runs
import pytest

BENCHMARKS = host_runs.ROOT / "benchmarks"


@pytest.fixture(scope="module")
def scripts():
    """The script and its parts, as python finds them beside it."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import comparison
        import comparison_plan
        import comparison_run
        import comparison_table
    finally:
        sys.path.remove(str(BENCHMARKS))
    return comparison, comparison_plan, comparison_run, comparison_table


def result(linear, knn=30.0):
    figures = {"linear": linear, "knn": knn, "knn_within_training": knn}
    seconds = {"pretraining": 1.0, "judging": 1.0}
    return {"figures": figures, "seconds": seconds}


@pytest.fixture
def results(scripts):
    """Of every cell: as the paper says, 0.2 points apart between seeds."""
    _, plan, _, _ = scripts
    found = {}
    for cell in plan.cells():
        paper = plan.METHODS[cell.method].paper if cell.method in plan.METHODS else None
        place = plan.COLUMNS.index(cell.column)
        linear = paper[place] if paper else 20.0 + place
        found[cell] = result(linear + 0.2 * cell.seed, knn=linear / 2)
    return found


def test_the_plan(scripts):
    _, plan, _, _ = scripts
    cells = list(plan.cells())
    trained = [cell for cell in cells if cell.method != plan.RANDOM]
    assert len(trained) == 36 and len(set(cells)) == len(cells) == 39
    assert {(c.method, c.column, c.seed) for c in trained} == {
        (method, column, seed)
        for method in (
            *("supervised", "simclr_multicrop", "sela_v2", "deepcluster_v2"),
            *("swav", "swav_momentum"),
        )
        for column in ("2 crops", "multi-crop")
        for seed in (0, 1, 2)
    }
    # A whole table of one seed stands before the next seed begins.
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)


def test_what_is_held_equal(scripts):
    _, plan, _, _ = scripts
    size = plan.SIZES["small"]
    words = ("WIDTH", "num_epochs", "BATCHSIZE", "start_value", "SEED", "TRANSFORMS")
    for column in plan.COLUMNS:
        lines = [
            [
                line
                for line in plan.overrides(plan.Cell(method, column, 1), size)
                if any(word in line for word in words)
            ]
            for method in plan.METHODS
        ]
        assert len(lines[0]) == len(words)
        assert all(other == lines[0] for other in lines)


def test_the_search_gives_every_method_the_same_temperatures(scripts):
    _, plan, _, _ = scripts
    cells = list(plan.search_cells())
    of_method = {}
    for cell in cells:
        of_method.setdefault(cell.method, []).append(cell.temperature)
    assert set(of_method) == set(plan.METHODS) - {"supervised"}
    assert all(found == list(plan.TEMPERATURES) for found in of_method.values())
    assert plan.SEARCH_SEED not in plan.SEEDS


def test_another_setting_gets_another_folder(scripts):
    _, plan, _, _ = scripts
    cell, small, toy = (
        plan.Cell("swav", "2 crops", 0),
        *map(plan.SIZES.get, ("small", "toy")),
    )
    warm = plan.Cell("swav", "2 crops", 0, temperature=0.4)
    names = {plan.folder_name(c, s) for c in (cell, warm) for s in (small, toy)}
    assert len(names) == 4
    assert plan.folder_name(cell, small) == plan.folder_name(cell, small)


def test_the_table(scripts, results):
    _, _, _, tables = scripts
    table = tables.Table.of(results)
    figure = table.get("swav", "multi-crop", "linear")
    assert figure.mean == pytest.approx(74.3) and figure.spread == pytest.approx(0.2)
    text = tables.markdown(table)
    (row,) = [line for line in text.splitlines() if line.startswith("| SwAV |")]
    assert "| 70.3 ± 0.2 | 74.3 ± 0.2 |" in row and row.endswith("| 70.1 | 74.1 |")
    # The paper's own figures agree with the paper, in every pair and gain.
    assert "contrary" not in text and "differs here" not in text
    # Differences are taken seed by seed: what the seeds share is no spread.
    assert "| swav: multi-crop over 2 crops | +4.0 | +4.0 ± 0.0 | agrees |" in text
    assert len(tables.Table.of({}).as_json()) == 0


def test_verdicts(scripts):
    verdict = scripts[3].verdict
    assert verdict(4.0, 2.0, 0.5) == "agrees"
    assert "contrary" in verdict(4.0, -2.0, 0.5)
    assert "open" in verdict(4.0, 0.9, 0.5)
    assert verdict(0.1, 0.9, 0.5) == "level in both"
    assert verdict(0.1, 0.3, 0.0) == "level in both"
    assert "differs" in verdict(0.1, 2.0, 0.5)


def test_no_order_from_one_seed(scripts, results):
    _, _, _, tables = scripts
    first = {cell: found for cell, found in results.items() if cell.seed == 0}
    assert tables.order(tables.Table.of(first)) == ""
    assert "70.1 ± 0.0" in tables.markdown(tables.Table.of(first))


def test_the_search_table(scripts):
    _, plan, _, tables = scripts
    outcomes = {cell: result(0.0, knn=30.0) for cell in plan.search_cells(("swav",))}
    first = next(iter(outcomes))
    outcomes[first] = "the host fell over"
    *_, row = tables.search_markdown(outcomes).splitlines()
    assert row == "| swav | failed | 30.0 | 30.0 |"


def test_the_plot(scripts, results, tmp_path):
    from PIL import Image

    _, _, _, tables = scripts
    tables.plot(tables.Table.of(results), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size < 200_000
    with Image.open(tmp_path / "plot.png") as image:
        # The bars' two colours are there.
        assert {(127, 127, 127), (31, 119, 180)} <= {
            color for _, color in image.convert("RGB").getcolors(10**6)
        }


@pytest.fixture
def place(scripts, tmp_path):
    _, plan, runs, _ = scripts
    return runs.Place(tmp_path, plan.SIZES["toy"], None, None)


def test_goes_on_where_it_stopped(scripts, place, monkeypatch):
    """One run fails and the rest goes on; the next call runs that one alone."""
    comparison, plan, runs, _ = scripts
    cells = list(plan.cells(("swav",), seeds=(0, 1)))
    called, broken = [], [cells[1]]

    def run(cell, place, report):
        called.append(cell)
        if cell in broken:
            raise comparison.StageFailed("the host fell over", 1)
        found = result(40.0)
        runs.write_whole(
            place.out / "runs" / plan.folder_name(cell, place.size) / runs.RESULT,
            json.dumps(found),
        )
        return found

    monkeypatch.setattr(runs, "run", run)
    outcomes, interrupted = comparison.run_all(cells, place, jobs=2)
    assert not interrupted and set(outcomes) == set(cells) == set(called)
    assert outcomes[cells[1]] == "the host fell over"
    assert outcomes[cells[2]]["figures"]["linear"] == 40.0

    called.clear()
    broken.clear()
    outcomes, _ = comparison.run_all(cells, place, jobs=1)
    assert called == [cells[1]]
    assert all(found["figures"]["linear"] == 40.0 for found in outcomes.values())


def test_broken_off_by_the_user(scripts, place, monkeypatch):
    """What runs is told to stop, what has not begun does not begin."""
    comparison, plan, runs, _ = scripts
    cells = list(plan.cells(("swav",), seeds=(0, 1)))
    begun, told = [], []

    def run(cell, place, report):
        begun.append(cell)
        try:
            while True:
                report(1, 2, "")
        except comparison.Stopped:
            told.append(cell)
            raise

    def interrupted(futures):
        while not begun:
            pass
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "run", run)
    monkeypatch.setattr(comparison, "as_completed", interrupted)
    outcomes, broken_off = comparison.run_all(cells, place, jobs=1)
    assert broken_off and outcomes == {}
    assert begun == told == cells[:1]


def test_a_torn_result_is_no_result(scripts, place):
    _, plan, runs, _ = scripts
    cell = next(plan.cells())
    file = place.out / "runs" / plan.folder_name(cell, place.size) / runs.RESULT
    file.parent.mkdir(parents=True)
    for text in ('{"figures": {"linear": 4', '{"figures": {"linear": 4.0}}', "[]"):
        file.write_text(text)
        assert runs.kept(cell, place.out, place.size) is None
    file.write_text(json.dumps(result(40.0)))
    assert runs.kept(cell, place.out, place.size)["figures"]["linear"] == 40.0


def test_the_linear_layer(scripts):
    """Separable classes are told apart; labels that say nothing are not."""
    import torch

    from vissl_swav.suite.features import FeatureSet

    _, _, runs, _ = scripts
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    centres = 4 * torch.eye(3, 8)
    rows = centres[labels] + torch.randn(300, 8, generator=generator)
    # Scales that differ by 1e4 between dimensions change nothing.
    rows = rows * torch.logspace(-2, 2, 8) + 7
    train, test = (
        FeatureSet(rows[:150], labels[:150]),
        FeatureSet(rows[150:], labels[150:]),
    )
    assert runs.linear_accuracy(train, test) > 95
    random = labels[torch.randperm(300, generator=generator)]
    train = FeatureSet(rows[:150], random[:150])
    assert runs.linear_accuracy(train, FeatureSet(rows[150:], random[150:])) < 50


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_row_at_toy_size(host, tmp_path):
    """Through the host; a second call runs nothing."""
    data = tmp_path / "cifar"
    for split, seed in (("train", 0), ("test", 1)):
        host_runs.make_images(data / split, classes=10, per_class=16, seed=seed)
    command = [
        *("benchmarks/comparison.py", "--data", data, "--out", tmp_path / "out"),
        *("--size", "toy", "--methods", "supervised", "swav", "--seeds", "0"),
    ]
    done = host_runs.python(*command, timeout=800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "| SwAV |" in done.stdout
    content = json.loads((tmp_path / "out/toy/comparison.json").read_text())
    assert len(content["runs"]) == 5 and content["failed"] == {}
    assert all(0 <= run["figures"]["knn"] <= 100 for run in content["runs"])
    assert (tmp_path / "out/toy/comparison.png").stat().st_size > 1000
    before = {f: f.stat().st_mtime for f in tmp_path.rglob("result.json")}
    assert len(before) == 5
    assert host_runs.python(*command, timeout=200).returncode == 0
    assert {f: f.stat().st_mtime for f in tmp_path.rglob("result.json")} == before
