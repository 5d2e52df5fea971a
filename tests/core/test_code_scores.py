"""SwAV whose codes, and queue, come from another encoder."""

import collections

import gloo
import programs
import pytest
import reference
import torch
import virtual_ranks

from vissl_swav.core.feature_queue import FeatureQueue
from vissl_swav.core.momentum import update_momentum_
from vissl_swav.core.prototypes import normalize_rows_
from vissl_swav.core.scored_rows import ScoredRows
from vissl_swav.core.sinkhorn import balanced_codes, sinkhorn
from vissl_swav.core.swapped_prediction import swapped_prediction_loss
from vissl_swav.core.swav import SwAV

B, D, K, PIXELS = 5, 4, 6, 7


def unit(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(*shape, generator=generator, dtype=dtype)
    return torch.nn.functional.normalize(rows, dim=-1)


def encode(weights, images):
    """[embeddings, scores] of a linear encoder."""
    Z = torch.nn.functional.normalize(images @ weights[0].t(), dim=1)
    return Z, Z @ weights[1].t()


@pytest.mark.parametrize(
    ("num_crops", "assign"),
    [(2, (0, 1)), (4, (0, 2)), (3, (2,)), (5, (3, 0, 4)), (8, (0, 1))],
)
@pytest.mark.parametrize("of_student", [False, True])
def test_training_equals_the_loop_oracle(num_crops, assign, of_student):
    """Steps of a linear encoder: codes, the queue's rows and the average, by loops."""
    student = [unit(D, PIXELS, seed=1), unit(K, D, seed=2)]
    teacher = [weight.clone() for weight in student]
    theirs = [weight.numpy().copy() for weight in teacher]
    student = [weight.requires_grad_() for weight in student]
    queues = [collections.deque(maxlen=2 * B) for _ in assign]
    swav = SwAV(
        num_crops=num_crops,
        num_prototypes=[K],
        embedding_dim=D,
        crops_for_assign=assign,
        queue_length=2 * B,
    ).double()
    for step in range(5):
        images = unit(num_crops * B, PIXELS, seed=10 + step)
        expected = reference.momentum_swav_loss(
            [weight.detach().numpy() for weight in student],
            theirs,
            images.numpy(),
            queues,
            num_crops=num_crops,
            crops_for_assign=assign,
            of_student=of_student,
        )
        of_assign = swav.layout.assignment_rows(images).flatten(0, 1)
        Z, code_scores = encode(teacher, of_assign)
        prototypes = student[1].detach() if of_student else teacher[1]
        loss = swav(
            [encode(student, images)[1]],
            code_scores=[Z @ prototypes.t()] if of_student else [code_scores],
            queue_scores=swav.score_queue([prototypes]),
        )
        swav.finish_step(Z, of_assignment_crops=True)
        assert loss.item() == pytest.approx(expected, rel=1e-9), step
        loss.backward()
        with torch.no_grad():
            for weight in student:
                weight -= 0.5 * weight.grad
                weight.grad = None
            normalize_rows_(student[1])
        update_momentum_(teacher, student, 0.7)
        normalize_rows_(teacher[1])
        theirs = [
            reference.momentum_average(t, s.detach(), 0.7)
            for t, s in zip(theirs, student, strict=True)
        ]
        theirs[1] = reference.unit_rows(theirs[1])
    assert swav.queue.is_full and swav.steps_finished == 5


def test_an_encoder_equal_to_the_student_is_swav_bit_for_bit():
    V, assign, heads = 4, (0, 2), (6, 9)
    scores = [unit(V * B, k, seed=k, dtype=torch.float32) for k in heads]
    codes = [s.reshape(V, B, -1)[list(assign)].flatten(0, 1) for s in scores]
    mine = [s.clone().requires_grad_() for s in scores]
    plain = [s.clone().requires_grad_() for s in scores]
    settings = {"num_crops": V, "crops_for_assign": assign}
    loss = swapped_prediction_loss(mine, code_scores=codes, **settings)
    expected = swapped_prediction_loss(plain, **settings)
    loss.backward()
    expected.backward()
    assert torch.equal(loss, expected)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(mine, plain, strict=True))


def test_codes_of_half_precision_and_of_double_students():
    codes = unit(2 * B, K, seed=1, dtype=torch.float32)
    scores = unit(3 * B, K, seed=2)
    exact = swapped_prediction_loss(scores, num_crops=3, code_scores=codes)
    assert exact.dtype == torch.float64
    half = swapped_prediction_loss(
        scores.float(), num_crops=3, code_scores=codes.bfloat16()
    )
    torch.testing.assert_close(half.double(), exact, rtol=1e-2, atol=0)


@pytest.mark.parametrize("shape", [(3 * B, K), (B, K), (2 * B, K + 1)])
def test_code_scores_of_other_rows_are_refused(shape):
    with pytest.raises(ValueError, match="the 2 assignment crops alone"):
        swapped_prediction_loss(
            torch.zeros(3 * B, K), num_crops=3, code_scores=torch.zeros(shape)
        )


@pytest.mark.parametrize("rows_at_once", [1, 4, 7, 100])
@pytest.mark.parametrize("epsilon", [0.05, 0.005])
@pytest.mark.parametrize("hard", [False, True])
def test_rows_scored_in_chunks_are_the_same_problem(rows_at_once, epsilon, hard):
    L, widths = 23, (K, 11)
    C = [unit(k, D, seed=k) for k in widths]
    Z, queue = unit(B, D, seed=3), unit(L, D, seed=4)
    more = [ScoredRows(queue, c, bytes_at_once=rows_at_once * 8 * len(c)) for c in C]
    assert [rows.fit_at_once for rows in more] == [rows_at_once >= L] * 2
    assert max(len(S) for S in more[0].chunks()) == min(L, rows_at_once)
    settings = {"epsilon": epsilon, "num_iterations": 4}
    codes, count = balanced_codes(
        [Z @ c.t() for c in C], more_rows=more, hard=hard, **settings
    )
    for Q, c in zip(codes, C, strict=True):
        whole = sinkhorn(torch.cat([Z, queue]) @ c.t(), hard=hard, **settings)[:B]
        torch.testing.assert_close(Q, whole, rtol=1e-9, atol=1e-12)
        if not hard:
            oracle = reference.sinkhorn_codes(torch.cat([Z, queue]) @ c.t(), epsilon, 4)
            torch.testing.assert_close(Q, torch.from_numpy(oracle[:B]))
    assert count == B


def test_more_rows_for_some_problems_are_refused():
    C = unit(K, D)
    with pytest.raises(ValueError, match="1 of 2 problems"):
        balanced_codes(
            [torch.zeros(B, K)] * 2,
            epsilon=0.05,
            num_iterations=3,
            more_rows=[ScoredRows(unit(3, D), C)],
        )


def sharded(world, V=4, assign=(0, 2)):
    """Uneven shards of one step, and the loss and gradient of the whole."""
    sizes, rows = [5, 2, 1][:world], [9, 7, 4][:world]
    C = unit(K, D, seed=1)
    scores = unit(V, sum(sizes), K, seed=2)
    codes = unit(len(assign), sum(sizes), D, seed=3) @ C.t()
    queues = unit(len(assign), sum(rows), D, seed=4)
    settings = {"num_crops": V, "crops_for_assign": assign}
    whole = scores.flatten(0, 1).requires_grad_()
    loss = swapped_prediction_loss(
        whole, code_scores=codes.flatten(0, 1), queue_scores=queues @ C.t(), **settings
    )
    loss.backward()
    shards = [
        (s.flatten(0, 1), c.flatten(0, 1), q, C)
        for s, c, q in zip(
            scores.split(sizes, 1),
            codes.split(sizes, 1),
            queues.split(rows, 1),
            strict=True,
        )
    ]
    return shards, settings, (loss.detach(), whole.grad.reshape(V, -1, K))


def check(results, expected):
    loss, gradient = expected
    torch.testing.assert_close(torch.stack([r[0] for r in results]).mean(), loss)
    V = gradient.shape[0]
    gathered = torch.cat([r[1].reshape(V, -1, K) for r in results], dim=1)
    torch.testing.assert_close(gathered / len(results), gradient)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shards_equal_one_process(world):
    """Loss and gradient; uneven batches and queues, scored in chunks."""
    shards, settings, expected = sharded(world)
    results = virtual_ranks.run(
        lambda ranks: programs.chunked_step(ranks, shards, settings), world
    )
    check(results, expected)


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_gloo_processes_equal_one(world):
    shards, settings, expected = sharded(world)
    check(gloo.run(programs.chunked_step_of_rank, world, shards, settings), expected)


def test_swav_scores_a_long_queue_in_chunks_only(monkeypatch):
    """Same loss with a bound on the scores; the queue's own are never whole."""
    from vissl_swav.core import feature_queue

    swav = SwAV(
        num_crops=2, num_prototypes=[K, 8], embedding_dim=D, queue_length=40
    ).double()
    C = [unit(k, D, seed=k) for k in (K, 8)]
    for step in range(4):
        swav.finish_step(unit(20, D, seed=step), of_assignment_crops=True)
    scores = [unit(2 * B, D, seed=9) @ c.t() for c in C]
    whole = swav.score_queue(C)
    assert [tuple(S.shape) for S in whole] == [(2, 40, K), (2, 40, 8)]
    expected = swav(scores, queue_scores=whole)

    def few(Z, prototypes):
        return ScoredRows(Z, prototypes, bytes_at_once=500)

    monkeypatch.setattr(feature_queue, "ScoredRows", few)
    rows = swav.score_queue(C)
    assert all(isinstance(r, ScoredRows) for head in rows for r in head)
    torch.testing.assert_close(swav(scores, queue_scores=rows), expected)
    with pytest.raises(ValueError, match="assignment crops, queue length"):
        swav(scores, queue_scores=rows[:1])


def test_a_long_queue_takes_three_chunks_at_most():
    """Bytes that torch's CPU allocator hands out, beyond those of the batch."""
    from torch.profiler import ProfilerActivity, profile

    L, wide, chunk = 6000, 400, 512 * 1024
    C, queue = unit(wide, D, dtype=torch.float32), unit(L, D, dtype=torch.float32)
    S = unit(B, D, dtype=torch.float32) @ C.t()
    rows = ScoredRows(queue, C, bytes_at_once=chunk)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        balanced_codes([S], epsilon=0.05, num_iterations=3, more_rows=[rows])
    in_use = peak = 0
    for event in log.profiler.kineto_results.events():
        if event.name() == "[memory]":
            in_use += event.nbytes()
            peak = max(peak, in_use)
    assert chunk / 2 < peak < 3.2 * chunk < 4 * L * wide / 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_queue_in_half_precision(dtype):
    """Half the bytes; codes as those of exact features to three digits."""
    word = str(dtype).removeprefix("torch.")
    swav = SwAV(
        num_crops=2,
        num_prototypes=[K],
        embedding_dim=D,
        queue_length=8,
        queue_dtype=word,
    )
    Z = unit(16, D, seed=1, dtype=torch.float32)
    swav.finish_step(Z)
    assert swav.queue.features.dtype == dtype
    C = unit(K, D, seed=2, dtype=torch.float32)
    (scores,) = swav.score_queue([C])
    exact = Z.reshape(2, 8, D) @ C.t()
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, exact, rtol=0, atol=1e-2)
    chunk = next(iter(swav.queue.rows(C)[0].chunks()))
    torch.testing.assert_close(chunk, scores[0])
    fresh = FeatureQueue(num_assign_crops=2, length=8, dim=D, dtype=dtype)
    fresh.load_state_dict(swav.queue.state_dict())
    assert torch.equal(fresh.features, swav.queue.features) and fresh.is_full


def test_another_dtype_is_refused():
    with pytest.raises(ValueError, match="queue_dtype is 'int8'; wanted one of"):
        SwAV(num_crops=2, num_prototypes=[K], embedding_dim=D, queue_dtype="int8")
