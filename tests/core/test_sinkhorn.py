import gloo
import numpy as np
import programs
import pytest
import reference
import torch

from vissl_swav.core.sinkhorn import balanced_codes, sinkhorn


def random_scores(B, K, *, seed=0, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return scale * (torch.rand(B, K, generator=generator, dtype=dtype) * 2 - 1)


def plain(scores, epsilon, num_iterations):
    Q = reference.sinkhorn_codes(scores.double().numpy(), epsilon, num_iterations)
    return torch.from_numpy(Q)


@pytest.mark.parametrize("case", range(6))
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_goldens(shared, case, world_size):
    golden = np.load(shared / "golden" / "sinkhorn.npz")
    scores = torch.from_numpy(golden[f"sinkhorn_{case}_scores"])
    epsilon, iterations = golden[f"sinkhorn_{case}_eps_iters"]
    settings = {"epsilon": float(epsilon), "num_iterations": int(iterations)}
    expected = torch.from_numpy(golden[f"sinkhorn_{case}_codes_ws{world_size}"])
    if world_size == 1:
        codes = sinkhorn(scores, **settings)
    elif case % 2 == 0 or world_size == 2:
        shards = torch.chunk(scores, world_size)
        codes = torch.cat(
            gloo.run(programs.codes_of_shard, world_size, shards, settings)
        )
    else:  # The other cases at 4 processes: in one process, over the same shards.
        codes = torch.cat(in_one_process(torch.chunk(scores, world_size), settings))
    torch.testing.assert_close(codes, expected, rtol=1e-4, atol=1e-6)


class Shards:
    """A collective for threads of one test: all shards in lock step."""

    def __init__(self, barrier, slots, rank):
        self.barrier, self.slots, self.rank = barrier, slots, rank

    @property
    def world_size(self):
        return len(self.slots)

    def all_gather(self, tensor):
        self.slots[self.rank] = tensor.clone()
        self.barrier.wait()
        out = torch.stack(self.slots)
        self.barrier.wait()
        return out

    def all_reduce_sum(self, tensor):
        return self.all_gather(tensor).sum(0)


def in_one_process(shards, settings):
    import threading
    from concurrent.futures import ThreadPoolExecutor

    barrier, slots = threading.Barrier(len(shards)), [None] * len(shards)
    with ThreadPoolExecutor(len(shards)) as pool:
        futures = [
            pool.submit(
                sinkhorn, shard, collective=Shards(barrier, slots, rank), **settings
            )
            for rank, shard in enumerate(shards)
        ]
        return [future.result(timeout=60) for future in futures]


@pytest.mark.parametrize("num_iterations", [1, 3, 10])
@pytest.mark.parametrize("shape", [(17, 5), (4, 30), (1, 6), (8, 1)])
def test_equals_the_loop_oracle(shape, num_iterations):
    scores = random_scores(*shape, seed=1)
    codes = sinkhorn(scores, epsilon=0.05, num_iterations=num_iterations)
    expected = plain(scores, 0.05, num_iterations)
    torch.testing.assert_close(codes, expected, rtol=1e-10, atol=1e-12)


def test_float32_within_1e_4_of_float64_for_large_scores():
    for epsilon in (0.05, 0.03, 0.005):
        for seed in range(5):
            scores = random_scores(64, 100, seed=seed, scale=10, dtype=torch.float32)
            codes = sinkhorn(scores, epsilon=epsilon)
            expected = plain(scores, epsilon, 3)
            assert (codes - expected).abs().max() < 1e-4, (epsilon, seed)


@pytest.mark.parametrize("epsilon", [0.005, 0.05])
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("shape", [(64, 20), (16, 300), (1, 50)])
def test_finite_with_unit_rows_at_the_extremes(epsilon, scale, shape):
    scores = random_scores(*shape, scale=scale, dtype=torch.float32)
    scores[0] = scale  # an outlier: one sample at the top of every prototype
    codes = sinkhorn(scores, epsilon=epsilon)
    assert torch.isfinite(codes).all()
    torch.testing.assert_close(codes.sum(1), torch.ones(shape[0]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("epsilon", [0.005, 0.05])
@pytest.mark.parametrize("shape", [(64, 20), (16, 300)])
def test_prototypes_get_the_exact_shares_at_the_extremes(epsilon, shape):
    scores = random_scores(*shape, dtype=torch.float32)
    scores[0] = 1.0
    codes = sinkhorn(scores, epsilon=epsilon).double()
    expected = plain(scores, epsilon, 3)
    torch.testing.assert_close(codes.sum(0), expected.sum(0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("where", ["one row", "one score", "one prototype", "all"])
@pytest.mark.parametrize("epsilon", [0.005, 0.05])
def test_scores_of_1e4_cost_the_others_no_digits(where, epsilon):
    """Against float64 on the same float32 scores: an offset is rounded in the input."""
    scores = random_scores(32, 40, dtype=torch.float32)
    rows = slice(None) if where in ("one prototype", "all") else 3
    columns = slice(None) if where in ("one row", "all") else 7
    scores[rows, columns] += 1e4
    codes = sinkhorn(scores, epsilon=epsilon).double()
    expected = plain(scores, epsilon, 3)
    assert (codes - expected).abs().max() < 1e-4


def test_both_marginals_at_convergence():
    scores = random_scores(60, 12, seed=3)
    codes = sinkhorn(scores, num_iterations=500)
    torch.testing.assert_close(codes.sum(1), torch.ones(60, dtype=torch.float64))
    torch.testing.assert_close(
        codes.sum(0), torch.full((12,), 5.0, dtype=torch.float64), rtol=1e-6, atol=1e-6
    )


def test_tolerance_stops_at_balanced_prototypes():
    scores = random_scores(60, 12, seed=3)
    codes = sinkhorn(scores, num_iterations=10_000, tolerance=1e-6)
    assert ((codes.sum(0) - 5.0).abs() / 5.0).max() <= 1.01e-6
    loose = sinkhorn(scores, num_iterations=10_000, tolerance=0.2)
    assert ((loose.sum(0) - 5.0).abs() / 5.0).max() > 1e-6


def test_pot_agrees_at_convergence():
    ot = pytest.importorskip("ot")
    scores = random_scores(24, 9, seed=4)
    plan = ot.sinkhorn(
        np.full(24, 1 / 24),
        np.full(9, 1 / 9),
        -scores.numpy(),
        reg=0.1,
        method="sinkhorn_log",
        stopThr=1e-13,
        numItermax=10_000,
    )
    codes = sinkhorn(scores, epsilon=0.1, num_iterations=2000)
    torch.testing.assert_close(codes, torch.from_numpy(plan) * 24, rtol=1e-6, atol=1e-9)


def test_differential_check_against_vissl(host):
    from vissl.losses.distibuted_sinkhornknopp import distributed_sinkhornknopp

    scores = random_scores(32, 10, seed=5, dtype=torch.float32)
    theirs = distributed_sinkhornknopp(
        Q=torch.exp(scores / 0.05).t(),
        hard_assignment=False,
        world_size=1,
        num_iter=3,
        use_gpu=False,
        use_double_prec=False,
    )
    torch.testing.assert_close(sinkhorn(scores), theirs, rtol=1e-4, atol=1e-6)


def test_invariance_to_a_shift_of_all_scores_and_of_one_prototype():
    scores = random_scores(20, 7)
    codes = sinkhorn(scores)
    torch.testing.assert_close(sinkhorn(scores + 3.0), codes)
    shifted = scores.clone()
    shifted[:, 2] += 5.0
    torch.testing.assert_close(sinkhorn(shifted), codes)


def test_a_shift_per_sample_is_another_problem_at_three_iterations():
    scores = random_scores(20, 7)
    shifted = scores - scores.amax(dim=1, keepdim=True)
    assert (sinkhorn(shifted) - sinkhorn(scores)).abs().max() > 1e-3


def test_permutations_go_through():
    scores = random_scores(20, 7)
    rows, columns = torch.randperm(20), torch.randperm(7)
    permuted = sinkhorn(scores[rows][:, columns])
    torch.testing.assert_close(permuted, sinkhorn(scores)[rows][:, columns])


def test_limits_of_epsilon():
    scores = random_scores(30, 6)
    uniform = sinkhorn(scores, epsilon=1e9)
    torch.testing.assert_close(uniform, torch.full_like(uniform, 1 / 6))
    sharp = sinkhorn(scores, epsilon=1e-3, num_iterations=5000)
    from scipy.optimize import linear_sum_assignment

    cost = -scores.numpy().repeat(5, axis=1)  # 5 places for each of 6 prototypes
    _, place = linear_sum_assignment(cost)
    assert (sharp.argmax(1).numpy() == place // 5).mean() >= 0.9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_input_is_treated_in_float32(dtype):
    scores = random_scores(32, 10, dtype=torch.float32).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes = sinkhorn(scores)
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes, sinkhorn(scores.float()))


def test_hard_codes_are_the_argmax():
    scores = random_scores(32, 10)
    hard = sinkhorn(scores, hard=True)
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(hard.argmax(1), sinkhorn(scores).argmax(1))


def test_codes_carry_no_gradient_and_leave_the_scores_alone():
    scores = random_scores(8, 4).requires_grad_()
    before = scores.detach().clone()
    assert not sinkhorn(scores).requires_grad
    assert torch.equal(scores, before)


@pytest.mark.parametrize("sizes", [(10, 7, 3), (1, 0, 19)])
def test_uneven_shards_equal_one_process(sizes):
    scores = random_scores(sum(sizes), 6, dtype=torch.float32)
    parts = in_one_process(torch.split(scores, sizes), {})
    torch.testing.assert_close(torch.cat(parts), sinkhorn(scores))


@pytest.mark.parametrize("world_size", [2, 3])
def test_uneven_shards_over_gloo(world_size):
    sizes = [5, 9, 2][:world_size]
    scores = random_scores(sum(sizes), 6, dtype=torch.float32)
    shards = torch.split(scores, sizes)
    settings = {"tolerance": 1e-3, "num_iterations": 50}
    parts = gloo.run(programs.codes_of_shard, world_size, shards, settings)
    torch.testing.assert_close(torch.cat(parts), sinkhorn(scores, **settings))


def test_several_problems_at_once_equal_each_alone():
    problems = [random_scores(6, 4, seed=1), random_scores(9, 11, seed=2)]
    codes, count = balanced_codes(problems, epsilon=0.05, num_iterations=3)
    for code, scores in zip(codes, problems, strict=True):
        torch.testing.assert_close(code, sinkhorn(scores))
    assert count == 6


@pytest.mark.parametrize(
    ("scores", "settings", "words"),
    [
        (torch.zeros(3), {}, "wanted \\(B, K\\)"),
        (torch.zeros(3, 0), {}, "wanted \\(B, K\\)"),
        (torch.zeros(3, 2, dtype=torch.long), {}, "floating-point"),
        (torch.zeros(3, 2), {"epsilon": 0.0}, "epsilon is 0.0; wanted > 0"),
        (torch.zeros(3, 2), {"num_iterations": 0}, "num_iterations is 0"),
        (torch.zeros(3, 2), {"tolerance": -1.0}, "tolerance is -1.0"),
    ],
)
def test_errors_say_what_was_wanted(scores, settings, words):
    with pytest.raises(ValueError, match=words):
        sinkhorn(scores, **settings)
