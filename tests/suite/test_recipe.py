"""Recipes: what is ours reads, and what is wrong is named."""

from pathlib import Path

import pytest
import yaml

from vissl_swav.host.errors import StartError
from vissl_swav.suite.recipe import known_recipes, load_recipe, parse_recipe

FILE = Path("mine.yaml")


def recipe(**changes):
    tree = {
        "data": {"main": "images"},
        "benchmarks": {
            "features": {"kind": "features", "config": "c", "data": "main"},
            "knn": {
                "kind": "knn",
                "features": "features",
                "k": [1, 5],
                "columns": {"knn": {"metric": "k1_t0.1_top1"}},
            },
            "linear": {
                "kind": "train",
                "config": "c",
                "data": "main",
                "columns": {"linear": {"metric": "top_1", "title": "Linear"}},
            },
        },
    }
    tree.update(changes)
    return tree


def benchmark(name, **changes):
    tree = recipe()
    tree["benchmarks"][name].update(changes)
    return tree


LINEAR = {"kind": "train", "config": "c", "data": "main"}
COST = {**LINEAR, "kind": "cost", "columns": {"c": {"metric": "peak"}}}


def on_features(kind, metric, **options):
    entry = {"kind": kind, "features": "features", **options}
    tree = recipe()
    tree["benchmarks"]["new"] = {**entry, "columns": {"new": {"metric": metric}}}
    return tree


def test_ours_read_and_say_where_quoted_figures_stand():
    names = known_recipes()
    assert {"quick", "paper", "crops"} <= set(names)
    for name, file in names.items():
        found = load_recipe(name)
        assert found.name == name and found.columns
        assert all(column.source for column in found.columns if column.quoted)
        head = file.read_text(encoding="utf-8").split("\nname:")[0]
        for word in ("Source:", "Command:", "Cost:", "Expected:", "Measured:"):
            assert word in head, f"{file.name} opens without {word}"


def test_figures_of_the_paper():
    """The quoted row against the paper's tables."""
    quoted = {c.name: c.quoted for c in load_recipe("paper").columns}
    swav = {name: row.get("SwAV 800 epochs") for name, row in quoted.items()}
    assert swav["imagenet_linear"] == 75.3 and swav["voc07_svm"] == 88.9
    assert swav["places205_linear"] == 56.7 and swav["inaturalist18_linear"] == 48.6
    assert (swav["imagenet_knn_20"], swav["imagenet_knn_200"]) == (65.7, 62.7)
    assert (swav["semi_1_top1"], swav["semi_1_top5"]) == (53.9, 78.5)
    assert (swav["semi_10_top1"], swav["semi_10_top5"]) == (70.2, 89.9)
    assert quoted["low_shot_13"]["SwAV on 1B Instagram images"] == 38.2
    assert quoted["low_shot_128"]["SwAV on 1B Instagram images"] == 64.7
    assert quoted["imagenet_finetuned"]["SwAV on 1B Instagram images"] == 77.8
    assert quoted["imagenet_finetuned"]["no pretraining"] == 76.5
    assert (swav["places205_finetuned"], swav["inaturalist18_finetuned"]) == (
        63.5,
        66.8,
    )
    assert quoted["voc07_low_shot_96"] == {}  # The paper has none.


def test_every_config_that_ours_name_is_there(host):
    from vissl_swav.host.config_keys import find_yaml

    for name in known_recipes():
        found = load_recipe(name)
        rows = [row for row in found.rows.values() if row is not None]
        for entry in (*found.benchmarks, *rows):
            if entry.config:
                group, _, option = f"config/{entry.config}".rpartition("/")
                assert find_yaml(group, option) is not None, entry.config


def test_what_is_read():
    found = parse_recipe(recipe(), FILE)
    assert [entry.kind for entry in found.benchmarks] == ["features", "knn", "train"]
    assert found.benchmarks[1].options == {"k": (1, 5), "temperature": (0.1,)}
    assert [column.title for column in found.columns] == ["knn", "Linear"]
    assert found.name == "mine" and found.rows == {}


def test_rows_of_a_recipe():
    rows = {"random trunk": {}, "supervised": {"config": "c", "data": "main"}}
    found = parse_recipe(recipe(rows=rows), FILE)
    assert found.rows["random trunk"] is None
    assert found.rows["supervised"].kind == "train"


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ([], "wanted keys and values"),
        ({"data": {}}, "no `benchmarks`"),
        (recipe(benchmarks={}), "benchmarks is empty"),
        (recipe(bencmarks={}), "did you mean `benchmarks`"),
        (recipe(benchmarks={"a": {"kind": "knnn"}}), "wanted one of features, knn"),
        (benchmark("knn", features="featurs"), "did you mean `features`"),
        (benchmark("knn", k=[0]), "wanted numbers above 0"),
        (benchmark("knn", k=[1.5]), "wanted whole numbers"),
        (benchmark("knn", temperature="warm"), "wanted a list"),
        (benchmark("knn", temperature=[float("inf")]), "wanted numbers above 0"),
        (benchmark("knn", subset={"share": 0.1}), "unknown key `subset`"),
        (benchmark("knn", columns={"a": {"metric": "k5_top1"}}), "k5_t0.1_top1"),
        (benchmark("features", columns={"a": {"metric": "m"}}), "gives no figure"),
        (on_features("svm", "acuracy"), "which has accuracy, mean_ap"),
        (on_features("low_shot_svm", "k3", k=[1, 2]), "which has k1, k2."),
        (on_features("low_shot_svm", "k3", k=[3.5]), "wanted whole numbers"),
        (on_features("svm", "accuracy", folds=1), "wanted 2 or more"),
        (on_features("svm", "accuracy", folds=1, costs=[1, 2]), "wanted 2 or more"),
        (recipe(settings={"a": []}, benchmarks={"c": COST}), "peak_gb"),
        (recipe(benchmarks={"../../evil": LINEAR}), "it names a folder"),
        (recipe(benchmarks={"": LINEAR}), "it names a folder"),
        (recipe(data={"main": "", "a/b": ""}), "it names a folder"),
        (recipe(rows={"../a": {}}), "it names a folder"),
        (recipe(rows={"a": {**LINEAR, "kind": "features"}}), "wanted no `columns`"),
        (benchmark("linear", data="mian"), "did you mean `main`"),
        (benchmark("linear", batch=0), "wanted at least 1"),
        (benchmark("linear", batch=True), "wanted a whole number"),
        (benchmark("linear", epoch=3), "did you mean `epochs`"),
        (benchmark("linear", subset={}), "per_class or share"),
        (benchmark("linear", subset={"share": 2.0}), "(0, 1]"),
        (benchmark("linear", columns={"knn": {"metric": "m"}}), "two columns"),
        (benchmark("linear", columns={"l": {}}), "no `metric`"),
        (
            benchmark("linear", columns={"l": {"metric": "m", "quoted": {"a": "b"}}}),
            "wanted a number",
        ),
        (
            benchmark("linear", columns={"l": {"metric": "m", "quoted": {"a": 1}}}),
            "no source",
        ),
        (benchmark("linear", kind="cost", columns={}), "go together"),
        (recipe(settings={"a": []}), "go together"),
        (recipe(rows={"a": 3}), "rows.a is 3"),
    ],
)
def test_mistakes_are_named(tree, words):
    with pytest.raises(StartError) as error:
        parse_recipe(tree, FILE)
    assert words in str(error.value)


def test_a_file_of_ones_own(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(recipe(title="Mine")))
    assert load_recipe(str(file)).title == "Mine"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [", "cannot be read as YAML"),
        (b"\xff\xfe\x00", "cannot be read as YAML"),
        (b"!!python/object/apply:os.system [exit]", "cannot be read as YAML"),
        (b"a: 1\nb: {c: 1}\na: 2", "the key `a` stands in lines 1 and 3"),
        (b"b:\n  c: 1\n  'c': 1", "the key `c` stands in lines 2 and 3"),
        (b"- 1", "wanted keys and values"),
        (b"#" * (2**20 + 1), "too large"),
    ],
)
def test_a_file_that_is_none(tmp_path, content, words):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(StartError) as error:
        load_recipe(str(file))
    assert words in str(error.value) and str(file) in str(error.value)


def test_keys_that_a_merge_repeats_are_no_mistake(tmp_path):
    """`<<` takes what is not given: the anchor's merge of a merge, too."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        "data: {main: images}\nbenchmarks:\n"
        "  a: &a {kind: train, config: c, data: main, batch: 8}\n"
        "  b: &b {<<: *a, batch: 16}\n  c: {<<: *b, batch: 32}\n"
    )
    assert [entry.batch for entry in load_recipe(str(file)).benchmarks] == [8, 16, 32]


def test_no_such_recipe():
    with pytest.raises(StartError, match="quick"):
        load_recipe("qick")
