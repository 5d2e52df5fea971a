"""A look into a few of many shards: some images of each, and how many there may be.

For sets whose headers take too long to scan. A shard is read from its front, as far as
its images are wanted, so that compressed ones cost no more.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass

import numpy as np

from vissl_swav.data.check import check_images
from vissl_swav.data.errors import DataError
from vissl_swav.data.findings import sample_indices
from vissl_swav.data.folders import AnyPath
from vissl_swav.data.image_list import ImageList
from vissl_swav.data.shard_reading import BrokenShard, Member, images_of, list_shards

# Header and rounding of a member in a tar.
_BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class ShardSample:
    """What a look into some shards has found.

    Attributes:
        num_shards: in all.
        num_bytes: of all shards.
        looked_at: shards that were opened.
        broken: (shard, reason) of those that could not be read as far as wanted.
        images: some of their images, in memory.
        about: images of all shards, by the size of these; None without any.
    """

    num_shards: int
    num_bytes: int
    looked_at: int
    broken: list[tuple[str, str]]
    images: ImageList
    about: int | None


class MemoryStore:
    """Images in memory, with their names."""

    def __init__(self, images: list[tuple[str, bytes]]):
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        """Shard and member."""
        return self._images[index][0]

    def read(self, index: int) -> bytes:
        """The member's bytes."""
        return self._images[index][1]


def sample_shards(
    path: AnyPath, *, num_shards: int, num_images: int, seed: int = 0
) -> ShardSample:
    """Opens some shards and reads the first images of each.

    Args:
        path: of the shards (`shard_reading.list_shards`).
        num_shards: to open, chosen at random.
        num_images: over all of them; fewer where they hold fewer.
        seed: of that choice.

    Raises:
        DataError: there are no shards.
    """
    shards = list_shards(path)
    chosen = sample_indices(len(shards), num_shards, seed)
    each = -(-num_images // len(chosen))
    broken: list[tuple[str, str]] = []
    images: list[tuple[str, bytes]] = []
    for shard in (shards[index] for index in chosen):
        try:
            for member in itertools.islice(images_of(shard, lambda n: True), each):
                images.append((f"{shard}/{member.name}", _bytes(member)))
        except BrokenShard as error:
            broken.append((shard, f"after {error.num_images} images: {error.reason}"))
    # What is gone counts nothing; whoever reads the shard names it.
    total = sum(os.path.getsize(shard) for shard in shards if os.path.exists(shard))
    mean = np.mean([_in_a_tar(len(data)) for _, data in images]) if images else None
    return ShardSample(
        num_shards=len(shards),
        num_bytes=total,
        looked_at=len(chosen),
        broken=broken,
        images=ImageList(MemoryStore(images)),
        about=None if mean is None else round(total / float(mean)),
    )


def look_into_shards(path: AnyPath, *, num_shards: int, num_images: int) -> None:
    """Some images of some shards can be read; the others may break at any time.

    Raises:
        DataError: there are no shards, or nothing in those few can be read.
    """
    sample = sample_shards(path, num_shards=num_shards, num_images=num_images)
    faults = [f"{shard}: {reason}" for shard, reason in sample.broken]
    if len(sample.images):
        report = check_images(sample.images, num_decoded=num_images)
        if len(report.unreadable) < report.num_decoded:
            return
        faults += [f"{name}: {reason}" for name, reason in report.unreadable]
    first = faults[0] if faults else "they hold no images"
    raise DataError(
        f"nothing in {sample.looked_at} of {sample.num_shards} shards of {path} can be "
        f"read; {first}. Look at more of them: vissl-swav data-check {path} "
        "--shards 100."
    )


def _bytes(member: Member) -> bytes:
    assert member.data is not None  # All were wanted.
    return member.data


def _in_a_tar(size: int) -> int:
    return _BLOCK + -(-size // _BLOCK) * _BLOCK
