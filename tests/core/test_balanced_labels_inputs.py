"""Balanced labels: chunks, heads, ranks and what is refused."""

import pytest
import torch
import virtual_ranks
from torch.nn import functional

from vissl_swav.core.balanced_labels import (
    BalancedLabels,
    balanced_labels,
    balanced_labels_of_heads,
)

N, K, D = 96, 7, 5
FLOATS = [torch.float64, torch.float32, torch.float16]


def unit_rows(num_rows, dim=D, *, seed=0, dtype=torch.float64):
    """Rows that lean to one side, so that balance has something to do."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num_rows, dim, generator=generator, dtype=torch.float64)
    rows[:, 0] += 0.7
    return functional.normalize(rows, dim=1).to(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
def test_chunks_do_not_matter(dtype):
    Z, C = unit_rows(N, dtype=dtype), unit_rows(K, seed=1)
    settings = {"num_labels": 3, "tolerance": 1e-5}
    whole = balanced_labels(Z, C, **settings)
    for rows in (1, 5, 95, 96):
        max_bytes = rows * K * (8 if dtype == torch.float64 else 4)
        found = balanced_labels(Z, C, max_bytes=max_bytes, **settings)
        assert torch.equal(found.labels, whole.labels)
        torch.testing.assert_close(found.weights, whole.weights, rtol=1e-4, atol=1e-5)
        assert found.num_iterations == pytest.approx(whole.num_iterations, abs=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_matrix_never_stands_in_memory(dtype):
    """Bytes that torch's CPU allocator hands out; the scores would be 41 MB."""
    from torch.profiler import ProfilerActivity, profile

    rows, width, max_bytes = 20_000, 512, 2**20
    Z = unit_rows(rows, 16, dtype=dtype)
    C = unit_rows(width, 16, seed=1, dtype=torch.float32)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        found = balanced_labels(Z, C, max_iterations=2, max_bytes=max_bytes)
    assert found.num_iterations == 2
    in_use = peak = 0
    for event in log.profiler.kineto_results.events():
        if event.name() == "[memory]":
            in_use += event.nbytes()
            peak = max(peak, in_use)
    # Three chunks, a label and a weight a row, and some vectors of K.
    assert max_bytes < peak < 3.2 * max_bytes + 12 * rows + 30 * 8 * width


def test_heads_in_step_are_the_heads_alone():
    Z, banks = unit_rows(N), [unit_rows(N), unit_rows(N, seed=4)]
    prototypes = [unit_rows(k, seed=k) for k in (4, 9, 6)]
    features = [banks[0], banks[1], banks[0]]
    settings = {"tolerance": 1e-9, "max_iterations": 5000, "num_labels": 2}
    together = balanced_labels_of_heads(features, prototypes, **settings)
    assert len({found.num_iterations for found in together}) == 1
    for Z, C, found in zip(features, prototypes, together, strict=True):
        alone = balanced_labels(Z, C, **settings)
        assert torch.equal(found.labels, alone.labels)
        torch.testing.assert_close(found.weights, alone.weights, rtol=1e-6, atol=1e-8)
        assert alone.num_iterations <= found.num_iterations


def test_under_autocast_nothing_is_rounded():
    Z, C = unit_rows(N, dtype=torch.float32), unit_rows(K, seed=1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = balanced_labels(Z, C.requires_grad_(), num_labels=3)
    outside = balanced_labels(Z, C, num_labels=3)
    assert torch.equal(inside.weights, outside.weights)
    assert not inside.weights.requires_grad


@pytest.mark.parametrize("sizes", [(96,), (50, 46), (60, 0, 36)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_shards_equal_the_whole(sizes, dtype):
    """A rank without a row takes part."""
    Z = unit_rows(N, dtype=dtype)
    prototypes = [unit_rows(K, seed=1), unit_rows(11, seed=2)]
    shards = Z.split(list(sizes))
    settings = {"tolerance": 1e-5, "num_labels": 2}

    def program(collective):
        shard = shards[collective.rank]
        return balanced_labels_of_heads(
            [shard, shard], prototypes, collective=collective, **settings
        )

    whole = balanced_labels_of_heads([Z, Z], prototypes, **settings)
    of_ranks = virtual_ranks.run(program, len(sizes))
    for head, expected in enumerate(whole):
        found = [results[head] for results in of_ranks]
        assert torch.equal(torch.cat([f.labels for f in found]), expected.labels)
        weights = torch.cat([f.weights for f in found])
        torch.testing.assert_close(weights, expected.weights, rtol=1e-3, atol=1e-5)
        for one in found:
            assert torch.equal(one.log_scaling, found[0].log_scaling)
            assert (one.error, one.objective) == (found[0].error, found[0].objective)
            assert one.objective == pytest.approx(expected.objective, abs=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["features", "prototypes"])
def test_values_that_are_not_finite_are_an_error_on_all_ranks(value, where):
    good, bad, C = unit_rows(N), unit_rows(N), unit_rows(K, seed=1)
    (bad if where == "features" else C)[2, 3] = value

    def program(collective):
        Z = bad if collective.rank == 1 else good
        with pytest.raises(ValueError, match="the scores are not finite"):
            balanced_labels(Z, C, collective=collective)
        return True

    assert virtual_ranks.run(program, 2) == [True, True]


def test_no_row_at_all_is_an_error():
    with pytest.raises(ValueError, match="no process has a row"):
        balanced_labels(torch.empty(0, D), torch.ones(K, D))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epsilon": 0.0}, "epsilon is 0.0"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"tolerance": -1.0}, "tolerance is -1.0"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"max_iterations": 0}, "max_iterations 0"),
        ({"num_labels": 0}, "num_labels is 0"),
        ({"num_labels": K + 1}, "number of prototypes, 7"),
    ],
)
def test_errors_of_the_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        balanced_labels(unit_rows(N), unit_rows(K), **settings)


@pytest.mark.parametrize(
    ("features", "prototypes", "words"),
    [
        ([], [], "got 0 feature tensors"),
        ([torch.ones(3, D)], [torch.ones(K, D)] * 2, "1 feature tensors and 2"),
        ([torch.ones(3, D)], [torch.ones(K, D + 1)], r"\(3, 5\) and prototypes \(7, 6"),
        ([torch.ones(D)], [torch.ones(K, D)], r"\(5,\)"),
        ([torch.ones(3, D)], [torch.ones(0, D)], r"prototypes \(0, 5\)"),
        (
            [torch.ones(3, D), torch.ones(4, D)],
            [torch.ones(K, D)] * 2,
            r"features have \[3, 4\] rows",
        ),
    ],
)
def test_errors_of_the_shapes(features, prototypes, words):
    with pytest.raises(ValueError, match=words):
        balanced_labels_of_heads(features, prototypes)


def test_the_result_cannot_be_changed():
    found = balanced_labels(unit_rows(N), unit_rows(K, seed=1))
    assert isinstance(found, BalancedLabels)
    with pytest.raises(AttributeError):
        found.error = 0.0
