"""Whether a checkpoint may be gone on from, judged by its run's config and ours."""

from collections.abc import Iterator, Mapping
from typing import Any

from vissl_swav.host.settings.loss import loss_settings
from vissl_swav.host.settings.losses import LOSSES
from vissl_swav.host.settings.sums import followed_loss, is_sum, term_names

# Sections and keys of which another value says nothing about the training.
_UNTOLD = ("CHECKPOINT.DIR", "DISTRIBUTED.RUN_ID", "HOOKS.", "LOG_FREQUENCY", "VERBOSE")


def identity(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a checkpoint this run's: state that would not fit or mean another.

    Trunk and head with K and D, the loss and which crops have codes and queues; the
    optimiser, whose moments no other one can read, and which parameters it keeps apart.
    With a memory bank also the training images: its rows and labels go by their
    numbers. Other data under `swav` changes no meaning of its state.
    """
    model, optimizer, loss = cfg["MODEL"], cfg["OPTIMIZER"], cfg["LOSS"]["name"]
    found = {
        "LOSS.name": loss,
        "LOSS.crops_for_assign": loss_settings(cfg).get("crops_for_assign"),
        "MODEL.INPUT_TYPE": model.get("INPUT_TYPE"),
        "MODEL.TRUNK.NAME": model["TRUNK"]["NAME"],
        "MODEL.HEAD.PARAMS": _plain(model["HEAD"]["PARAMS"]),
        "OPTIMIZER.name": optimizer["name"],
        "OPTIMIZER.regularize_bn": optimizer.get("regularize_bn"),
        "OPTIMIZER.regularize_bias": optimizer.get("regularize_bias"),
    }
    for name, section in model["TRUNK"].items():
        if isinstance(section, Mapping):
            for key, value in _leaves(section):
                found[f"MODEL.TRUNK.{name}.{key}"] = value
    if is_sum(cfg):
        found["LOSS.weighted_sum.terms"] = sorted(term_names(cfg))
    followed = followed_loss(cfg)
    if followed in LOSSES and LOSSES[followed].clusters:
        train = cfg["DATA"]["TRAIN"]
        for key in ("DATASET_NAMES", "DATA_SOURCES", "DATA_LIMIT", "DATA_PATHS"):
            found[f"DATA.TRAIN.{key}"] = _plain(train[key])
        sampling = train.get("DATA_LIMIT_SAMPLING")
        found["DATA.TRAIN.DATA_LIMIT_SAMPLING"] = _plain(sampling)
    return found


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Leaves of two configs that differ: `{key: (old, new)}`.

    Of the losses only those that are used; nothing about folders and logs.
    """
    before, after = dict(_leaves(old)), dict(_leaves(new))
    used = {new["LOSS"]["name"], *term_names(new)}
    losses = tuple(f"LOSS.{name}." for name in used)
    return {
        key: (before.get(key), after.get(key))
        for key in sorted(before | after)
        if before.get(key) != after.get(key)
        and not key.startswith(_UNTOLD)
        and (not key.startswith("LOSS.") or key.startswith(losses))
    }


def plain(cfg: Any) -> dict[str, Any]:
    """The config as `train_config.yaml` would hold it."""
    return dict(_plain(cfg))


def resumes_to(cfg: Mapping[str, Any]) -> int | None:
    """Training phases up to which a checkpoint is gone on from; None: it never is."""
    if not cfg["CHECKPOINT"]["AUTO_RESUME"]:
        return None
    per_epoch = cfg["DATA"]["TRAIN"].get("TRAIN_PHASES_PER_EPOCH", 1)
    return cfg["OPTIMIZER"]["num_epochs"] * per_epoch


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", _plain(value)


def _plain(value: Any) -> Any:
    """Plain containers and values, of what YAML can tell apart."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value).removeprefix("torch.")
