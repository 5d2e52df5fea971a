"""VISSL's own benchmark configs, by walking the wheel, and what each lies over."""

from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import yaml

HOST = Path(str(files("configs"))) / "config" if find_spec("vissl") else None
# For detectron2's own trainer, not for hydra: docs/detection.md.
DETECTION = "benchmark/object_detection/"
LINEAR = "benchmark/linear_image_classification"
IMAGENET_LINEAR = f"{LINEAR}/imagenet1k/eval_resnet_8gpu_transfer_in1k_linear"
RETRIEVAL = "benchmark/instance_retrieval/"


@dataclass(frozen=True)
class HostFile:
    """One YAML file of the wheel.

    Attributes:
        name: path below `configs/config/` without the ending.
    """

    name: str

    @cached_property
    def config(self) -> dict:
        return yaml.safe_load((HOST / f"{self.name}.yaml").read_text())["config"]

    @property
    def folder(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def stem(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def is_complete(self) -> bool:
        """Runs alone; the others are laid over one that does.

        The linear evaluations of ViTs stand among the overlays, but are complete.
        """
        whole = {"DATA", "LOSS", "MODEL", "OPTIMIZER"} <= self.config.keys()
        return self.stem.startswith("eval_") or whole

    @property
    def trunk(self) -> str:
        """`MODEL.TRUNK.NAME`, or the empty word."""
        return self.config.get("MODEL", {}).get("TRUNK", {}).get("NAME", "")

    @property
    def is_resnet50(self) -> bool:
        if self.trunk != "resnet":
            return False
        trunk = self.config["MODEL"]["TRUNK"]["RESNETS"]
        plain = trunk.get("GROUPS", 1) == trunk.get("WIDTH_MULTIPLIER", 1) == 1
        return trunk["DEPTH"] == 50 and plain

    @property
    def family(self) -> str:
        """The word behind `eval_` of the complete files that it fits."""
        named = self.trunk or self.stem.removeprefix("eval_")
        words = {"alexnet": "alexnet", "vision_transformer": "vit", "vit": "vit"}
        return next((to for word, to in words.items() if word in named), "resnet")

    @property
    def override(self) -> str:
        """How a command line names it."""
        if self.is_complete:
            return f"config={self.name}"
        return f"+config/{self.folder}={self.stem}"


def walk(host: Path) -> list[HostFile]:
    """Every YAML file below `benchmark/` but detectron2's."""
    names = (
        path.relative_to(host).with_suffix("").as_posix()
        for path in sorted((host / "benchmark").rglob("*.yaml"))
    )
    return [HostFile(name) for name in names if not name.startswith(DETECTION)]


FILES = walk(HOST) if HOST else []
COMPLETE = [file for file in FILES if file.is_complete]
RESNET50 = [file for file in COMPLETE if file.is_resnet50]
OVERLAYS = [file for file in FILES if not file.is_complete]


def bases_of(overlay: HostFile) -> list[HostFile]:
    """The complete files in the nearest folder above; of its family, if there are."""
    folder = overlay.folder
    named = [file for file in COMPLETE if file.stem.startswith("eval_")]
    while folder != "benchmark":
        beside = [file for file in named if file.folder == folder]
        fitting = [file for file in beside if file.family == overlay.family]
        if fitting or beside:
            return fitting or [file for file in beside if file.family == "resnet"]
        folder = folder.rpartition("/")[0]
    return [file for file in named if file.name == IMAGENET_LINEAR]


PAIRS = [(base, overlay) for overlay in OVERLAYS for base in bases_of(overlay)]
# Without a trunk of their own: they run with one of the overlays only.
TRUNKLESS = {"benchmark/fulltune/imagenet1k/eval_vit_8gpu_transfer_in1k_finetune"}
# The lightest of each group; the default run builds these.
REPRESENTATIVE = (
    IMAGENET_LINEAR,
    f"{LINEAR}/voc07/eval_resnet_8gpu_transfer_voc07_svm",
    "benchmark/fulltune/imagenet1k/eval_resnet_8gpu_transfer_in1k_fulltune",
    "benchmark/semi_supervised/imagenet1k/"
    "eval_resnet_8gpu_transfer_in1k_semi_sup_fulltune",
    "benchmark/nearest_neighbor/eval_resnet_8gpu_in1k_kNN",
    "benchmark/low_shot_transfer/caltech101/"
    "eval_resnet_8gpu_transfer_caltech101_low_tune",
)
# What does not build: words of the error that must really occur, and overrides with
# which it builds all the same; none where the fault is in the host's code.
_FULLTUNE = "benchmark/fulltune"
_LR = "config.OPTIMIZER.param_schedulers.lr"
_HEAD = "config.MODEL.HEAD.PARAMS"
# Fewer epochs than the base's schedule has milestones.
_SCHEDULE = "Milestone must be smaller than total number of updates"
# The head is written for another RegNet, or for another pooling.
_WIDTH = r"same reduction dim, but got \[2, {}\]"
CANNOT = {
    f"{_FULLTUNE}/imagenet1k/datasets/{name}": (
        _SCHEDULE,
        (f"{_LR}.milestones=[10,20]", f"{_LR}.values=[0.1,0.01,0.001]"),
    )
    for name in ("imagenet_1k", "imagenet_1k_1percent", "imagenet_1k_10percent")
}
CANNOT |= {
    f"{_FULLTUNE}/{name}/models/regnet64Gf": (
        _WIDTH.format(4920),
        (f"{_HEAD}=[[mlp,{{dims:[4920,{classes}]}}]]",),
    )
    for name, classes in (("imagenet1k", 1000), ("places205", 205))
}
CANNOT[f"{LINEAR}/imagenet1k/models/regnet400MF"] = (
    _WIDTH.format(13200),
    (f"{_HEAD}=[[eval_mlp,{{in_channels:440,dims:[13200,1000]}}]]",),
)
# `vissl/models/trunks/alexnet_bvlc.py:82` hands on an argument that nobody takes.
CANNOT |= {
    f"{LINEAR}/{name}/models/alexnet_bvlc_supervised": ("use_checkpointing", ())
    for name in ("imagenet1k", "inaturalist18", "places205", "voc07")
}
# A data source of the authors' company, in no wheel; the data path override names
# another.
INTERNAL_SOURCE = "everstore"
