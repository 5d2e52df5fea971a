"""Labels under equal partition, against the dense Sinkhorn solution in float64."""

import numpy as np
import pytest
import reference
import torch
from torch.nn import functional

from vissl_swav.core.balanced_labels import balanced_labels

N, K, D = 96, 7, 5
FLOATS = [torch.float64, torch.float32, torch.float16]


def unit_rows(num_rows, dim=D, *, seed=0, dtype=torch.float64):
    """Rows that lean to one side, so that balance has something to do."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num_rows, dim, generator=generator, dtype=torch.float64)
    rows[:, 0] += 0.7
    return functional.normalize(rows, dim=1).to(dtype)


def dense_scores(Z, C):
    return Z.double() @ C.double().t()


def dense_codes(Z, C, epsilon):
    """The oracle on the very values that the stored rows have."""
    scores = dense_scores(Z, C).numpy()
    return torch.from_numpy(reference.balanced_partition(scores, epsilon))


def codes_of(found, Z, C, epsilon):
    """Q of the result's scalings, on the whole matrix."""
    return torch.softmax(dense_scores(Z, C) / epsilon + found.log_scaling, dim=1)


def share_error(Q):
    """Largest relative error of a column's sum; rows sum to 1."""
    return (Q.sum(dim=0) * Q.shape[1] / Q.shape[0] - 1).abs().max().item()


@pytest.mark.parametrize("epsilon", [0.2, 0.05, 0.02])
@pytest.mark.parametrize("dtype", FLOATS)
def test_equals_the_dense_solution(dtype, epsilon):
    Z, C = unit_rows(N, dtype=dtype), unit_rows(K, seed=1)
    exact = dtype == torch.float64
    C = C if exact else C.float()
    found = balanced_labels(
        Z, C, epsilon=epsilon, tolerance=1e-8 if exact else 4e-7, max_iterations=20_000
    )
    Q = codes_of(found, Z, C, epsilon)
    assert share_error(Q) < 1e-6
    expected = dense_codes(Z, C, epsilon)
    torch.testing.assert_close(Q, expected, rtol=0, atol=2e-6 if exact else 2e-5)
    top = expected.topk(2, dim=1).values
    clear = top[:, 0] - top[:, 1] > 1e-5
    assert clear.double().mean() > 0.95
    assert torch.equal(found.labels[clear, 0], expected.argmax(dim=1)[clear])
    assert found.labels.shape == (N, 1) and (found.weights == 1).all()
    chosen = dense_scores(Z, C).gather(1, found.labels).mean()
    assert found.objective == pytest.approx(-chosen.item(), abs=1e-6)
    # Without balance it is another labelling.
    assert (dense_scores(Z, C).argmax(dim=1) != found.labels[:, 0]).any()


@pytest.mark.parametrize("count", [1, 3])
def test_an_iteration_is_one_of_sinkhorn(count):
    """From rows that sum to 1: columns to N / K, then rows to 1, `count` times."""
    Z, C = unit_rows(N), unit_rows(K, seed=1)
    found = balanced_labels(Z, C, tolerance=0, max_iterations=count)
    start = 0.05 * torch.log_softmax(dense_scores(Z, C) / 0.05, dim=1)
    expected = reference.sinkhorn_codes(start.numpy(), 0.05, count)
    Q = codes_of(found, Z, C, 0.05)
    torch.testing.assert_close(Q, torch.from_numpy(expected))
    assert found.num_iterations == count and found.error > 1e-4


@pytest.mark.parametrize("tolerance", [0.3, 1e-2, 1e-4])
@pytest.mark.parametrize("max_iterations", [1, 4, 500])
def test_stops_at_the_tolerance_and_tells_the_error_that_is_left(
    tolerance, max_iterations
):
    Z, C = unit_rows(N), unit_rows(K, seed=1)
    settings = {"epsilon": 0.05, "tolerance": tolerance}
    found = balanced_labels(Z, C, max_iterations=max_iterations, **settings)
    left = share_error(codes_of(found, Z, C, 0.05))
    assert found.error == pytest.approx(left, rel=1e-6, abs=1e-12)
    count = found.num_iterations
    assert found.error <= tolerance or count == max_iterations
    assert count <= max_iterations
    if count > 1:  # One iteration less would not have been enough.
        before = balanced_labels(Z, C, max_iterations=count - 1, **settings)
        assert before.error > tolerance and before.num_iterations == count - 1


def test_a_balanced_start_takes_no_iteration():
    found = balanced_labels(torch.eye(4), torch.eye(4))
    assert found.num_iterations == 0 and found.error < 1e-6
    assert found.labels[:, 0].tolist() == [0, 1, 2, 3]
    assert found.objective == pytest.approx(-1)


def test_order_of_rows_and_prototypes_does_not_matter():
    Z, C = unit_rows(N), unit_rows(K, seed=1)
    settings = {"num_labels": 2, "tolerance": 1e-9, "max_iterations": 5000}
    found = balanced_labels(Z, C, **settings)
    rows, columns = torch.randperm(N), torch.randperm(K)
    of_rows = balanced_labels(Z[rows], C, **settings)
    assert torch.equal(of_rows.labels, found.labels[rows])
    torch.testing.assert_close(of_rows.weights, found.weights[rows])
    of_columns = balanced_labels(Z, C[columns], **settings)
    assert torch.equal(columns[of_columns.labels], found.labels)
    torch.testing.assert_close(of_columns.weights, found.weights)


@pytest.mark.parametrize("of", ["rows", "columns"])
def test_a_shift_of_a_row_or_column_of_scores_does_not_matter(of):
    """By one more dimension: the shift in one factor, 1 in the other."""
    Z, C = unit_rows(N), unit_rows(K, seed=1)
    settings = {"num_labels": 2, "tolerance": 1e-9, "max_iterations": 5000}
    found = balanced_labels(Z, C, **settings)
    rows, columns = torch.ones(N, 1).double(), torch.ones(K, 1).double()
    (rows if of == "rows" else columns).copy_(
        torch.linspace(-3, 2, N if of == "rows" else K)[:, None]
    )
    shifted = balanced_labels(
        torch.cat([Z, rows], dim=1), torch.cat([C, columns], dim=1), **settings
    )
    assert torch.equal(shifted.labels, found.labels)
    torch.testing.assert_close(shifted.weights, found.weights, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", FLOATS)
def test_large_epsilon_gives_one_kth(dtype):
    Z, C = unit_rows(N, dtype=dtype), unit_rows(K, seed=1)
    found = balanced_labels(Z, C, epsilon=1e6, num_labels=K)
    assert (found.weights - 1 / K).abs().max() < 1e-6
    assert found.error < 1e-5


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_scores_whose_exponential_overflows(dtype, scale):
    """exp(S / eps) reaches exp(1000) and exp(50 000)."""
    Z, C = unit_rows(N, dtype=dtype), unit_rows(K, seed=1) * scale
    found = balanced_labels(Z, C, epsilon=1e-3, max_iterations=5, num_labels=2)
    assert (
        found.num_iterations == 5 and np.isfinite([found.error, found.objective]).all()
    )
    assert (
        torch.isfinite(found.weights).all() and torch.isfinite(found.log_scaling).all()
    )
    torch.testing.assert_close(
        found.weights.sum(dim=1), torch.ones(N, dtype=found.weights.dtype)
    )


def test_a_small_epsilon_comes_near_the_equal_hard_partition():
    """N = K: a permutation, the assignment of least cost."""
    optimize = pytest.importorskip("scipy.optimize")
    Z, C = unit_rows(12), unit_rows(12, seed=1)
    found = balanced_labels(
        Z, C, epsilon=2e-3, tolerance=1e-3, max_iterations=50_000, num_labels=1
    )
    _, best = optimize.linear_sum_assignment(-dense_scores(Z, C).numpy())
    assert found.labels[:, 0].tolist() == best.tolist()


def test_soft_labels_are_the_largest_codes_scaled_to_sum_to_one():
    Z, C = unit_rows(N), unit_rows(K, seed=1)
    Q = dense_codes(Z, C, 0.05)
    for L in (1, 3, K):
        found = balanced_labels(Z, C, tolerance=1e-9, num_labels=L, max_iterations=5000)
        largest, labels = Q.topk(L, dim=1)
        assert torch.equal(found.labels, labels)
        expected = largest / largest.sum(dim=1, keepdim=True)
        torch.testing.assert_close(found.weights, expected, rtol=1e-5, atol=1e-8)


def test_fewer_rows_than_prototypes():
    Z, C = unit_rows(3), unit_rows(K, seed=1)
    found = balanced_labels(Z, C, tolerance=1e-9, max_iterations=20_000, num_labels=K)
    Q = codes_of(found, Z, C, 0.05)
    torch.testing.assert_close(Q, dense_codes(Z, C, 0.05), rtol=0, atol=1e-6)
    assert share_error(Q) < 1e-8  # Three sevenths of an image each.
