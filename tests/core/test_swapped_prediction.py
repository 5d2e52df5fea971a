import json
import math

import gloo
import numpy as np
import programs
import pytest
import reference
import torch
import virtual_ranks

from vissl_swav.core.swapped_prediction import swapped_prediction_loss


def random_scores(rows, K, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, K, generator=generator, dtype=dtype) * 1.6 - 0.8


@pytest.mark.parametrize("case", range(5))
def test_goldens(shared, case):
    golden = np.load(shared / "golden" / "swav_loss.npz")
    config = json.loads(str(golden[f"loss_{case}_config"]))
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-4)):
        scores = torch.from_numpy(golden[f"loss_{case}_scores"]).to(dtype)
        scores.requires_grad_()
        loss = swapped_prediction_loss(
            scores,
            num_crops=config["num_crops"],
            crops_for_assign=config["crops_for_assign"],
            temperature=config["temperature"],
            epsilon=config["epsilon"],
            num_iterations=config["num_iters"],
        )
        loss.backward()
        value = torch.tensor(golden[f"loss_{case}_value"], dtype=dtype)
        torch.testing.assert_close(loss, value, rtol=tolerance, atol=0)
        gradient = torch.from_numpy(golden[f"loss_{case}_grad"]).to(dtype)
        scale = gradient.abs().max()
        assert (scores.grad - gradient).abs().max() <= tolerance * scale


@pytest.mark.parametrize("num_crops", [2, 3, 5])
@pytest.mark.parametrize("assign", [(0,), (0, 1), (1, 0), (1,)])
@pytest.mark.parametrize("hard", [False, True])
def test_equals_the_loop_oracle(num_crops, assign, hard):
    B, K = 6, 7
    scores = random_scores(num_crops * B, K, seed=num_crops)
    codes = []
    for i in assign:
        code = reference.sinkhorn_codes(scores[i * B : (i + 1) * B].numpy(), 0.05, 3)
        codes.append(np.eye(K)[code.argmax(1)] if hard else code)
    expected = reference.swav_loss(scores.numpy(), num_crops, assign, 0.1, codes)
    loss = swapped_prediction_loss(
        scores, num_crops=num_crops, crops_for_assign=assign, hard_codes=hard
    )
    assert loss.item() == pytest.approx(expected, rel=1e-10)


def test_queue_scores_join_the_sinkhorn_problem_alone():
    B, K, L = 5, 8, 12
    scores, queue = random_scores(2 * B, K), random_scores(2 * L, K, seed=9)
    queue = queue.reshape(2, L, K)
    codes = [
        reference.sinkhorn_codes(
            torch.cat([scores[i * B : (i + 1) * B], queue[i]]).numpy(), 0.05, 3
        )[:B]
        for i in (0, 1)
    ]
    expected = reference.swav_loss(scores.numpy(), 2, (0, 1), 0.1, codes)
    loss = swapped_prediction_loss(scores, num_crops=2, queue_scores=queue)
    assert loss.item() == pytest.approx(expected, rel=1e-10)


def test_several_heads_are_averaged():
    heads = [random_scores(9, 5, seed=1), random_scores(9, 11, seed=2)]
    settings = {"num_crops": 3}
    alone = [swapped_prediction_loss(head, **settings) for head in heads]
    together = swapped_prediction_loss(heads, **settings)
    torch.testing.assert_close(together, sum(alone) / 2)


def test_gradient_is_that_of_cross_entropy_with_constant_codes():
    """Finite differences with the codes held fixed (eq. 2 has no gradient in Q)."""
    B, K, V = 4, 5, 3
    scores = random_scores(V * B, K).requires_grad_()
    loss = swapped_prediction_loss(scores, num_crops=V)
    (3.0 * loss).backward()
    codes = [
        reference.sinkhorn_codes(scores[i * B : (i + 1) * B].detach().numpy(), 0.05, 3)
        for i in (0, 1)
    ]
    base = scores.detach().numpy()
    for row, column in [(0, 0), (5, 2), (11, 4), (8, 1)]:
        values = []
        for step in (1e-6, -1e-6):
            moved = base.copy()
            moved[row, column] += step
            values.append(reference.swav_loss(moved, V, (0, 1), 0.1, codes))
        slope = 3.0 * (values[0] - values[1]) / 2e-6
        assert scores.grad[row, column].item() == pytest.approx(slope, rel=1e-5)


def test_equal_features_give_ln_k():
    scores = torch.full((12, 3000), 0.3)
    loss = swapped_prediction_loss(scores, num_crops=3)
    assert loss.item() == pytest.approx(math.log(3000), abs=1e-4)


def test_floor_is_ln_k_over_n():
    """Over-fitting cannot pass ln(K / N): here the best scores for N = 4, K = 32."""
    N, K = 4, 32
    scores = torch.full((2 * N, K), -1.0)
    for crop in range(2):
        for b in range(N):
            scores[crop * N + b, b * 8 : (b + 1) * 8] = 1.0
    loss = swapped_prediction_loss(scores, num_crops=2, temperature=0.05)
    assert loss.item() == pytest.approx(math.log(K / N), abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores(dtype):
    scores = random_scores(12, 9, dtype=torch.float32).to(dtype).requires_grad_()
    full = scores.detach().float().requires_grad_()
    loss = swapped_prediction_loss(scores, num_crops=3)
    expected = swapped_prediction_loss(full, num_crops=3)
    loss.backward()
    expected.backward()
    assert loss.dtype == torch.float32 and scores.grad.dtype == dtype
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(scores.grad.float(), full.grad, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("world_size", [2, 3])
def test_shards_equal_one_process(world_size):
    """Value, gradient and collectives; uneven shards, two heads, V = 3."""
    V, sizes = 3, [5, 2, 1][:world_size]
    widths = (6, 10)
    heads = [random_scores(V * sum(sizes), K, seed=K) for K in widths]
    by_crop = [head.reshape(V, sum(sizes), -1) for head in heads]
    starts = np.cumsum([0, *sizes])
    shards = [
        [
            head[:, starts[r] : starts[r + 1]].reshape(-1, head.shape[2])
            for head in by_crop
        ]
        for r in range(world_size)
    ]
    whole = [head.clone().requires_grad_() for head in heads]
    expected = swapped_prediction_loss(whole, num_crops=V)
    expected.backward()
    settings = {"num_crops": V, "num_iterations": 3}
    results = gloo.run(programs.loss_of_shard, world_size, shards, settings)
    # DDP averages gradients, the host's log averages losses.
    mean = torch.stack([loss for loss, _, _ in results]).mean()
    torch.testing.assert_close(mean, expected.detach())
    for h, head in enumerate(whole):
        parts = [grads[h].reshape(V, -1, head.shape[1]) for _, grads, _ in results]
        gathered = torch.cat(parts, dim=1).reshape(head.shape) / world_size
        torch.testing.assert_close(gathered, head.grad)
    assert all(calls <= 3 + 1 for _, _, calls in results)


@pytest.mark.parametrize("queue", [None, random_scores(2 * 4, 6).reshape(2, 4, 6)])
def test_no_sample_gives_0_and_gradient_0(queue):
    scores = torch.zeros(0, 6, requires_grad=True)
    loss = swapped_prediction_loss(scores, num_crops=3, queue_scores=queue)
    loss.backward()
    assert loss.item() == 0 and scores.grad.shape == (0, 6)


@pytest.mark.parametrize("sizes", [(4, 0), (0, 3, 0), (0, 0)])
def test_processes_without_samples_add_nothing(sizes):
    """Their loss is 0, the others' is that of one process; all without: 0."""
    V, K = 3, 6
    whole = random_scores(V * sum(sizes), K).requires_grad_()
    expected = swapped_prediction_loss(whole, num_crops=V)
    expected.backward()
    parts = whole.detach().reshape(V, -1, K).split(list(sizes), dim=1)

    def program(ranks):
        S = parts[ranks.rank].flatten(0, 1).requires_grad_()
        loss = swapped_prediction_loss(S, num_crops=V, collective=ranks)
        loss.backward()
        return loss.detach(), S.grad.reshape(V, -1, K)

    results = virtual_ranks.run(program, len(sizes))
    losses = torch.stack([loss for loss, _ in results])
    torch.testing.assert_close(losses.mean(), expected.detach())
    assert [bool(loss) for loss in losses] == [size > 0 for size in sizes]
    gathered = torch.cat([grad for _, grad in results], dim=1) / len(sizes)
    torch.testing.assert_close(gathered, whole.grad.reshape(V, -1, K))


def test_peak_memory_is_at_most_two_score_matrices():
    """Bytes that torch's CPU allocator hands out between entry and gradient."""
    from torch.profiler import ProfilerActivity, profile

    V, B, K = 8, 64, 1000
    scores = torch.randn(V * B, K).requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        swapped_prediction_loss(scores, num_crops=V).backward()
    in_use = peak = 0
    for event in log.profiler.kineto_results.events():
        if event.name() == "[memory]":
            in_use += event.nbytes()
            peak = max(peak, in_use)
    matrix = scores.numel() * scores.element_size()
    assert matrix < peak <= 2.05 * matrix


@pytest.mark.parametrize(
    ("scores", "settings", "words"),
    [
        (torch.zeros(7, 3), {"num_crops": 2}, "got 7 rows for 2 crops"),
        (torch.zeros(4, 3), {"num_crops": 1, "crops_for_assign": [0]}, "needs two"),
        (torch.zeros(4, 3), {"num_crops": 2, "crops_for_assign": [0, 2]}, "each in 0"),
        (torch.zeros(4, 3), {"num_crops": 2, "crops_for_assign": [0, 0]}, "once"),
        (torch.zeros(4, 3), {"num_crops": 2, "temperature": 0}, "temperature is 0"),
        (
            torch.zeros(4, 3),
            {"num_crops": 2, "queue_scores": torch.zeros(1, 5, 3)},
            "assignment crops, queue length, prototypes",
        ),
        ([], {"num_crops": 2}, "got no scores"),
    ],
)
def test_errors_say_what_was_wanted(scores, settings, words):
    with pytest.raises(ValueError, match=words):
        swapped_prediction_loss(scores, **settings)
