"""The report of a transfer table: one HTML file without references."""

import base64
import html
import io
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vissl_swav.data.errors import DataError
from vissl_swav.suite import stage, table_neighbors, table_outputs
from vissl_swav.suite.figures import smoothed
from vissl_swav.suite.recipe import Benchmark
from vissl_swav.suite.table_data import DataSet
from vissl_swav.suite.table_outputs import TransferTable

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1100px;
padding:0 1em;color:#222;background:#fff}
h1{font-size:1.5em}h2{font-size:1.2em;margin-top:2.2em}h3{font-size:1em}
table{border-collapse:collapse}th,td{padding:.3em .7em;border-bottom:1px solid #ddd}
th{text-align:right;font-weight:600;border-bottom:2px solid #888;vertical-align:bottom}
td{text-align:right;font-variant-numeric:tabular-nums}
th:first-child,td:first-child{text-align:left}
tr.quoted td{color:#555;font-style:italic}td.best{font-weight:700}
td.none{color:#a33;font-size:.85em}.scroll{overflow-x:auto}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15em 1em}
dt{font-weight:600}dd{margin:0;overflow-wrap:anywhere}
figure{margin:1em 0}figure img{max-width:100%;height:auto}
.near{display:flex;flex-wrap:wrap;gap:4px;align-items:flex-start;margin:.4em 0}
.near div{width:76px;font-size:.72em;text-align:center;overflow-wrap:anywhere}
.near img,.near .gone{width:72px;height:72px;border:2px solid #bbb;display:block}
.near .same img{border-color:#2a7}.near .other img{border-color:#c55}
.near .test{margin-right:1.2em}pre{white-space:pre-wrap;background:#f6f6f6;padding:.8em}
"""


def page(table: TransferTable, order: Any, facts: Mapping[str, Any]) -> str:
    """The whole page; every text from outside is escaped, every picture is in it.

    Args:
        table: the figures.
        order: what was run (`table.Order`).
        facts: of the run: version, date, seed, device, data.
    """
    body = [
        f"<h1>{_text(table.recipe.title)}</h1>",
        _definitions(_facts(table, facts)),
        _table(table),
        *(f"<p>{_text(line)}.</p>" for line in table_outputs.above_random(table)),
        *(f"<p>{_text(a)}: {_text(b)}.</p>" for a, b in table_outputs.notes(table)),
        *_absent(table),
        "<h2>Protocols</h2>",
        _definitions(table_outputs.protocols(table.recipe)),
        *_sources(table),
        *_curves(table),
        *_neighbours(table, order),
    ]
    title = _text(table.recipe.title)
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _facts(table: TransferTable, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    seconds = sum(o.seconds for row in table.outcomes.values() for o in row.values())
    shown = [
        ("recipe", table.recipe.name),
        ("date", str(facts["date"])),
        ("seed", str(facts["seed"])),
        ("software", f"vissl_swav {facts['version']}, torch {torch.__version__}"),
        ("machine", f"{facts['device']}, {platform.machine()}"),
        ("time of the benchmarks", f"{seconds / 60:.1f} min"),
    ]
    shown += [(f"data {name}", path) for name, path in facts["data"].items()]
    shown += [(f"row {name}", path) for name, path in facts["checkpoints"].items()]
    return shown


def _table(table: TransferTable) -> str:
    columns = table.recipe.columns
    head = "".join(f"<th>{_text(table_outputs.heading(c))}</th>" for c in columns)
    lines = []
    for line in table_outputs.cells(table):
        measured = line[0] in table.rows
        cells = [f"<td>{_text(line[0])}</td>"]
        for column, text in zip(columns, line[1:], strict=True):
            kind = ""
            if measured and table.figure(line[0], column) is None:
                kind = " class=none"
            elif measured and line[0] in table.best(column):
                kind = " class=best"
            cells.append(f"<td{kind}>{_text(text)}</td>")
        lines.append(f"<tr{'' if measured else ' class=quoted'}>{''.join(cells)}</tr>")
    return (
        f"<div class=scroll><table><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _absent(table: TransferTable) -> list[str]:
    """What has no figure, and why; what has one reason stands together."""
    titles: dict[str, list[str]] = {}
    for row in table.rows:
        for name, outcome in table.outcomes.get(row, {}).items():
            if outcome.state not in ("done", "not run"):
                found = titles.setdefault(outcome.message, [])
                found.append(f"{row}, {name}: {outcome.state}")
    parts = [
        f"<h3>{'<br>'.join(map(_text, places))}</h3><pre>{_text(message)}</pre>"
        for message, places in titles.items()
    ]
    return ["<h2>Without a figure</h2>", *parts] if parts else []


def _sources(table: TransferTable) -> list[str]:
    sources = sorted({c.source for c in table.recipe.columns if c.source})
    return [
        f"<p>Rows in italics are quoted, not run here: {_text(s)}</p>" for s in sources
    ]


def _curves(table: TransferTable) -> list[str]:
    """Loss and test accuracy of each trained benchmark, a line a row."""
    parts = []
    for entry in table.recipe.benchmarks:
        if entry.kind != "train":
            continue
        runs = {
            row: outcome.folder
            for row in table.rows
            if (outcome := table.outcomes.get(row, {}).get(entry.name)) is not None
            and outcome.state == "done"
        }
        picture = _curve(entry, runs)
        if picture is not None:
            title = ", ".join(column.title for column in entry.columns) or entry.name
            parts.append(f"<h3>{_text(title)}</h3><figure>{picture}</figure>")
    return ["<h2>Curves</h2>", *parts] if parts else []


def _curve(entry: Benchmark, runs: Mapping[str, Path]) -> str | None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    losses = {row: stage.steps(folder) for row, folder in runs.items()}
    tests = {row: _tests(folder) for row, folder in runs.items()}
    if not any(losses.values()) and not any(tests.values()):
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    for row in runs:
        # A leading underscore would hide a name from the legend.
        name = row.replace("$", r"\$").lstrip("_") or "row"
        steps = [line["step"] for line in losses[row]]
        smooth = smoothed([line["loss"] for line in losses[row]])
        left.plot(steps, smooth, label=name)
        epochs = [epoch for epoch, _ in tests[row]]
        right.plot(epochs, [value for _, value in tests[row]], marker=".", label=name)
    left.set(xlabel="training step", ylabel="loss (nats), smoothed")
    right.set(xlabel="epoch", ylabel="test top-1, %")
    right.legend(fontsize="small")
    stream = io.BytesIO()
    figure.savefig(stream, dpi=90, format="png")
    plt.close(figure)
    return _image(stream.getvalue(), "png", f"curves of {entry.name}")


def _tests(folder: Path) -> list[tuple[int, float]]:
    """Epoch, counted from 1, and the best output's top-1."""
    file = folder / "metrics.json"
    if not file.is_file():
        return []
    found: dict[int, float] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines()):
        try:
            measured = json.loads(line)
            outputs = measured["test_accuracy_list_meter"]["top_1"].values()
            epoch = int(measured.get("train_phase_idx", number)) + 1
            found[epoch] = max(map(float, outputs))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return sorted(found.items())


def _neighbours(table: TransferTable, order: Any) -> list[str]:
    """A few test images, and what each trunk finds nearest."""
    rows = {row.name: row for row in order.rows}
    parts = []
    for entry in table.recipe.benchmarks:
        if entry.kind != "features" or entry.data not in order.data:
            continue
        for name in table.rows:
            outcome = table.outcomes.get(name, {}).get(entry.name)
            if outcome is None or outcome.state != "done":
                continue
            data, layer = order.data[entry.data], rows[name].trunk.layer
            parts += _neighbours_of(name, outcome.folder, layer, data)
        break
    if not parts:
        return []
    return [
        "<h2>Nearest neighbours</h2>",
        "<p>A test image, then the training images of largest cosine, nearest first. "
        "Green frame: of the same class; red: of another.</p>",
        *parts,
    ]


def _neighbours_of(name: str, folder: Path, layer: str, data: DataSet) -> list[str]:
    try:
        found = table_neighbors.neighbourhoods(folder, layer, data)
    except (DataError, OSError) as error:
        return [f"<h3>{_text(name)}</h3>", f"<p>Left out: {_text(str(error))}</p>"]
    if not found:
        return []
    return [f"<h3>{_text(name)}</h3>", *(_near(one) for one in found)]


def _near(one: table_neighbors.Neighbourhood) -> str:
    shown = [_thumbnail(one.test, "test")]
    for picture in one.nearest:
        kind = "same" if picture.label == one.test.label else "other"
        shown.append(_thumbnail(picture, kind))
    return f"<div class=near>{''.join(shown)}</div>"


def _thumbnail(picture: table_neighbors.Picture, kind: str) -> str:
    tip = picture.name
    below = picture.label
    if picture.cosine is not None:
        below += f" {picture.cosine:.2f}"
    shown = "<span class=gone></span>"
    if picture.image is not None:
        stream = io.BytesIO()
        picture.image.save(stream, "JPEG", quality=80)
        shown = _image(stream.getvalue(), "jpeg", tip)
    return f"<div class={kind}>{shown}{_text(below)}</div>"


def _image(content: bytes, kind: str, name: str) -> str:
    encoded = base64.b64encode(content).decode("ascii")
    text = _text(name)
    return f'<img src="data:image/{kind};base64,{encoded}" alt="{text}" title="{text}">'


def _definitions(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{_text(a)}</dt><dd>{_text(b)}</dd>" for a, b in facts)
    return f"<dl>{rows}</dl>"


def _text(text: str) -> str:
    return html.escape(text, quote=True)
