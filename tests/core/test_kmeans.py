import numpy as np
import pytest
import reference
import torch
from torch.nn import functional

from vissl_swav.core.collective import LOCAL
from vissl_swav.core.empty_clusters import EMPTY_RULES
from vissl_swav.core.kmeans import (
    cluster_sums,
    spherical_kmeans,
    spherical_kmeans_of_heads,
)
from vissl_swav.core.nearest_centroid import TorchNearest


def unit_rows(N, D, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(N, D, generator=generator, dtype=torch.float64)
    return functional.normalize(rows, dim=1).to(dtype)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("case", range(3))
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)]
)
def test_goldens(shared, case, dtype, tolerance):
    golden = np.load(shared / "golden" / "spherical_kmeans.npz")
    of_case = {
        name: torch.from_numpy(golden[f"kmeans_{case}_{name}"])
        for name in ("x", "init_index", "centroids", "assignments")
    }
    rows = of_case["x"].to(dtype)
    result = spherical_kmeans(
        rows,
        num_clusters=len(of_case["centroids"]),
        num_iterations=int(golden[f"kmeans_{case}_iters"]),
        initial_centroids=rows[of_case["init_index"]],
        empty_clusters="keep",
    )
    assert torch.equal(result.assignments, of_case["assignments"])
    torch.testing.assert_close(
        result.centroids, of_case["centroids"].to(dtype), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(("N", "D", "K"), [(60, 5, 4), (40, 3, 15), (7, 2, 1)])
def test_equals_loops_in_float64(N, D, K):
    rows = unit_rows(N, D, seed=N)
    centroids, labels, objective = reference.spherical_kmeans(
        rows.tolist(), rows[:K].tolist(), 6
    )
    result = spherical_kmeans(
        rows,
        num_clusters=K,
        num_iterations=6,
        initial_centroids=rows[:K],
        empty_clusters="keep",
    )
    assert result.assignments.tolist() == labels.tolist()
    np.testing.assert_allclose(result.centroids, centroids, rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.objective, objective, rtol=0, atol=1e-12)
    assert result.counts.tolist() == np.bincount(labels, minlength=K).tolist()


@pytest.mark.parametrize("seeding", ["random", "k-means++"])
@pytest.mark.parametrize(
    ("dtype", "slack"), [(torch.float64, 1e-13), (torch.float32, 1e-6)]
)
def test_the_objective_never_rises_and_is_that_of_the_result(seeding, dtype, slack):
    rows = unit_rows(400, 6, dtype=dtype)
    result = spherical_kmeans(
        rows,
        num_clusters=20,
        num_iterations=15,
        seeding=seeding,
        empty_clusters="keep",
        generator=seeded(),
    )
    assert result.objective.shape == (16,)
    assert (result.objective.diff() <= slack).all()
    assert result.objective[-1] < result.objective[0] - 0.02
    similarities = rows @ result.centroids.t()
    assert torch.equal(similarities.argmax(dim=1), result.assignments)
    of_result = -similarities.amax(dim=1).double().mean()
    torch.testing.assert_close(result.objective[-1], of_result, rtol=1e-6, atol=0)


def test_tolerance_stops_at_the_first_small_gain():
    settings = {"num_clusters": 10, "num_iterations": 50, "empty_clusters": "keep"}
    rows = unit_rows(300, 5)
    full = spherical_kmeans(rows, **settings, generator=seeded()).objective
    gains = -full.diff()
    for tolerance in (0.01, 1e-3, 0.0):
        stopped = spherical_kmeans(
            rows, **settings, tolerance=tolerance, generator=seeded()
        ).objective
        first = int((gains <= tolerance).nonzero()[0])
        assert torch.equal(stopped, full[: first + 2])
    assert len(stopped) < len(full)


def test_a_seed_gives_one_result_and_another_seed_another():
    rows = unit_rows(200, 6)
    first, again, other = (
        spherical_kmeans(rows, num_clusters=9, generator=seeded(seed)).centroids
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("seeding", ["random", "k-means++"])
def test_half_precision_rows(dtype, atol, seeding):
    """Centroids in float32: those of the rounded rows, near those of the exact ones."""
    rows = unit_rows(500, 8, dtype=dtype)
    settings = {"num_clusters": 12, "seeding": seeding, "num_iterations": 3}
    result = spherical_kmeans(rows, **settings, generator=seeded())
    exact = spherical_kmeans(rows.float(), **settings, generator=seeded())
    assert result.centroids.dtype == torch.float32
    torch.testing.assert_close(result.centroids, exact.centroids)
    assert torch.equal(result.assignments, exact.assignments)
    unrounded = unit_rows(500, 8, dtype=torch.float32)
    start = functional.normalize(unrounded[:12], dim=1)
    settings = {"num_clusters": 12, "num_iterations": 1, "initial_centroids": start}
    near = spherical_kmeans(rows, **settings).objective
    exact = spherical_kmeans(unrounded, **settings).objective
    torch.testing.assert_close(near, exact, rtol=0, atol=atol)


def test_one_cluster_is_the_mean_direction():
    rows = unit_rows(50, 4)
    result = spherical_kmeans(rows, num_clusters=1, num_iterations=1)
    mean = functional.normalize(rows.sum(dim=0, keepdim=True), dim=1)
    torch.testing.assert_close(result.centroids, mean)
    expected = -rows.sum(dim=0).norm() / 50
    assert result.objective[-1].item() == pytest.approx(expected.item())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("seeding", ["random", "k-means++"])
def test_as_many_clusters_as_rows_are_the_rows(dtype, seeding):
    rows = unit_rows(64, 16, dtype=dtype)
    result = spherical_kmeans(rows, num_clusters=64, seeding=seeding)
    assert sorted(result.assignments.tolist()) == list(range(64))
    own = result.centroids[result.assignments]
    wanted = functional.normalize(rows.to(own.dtype), dim=1)
    torch.testing.assert_close(own, wanted, rtol=0, atol=1e-5)


def test_opposite_rows_leave_their_centroid_where_it_is():
    """Their sum has no direction."""
    rows = torch.tensor([[0.0, 1.0], [0.0, -1.0]])
    start = torch.tensor([[1.0, 0.0]])
    result = spherical_kmeans(rows, num_clusters=1, initial_centroids=start)
    assert torch.equal(result.centroids, start)
    assert result.objective.tolist() == [0.0] * 11


@pytest.mark.parametrize("empty_clusters", ["split", "keep"])
@pytest.mark.parametrize("seeding", ["random", "k-means++"])
def test_duplicate_rows(empty_clusters, seeding):
    """3 directions, 30 rows, 8 clusters: a perfect objective, nothing that is NaN."""
    rows = unit_rows(3, 4).repeat_interleave(10, dim=0)
    result = spherical_kmeans(
        rows,
        num_clusters=8,
        seeding=seeding,
        empty_clusters=empty_clusters,
        generator=seeded(1),
    )
    assert torch.isfinite(result.centroids).all()
    assert result.counts.sum() == 30
    expected = -1.0 if seeding == "k-means++" else result.objective[0].item()
    assert result.objective[-1].item() <= expected + 1e-3


def test_split_fills_every_cluster_where_keep_leaves_them_empty():
    cone = unit_rows(600, 8) + 2 * torch.eye(8, dtype=torch.float64)[0]
    rows = functional.normalize(cone, dim=1)
    start = torch.cat([rows[:1], -rows[1:12]])  # All rows are nearest to the first.
    settings = {"num_clusters": 12, "initial_centroids": start, "num_iterations": 10}
    kept = spherical_kmeans(rows, **settings, empty_clusters="keep")
    split = spherical_kmeans(rows, **settings, generator=seeded())
    assert (kept.counts == 0).sum() == 11
    assert split.counts.min() > 0
    assert split.counts.max() < 200
    assert split.objective[-1] < kept.objective[-1] - 0.01
    for iterations in (0, 10):  # Without an update too.
        with pytest.raises(ValueError, match="11 of 12 clusters are empty"):
            spherical_kmeans(
                rows,
                **{**settings, "num_iterations": iterations},
                empty_clusters="error",
            )


def test_heads_in_step_equal_heads_one_at_a_time():
    """Two banks, one of them twice, of several types; the seed of head 0 is its own."""
    first, second = unit_rows(200, 6), unit_rows(200, 9, seed=1, dtype=torch.float32)
    features, sizes = [first, second, first], [7, 11, 5]
    starts = [Z[:K] for Z, K in zip(features, sizes, strict=True)]
    settings = {"num_iterations": 5, "empty_clusters": "keep"}
    together = spherical_kmeans_of_heads(
        features, num_clusters=sizes, initial_centroids=starts, **settings
    )
    for result, Z, K, C in zip(together, features, sizes, starts, strict=True):
        alone = spherical_kmeans(Z, num_clusters=K, initial_centroids=C, **settings)
        assert result.centroids.dtype == Z.dtype
        assert torch.equal(result.centroids, alone.centroids)
        assert torch.equal(result.assignments, alone.assignments)
        torch.testing.assert_close(result.objective, alone.objective)
    drawn = spherical_kmeans_of_heads(
        [first, first], num_clusters=[7, 7], generator=seeded(), **settings
    )
    alone = spherical_kmeans(first, num_clusters=7, generator=seeded(), **settings)
    assert torch.equal(drawn[0].centroids, alone.centroids)
    assert not torch.allclose(drawn[1].centroids, alone.centroids)


class CountingLocal:
    """LOCAL, with a record of the shapes that cross."""

    world_size, rank = 1, 0

    def __init__(self):
        self.gathered, self.reduced = [], []

    def all_gather(self, tensor):
        self.gathered.append(tuple(tensor.shape))
        return LOCAL.all_gather(tensor)

    def all_reduce_sum(self, tensor):
        self.reduced.append(tuple(tensor.shape))
        return LOCAL.all_reduce_sum(tensor)


@pytest.mark.parametrize("num_heads", [1, 3])
def test_one_reduction_an_iteration_of_sums_and_counts(num_heads):
    rows, K, D = unit_rows(300, 5), 7, 5
    spy = CountingLocal()
    spherical_kmeans_of_heads(
        [rows] * num_heads, num_clusters=[K] * num_heads, collective=spy
    )
    seeds, sums = spy.reduced[:num_heads], spy.reduced[num_heads:]
    assert seeds == [(K, D)] * num_heads
    assert sums == [(num_heads * (K * D + K + 1),)] * 11
    facts, *keys = spy.gathered
    assert facts[0] < 40 and keys == [(K,)] * num_heads


def test_cluster_sums_of_many_half_precision_rows():
    """More rows than are converted at a time."""
    rows = unit_rows(70_000, 3, dtype=torch.float16)
    labels = torch.arange(70_000) % 4
    sums = cluster_sums(rows, labels, torch.zeros(4, 3))
    for k in range(4):
        exact = rows[labels == k].double().sum(dim=0)
        torch.testing.assert_close(sums[k].double(), exact, rtol=1e-4, atol=1e-2)


def test_the_nearest_search_is_an_argument():
    calls = []

    def spy(features, centroids):
        calls.append((features.shape, centroids.shape))
        return TorchNearest()(features, centroids)

    rows = unit_rows(40, 3)
    spherical_kmeans(rows, num_clusters=4, num_iterations=2, nearest=spy)
    assert calls == [((40, 3), (4, 3))] * 3


def test_every_update_of_every_head_has_noise_of_its_own(monkeypatch):
    seeds = []

    def spy(centroids, counts, seed):
        seeds.append(seed)
        return centroids

    monkeypatch.setitem(EMPTY_RULES, "keep", spy)
    spherical_kmeans_of_heads(
        [unit_rows(40, 3)] * 2, num_clusters=[4, 5], empty_clusters="keep"
    )
    assert len(seeds) == len(set(seeds)) == 20
