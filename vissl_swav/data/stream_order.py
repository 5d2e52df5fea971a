"""Which shards a stream reads in a pass, and in which order; nothing is opened.

A stream is one worker of one rank; `G` streams share the shards. All of it follows from
(number of shards, stream, G, seed, pass).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from vissl_swav.core.hashing import sample_keys

# Passes and chunks are shuffled by keys that no epoch of images has (they are >= 0).
_OF_SHARDS, _OF_CHUNKS = -1_000_000, -2_000_000_000
_CHUNK_KEYS = 2**32


class Share(NamedTuple):
    """What a stream reads of a shard: the images with number % parts == part.

    Attributes:
        shard: its place in the list of shards.
        part: of this stream.
        parts: streams that share the shard; 1 for all of it.
    """

    shard: int
    part: int
    parts: int


def shares(
    num_shards: int, *, stream: int, num_streams: int, seed: int, pass_number: int
) -> list[Share]:
    """The shards of a stream in a pass, in the order of reading.

    The shards are shuffled and dealt out in rounds. What does not fill a round, and so
    all of them where there are fewer shards than streams, is shared by image numbers:
    every image of a pass comes to exactly one stream, and with shards of one size the
    streams end a pass together.

    Args:
        num_shards: in all.
        stream: number of this one, from 0.
        num_streams: G.
        seed: the run's.
        pass_number: passes over the data before this one.
    """
    keys = sample_keys(
        torch.arange(num_shards), seed=seed, epoch=_OF_SHARDS - pass_number
    )
    order = torch.argsort(keys).tolist()
    rounds = num_shards // num_streams
    found = [Share(order[r * num_streams + stream], 0, 1) for r in range(rounds)]
    rest = order[rounds * num_streams :]
    if rest:
        mine = stream % len(rest)
        parts = len(range(mine, num_streams, len(rest)))
        found.append(Share(rest[mine], stream // len(rest), parts))
    return found


def chunk_order(size: int, *, stream: int, chunk: int, seed: int) -> np.ndarray:
    """The order in which a chunk of images is handed out: (size,), a permutation.

    Args:
        size: images of the chunk.
        stream: the chunk's.
        chunk: its number in the stream.
        seed: the run's.
    """
    numbers = torch.arange(size) + chunk * _CHUNK_KEYS
    keys = sample_keys(numbers, seed=seed, epoch=_OF_CHUNKS - stream)
    return torch.argsort(keys).numpy()
