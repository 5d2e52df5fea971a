"""k-means over gloo processes with uneven shards: as on one process, or one error."""

import re

import gloo
import programs
import pytest
import torch
from torch.nn import functional

from vissl_swav.core.kmeans import spherical_kmeans, spherical_kmeans_of_heads

SIZES = {2: (150, 53), 3: (120, 1, 82)}
N, D, K = 203, 8, 12


def unit_rows(*, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(N, D, generator=generator, dtype=torch.float64)
    return functional.normalize(rows, dim=1).to(dtype)


ROWS = unit_rows()
IDS = torch.arange(N) * 7 + 1
# Which rows a process holds: in rank order, or mixed.
MIXED = torch.randperm(N, generator=torch.Generator().manual_seed(5))
# All rows are nearest to the first of these: eleven empty clusters to be split.
CONE = functional.normalize(ROWS + 2 * torch.eye(D, dtype=torch.float64)[0], dim=1)
POLES = torch.cat([CONE[:1], -CONE[1:K]])

# name: rows, order of the rows over the processes, settings, tolerance of centroids.
AGREEING = {
    "random": (ROWS, MIXED, {"row_ids": IDS}, 1e-12),
    "k-means++": (ROWS, MIXED, {"row_ids": IDS, "seeding": "k-means++"}, 1e-12),
    "rank order": (ROWS, None, {}, 1e-12),
    "seeds alone": (ROWS, MIXED, {"row_ids": IDS, "num_iterations": 0}, 0),
    "given": (ROWS, None, {"initial_centroids": ROWS[::17]}, 1e-12),
    "tolerance": (ROWS, None, {"tolerance": 0.004, "num_iterations": 40}, 1e-12),
    "split": (CONE, None, {"initial_centroids": POLES, "num_iterations": 4}, 1e-9),
    "keep": (CONE, None, {"initial_centroids": POLES, "empty_clusters": "keep"}, 1e-12),
    "float32": (ROWS.float(), MIXED, {"row_ids": IDS}, 1e-5),
    "float16": (ROWS.half(), MIXED, {"row_ids": IDS}, 1e-5),
    "bfloat16": (ROWS.bfloat16(), MIXED, {"row_ids": IDS}, 1e-5),
    "every row": (ROWS, MIXED, {"row_ids": IDS, "num_clusters": N}, 1e-12),
}


def shards(values, order, world_size):
    values = values if order is None else values[order]
    return list(values.split(SIZES[world_size]))


def agreeing_cases(world_size):
    cases = {}
    for name, (rows, order, settings, _) in AGREEING.items():
        case = {"num_clusters": K, "num_iterations": 6, **settings}
        if "row_ids" in case:
            case["row_ids"] = shards(case["row_ids"], order, world_size)
        if "initial_centroids" in case:
            case["initial_centroids"] = [case["initial_centroids"]] * world_size
        cases[name] = {**case, "features": shards(rows, order, world_size)}
    cases["heads"] = {
        "heads": True,
        "features": [[shard, shard, shard] for shard in shards(ROWS, None, world_size)],
        "num_clusters": [5, 9, 4],
        "num_iterations": 6,
    }
    return cases


def refused_cases(world_size):
    """Faults of one process each; what all of them are to say."""
    good = shards(ROWS, None, world_size)
    last = world_size - 1

    def broken(shard):
        return [*good[:last], shard]

    nan = good[last].clone()
    nan[0, 3] = float("nan")
    ids = shards(IDS, None, world_size)
    wanted = {
        "idle": ({"features": broken(good[last][:0])}, "every process needs at least"),
        "nan": ({"features": broken(nan)}, rf"rank\(s\) \[{last}\] hold NaN"),
        "too many": ({"num_clusters": N + 1}, "num_clusters is 204, but there are 203"),
        "width": (
            {"features": broken(good[last][:, :5])},
            r"\[8.* 5\] by rank columns",
        ),
        "type": ({"features": broken(good[last].half())}, "float16.* by rank"),
        "flat": ({"features": broken(good[last][0])}, r"\[8.* -1\] by rank columns"),
        "ids on one": (
            {"row_ids": [*[None] * last, ids[last]]},
            r"row_ids have \[-1.* by rank",
        ),
        "ids too few": ({"row_ids": [*ids[:last], ids[last][1:]]}, "wanted one a row"),
        "start on one": (
            {"initial_centroids": [ROWS[:K], *[None] * last]},
            r"initial_centroids have \[12.* -2\] by rank rows",
        ),
        "other start": (
            {"initial_centroids": [ROWS[:K], *[ROWS[1 : K + 1]] * last]},
            "initial_centroids differ between processes",
        ),
        "empty": (
            {
                "features": shards(CONE, None, world_size),
                "initial_centroids": [POLES] * world_size,
                "empty_clusters": "error",
            },
            "11 of 12 clusters are empty",
        ),
    }
    cases = {
        name: {"features": good, "num_clusters": K, **changes}
        for name, (changes, _) in wanted.items()
    }
    return cases, {name: message for name, (_, message) in wanted.items()}


@pytest.fixture(scope="module", params=sorted(SIZES))
def found(request):
    """All cases in one run: a process left waiting in one would spoil the next."""
    world_size = request.param
    refused, _ = refused_cases(world_size)
    cases = {**refused, **agreeing_cases(world_size)}
    return world_size, gloo.run(programs.kmeans_cases, world_size, cases)


def on_one_process(name):
    rows, order, settings, tolerance = AGREEING[name]
    settings = {"num_clusters": K, "num_iterations": 6, **settings}
    # Over processes the generators' seeds are 7, 107, ...: rank 0's counts.
    generator = torch.Generator().manual_seed(7)
    return spherical_kmeans(rows, generator=generator, **settings), order, tolerance


@pytest.mark.parametrize("name", sorted(AGREEING))
def test_several_processes_find_what_one_finds(found, name):
    world_size, of_ranks = found
    one, order, tolerance = on_one_process(name)
    labels = torch.empty(N, dtype=torch.long)
    places = torch.arange(N) if order is None else order
    for results, mine in zip(of_ranks, places.split(SIZES[world_size]), strict=True):
        result, _ = results[name]
        same = of_ranks[0][name][0]
        assert torch.equal(result.centroids, same.centroids)  # To the last bit.
        torch.testing.assert_close(
            result.centroids, one.centroids, rtol=0, atol=tolerance
        )
        torch.testing.assert_close(
            result.objective, one.objective, rtol=0, atol=max(tolerance, 1e-12)
        )
        labels[mine] = result.assignments
    rows = AGREEING[name][0].to(one.centroids.dtype)
    similarities = rows @ one.centroids.t()
    best = similarities.gather(1, one.assignments[:, None])
    chosen = similarities.gather(1, labels[:, None])
    torch.testing.assert_close(chosen, best, rtol=0, atol=tolerance)  # Up to ties.
    assert (labels == one.assignments).double().mean() > 0.98
    counts = torch.bincount(labels, minlength=len(one.counts))
    assert torch.equal(of_ranks[0][name][0].counts, counts)
    if name == "split":
        assert one.counts.min() > 0
    if name == "tolerance":
        assert 3 < len(one.objective) < 41


def test_heads_in_step_take_one_reduction_an_iteration(found):
    world_size, of_ranks = found
    alone = spherical_kmeans_of_heads(
        [ROWS] * 3,
        num_clusters=[5, 9, 4],
        num_iterations=6,
        generator=torch.Generator().manual_seed(7),
    )
    for results in of_ranks:
        heads, calls = results["heads"]
        # The agreement, two a seeding, and one for each of the 7 assignments.
        assert calls == 1 + 3 * 2 + 7
        assert results["given"][1] == 1 + 7
        for head, one in zip(heads, alone, strict=True):
            torch.testing.assert_close(head.centroids, one.centroids)


def test_a_fault_of_one_process_is_the_same_error_on_all(found):
    world_size, of_ranks = found
    _, messages = refused_cases(world_size)
    for name, message in messages.items():
        said = {results[name][0] for results in of_ranks}
        assert len(said) == 1, (name, said)
        assert re.search(message, said.pop()), name
