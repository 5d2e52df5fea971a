"""The gradient of a step does not depend on how it is cut into buckets."""

import functools

import gloo
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from vissl_swav.backends.ordered_gradients import sum_in_rank_order


def net():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(31, 17), torch.nn.ReLU(), torch.nn.Linear(17, 5)]
    return torch.nn.Sequential(*layers)


def backward(model, rank):
    """One backward pass; the gradients by name."""
    generator = torch.Generator().manual_seed(rank)
    model.zero_grad()
    inputs = torch.randn(64, 31, generator=generator)
    (model(inputs) ** 2).mean().backward()
    named = model.named_parameters()
    return {name.removeprefix("module."): p.grad.clone() for name, p in named}


def three_steps(rank, world_size, ordered):
    """Gradients of the same images thrice, the buckets rebuilt after the first."""
    own = backward(net(), rank)
    model = DistributedDataParallel(net())
    taken = sum_in_rank_order(model) if ordered else None
    again = sum_in_rank_order(model) if ordered else None
    return own, [backward(model, rank) for _ in range(3)], (taken, again)


def test_three_processes_add_up_in_their_order():
    results = gloo.run(three_steps, 3, True)
    alone = [own for own, _, _ in results]
    for _, steps, taken in results:
        assert taken == (True, False)
        for name in alone[0]:
            total = functools.reduce(torch.add, (own[name] for own in alone))
            assert all(torch.equal(step[name], total / 3) for step in steps), name


@pytest.mark.slow
def test_torch_alone_would_not():
    """When this fails, this file of ours is no longer needed."""
    _, steps, _ = gloo.run(three_steps, 3, False)[0]
    assert any(not torch.equal(steps[0][name], steps[1][name]) for name in steps[0])


@pytest.mark.slow
def test_two_processes_need_no_order():
    assert gloo.run(three_steps, 2, True)[0][2] == (False, False)


def test_other_models_are_left_alone():
    assert not sum_in_rank_order(None) and not sum_in_rank_order(net())
