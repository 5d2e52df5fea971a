"""The page of `vissl-swav report`: every text from a file is escaped."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field

_STYLE = """
:root{--line:#d9dde3;--soft:#5b6470}
body{font:15px/1.45 system-ui,sans-serif;margin:0;color:#1d232b;background:#f4f5f7}
main{max-width:1100px;margin:0 auto;padding:1.5em}
h1{font-size:1.4em;margin:.2em 0;overflow-wrap:anywhere}
h2{font-size:1.1em;margin:0 0 .6em}
section{background:#fff;border:1px solid var(--line);border-radius:8px;
padding:1em 1.2em;margin:1em 0}
.state{font-size:1.05em;margin:.3em 0}
.badge{display:inline-block;border-radius:4px;padding:.1em .6em;color:#fff;
font-weight:600;margin-right:.5em}
.good{background:#2a7f3f}.bad{background:#b00020}.note{background:#8a5a00}
.plain{background:#4a5568}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15em 1.2em;margin:0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
.two,.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:1em}
figure{margin:0}figcaption{font-weight:600}
figure p{color:var(--soft);font-size:.85em;margin:.1em 0 0}
.legend{font-size:.85em;color:var(--soft)}
.legend span{margin-right:1em;white-space:nowrap}
.legend i{display:inline-block;width:1em;height:.25em;margin-right:.35em;
vertical-align:middle}
svg{width:100%;height:auto;display:block}
svg text{font:11px system-ui,sans-serif;fill:#5b6470}
svg .grid{stroke:#e6e9ee}svg path{fill:none}
svg .line{fill:none;stroke-width:1.8;stroke-linejoin:round}
table{border-collapse:collapse;width:100%}
td:first-child{min-width:9.5em}
td,th{text-align:left;padding:.2em .8em .2em 0;border-top:1px solid var(--line);
vertical-align:top;overflow-wrap:anywhere}
th{color:var(--soft);font-weight:500;border-top:0}
ol,ul{margin:.3em 0;padding-left:1.4em}
pre{background:#f0f2f5;border-radius:5px;padding:.6em .8em;overflow-x:auto;
white-space:pre-wrap;overflow-wrap:anywhere;margin:.3em 0 .9em}
.soft{color:var(--soft)}
"""
GOOD, BAD, NOTE, PLAIN = "good", "bad", "note", "plain"


@dataclass(frozen=True)
class Said:
    """A verdict, of the plan or of the run.

    Attributes:
        kind: `GOOD`, `BAD`, `NOTE` or `PLAIN`, for its colour.
        name: in capitals.
        text: where, and why.
        remedies: in the order in which to try them.
    """

    kind: str
    name: str
    text: str
    remedies: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A box of the page: a title, and what stands in it, as HTML."""

    title: str
    body: str


@dataclass(frozen=True)
class Page:
    """What the page says, beside its sections.

    Attributes:
        title: the run's folder.
        state: whether it is finished, under way or standing.
        written: when and by what, below.
        sections: in order; one without a body is left out.
    """

    title: str
    state: Said
    written: str
    sections: Sequence[Section] = field(default_factory=list)


def render(page: Page) -> str:
    """The whole file."""
    boxes = "\n".join(
        f"<section><h2>{text(section.title)}</h2>{section.body}</section>"
        for section in page.sections
        if section.body
    )
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        f"<title>{text(page.title)}</title><style>{_STYLE}</style></head>\n<body><main>"
        f"<h1>{text(page.title)}</h1><p class=state>{badge(page.state)}"
        f"{text(page.state.text)}</p>\n{boxes}\n<p class=soft>{text(page.written)}</p>"
        "</main></body></html>\n"
    )


def text(words: object) -> str:
    """Any value as text that a browser takes for nothing else."""
    # A name may hold bytes that are no UTF-8 (surrogates): shown as escapes.
    shown = str(words).encode("utf-8", "backslashreplace").decode("utf-8")
    return html.escape(shown, quote=True)


def badge(said: Said) -> str:
    """Its name in its colour."""
    return f'<span class="badge {said.kind}">{text(said.name)}</span>'


def definitions(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values side by side; empty without rows."""
    if not rows:
        return ""
    inner = "".join(f"<dt>{text(a)}</dt><dd>{text(b)}</dd>" for a, b in rows)
    return f"<dl>{inner}</dl>"


def side_by_side(left: str, right: str) -> str:
    """Two parts, which are HTML already; empty where both are."""
    if not left and not right:
        return ""
    return f"<div class=two><div>{left}</div><div>{right}</div></div>"


def sayings(found: Sequence[Said]) -> str:
    """Verdicts with their remedies, one below the other."""
    parts: list[str] = []
    for said in found:
        parts.append(f"<p>{badge(said)}{text(said.text)}</p>")
        if said.remedies:
            items = "".join(f"<li>{text(remedy)}</li>" for remedy in said.remedies)
            parts.append(f"<ol>{items}</ol>")
    return "".join(parts)


def table(names: Sequence[str], rows: Sequence[Sequence[object]], most: int) -> str:
    """A table of at most so many rows, and how many more there are."""
    if not rows:
        return ""
    head = "".join(f"<th>{text(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>"
        for row in rows[:most]
    )
    more = len(rows) - most
    rest = f"<p class=soft>and {more} more</p>" if more > 0 else ""
    return f"<table><tr>{head}</tr>{body}</table>{rest}"


def paragraph(words: str) -> str:
    """A paragraph of text; empty for none."""
    return f"<p>{text(words)}</p>" if words else ""


def commands(found: Sequence[tuple[str, str]]) -> str:
    """What each command is for, and the command to copy."""
    return "".join(
        f"<div>{text(what)}</div><pre>{text(command)}</pre>" for what, command in found
    )


def grid(figures: Sequence[str]) -> str:
    """Figures, which are HTML already, side by side."""
    return f"<div class=charts>{''.join(figures)}</div>" if figures else ""
