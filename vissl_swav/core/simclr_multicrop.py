"""SimCLR's contrastive loss with any number of crops (SwAV, eq. 7, appendix A.8).

    loss = mean over anchors i, positives p of i, of
           - log( exp(s_ip) / (exp(s_ip) + sum over negatives j of exp(s_ij)) )

`Z (V * B, D)` unit features in crop-major order, `s_ij = z_i . z_j / tau`, `B` images,
`V` crops of an image (the paper's M), `N = V * B` rows over all processes. Positives
of row i are the other `V - 1` crops of its image; negatives all crops of all *other*
images, of every process.

Each positive stands alone against the negatives. With n_i = log sum over negatives of
exp(s_ij), the pair's term is softplus(n_i - s_ip), and its gradient needs of other
rows' sums nothing but `r_j = log a_j - n_j`, a number a row, a_j the sum over row j's
positives of sigmoid(n_j - s_jp): a negative pair is pulled by exp(s_ij + r_i) as
anchor, and by exp(s_ij + r_j) as other. So a process forms the whole gradient of its
own rows, through the features that it gathered too, and nothing of size N x D is
reduced.

Limits: equal features give ln(1 + N - V), where nothing is learned; positives together
and far from all negatives give 0, also as tau goes to 0. A lone image has no negative:
its loss is 0, and so is its gradient. Two crops are not quite NT-Xent: its one
positive is in the denominator here as there, and its negatives are the same.

False friends: one log over the *sum* of the positives (VISSL's
`multicrop_simclr_info_nce_loss`), which is content with one near positive; and
Khosla's, whose denominator holds the other positives too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from vissl_swav.core.collective import LOCAL, Collective
from vissl_swav.core.crops import CropLayout
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
        ValueError: a setting that it cannot have.
    """

    num_crops: int
    temperature: float = TEMPERATURE
    max_similarities: int = MAX_SIMILARITIES

    def __post_init__(self) -> None:
        if self.num_crops < 2:
            raise ValueError(
                f"num_crops is {self.num_crops}; a positive pair needs two crops."
            )
        if not self.temperature > 0:
            raise ValueError(
                f"temperature is {self.temperature}; wanted > 0 (the paper: "
                f"{TEMPERATURE})."
            )
        if self.max_similarities < 1:
            raise ValueError(
                f"max_similarities is {self.max_similarities}; wanted >= 1 (by default "
                f"{MAX_SIMILARITIES})."
            )

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
            least. All own rows in one chunk are fastest: with more, s is computed twice.
        collective: the processes that share the batch. Several exchange their numbers
            of images first, for which a step waits.

    Returns:
        The loss, float32 (float64 for float64 features); differentiable once.

    Raises:
        ValueError: shapes or settings that do not fit each other.
    """
    of = SimCLRMultiCrop(num_crops, temperature, max_similarities)
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
    everyone = _Everyone.of(V * B, features.device, collective)
    exact = features.dtype == torch.float64
    own = _OwnRows(
        everyone.rows(features).to(torch.float64 if exact else torch.float32),
        own=everyone.own,
        of=of,
    )
    # Local sum * world / total: processes with fewer images weigh less in DDP's mean.
    scale = collective.world_size / max(everyone.total * (V - 1), 1)
    n, positives = own.look()
    margins = (n[:, None] - positives).masked_fill(own.itself, -torch.inf)
    loss = softplus(margins).sum() * scale
    push = torch.sigmoid(margins)
    # Where nothing is negative, n is -inf and pushes no one.
    pull = (push.sum(dim=1).log() - n).masked_fill(n.isneginf(), -torch.inf)
    # A pair of an image acts on both its rows: (v, b, w) and (w, b, v).
    push = push + push.view(V, B, V).transpose(0, 2).reshape(push.shape)
    pull_of_all = everyone.rows(pull)
    if not features.requires_grad:
        return loss, pull.new_empty(0)
    gradient = own.gradient(pull, pull_of_all, push)
    return loss, gradient * (scale / of.temperature)


class _Everyone:
    """The rows of all processes, in rank order, and where one's own stand."""

    def __init__(self, lengths: list[int], collective: Collective):
        self._lengths, self._collective = lengths, collective
        first = sum(lengths[: collective.rank])
        self.own = slice(first, first + lengths[collective.rank])
        self.total = sum(lengths)

    @classmethod
    def of(
        cls, length: int, device: torch.device, collective: Collective
    ) -> "_Everyone":
        """Asks the others how many rows they have."""
        if collective.world_size == 1:
            return cls([length], collective)
        lengths = collective.all_gather(torch.tensor([length], device=device))
        return cls(lengths.flatten().tolist(), collective)  # pyright: ignore

    def rows(self, own: Tensor) -> Tensor:
        """(V * B, ...) of this process -> (N, ...): padded, gathered, cut."""
        longest = max(self._lengths)
        if len(own) < longest:
            own = torch.cat([own, own.new_zeros(longest - len(own), *own.shape[1:])])
        gathered = self._collective.all_gather(own)
        if min(self._lengths) == longest:
            return gathered.flatten(0, 1)
        parts = zip(gathered, self._lengths, strict=True)
        return torch.cat([part[:length] for part, length in parts])


class _OwnRows:
    """This process's rows `own` against all rows Z (N, D), chunk by chunk."""

    def __init__(self, Z: Tensor, *, own: slice, of: SimCLRMultiCrop):
        self._Z, self._own = Z, Z[own]
        self._temperature = of.temperature
        self._step = max(1, of.max_similarities // max(len(Z), 1))
        V, B = of.num_crops, len(self._own) // of.num_crops
        crops, images = torch.arange(V, device=Z.device), torch.arange(B, device=Z.device)
        # (V * B, V): where the crops of a row's image stand in Z, and which is the row.
        self._same = own.start + (crops * B)[None, :] + images.repeat(V)[:, None]
        self.itself = crops.repeat_interleave(B)[:, None] == crops[None, :]
        self._kept: tuple[slice, Tensor] | None = None

    def look(self) -> tuple[Tensor, Tensor]:
        """n (V * B,), and s of the crops of the same image (V * B, V)."""
        sums = [self._Z.new_empty(0)]
        positives = [self._Z.new_empty(0, self._same.shape[1])]
        for rows, s in self._chunks():
            positives.append(s.gather(1, self._same[rows]))
            s.scatter_(1, self._same[rows], -torch.inf)
            sums.append(torch.logsumexp(s, dim=1))
        return torch.cat(sums), torch.cat(positives)

    def gradient(self, pull: Tensor, pull_of_all: Tensor, push: Tensor) -> Tensor:
        """Of the sum of all pairs of all processes, in the own rows, times tau."""
        gradient = torch.empty_like(self._own)
        for rows, s in self._chunks():
            as_other = (s + pull_of_all).exp_()
            slopes = s.add_(pull[rows, None]).exp_().add_(as_other)
            slopes.scatter_(1, self._same[rows], -push[rows])
            gradient[rows] = slopes @ self._Z
        return gradient

    def _chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Some rows, and their s (R, N); a single chunk is kept for the second time."""
        if self._kept is not None:
            yield self._kept
            return
        for start in range(0, len(self._own), self._step):
            rows = slice(start, start + self._step)
            chunk = rows, (self._own[rows] / self._temperature) @ self._Z.t()
            if self._step >= len(self._own):
                self._kept = chunk
            yield chunk


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
