"""SwAV's eq. 7 against explicit loops, other losses, and over processes."""

import math

import gloo
import numpy as np
import programs
import pytest
import reference
import torch
import virtual_ranks
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from vissl_swav.core.simclr_multicrop import simclr_multicrop_loss


def unit_rows(rows, D=6, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    Z = torch.randn(rows, D, generator=generator, dtype=torch.float64)
    return functional.normalize(Z, dim=1).to(dtype)


def value_and_gradient(Z, factor=1.0, **settings):
    Z = Z.detach().clone().requires_grad_()
    loss = simclr_multicrop_loss(Z, **settings)
    (factor * loss).backward()
    return loss.detach(), Z.grad


@pytest.mark.parametrize("num_crops", [2, 3, 6])
@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_equals_the_loop_oracle(num_crops, temperature):
    Z = unit_rows(num_crops * 5, seed=num_crops)
    expected, gradient = reference.simclr_multicrop(Z, num_crops, temperature)
    settings = {"num_crops": num_crops, "temperature": temperature}
    loss, found = value_and_gradient(Z, 3.0, **settings)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(found, 3.0 * torch.from_numpy(gradient))


def test_gradient_by_finite_differences():
    """Of rows of any length: the loss takes features as they come."""
    Z = (unit_rows(12) * 1.7).requires_grad_()
    torch.autograd.gradcheck(
        lambda rows: simclr_multicrop_loss(rows, num_crops=3, temperature=0.5), Z
    )


@pytest.mark.parametrize("rows_at_once", [1, 5, 7, 23, 24])
def test_chunks_change_nothing(rows_at_once):
    Z = unit_rows(24)
    settings = {"num_crops": 4, "max_similarities": rows_at_once * 24}
    expected = value_and_gradient(Z, num_crops=4)
    torch.testing.assert_close(value_and_gradient(Z, **settings), expected)


def test_order_of_images_and_of_crops_is_of_no_matter():
    V, B = 4, 5
    by_crop = unit_rows(V * B).reshape(V, B, -1)
    loss, gradient = value_and_gradient(by_crop.flatten(0, 1), num_crops=V)
    crops, images = torch.tensor([2, 0, 3, 1]), torch.tensor([4, 1, 0, 3, 2])
    moved = by_crop[crops][:, images].flatten(0, 1)
    found, of_moved = value_and_gradient(moved, num_crops=V)
    torch.testing.assert_close(found, loss)
    expected = gradient.reshape(V, B, -1)[crops][:, images].flatten(0, 1)
    torch.testing.assert_close(of_moved, expected)


def test_two_crops_are_nt_xent():
    """SimCLR's loss as cross-entropy over all rows but the row itself."""
    B, Z = 7, unit_rows(14).requires_grad_()
    logits = (Z @ Z.t() / 0.1).masked_fill(torch.eye(2 * B, dtype=bool), -math.inf)
    expected = functional.cross_entropy(logits, torch.arange(2 * B).roll(B))
    (gradient,) = torch.autograd.grad(expected, Z)
    loss, found = value_and_gradient(Z, num_crops=2)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(found, gradient)


def one_log_over_the_sum(Z, num_crops, temperature=0.1):
    """A false friend: - log(sum of positives / (sum of positives + negatives))."""
    N = len(Z)
    s = Z @ Z.t() / temperature
    same = torch.arange(N)[:, None] % (N // num_crops) == torch.arange(N)[None, :] % (
        N // num_crops
    )
    positives = same & ~torch.eye(N, dtype=bool)
    near = s.masked_fill(~positives, -math.inf).logsumexp(1)
    far = s.masked_fill(same, -math.inf).logsumexp(1)
    return functional.softplus(far - near).mean()


def test_it_is_no_log_over_the_sum_of_positives():
    """Equal for two crops; one near positive of two leaves the other's term large."""
    Z = unit_rows(8)
    loss = simclr_multicrop_loss(Z, num_crops=2)
    torch.testing.assert_close(loss, one_log_over_the_sum(Z, 2))
    axis = torch.eye(6, dtype=torch.float64)
    # Two images; the third crop of each is where the other image's crops are not.
    Z = torch.stack([*axis[:2], *axis[:2], *axis[2:4]])
    friend, loss = one_log_over_the_sum(Z, 3), simclr_multicrop_loss(Z, num_crops=3)
    assert friend.item() == pytest.approx(math.log(2.5) / 3, abs=1e-3)
    assert loss.item() == pytest.approx(2 / 3 * math.log(4), abs=1e-3)


@pytest.mark.parametrize("num_crops", [2, 5])
def test_equals_vissls_loss_on_one_process(host, num_crops):
    from classy_vision.generic.distributed_util import set_cpu_device
    from vissl.config import AttrDict
    from vissl.losses.multicrop_simclr_info_nce_loss import (
        MultiCropSimclrInfoNCECriterion,
    )

    set_cpu_device()
    Z = unit_rows(num_crops * 6, dtype=torch.float32)
    buffers = {"embedding_dim": 6, "effective_batch_size": 6, "world_size": 1}
    theirs = MultiCropSimclrInfoNCECriterion(AttrDict(buffers), 0.1, num_crops)
    rows = Z.clone().requires_grad_()
    expected = theirs(rows)
    expected.backward()
    loss, gradient = value_and_gradient(Z, num_crops=num_crops)
    torch.testing.assert_close(loss, expected.detach().float())
    torch.testing.assert_close(gradient, rows.grad)


def test_limits():
    V, B = 3, 4
    equal = torch.ones(V * B, 6, dtype=torch.float64)
    loss, gradient = value_and_gradient(equal, num_crops=V)
    assert loss.item() == pytest.approx(math.log(1 + (B - 1) * V))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))
    apart = torch.eye(B, 6, dtype=torch.float64).repeat(V, 1)
    assert simclr_multicrop_loss(apart, num_crops=V, temperature=0.01).item() < 1e-40
    alone, gradient = value_and_gradient(unit_rows(V), num_crops=V)
    assert alone.item() == 0.0 and not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_precision(dtype):
    """Of halves the loss is float32, as exact as they are; under autocast too."""
    Z = unit_rows(24, 32, dtype=dtype)
    settings = {"num_crops": 4, "temperature": 0.05}
    expected, gradient = value_and_gradient(Z.double(), **settings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, found = value_and_gradient(Z, **settings)
    assert loss.dtype == torch.float32 and found.dtype == dtype
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    error = (found.double() - gradient).abs().max() / gradient.abs().max()
    assert error <= {torch.float32: 1e-5, torch.float16: 1e-3}.get(dtype, 1e-2)


def test_a_loss_scale_saves_gradients_that_float16_has_no_numbers_for():
    Z = unit_rows(24, dtype=torch.float16)
    Z[12:] = Z[:12]
    settings = {"num_crops": 2, "temperature": 0.02}
    exact = value_and_gradient(Z.double(), **settings)[1]
    kept = exact.abs() * 2.0**40 > 1e-4
    small = kept & (exact.abs() < 1e-9)
    assert small.any()
    scaled = value_and_gradient(Z, 2.0**40, **settings)[1].double() / 2.0**40
    assert (scaled[small] / exact[small]).log2().abs().max() < 1


def test_scores_that_no_exponential_could_hold():
    """exp(20 x 900) overflows: every sum is taken about its largest term."""
    Z = unit_rows(12, dtype=torch.float32) * 30
    loss, gradient = value_and_gradient(Z, num_crops=3, temperature=0.05)
    expected, slopes = reference.simclr_multicrop(Z.double(), 3, 0.05)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    error = (gradient.double() - torch.from_numpy(slopes)).abs().max()
    assert error <= 1e-3 * np.abs(slopes).max()


class Largest(TorchDispatchMode):
    """The largest tensor that any operation made, in values."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in [made] if isinstance(made, torch.Tensor) else []:
            self.values = max(self.values, tensor.numel())
        return made


def test_memory_grows_with_the_setting_not_with_the_batch():
    V, B, D = 3, 100, 4
    Z = unit_rows(V * B, D)
    for most in (V * B * 7, V * B * 50):
        with Largest() as made:
            value_and_gradient(Z, num_crops=V, max_similarities=most)
        assert made.values == most
    with Largest() as made:
        value_and_gradient(Z, num_crops=V, max_similarities=1)
    assert made.values == V * B * D


def test_peak_memory_is_two_chunks():
    """Bytes that torch's CPU allocator hands out between entry and gradient."""
    from torch.profiler import ProfilerActivity, profile

    V, B = 4, 128
    Z = unit_rows(V * B, 8, dtype=torch.float32).requires_grad_()
    for rows in (64, V * B):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
            settings = {"num_crops": V, "max_similarities": rows * V * B}
            simclr_multicrop_loss(Z, **settings).backward()
        in_use = peak = 0
        for event in log.profiler.kineto_results.events():
            if event.name() == "[memory]":
                in_use += event.nbytes()
                peak = max(peak, in_use)
        # Beside them: features, gradients and same-image tables, V * B rows each.
        beside = V * B * (4 * 8 * 4 + V * 64)
        assert 4 * rows * V * B < peak <= 2 * 4 * rows * V * B + beside


# torch's own, where it traces an autograd function.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_without_a_break():
    Z = unit_rows(12, dtype=torch.float32)
    expected = value_and_gradient(Z, num_crops=3)
    compiled = torch.compile(
        lambda rows: simclr_multicrop_loss(rows, num_crops=3),
        fullgraph=True,
        backend="aot_eager",
    )
    rows = Z.clone().requires_grad_()
    loss = compiled(rows)
    loss.backward()
    torch.testing.assert_close((loss.detach(), rows.grad), expected)


def shards_of(Z, V, sizes):
    """(V * B, D) -> (V * b, D) of each process, b its number of images."""
    parts = Z.reshape(V, sum(sizes), -1).split(list(sizes), dim=1)
    return [part.flatten(0, 1) for part in parts]


def assert_equals_one_process(results, Z, V):
    """DDP averages gradients, the host's log averages losses."""
    expected, gradient = value_and_gradient(Z, num_crops=V)
    mean = torch.stack([loss for loss, *_ in results]).mean()
    torch.testing.assert_close(mean, expected)
    parts = [grad.reshape(V, -1, Z.shape[1]) for _, grad, *_ in results]
    together = torch.cat(parts, dim=1).flatten(0, 1) / len(results)
    torch.testing.assert_close(together, gradient)


@pytest.mark.parametrize("sizes", [(3, 3), (1, 4, 2), (2, 0, 1), (1, 1, 1, 1)])
def test_shards_equal_one_process(sizes):
    """Even, uneven, a process without images, and single images everywhere."""
    V = 3
    Z = unit_rows(V * sum(sizes))
    shards = shards_of(Z, V, sizes)
    results = virtual_ranks.run(
        lambda ranks: value_and_gradient(
            shards[ranks.rank], num_crops=V, max_similarities=40, collective=ranks
        ),
        len(sizes),
    )
    assert_equals_one_process(results, Z, V)


@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_gloo_processes_equal_one(world_size):
    """Three small collectives a step, whatever the batch."""
    V, cases = 3, [[4, 4, 4], [5, 1, 2]]
    whole = [unit_rows(V * sum(sizes[:world_size])) for sizes in cases]
    shards = [
        shards_of(Z, V, sizes[:world_size])
        for Z, sizes in zip(whole, cases, strict=True)
    ]
    results = gloo.run(programs.simclr_of_shard, world_size, shards, {"num_crops": V})
    for case, Z in enumerate(whole):
        of_case = [result[case] for result in results]
        assert_equals_one_process(of_case, Z, V)
        assert {calls for *_, calls in of_case} == {3}


@pytest.mark.parametrize(
    ("rows", "settings", "words"),
    [
        (torch.zeros(7, 3), {"num_crops": 2}, "got 7 rows for 2 crops"),
        (torch.zeros(4, 3), {"num_crops": 1}, "needs two crops"),
        (torch.zeros(4, 3), {"num_crops": 2, "temperature": 0}, "temperature is 0"),
        (torch.zeros(4), {"num_crops": 2}, "wanted .V . B, D."),
        (torch.zeros(4, 3), {"num_crops": 2, "max_similarities": 0}, "wanted >= 1"),
        (
            torch.zeros(4, 3),
            {"num_crops": 2, "max_similarities": 1.5},
            "is 1.5; wanted",
        ),
        (torch.zeros(4, 3), {"num_crops": 2.0}, "num_crops is 2.0; wanted a whole"),
        (torch.zeros(4, 3).long(), {"num_crops": 2}, "features are torch.int64"),
        (torch.zeros(4, 3) + 0j, {"num_crops": 2}, "features are torch.complex64"),
    ],
)
def test_errors_say_what_was_wanted(rows, settings, words):
    with pytest.raises(ValueError, match=words):
        simclr_multicrop_loss(rows, **settings)


def test_no_gradient_is_formed_where_none_is_asked_for():
    Z = unit_rows(12)
    loss = simclr_multicrop_loss(Z, num_crops=3)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, value_and_gradient(Z, num_crops=3)[0])
