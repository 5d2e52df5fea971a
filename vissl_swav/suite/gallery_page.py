"""The gallery as one HTML file without references, and as one picture a head."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

MAX_LISTED = 200
_BARS = 300
_LABEL_WIDTH = 150
_STYLE = """
body{font:14px/1.4 system-ui,sans-serif;margin:2em;color:#222;background:#fff}
h1{font-size:1.4em}h2{font-size:1.15em;margin-top:2em}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1em 1em}
dt{font-weight:600}dd{margin:0;overflow-wrap:anywhere}
.row{display:flex;align-items:center;gap:.8em;border-top:1px solid #ddd;padding:.3em 0}
.name{flex:0 0 10em}.name b{display:block}.name small{color:#666}
.row div.top{display:flex;flex-wrap:wrap;gap:3px}
img{display:block;width:72px;height:72px}
svg{width:100%;height:80px;background:#f6f6f6}
.list{overflow-wrap:anywhere;color:#444}
"""


@dataclass(frozen=True)
class Row:
    """A cluster with its best images.

    Attributes:
        cluster: its number.
        size: images in it.
        mostly: its commonest label and share, or empty.
        pictures: best first.
        names: of the pictures.
        scores: of the pictures.
    """

    cluster: int
    size: int
    mostly: str
    pictures: list[Image.Image]
    names: list[str]
    scores: list[float]


@dataclass(frozen=True)
class Section:
    """A head: `gallery.HeadSummary` and the clusters shown."""

    summary: Any
    rows: list[Row]


def page(
    title: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]
) -> str:
    """The whole page; every text from outside is escaped, every image is in it."""
    body = [f"<h1>{_text(title)}</h1>", _definitions(facts)]
    for section in sections:
        body += _section(section)
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _section(section: Section) -> list[str]:
    summary = section.summary
    used = summary.num_prototypes - len(summary.empty)
    facts = [
        ("prototypes", str(summary.num_prototypes)),
        ("used", f"{used}, the others have no image"),
        ("distinct", f"{summary.distinct} (cosine below 0.95 to all earlier ones)"),
        ("balance", f"{summary.balance:.3f} (entropy of the sizes over ln K)"),
    ]
    if summary.nmi is not None:
        facts.append(("NMI with the labels", f"{summary.nmi:.3f}"))
        facts.append(("purity", f"{summary.purity:.3f}"))
    doubles = [f"{a} = {b} ({cosine:.3f})" for a, b, cosine in summary.duplicates]
    return [
        f"<h2>Head {summary.head}</h2>",
        _definitions(facts),
        _histogram(summary.sizes),
        _listed("Empty", [str(number) for number in summary.empty]),
        _listed("Duplicates", doubles),
        f"<p>The {len(section.rows)} largest clusters, best images first:</p>",
        *map(_row, section.rows),
    ]


def _row(row: Row) -> str:
    pictures = "".join(
        f'<img src="data:image/jpeg;base64,{_jpeg(picture)}" '
        f'alt="" title="{_text(f"{name}  {score:.3f}")}">'
        for picture, name, score in zip(
            row.pictures, row.names, row.scores, strict=True
        )
    )
    return (
        f"<div class=row><div class=name><b>{row.cluster}</b>{row.size} images"
        f"<br><small>{_text(row.mostly)}</small></div><div class=top>{pictures}</div>"
        "</div>"
    )


def _histogram(sizes: Sequence[int]) -> str:
    """Sizes in falling order; beyond `_BARS` clusters every n-th."""
    ordered = sorted(sizes, reverse=True)
    step = -(-len(ordered) // _BARS)
    shown = ordered[::step]
    width, top = 1000 / len(shown), max(max(shown), 1)
    bars = "".join(
        f'<rect x="{n * width:.2f}" y="{100 - 100 * size / top:.2f}" '
        f'width="{max(width * 0.9, 0.5):.2f}" height="{100 * size / top:.2f}" '
        'fill="#4878a8"/>'
        for n, size in enumerate(shown)
        if size
    )
    return (
        '<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
        f'aria-label="cluster sizes in falling order, the largest {top}">{bars}</svg>'
        f"<p class=list>Sizes in falling order; the largest has {top} images.</p>"
    )


def _listed(title: str, entries: Sequence[str]) -> str:
    if not entries:
        return f"<p class=list><b>{title}:</b> none</p>"
    more = len(entries) - MAX_LISTED
    text = ", ".join(entries[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
    return f"<p class=list><b>{title} ({len(entries)}):</b> {_text(text)}</p>"


def _definitions(facts: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{_text(a)}</dt><dd>{_text(b)}</dd>" for a, b in facts)
    return f"<dl>{rows}</dl>"


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _jpeg(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def contact_sheet(rows: Sequence[Row]) -> bytes:
    """A PNG with a line a cluster: number, size and commonest label, then images."""
    side = rows[0].pictures[0].width
    columns = max(len(row.pictures) for row in rows)
    width = _LABEL_WIDTH + columns * (side + 2)
    sheet = Image.new("RGB", (width, len(rows) * (side + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for line, row in enumerate(rows):
        top = line * (side + 4)
        words = f"{row.cluster}\n{row.size} images\n{row.mostly}"
        # The built-in font may know Latin letters only.
        draw.text(
            (4, top + 4),
            words.encode("latin-1", "replace").decode("latin-1"),
            fill="black",
        )
        for column, picture in enumerate(row.pictures):
            sheet.paste(picture, (_LABEL_WIDTH + column * (side + 2), top))
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()
