"""The average that follows a model, and its schedule."""

import math

import pytest
import reference
import torch
from torch import nn

from vissl_swav.core.momentum import momentum_at, momentum_copy, update_momentum_


def weights(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (5,), (2, 3, 2)]
    return [torch.randn(s, generator=generator, dtype=dtype) for s in shapes]


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.5, 0.996, 1.0])
def test_average_is_the_loop_oracle(momentum):
    target, source = weights(0), weights(1)
    wanted = [
        reference.momentum_average(t, s, momentum)
        for t, s in zip(target, source, strict=True)
    ]
    update_momentum_(iter(target), source, momentum)
    for found, right in zip(target, wanted, strict=True):
        torch.testing.assert_close(found, torch.from_numpy(right), rtol=1e-14, atol=0)


def test_momentum_0_is_the_source_and_1_the_target_bit_for_bit():
    target, source = weights(0, torch.float32), weights(1, torch.float32)
    before = [tensor.clone() for tensor in target]
    update_momentum_(target, source, 1.0)
    assert all(map(torch.equal, target, before))
    update_momentum_(target, source, 0.0)
    assert all(map(torch.equal, target, source))


def test_a_source_in_half_precision_moves_a_float32_target():
    target = [torch.ones(4)]
    update_momentum_(target, [torch.zeros(4, dtype=torch.bfloat16)], 0.999)
    torch.testing.assert_close(target[0], torch.full((4,), 0.999))


@pytest.mark.parametrize(
    ("source", "momentum", "words"),
    [
        ([torch.zeros(3)], 0.9, "equal models"),
        ([torch.zeros(2), torch.zeros(2)], 0.9, "1 target and 2 source"),
        ([torch.zeros(2)], 1.1, "momentum is 1.1; wanted 0 to 1"),
        ([torch.zeros(2)], math.nan, "momentum is nan"),
    ],
)
def test_what_does_not_pair_up(source, momentum, words):
    with pytest.raises(ValueError, match=words):
        update_momentum_([torch.zeros(2)], source, momentum)


@pytest.mark.parametrize(
    "of",
    [
        lambda model: model,
        lambda model: model.named_parameters(),
        lambda model: model.state_dict(),
    ],
)
def test_what_is_no_list_of_parameters_is_named(of):
    model = nn.Sequential(nn.Linear(2, 2))
    for given, name in (
        ((of(model), model.parameters()), "target"),
        ((model.parameters(), of(model)), "source"),
    ):
        with pytest.raises(TypeError, match=rf"{name} is .*model.parameters\(\) gives"):
            update_momentum_(*given, 0.9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_target_that_would_not_move_is_refused(dtype):
    model = nn.Linear(4, 3).to(dtype)
    with pytest.raises(ValueError, match=r"momentum_copy\(model\).float\(\)"):
        update_momentum_(momentum_copy(model).parameters(), model.parameters(), 0.996)
    copy = momentum_copy(model).float()
    before = copy.weight.clone()
    with torch.no_grad():
        model.weight.add_(1)
    update_momentum_(copy.parameters(), model.parameters(), 0.996)
    moved = copy.weight - before
    torch.testing.assert_close(moved, torch.full_like(moved, 0.004), rtol=0.1, atol=0)


@pytest.mark.parametrize(
    ("step", "settings", "words"),
    [
        (0, {"start": 2.0}, "start is 2.0; wanted 0 to 1"),
        (0, {"end": math.nan}, "end is nan; wanted 0 to 1"),
        (-1, {}, "step is -1; wanted >= 0"),
        (0, {"num_steps": -8}, "num_steps is -8; wanted >= 0"),
        (math.nan, {}, "step is nan"),
    ],
)
def test_a_schedule_that_cannot_be(step, settings, words):
    with pytest.raises(ValueError, match=words):
        momentum_at(step, **{"num_steps": 8, **settings})


def test_schedule_is_a_cosine_between_its_ends():
    """BYOL's form: 1 - (1 - base) (cos(pi k / K) + 1) / 2."""
    found = [momentum_at(k, num_steps=8) for k in range(9)]
    for k, momentum in enumerate(found):
        byol = 1 - (1 - 0.996) * (math.cos(math.pi * k / 8) + 1) / 2
        assert momentum == pytest.approx(byol, abs=1e-15)
    assert (found[0], found[-1]) == (0.996, 1.0) and sorted(found) == found
    assert momentum_at(100, num_steps=8) == 1.0, "a run that goes on stays at the end"


def test_equal_ends_are_a_constant_whatever_the_length():
    constant = [
        momentum_at(k, num_steps=n, start=0.99, end=0.99)
        for k, n in ((0, 0), (0, 10), (3, 7), (10, 10))
    ]
    assert constant == [0.99] * 4


def test_a_copy_has_no_gradient_and_shares_process_groups():
    class Group:
        def __deepcopy__(self, memo):
            raise TypeError("cannot pickle a process group")

    norm = nn.SyncBatchNorm(3, process_group=Group())
    model = nn.Sequential(nn.Linear(4, 3), norm)
    copy = momentum_copy(model)
    assert copy[1].process_group is norm.process_group
    assert not any(p.requires_grad for p in copy.parameters())
    assert all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        model[0].weight.add_(1)
    assert not torch.equal(copy[0].weight, model[0].weight)
    assert copy.state_dict().keys() == model.state_dict().keys()
