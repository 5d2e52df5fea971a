import pytest
import reference
import torch
from torch.nn import functional

from vissl_swav.core.empty_clusters import NOISE, keep, refuse, split_largest


def unit_rows(N, D):
    generator = torch.Generator().manual_seed(0)
    return functional.normalize(torch.randn(N, D, generator=generator), dim=1)


def donors_of(before, after, counts):
    """The full cluster that each centroid of an empty one now lies beside."""
    full = (counts > 0).nonzero().flatten()
    near = (after[counts == 0] @ before[full].t()).argmax(dim=1)
    return full[near]


def test_parts_lie_beside_the_largest_and_the_others_stay():
    counts = torch.tensor([5, 0, 100, 3, 0])
    C = unit_rows(5, 16)
    split = split_largest(C, counts, 1)
    assert torch.equal(split[counts > 0], C[counts > 0])
    assert donors_of(C, split, counts).tolist() == [2, 2]
    torch.testing.assert_close(split.norm(dim=1), torch.ones(5))
    distance = (split[counts == 0] - C[2]).norm(dim=1)
    assert (distance > NOISE / 4).all() and (distance < NOISE * 1.01).all()
    assert (split[1] - split[4]).norm() > NOISE / 4  # Noise of their own.


def test_the_noise_is_that_of_the_seed_and_the_input_stays():
    counts, C = torch.tensor([9, 0, 0]), unit_rows(3, 8)
    before = C.clone()
    first, again, other = (split_largest(C, counts, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(C, before)


@pytest.mark.parametrize(
    "counts",
    [
        [1000, 0, 0, 0, 0, 0, 0, 0, 0, 0],  # One giant cluster.
        [60, 30, 10, 0, 0, 0, 0],
        [7, 7, 7, 0, 0],
        [2, 1, 1, 0],  # As many parts as rows.
        [1, 1, 0],  # Fewer rows than clusters.
        [1000, 999, 998, 3, 0],
        [50, 0, 49, 0, 1, 0, 0, 0, 25, 0, 0, 0, 0],
    ],
)
def test_donors_are_apportioned_as_by_a_heap(counts):
    """The largest part is as small as one part at a time for the largest makes it."""
    counts = torch.tensor(counts)
    C = functional.normalize(torch.eye(len(counts), 20), dim=1)
    empty = int((counts == 0).sum())
    donors = donors_of(C, split_largest(C, counts, 0), counts)
    assert donors.numel() == empty
    parts = 1 + torch.bincount(donors, minlength=len(counts))
    of_heap = torch.tensor(reference.parts_of_a_split(counts.tolist(), empty))
    largest, wanted = (((counts + p - 1) // p).max() for p in (parts, of_heap))
    assert largest == wanted


def test_random_counts_are_apportioned_as_by_a_heap():
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        K = int(torch.randint(3, 19, (1,), generator=generator))
        scale = torch.randint(1, 200, (1,), generator=generator)
        counts = (torch.rand(K, generator=generator) ** 3 * scale).long()
        counts[0] += K
        test_donors_are_apportioned_as_by_a_heap(counts.tolist())


def test_keep_and_a_run_without_empty_clusters_change_nothing():
    C = unit_rows(3, 4)
    assert torch.equal(keep(C, torch.tensor([4, 0, 0]), 0), C)
    full = torch.tensor([1, 2, 3])
    assert split_largest(C, full, 0) is C and refuse(C, full, 0) is C


def test_an_error_tells_how_many_and_what_to_do():
    message = '2 of 3 clusters are empty; ask for fewer clusters, or .*="split"'
    with pytest.raises(ValueError, match=message):
        refuse(unit_rows(3, 4), torch.tensor([4, 0, 0]), 0)


def test_parts_left_over_go_to_a_largest_cluster():
    """One part cannot make the largest of three equals smaller; it is still halved."""
    counts = torch.tensor([1, 50, 50, 50, 0])
    C = unit_rows(5, 16)
    donors = donors_of(C, split_largest(C, counts, 0), counts)
    assert counts[donors].tolist() == [50]
