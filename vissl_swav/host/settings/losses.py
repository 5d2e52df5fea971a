"""Which keys `LOSS.<name>` of our losses has, and their defaults.

The defaults of a method are those of its core signature; beside them stand keys with
which our hooks follow the run, and keys that the rest of the config implies.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vissl_swav.backends.nearest import choose
from vissl_swav.core.deepcluster_v2 import DeepClusterV2
from vissl_swav.core.momentum import MOMENTUM, MOMENTUM_END
from vissl_swav.core.sela_v2 import SeLaV2
from vissl_swav.core.simclr_multicrop import SimCLRMultiCrop
from vissl_swav.core.swav import SwAV
from vissl_swav.host.errors import StartError

SWAV, DEEPCLUSTER_V2, SELA_V2 = "swav", "deepcluster_v2", "sela_v2"
SIMCLR_MULTICROP, SWAV_MOMENTUM = "simclr_multicrop", "swav_momentum"
# Beside VISSL's own DINO hook, so none of `LOSSES`.
DINO_SINKHORN = "dino_sinkhorn"
NEAREST_CHOICES = ("auto", "torch", "faiss", "flash")

_FREEZE: dict[str, Any] = {
    "freeze_prototypes_epochs": None,
    "freeze_prototypes_steps": None,
    "trainable_prototypes": True,
}
_CYCLE: dict[str, Any] = {"assign_every_epochs": 1}
_MOMENTUM: dict[str, Any] = {
    "momentum": MOMENTUM,
    "momentum_end": MOMENTUM_END,
    "momentum_prototypes": True,
}
_SHAPES = ("num_crops", "num_prototypes", "embedding_dim")
# Core arguments that a config cannot give: an object, and what the host's data says.
_NOT_KEYS = ("nearest", "num_images")


@dataclass(frozen=True)
class LossKeys:
    """The keys of one loss.

    Attributes:
        name: the loss, `LOSS.name`.
        core: the core class that its settings make.
        of_hooks: keys that are no argument of the core class, with defaults.
        inferred: keys that the rest of the config implies.
        clusters: whether labels are found before an epoch, from a memory bank.
        least_crops: crops that an image needs.
        has_prototypes: whether its head ends in prototypes.
    """

    name: str
    core: Callable[..., Any]
    of_hooks: Mapping[str, Any]
    inferred: tuple[str, ...] = _SHAPES
    clusters: bool = False
    least_crops: int = 1
    has_prototypes: bool = True

    @property
    def defaults(self) -> dict[str, Any]:
        """Every key with a default -> the default, lists for tuples."""
        of_core = {
            name: parameter.default
            for name, parameter in inspect.signature(self.core).parameters.items()
            if parameter.default is not inspect.Parameter.empty
            and name not in _NOT_KEYS
        }
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in {**of_core, **self.of_hooks}.items()
        }

    @property
    def keys(self) -> tuple[str, ...]:
        """All valid keys."""
        return (*self.defaults, *self.inferred)

    @property
    def core_arguments(self) -> list[str]:
        """Arguments of the core class that the config gives."""
        return [n for n in inspect.signature(self.core).parameters if n in self.keys]


LOSSES: dict[str, LossKeys] = {
    loss.name: loss
    for loss in (
        LossKeys(
            SWAV,
            SwAV,
            {"queue_start_epoch": None, **_FREEZE},
            inferred=(*_SHAPES, "queue_length_per_rank"),
            least_crops=2,
        ),
        LossKeys(
            SWAV_MOMENTUM,
            SwAV,
            {"queue_start_epoch": None, **_MOMENTUM, **_FREEZE},
            inferred=(*_SHAPES, "queue_length_per_rank"),
            least_crops=2,
        ),
        # Centroids are never trained: no freeze to set.
        LossKeys(
            DEEPCLUSTER_V2, DeepClusterV2, {**_CYCLE, "nearest": "auto"}, clusters=True
        ),
        LossKeys(SELA_V2, SeLaV2, {**_CYCLE, **_FREEZE}, clusters=True),
        LossKeys(
            SIMCLR_MULTICROP,
            SimCLRMultiCrop,
            {},
            inferred=("num_crops", "embedding_dim"),
            least_crops=2,
            has_prototypes=False,
        ),
    )
}


def loss_arguments(name: str, loss_config: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of the core class from an inferred `LOSS.<name>`."""
    loss = LOSSES[name]
    missing = [key for key in loss.inferred if key not in loss_config]
    if missing:
        raise StartError(
            f"config.LOSS.{name} lacks {missing}, which vissl_swav infers when the "
            "host completes the config (convert_to_attrdict); give them, or compose "
            "the config through the host."
        )
    defaults = loss.defaults
    arguments = {
        key: loss_config.get(key, defaults.get(key)) for key in loss.core_arguments
    }
    if loss.core is SwAV:
        arguments["queue_length"] = loss_config["queue_length_per_rank"]
        arguments["queue_start_step"] = arguments["queue_start_step"] or 0
    if loss.clusters:
        arguments["num_images"] = loss_config.get("num_images", 1)
    if "nearest" in loss.of_hooks:
        arguments["nearest"] = choose(loss_config.get("nearest", "auto"))
    return arguments
