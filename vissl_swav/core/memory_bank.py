"""The memory bank: the last feature of every image, sharded over processes.

DeepCluster-v2 and SeLa-v2 (SwAV, appendix D.2) assign the features that the training
steps of the epoch before have computed. A process keeps the images that it saw; a
sampler that shuffles over all processes moves them, so once an epoch `settle` gives
each image to the process that saw it last, and the others free their rows.

`M` banks (one per bank crop), `n` rows of this process, `D` dimension, `N` images of
the data set, `B` samples of a batch. Rows 0..n-1 are in use.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vissl_swav.core.collective import LOCAL, Collective
from vissl_swav.core.outside_graphs import outside_graphs
from vissl_swav.core.precision import check_stored
from vissl_swav.core.setting_checks import check_whole

# Room is made in steps of this share of the rows, so that few steps copy the bank.
_GROWTH = 1.25


class MemoryBank(nn.Module):
    """Unit features by sample index.

    All state is in buffers: `features (M, rows, D)`, `index (rows,)` the image of each
    row, `stamp (rows,)` the write that filled it, `num_rows` n and `num_writes`. Do not
    place it inside a module that DDP wraps: every process must keep its own rows.

    A batch may name an image twice (a sampler that pads): its last sample stays. An
    image that is not seen keeps its row.

    Args:
        num_images: N, images of the whole data set.
        num_banks: M.
        dim: D.
        dtype: of the stored features, float32, float64 or a half type.
    """

    features: Tensor
    index: Tensor
    stamp: Tensor
    num_rows: Tensor
    num_writes: Tensor
    _row_of: Tensor

    def __init__(
        self,
        *,
        num_images: int,
        num_banks: int,
        dim: int,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        for name, value in (
            ("num_images", num_images),
            ("num_banks", num_banks),
            ("dim", dim),
        ):
            check_whole(name, value, least=1)
        check_stored(dtype)
        self.num_images = num_images
        self.register_buffer("features", torch.zeros(num_banks, 0, dim, dtype=dtype))
        self.register_buffer("index", torch.zeros(0, dtype=torch.long))
        self.register_buffer("stamp", torch.zeros(0, dtype=torch.long))
        self.register_buffer("num_rows", torch.zeros((), dtype=torch.long))
        self.register_buffer("num_writes", torch.zeros((), dtype=torch.long))
        # The row of each image or -1; follows from `index`.
        none = torch.full((num_images,), -1, dtype=torch.int32)
        self.register_buffer("_row_of", none, persistent=False)

    @property
    def num_banks(self) -> int:
        """M."""
        return self.features.shape[0]

    def __len__(self) -> int:
        """n, the rows of this process."""
        return int(self.num_rows)

    def rows(self, bank: int) -> Tensor:
        """The features in use of one bank: a view (n, D)."""
        return self.features[bank, : len(self)]

    def images(self) -> Tensor:
        """The image of each row in use: a view (n,), int64."""
        return self.index[: len(self)]

    @outside_graphs
    @torch.no_grad()
    def write(
        self, features: Tensor, index: Tensor, valid: Tensor | None = None
    ) -> None:
        """Stores a batch; every process writes equally often.

        Args:
            features: (M, B, D).
            index: (B,) int64, the image of each sample, in [0, N).
            valid: (B,) bool; samples that are not (an image that could not be read)
                leave the bank as it is.

        Raises:
            ValueError: shapes that do not fit, or an index out of range.
        """
        self._check(features, index)
        keep = _is_last_of_its_image(index, valid)
        index, features = index[keep], features[:, keep]
        rows = self._row_of[index].long()
        new = rows < 0
        first = len(self)
        end = first + int(new.sum())
        rows[new] = torch.arange(first, end, device=rows.device)
        self._make_room(end)
        self.features[:, rows] = features.to(self.features)
        self.index[rows] = index
        self.stamp[rows] = self.num_writes
        self._row_of[index] = rows.int()
        self.num_rows.fill_(end)
        self.num_writes += 1

    @outside_graphs
    @torch.no_grad()
    def settle(self, collective: Collective = LOCAL) -> None:
        """Gives each image to the process that saw it last; the others free its row.

        Of several processes that saw it in the same step the last one keeps it. One
        reduction of N numbers; call it once an epoch, on every process.
        """
        images, claims = self.images(), self.stamp[: len(self)] * collective.world_size
        of_all = self._row_of.new_full((self.num_images,), -1, dtype=torch.long)
        of_all[images] = claims + collective.rank
        winners = collective.all_reduce_max(of_all)[images]
        lost = winners != claims + collective.rank
        num_kept = len(self) - int(lost.sum())
        self._row_of[images[lost]] = -1
        # The last rows that stay move into the gaps: few copies, no gap left.
        gaps = lost[:num_kept].nonzero().flatten()
        movers = num_kept + (~lost[num_kept:]).nonzero().flatten()
        self.features[:, gaps] = self.features[:, movers]
        self.index[gaps] = self.index[movers]
        self.stamp[gaps] = self.stamp[movers]
        self._row_of[self.index[gaps]] = gaps.int()
        self.num_rows.fill_(num_kept)

    def in_use(self) -> dict[str, Tensor]:
        """The state dict without the room that is not in use; views, not copies."""
        state: dict[str, Tensor] = self.state_dict()
        for name, axis in (("features", 1), ("index", 0), ("stamp", 0)):
            state[name] = state[name].narrow(axis, 0, len(self))
        return state

    def _make_room(self, num_rows: int) -> None:
        """At least `num_rows` rows of memory."""
        have = self.features.shape[1]
        if num_rows <= have:
            return
        more = min(max(num_rows, int(have * _GROWTH)), self.num_images) - have
        num_banks, _, dim = self.features.shape
        grown = self.features.new_zeros(num_banks, have + more, dim)
        grown[:, :have] = self.features
        self.features = grown
        self.index = torch.cat([self.index, self.index.new_zeros(more)])
        self.stamp = torch.cat([self.stamp, self.stamp.new_zeros(more)])

    def _check(self, features: Tensor, index: Tensor) -> None:
        num_banks, _, dim = self.features.shape
        wanted = (num_banks, index.numel(), dim)
        if index.ndim != 1 or tuple(features.shape) != wanted:
            raise ValueError(
                f"features have shape {tuple(features.shape)} and index "
                f"{tuple(index.shape)}; wanted ({num_banks}, B, {dim}) and (B,): "
                "banks, samples, dimension."
            )
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < (
            self.num_images
        ):
            raise ValueError(
                f"index lies in [{int(index.min())}, {int(index.max())}]; wanted image "
                f"numbers in [0, {self.num_images}) (num_images)."
            )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:  # pyright: ignore
        """The number of rows is the state's; everything else must fit."""
        for name, axis in (("features", 1), ("index", 0), ("stamp", 0)):
            saved, own = state_dict.get(prefix + name), getattr(self, name)
            if saved is not None and saved.ndim == own.ndim:
                shape = list(own.shape)
                shape[axis] = saved.shape[axis]
                setattr(self, name, own.new_zeros(shape))
        super()._load_from_state_dict(state_dict, prefix, *args)  # pyright: ignore
        images = self.images()
        if images.numel() and int(images.max()) >= self.num_images:
            args[-1].append(
                f"num_images is {self.num_images}, but the state has image "
                f"{int(images.max())}; load it with the data set that it was made of."
            )
            return
        rows = torch.arange(images.numel(), dtype=torch.int32, device=images.device)
        self._row_of.fill_(-1)
        self._row_of[images] = rows


def _is_last_of_its_image(index: Tensor, valid: Tensor | None) -> Tensor:
    """Which samples are the last (valid) ones of their image: (B,) -> (B,) bool."""
    key = index if valid is None else torch.where(valid.bool(), index, -1)
    ordered, order = key.sort(stable=True)
    is_last = torch.ones_like(ordered, dtype=torch.bool)
    is_last[:-1] = ordered[1:] != ordered[:-1]
    return torch.zeros_like(is_last).scatter_(0, order, is_last & (ordered >= 0))
