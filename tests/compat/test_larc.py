import copy
import math

import pytest
import torch

from vissl_swav.compat.larc_optimizer import Larc


def _parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 3), (5,), (2, 2)]
    return [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]


def _set_gradients(parameters, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def _oracle_step(weight, gradient, velocity, *, lr, decay, momentum, trust, clip, eps):
    """One tensor, in float64, number by number; SGD with momentum on the result."""
    w = [float(x) for x in weight.detach().flatten()]
    g = [float(x) for x in gradient.flatten()]
    w_norm = math.sqrt(sum(x * x for x in w))
    g_norm = math.sqrt(sum(x * x for x in g))
    if w_norm != 0 and g_norm != 0:
        local = trust * w_norm / (g_norm + decay * w_norm + eps)
        factor = min(local / lr, 1.0) if clip else local
        g = [(gx + decay * wx) * factor for gx, wx in zip(g, w, strict=True)]
    velocity = [momentum * v + gx for v, gx in zip(velocity, g, strict=True)]
    return [wx - lr * v for wx, v in zip(w, velocity, strict=True)], velocity


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("trust", [0.001, 0.02, 5.0])
def test_three_steps_agree_with_the_formula(clip, decay, trust):
    parameters = _parameters()
    sgd = torch.optim.SGD(parameters, lr=0.3, momentum=0.9, weight_decay=decay)
    larc = Larc(sgd, trust_coefficient=trust, clip=clip, eps=1e-8)
    velocity = [[0.0] * p.numel() for p in parameters]
    for step in range(3):
        larc.param_groups[0]["lr"] = lr = 0.3 / (step + 1)
        _set_gradients(parameters, seed=step)
        settings = {"lr": lr, "decay": decay, "momentum": 0.9}
        settings |= {"trust": trust, "clip": clip, "eps": 1e-8}
        wanted = []
        for i, p in enumerate(parameters):
            new, velocity[i] = _oracle_step(p, p.grad, velocity[i], **settings)
            wanted.append(torch.tensor(new).view_as(p))
        larc.step()
        for p, expected in zip(parameters, wanted, strict=True):
            torch.testing.assert_close(p.detach(), expected, atol=1e-6, rtol=1e-5)
        assert larc.param_groups[0]["weight_decay"] == decay


@pytest.mark.parametrize("zero", ["weight", "gradient"])
def test_a_zero_weight_or_gradient_is_left_untouched(zero):
    parameter = torch.nn.Parameter(torch.full((3,), 0.0 if zero == "weight" else 2.0))
    parameter.grad = torch.full((3,), 0.0 if zero == "gradient" else 0.5)
    sgd = torch.optim.SGD([parameter], lr=1.0, weight_decay=0.1)
    before, gradient = parameter.detach().clone(), parameter.grad.clone()
    Larc(sgd, trust_coefficient=0.001).step()
    torch.testing.assert_close(parameter.detach(), before - gradient)


def test_a_parameter_without_gradient_stays():
    parameters = _parameters()
    _set_gradients(parameters[:2])
    before = parameters[2].detach().clone()
    Larc(torch.optim.SGD(parameters, lr=0.1, weight_decay=0.5)).step()
    assert torch.equal(parameters[2], before)


def test_clip_with_a_huge_trust_is_plain_sgd():
    ours, plain = _parameters(), _parameters()
    for parameters in (ours, plain):
        _set_gradients(parameters)
    Larc(torch.optim.SGD(ours, lr=0.1, weight_decay=0.01), trust_coefficient=1e9).step()
    torch.optim.SGD(plain, lr=0.1, weight_decay=0.01).step()
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_groups_state_and_state_dict_are_the_optimizers_own():
    parameters = _parameters()
    sgd = torch.optim.SGD(parameters[:2], lr=0.1, momentum=0.9)
    larc = Larc(sgd)
    larc.add_param_group({"params": parameters[2:], "lr": 0.7})
    assert larc.param_groups is sgd.param_groups
    assert [group["lr"] for group in larc.param_groups] == [0.1, 0.7]
    _set_gradients(parameters)
    larc.step()
    assert larc.state is sgd.state
    saved = copy.deepcopy(larc.state_dict())
    other = Larc(
        torch.optim.SGD(
            [{"params": parameters[:2]}, {"params": parameters[2:]}], lr=1, momentum=0.9
        )
    )
    other.load_state_dict(saved)
    assert [group["lr"] for group in other.param_groups] == [0.1, 0.7]
    larc.zero_grad()
    assert all(p.grad is None for p in parameters)


def test_the_weight_decay_comes_back_when_the_step_fails():
    parameters = _parameters()
    _set_gradients(parameters)
    sgd = torch.optim.SGD(parameters, lr=0.1, weight_decay=0.25)
    sgd.step = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        Larc(sgd).step()
    assert sgd.param_groups[0]["weight_decay"] == 0.25


def test_a_closure_is_evaluated_once():
    parameters = _parameters()
    calls = []

    def closure():
        calls.append(1)
        loss = sum((p**2).sum() for p in parameters)
        loss.backward()
        return loss

    larc = Larc(torch.optim.SGD(parameters, lr=0.1))
    assert larc.step(closure).item() > 0
    assert calls == [1]


@pytest.mark.parametrize("bad", [{"trust_coefficient": 0.0}, {"eps": -1.0}])
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="LARC got"):
        Larc(torch.optim.SGD(_parameters(), lr=0.1), **bad)


def test_the_scale_is_undone_before_the_norms(host):
    """GradScaler around classy-vision's optimizer: the same as with no scaling."""
    from classy_vision.optim.sgd import SGD

    results = []
    for scale in (None, 1024.0):
        parameters = _parameters()
        optimizer = SGD(
            use_larc=True,
            larc_config={"clip": False, "trust_coefficient": 0.01, "eps": 1e-8},
            lr=0.1,
            momentum=0.9,
            weight_decay=0.1,
        )
        optimizer.set_param_groups(parameters, lr=0.1)
        assert isinstance(optimizer.optimizer, Larc)
        loss = sum((p**3).sum() for p in parameters)
        if scale is None:
            loss.backward()
            optimizer.step(where=0.0)
        else:
            scaler = torch.amp.GradScaler("cpu", init_scale=scale)
            scaler.scale(loss).backward()
            scaler.step(optimizer, where=0.0)
            scaler.update()
        results.append([p.detach().clone() for p in parameters])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_the_host_builds_checkpoints_and_schedules_it(host):
    from classy_vision.optim import build_optimizer
    from classy_vision.optim.param_scheduler import build_param_scheduler
    from vissl.config import AttrDict

    config = {"name": "sgd", "use_larc": True, "momentum": 0.9, "num_epochs": 1}
    config["larc_config"] = {"clip": True, "eps": 1e-7, "trust_coefficient": 0.005}
    optimizer = build_optimizer(AttrDict(config))
    parameters = _parameters()
    schedule = {"name": "linear", "start_value": 1.0, "end_value": 0.0}
    schedule["update_interval"] = "step"
    optimizer.set_param_groups(parameters, lr=build_param_scheduler(schedule))
    larc = optimizer.optimizer
    assert (larc.clip, larc.eps, larc.trust_coefficient) == (True, 1e-7, 0.005)
    _set_gradients(parameters)
    optimizer.on_epoch(0.5)
    optimizer.step(where=0.5)
    assert optimizer.options_view.lr == 0.5
    state = copy.deepcopy(optimizer.get_classy_state())
    optimizer.set_classy_state(state)
    assert optimizer.get_classy_state()["optim"]["param_groups"][0]["lr"] == 0.5
