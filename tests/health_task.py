"""A stand-in for the host's task, and what gloo processes run with it."""

import math
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

import vissl_swav.compat
from vissl_swav.backends.torch_collective import collective


class Model(nn.Module):
    """The host's model in small: a trunk, and a head with prototypes."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU())
        head = nn.Module()
        head.projection_head = nn.Sequential(nn.Linear(6, 4))
        head.prototypes0 = nn.Linear(4, 5, bias=False)
        head.nmb_heads = 1
        self.heads = nn.ModuleList([head])

    def forward(self, crops):
        head = self.heads[0]
        Z = head.projection_head(self.trunk(crops))
        Z = nn.functional.normalize(Z, dim=1)
        return [Z, head.prototypes0(Z)]


class Config(dict):
    """Keys as attributes, all the way down, as the host's config."""

    def __init__(self, tree):
        nested = {k: Config(v) if isinstance(v, dict) else v for k, v in tree.items()}
        super().__init__(nested)

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


def config(queue=0, **health):
    loss = {
        "num_crops": 2,
        "num_prototypes": [5],
        "embedding_dim": 4,
        "queue_length": queue,
        "queue_length_per_rank": queue,
        "trainable_prototypes": True,
        "freeze_prototypes_steps": 0,
        "hard_codes": False,
        "hard_codes_steps": 0,
        "epsilon": 0.05,
    }
    return Config(
        {
            "LOG_FREQUENCY": 2,
            "LOSS": {"name": "swav", "swav": loss},
            "DATA": {"TRAIN": {"BATCHSIZE_PER_REPLICA": 8}},
            "DISTRIBUTED": {"NUM_NODES": 1, "NUM_PROC_PER_NODE": 1},
            "CHECKPOINT": {"CHECKPOINT_ITER_FREQUENCY": -1},
            **({"HEALTH": health} if health else {}),
        }
    )


class Task:
    """What our hooks see of the host's task, and its train step."""

    def __init__(self, folder, cfg=None, scaler=None):
        from vissl_swav.host.swav_loss import SwAVSwappedPrediction

        torch.manual_seed(0)
        self.config = cfg or config()
        self.base_model = self.model = Model()
        self.base_loss = SwAVSwappedPrediction.from_config(
            {
                key: value
                for key, value in self.config.LOSS.swav.items()
                if key not in ("trainable_prototypes", "freeze_prototypes_steps")
            }
        )
        self.amp_grad_scaler, self.amp_type = scaler, None
        self.device = torch.device("cpu")
        self.train, self.iteration, self.max_iteration = True, 0, 1000
        self.train_phase_idx, self.num_train_phases = 0, 100
        self.checkpoint_folder = str(folder)
        self.dataloaders = {"train": range(50)}
        self.hooks = []
        self.optimizer = SimpleNamespace(options_view=SimpleNamespace(lr=0.1))
        self.sgd = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.last_batch = SimpleNamespace()

    def run(self, event):
        for hook in self.hooks:
            getattr(hook, event, lambda task: None)(self)

    def step(self, crops=None, *, weigh=1.0):
        """The host's standard step; `weigh` times the loss goes back."""
        if crops is None:
            generator = torch.Generator().manual_seed(self.iteration)
            crops = torch.randn(16, 3, 2, 2, generator=generator)
        self.last_batch.sample = {"input": crops}
        self.last_batch.model_output = self.model(crops)
        self.run("on_forward")
        loss = self.base_loss(self.last_batch.model_output, None)
        ranks = collective()
        self.last_batch.loss = ranks.all_reduce_sum(loss) / ranks.world_size
        self.run("on_loss_and_meter")
        self.sgd.zero_grad()
        scaler = self.amp_grad_scaler
        (scaler.scale(loss) if scaler else loss).mul(weigh).backward()
        self.run("on_backward")
        if scaler:
            scaler.step(self.sgd)
            scaler.update()
        else:
            self.sgd.step()
        self.run("on_update")
        self.iteration += 1
        self.run("on_step")


def momentum_task(folder, *, queue=0, task=Task, **keys):
    """A task with the loss `swav_momentum`."""
    from vissl_swav.host.swav_loss import SwAVMomentumPrediction

    cfg = config(queue=queue)
    momentum = {
        "momentum": 0.996,
        "momentum_end": keys.get("momentum", 1.0),
        "momentum_prototypes": True,
    }
    loss = Config({**cfg.LOSS.swav, **momentum, **keys})
    cfg["LOSS"] = Config({"name": "swav_momentum", "swav_momentum": loss})
    cfg.LOSS["swav"] = loss
    cfg.CHECKPOINT["CHECKPOINT_FREQUENCY"] = 50
    made = task(folder, cfg)
    made.base_loss = SwAVMomentumPrediction.from_config(loss)
    return made


def momentum_on_ranks(rank, world, folder):
    """Two steps on images of the rank's own, no step of the student's weights."""
    vissl_swav.compat.apply()
    from vissl_swav.host.momentum_hook import MomentumHook

    task = momentum_task(folder, momentum=0.9)
    norm = nn.BatchNorm1d(6)
    task.model.trunk.append(norm)
    started(task, MomentumHook())
    task.sgd.param_groups[0]["lr"] = 0.0
    for step in range(2):
        task.step(images_of(rank, world, step))
    seen = task.base_loss.encoder.trunk[-1].running_mean.clone()
    task.run("on_phase_end")
    return dict(task.base_loss.encoder.state_dict()), seen


def started(task, *hooks):
    task.hooks = list(hooks)
    task.run("on_start")
    task.run("on_phase_start")
    return task


def images_of(rank, world, step):
    """This rank's share of 8 images, 2 crops each, crop-major."""
    generator = torch.Generator().manual_seed(step)
    crops = torch.randn(2, 8, 3, 2, 2, generator=generator)
    return crops[:, rank::world].flatten(0, 1)


def watch(rank, world, folder):
    """10 steps with every weight as it was at the start; ends with the last verdict."""
    vissl_swav.compat.apply()
    from vissl_swav.host.health_hook import HealthHook

    cfg = config()
    cfg.DATA.TRAIN["BATCHSIZE_PER_REPLICA"] = 8 // world
    cfg.DISTRIBUTED["NUM_PROC_PER_NODE"] = world
    task = started(Task(folder, cfg), HealthHook())
    task.sgd.param_groups[0]["lr"] = 0.0
    for step in range(10):
        task.step(images_of(rank, world, step))
    task.run("on_end")
    return sorted(path.name for path in Path(folder).iterdir())


def collapse_everywhere(rank, world, folder):
    """`ON_COLLAPSE: stop` on grey images: (step, message) at which the rank ended."""
    vissl_swav.compat.apply()
    from vissl_swav.health.errors import Collapsed
    from vissl_swav.host.health_hook import HealthHook

    task = started(Task(folder, config(ON_COLLAPSE="stop")), HealthHook())
    task.sgd.param_groups[0]["lr"] = 0.0
    with torch.no_grad():
        task.model.heads[0].prototypes0.weight.fill_(0.5)
    try:
        for _ in range(300):
            task.step(torch.ones(8, 3, 2, 2))
    except Collapsed as error:
        task.run("on_exception")
        return task.iteration, str(error)
    return None


def spoil_rank_one(rank, world, folder):
    """A NaN in a crop of rank 1 alone: what each rank says."""
    vissl_swav.compat.apply()
    from vissl_swav.health.errors import NotFinite
    from vissl_swav.host.nonfinite_hook import NonFiniteHook

    task = started(Task(folder), NonFiniteHook())
    crops = images_of(rank, world, 0)
    if rank == 1:
        crops[3, 0, 0, 0] = math.nan
    try:
        task.step(crops)
    except NotFinite as error:
        return str(error)
    return None
