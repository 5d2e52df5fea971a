"""Hook: fills the bank, finds labels before an epoch, names each batch's images."""

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from classy_vision.generic.distributed_util import is_primary
from classy_vision.hooks.classy_hook import ClassyHook

from vissl_swav.backends.torch_collective import collective
from vissl_swav.core.offline_clustering import Assignment
from vissl_swav.host import settings
from vissl_swav.host.bank_filling import fill
from vissl_swav.host.task_view import TaskView

FILE_NAME = "assignments.jsonl"


class ClusteringHook(ClassyHook):
    """The cycle of DeepCluster-v2 and SeLa-v2 (`core.offline_clustering`)."""

    on_loss_and_meter = ClassyHook._noop
    on_backward = ClassyHook._noop
    on_update = ClassyHook._noop
    on_end = ClassyHook._noop

    def on_start(self, task: Any) -> None:
        """One pass over the images, unless a checkpoint brought the bank along."""
        view = TaskView(task)
        if int(view.loss.method.bank.num_writes) == 0:
            fill(view)

    def on_phase_start(self, task: Any) -> None:
        """Labels for the epoch; test phases neither assign nor write the bank."""
        view = TaskView(task)
        view.loss.train(view.is_training)
        view.loss.forget_shards()
        if view.is_training:
            self._start_epoch(view)

    def on_forward(self, task: Any) -> None:
        """Tells the loss which images the batch holds.

        Labels are of the training images: in a test phase no image has one.
        """
        view = TaskView(task)
        images, valid = view.batch_images(view.loss.method.layout.num_crops)
        if not view.is_training:
            images, valid = torch.zeros_like(images), torch.zeros_like(valid)
        view.loss.images, view.loss.valid = images, valid

    def on_step(self, task: Any) -> None:
        """Before the host's checkpoint in mid-epoch: every rank's bank goes along."""
        view = TaskView(task)
        if view.wants_checkpoint_now:
            view.loss.gather_shards()

    def on_phase_end(self, task: Any) -> None:
        """Before the host's checkpoint at the end of a phase: one row an image."""
        view = TaskView(task)
        if view.wants_checkpoint_after_phase:
            view.loss.method.bank.settle(collective())
            view.loss.gather_shards()

    @staticmethod
    def _start_epoch(view: TaskView) -> None:
        method, prototypes = view.loss.method, view.prototypes()
        before = method.labels.labels[..., 0].clone()
        started = time.perf_counter()
        found = method.start_epoch(
            prototypes,
            epoch=view.epoch,
            every=settings.schedule(view.cfg).assign_every_epochs,
            seed=settings.seed(view.cfg),
            collective=collective(),
        )
        if found is None:
            return
        with torch.no_grad():
            for weight, wanted in zip(prototypes, found.prototypes, strict=True):
                weight.copy_(wanted)
        seconds = time.perf_counter() - started
        if is_primary():
            tolerance = settings.loss_settings(view.cfg).get("tolerance")
            if found.error is not None and found.error > tolerance:
                logging.warning(
                    f"vissl_swav: after {found.num_iterations} iterations a "
                    f"prototype's share of the images is off by {found.error:.1e} "
                    f"(tolerance {tolerance}); raise epsilon or max_iterations."
                )
            after = method.labels.labels[..., 0]
            line = {
                "epoch": view.epoch,
                "seconds": round(seconds, 3),
                "iterations": found.num_iterations,
                "share_error": found.error,
                "heads": _facts(found, before, after),
            }
            _tell(line, view.checkpoint_folder)


def _facts(
    found: Assignment, before: torch.Tensor, after: torch.Tensor
) -> list[dict[str, Any]]:
    """Sizes, objective and agreement with the labels before, head by head."""
    from sklearn.metrics import normalized_mutual_info_score

    facts: list[dict[str, Any]] = []
    for head, sizes in enumerate(found.cluster_sizes):
        both = (before[head] >= 0) & (after[head] >= 0)
        nmi = changed = None
        if both.any():
            moved = before[head][both] != after[head][both]
            changed = round(float(moved.float().mean()), 4)
            old, new = before[head][both].cpu().numpy(), after[head][both].cpu().numpy()
            nmi = round(float(normalized_mutual_info_score(old, new)), 4)
        facts.append(
            {
                "objective": found.objective[head],
                "min": int(sizes.min()),
                "median": int(sizes.median()),
                "max": int(sizes.max()),
                "empty": int((sizes == 0).sum()),
                "labelled": int((after[head] >= 0).sum()),
                "nmi": nmi,
                "changed": changed,
            }
        )
    return facts


def _tell(line: dict[str, Any], folder: str) -> None:
    """One log line a head, and one JSON line in `assignments.jsonl`."""
    for head, facts in enumerate(line["heads"]):
        share = line["share_error"]
        logging.info(
            f"Labels for epoch {line['epoch']}, head {head}: {facts['labelled']} "
            f"images, cluster sizes {facts['min']} / {facts['median']} / "
            f"{facts['max']} (min, median, max), {facts['empty']} empty, objective "
            f"{facts['objective']:.4f}, NMI with the labels before {facts['nmi']}, "
            f"share changed {facts['changed']}; "
            f"{line['iterations']} iterations"
            + (f", shares within {share:.1e}" if share is not None else "")
            + f", {line['seconds']} s for all heads"
        )
    with (Path(folder) / FILE_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
