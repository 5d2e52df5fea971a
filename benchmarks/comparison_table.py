"""The comparison's table, its plot, and what of the paper's order it shows."""

import itertools
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comparison_plan as plan
from comparison_plan import COLUMNS, METHODS, MULTI, RANDOM, TWO, Cell

FIGURES = {"linear": "linear", "knn": "k-NN"}
# A difference counts from so many standard errors on.
CLEAR = 2.0
# Differences below this many points are no order.
LEVEL = 0.5


@dataclass(frozen=True)
class Figure:
    """An accuracy in % over seeds.

    Attributes:
        by_seed: of each seed.
    """

    by_seed: Mapping[int, float]

    @property
    def values(self) -> list[float]:
        """In the order of the seeds."""
        return [self.by_seed[seed] for seed in sorted(self.by_seed)]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds (n - 1); 0 of one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return self.spread / math.sqrt(len(self.values))

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.spread:.1f}"


@dataclass(frozen=True)
class Table:
    """Figures by (row, column, name of the figure); cells that did not end lack."""

    figures: Mapping[tuple[str, str, str], Figure]

    @classmethod
    def of(cls, results: Mapping[Cell, Mapping[str, Any]]) -> "Table":
        """Of the runs' results."""
        values: dict[tuple[str, str, str], dict[int, float]] = {}
        for cell, result in results.items():
            for name in FIGURES:
                key = (cell.method, cell.column, name)
                values.setdefault(key, {})[cell.seed] = result["figures"][name]
        return cls({key: Figure(found) for key, found in values.items()})

    def get(self, row: str, column: str, name: str) -> Figure | None:
        """One cell's figure; the random trunk's is the same in both columns."""
        return self.figures.get((row, TWO if row == RANDOM else column, name))

    def as_json(self) -> list[dict[str, Any]]:
        """A list, a figure an entry."""
        return [
            {
                **{"row": row, "column": column, "figure": name},
                **{"mean": round(f.mean, 2), "std": round(f.spread, 2)},
                "values": [round(value, 2) for value in f.values],
            }
            for (row, column, name), f in self.figures.items()
        ]


def markdown(table: Table) -> str:
    """Rows by columns, mean ± standard deviation over the seeds, in %."""
    names = [f"{title}, {c}" for title in FIGURES.values() for c in COLUMNS]
    lines = [
        f"| row | {' | '.join(names)} | paper, 2x224 | paper, 2x160+4x96 |",
        "|---" * (len(names) + 3) + "|",
    ]
    for row in (RANDOM, *METHODS):
        cells = [str(table.get(row, c, n) or "") for n in FIGURES for c in COLUMNS]
        paper = METHODS[row].paper if row in METHODS else None
        title = METHODS[row].title if row in METHODS else row
        quoted = [f"{value:.1f}" for value in paper] if paper else ["", ""]
        lines.append(f"| {' | '.join([title, *cells, *quoted])} |")
    text = "\n".join(lines)
    said = order(table)
    return f"{text}\n\n{said}" if said else text


def order(table: Table) -> str:
    """The paper's differences beside ours (linear), and whether they agree."""
    lines = []
    for what, of_paper, ours in _differences(table):
        difference, error = ours
        lines.append(
            f"| {what} | {of_paper:+.1f} | {difference:+.1f} ± {error:.1f} | "
            f"{verdict(of_paper, difference, error)} |"
        )
    if not lines:
        return ""
    head = (
        "| difference (linear) | paper | here ± standard error | |\n|---|---|---|---|"
    )
    return "\n".join([head, *lines])


def verdict(paper: float, ours: float, error: float) -> str:
    """Whether a difference of ours says what the paper's does."""
    clear = abs(ours) > CLEAR * error
    if abs(paper) < LEVEL:
        differs = clear and abs(ours) >= LEVEL
        return "level in the paper; differs here" if differs else "level in both"
    if not clear:
        return "open: within the spread"
    return "agrees" if (paper > 0) == (ours > 0) else "**contrary**"


def _differences(table: Table) -> list[tuple[str, float, tuple[float, float]]]:
    """Gain of multi-crop in each row, then each pair of rows in each column."""
    found = []
    with_paper = {row: m for row, m in METHODS.items() if m.paper is not None}
    for row, method in with_paper.items():
        ours = _difference(table, (row, MULTI), (row, TWO))
        two, multi = method.paper or (0.0, 0.0)
        if ours is not None:
            found.append((f"{row}: multi-crop over 2 crops", multi - two, ours))
    for place, column in enumerate(COLUMNS):
        for one, other in itertools.combinations(with_paper, 2):
            first, second = with_paper[one].paper, with_paper[other].paper
            ours = _difference(table, (one, column), (other, column))
            if ours is None or first is None or second is None:
                continue
            paper = first[place] - second[place]
            found.append((f"{column}: {one} over {other}", paper, ours))
    return found


def _difference(
    table: Table, one: tuple[str, str], other: tuple[str, str]
) -> tuple[float, float] | None:
    """Mean of one cell over another's, and its standard error.

    Taken seed by seed: runs of one seed share the order of the images.
    """
    first, second = (table.get(*key, "linear") for key in (one, other))
    if first is None or second is None:
        return None
    seeds = first.by_seed.keys() & second.by_seed.keys()
    found = Figure({s: first.by_seed[s] - second.by_seed[s] for s in seeds})
    # Of one seed nobody knows the spread.
    return (found.mean, found.error) if len(seeds) > 1 else None


def search_markdown(outcomes: Mapping[Cell, Mapping[str, Any] | str]) -> str:
    """k-NN within the training images by method and temperature."""
    rows: dict[str, dict[float, str]] = {}
    for cell, result in outcomes.items():
        text = "failed"
        if not isinstance(result, str):
            text = f"{result['figures']['knn_within_training']:.1f}"
        rows.setdefault(cell.method, {})[cell.temperature or 0.0] = text
    head = " | ".join(f"{t:g}" for t in plan.TEMPERATURES)
    lines = [f"| temperature | {head} |", "|---" * (len(plan.TEMPERATURES) + 1) + "|"]
    for row, found in rows.items():
        values = " | ".join(found.get(t, "") for t in plan.TEMPERATURES)
        lines.append(f"| {row} | {values} |")
    return "\n".join(lines)


def plot(table: Table, path: Path) -> None:
    """Bars as in Fig. 3 (left): 2 crops beside multi-crop; a line: the random trunk."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for row in METHODS if table.get(row, TWO, "linear")]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, (name, title) in zip(axes, FIGURES.items(), strict=True):
        for place, column in enumerate(COLUMNS):
            found = [table.get(row, column, name) for row in rows]
            axis.bar(
                [i + 0.38 * place - 0.19 for i in range(len(rows))],
                [f.mean if f else 0.0 for f in found],
                0.36,
                yerr=[f.spread if f else 0.0 for f in found],
                label=column,
                color=("C7", "C0")[place],
                capsize=2,
            )
        floor = table.get(RANDOM, TWO, name)
        if floor is not None:
            axis.axhline(floor.mean, color="k", ls="--", lw=0.8, label=RANDOM)
            axis.set_ylim(bottom=max(0.0, floor.mean - 8))
        axis.set_xticks(range(len(rows)), [r.replace("_", "\n", 1) for r in rows])
        axis.tick_params(labelsize=7)
        axis.set_ylabel(f"{title}, top-1 in %")
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)
