"""The runs of `health_runs.py`: what each is made to do, and how.

All are the quickstart with half its width on 1600 images, batch 32, 50 steps an epoch.
"""

from dataclasses import dataclass

SWAV = "config=pretrain/swav/quickstart"
DEEP_CLUSTER = "config=pretrain/deepcluster_v2/quickstart"
SELA = "config=pretrain/sela_v2/quickstart"
_FREEZE = "config.LOSS.swav.freeze_prototypes_epochs="
_EPSILON = "config.LOSS.swav.epsilon="
_TEMPERATURE = "config.LOSS.swav.temperature="
_QUEUE, _QUEUE_START = (
    "config.LOSS.swav.queue_length=",
    "config.LOSS.swav.queue_start_epoch=",
)
_TRAINED = "config.LOSS.swav.trainable_prototypes=true"
_RATE = "config.OPTIMIZER.param_schedulers.lr.start_value="
_DECAY = "config.OPTIMIZER.weight_decay="
_SGD = ("config.OPTIMIZER.name=sgd", "config.OPTIMIZER.use_larc=false")
HEALTHY, COLLAPSED = "healthy", "COLLAPSED"


@dataclass(frozen=True)
class Run:
    """A run, what it is made to do, and how it differs from the quickstart.

    Attributes:
        name: of the run and its folder.
        cause: in words.
        wanted: the verdict it is made for, or `HEALTHY`: no alarm.
        overrides: after those of all runs; the first names the config.
        images: "embedded", "cifar10", "grey", "orange", "noise", "one image" or
            "few".
        weights: "", "equal prototypes", "dead stem", "dead trunk" or "shut head".
        epochs: of 50 steps; of one step where images are few.
    """

    name: str
    cause: str
    wanted: str
    overrides: tuple[str, ...]
    images: str = "embedded"
    weights: str = ""
    epochs: int = 5


def head(prototypes: str, *, batch_norm: bool = True, features: int = 16) -> str:
    """The override of a head with so many prototypes, "100,100" for two heads."""
    return (
        f"config.MODEL.HEAD.PARAMS=[[swav_head,{{dims:[64,64,{features}],use_bn:"
        f"{str(batch_norm).lower()},num_clusters:[{prototypes}]}}]]"
    )


CALIBRATION = (
    Run("good", "the quickstart", HEALTHY, (SWAV,)),
    Run(
        "flat_codes",
        "epsilon 1, prototypes trained from step 0",
        COLLAPSED,
        (SWAV, _TRAINED, _FREEZE + "0", _EPSILON + "1.0"),
    ),
)
FIRST_TRIAL = (
    Run(
        "queue",
        "prototypes trained after an epoch, queue of 10 batches from epoch 2, "
        "temperature 0.1",
        HEALTHY,
        (
            *(SWAV, _TRAINED, _FREEZE + "1", _TEMPERATURE + "0.1"),
            *(_QUEUE + "320", _QUEUE_START + "2"),
        ),
    ),
    Run(
        "multi_crop",
        "2x24 + 2x16 crops, 30 prototypes trained, hard codes, lr 0.003",
        HEALTHY,
        (
            SWAV,
            "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[24,16],"
            "num_crops:[2,2],crop_scales:[[0.3,1.0],[0.1,0.3]],jitter_probability:0.0,"
            "grayscale_probability:0.0,blur_probability:0.0}]",
            *(head("30"), _TRAINED, _FREEZE + "1"),
            *("config.LOSS.swav.hard_codes=true", _RATE + "0.003"),
        ),
    ),
    Run(
        "deepcluster_v2",
        "DeepCluster-v2, 3 x 100",
        HEALTHY,
        (DEEP_CLUSTER, head("100,100,100")),
    ),
    Run(
        "blank_images",
        "every image is grey, prototypes fixed",
        COLLAPSED,
        (SWAV,),
        images="grey",
    ),
    Run(
        "equal_prototypes",
        "starts from weights with equal prototypes, trained after an epoch",
        COLLAPSED,
        (SWAV, _TRAINED, _FREEZE + "1"),
        weights="equal prototypes",
    ),
    Run(
        "blank_clusters",
        "DeepCluster-v2, every image is grey",
        COLLAPSED,
        (DEEP_CLUSTER, head("100,100,100")),
        images="grey",
    ),
)
SECOND_TRIAL = (
    Run(
        "sela_v2",
        "SeLa-v2, 3 x 50",
        HEALTHY,
        (SELA, head("50,50,50")),
        epochs=9,
    ),
    Run(
        "cifar_clusters",
        "DeepCluster-v2, 30 clusters, CIFAR-10",
        HEALTHY,
        (DEEP_CLUSTER, head("30")),
        images="cifar10",
        epochs=9,
    ),
    Run(
        "cifar_queue",
        "CIFAR-10, K 300 trained after an epoch, queue of 20 batches from epoch 1, "
        "temperature 0.1",
        HEALTHY,
        (
            *(SWAV, head("300"), _TRAINED, _FREEZE + "1", _TEMPERATURE + "0.1"),
            *(_QUEUE + "640", _QUEUE_START + "1"),
        ),
        images="cifar10",
        epochs=9,
    ),
    Run(
        "few_prototypes",
        "batch 128, K 10 fixed, SGD at 0.1",
        HEALTHY,
        (
            *(SWAV, head("10"), *_SGD, _RATE + "0.1"),
            "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=128",
        ),
        epochs=20,
    ),
    Run(
        "unfrozen",
        "CIFAR-10, K 500 trained from step 0, epsilon 0.03, temperature 0.1",
        HEALTHY,
        (
            *(SWAV, head("500"), _TRAINED, _FREEZE + "0"),
            *(_EPSILON + "0.03", _TEMPERATURE + "0.1"),
        ),
        images="cifar10",
        epochs=9,
    ),
    Run(
        "decay",
        "SGD at 0.3, weight decay 1, prototypes fixed",
        COLLAPSED,
        (SWAV, *_SGD, _RATE + "0.3", _DECAY + "1.0"),
        epochs=9,
    ),
    Run(
        "dead_trunk",
        "starts from weights whose last ReLU lets nothing through, prototypes trained "
        "after an epoch",
        COLLAPSED,
        (SWAV, _TRAINED, _FREEZE + "1"),
        weights="dead trunk",
        epochs=9,
    ),
    Run(
        "one_image",
        "1600 copies of one image, prototypes trained after an epoch",
        COLLAPSED,
        (SWAV, _TRAINED, _FREEZE + "1"),
        images="one image",
        epochs=9,
    ),
    Run(
        "high_rate",
        "SGD at 30, no batch norm in the head, prototypes trained from step 0",
        COLLAPSED,
        (
            *(SWAV, head("100", batch_norm=False), _TRAINED, _FREEZE + "0"),
            *(*_SGD, _RATE + "30.0"),
        ),
        epochs=9,
    ),
    Run(
        "cluster_decay",
        "DeepCluster-v2, 3 x 100, SGD at 0.3, weight decay 1",
        COLLAPSED,
        (DEEP_CLUSTER, head("100,100,100"), *_SGD, _RATE + "0.3", _DECAY + "1.0"),
        epochs=9,
    ),
)
_SLOW = _RATE + "1e-7"
SLOW = (
    Run(
        "slow",
        "learning rate 1e-7, prototypes trained from step 0",
        HEALTHY,
        (SWAV, _TRAINED, _FREEZE + "0", _SLOW),
    ),
    Run(
        "slow_plain_head",
        "the same, no batch norm in the head",
        HEALTHY,
        (SWAV, head("100", batch_norm=False), _TRAINED, _FREEZE + "0", _SLOW),
    ),
    Run(
        "slow_wide_head",
        "the same, features of 128 values, K 3000",
        HEALTHY,
        (SWAV, head("3000", features=128), _TRAINED, _FREEZE + "0", _SLOW),
    ),
)
_AT_RATES = (
    "config.OPTIMIZER.param_schedulers.lr.name=multistep",
    "config.OPTIMIZER.param_schedulers.lr.values=[0.1,30.0]",
    "config.OPTIMIZER.param_schedulers.lr.update_interval=epoch",
)
_JUMP = (*_AT_RATES, "config.OPTIMIZER.param_schedulers.lr.milestones=[6]")
THIRD_TRIAL = (
    Run(
        "two_heads",
        "CIFAR-10, batch 64, heads of 50 and 200 trained after an epoch, features of "
        "64 values, SGD at 0.2",
        HEALTHY,
        (
            *(SWAV, head("50,200", features=64), _TRAINED, _FREEZE + "1"),
            *(*_SGD, _RATE + "0.2", "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=64"),
        ),
        images="cifar10",
        epochs=13,
    ),
    Run(
        "gentle",
        "CIFAR-10, colour jitter 0.8, epsilon 0.1, temperature 0.3, Adam at 1e-4",
        HEALTHY,
        (
            *(SWAV, _EPSILON + "0.1", _TEMPERATURE + "0.3", _RATE + "1e-4"),
            "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[24],"
            "num_crops:[2],crop_scales:[[0.3,1.0]],jitter:[0.8,0.8,0.8,0.2],"
            "blur_probability:0.0}]",
        ),
        images="cifar10",
        epochs=9,
    ),
    Run(
        "plain_head",
        "no batch norm in the head, K 40 trained from step 0, SGD at 0.05",
        HEALTHY,
        (
            *(SWAV, head("40", batch_norm=False), _TRAINED, _FREEZE + "0"),
            *(*_SGD, _RATE + "0.05"),
        ),
        epochs=9,
    ),
    Run(
        "one_colour",
        "every image is orange, crops differ by a colour jitter of 0.8 alone; "
        "prototypes trained after an epoch",
        COLLAPSED,
        (
            *(SWAV, _TRAINED, _FREEZE + "1"),
            "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[24],"
            "num_crops:[2],crop_scales:[[0.3,1.0]],jitter:[0.8,0.8,0.8,0.2],"
            "jitter_probability:1.0,blur_probability:0.0}]",
        ),
        images="orange",
        epochs=9,
    ),
    Run(
        "wrong_std",
        "CIFAR-10, pixels divided by a std of 1e6",
        COLLAPSED,
        (
            SWAV,
            "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[24],"
            "num_crops:[2],crop_scales:[[0.3,1.0]],std:[1e6,1e6,1e6],"
            "blur_probability:0.0}]",
        ),
        images="cifar10",
        epochs=9,
    ),
    Run(
        "late_collapse",
        "no batch norm in the head, prototypes trained from step 0, SGD at 0.1, at 30 "
        "from epoch 5 on",
        COLLAPSED,
        (
            *(SWAV, head("100", batch_norm=False), _TRAINED, _FREEZE + "0", *_SGD),
            *(*_AT_RATES, "config.OPTIMIZER.param_schedulers.lr.milestones=[5]"),
        ),
        epochs=13,
    ),
    # In place of two that were found not to collapse.
    Run(
        "shut_head",
        "SeLa-v2, 3 x 50, starts from weights whose head's ReLU lets nothing through",
        COLLAPSED,
        (SELA, head("50,50,50")),
        weights="shut head",
        epochs=9,
    ),
)
FOURTH_TRIAL = (
    Run(
        "short_queue",
        "K 60 fixed, features of 32 values, hard codes, Adam at 0.002, queue of 5 "
        "batches from epoch 3",
        HEALTHY,
        (
            *(SWAV, head("60", features=32), "config.LOSS.swav.hard_codes=true"),
            *(_RATE + "0.002", _QUEUE + "160", _QUEUE_START + "3"),
        ),
        epochs=9,
    ),
    Run(
        "plain_sela",
        "SeLa-v2, 2 x 40, CIFAR-10, no batch norm in the head",
        HEALTHY,
        (SELA, head("40,40", batch_norm=False)),
        images="cifar10",
        epochs=9,
    ),
    Run(
        "small_clusters",
        "DeepCluster-v2, 2 x 20, batch 64, SGD at 0.1",
        HEALTHY,
        (
            *(DEEP_CLUSTER, head("20,20"), *_SGD, _RATE + "0.1"),
            "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=64",
        ),
        epochs=13,
    ),
    Run(
        "noise",
        "white noise, crops of 5 to 10 % of the area have nothing in common; "
        "prototypes trained from step 0",
        COLLAPSED,
        (
            *(SWAV, _TRAINED, _FREEZE + "0"),
            "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[24],"
            "num_crops:[2],crop_scales:[[0.05,0.1]],jitter_probability:0.0,"
            "grayscale_probability:0.0,blur_probability:0.0}]",
        ),
        images="noise",
        epochs=9,
    ),
    Run(
        "sela_decay",
        "SeLa-v2, 3 x 50, CIFAR-10, SGD at 0.3, weight decay 1",
        COLLAPSED,
        (SELA, head("50,50,50"), *_SGD, _RATE + "0.3", _DECAY + "1.0"),
        images="cifar10",
        epochs=9,
    ),
    Run(
        "dead_stem",
        "DeepCluster-v2, 40 clusters, CIFAR-10, starts from weights whose first ReLU "
        "lets nothing through",
        COLLAPSED,
        (DEEP_CLUSTER, head("40")),
        images="cifar10",
        weights="dead stem",
        epochs=9,
    ),
)
OTHER_VERDICTS = (
    Run(
        "rate_jump",
        "K 10 fixed, SGD at 0.1, at 30 from epoch 6 on",
        "DIVERGING",
        (SWAV, head("10"), *_SGD, *_JUMP),
        epochs=14,
    ),
    Run(
        "stale_queue",
        "CIFAR-10, K 300 trained after an epoch, temperature 0.1, Adam at 0.01, queue "
        "of 40 batches from epoch 3",
        "QUEUE HURTS",
        (
            *(SWAV, head("300"), _TRAINED, _FREEZE + "1", _TEMPERATURE + "0.1"),
            *(_QUEUE + "1280", _QUEUE_START + "3", _RATE + "0.01"),
            "config.OPTIMIZER.param_schedulers.lr.end_value=0.01",
        ),
        images="cifar10",
        epochs=11,
    ),
    Run(
        "one_batch",
        "32 images, hardly cropped, K 64 trained, temperature 0.1, Adam at 0.003",
        "AT FLOOR",
        (
            *(SWAV, head("64"), _TRAINED, _FREEZE + "0", _TEMPERATURE + "0.1"),
            "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[24],"
            "num_crops:[2],crop_scales:[[0.9,1.0]],jitter_probability:0.0,"
            "flip_probability:0.0,grayscale_probability:0.0,blur_probability:0.0}]",
            _RATE + "0.003",
        ),
        images="few",
        epochs=500,
    ),
)
