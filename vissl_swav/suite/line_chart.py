"""Curves as SVG, for a page without scripts or references."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]

WIDTH, HEIGHT = 460, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 10, 10, 24
_MOST_POINTS = 400
_TICKS = 5


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        name: for the legend.
        points: (x, y) with rising x; those that are not finite are left out.
        colour: of CSS.
        dashed: for bounds.
        faint: for what a smoothed curve is drawn over.
    """

    name: str
    points: Sequence[Point]
    colour: str
    dashed: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Mark:
    """An upright line with a word at its head."""

    x: float
    text: str
    colour: str = "#b00020"


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    marks: Sequence[Mark] = (),
    note: str = "",
    least_top: float | None = None,
) -> str:
    """A figure with title, legend and axes; empty where no line has a point.

    Args:
        title: above it.
        lines: drawn in order.
        marks: at some x.
        note: below it.
        least_top: the y axis begins at 0 and reaches at least here; None: as the curves
            are.
    """
    kept = [(line, thinned(_finite(line.points))) for line in lines]
    kept = [(line, points) for line, points in kept if points]
    if not kept:
        return ""
    xs = [x for _, points in kept for x, _ in points]
    ys = [y for _, points in kept for _, y in points]
    box = _Box.around(xs, ys, least_top)
    parts = [*_grid(box), *(_mark(box, mark) for mark in marks)]
    parts += [_curve(box, line, points) for line, points in kept]
    legend = "".join(
        f'<span><i style="background:{line.colour}"></i>{html.escape(line.name)} '
        f"<b>{_number(points[-1][1])}</b></span>"
        for line, points in kept
        if not line.faint
    )
    below = f"<p>{html.escape(note)}</p>" if note else ""
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption>"
        f"<div class=legend>{legend}</div>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(title, quote=True)}">{"".join(parts)}</svg>'
        f"{below}</figure>"
    )


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """At most so many points: means of neighbours, the last point as it is."""
    if len(points) <= most:
        return list(points)
    size = -(-(len(points) - 1) // (most - 1))
    found: list[Point] = []
    for start in range(0, len(points) - 1, size):
        some = points[start : min(start + size, len(points) - 1)]
        count = len(some)
        found.append((sum(x for x, _ in some) / count, sum(y for _, y in some) / count))
    return [*found, points[-1]]


def ticks(low: float, high: float, wanted: int = _TICKS) -> list[float]:
    """Round numbers from `low` to `high`, about `wanted` of them."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    raw = span / wanted
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


@dataclass(frozen=True)
class _Box:
    left: float
    right: float
    low: float
    high: float

    @classmethod
    def around(
        cls, xs: Sequence[float], ys: Sequence[float], least_top: float | None
    ) -> "_Box":
        low, high = min(ys), max(ys)
        if least_top is not None:
            low, high = min(low, 0.0), max(high, least_top)
        margin = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
        bottom = low if least_top is not None and low == 0 else low - margin
        right = max(xs) if max(xs) > min(xs) else min(xs) + 1
        return cls(min(xs), right, bottom, high + margin)

    def x(self, value: float) -> float:
        share = (value - self.left) / (self.right - self.left)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)


def _grid(box: _Box) -> list[str]:
    parts: list[str] = []
    upright, level = ticks(box.low, box.high), ticks(box.left, box.right)
    for value in upright:
        y = box.y(value)
        parts.append(
            f'<path d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}" class="grid"/>'
            f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">'
            f"{_tick(value, upright)}</text>"
        )
    for value in level:
        x = box.x(value)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">'
            f"{_tick(value, level)}</text>"
        )
    return parts


def _curve(box: _Box, line: Line, points: Sequence[Point]) -> str:
    style = ' stroke-dasharray="5 4"' if line.dashed else ""
    style += ' opacity="0.3" stroke-width="1"' if line.faint else ""
    if len(points) == 1:
        x, y = points[0]
        return (
            f'<circle cx="{box.x(x):.1f}" cy="{box.y(y):.1f}" r="3" '
            f'fill="{line.colour}"/>'
        )
    path = " ".join(f"{box.x(x):.1f},{box.y(y):.1f}" for x, y in points)
    return f'<polyline points="{path}" stroke="{line.colour}" class="line"{style}/>'


def _mark(box: _Box, mark: Mark) -> str:
    if not box.left <= mark.x <= box.right:
        return ""
    x = box.x(mark.x)
    turned = f"rotate(-90 {x - 4:.1f} {_TOP + 4})"
    return (
        f'<path d="M{x:.1f} {_TOP}V{HEIGHT - _BOTTOM}" stroke="{mark.colour}" '
        f'stroke-dasharray="2 3"/><text x="{x - 4:.1f}" y="{_TOP + 4}" '
        f'transform="{turned}" text-anchor="end" style="fill:{mark.colour}">'
        f"{html.escape(mark.text)}</text>"
    )


def _tick(value: float, all_of_them: Sequence[float]) -> str:
    """With as many places as tell it from its neighbour."""
    if len(all_of_them) < 2 or max(map(abs, all_of_them)) >= 1e6:
        return _number(value)
    places = -math.floor(math.log10(all_of_them[1] - all_of_them[0]) + 1e-9)
    return f"{value:.3g}" if places > 6 else f"{value:.{max(0, places)}f}"


def _number(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1e5 or abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:.4g}"
