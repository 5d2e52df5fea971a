"""SimCLR's contrastive loss with any number of crops (SwAV, eq. 7, appendix A.8).

    loss = mean over anchors i, positives p of i, of
           - log( exp(s_ip) / (exp(s_ip) + sum over negatives j of exp(s_ij)) )

`Z (V * B, D)` unit features in crop-major order, `s_ij = z_i . z_j / tau`, `B` images,
`V` crops of an image (the paper's M), `N = V * B` rows over all processes. Positives
of row i are the other `V - 1` crops of its image; negatives all crops of all *other*
images, of every process.

Each positive stands alone against the negatives. With n_i = log sum over negatives of
exp(s_ij), the pair's term is log(1 + exp(n_i - s_ip)), and its gradient needs of other
rows' sums nothing but `r_j = log a_j - n_j`, a number a row, a_j the sum over row j's
positives of sigmoid(n_j - s_jp): a negative pair is pushed by exp(s_ij + r_i) as
anchor, and by exp(s_ij + r_j) as other. So a process forms the whole gradient of its
own rows, through the features that it gathered too, and nothing of size N x D is
reduced.

Limits: equal features give ln(1 + N - V), where nothing is learned; positives together
and far from all negatives give 0, also as tau goes to 0. A lone image has no negative:
its loss is 0, and so is its gradient. Two crops give SimCLR's NT-Xent.

False friends: Khosla's supervised contrast, whose denominator holds the other positives
too, and its form with one log over the *sum* of the positives, which is content with
one near positive: both are NT-Xent for two crops alone. VISSL's
`multicrop_simclr_info_nce_loss` is this loss on one process; on several it sees no
negative of another one.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid

from vissl_swav.core.collective import LOCAL, Collective
from vissl_swav.core.crops import CropLayout
from vissl_swav.core.gathered_rows import GatheredRows
from vissl_swav.core.precision import check_floating, exact
from vissl_swav.core.setting_checks import (
    SettingError,
    check_positive,
    check_whole,
)
from vissl_swav.core.swapped_prediction import TEMPERATURE

MAX_SIMILARITIES = 2**24
"""Entries of s held at a time: 64 MiB in float32, and as much again to work with."""


@dataclass(frozen=True)
class SimCLRMultiCrop:
    """The loss with its settings; it has no state.

    Attributes:
        num_crops: V, two or more.
        temperature: tau > 0.
        max_similarities: see `simclr_multicrop_loss`.

    Raises:
        SettingError: a setting that it cannot have.
    """

    num_crops: int
    temperature: float = TEMPERATURE
    max_similarities: int = MAX_SIMILARITIES

    def __post_init__(self) -> None:
        if self.layout.num_crops < 2:
            raise SettingError(
                f"num_crops is {self.num_crops}; a positive pair needs two crops.",
                "num_crops",
            )
        check_positive("temperature", self.temperature, paper=TEMPERATURE)
        usual = f"by default {MAX_SIMILARITIES}"
        check_whole("max_similarities", self.max_similarities, least=1, usual=usual)

    @property
    def layout(self) -> CropLayout:
        """How the crops lie in the features."""
        return CropLayout(self.num_crops, (0,))

    def __call__(self, features: Tensor, *, collective: Collective = LOCAL) -> Tensor:
        """The loss of one step, a scalar."""
        return simclr_multicrop_loss(
            features,
            num_crops=self.num_crops,
            temperature=self.temperature,
            max_similarities=self.max_similarities,
            collective=collective,
        )


def simclr_multicrop_loss(
    features: Tensor,
    *,
    num_crops: int,
    temperature: float = TEMPERATURE,
    max_similarities: int = MAX_SIMILARITIES,
    collective: Collective = LOCAL,
) -> Tensor:
    """The loss of one step, a scalar (eq. 7).

    Over several processes the mean of the returned values, and the mean of the
    gradients that DDP forms, are those of one process holding all images, also where
    processes hold different numbers of them.

    Args:
        features: Z (V * B, D) in crop-major order, rows of unit length.
        num_crops: V, two or more.
        temperature: tau > 0.
        max_similarities: entries of s held at a time, twice over, 4 bytes each (8 in
            float64). Own rows are taken in chunks of max_similarities / N, one row at
            least. One chunk is fastest: with more, s is computed twice.
        collective: the processes that share the batch. Several exchange their numbers
            of images first, for which a step waits.

    Returns:
        The loss, float32 (float64 for float64 features); differentiable once.

    Raises:
        ValueError: shapes or settings that do not fit each other.
    """
    of = SimCLRMultiCrop(num_crops, temperature, max_similarities)
    check_floating("features", features)
    if features.ndim != 2:
        raise ValueError(
            f"features have shape {tuple(features.shape)}; wanted (V * B, D): all "
            "images of crop 0, then all of crop 1, ..."
        )
    # Also where autocast is on: exponentials of halves are no loss.
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        loss, gradient = _loss_and_gradient(features, of, collective)
    known_gradient: Any = _KnownGradient.apply  # pyright: ignore
    return known_gradient(features, loss, gradient)


def _loss_and_gradient(
    features: Tensor, of: SimCLRMultiCrop, collective: Collective
) -> tuple[Tensor, Tensor]:
    """What this process returns, and its gradient, empty where it is not asked for."""
    V, B = of.num_crops, of.layout.num_samples(features)
    everyone = GatheredRows.of(V * B, features.device, collective)
    own = _OwnRows(exact(everyone.rows(features)), own=everyone.own, of=of)
    # Local sum * world / total: processes with fewer images weigh less in DDP's mean.
    scale = collective.world_size / max(everyone.total * (V - 1), 1)
    n, positives = own.look()
    margins = (n[:, None] - positives).masked_fill(own.itself, -torch.inf)
    # Not softplus, which rounds above 20.
    loss = -logsigmoid(-margins).sum() * scale
    attraction = torch.sigmoid(margins)
    # Where nothing is negative, n is -inf and pushes no one.
    repulsion = (attraction.sum(dim=1).log() - n).masked_fill(n.isneginf(), -torch.inf)
    # A pair of an image acts on both its rows: (v, b, w) and (w, b, v).
    by_image = attraction.view(V, B, V)
    attraction = (by_image + by_image.transpose(0, 2)).flatten(0, 1)
    repulsion_of_all = everyone.rows(repulsion)
    if not features.requires_grad:
        return loss, repulsion.new_empty(0)
    gradient = own.gradient(repulsion, repulsion_of_all, attraction)
    return loss, gradient * (scale / of.temperature)


class _OwnRows:
    """This process's rows `own` against all rows Z (N, D), chunk by chunk."""

    def __init__(self, Z: Tensor, *, own: slice, of: SimCLRMultiCrop):
        self._Z, self._own = Z, Z[own]
        self._temperature = of.temperature
        V, B = of.num_crops, len(self._own) // of.num_crops
        crops = torch.arange(V, device=Z.device)
        images = torch.arange(B, device=Z.device)
        # (V * B, V): where the crops of a row's image stand in Z, and which is the row.
        self._same = own.start + (crops * B)[None, :] + images.repeat(V)[:, None]
        self.itself = crops.repeat_interleave(B)[:, None] == crops[None, :]
        step = max(1, of.max_similarities // max(len(Z), 1))
        self._chunks = [slice(at, at + step) for at in range(0, V * B, step)]
        self._kept: Tensor | None = None

    def look(self) -> tuple[Tensor, Tensor]:
        """The sums n (V * B,), and s of the crops of the same image (V * B, V)."""
        sums = [self._Z.new_empty(0)]
        positives = [self._Z.new_empty(0, self._same.shape[1])]
        for rows in self._chunks:
            n, of_image = self._look(rows)
            sums.append(n)
            positives.append(of_image)
        return torch.cat(sums), torch.cat(positives)

    def gradient(
        self, repulsion: Tensor, repulsion_of_all: Tensor, attraction: Tensor
    ) -> Tensor:
        """Of the sum of all pairs of all processes, in the own rows, times tau."""
        gradient = torch.empty_like(self._own)
        for rows in self._chunks:
            slopes = self._slopes(rows, repulsion[rows, None], repulsion_of_all)
            slopes.scatter_(1, self._same[rows], -attraction[rows])
            gradient[rows] = slopes @ self._Z
            del slopes  # Before the next chunk is made.
        return gradient

    def _look(self, rows: slice) -> tuple[Tensor, Tensor]:
        """The same of a chunk; leaves -inf at crops of the same image, if s is kept."""
        s = self._similarities(rows)
        of_image = s.gather(1, self._same[rows])
        s.scatter_(1, self._same[rows], -torch.inf)
        return _log_sum_exp(s), of_image

    def _slopes(self, rows: slice, as_anchor: Tensor, as_other: Tensor) -> Tensor:
        """exp(s + r_i) + exp(s + r_j), in the place of s."""
        s = self._similarities(rows)
        others = (s + as_other).exp_()
        return s.add_(as_anchor).exp_().add_(others)

    def _similarities(self, rows: slice) -> Tensor:
        """Of some rows (R, N); where these are all, kept for the second time."""
        if self._kept is not None:
            return self._kept
        s = (self._own[rows] / self._temperature) @ self._Z.t()
        if len(self._chunks) == 1:
            self._kept = s
        return s


def _log_sum_exp(s: Tensor) -> Tensor:
    """Row by row, with one tensor of the size of s beside it where torch's takes two.

    -inf for rows of nothing else.
    """
    largest = s.amax(dim=1).clamp_min(torch.finfo(s.dtype).min)
    return (s - largest[:, None]).exp_().sum(dim=1).log() + largest


class _KnownGradient(torch.autograd.Function):
    """A loss whose gradient was formed with it."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, features: Tensor, loss: Tensor, gradient: Tensor
    ) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = features.dtype
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # Scaled before it is cast: what a loss scale is for.
        return (gradient * grad_outputs[0]).to(ctx.dtype), None, None
