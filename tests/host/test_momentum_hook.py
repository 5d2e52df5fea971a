"""The hook of `swav_momentum`, on a stand-in for the host's task."""

import gloo
import health_task
import pytest
import torch

pytestmark = pytest.mark.usefixtures("host")


def task_of(folder, queue=0, **keys):
    from vissl_swav.host.momentum_hook import MomentumHook
    from vissl_swav.host.prototypes_hook import PrototypesHook
    from vissl_swav.host.queue_hook import QueueHook

    task = health_task.momentum_task(folder, queue=queue, **keys)
    return health_task.started(task, QueueHook(), PrototypesHook(), MomentumHook())


def parameters(model):
    return [p.detach().clone() for p in model.parameters()]


def tensors_of(loss):
    state = loss.state_dict().items()
    return {k: v.clone() for k, v in state if isinstance(v, torch.Tensor)}


def equal(one, other):
    return all(map(torch.equal, one, other))


@pytest.mark.parametrize("queue", [0, 16])
def test_momentum_0_is_swav_bit_for_bit(tmp_path, queue):
    from vissl_swav.host.prototypes_hook import PrototypesHook
    from vissl_swav.host.queue_hook import QueueHook

    plain = health_task.Task(tmp_path, health_task.config(queue=queue))
    health_task.started(plain, QueueHook(), PrototypesHook())
    mine = task_of(tmp_path, queue, momentum=0.0, momentum_end=0.0)
    for _ in range(5):
        plain.step()
        mine.step()
        assert torch.equal(plain.last_batch.loss, mine.last_batch.loss)
    assert equal(parameters(plain.model), parameters(mine.model))
    assert equal(parameters(mine.model), parameters(mine.base_loss.encoder))


def test_momentum_1_is_a_fixed_target(tmp_path):
    task = task_of(tmp_path, momentum=1.0)
    start = parameters(task.base_loss.encoder)
    codes = []
    crops = torch.randn(16, 3, 2, 2, generator=torch.Generator().manual_seed(5))
    for _ in range(3):
        task.step(crops)
        codes.append(task.base_loss.code_output)
    assert equal(parameters(task.base_loss.encoder), start)
    assert equal(codes[0], codes[2])
    assert not equal(parameters(task.model), start)


def test_the_schedule_goes_by_the_runs_steps(tmp_path):
    """After step t the encoder is m_t of itself, on the cosine; rows of C unit."""
    from vissl_swav.core.momentum import momentum_at

    task = task_of(tmp_path, momentum=0.5, momentum_end=1.0)
    task.max_iteration = 4
    for step in range(4):
        before = parameters(task.base_loss.encoder)
        task.step()
        m = momentum_at(step, num_steps=4, start=0.5)
        wanted = [
            m * old + (1 - m) * new
            for old, new in zip(before, parameters(task.model), strict=True)
        ]
        wanted[-1] = torch.nn.functional.normalize(wanted[-1], dim=1)
        for found, right in zip(
            parameters(task.base_loss.encoder), wanted, strict=True
        ):
            torch.testing.assert_close(found, right)


def test_whose_prototypes_give_codes(tmp_path):
    for of_encoder in (True, False):
        task = task_of(tmp_path, 16, momentum=0.9, momentum_prototypes=of_encoder)
        for _ in range(3):
            task.step()
        before = task.model if not of_encoder else task.base_loss.encoder
        C = before.heads[0].prototypes0.weight.detach().clone()
        task.run("on_forward")
        Z, scores = task.base_loss.code_output
        torch.testing.assert_close(scores, Z @ C.t())
        torch.testing.assert_close(
            task.base_loss.queue_scores[0],
            task.base_loss.swav.queue.features @ C.t(),
        )


def test_a_test_phase_changes_nothing(tmp_path):
    task = task_of(tmp_path, 16, momentum=0.9)
    for _ in range(2):
        task.step()
    before = tensors_of(task.base_loss)
    task.train = False
    task.run("on_phase_start")
    with torch.no_grad():
        task.last_batch.sample = {"input": torch.randn(16, 3, 2, 2)}
        task.last_batch.model_output = task.model(task.last_batch.sample["input"])
        task.run("on_forward")
        loss = task.base_loss(task.last_batch.model_output, None)
    task.run("on_phase_end")
    assert torch.isfinite(loss) and not task.base_loss.encoder.training
    after = tensors_of(task.base_loss)
    assert len(after) > 5 and equal(after.values(), before.values())
    task.train = True
    task.run("on_phase_start")
    task.step()
    assert task.base_loss.encoder.training


def test_state_loaded_before_the_encoder_is_there(tmp_path):
    task = task_of(tmp_path, momentum=0.9)
    for _ in range(2):
        task.step()
    state = task.base_loss.state_dict()
    fresh = health_task.momentum_task(tmp_path, momentum=0.9)
    fresh.base_loss.load_state_dict(dict(state))
    assert fresh.base_loss.encoder is None
    from vissl_swav.host.momentum_hook import MomentumHook

    health_task.started(fresh, MomentumHook())
    assert equal(
        parameters(fresh.base_loss.encoder), parameters(task.base_loss.encoder)
    )
    # And one that is there takes its part as any module does.
    task.step()
    fresh.base_loss.load_state_dict(task.base_loss.state_dict())
    assert equal(
        parameters(fresh.base_loss.encoder), parameters(task.base_loss.encoder)
    )


def test_without_the_hook_the_loss_says_what_it_lacks(tmp_path):
    task = health_task.momentum_task(tmp_path)
    with pytest.raises(RuntimeError, match="MomentumHook"):
        task.step()


def test_health_reads_the_encoders_codes(tmp_path):
    """Codes and drift of the queue are those of the encoder, not of the model."""
    from vissl_swav.core.collective import LOCAL
    from vissl_swav.core.sinkhorn import sinkhorn
    from vissl_swav.host.loss_view import LossView
    from vissl_swav.host.step_monitor import StepMonitor
    from vissl_swav.host.task_view import TaskView

    task = task_of(tmp_path, 16, momentum=1.0)
    for _ in range(3):
        task.step()
    view = LossView(TaskView(task))
    Z, S = task.base_loss.code_output
    queue = task.base_loss.queue_scores[0][0]
    torch.testing.assert_close(
        view.codes(LOCAL), sinkhorn(torch.cat([S[:8], queue]))[:8]
    )
    assert torch.equal(view.code_features, Z[:8])
    monitor = StepMonitor()
    monitor.count(TaskView(task))
    assert {"code_entropy", "queue_age"} <= set(monitor.measure(TaskView(task)))


def test_running_statistics_are_those_of_rank_0(tmp_path, monkeypatch):
    """At the end of a training phase; test phases and checkpoints read them."""
    from vissl_swav.host import momentum_hook

    class SecondRank:
        world_size, rank = 2, 1

        @staticmethod
        def all_gather(tensor):
            return torch.stack([tensor + 1, tensor])

    task = health_task.momentum_task(tmp_path)
    task.model.trunk.append(torch.nn.BatchNorm1d(6))
    health_task.started(task, momentum_hook.MomentumHook())
    task.step()
    norm = task.base_loss.encoder.trunk[-1]
    own = norm.running_mean.clone()
    student = task.model.trunk[-1].running_mean.clone()
    assert own.abs().max() > 0, "the encoder's own, from its own forward pass"
    monkeypatch.setattr(momentum_hook, "collective", SecondRank)
    task.run("on_phase_end")
    assert torch.equal(norm.running_mean, own + 1)
    assert torch.equal(task.model.trunk[-1].running_mean, student)


@pytest.mark.parametrize("of_encoder", [True, False])
def test_the_encoder_works_in_the_steps_precision(tmp_path, of_encoder):
    task = task_of(tmp_path, 16, momentum=0.9, momentum_prototypes=of_encoder)
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            task.step()
    assert task.base_loss.code_output[1].dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in task.base_loss.encoder.parameters())
    assert task.base_loss.swav.queue.features.dtype == torch.float32
    assert torch.isfinite(task.last_batch.loss)


@pytest.mark.slow
def test_ranks_have_one_encoder(tmp_path):
    """Equal parameters from equal students; running statistics are rank 0's."""
    (first, seen0), (second, seen1) = gloo.run(
        health_task.momentum_on_ranks, 2, str(tmp_path)
    )
    assert first.keys() == second.keys() and len(first) > 5
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(seen0, seen1), "the ranks saw different images"
