"""What the figures of a run say of it; plain numbers, no tensors.

Each verdict needs two signals: a healthy early run sits near ln K too. The thresholds
are those of the calibration in `docs/health.md` (`benchmarks/health_runs.py`).
"""

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

COLLAPSE_STEPS = 200
"""Steps over which the loss must sit at its ceiling; also the least of the others."""

CEILING_MARGIN = 1e-3
"""Nats under ln K that count as being there."""

SPREAD_BELOW = 0.05
"""Spread of features or prototypes that counts as none (1 on the sphere)."""

INFORMATION_BELOW = 0.02
"""Nats that the codes tell of their samples that count as nothing."""

INFORMATION_LEFT = 0.1
"""Share of the most that the codes of this run have told, under which it is lost.

In units of the run's own start: what the codes of an untrained net tell depends on
epsilon, dimension, prototypes and batch.
"""

LABELS_LEARNED = 0.1
"""Share of the entropy of the labels that equal features may seem to have learned.

Prototypes alone learn how frequent each label is: that takes the loss from ln K to the
entropy of the labels, and no further.
"""

LEARNED = 0.02
"""Progress under which a run has learned nothing yet."""

LEARNING_STEPS = 400
"""Steps, and at least an epoch, that a run is given to learn anything."""

RISE = 0.2
"""Share of its gain that a diverging run has lost."""

LEAST_GAIN = 0.05
"""Progress that must have been made before losing some of it means anything."""

FLOOR_PROGRESS = 0.95
"""Progress from which a run is at its floor."""

FLOOR_ENTROPY = 0.1
"""Entropy of codes over its own floor, as a share of the room, that counts as there."""

LN_K, LN_NEGATIVES = "ln K", "ln(1 + negatives)"
"""What the ceiling of a loss is: of one with prototypes, and of one of pairs."""

_LEVEL_STEPS = 50
_SIGNIFICANT = 3.0


class Verdict(Enum):
    """In the order in which they are looked for."""

    COLLAPSED = "COLLAPSED"
    QUEUE_HURTS = "QUEUE HURTS"
    DIVERGING = "DIVERGING"
    AT_FLOOR = "AT FLOOR"
    NOT_LEARNING_YET = "NOT LEARNING YET"
    HEALTHY = "HEALTHY"

    @property
    def is_alarm(self) -> bool:
        """Whether something goes wrong, not only slowly."""
        return self in (Verdict.COLLAPSED, Verdict.QUEUE_HURTS, Verdict.DIVERGING)


_RISING = (Verdict.QUEUE_HURTS, Verdict.DIVERGING)


@dataclass(frozen=True)
class Signals:
    """Figures of a step, the same on every process.

    Attributes:
        step: training steps finished.
        ceiling: of the loss.
        floor: of the loss.
        feature_spread: see `monitors.feature_spread`.
        prototype_spread: see `monitors.prototype_spread`; None without prototypes.
        code_entropy: mean entropy of a code; None where labels take their place.
        mean_code_entropy: entropy of the mean code, likewise.
        label_entropy: of the labels of a window; None where codes take their place.
        queue_in_use: whether codes are found with a queue.
        ceiling_name: what the ceiling is.
    """

    step: int
    ceiling: float
    floor: float
    feature_spread: float
    prototype_spread: float | None
    code_entropy: float | None = None
    mean_code_entropy: float | None = None
    label_entropy: float | None = None
    queue_in_use: bool = False
    ceiling_name: str = LN_K

    @property
    def code_information(self) -> float | None:
        """What a code tells of its sample, in nats; None where there are no codes."""
        if self.code_entropy is None or self.mean_code_entropy is None:
            return None
        return self.mean_code_entropy - self.code_entropy


@dataclass(frozen=True)
class Finding:
    """A verdict and the figures that it rests on, in words."""

    verdict: Verdict
    why: str


class Judge:
    """Takes the loss of every step and now and then the other figures.

    Args:
        steps_per_epoch: how long a rise must last, and a start may take.
    """

    def __init__(self, steps_per_epoch: int):
        self._epoch = max(COLLAPSE_STEPS, steps_per_epoch)
        self._patience = max(LEARNING_STEPS, steps_per_epoch)
        self._recent: deque[float] = deque(maxlen=COLLAPSE_STEPS)
        self._best = float("inf")
        self._risen_since: int | None = None
        self._queue_since: int | None = None
        self._most_told = 0.0
        self._steps = 0
        self.verdict = Verdict.HEALTHY

    def add(self, loss: float) -> None:
        """The loss of a step, the mean over processes."""
        self._recent.append(loss)
        self._steps += 1

    def state(self) -> dict[str, Any]:
        """All that it remembers, in plain containers."""
        return {
            "recent": list(self._recent),
            "best": self._best,
            "risen_since": self._risen_since,
            "queue_since": self._queue_since,
            "most_told": self._most_told,
            "steps": self._steps,
            "verdict": self.verdict.value,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where the judge of `state` stood."""
        self._recent.extend(state["recent"])
        self._best = state["best"]
        self._risen_since = state["risen_since"]
        self._queue_since = state["queue_since"]
        # Checkpoints of before this was kept do not have it.
        self._most_told = state.get("most_told", 0.0)
        self._steps = state["steps"]
        self.verdict = Verdict(state["verdict"])

    def judge(self, signals: Signals) -> Finding | None:
        """A finding where the verdict is another than the last time, else None."""
        finding = self._find(signals)
        if finding.verdict is self.verdict:
            return None
        self.verdict = finding.verdict
        return finding

    def _find(self, signals: Signals) -> Finding:
        self._follow_queue(signals)
        self._most_told = max(self._most_told, signals.code_information or 0.0)
        for look in (
            self._collapsed,
            self._rising,
            self._at_floor,
            self._not_learning,
        ):
            finding = look(signals)
            if finding is not None:
                return finding
        return Finding(Verdict.HEALTHY, f"the loss is {self._recent[-1]:.4f}")

    def _collapsed(self, signals: Signals) -> Finding | None:
        if len(self._recent) < COLLAPSE_STEPS:
            return None
        least, labels = min(self._levels()), signals.label_entropy
        if labels is not None and signals.feature_spread < SPREAD_BELOW:
            if least >= (1 - LABELS_LEARNED) * labels - CEILING_MARGIN:
                return Finding(
                    Verdict.COLLAPSED,
                    "all features are nearly one vector (spread "
                    f"{signals.feature_spread:.4f}), and the loss, {least:.4f} at its "
                    f"least in {COLLAPSE_STEPS} steps, tells no more than how frequent "
                    f"each label is (their entropy is {labels:.4f})",
                )
        if least < signals.ceiling - CEILING_MARGIN:
            return None
        at_ceiling = (
            f"the loss has not been under {signals.ceiling_name} = "
            f"{signals.ceiling:.4f} for {COLLAPSE_STEPS} steps"
        )
        for name, spread in (
            ("features", signals.feature_spread),
            ("prototypes", signals.prototype_spread),
        ):
            if spread is not None and spread < SPREAD_BELOW:
                return Finding(
                    Verdict.COLLAPSED,
                    f"{at_ceiling}, and all {name} are nearly one vector (spread "
                    f"{spread:.4f}, wanted {SPREAD_BELOW} or more; 1 on the sphere)",
                )
        information = signals.code_information
        if information is None:
            return None
        if information < INFORMATION_BELOW:
            return Finding(
                Verdict.COLLAPSED,
                f"{at_ceiling}, and the codes tell nothing of their image "
                f"({information:.4f} nats, wanted {INFORMATION_BELOW} or more)",
            )
        # Said once, not at each crossing of the line.
        twice = 2 if self.verdict is Verdict.COLLAPSED else 1
        if information < twice * INFORMATION_LEFT * self._most_told:
            return Finding(
                Verdict.COLLAPSED,
                f"{at_ceiling}, and the codes tell {information:.3f} nats of their "
                f"image, {information / self._most_told:.1%} of the "
                f"{self._most_told:.3f} that they have told (wanted "
                f"{INFORMATION_LEFT:.0%} or more)",
            )
        return None

    def _rising(self, signals: Signals) -> Finding | None:
        """The loss has risen by a share of its gain, beyond its noise, for an epoch."""
        level = self._level()
        if level is None:
            return None
        self._best = min(self._best, level)
        gain = signals.ceiling - self._best
        lost = level - self._best
        noise = statistics.stdev(self._last()) / _LEVEL_STEPS**0.5
        share = RISE / 2 if self.verdict in _RISING else RISE
        rises = (
            gain > LEAST_GAIN * (signals.ceiling - signals.floor)
            and lost > share * gain
            and lost > _SIGNIFICANT * noise
        )
        if not rises:
            self._risen_since = None
            return None
        if self._risen_since is None:
            self._risen_since = signals.step
        if signals.step - self._risen_since < self._epoch:
            return None
        why = (
            f"the loss has stood {lost:.3f} over its best ({self._best:.3f}) since "
            f"step {self._risen_since}: {lost / gain:.0%} of what it had gained"
        )
        start = self._queue_since
        if start is None or self._risen_since - start > self._epoch:
            return Finding(Verdict.DIVERGING, why)
        return Finding(
            Verdict.QUEUE_HURTS,
            f"{why}; the queue came into use at step {start}, just before",
        )

    def _at_floor(self, signals: Signals) -> Finding | None:
        """Only where N < K: a floor of 0 is reached by over-fitting alone."""
        room = signals.ceiling - signals.floor
        entropy = signals.code_entropy
        if signals.floor <= 0 or entropy is None or len(self._recent) < COLLAPSE_STEPS:
            return None
        left = max(self._levels()) - signals.floor
        if left > (1 - FLOOR_PROGRESS) * room:
            return None
        if entropy - signals.floor > FLOOR_ENTROPY * room:
            return None
        return Finding(
            Verdict.AT_FLOOR,
            f"the loss is {left:.4f} over its floor ln(K / N) = {signals.floor:.4f}, "
            f"and so are its codes (entropy {entropy:.4f}): with so few samples over "
            "so many prototypes it cannot fall further",
        )

    def _not_learning(self, signals: Signals) -> Finding | None:
        if self._steps < self._patience or len(self._recent) < COLLAPSE_STEPS:
            return None
        room = signals.ceiling - signals.floor
        gained = (signals.ceiling - min(self._levels())) / room
        least = 2 * LEARNED if self.verdict is Verdict.NOT_LEARNING_YET else LEARNED
        if gained >= least:
            return None
        return Finding(
            Verdict.NOT_LEARNING_YET,
            f"the loss has come {gained:.1%} of the way from {signals.ceiling_name} = "
            f"{signals.ceiling:.4f} to its floor {signals.floor:.4f} in {self._steps} "
            f"steps; features are spread ({signals.feature_spread:.2f}): no collapse",
        )

    def _follow_queue(self, signals: Signals) -> None:
        if signals.queue_in_use and self._queue_since is None:
            self._queue_since = signals.step

    def _last(self) -> list[float]:
        return list(self._recent)[-_LEVEL_STEPS:]

    def _level(self) -> float | None:
        """Mean loss of the last steps; None in the first ones."""
        last = self._last()
        return statistics.fmean(last) if len(last) == _LEVEL_STEPS else None

    def _levels(self) -> list[float]:
        """Mean losses of the recent steps, block by block."""
        recent = list(self._recent)
        starts = range(0, len(recent), _LEVEL_STEPS)
        return [statistics.fmean(recent[at : at + _LEVEL_STEPS]) for at in starts]
