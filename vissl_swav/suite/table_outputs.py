"""A transfer table as text: for the terminal, Markdown, CSV and LaTeX."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from vissl_swav.suite.recipe import Column, Recipe
from vissl_swav.suite.table_jobs import Outcome
from vissl_swav.suite.table_rows import RANDOM

SUPERVISED = "supervised"


@dataclass(frozen=True)
class TransferTable:
    """What a recipe gave.

    Attributes:
        recipe: what was asked for.
        rows: names, in order.
        outcomes: by row, then by benchmark.
    """

    recipe: Recipe
    rows: Sequence[str]
    outcomes: Mapping[str, Mapping[str, Outcome]]

    def figure(self, row: str, column: Column) -> float | None:
        """The measured figure, or None."""
        outcome = self._outcome(row, column)
        return outcome.figures.get(column.metric) if outcome else None

    def cell(self, row: str, column: Column) -> str:
        """The figure, or why there is none, in a word or two."""
        outcome = self._outcome(row, column)
        if outcome is None:
            return "not run"
        value = outcome.figures.get(column.metric)
        return outcome.state if value is None else number(value, column)

    def _outcome(self, row: str, column: Column) -> Outcome | None:
        for entry in self.recipe.benchmarks:
            if column in entry.columns:
                return self.outcomes.get(row, {}).get(entry.name)
        return None

    @property
    def quoted(self) -> dict[str, dict[str, float]]:
        """Figures of others: row, column name, figure."""
        found: dict[str, dict[str, float]] = {}
        for column in self.recipe.columns:
            for row, value in column.quoted.items():
                found.setdefault(row, {})[column.name] = value
        return found

    def best(self, column: Column) -> set[str]:
        """The rows with the best figure that was measured here."""
        values = {row: self.figure(row, column) for row in self.rows}
        known = {row: value for row, value in values.items() if value is not None}
        if len(known) < 2:
            return set()
        pick = max if column.more_is_better else min
        return {row for row, value in known.items() if value == pick(known.values())}


def number(value: float, column: Column) -> str:
    """As the table shows it."""
    return f"{value:.1f}" if column.unit == "%" else f"{value:.3g}"


def heading(column: Column) -> str:
    """Title and unit."""
    return f"{column.title}, {column.unit}" if column.unit else column.title


def above_random(table: TransferTable) -> list[str]:
    """For each checkpoint: in how many columns it is above the random trunk.

    The columns that count are those in which the supervised trunk is above it, too,
    where there is one: elsewhere the data cannot tell trunks apart.
    """
    if RANDOM not in table.rows:
        return []
    telling = [c for c in table.recipe.columns if _above(table, SUPERVISED, c)]
    counted, where = table.recipe.columns, "columns"
    if SUPERVISED in table.rows:
        counted, where = telling, "columns in which the supervised trunk is, too"
    lines = []
    for row in table.rows:
        if row in (RANDOM, SUPERVISED) or not counted:
            continue
        above = [column for column in counted if _above(table, row, column)]
        lines.append(
            f"{row} is above the random trunk in {len(above)} of {len(counted)} {where}"
        )
    return lines


def _above(table: TransferTable, row: str, column: Column) -> bool:
    value, random = table.figure(row, column), table.figure(RANDOM, column)
    if value is None or random is None:
        return False
    return value > random if column.more_is_better else value < random


def notes(table: TransferTable) -> list[tuple[str, str]]:
    """What the reader of a figure must know, and the rows and columns it is about.

    The same of several rows stands once.
    """
    about: dict[tuple[str, str], list[str]] = {}
    for entry in table.recipe.benchmarks:
        titles = ", ".join(column.title for column in entry.columns) or entry.name
        for row in table.rows:
            outcome = table.outcomes.get(row, {}).get(entry.name)
            for note in outcome.notes if outcome is not None else ():
                about.setdefault((titles, note), []).append(row)
    return [
        (f"{titles} ({', '.join(rows)})", note)
        for (titles, note), rows in about.items()
    ]


def cells(table: TransferTable) -> list[list[str]]:
    """Every row as texts, those of others last; the first cell is the name."""
    columns = table.recipe.columns
    lines = [[row, *(table.cell(row, c) for c in columns)] for row in table.rows]
    for row, figures in table.quoted.items():
        texts = [
            number(figures[c.name], c) if c.name in figures else "" for c in columns
        ]
        lines.append([f"{row} (quoted)", *texts])
    return lines


def terminal(table: TransferTable) -> RichTable:
    """For `rich`; the best figure of a column stands out."""
    # As Text: a name may hold what rich takes for markup.
    shown = RichTable(title=Text(table.recipe.title))
    shown.add_column("")
    for column in table.recipe.columns:
        shown.add_column(Text(heading(column)), justify="right")
    best = {column.name: table.best(column) for column in table.recipe.columns}
    for line in cells(table):
        styled = [Text(line[0])]
        for column, text in zip(table.recipe.columns, line[1:], strict=True):
            styled.append(
                Text(text, style="bold" if line[0] in best[column.name] else "")
            )
        shown.add_row(*styled)
    return shown


def markdown(table: TransferTable) -> str:
    """A GitHub table and, below it, each column's protocol."""
    columns = table.recipe.columns
    head = ["", *(heading(column) for column in columns)]
    lines = [f"# {_one_line(table.recipe.title)}", ""]
    lines += [_md_row(head), _md_row(["---", *["---:"] * len(columns)])]
    lines += [_md_row(line) for line in cells(table)]
    lines += ["", *(f"* {line}." for line in above_random(table))]
    lines += [f"* {_one_line(about)}: {note}." for about, note in notes(table)]
    lines += [""]
    for title, text in protocols(table.recipe):
        lines.append(f"* **{_one_line(title)}**: {text}")
    sources = {c.source for c in columns if c.source}
    lines += [f"* Quoted figures: {source}" for source in sorted(sources)]
    return "\n".join(lines) + "\n"


def _md_row(line: Sequence[str]) -> str:
    inner = " | ".join(_one_line(text).replace("|", "\\|") for text in line)
    return f"| {inner} |"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def as_csv(table: TransferTable) -> str:
    """One line a row, full precision; an empty cell where there is no figure."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = table.recipe.columns
    writer.writerow(["row", "measured", *(column.name for column in columns)])
    for row in table.rows:
        values = [table.figure(row, column) for column in columns]
        writer.writerow([row, "here", *("" if v is None else repr(v) for v in values)])
    for row, figures in table.quoted.items():
        writer.writerow([row, "quoted", *(figures.get(c.name, "") for c in columns)])
    return stream.getvalue()


_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    },
}


def latex(table: TransferTable) -> str:
    r"""A `tabular` for `\input`, with booktabs; the best figures are bold."""
    columns = table.recipe.columns
    best = {column.name: table.best(column) for column in columns}
    lines = [
        f"% {_one_line(table.recipe.title)}",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        " & ".join(["", *(_tex(column.title) for column in columns)]) + r" \\",
        r"\midrule",
    ]
    for line in cells(table):
        texts = [_tex(line[0])]
        for column, text in zip(columns, line[1:], strict=True):
            bold = line[0] in best[column.name]
            texts.append(rf"\textbf{{{_tex(text)}}}" if bold else _tex(text))
        lines.append(" & ".join(texts) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _tex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in _one_line(text))


def protocols(recipe: Recipe) -> list[tuple[str, str]]:
    """Title of the columns of a benchmark, and what is done for them."""
    found = []
    for entry in recipe.benchmarks:
        if entry.columns:
            titles = ", ".join(column.title for column in entry.columns)
            text = entry.protocol or f"{entry.kind} with {entry.config}."
            if entry.config:
                text += f" Config: {entry.config}."
            found.append((titles, text))
    return found


def as_json(table: TransferTable, facts: Mapping[str, Any]) -> str:
    """Everything, for programs."""
    rows = {
        row: {
            name: {
                "state": outcome.state,
                "figures": dict(outcome.figures),
                "seconds": outcome.seconds,
                "folder": str(outcome.folder),
                "message": outcome.message,
                "notes": list(outcome.notes),
            }
            for name, outcome in table.outcomes.get(row, {}).items()
        }
        for row in table.rows
    }
    columns = {
        row: {column.name: table.figure(row, column) for column in table.recipe.columns}
        for row in table.rows
    }
    content = {**facts, "recipe": table.recipe.name, "columns": columns, "rows": rows}
    return json.dumps(content, indent=2)
