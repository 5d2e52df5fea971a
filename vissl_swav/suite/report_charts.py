"""The curves of a report, from the lines of `steps.jsonl` and `health.jsonl`."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from vissl_swav.health.verdicts import LN_K, LN_NEGATIVES, SPREAD_BELOW, Verdict
from vissl_swav.host.health_words import MAX_NORM_ERROR
from vissl_swav.suite.figures import smoothed
from vissl_swav.suite.line_chart import Line, Mark, Point, chart
from vissl_swav.suite.report_plan import lacks_prototypes
from vissl_swav.suite.run_folder import RunFolder

_LOSS, _BOUND, _SECOND, _THIRD = "#1f5fa8", "#b00020", "#2a7f3f", "#8a5a00"
_FOURTH = "#6a3d9a"


def charts(run: RunFolder) -> list[str]:
    """A figure for each thing that was written down; of what was not, none."""
    marks = [
        Mark(float(line["step"]), line["verdict"], _colour(line["verdict"]))
        for line in run.verdicts
    ]
    of = run.readings
    drawn = [
        _loss(run, marks),
        chart(
            f"Progress from {_ceiling_name(run)} to the floor",
            [Line("progress", series(of, "progress"), _LOSS)],
            marks=marks,
            least_top=0.1,
            note="0: nothing learned; 1: at the floor.",
        ),
        chart(
            "Entropies",
            [
                Line("of a code", series(of, "code_entropy"), _LOSS),
                Line("of the mean code", series(of, "mean_code_entropy"), _SECOND),
                Line("of the labels", series(of, "label_entropy"), _THIRD),
                *([] if lacks_prototypes(run) else _ceiling(run)),
            ],
            least_top=1.0,
            note="In nats. What a code tells of its image is the mean's less its own; "
            "in a collapse both are at ln K.",
        ),
        chart(
            "Prototypes",
            [
                Line("used", series(of, "prototypes_used"), _LOSS),
                Line("distinct", series(run.distinct, "distinct_prototypes"), _SECOND),
                Line("in all", series(run.distinct, "num_prototypes"), _BOUND, True),
            ],
            least_top=1,
            note="Distinct: a cosine under 0.95 with every earlier one.",
        ),
        chart(
            "Spread",
            [
                Line("features", series(of, "feature_spread"), _LOSS),
                Line("prototypes", series(of, "prototype_spread"), _SECOND),
                Line("collapse", _level(of, SPREAD_BELOW), _BOUND, dashed=True),
            ],
            marks=marks,
            least_top=1.0,
            note="1: evenly over the sphere; 0: all are one vector.",
        ),
        chart(
            "Drift of the queue",
            [Line("drift", series(of, "queue_drift"), _LOSS)],
            least_top=0.05,
            note="Cosine: how much worse the oldest rows fit today's features than the "
            "newest.",
        ),
        chart(
            "Learning rate",
            [Line("learning rate", series(run.steps, "lr"), _LOSS)],
            least_top=0.0,
        ),
        chart(
            "Share of the time",
            [
                Line("waiting for data", series(of, "waiting_share"), _LOSS),
                Line("watching (health hook)", series(of, "hook_share"), _SECOND),
            ],
            least_top=0.1,
            note="Of the primary rank. Over 0.2 the data path is the limit: "
            "docs/data.md.",
        ),
        _lengths(run),
    ]
    return [figure for figure in drawn if figure]


def series(lines: Sequence[dict[str, Any]], name: str) -> list[Point]:
    """(step, value) of the lines that have a number under the name."""
    found: list[Point] = []
    for line in lines:
        value = line.get(name)
        if isinstance(value, (int, float)) and math.isfinite(value):
            found.append((float(line["step"]), float(value)))
    return found


def _loss(run: RunFolder, marks: Sequence[Mark]) -> str:
    floor = series(run.readings, "floor")
    has_floor = any(value > 0 for _, value in floor)
    terms = _terms(run.steps)
    of_sum = "each term before its weight; the bounds are the prototypes' loss's"
    return chart(
        "Loss",
        [
            *(terms or _whole_loss(run)),
            *_ceiling(run),
            *([Line(_floor_name(run), floor, _SECOND, True)] if has_floor else []),
        ],
        marks=marks,
        note=f"In nats; {of_sum}." if terms else "In nats.",
    )


def _whole_loss(run: RunFolder) -> list[Line]:
    by_step = series(run.steps, "loss")
    smooth = _smooth(by_step) if by_step else series(run.readings, "loss")
    return [
        Line("by step", by_step, _LOSS, faint=True),
        Line("loss", smooth, _LOSS),
    ]


def _terms(steps: Sequence[dict[str, Any]]) -> list[Line]:
    """Of a weighted sum; empty where the loss is one."""
    with_terms = [line for line in steps if isinstance(line.get("terms"), dict)]
    names = dict.fromkeys(name for line in with_terms for name in line["terms"])
    colours = itertools.cycle((_LOSS, _THIRD, _FOURTH))
    by_term = {
        name: series(
            [{**line["terms"], "step": line["step"]} for line in with_terms], name
        )
        for name in names
    }
    return [
        Line(str(name), _smooth(points), next(colours))
        for name, points in by_term.items()
    ]


def _smooth(points: Sequence[Point]) -> list[Point]:
    values = smoothed([value for _, value in points])
    return [(x, y) for (x, _), y in zip(points, values, strict=True)]


def _lengths(run: RunFolder) -> str:
    """Only where they are wrong: they should be 1, and mostly are."""
    errors = series(run.readings, "norm_error")
    if all(error <= MAX_NORM_ERROR for _, error in errors):
        return ""
    return chart(
        "Length of the features",
        [Line("largest distance from 1", errors, _LOSS)],
        least_top=MAX_NORM_ERROR,
        note="Features must reach the prototypes with length 1: docs/health.md.",
    )


def _ceiling(run: RunFolder) -> list[Line]:
    points = series(run.readings, "ceiling")
    return [Line(f"ceiling {_ceiling_name(run)}", points, _BOUND, dashed=True)]


def _ceiling_name(run: RunFolder) -> str:
    return LN_NEGATIVES if lacks_prototypes(run) else LN_K


def _floor_name(run: RunFolder) -> str:
    return "floor" if lacks_prototypes(run) else "floor ln(K/N)"


def _level(readings: Sequence[dict[str, Any]], value: float) -> list[Point]:
    return [(x, value) for x, _ in series(readings, "feature_spread")]


def _colour(verdict: str) -> str:
    return _SECOND if verdict == Verdict.HEALTHY.value else _BOUND
