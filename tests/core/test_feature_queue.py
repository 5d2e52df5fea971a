import collections

import gloo
import programs
import pytest
import torch

from vissl_swav.core.feature_queue import FeatureQueue
from vissl_swav.core.prototypes import Prototypes, normalize_rows_
from vissl_swav.core.swapped_prediction import swapped_prediction_loss


@pytest.mark.parametrize("length", [1, 4, 7, 12])
@pytest.mark.parametrize("batches", [[4, 4, 4, 4], [5, 3, 9, 1, 2], [20, 1], [3, 0, 6]])
def test_holds_what_a_deque_holds(length, batches):
    queue = FeatureQueue(num_assign_crops=2, length=length, dim=3)
    oracles = [collections.deque(maxlen=length) for _ in range(2)]
    stored = 0
    for step, size in enumerate(batches):
        batch = torch.randn(2, size, 3) + step
        assert queue.is_full == (stored >= length)
        queue.push(batch)
        stored += size
        for crop, oracle in enumerate(oracles):
            oracle.extend(map(tuple, batch[crop].tolist()))
            count = int(queue.num_filled)
            assert count == len(oracle)
            rows = queue.features[crop, :count] if count < length else None
            rows = queue.features[crop] if rows is None else rows
            assert sorted(map(tuple, rows.tolist())) == sorted(oracle)


def test_scores_use_the_prototypes_of_today():
    queue = FeatureQueue(num_assign_crops=1, length=4, dim=3)
    queue.push(torch.randn(1, 4, 3))
    prototypes = torch.randn(5, 3, requires_grad=True)
    scores = queue.score(prototypes)
    torch.testing.assert_close(scores[0], queue.features[0] @ prototypes.detach().t())
    assert scores.shape == (1, 4, 5) and not scores.requires_grad


def test_state_round_trip_in_mid_fill():
    queue = FeatureQueue(num_assign_crops=2, length=8, dim=3)
    queue.push(torch.randn(2, 5, 3))
    copy = FeatureQueue(num_assign_crops=2, length=8, dim=3)
    copy.load_state_dict(queue.state_dict())
    batch = torch.randn(2, 5, 3)
    for one in (queue, copy):
        assert not one.is_full
        one.push(batch)
        assert one.is_full
    assert all(
        torch.equal(value, copy.state_dict()[key])
        for key, value in queue.state_dict().items()
    )


def test_push_errors():
    queue = FeatureQueue(num_assign_crops=2, length=8, dim=3)
    with pytest.raises(ValueError, match="wanted \\(2, B, 3\\)"):
        queue.push(torch.zeros(2, 5, 4))
    for length in (0, 2.0):
        with pytest.raises(ValueError, match=f"length is {length}; wanted"):
            FeatureQueue(num_assign_crops=2, length=length, dim=3)


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.bool])
def test_a_type_that_holds_no_features_is_refused(dtype):
    """Whole numbers stored zeros without a word: unit features lie below 1."""
    with pytest.raises(ValueError, match="wanted a floating-point type"):
        FeatureQueue(num_assign_crops=1, length=2, dim=3, dtype=dtype)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_scores_are_exact_ones_whatever_is_stored(dtype):
    queue = FeatureQueue(num_assign_crops=1, length=2, dim=3, dtype=dtype)
    queue.push(torch.randn(1, 2, 3))
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    assert queue.features.dtype == dtype
    assert queue.score(torch.eye(3)).dtype == wanted
    assert torch.equal(queue.score(torch.eye(3)), queue.features.to(wanted))


@pytest.mark.parametrize("shape", [(3,), (5, 4), (1, 5, 3)])
def test_prototypes_that_cannot_score_the_rows_are_refused(shape):
    """A row (D,) would give (A, L): a queue of one prototype fewer dimensions."""
    queue = FeatureQueue(num_assign_crops=2, length=4, dim=3)
    queue.push(torch.randn(2, 4, 3))
    for score in (queue.score, queue.rows):
        with pytest.raises(ValueError, match=r"wanted \(K, 3\)"):
            score(torch.zeros(shape))


def test_two_processes_with_queues_equal_one():
    """Each rank keeps its rows; the union is the queue of a single process."""
    V, B, D, K, steps = 2, 3, 4, 6, 5
    torch.manual_seed(0)
    unit = torch.nn.functional.normalize
    features = [
        [unit(torch.randn(V * B, D), dim=1) for _ in range(2)] for _ in range(steps)
    ]
    prototypes = unit(torch.randn(K, D), dim=1)
    settings = {"num_crops": V}
    whole = [
        [torch.cat([z.reshape(V, B, D) for z in step], dim=1).reshape(-1, D)]
        for step in features
    ]
    queue = FeatureQueue(num_assign_crops=2, length=4 * B, dim=D)
    expected = []
    for (Z,) in whole:
        expected.append(
            swapped_prediction_loss(
                Z @ prototypes.t(),
                queue_scores=queue.score(prototypes) if queue.is_full else None,
                **settings,
            )
        )
        queue.push(Z.reshape(V, -1, D)[:2])
    results = gloo.run(
        programs.queue_losses_of_shard, 2, features, prototypes, settings, 2 * B
    )
    torch.testing.assert_close(torch.stack(results).mean(0), torch.stack(expected))


def test_prototypes_have_unit_rows_no_bias_and_several_heads():
    prototypes = Prototypes(8, [5, 7])
    assert [tuple(p.shape) for p in prototypes.parameters()] == [(5, 8), (7, 8)]
    scores = prototypes(torch.randn(3, 8))
    assert [tuple(s.shape) for s in scores] == [(3, 5), (3, 7)]
    with torch.no_grad():
        for weight in prototypes.parameters():
            weight.mul_(3)
    prototypes.normalize_()
    for weight in prototypes.parameters():
        torch.testing.assert_close(weight.norm(dim=1), torch.ones(weight.shape[0]))
    fixed = Prototypes(8, [5], trainable=False)
    assert not any(weight.requires_grad for weight in fixed.parameters())


def test_normalising_leaves_a_zero_row():
    weight = normalize_rows_(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(weight, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_prototype_errors():
    with pytest.raises(ValueError, match="at least one head"):
        Prototypes(8, [])
