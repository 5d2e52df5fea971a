"""Settings of `LOSS.dino_sinkhorn`: those of the host's DINO, and our Sinkhorn's.

A run is one of the host's DINO with another `LOSS.name`. What DINO has too (momentum,
temperatures, which crops the teacher sees) stays where it stands, in `LOSS.dino_loss`:
the host's hook reads a part of it there, whatever the loss is called.
"""

from collections.abc import Mapping
from typing import Any

from vissl_swav.core.sinkhorn import NUM_ITERATIONS
from vissl_swav.host.errors import StartError
from vissl_swav.host.settings import parts
from vissl_swav.host.settings.data import COLLATOR_NAME
from vissl_swav.host.settings.losses import DINO_SINKHORN

_HOSTS = "dino_loss"
_WHERE = f"config.LOSS.{DINO_SINKHORN}"
_THEIRS = f"config.LOSS.{_HOSTS}"
_HEAD_KEY = "config.MODEL.HEAD.PARAMS"
_OF_DINO = (
    "momentum",
    "student_temp",
    "teacher_temp_min",
    "teacher_temp_max",
    "teacher_temp_warmup_iters",
    "crops_for_teacher",
)
OWN_DEFAULTS: dict[str, Any] = {"num_iterations": NUM_ITERATIONS}
KEYS = (*OWN_DEFAULTS, *_OF_DINO, "num_crops")


def is_dino_sinkhorn(cfg: Any) -> bool:
    """Whether the run is DINO with our Sinkhorn."""
    return cfg.LOSS["name"] == DINO_SINKHORN


def infer_dino(cfg: Any) -> Any:
    """Completes `cfg.LOSS.dino_sinkhorn` in place, for the hook and the loss.

    Raises:
        StartError: an unknown key, a key of DINO's given here with another value, or
            a head, crops or temperatures that cannot be.
    """
    given = dict(cfg.LOSS.get(DINO_SINKHORN) or {})
    given.pop("name", None)
    parts.check_keys(given, KEYS, _WHERE)
    settings = {**OWN_DEFAULTS, **given}
    of_dino = {key: cfg.LOSS[_HOSTS][key] for key in _OF_DINO}
    for key, value in of_dino.items():
        _agree(given, key, value, f"{_THEIRS}.{key}")
    num_crops = parts.num_crops(cfg, given.get("num_crops"))
    _agree(given, "num_crops", num_crops, "config.DATA.TRAIN.TRANSFORMS")
    settings = {**settings, **of_dino, "num_crops": num_crops}
    _check(settings)
    _check_head(cfg)
    cfg.LOSS[DINO_SINKHORN] = type(cfg)(settings)
    if cfg.DATA.TRAIN.COLLATE_FUNCTION == "default_collate":
        cfg.DATA.TRAIN.COLLATE_FUNCTION = COLLATOR_NAME
    return cfg


def _agree(given: Mapping[str, Any], key: str, value: Any, place: str) -> None:
    if key in given and given[key] != value:
        raise StartError(
            f"{_WHERE}.{key} is {given[key]}, but {place} says {value}; leave the key "
            f"out here and set it there.",
            key=f"{_WHERE}.{key}",
        )


def _check(settings: Mapping[str, Any]) -> None:
    iterations = settings["num_iterations"]
    if type(iterations) is not int or iterations < 1:
        raise StartError(
            f"{_WHERE}.num_iterations is {iterations!r}; wanted a whole number >= 1 "
            f"(the paper: {NUM_ITERATIONS}).",
            key=f"{_WHERE}.num_iterations",
        )
    for key in ("student_temp", "teacher_temp_min", "teacher_temp_max"):
        value = settings[key]
        if not isinstance(value, (int, float)) or not value > 0:
            raise StartError(
                f"{_THEIRS}.{key} is {value!r}; wanted > 0 (DINO: 0.1 for the student, "
                "0.04 to 0.07 for the teacher).",
                key=f"{_THEIRS}.{key}",
            )
    _check_teacher(settings)
    crops, count = list(settings["crops_for_teacher"]), settings["num_crops"]
    known = bool(crops) and all(type(c) is int and 0 <= c < count for c in crops)
    if not known or len(set(crops)) < len(crops) or count < 2:
        raise StartError(
            f"{_THEIRS}.crops_for_teacher is {crops} of {count} crops; wanted distinct "
            f"crops of 0..{count - 1}, and two crops at least.",
            key=f"{_THEIRS}.crops_for_teacher",
        )


def _check_teacher(settings: Mapping[str, Any]) -> None:
    """What the host's hook reads."""
    momentum, steps = settings["momentum"], settings["teacher_temp_warmup_iters"]
    if not isinstance(momentum, (int, float)) or not 0 <= momentum <= 1:
        raise StartError(
            f"{_THEIRS}.momentum is {momentum!r}; wanted 0 (the teacher is the student "
            "of the step before) to 1 (it stays as it is); DINO: 0.996.",
            key=f"{_THEIRS}.momentum",
        )
    if type(steps) is not int or steps < 0:
        raise StartError(
            f"{_THEIRS}.teacher_temp_warmup_iters is {steps!r}; wanted a number of "
            "steps >= 0.",
            key=f"{_THEIRS}.teacher_temp_warmup_iters",
        )


def _check_head(cfg: Any) -> None:
    """One set of prototypes: the host's hook hands on the scores of the last one."""
    heads = cfg.MODEL.HEAD.PARAMS
    name, settings = heads[0] if len(heads) == 1 and len(heads[0]) == 2 else ("", {})
    if name != "swav_head" or len(settings.get("num_clusters", [])) != 1:
        raise StartError(
            f"{_HEAD_KEY} is {heads}: wanted one [swav_head, ...] with one number in "
            "num_clusters, as VISSL's DINO has it.",
            key=_HEAD_KEY,
        )
