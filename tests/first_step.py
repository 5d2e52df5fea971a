"""`vissl-swav train` in this process: a start, and its run up to the first step."""

import os
from unittest import mock


class FirstStep(BaseException):
    """The run has come through a whole training step.

    No `Exception`: the host's trainer would look for what went wrong.
    """

    def __init__(self, task):
        super().__init__("one step is done")
        self.task = task


def attempt(overrides):
    """Composes, checks and starts a run; returns its task after one step.

    Real are the model, loss, hooks, optimizer, the loader with the images of the
    config, forward, backward and update. Of a run of several processes this is the
    only one, and the images are read by no other.
    """
    from vissl.engines import train as engine
    from vissl.utils import distributed_launcher

    from vissl_swav.host import launch, preemption

    silent = ("setup_logging", "print_system_env_info", "collect_env_info", "print_cfg")
    with (
        mock.patch.object(distributed_launcher, "launch_distributed", _run_here),
        # Else each attempt would leave a thread, and SIGTERM blocked.
        mock.patch.object(preemption, "listen", preemption.Notice),
        mock.patch.multiple(engine, **{name: mock.DEFAULT for name in silent}),
        mock.patch.dict(os.environ),
    ):
        try:
            launch.start(overrides)
        except FirstStep as reached:
            return reached.task
    raise AssertionError("the run ended without a step")


def _run_here(*, cfg, node_id, engine_name, hook_generator):
    """What the host's launcher does, with one process, which is this one."""
    import torch
    from vissl.engines import run_engine

    from vissl_swav.host import settings

    settings.take_shape(cfg, num_nodes=1, processes_per_node=1)
    cfg.DATA.NUM_DATALOADER_WORKERS = 0
    torch.distributed.init_process_group(
        cfg.DISTRIBUTED.BACKEND,
        store=torch.distributed.HashStore(),
        rank=0,
        world_size=1,
    )
    try:
        run_engine(
            engine_name,
            cfg,
            "here",
            None,
            cfg.CHECKPOINT.DIR,
            node_id=node_id,
            hook_generator=lambda cfg: [*hook_generator(cfg), _stop_after_a_step()],
        )
    finally:
        torch.distributed.destroy_process_group()


def _stop_after_a_step():
    import torch
    from classy_vision.hooks.classy_hook import ClassyHook

    class Stop(ClassyHook):
        on_start = on_phase_start = on_forward = ClassyHook._noop
        on_loss_and_meter = on_backward = on_update = ClassyHook._noop
        on_phase_end = on_end = ClassyHook._noop

        def on_step(self, task):
            assert torch.isfinite(task.last_batch.loss), "a loss that is not finite"
            for name, parameter in task.base_model.named_parameters():
                assert torch.isfinite(parameter).all(), f"{name} is not finite"
            task.run_hooks("on_end")  # They close their files.
            raise FirstStep(task)

    return Stop()
