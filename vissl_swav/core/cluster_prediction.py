"""Cluster prediction: the loss of DeepCluster-v2 and SeLa-v2 (SwAV, eq. 8).

    loss = mean over heads h, crops v, labelled samples b of
           - sum_l w[h, b, l] log softmax_k(S_hv[b, :] / tau)[y[h, b, l]]

`S_h (V * B, K_h)` scores of head h in crop-major order, `y (H, B, L)` labels that were
found before the epoch, `w` their weights, `V` crops, `B` samples, `tau` temperature. A
hard label has L = 1 and w = 1. All crops of an image predict its label.

A sample without a label (w = 0) adds nothing to the sum and is not counted; if no
sample has one the loss is 0, and so is the gradient.

Not to be confused with the swapped prediction, whose codes come from the batch itself.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vissl_swav.core.collective import LOCAL, Collective
from vissl_swav.core.crops import CropLayout
from vissl_swav.core.precision import check_floating, exact_dtype
from vissl_swav.core.setting_checks import check_positive
from vissl_swav.core.swapped_prediction import TEMPERATURE


def cluster_prediction_loss(
    scores: Tensor | Sequence[Tensor],
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    num_crops: int,
    temperature: float = TEMPERATURE,
    collective: Collective = LOCAL,
) -> Tensor:
    """The loss of one step, a scalar.

    Over several processes the mean of the returned values, and the mean of the
    gradients that DDP forms, are those of one process holding all samples, also where
    processes hold different numbers of (labelled) samples.

    Args:
        scores: S (V * B, K), or one such tensor per head.
        labels: (H, B) or (H, B, L) int64; a negative label means none, and none may
            be K or more (looked at on the CPU alone, as the weights' signs are: on a
            device a step would wait for the answer).
        weights: the shape of `labels`, >= 0, 0 for no label; they get no gradient. All
            1 if None (L = 1 only).
        num_crops: V, 1 or more.
        temperature: tau > 0.
        collective: the processes that share the batch.

    Returns:
        The loss, float32 (float64 for float64 scores).

    Raises:
        ValueError: shapes, types or settings that do not fit each other.
    """
    heads = [scores] if isinstance(scores, Tensor) else list(scores)
    labels, weights = _by_label(labels, weights)
    _check(heads, labels, weights, num_crops, temperature)
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_values(heads, labels, weights)
    weights = weights.detach().to(exact_dtype(heads[0].dtype))
    weights = weights.masked_fill(labels < 0, 0)
    labels = labels.clamp_min(0)
    # Labelled samples of each head over all processes.
    counts = collective.all_reduce_sum((weights.sum(dim=2) > 0).sum(dim=1))
    losses: list[Tensor] = []
    with torch.autocast(heads[0].device.type, enabled=False):
        for S, y, w, count in zip(heads, labels, weights, counts, strict=True):
            logits = S.to(w.dtype) / temperature
            log_p = torch.log_softmax(logits, dim=1)
            matched = log_p.gather(1, y.repeat(num_crops, 1))
            total = (matched * w.repeat(num_crops, 1)).sum()
            losses.append(-total / (num_crops * count.clamp_min(1)))
        return torch.stack(losses).mean() * collective.world_size


def _by_label(labels: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """(H, B, L) both."""
    if weights is None:
        if labels.ndim == 3 and labels.shape[2] > 1:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)} and there are no weights; "
                "several labels of a sample need the weight of each."
            )
        weights = torch.ones_like(labels, dtype=torch.float32)
    if labels.ndim == 2:
        labels = labels.unsqueeze(2)
    if weights.ndim == 2:
        weights = weights.unsqueeze(2)
    return labels, weights


def _check(
    heads: list[Tensor],
    labels: Tensor,
    weights: Tensor,
    num_crops: int,
    temperature: float,
) -> None:
    check_positive("temperature", temperature, paper=TEMPERATURE)
    if not heads or any(S.ndim != 2 for S in heads):
        raise ValueError(
            f"scores have shapes {[tuple(S.shape) for S in heads]}; wanted (V * B, K) "
            "for every head."
        )
    for S in heads:
        check_floating("scores", S)
    if labels.dtype != torch.int64:
        raise ValueError(f"labels are {labels.dtype}; wanted torch.int64.")
    num_samples = CropLayout(num_crops, (0,)).num_samples(heads[0])
    same_rows = len({S.shape[0] for S in heads}) == 1
    if (
        labels.ndim != 3
        or not same_rows
        or labels.shape != weights.shape
        or labels.shape[:2] != (len(heads), num_samples)
    ):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, weights {tuple(weights.shape)} "
            f"and scores {[tuple(S.shape) for S in heads]}; wanted ({len(heads)}, "
            f"{num_samples}, L): heads, samples, labels a sample."
        )


def _check_values(heads: list[Tensor], labels: Tensor, weights: Tensor) -> None:
    """What looks at numbers, so only where nothing waits for them."""
    for head, (S, y) in enumerate(zip(heads, labels, strict=True)):
        if y.numel() and int(y.max()) >= S.shape[1]:
            raise ValueError(
                f"labels of head {head} reach {int(y.max())}; wanted below the number "
                f"of its prototypes, {S.shape[1]}."
            )
    if not bool((weights >= 0).all()):
        raise ValueError(
            f"weights reach {float(weights.min())}; wanted >= 0, and 0 for no label."
        )
