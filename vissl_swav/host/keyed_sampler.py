"""The order of the images: global shuffle, a known position, a key for every image.

A step's images are the same set for any number of ranks with the same global batch, and
an image's key, which stands for all chance in its augmentation, is the same for any
number of ranks and workers. Nothing but (seed, epoch, position) is state.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

from vissl_swav.core.hashing import sample_keys

# Entries turned into Python numbers at a time, so that an epoch is no list of objects.
_CHUNK = 4096


class KeyedIndex(NamedTuple):
    """What the sampler hands to the data set in place of a number."""

    index: int
    key: int


class KeyedSampler(Sampler[KeyedIndex]):
    """This rank's images of an epoch, with their keys.

    The attributes that the host prints and sets carry its names.

    Args:
        num_images: N, of the data set.
        batch_size: images in a step of this rank.
        seed: the run's; equal on all ranks.
        rank: of this process.
        num_replicas: number of processes, W.
        drop_last: leave out the N mod W images that do not deal out evenly, other ones
            in each epoch; else the first ones come twice, so that all ranks have
            ceil(N / W).
    """

    def __init__(
        self,
        num_images: int,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        num_replicas: int = 1,
        drop_last: bool = False,
    ):
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.num_replicas = num_replicas
        uneven = 0 if drop_last else num_replicas - 1
        self.num_samples = (num_images + uneven) // num_replicas
        self.total_size = self.num_samples * num_replicas
        self.shuffle = True
        self.epoch = 0
        self.start_iter = 0

    def __len__(self) -> int:
        """This rank's images in a whole epoch, wherever it starts."""
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration gives; the host counts test phases too."""
        self.epoch = epoch

    def set_train_phase_idx(self, train_phase_idx: int) -> None:
        """The epoch, counted in training phases; the host says it after `set_epoch`."""
        self.epoch = max(train_phase_idx, 0)

    def set_start_iter(self, start_iter: int) -> None:
        """Steps of the epoch that are done: the next iteration leaves them out."""
        self.start_iter = start_iter

    def order(self) -> tuple[Tensor, Tensor]:
        """Indices and keys that are left of the epoch on this rank: (n,), (n,)."""
        generator = torch.Generator()
        # A key of no image: shuffling and augmentation are independent.
        key = sample_keys(torch.tensor([-1]), seed=self.seed, epoch=self.epoch)
        generator.manual_seed(int(key))
        shuffled = torch.randperm(self.num_images, generator=generator)
        repeats = -(-self.total_size // self.num_images)
        whole = shuffled.repeat(repeats)[: self.total_size]
        mine = whole[self.rank :: self.num_replicas]
        mine = mine[self.start_iter * self.batch_size :]
        return mine, sample_keys(mine, seed=self.seed, epoch=self.epoch)

    def __iter__(self) -> Iterator[KeyedIndex]:
        """`order`, one by one."""
        indices, keys = self.order()
        for start in range(0, len(indices), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            pairs = zip(indices[chunk].tolist(), keys[chunk].tolist(), strict=True)
            yield from map(KeyedIndex._make, pairs)
