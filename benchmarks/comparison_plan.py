"""What the comparison of `comparison.py` holds equal, and the runs that it makes.

The paper's comparison in the same setting (Fig. 3, left) at the size of a laptop: rows
are methods, columns 2 crops and multi-crop, each cell is trained with several seeds.
Equal in all cells: images, trunk, epochs (images seen), batch, optimiser and rate,
colour steps, seeds. As in the paper, multi-crop takes smaller crops (160/224 and 96/224
of the side), so that a step costs about the same.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

SEEDS = (0, 1, 2)
# Of the search for temperatures: a seed that is no run's, half the epochs, 2 crops.
SEARCH_SEED = 100
TEMPERATURES = (0.1, 0.2, 0.4)
TWO, MULTI = "2 crops", "multi-crop"
COLUMNS = (TWO, MULTI)
_SWAV = "pretrain/swav/quickstart"


@dataclass(frozen=True)
class Method:
    """A row of the comparison.

    Attributes:
        title: for people.
        config: of the host's command line.
        loss: the name of its loss.
        head: name of the head and its settings but for `dims`.
        temperature: of its loss, found by the search; None where it has none.
        paper: ImageNet linear top-1 in %, 2x224 and 2x160+4x96; None where the paper
            has none.
        overrides: of the host's command line.
        outputs: of the head; the size's embedding where None.
    """

    title: str
    config: str
    loss: str
    head: tuple[str, str]
    temperature: float | None = None
    paper: tuple[float, float] | None = None
    overrides: tuple[str, ...] = ()
    outputs: int | None = None


_THREE = ("swav_head", "use_bn:true,num_clusters:[{K},{K},{K}]")
_ONE = ("swav_head", "use_bn:true,num_clusters:[{K}]")
_NONE = ("swav_head", "use_bn:true,num_clusters:[]")
_CROSS_ENTROPY = "cross_entropy_multiple_output_single_target"
METHODS: Mapping[str, Method] = {
    "supervised": Method(
        "supervised (every crop carries the label)",
        _SWAV,
        _CROSS_ENTROPY,
        ("mlp", ""),
        paper=(76.5, 76.0),
        overrides=(
            "config.DATA.TRAIN.LABEL_SOURCES=[torchvision_dataset]",
            "config.DATA.TRAIN.LABEL_TYPE=standard",
            "config.LOSS.swav=null",
        ),
        outputs=10,
    ),
    "simclr_multicrop": Method(
        "SimCLR, eq. 7",
        "pretrain/simclr_multicrop/quickstart",
        "simclr_multicrop",
        _NONE,
        temperature=0.2,
        paper=(68.2, 70.6),
        # Of its quickstart: images are told apart by it, not sorted into clusters.
        outputs=64,
    ),
    "sela_v2": Method(
        "SeLa-v2",
        "pretrain/sela_v2/quickstart",
        "sela_v2",
        _THREE,
        temperature=0.2,
        paper=(67.2, 71.8),
    ),
    "deepcluster_v2": Method(
        "DeepCluster-v2",
        "pretrain/deepcluster_v2/quickstart",
        "deepcluster_v2",
        _THREE,
        temperature=0.2,
        paper=(70.2, 74.3),
    ),
    "swav": Method("SwAV", _SWAV, "swav", _ONE, temperature=0.2, paper=(70.1, 74.1)),
    "swav_momentum": Method(
        "SwAV, codes from a momentum encoder",
        "pretrain/swav_momentum/quickstart",
        "swav_momentum",
        _ONE,
        temperature=0.2,
    ),
}
RANDOM = "random trunk"


@dataclass(frozen=True)
class Size:
    """How large the comparison is.

    Attributes:
        name: of the size.
        train_per_class: training images of a class; None for all.
        test_per_class: test images of a class; None for all.
        width: of the ResNet-18's first layer; its features are 8 times as wide.
        embedding: D, of the projection head.
        prototypes: K, of a head.
        batch: images in a step.
        epochs: over the training images.
        rate: Adam's, falling to 0 along a cosine.
        crops: sides in pixels of the 2 crops, of multi-crop's full and local ones.
        full_scale: share of the image's area that a full crop covers.
        local_scale: the same of a local crop.
    """

    name: str
    train_per_class: int | None
    test_per_class: int | None
    width: int
    embedding: int
    prototypes: int
    batch: int
    epochs: int
    rate: float = 1e-3
    crops: tuple[int, int, int] = (24, 17, 10)
    full_scale: tuple[float, float] = (0.3, 1.0)
    local_scale: tuple[float, float] = (0.08, 0.3)


SIZES = {
    size.name: size
    for size in (
        Size("toy", 16, 8, width=2, embedding=8, prototypes=12, batch=16, epochs=2),
        Size(
            *("small", 400, 200),
            **{"width": 8, "embedding": 16, "prototypes": 100, "batch": 64},
            **{"epochs": 5, "rate": 3e-3},
        ),
        # 2x32 against 2x23+4x14, 60 epochs of all 50 000 images.
        Size(
            *("full", None, None),
            **{"width": 64, "embedding": 128, "prototypes": 1000, "batch": 256},
            **{"epochs": 60, "crops": (32, 23, 14)},
        ),
    )
}


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        method: of `METHODS`, or `RANDOM` for a trunk that is not trained.
        column: of `COLUMNS`.
        seed: of weights, order and crops.
        temperature: in place of the method's.
        share: of the size's epochs.
    """

    method: str
    column: str
    seed: int
    temperature: float | None = None
    share: float = 1.0

    @property
    def name(self) -> str:
        """For people and folders."""
        parts = [self.method, self.column, f"seed {self.seed}"]
        if self.temperature is not None:
            parts.append(f"temperature {self.temperature:g}")
        return ", ".join(parts)


def cells(
    methods: Sequence[str] = tuple(METHODS), seeds: Sequence[int] = SEEDS
) -> Iterator[Cell]:
    """The comparison's runs; a whole table for a seed before the next seed."""
    for seed in seeds:
        yield Cell(RANDOM, TWO, seed)
        for method in methods:
            for column in COLUMNS:
                yield Cell(method, column, seed)


def search_cells(methods: Sequence[str] = tuple(METHODS)) -> Iterator[Cell]:
    """The same few temperatures for every method that has one."""
    for method in methods:
        if METHODS[method].temperature is not None:
            for temperature in TEMPERATURES:
                yield Cell(method, TWO, SEARCH_SEED, temperature, share=0.5)


def overrides(cell: Cell, size: Size) -> list[str]:
    """The run on the host's command line, without data, machine and folder."""
    method = METHODS[cell.method]
    epochs = max(1, round(cell.share * size.epochs))
    schedule = "config.OPTIMIZER.param_schedulers.lr"
    lines = [
        f"config={method.config}",
        f"config.LOSS.name={method.loss}",
        *method.overrides,
        f"config.SEED_VALUE={cell.seed}",
        f"config.DATA.TRAIN.TRANSFORMS=[{multi_crop(cell, size)}]",
        f"config.DATA.TRAIN.BATCHSIZE_PER_REPLICA={size.batch}",
        # Small images are decoded once; their crops are made batch by batch.
        "config.TRAINER.TRAIN_STEP_NAME=multi_crop_train_step",
        "config.DATA.TRAIN.IMAGES_ON_DEVICE=true",
        f"config.MODEL.TRUNK.RESNET_SMALL.WIDTH={size.width}",
        f"config.MODEL.HEAD.PARAMS=[{_head(method, size)}]",
        f"config.OPTIMIZER.num_epochs={epochs}",
        f"{schedule}.start_value={size.rate}",
        f"config.CHECKPOINT.CHECKPOINT_FREQUENCY={max(1, epochs // 3)}",
    ]
    temperature = cell.temperature or method.temperature
    if temperature is not None:
        lines.append(f"config.LOSS.{method.loss}.temperature={temperature}")
    return lines


def multi_crop(cell: Cell, size: Size) -> str:
    """The transform; colour steps are the quickstart's in every cell."""
    two, full, local = size.crops
    sides, counts, scales = [two], [2], [list(size.full_scale)]
    if cell.column == MULTI:
        sides, counts = [full, local], [2, 4]
        scales = [list(size.full_scale), list(size.local_scale)]
    return (
        f"{{name:MultiCrop,size_crops:{sides},num_crops:{counts},crop_scales:{scales},"
        "jitter:[0.4,0.4,0.4,0.1],blur_probability:0.0}"
    )


def _head(method: Method, size: Size) -> str:
    name, settings = method.head
    features = 8 * size.width
    outputs = method.outputs or size.embedding
    # Labels are told from the features themselves, as by the judge's linear layer.
    dims = [features, outputs] if name == "mlp" else [features, features, outputs]
    inner = ",".join(filter(None, [f"dims:{dims}", settings]))
    return f"[{name},{{{inner.replace('{K}', str(size.prototypes))}}}]"


def folder_name(cell: Cell, size: Size) -> str:
    """Of the cell's run: another setting gets another folder."""
    lines = overrides(cell, size) if cell.method != RANDOM else []
    decides = json.dumps([cell.name, size.name, str(size), lines])
    digest = hashlib.sha256(decides.encode()).hexdigest()[:8]
    return f"{cell.name.replace(', ', '_').replace(' ', '-')}-{digest}"
