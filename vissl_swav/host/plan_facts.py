"""From an inferred config to the plan of its run, and the check of it at a start."""

import logging
from typing import Any

from vissl_swav.health.plan import Plan, steps_per_epoch
from vissl_swav.health.plan_verdicts import ERROR, Verdict, verdicts
from vissl_swav.host import settings
from vissl_swav.host.errors import StartError
from vissl_swav.host.settings.plan import plan_facts


def check(cfg: Any, run: settings.RunFacts) -> None:
    """The plan's verdicts at a start: warnings are logged, an error ends it.

    A run with a loss of the host's has no plan.

    Args:
        cfg: inferred.
        run: what the checks before it looked at, with the number of images.

    Raises:
        StartError: the run could not work; the first reason.
    """
    if not settings.is_ours(cfg):
        return
    method = plan_facts(cfg).method
    for verdict in verdicts(plan_of(cfg, run, run.num_images)):
        key = config_key(verdict, method)
        if verdict.level == ERROR:
            raise StartError(str(verdict), key=key)
        logging.warning(f"vissl_swav plan: {verdict} ({key})")


def config_key(verdict: Verdict, method: str) -> str:
    """The dotted key that a verdict is about."""
    return "config." + verdict.key.replace("*", method)


def plan_of(cfg: Any, run: settings.RunFacts, num_images: int | None) -> Plan:
    """The plan of an inferred config whose loss is ours.

    Args:
        cfg: inferred.
        run: its facts.
        num_images: of the training data; None where it is not known.
    """
    facts, train = plan_facts(cfg), _train(run)
    steps = None
    if num_images is not None:
        steps = steps_per_epoch(
            num_images,
            batch_per_process=train.batch,
            world_size=run.world_size,
            drops_last=train.drops_last,
        )
    freeze, start = _epochs(settings.schedule(cfg), steps)
    return Plan(
        method=facts.method,
        batch_per_process=train.batch,
        world_size=run.world_size,
        num_epochs=settings.num_epochs(cfg),
        num_images=num_images,
        drops_last=train.drops_last,
        num_prototypes=tuple(run.num_prototypes),
        embedding_dim=run.embedding_dim,
        num_crops=facts.num_crops,
        num_assign_crops=run.num_assign_crops,
        crop_sizes=facts.crop_sizes,
        trunk_stride=facts.trunk_stride,
        optimizer=facts.optimizer,
        uses_larc=facts.uses_larc,
        learning_rate=facts.learning_rate,
        queue_length=facts.queue_length,
        queue_start=start,
        freeze=freeze,
        soft_codes=facts.soft_codes,
        keeps_bank=run.keeps_bank,
        bytes_per_bank_value=run.bytes_per_bank_value,
        contrast=facts.contrast,
        bytes_per_queue_value=run.bytes_per_queue_value,
    )


def _train(run: settings.RunFacts) -> settings.SplitFacts:
    return next(split for split in run.splits if split.name == "TRAIN")


def _epochs(
    schedule: settings.Schedule, steps: int | None
) -> tuple[float | None, float | None]:
    """Epochs of freeze and until the queue starts; None where steps are not known."""
    freeze: float | None = None
    start: float | None = None
    if not schedule.trainable_prototypes:
        freeze = float("inf")
    elif schedule.freeze_prototypes_epochs is not None:
        freeze = float(schedule.freeze_prototypes_epochs)
    elif steps or not schedule.freeze_prototypes_steps:
        freeze = schedule.freeze_steps(steps or 1) / (steps or 1)
    if schedule.queue_start_epoch is not None:
        start = float(schedule.queue_start_epoch)
    elif steps or not schedule.queue_start_step:
        start = schedule.queue_start(steps or 1) / (steps or 1)
    return freeze, start
