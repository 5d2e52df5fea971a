"""Hashes that stand for random numbers: uniform, independent, the same anywhere."""

import math

import pytest
import torch

from vissl_swav.core.hashing import (
    draw_key,
    hashed_uniform,
    keyed_uniforms,
    sample_keys,
)

# Kolmogorov-Smirnov distance that one run in a million exceeds, times sqrt(N).
FURTHEST = math.sqrt(math.log(2 / 1e-6) / 2)


def check_uniform(numbers):
    N = numbers.numel()
    assert numbers.min() > 0 and numbers.max() < 1
    steps = (torch.arange(N) + 0.5) / N
    assert (numbers.flatten().sort().values - steps).abs().max() < FURTHEST / N**0.5


def check_independent(numbers, *others):
    for other in others:
        pair = torch.stack([numbers.flatten(), other.flatten()])
        assert torch.corrcoef(pair)[0, 1].abs() < 5 / numbers.numel() ** 0.5


@pytest.mark.parametrize("seed", [0, 1, 2**62 - 1])
@pytest.mark.parametrize("start", [0, 10**12])
def test_hashed_numbers_are_uniform_and_independent(seed, start):
    """Kolmogorov-Smirnov at 1e-6, and no correlation of neighbours, draws and seeds."""
    N = 100_000
    ids = torch.arange(start, start + N)
    numbers = hashed_uniform(ids, seed=seed, draw=0)
    assert numbers.min() > 0 and numbers.max() < 1
    assert numbers.unique().numel() == N
    steps = (torch.arange(N) + 0.5) / N
    furthest = (numbers.sort().values - steps).abs().max()
    assert furthest < math.sqrt(math.log(2 / 1e-6) / (2 * N))
    for other in (
        numbers.roll(1),
        hashed_uniform(ids, seed=seed, draw=1),
        hashed_uniform(ids, seed=seed + 1, draw=0),
        hashed_uniform(ids + N, seed=seed, draw=0),
    ):
        correlation = torch.corrcoef(torch.stack([numbers, other]))[0, 1]
        assert correlation.abs() < 5 / math.sqrt(N)


def test_a_hash_depends_on_nothing_but_its_id():
    ids = torch.tensor([5, 90, -3, 7])
    numbers = hashed_uniform(ids, seed=4, draw=2)
    for place, number in zip(ids, numbers, strict=True):
        assert hashed_uniform(place[None], seed=4, draw=2)[0] == number


def test_keyed_numbers_are_uniform_and_independent():
    """Over images, over the numbers of one image, over epochs and over seeds."""
    keys = sample_keys(torch.arange(400), seed=0, epoch=0)
    numbers = keyed_uniforms(keys, 250)
    assert numbers.unique().numel() == 100_000
    check_uniform(numbers)
    check_uniform(keyed_uniforms(sample_keys(torch.arange(5000), seed=0, epoch=3), 1))
    others = [
        keyed_uniforms(sample_keys(torch.arange(400), seed=seed, epoch=epoch), 250)
        for seed, epoch in ((0, 1), (1, 0), (1, 1), (0, 1000))
    ]
    check_independent(numbers, numbers.roll(1, 0), numbers.roll(1, 1), *others)


def test_keys_are_different_and_in_range():
    """No two of 3 seeds x 3 epochs x 100 000 images: a clash has chance 1e-7."""
    indices = torch.arange(100_000)
    keys = torch.cat(
        [
            sample_keys(indices, seed=seed, epoch=epoch)
            for seed in (0, 1, 2**40)
            for epoch in (0, 1, 800)
        ]
    )
    assert keys.unique().numel() == keys.numel()
    assert keys.min() >= 0 and keys.max() < 2**62


def test_numbers_are_the_same_alone_and_in_any_batch():
    keys = sample_keys(torch.tensor([7, 3, 7, 10**9]), seed=5, epoch=2)
    together = keyed_uniforms(keys, 40)
    assert torch.equal(together[0], together[2])
    for row, key in zip(together, keys, strict=True):
        assert torch.equal(keyed_uniforms(key[None], 40)[0], row)
        assert torch.equal(keyed_uniforms(key[None], 25)[0], row[:25])


def test_a_key_by_chance_follows_the_generator():
    generator = torch.Generator().manual_seed(0)
    first, second = draw_key(generator), draw_key(generator)
    assert first != second
    assert draw_key(torch.Generator().manual_seed(0)) == first
    torch.manual_seed(0)
    assert draw_key() == first
