"""Figures of a training step over all ranks, from the tensors that the step holds.

Every rank calls every method in the same steps: there are collectives inside.
"""

from typing import Any

import torch
from torch import Tensor

from vissl_swav.backends.torch_collective import collective
from vissl_swav.health import monitors
from vissl_swav.host.loss_view import LossView
from vissl_swav.host.task_view import TaskView

_ROWS_PER_PROTOTYPE = 8
"""A prototype of average size is missed with probability exp(-8) in a window."""


class StepMonitor:
    """Counts in each step, measures when asked.

    Of several heads, entropies are those of the first; prototypes used are those of all
    heads, and the spread of the prototypes is that of the worst head. A loss without
    prototypes has the figures of its features alone.
    """

    def __init__(self) -> None:
        self._counts: list[Tensor] = []
        self._labels: Tensor | None = None
        self._rows = 0
        self._window: dict[str, float] = {}

    def count(self, view: TaskView) -> None:
        """Adds the step's largest scores to the window."""
        of_loss = LossView(view)
        layout = of_loss.layout
        first = layout.crops_for_assign[0]
        scores = [layout.split(S)[first] for S in of_loss.outputs[1:]]
        if not scores:
            return
        if not self._counts:
            wide = [S.new_zeros(S.shape[1], dtype=torch.long) for S in scores]
            self._counts, self._labels = wide, torch.zeros_like(wide[0])
        for counts, S in zip(self._counts, scores, strict=True):
            counts += monitors.count_largest(S)
        labels = of_loss.labels
        if labels is not None:
            assert self._labels is not None
            self._labels.index_add_(0, labels, torch.ones_like(labels))
        self._rows += scores[0].shape[0]

    def measure(self, view: TaskView) -> dict[str, float]:
        """The figures of the step that is running, the same on every rank."""
        with torch.no_grad(), torch.autocast(view.device.type, enabled=False):
            return self._measure(view)

    def _measure(self, view: TaskView) -> dict[str, float]:
        ranks, of_loss = collective(), LossView(view)
        layout = of_loss.layout
        first = layout.crops_for_assign[0]
        Z = layout.split(of_loss.outputs[0])[first].float()
        sums = [monitors.sums_of_features(Z)]
        codes = of_loss.codes(ranks)
        if codes is not None:
            sums.append(monitors.sums_of_codes(codes))
        counts = [*self._counts, self._labels]
        sums += [c.double() for c in counts if c is not None]
        sizes = [len(part) for part in sums]
        parts = list(torch.split(ranks.all_reduce_sum(torch.cat(sums)), sizes))
        worst = ranks.all_reduce_max(monitors.norm_error(of_loss.outputs[0]))
        spreads = [monitors.prototype_spread(C) for C in view.prototypes()]
        found: dict[str, Any] = {
            "feature_spread": monitors.feature_spread(parts.pop(0)),
            "norm_error": worst,
        }
        if spreads:
            found["prototype_spread"] = torch.stack(spreads).min()
        if codes is not None:
            entropy, of_mean = monitors.code_entropies(parts.pop(0))
            found |= {"code_entropy": entropy, "mean_code_entropy": of_mean}
        found |= self._queue(of_loss)
        of_labels = parts.pop() if self._labels is not None else None
        figures = _as_floats(found)
        self._close_window(parts, of_labels, of_loss)
        return {**figures, **self._window}

    def _close_window(
        self, counts: list[Tensor], labels: Tensor | None, of_loss: LossView
    ) -> None:
        """A window ends when it has seen enough rows; until then the last one holds."""
        K = max((len(c) for c in counts), default=0)
        if not K or self._rows * collective().world_size < _ROWS_PER_PROTOTYPE * K:
            return
        used = sum((c > 0).sum() for c in counts)
        self._window = {"prototypes_used": float(used)}
        if labels is not None and of_loss.labels is not None:
            share = labels / labels.sum().clamp_min(1)
            entropy = torch.special.entr(share).sum()
            self._window["label_entropy"] = float(entropy)
        self._counts, self._labels, self._rows = [], None, 0

    @staticmethod
    def _queue(of_loss: LossView) -> dict[str, Any]:
        queue = of_loss.queue
        if queue is None or not of_loss.queue_in_use:
            return {}
        Z = of_loss.code_features.float()
        found: dict[str, Any] = {"queue_age": queue.length / len(Z)}
        rows = min(len(Z), (queue.length - len(Z)) // 2)
        if rows > 0:
            drift = monitors.queue_drift(
                queue.features[0], queue.next_row, Z, rows=rows
            )
            found["queue_drift"] = collective().all_reduce_sum(drift)
            found["queue_drift"] = found["queue_drift"] / collective().world_size
        return found


def _as_floats(found: dict[str, Any]) -> dict[str, float]:
    """All at once: one wait for the device."""
    names = [name for name, value in found.items() if isinstance(value, Tensor)]
    values = torch.stack([found[name].double() for name in names]).tolist()
    return {**found, **dict(zip(names, values, strict=True))}
