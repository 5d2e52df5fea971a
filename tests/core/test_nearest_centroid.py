import pytest
import torch
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from vissl_swav.core.kmeans import spherical_kmeans
from vissl_swav.core.nearest_centroid import TorchNearest, rows_per_chunk


def unit_rows(N, D, *, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(N, D, generator=generator), dim=1).to(dtype)


@pytest.mark.parametrize("max_bytes", [1, 999, 40_000, 2**27])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_chunks_do_not_change_the_labels(max_bytes, dtype):
    rows = unit_rows(123, 6, dtype=dtype)
    C = unit_rows(17, 6, seed=1, dtype=torch.promote_types(dtype, torch.float32))
    indices, similarities = TorchNearest(max_bytes)(rows, C)
    expected = (rows.double() @ C.double().t()).max(dim=1)
    assert torch.equal(indices, expected.indices)
    assert similarities.dtype == C.dtype
    torch.testing.assert_close(
        similarities.double(), expected.values, atol=1e-6, rtol=0
    )


def peak_bytes(function):
    """Peak of what the CPU allocator gave out during a call, above the start."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        function()
    in_use = peak = 0
    for event in log.profiler.kineto_results.events():
        if event.name() == "[memory]":
            in_use += event.nbytes()
            peak = max(peak, in_use)
    return peak


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("K", [1, 500])
def test_memory_is_bounded_by_the_setting(dtype, K):
    """Scores of 40 MB and 5 MB of converted rows in 256 KiB, a label and a value."""
    rows, C, bound = unit_rows(20_000, 64, dtype=dtype), unit_rows(K, 64), 2**18
    peak = peak_bytes(lambda: TorchNearest(bound)(rows, C))
    of_results = 20_000 * (8 + 4)
    assert peak <= of_results + bound
    assert peak >= of_results  # The measure sees something.


@pytest.mark.parametrize("seeding", ["random", "k-means++"])
def test_a_whole_clustering_stays_within_the_bound_and_a_few_numbers_a_row(seeding):
    N, D, K, bound = 20_000, 64, 200, 2**18
    rows = unit_rows(N, D)
    settings = {"num_clusters": K, "num_iterations": 2, "seeding": seeding}
    search = TorchNearest(bound)
    peak = peak_bytes(lambda: spherical_kmeans(rows, nearest=search, **settings))
    assert peak < bound + 12 * 8 * N + 12 * 4 * K * D
    assert peak < N * K * 4 / 4  # Not a quarter of the score matrix.


def test_autocast_does_not_lower_the_precision():
    rows, C = unit_rows(50, 8), unit_rows(9, 8, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        _, similarities = TorchNearest()(rows, C)
    expected = (rows.double() @ C.double().t()).amax(dim=1)
    torch.testing.assert_close(similarities.double(), expected, atol=1e-6, rtol=0)


def test_bounds():
    assert rows_per_chunk(3000, 4, 12_000 * 7 + 5) == 7
    assert rows_per_chunk(3000, 4, 1) == 1
    with pytest.raises(ValueError, match="max_bytes is 0; wanted >= 1"):
        TorchNearest(0)
