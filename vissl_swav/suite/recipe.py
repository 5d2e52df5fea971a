"""A recipe: the benchmarks of a transfer table, as a YAML file that anyone can write.

    name: mine
    title: My table
    data:                       # the data sets that the benchmarks name
      main: an image folder with train/ and test/ (or val/)
    rows:                       # trained here, beside the checkpoints (optional)
      random trunk: {}
      supervised: {config: benchmark/finetune/small_images, data: main}
    benchmarks:
      features:
        kind: features          # the host's extraction of frozen features
        config: benchmark/knn/small_images
        data: main
      knn:
        kind: knn               # on the features of another benchmark
        features: features
        k: [20, 200]
        temperature: [0.1]
        columns:
          knn_20: {title: 20-NN, metric: k20_t0.1_top1}
      linear:
        kind: train             # the host's trainer
        config: benchmark/linear/small_images
        data: main
        columns:
          linear: {title: Linear, metric: top_1}

A recipe of `settings` compares ways to pretrain by what they cost: its rows are those
settings, each a list of overrides, and its benchmarks are of kind cost.

`docs/table.md` says what each key means. Nothing here runs anything.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from vissl_swav.host.errors import StartError
from vissl_swav.suite import recipe_metrics
from vissl_swav.suite.recipe_section import NUMBERS, Section, nearest
from vissl_swav.suite.recipe_yaml import read_yaml

KINDS = ("features", "knn", "svm", "low_shot_svm", "train", "cost")
ON_FEATURES = ("knn", "svm", "low_shot_svm")
# They name folders.
_PLAIN = re.compile(r"\w[\w .+-]*")
_LONGEST = 60


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        name: of the column, in files.
        title: of the column, for people.
        metric: the benchmark's name of the figure.
        unit: "%", or "s", "GB" and so on.
        more_is_better: whether a larger figure is a better one.
        quoted: figures of others by the name of their row.
        source: where the quoted figures stand.
    """

    name: str
    title: str
    metric: str
    unit: str = "%"
    more_is_better: bool = True
    quoted: Mapping[str, float] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class Subset:
    """A part of the training images, drawn by class.

    Attributes:
        per_class: images of each class; None where `share` says it.
        share: of the images of each class, in (0, 1].
        seed: of the draw.
    """

    per_class: int | None
    share: float | None
    seed: int


@dataclass(frozen=True)
class Benchmark:
    """One run, and the columns that it fills.

    Attributes:
        name: of the benchmark, and of its folder.
        kind: one of `KINDS`.
        protocol: what is done, for the report.
        config: the host's or ours, where the host runs.
        data: the data set, by its name in the recipe.
        subset: of the training images; None for all.
        batch: images in a step; None leaves the config's.
        epochs: None leaves the config's.
        least_steps: epochs are added until there are so many steps.
        overrides: of the host's command line; `$num_classes` and the like are filled.
        features: the benchmark whose features are taken.
        options: settings of the kinds on features, by their key.
        columns: of the table; none for features alone.
    """

    name: str
    kind: str
    protocol: str
    config: str | None
    data: str | None
    subset: Subset | None
    batch: int | None
    epochs: int | None
    least_steps: int
    overrides: tuple[str, ...]
    features: str | None
    options: Mapping[str, Any]
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Recipe:
    """A table to make.

    Attributes:
        name: of the recipe.
        title: of the table.
        data: what each data set is, by its name.
        rows: rows beside the checkpoints: a training with labels, or None for a trunk
            with random weights.
        settings: rows that are ways to pretrain: overrides by name.
        benchmarks: in the order in which they run.
        file: where it stands.
    """

    name: str
    title: str
    data: Mapping[str, str]
    rows: Mapping[str, Benchmark | None]
    settings: Mapping[str, tuple[str, ...]]
    benchmarks: tuple[Benchmark, ...]
    file: Path

    @property
    def columns(self) -> list[Column]:
        """Of all benchmarks, in order."""
        return [column for entry in self.benchmarks for column in entry.columns]


def known_recipes() -> dict[str, Path]:
    """Our own recipes by name."""
    folder = Path(str(resources.files("vissl_swav.conf"))) / "config/benchmark/recipes"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def load_recipe(name_or_file: str) -> Recipe:
    """One of ours by name, or a file.

    Raises:
        StartError: there is none, or it is no recipe; the message names the key.
    """
    ours = known_recipes()
    file = ours.get(name_or_file) or Path(name_or_file).expanduser()
    if not file.is_file():
        raise StartError(
            f"there is no recipe {name_or_file}; wanted one of {', '.join(ours)}, or "
            "a YAML file (docs/table.md)."
        )
    tree = read_yaml(file)
    try:
        return parse_recipe(tree, file)
    except StartError as error:
        raise StartError(f"{file}: {error}") from error


def parse_recipe(tree: Any, file: Path) -> Recipe:
    """The recipe of a parsed YAML file.

    Raises:
        StartError: a key is unknown or missing, or a value of the wrong kind.
    """
    top = Section(tree, "the recipe")
    data = top.take("data", dict, {})
    rows = top.take("rows", dict, {})
    settings = top.take("settings", dict, {})
    listed = top.take("benchmarks", dict)
    recipe = Recipe(
        name=top.take("name", str, file.stem),
        title=top.take("title", str, file.stem),
        data={str(name): str(what) for name, what in data.items()},
        rows={str(name): _row(str(name), row) for name, row in rows.items()},
        settings={str(name): _setting(str(name), s) for name, s in settings.items()},
        benchmarks=tuple(_benchmark(str(n), entry) for n, entry in listed.items()),
        file=file,
    )
    top.end()
    for place, names in (("data", data), ("rows", rows), ("benchmarks", listed)):
        for name in names:
            _check_name(str(name), place)
    _check_references(recipe)
    return recipe


def _row(name: str, tree: Any) -> Benchmark | None:
    if tree in (None, {}):
        return None
    if not isinstance(tree, Mapping):
        raise StartError(f"rows.{name} is {tree!r}; wanted keys and values, or {{}}.")
    entry = _benchmark(name, {"kind": "train", **tree}, place=f"rows.{name}")
    if entry.kind != "train" or entry.columns:
        raise StartError(
            f"rows.{name} is a training whose weights the benchmarks take; wanted no "
            "`columns` and kind train."
        )
    return entry


def _setting(name: str, tree: Any) -> tuple[str, ...]:
    if not isinstance(tree, list) or not all(isinstance(line, str) for line in tree):
        raise StartError(f"settings.{name} is {tree!r}; wanted a list of overrides.")
    return tuple(tree)


def _benchmark(name: str, tree: Any, place: str | None = None) -> Benchmark:
    place = place or f"benchmarks.{name}"
    section = Section(tree, place)
    kind = section.take("kind", str)
    if kind not in KINDS:
        raise StartError(f"{place}.kind is {kind!r}; wanted one of {', '.join(KINDS)}.")
    on_features = kind in ON_FEATURES
    options = _options(kind, section, place)
    entry = Benchmark(
        name=name,
        kind=kind,
        protocol=" ".join(section.take("protocol", str, "").split()),
        **(_ON_FEATURES if on_features else _of_host(section, place)),
        features=section.take("features", str) if on_features else None,
        options=options,
        columns=tuple(
            _column(str(column), entry, f"{place}.columns.{column}")
            for column, entry in section.take("columns", dict, {}).items()
        ),
    )
    section.end()
    _check_metrics(entry, place)
    return entry


# Keys of a run of the host, which the kinds on features do not have.
_ON_FEATURES: dict[str, Any] = {
    **dict.fromkeys(("config", "data", "subset", "batch", "epochs")),
    **{"least_steps": 0, "overrides": ()},
}


def _of_host(section: Section, place: str) -> dict[str, Any]:
    return {
        "config": section.take("config", str),
        "data": section.take("data", str),
        "subset": _subset(
            section.take("subset", (dict, type(None)), None), f"{place}.subset"
        ),
        "batch": section.count("batch"),
        "epochs": section.count("epochs"),
        "least_steps": section.count("least_steps") or 0,
        "overrides": tuple(map(str, section.take("overrides", list, []))),
    }


def _check_metrics(entry: Benchmark, place: str) -> None:
    """A figure that the benchmark cannot give would be missed after all its work."""
    known = recipe_metrics.possible(entry.kind, entry.options)
    for column in entry.columns:
        if known is not None and column.metric not in known:
            given = (
                f"which has {', '.join(known)}" if known else "which gives no figure"
            )
            raise StartError(
                f"{place}.columns.{column.name}.metric is {column.metric}, and {place} "
                f"is of kind {entry.kind}, {given}."
            )


def _check_name(name: str, place: str) -> None:
    """Refuses a name that would be no folder's."""
    if not _PLAIN.fullmatch(name) or len(name) > _LONGEST:
        raise StartError(
            f"{place} has the name {name!r}; wanted letters, digits, spaces and . _ + "
            f"-, a letter or digit first, at most {_LONGEST} signs: it names a folder."
        )


def _options(kind: str, section: Section, place: str) -> dict[str, Any]:
    """The settings of the kinds on features; absent ones keep the tool's default."""
    if kind == "knn":
        return {
            "k": section.wholes("k", (20, 200)),
            "temperature": section.numbers("temperature", (0.1,)),
        }
    if kind == "svm":
        costs, folds = section.numbers("costs", ()), section.count("folds")
        if folds == 1 and len(costs) != 1:
            raise StartError(
                f"{place}.folds is 1; wanted 2 or more to choose a cost, or one cost."
            )
        return {"costs": costs, "folds": folds}
    if kind == "low_shot_svm":
        return {
            "k": section.wholes("k", ()),
            "samples": section.count("samples"),
            "costs": section.numbers("costs", ()),
        }
    return {}


def _subset(tree: Any, place: str) -> Subset | None:
    if tree is None:
        return None
    section = Section(tree, place)
    per_class, share = section.count("per_class"), section.take("share", NUMBERS, None)
    seed = section.take("seed", int, 0)
    section.end()
    if (per_class is None) == (share is None):
        raise StartError(f"{place} wants per_class or share, and one of them only.")
    if share is not None and not 0 < share <= 1:
        raise StartError(f"{place}.share is {share}; wanted a number in (0, 1].")
    return Subset(per_class, share, seed)


def _column(name: str, tree: Any, place: str) -> Column:
    section = Section(tree, place)
    quoted = section.take("quoted", dict, {})
    for row, figure in quoted.items():
        if not isinstance(figure, NUMBERS) or isinstance(figure, bool):
            raise StartError(f"{place}.quoted.{row} is {figure!r}; wanted a number.")
    column = Column(
        name=name,
        title=section.take("title", str, name),
        metric=section.take("metric", str),
        unit=section.take("unit", str, "%"),
        more_is_better=section.take("more_is_better", bool, True),
        quoted={str(row): float(figure) for row, figure in quoted.items()},
        source=section.take("source", str, ""),
    )
    section.end()
    if column.quoted and not column.source:
        raise StartError(f"{place}.quoted has figures but no source; add `source:`.")
    return column


def _check_references(recipe: Recipe) -> None:
    """Data sets and features that are named must be there; columns once only."""
    if not recipe.benchmarks:
        raise StartError("benchmarks is empty; wanted at least one.")
    kinds = {entry.name: entry.kind for entry in recipe.benchmarks}
    of_cost = [kind == "cost" for kind in kinds.values()]
    if any(of_cost) != all(of_cost) or any(of_cost) != bool(recipe.settings):
        raise StartError(
            "settings and benchmarks of kind cost go together, and with no others; "
            f"got settings {list(recipe.settings)} and kinds {sorted(kinds.values())}."
        )
    if recipe.settings and recipe.rows:
        raise StartError("a recipe has rows or settings, not both.")
    trained = [entry for entry in recipe.rows.values() if entry is not None]
    for entry in (*recipe.benchmarks, *trained):
        if entry.data is not None and entry.data not in recipe.data:
            raise StartError(
                f"{entry.name} names the data {entry.data}, which `data` does not "
                f"have{nearest(entry.data, recipe.data)}."
            )
        if entry.features is not None and kinds.get(entry.features) != "features":
            raise StartError(
                f"{entry.name} takes the features of {entry.features}, which is no "
                f"benchmark of kind features{nearest(entry.features, kinds)}."
            )
        if entry.features is not None:
            order = list(kinds)
            if order.index(entry.features) > order.index(entry.name):
                raise StartError(
                    f"{entry.name} takes the features of {entry.features}, which "
                    "stands below it; benchmarks run in their order: put that first."
                )
    names = [column.name for column in recipe.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StartError(f"two columns are called {twice[0]}; names are unique.")
