"""Whether the settings of a loss of ours are ones that it can have."""

from collections.abc import Mapping
from typing import Any

from vissl_swav.core.momentum import check_momentum
from vissl_swav.core.setting_checks import SettingError, check_whole
from vissl_swav.host.errors import StartError
from vissl_swav.host.settings import dino, parts, sums
from vissl_swav.host.settings.losses import (
    DINO_SINKHORN,
    LOSSES,
    NEAREST_CHOICES,
    LossKeys,
    loss_arguments,
)

_COUNTS = (
    "queue_length",
    "queue_start_epoch",
    "queue_start_step",
    "hard_codes_steps",
    "freeze_prototypes_epochs",
    "freeze_prototypes_steps",
)
# Keys whose default, None, does not tell their type.
_TYPES: dict[str, tuple[type, ...]] = {
    "crops_for_assign": (list,),
    "num_prototypes": (list,),
    "tolerance": (int, float),
}
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list of whole numbers",
    str: "a word",
}


def loss_keys() -> dict[str, tuple[str, ...]]:
    """Every loss of ours -> its valid keys."""
    of_family = {loss.name: loss.keys for loss in LOSSES.values()}
    return {**of_family, DINO_SINKHORN: dino.KEYS, sums.WEIGHTED_SUM: sums.KEYS}


def check_loss_key(loss: str, key: str) -> None:
    """`LOSS.<loss>.<key>` is a key of our loss.

    Raises:
        StartError: names the nearest valid one.
    """
    parts.check_keys([key], loss_keys()[loss], f"config.LOSS.{loss}")


def check_name(cfg: Any) -> None:
    """The loss is one of the host's, where it is none of ours."""
    import vissl.losses  # noqa: F401  # fills the registry
    from classy_vision.losses import LOSS_REGISTRY

    name = cfg.LOSS["name"]
    if name not in LOSS_REGISTRY and name not in cfg.LOSS:
        valid = [*LOSSES, *LOSS_REGISTRY]
        raise StartError(
            f"config.LOSS.name is {name!r}, no loss of VISSL's or vissl_swav's"
            f"{parts.nearest(name, valid) or '.'} Ours are {', '.join(LOSSES)}.",
            key="config.LOSS.name",
        )


def check_types(loss: LossKeys, given: Mapping[str, Any]) -> None:
    """Every given value has its key's type.

    Raises:
        StartError: names key, value and the type that is wanted.
    """
    defaults = loss.defaults
    for key, value in given.items():
        may_be_none = defaults.get(key, 0) is None or key == "queue_start_step"
        if value is None and may_be_none:
            continue
        wanted = _wanted_type(key, defaults.get(key))
        words = _WORDS[wanted[-1]]
        fits = isinstance(value, wanted) and (
            bool in wanted or not isinstance(value, bool)
        )
        if list in wanted and isinstance(value, list):
            fits = bool(value) and all(type(item) is int for item in value)
        if key in _COUNTS:
            words = "a whole number >= 0"
            fits = fits and isinstance(value, int) and value >= 0
        if not fits:
            raise StartError(
                f"config.LOSS.{loss.name}.{key} is {value!r}; wanted {words}.",
                key=f"config.LOSS.{loss.name}.{key}",
            )


def _wanted_type(key: str, default: Any) -> tuple[type, ...]:
    if key in _TYPES:
        return _TYPES[key]
    if isinstance(default, (bool, str)):
        return (type(default),)
    return (int, float) if isinstance(default, float) else (int,)


def build(loss: LossKeys, settings: dict[str, Any]) -> None:
    """The core's own checks, before anything is loaded or allocated."""
    where = f"config.LOSS.{loss.name}"
    if settings["num_crops"] < loss.least_crops:
        raise StartError(
            f"{where} has num_crops {settings['num_crops']}; wanted >= "
            f"{loss.least_crops}.",
            key=f"{where}.num_crops",
        )
    if settings.get("nearest", "auto") not in NEAREST_CHOICES:
        raise StartError(
            f"{where}.nearest is {settings['nearest']!r}; wanted one of "
            f"{list(NEAREST_CHOICES)}.",
            key=f"{where}.nearest",
        )
    try:
        # Of the hooks, and of k-means, which could do without an iteration.
        for key in ("num_iterations", "assign_every_epochs"):
            check_whole(key, settings.get(key, 1), least=1)
        for key in ("momentum", "momentum_end"):
            check_momentum(key, settings.get(key, 0))
        arguments = loss_arguments(loss.name, settings)
        without_memory = {"queue_length": 0} if "queue_length" in arguments else {}
        built = loss.core(**{**arguments, **without_memory})
    except SettingError as error:
        raise StartError(f"{where}.{error}", key=f"{where}.{error.name}") from error
    except (ValueError, ImportError) as error:
        raise StartError(f"{where}: {error}") from error
    if "crops_for_assign" in settings:
        settings["crops_for_assign"] = list(built.layout.crops_for_assign)
