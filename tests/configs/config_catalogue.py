"""Our YAML files, what they are and what their opening comments say."""

import re
from dataclasses import dataclass
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PLACEHOLDERS = {"N": "0", "C": "7", "PATH": "images", "CHECKPOINT": "weights.torch"}
_WORDS = (
    *("Source:", "Batch:", "Memory:", "Command", "Expected:"),
    *("Tolerance:", "Cost:", "Measured:"),
)
METHODS = ("swav", "swav_momentum", "deepcluster_v2", "sela_v2", "simclr_multicrop")
CLUSTERING = ("deepcluster_v2", "sela_v2")


@dataclass(frozen=True)
class ConfigFile:
    """One YAML file of ours.

    Attributes:
        name: path below `configs/` without the ending.
    """

    name: str

    @property
    def text(self) -> str:
        return (CONFIGS / f"{self.name}.yaml").read_text(encoding="utf-8")

    @property
    def is_base(self) -> bool:
        """Named by other files only: no run, no overlay."""
        in_benchmark = re.fullmatch(r"benchmark/[^/]+", self.name)
        return self.name.endswith("/base") or in_benchmark is not None

    @property
    def is_overlay(self) -> bool:
        of_a_method = self.name.startswith("pretrain/") and self.name.count("/") == 3
        of_any = self.name.startswith("benchmark/device/")
        mixes = self.name.startswith("pretrain/mixed/")
        return of_a_method or of_any or mixes or self.is_for_the_host

    @property
    def is_for_the_host(self) -> bool:
        """An overlay on runs of VISSL's own methods."""
        return self.name.startswith(("pretrain/multi_crop/", "pretrain/dino/"))

    @property
    def is_run(self) -> bool:
        return not self.is_base and not self.is_overlay

    @property
    def method(self) -> str:
        """The folder below `pretrain/`, which is the loss; empty for evaluations."""
        kind, folder = self.name.split("/")[:2]
        return folder if kind == "pretrain" else ""

    @property
    def clusters(self) -> bool:
        """Trains by labels from a memory bank."""
        return self.method in CLUSTERING

    @property
    def override(self) -> str:
        """How a command line names this file."""
        if not self.is_overlay:
            return f"config={self.name}"
        group, _, option = self.name.rpartition("/")
        return f"+config/{group}={option}"

    @property
    def opening(self) -> dict[str, str]:
        """The opening comment by its words; the part before them under "title"."""
        parts, word = {"title": ""}, "title"
        for line in self.text.splitlines()[1:]:
            if not line.startswith("#"):
                break
            text = line.removeprefix("#").strip()
            found = [known for known in _WORDS if text.startswith(known)]
            if found:
                word = found[0].rstrip(":")
                parts[word] = text.removeprefix(found[0])
            else:
                parts[word] += " " + text
        return {word: text.strip() for word, text in parts.items()}

    @property
    def command(self) -> tuple[str, ...]:
        """The overrides of the command in the opening, placeholders filled in."""
        tokens = [
            re.sub(r"^data=(.+)", r"config.DATA.TRAIN.DATA_PATHS=[\1]", token)
            for token in self.opening["Command"].split()
        ]
        overrides = [t for t in tokens if re.match(r"\+?(config|node_id)[=./]", t)]
        for word, value in PLACEHOLDERS.items():
            overrides = [re.sub(rf"\b{word}\b", value, t) for t in overrides]
        return tuple(overrides)


ALL = [
    ConfigFile(path.relative_to(CONFIGS).with_suffix("").as_posix())
    for path in sorted(CONFIGS.rglob("*.yaml"))
]
# Not those of `vissl-swav table` and of detectron2.
_NOT_HYDRAS = ("benchmark/recipes/", "benchmark/detection/")
FILES = [file for file in ALL if not file.name.startswith(_NOT_HYDRAS)]
# What evaluates a checkpoint, detection too.
EVALUATIONS = [
    file
    for file in ALL
    if file.name.startswith("benchmark/") and "/recipes/" not in file.name
]
BASES = [file for file in FILES if file.is_base]
RUNS = [file for file in FILES if file.is_run]
PRETRAINING = [file for file in RUNS if file.name.startswith("pretrain/")]
OVERLAYS = [file for file in FILES if file.is_overlay]
