"""What the host's config says about watching a run: `config.HEALTH`, a key of ours."""

from collections.abc import Mapping
from typing import Any

from vissl_swav.health.plan import usual_epoch_steps
from vissl_swav.health.verdicts import LN_K, LN_NEGATIVES
from vissl_swav.host.errors import StartError
from vissl_swav.host.settings import parts
from vissl_swav.host.settings.loss import (
    contrast,
    is_ours,
    loss_bounds,
    loss_settings,
)
from vissl_swav.host.settings.sums import followed_loss

_DEFAULTS = {"ENABLED": True, "ON_COLLAPSE": "warn"}
_KEY = "config.HEALTH"
STOP, WARN, IGNORE = ON_COLLAPSE = ("stop", "warn", "ignore")


def infer_health(cfg: Any) -> None:
    """Completes `cfg.HEALTH` in place, so that the composed config shows it.

    Raises:
        StartError: an unknown key or a value that it cannot have.
    """
    given = _given(cfg)
    parts.check_keys(given, _DEFAULTS, _KEY)
    health = {**_DEFAULTS, **given}
    if not isinstance(health["ENABLED"], bool):
        raise StartError(
            f"{_KEY}.ENABLED is {health['ENABLED']!r}; wanted true or false.",
            key=f"{_KEY}.ENABLED",
        )
    if health["ON_COLLAPSE"] not in ON_COLLAPSE:
        raise StartError(
            f"{_KEY}.ON_COLLAPSE is {health['ON_COLLAPSE']!r}; wanted one of "
            f"{', '.join(ON_COLLAPSE)}.",
            key=f"{_KEY}.ON_COLLAPSE",
        )
    cfg["HEALTH"] = type(cfg)(health)


def watches_health(cfg: Any) -> bool:
    """Whether this run is watched: one of our losses, not switched off."""
    return is_ours(cfg) and _health(cfg)["ENABLED"]


def on_collapse(cfg: Any) -> str:
    """`stop`, `warn` or `ignore`."""
    return _health(cfg)["ON_COLLAPSE"]


def bounds(cfg: Mapping[str, Any], *, with_queue: bool) -> tuple[float, float]:
    """`loss_bounds` while the queue is in use, or while it is not."""
    loss, name = loss_settings(cfg), followed_loss(cfg)
    if not with_queue and loss.get("queue_length"):
        without = {**loss, "queue_length": 0}
        cfg = {**cfg, "LOSS": {**cfg["LOSS"], name: without}}
    return loss_bounds(cfg)


def ceiling_name(cfg: Mapping[str, Any]) -> str:
    """The ceiling of the run's loss, as messages call it."""
    return LN_K if contrast(cfg) is None else LN_NEGATIVES


def window_steps(cfg: Mapping[str, Any], steps_per_epoch: int) -> int:
    """Steps of an epoch; of ImageNet's, where the run's are longer."""
    ranks = cfg["DISTRIBUTED"]["NUM_NODES"] * cfg["DISTRIBUTED"]["NUM_PROC_PER_NODE"]
    batch = cfg["DATA"]["TRAIN"]["BATCHSIZE_PER_REPLICA"] * ranks
    return min(steps_per_epoch, usual_epoch_steps(batch))


def remedy_facts(cfg: Mapping[str, Any], *, steps_per_epoch: int) -> dict[str, Any]:
    """What decides which remedies are open to a run (`health.remedies.RunFacts`)."""
    from vissl_swav.host.settings.loss import schedule

    loss = loss_settings(cfg)
    trained = loss.get("trainable_prototypes", False)
    window = window_steps(cfg, steps_per_epoch)
    freeze = schedule(cfg).freeze_steps(steps_per_epoch) / window
    return {
        "section": f"config.LOSS.{followed_loss(cfg)}",
        "freeze_epochs": freeze if trained else float("inf"),
        "epsilon": loss.get("epsilon"),
        "queue_length": loss.get("queue_length", 0),
        "hard_codes": loss.get("hard_codes"),
        "batch": cfg["DATA"]["TRAIN"]["BATCHSIZE_PER_REPLICA"],
        "num_crops": loss.get("num_crops", 0),
        "num_prototypes": max(loss.get("num_prototypes", [0])),
        "steps": window if window < steps_per_epoch else None,
    }


def _given(cfg: Mapping[str, Any]) -> dict[str, Any]:
    return dict(cfg.get("HEALTH") or {})


def _health(cfg: Mapping[str, Any]) -> dict[str, Any]:
    return {**_DEFAULTS, **_given(cfg)}
