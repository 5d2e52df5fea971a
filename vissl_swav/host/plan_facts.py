"""From an inferred config to the plan of its run, and the check of it at a start."""

import logging
from pathlib import Path
from typing import Any

import torch

from vissl_swav.data.errors import DataError
from vissl_swav.data.folders import list_images
from vissl_swav.data.image_list import open_images
from vissl_swav.health.plan import Plan, steps_per_epoch
from vissl_swav.health.plan_verdicts import ERROR, Verdict, verdicts
from vissl_swav.host import settings
from vissl_swav.host.errors import StartError
from vissl_swav.host.settings.plan import PlanFacts, plan_facts


def check(cfg: Any, run: settings.RunFacts) -> None:
    """The plan's verdicts at a start: warnings are logged, an error ends it.

    A run with a loss of the host's has no plan.

    Args:
        cfg: inferred.
        run: what the checks before it looked at.

    Raises:
        StartError: the run could not work; the first reason.
    """
    if not settings.is_ours(cfg):
        return
    method = plan_facts(cfg).method
    for verdict in verdicts(plan_of(cfg, run, count_images(run))):
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
    )


def count_images(run: settings.RunFacts) -> int | None:
    """Training images of the run; None where only the host can tell."""
    train = _train(run)
    counts = [
        _count(source, path)
        for source, path in zip(train.sources, train.paths, strict=False)
    ]
    if not counts or None in counts:
        return None
    count = min(c for c in counts if c is not None)
    return min(count, train.limit) if train.limit > 0 else count


def count_parameters(facts: PlanFacts) -> int | None:
    """Parameters of the host's model, made without memory; None where that fails."""
    from vissl.models import build_model

    level = logging.root.manager.disable
    logging.disable(logging.INFO)  # The host tells the model's name and more.
    try:
        with torch.device("meta"):
            model = build_model(*facts.model)
    except Exception as error:  # A trunk that fills its weights by other libraries.
        logging.warning(
            f"vissl_swav plan: parameters are not counted, since {facts.model[0].TRUNK}"
            f" could not be built without memory ({type(error).__name__}: {error})."
        )
        return None
    finally:
        logging.disable(level)
    return sum(parameter.numel() for parameter in model.parameters())


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


def _count(source: str, path: str) -> int | None:
    """Images that one path of a source holds; None where only the host can tell."""
    try:
        if source == settings.SOURCE_NAME:
            return len(open_images(path))
        if source == "disk_folder":
            return sum(map(len, list_images(path).values()))
    except DataError:
        return None
    if source == "disk_filelist" and Path(path).is_file():
        return _entries(path)
    return None


def _entries(path: str) -> int | None:
    """Length of a `.npy` list; nothing of it is loaded but its head."""
    from numpy.lib import format as npy

    try:
        with open(path, "rb") as file:
            version = npy.read_magic(file)
            read = (
                npy.read_array_header_1_0
                if version == (1, 0)
                else npy.read_array_header_2_0
            )
            shape = read(file)[0]
    except (OSError, ValueError):
        return None
    return shape[0] if shape else None
