import math
from itertools import permutations

import pytest
import torch
from torch.nn import functional

from vissl_swav.core.seeding import SEEDINGS, plus_plus, random_rows


def unit_rows(N, D, *, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(N, D, generator=generator), dim=1).to(dtype)


def test_random_rows_are_different_rows_each_equally_likely():
    N, K, repeats = 20, 5, 4000
    rows, ids = torch.eye(N), torch.arange(N)
    chosen = torch.stack(
        [random_rows(rows, K, seed=seed, row_ids=ids) for seed in range(repeats)]
    )
    assert (chosen.sum(dim=1).amax(dim=1) == 1).all()  # No row twice.
    times = chosen.sum(dim=(0, 1))
    deviation = math.sqrt(repeats * (K / N) * (1 - K / N))
    assert (times - repeats * K / N).abs().max() < 4.5 * deviation


def test_two_rows_of_plus_plus_have_their_probabilities():
    """P(i, j) = 1/N (1 - cos ij) / sum_k (1 - cos ik)."""
    repeats = 3000
    rows = functional.normalize(
        torch.tensor([[1.0, 0.0], [1.0, 0.8], [0.0, 1.0], [-1.0, 0.2]]), dim=1
    )
    ids = torch.arange(4)
    found = torch.zeros(4, 4)
    for seed in range(repeats):
        pair = plus_plus(rows, 2, seed=seed, row_ids=ids)
        i, j = (rows @ pair.t()).argmax(dim=0).tolist()
        found[i, j] += 1
    far = 1 - rows @ rows.t()
    for i, j in permutations(range(4), 2):
        probability = far[i, j].item() / far[i].sum().item() / 4
        deviation = math.sqrt(repeats * probability * (1 - probability))
        assert abs(found[i, j].item() - repeats * probability) < 4.5 * deviation
    assert found.diagonal().sum() == 0


def test_plus_plus_finds_small_clusters_that_random_rows_miss():
    """10 narrow clusters, one of them with 91 % of the rows."""
    centres = torch.eye(10)
    labels = torch.cat([torch.zeros(910, dtype=torch.long), torch.arange(1, 10)])
    labels = torch.cat([labels, torch.arange(1, 10).repeat(9)])
    rows = functional.normalize(centres[labels] + 0.02 * unit_rows(1000, 10), dim=1)
    ids = torch.arange(1000)

    def clusters_found(method):
        seeds = [SEEDINGS[method](rows, 10, seed=s, row_ids=ids) for s in range(30)]
        return sum(len(set(C.argmax(dim=1).tolist())) for C in seeds) / 30

    assert clusters_found("random") < 3
    assert clusters_found("k-means++") > 7


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16]
)
@pytest.mark.parametrize("method", sorted(SEEDINGS))
def test_all_rows_are_chosen_once_where_as_many_are_asked_for(method, dtype):
    """Near duplicates too, whose own rounding is larger than their distance."""
    rows = unit_rows(60, 5)
    rows = functional.normalize(rows[:1] + 0.05 * rows, dim=1).to(dtype)
    chosen = SEEDINGS[method](rows, 60, seed=0, row_ids=torch.arange(60))
    order = torch.cdist(chosen.double(), rows.double()).argmin(dim=1)
    assert torch.equal(chosen.to(dtype), rows[order])
    assert chosen.to(dtype).unique(dim=0).shape == rows.unique(dim=0).shape


def test_distinct_rows_come_before_duplicates():
    distinct = unit_rows(6, 8)
    rows = distinct.repeat(20, 1)
    chosen = plus_plus(rows, 6, seed=1, row_ids=torch.arange(120))
    assert len(set((chosen @ distinct.t()).argmax(dim=1).tolist())) >= 5
    more = plus_plus(rows, 30, seed=1, row_ids=torch.arange(120))
    assert len(set((more @ distinct.t()).argmax(dim=1).tolist())) == 6


@pytest.mark.parametrize("method", sorted(SEEDINGS))
def test_the_order_of_the_rows_does_not_matter_with_ids(method):
    rows, ids = unit_rows(80, 6, dtype=torch.float64), torch.arange(80) * 3
    shuffle = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    first = SEEDINGS[method](rows, 11, seed=5, row_ids=ids)
    again = SEEDINGS[method](rows[shuffle], 11, seed=5, row_ids=ids[shuffle])
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    other = SEEDINGS[method](rows, 11, seed=5, row_ids=ids + 1)
    assert not torch.equal(first, other)
