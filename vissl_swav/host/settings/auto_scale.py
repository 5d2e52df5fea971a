"""`AUTO_SCALE`: rates that follow the batch; freeze and queue start in epochs.

Off by default. `true` takes the batch of the config file as the one its rates are for
(`host.auto_scale` looks it up before the host reads the config); a number names that
batch. Once the rates are scaled the key holds the run's own batch, for which they then
are: a config that is inferred twice is scaled once.
"""

import logging
from typing import Any

from vissl_swav.host.errors import StartError
from vissl_swav.host.settings.learning_rate import scale_rates
from vissl_swav.host.settings.losses import LOSSES
from vissl_swav.host.settings.sums import followed_loss

NAME = "AUTO_SCALE"
KEY = f"config.{NAME}"
_IN_STEPS = {
    "freeze_prototypes_steps": "freeze_prototypes_epochs",
    "queue_start_step": "queue_start_epoch",
}


def wants_reference_batch(cfg: Any) -> bool:
    """Whether the batch of the config file is to be looked up."""
    return cfg.get(NAME) is True


def global_batch(cfg: Any) -> int:
    """Images in a step of all processes."""
    ranks = cfg.DISTRIBUTED.NUM_NODES * cfg.DISTRIBUTED.NUM_PROC_PER_NODE
    return cfg.DATA.TRAIN.BATCHSIZE_PER_REPLICA * ranks


def auto_scale(cfg: Any) -> None:
    """Scales the rates of a config with its batch, in place, where it asks for it.

    Raises:
        StartError: a value that is no batch, a loss of the host's, another scaling that
            is on, a count of steps, or a scheduler whose rates are not known.
    """
    reference = cfg.get(NAME)
    if reference is None or reference is False:
        return
    _check(cfg, reference)
    batch = global_batch(cfg)
    cfg[NAME] = batch
    if batch == reference:
        return
    changed = scale_rates(cfg, batch / reference)
    logging.info(
        f"vissl_swav: {NAME}: the rates are for a batch of {reference}, the run has "
        f"{batch}; {', '.join(changed)}. Freeze and queue start count epochs: the same."
    )
    optimizer = cfg.OPTIMIZER
    if optimizer.name != "sgd" or not optimizer.use_larc:
        logging.warning(
            f"vissl_swav: {NAME} scaled the learning rate of {optimizer.name} "
            "linearly; the rule is known to hold for SGD with LARC only."
        )


def _check(cfg: Any, reference: Any) -> None:
    if reference is True:
        raise StartError(
            f"{KEY} is true, which `vissl-swav train` and `vissl-swav plan` replace by "
            "the batch of the config file; on VISSL's own command lines give that "
            f"batch: {KEY}=256, say.",
            key=KEY,
        )
    if not isinstance(reference, int) or reference < 1:
        raise StartError(
            f"{KEY} is {reference!r}; wanted true, false, or the global batch that the "
            "config's learning rates are for.",
            key=KEY,
        )
    if followed_loss(cfg) not in LOSSES:
        raise StartError(
            f"{KEY} is on, but the loss is {cfg.LOSS['name']}, one of VISSL's; its own "
            "scaling is config.OPTIMIZER.param_schedulers.lr.auto_lr_scaling.",
            key=KEY,
        )
    for name in ("lr", "lr_head"):
        scheduler = cfg.OPTIMIZER.param_schedulers.get(name) or {}
        if (scheduler.get("auto_lr_scaling") or {}).get("auto_scale"):
            raise StartError(
                f"{KEY} is on, and so is config.OPTIMIZER.param_schedulers.{name}."
                "auto_lr_scaling.auto_scale; rates can be scaled once: turn one off.",
                key=KEY,
            )
    _check_counts(cfg)


def _check_counts(cfg: Any) -> None:
    """Steps stand for epochs of one batch and one data set only."""
    loss = followed_loss(cfg)
    settings = cfg.LOSS.get(loss) or {}
    for steps, epochs in _IN_STEPS.items():
        if settings.get(steps):
            raise StartError(
                f"{KEY} is on, but config.LOSS.{loss}.{steps} is {settings[steps]}: of "
                "how many epochs that is, the config does not say. Count epochs: "
                f"config.LOSS.{loss}.{epochs}=N config.LOSS.{loss}.{steps}=null (the "
                "paper: freeze 1, queue start 15).",
                key=f"config.LOSS.{loss}.{steps}",
            )
