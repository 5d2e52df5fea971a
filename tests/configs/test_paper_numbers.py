"""Each run against the paper's numbers, which are written here once more by hand."""

from dataclasses import dataclass
from math import isclose

import pytest
from config_catalogue import PRETRAINING, ConfigFile

FULL = ((224, 2, 0.14, 1.0), (96, 6, 0.05, 0.14))
TWO = ((224, 2, 0.08, 1.0),)
ABLATION = ((160, 2, 0.08, 1.0), (96, 4, 0.05, 0.14))
WIDE = ((224, 2, 0.14, 1.0), (96, 4, 0.05, 0.14))
WIDE_4 = ((224, 2, 0.08, 1.0), (96, 4, 0.08, 0.14))
CIFAR = ((32, 2, 0.08, 1.0),)
CIFAR_MULTI = ((32, 1, 0.2, 1.0), (32, 1, 0.2, 1.0), (18, 6, 0.08, 0.5))
OVER = "+config/pretrain/swav/architecture="


@dataclass(frozen=True, kw_only=True)
class Paper:
    """What a run must have; rates as (step, value), `None` for no step of warm-up."""

    batch: int = 4096
    epochs: int = 400
    images: int = 1_281_167
    crops: tuple = FULL
    peak: float = 4.8
    last: float = 0.0048
    first: float = 0.3
    warmup: int = 10
    queue: int = 0
    queue_epoch: int = 0
    freeze: int | None = None
    heads: tuple = (3000,)
    larc: tuple = (0.001, False)
    top1: float | None = None


SMALL = {"batch": 256, "first": 0.6, "peak": 0.6, "last": 0.0006, "warmup": 0}
SMALL |= {"queue": 3840, "queue_epoch": 15, "epochs": 200}
TINY = {"batch": 256, "epochs": 1000, "images": 50_000, "first": 3e-5, "peak": 0.6}
TINY |= {"last": 0.0, "queue": 3840, "queue_epoch": 50, "larc": (0.02, True)}
# Appendix D: three sets of 3000 prototypes, and no queue.
THREE = {"heads": (3000, 3000, 3000), "queue": 0, "queue_epoch": 0}
RUNS = {
    "swav/resnet50_100ep": Paper(epochs=100, top1=72.1),
    "swav/resnet50_200ep": Paper(epochs=200, top1=73.9),
    "swav/resnet50_400ep": Paper(epochs=400, top1=74.6),
    "swav/resnet50_800ep": Paper(epochs=800, top1=75.3),
    "swav/resnet50_400ep_2x224": Paper(crops=TWO, top1=70.1),
    "swav/resnet50_400ep_2x160_4x96": Paper(crops=ABLATION, top1=74.1),
    "swav/resnet50_200ep_batch256": Paper(**SMALL, freeze=5005, top1=72.7),
    "swav/resnet50_400ep_batch256": Paper(
        **{**SMALL, "epochs": 400}, freeze=5005, top1=74.3
    ),
    "swav/resnet50_200ep_batch256_2x160_4x96": Paper(
        **SMALL, freeze=5005, crops=ABLATION, top1=72.0
    ),
    "swav/one_gpu_batch256": Paper(**SMALL, top1=72.7),
    "swav/one_gpu_batch64": Paper(
        **{**SMALL, "batch": 64, "first": 0.15, "peak": 0.15, "last": 0.00015}
    ),
    "swav/cifar_2x32": Paper(**TINY, crops=CIFAR, freeze=2 * 195, top1=89.17),
    "swav/cifar_multicrop": Paper(**TINY, crops=CIFAR_MULTI, freeze=2 * 195),
    f"swav/resnet50_400ep {OVER}resnet50_w2": Paper(crops=WIDE, top1=77.3),
    f"swav/resnet50_400ep {OVER}resnet50_w4": Paper(
        batch=2560, queue=2560, crops=WIDE_4, top1=77.9
    ),
    f"swav/resnet50_400ep {OVER}resnet50_w5": Paper(
        batch=1536, queue=1536, crops=WIDE, top1=78.5
    ),
    "swav_momentum/resnet50_200ep_batch256_queue65536": Paper(
        **{**SMALL, "queue": 65_536}, freeze=5005
    ),
    "deepcluster_v2/resnet50_400ep_2x224": Paper(**THREE, crops=TWO, top1=70.2),
    "deepcluster_v2/resnet50_400ep_2x160_4x96": Paper(
        **THREE, crops=ABLATION, top1=74.3
    ),
    "deepcluster_v2/resnet50_800ep": Paper(**THREE, epochs=800, top1=75.2),
    "deepcluster_v2/one_gpu_batch256": Paper(**{**SMALL, **THREE}),
    "deepcluster_v2/cifar_2x32": Paper(**{**TINY, **THREE}, crops=CIFAR, top1=88.85),
    "sela_v2/resnet50_400ep_2x224": Paper(**THREE, crops=TWO, top1=67.2),
    "sela_v2/resnet50_400ep_2x160_4x96": Paper(**THREE, crops=ABLATION, top1=71.8),
    "sela_v2/one_gpu_batch256": Paper(**{**SMALL, **THREE}),
    "sela_v2/cifar_2x32": Paper(**{**TINY, **THREE}, crops=CIFAR, freeze=2 * 195),
    "simclr_multicrop/resnet50_400ep_2x224": Paper(heads=(), crops=TWO, top1=68.2),
    "simclr_multicrop/resnet50_400ep_2x160_4x96": Paper(
        heads=(), crops=ABLATION, top1=70.6
    ),
}


@pytest.fixture(params=RUNS, ids=lambda run: run.replace(OVER, "+"))
def run(request, complete):
    """(config, what the paper has, steps an epoch)"""
    config = complete(*f"config=pretrain/{request.param}".split())
    paper = RUNS[request.param]
    return config, paper, paper.images // paper.batch


def test_every_run_is_checked_here_but_the_quickstarts():
    """And `one_pass`, whose epoch is not ImageNet's: `test_one_pass`."""
    named = {f"pretrain/{run}" for run in RUNS}
    others = {file.name for file in PRETRAINING} - named - {"pretrain/swav/one_pass"}
    assert all(name.endswith("/quickstart") for name in others)


@pytest.mark.parametrize("name", [n for n, paper in RUNS.items() if paper.top1])
def test_expected_figure_stands_in_the_file(name):
    file = name.split(OVER)
    path = f"swav/architecture/{file[1]}" if len(file) > 1 else name
    said = ConfigFile(f"pretrain/{path}").opening["Expected"]
    assert said.startswith(f"{RUNS[name].top1} %")


def test_batch_and_length(run):
    config, paper, _ = run
    processes = config.DISTRIBUTED.NUM_NODES * config.DISTRIBUTED.NUM_PROC_PER_NODE
    assert config.DATA.TRAIN.BATCHSIZE_PER_REPLICA * processes == paper.batch
    assert config.OPTIMIZER.num_epochs == paper.epochs
    assert config.DATA.TRAIN.DROP_LAST


def test_learning_rate_follows_the_paper(run):
    """The scheduler that the host builds, asked at the steps where it turns."""
    from classy_vision.optim.param_scheduler import build_param_scheduler
    from vissl.optimizers import optimizer_helper  # noqa: F401  (fills the registries)

    config, paper, steps = run
    scheduled = config.OPTIMIZER.param_schedulers.lr
    rate = build_param_scheduler({**scheduled, "num_epochs": paper.epochs})
    total, top = steps * paper.epochs, steps * paper.warmup
    assert isclose(rate(0.0), paper.first, rel_tol=1e-6)
    assert isclose(rate(top / total), paper.peak, rel_tol=1e-3)
    if paper.warmup:
        half = (paper.first + paper.peak) / 2
        assert isclose(rate(top / 2 / total), half, rel_tol=1e-6)
    middle = (paper.peak + paper.last) / 2
    assert isclose(rate((top + total) / 2 / total), middle, rel_tol=1e-3)
    assert abs(rate(1 - 1e-9) - paper.last) < 1e-6 * paper.peak


def test_rate_in_the_file_is_the_rate_used(run):
    config = run[0]
    lr = config.OPTIMIZER.param_schedulers.lr
    assert not lr.auto_lr_scaling.auto_scale
    assert lr.update_interval == "step"
    if lr.name == "composite":
        assert sum(lr.lengths) == pytest.approx(1.0, abs=1e-12)
        assert lr.lengths[0] == run[1].warmup / run[1].epochs
    else:
        assert lr.name == "cosine" and not lr.lengths


def test_optimiser(run):
    config, paper, _ = run
    optimizer = config.OPTIMIZER
    assert (optimizer.name, optimizer.momentum, optimizer.nesterov) == (
        "sgd",
        0.9,
        False,
    )
    assert optimizer.weight_decay == 1e-6
    assert optimizer.use_larc
    larc = optimizer.larc_config
    assert (larc.trust_coefficient, larc.clip, larc.eps) == (*paper.larc, 1e-8)


def test_crops(run):
    config, paper, _ = run
    (transform,) = config.DATA.TRAIN.TRANSFORMS
    assert transform["name"] == "MultiCrop"
    assert config.DATA.TRAIN.COLLATE_FUNCTION == "multi_crop_collator"
    keys = ("size_crops", "num_crops", "crop_scales")
    groups = zip(*(transform[key] for key in keys), strict=True)
    assert tuple((s, n, *scale) for s, n, scale in groups) == paper.crops


def test_loss_and_prototypes(run):
    config, paper, _ = run
    name = config.LOSS.name
    loss = config.LOSS[name]
    assert loss.temperature == 0.1 and loss.embedding_dim == 128
    assert tuple(loss.get("num_prototypes", ())) == paper.heads
    assert loss.get("crops_for_assign", [0, 1]) == [0, 1]
    own = {
        "swav": {"epsilon": 0.05, "num_iterations": 3, "hard_codes": False},
        "swav_momentum": {"epsilon": 0.05, "momentum": 0.9995, "momentum_end": 1.0},
        "deepcluster_v2": {"num_iterations": 10, "assign_every_epochs": 1},
        "sela_v2": {"epsilon": 0.05, "num_labels": 1, "assign_every_epochs": 1},
        "simclr_multicrop": {"max_similarities": 2**24},
    }
    assert {key: loss[key] for key in own[name]} == own[name]


def test_head_has_batch_norm(run):
    """As the authors' (appendix A.1); VISSL's head of the widest net has none."""
    config = run[0]
    (head,) = config.MODEL.HEAD.PARAMS
    widest = config.MODEL.TRUNK.RESNETS.WIDTH_MULTIPLIER == 5
    assert head[0] == "swav_head" and head[1]["use_bn"] is not widest


def test_queue_and_freeze(run):
    from vissl_swav.host.settings import schedule

    config, paper, steps = run
    assert config.LOSS[config.LOSS.name].get("queue_length", 0) == paper.queue
    when = schedule(config)
    assert when.queue_start(steps) == paper.queue_epoch * steps
    trained = config.LOSS.name not in ("deepcluster_v2", "simclr_multicrop")
    freeze = (paper.freeze or steps) if trained else float("inf")
    assert when.freeze_steps(steps) == freeze


@pytest.mark.parametrize("name", [n for n in RUNS if n.split("/")[0] != "swav"])
def test_all_but_head_and_loss_is_that_of_swav(name, complete):
    """Appendix D: "the same hyperparameters as SwAV"; SimCLR in Fig. 3 likewise."""
    config = complete(f"config=pretrain/{name}")
    run = name.split("/")[1].removesuffix("_queue65536")
    swav = complete(f"config=pretrain/swav/{run}")
    for other in (config, swav):
        del other.LOSS, other.MODEL.HEAD
    assert config == swav


def test_batch_norm_groups_divide_the_processes(run):
    config = run[0]
    sync = config.MODEL.SYNC_BN_CONFIG
    processes = config.DISTRIBUTED.NUM_NODES * config.DISTRIBUTED.NUM_PROC_PER_NODE
    assert sync.CONVERT_BN_TO_SYNC_BN == (processes > 1)
    if processes > 1:
        assert sync.GROUP_SIZE == min(8, processes)


@pytest.mark.parametrize(
    ("overlay", "key", "value"),
    [
        ("hard_codes", "hard_codes", True),
        ("fixed_prototypes", "trainable_prototypes", False),
    ],
)
def test_ablations_change_one_thing(overlay, key, value, complete):
    base = "config=pretrain/swav/resnet50_400ep_2x160_4x96"
    before = complete(base)
    after = complete(base, f"+config/pretrain/swav/ablation={overlay}")
    assert after.LOSS.swav[key] is value and before.LOSS.swav[key] is not value
    after.LOSS.swav[key] = before.LOSS.swav[key]
    assert after == before
