"""Random numbers as hashes of what they are for: equal on every process and worker.

A generator's numbers depend on who asked before. These depend on their arguments alone,
so that rows and images keep theirs whatever process, worker or order they come in.
"""

from typing import Any

import torch
from torch import Tensor

Bits = Any  # An int64 tensor or numpy array; this folder does not know numpy.
_GOLDEN = -7046029254386353131  # 2^64 / golden ratio, as a signed number.
_MIX_1, _MIX_2 = -4658895280553007687, -7723592293110705685
_KEY_BITS = 62


def hashed_uniform(row_ids: Tensor, *, seed: int, draw: int) -> Tensor:
    """Numbers in (0, 1), float64, a hash of (seed, draw, id): (N,) -> (N,)."""
    start = _mix(torch.tensor([draw + 1]) * _GOLDEN + seed)
    return _unit(_mix(row_ids.long() * _GOLDEN + start.to(row_ids.device)))


def sample_keys(indices: Tensor, *, seed: int, epoch: int) -> Tensor:
    """A key for each image of an epoch, a hash of (seed, epoch, index): (B,) -> (B,).

    Args:
        indices: the images' numbers in the data set, integers >= 0.
        seed: the run's.
        epoch: a number that no other epoch of the run has.

    Returns:
        int64 in [0, 2^62).
    """
    start = _mix(_mix(torch.tensor([seed])) + torch.tensor([epoch + 1]) * _GOLDEN)
    bits = _mix(indices.long() * _GOLDEN + start.to(indices.device))
    return bits & (1 << _KEY_BITS) - 1


def keyed_uniforms(keys: Tensor, count: int) -> Tensor:
    """`count` numbers for each key, in (0, 1), float64: (B,) -> (B, count).

    The stream of splitmix64 (Steele, Lea and Flood 2014) started at the key's hash: a
    key's numbers are the same alone and in any batch, on the CPU and on a GPU.
    """
    steps = torch.arange(1, count + 1, device=keys.device)
    return _unit(keyed_bits(keys.long()[:, None], steps))


def keyed_bits(keys: Bits, steps: Bits) -> Bits:
    """The words behind `keyed_uniforms`, which are `((bits >> 12 & M) + 0.5) / 2^52`.

    M is `2^52 - 1`. Plain integer arithmetic that wraps: int64 tensors of torch or
    arrays of numpy, which are quicker for the few numbers of one image.

    Args:
        keys: shape that broadcasts with the steps'.
        steps: 1, 2, ... `count`.
    """
    return _mix(_mix(keys) + steps * _GOLDEN)


def draw_key(generator: torch.Generator | None = None) -> int:
    """A key by chance; None is torch's global generator."""
    return int(torch.randint(1 << _KEY_BITS, (), generator=generator))


def _unit(bits: Tensor) -> Tensor:
    # 52 bits: with 53 the half would be rounded, the largest number to 1.
    return ((bits >> 12 & (1 << 52) - 1).double() + 0.5) / float(1 << 52)


def _mix(bits: Bits) -> Bits:
    """A bijection of 64-bit words that scatters neighbours (splitmix64's finaliser)."""
    bits = (bits ^ (bits >> 30 & (1 << 34) - 1)) * _MIX_1
    bits = (bits ^ (bits >> 27 & (1 << 37) - 1)) * _MIX_2
    return bits ^ (bits >> 31 & (1 << 33) - 1)
