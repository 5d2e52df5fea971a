"""Feature and cluster extraction with ``MACHINE.DEVICE=cpu``.

Symptoms: ``AssertionError: Set MACHINE.DEVICE = gpu``; behind it ``AssertionError:
    Torch not compiled with CUDA enabled`` from ``.cuda()``, and the gathering of the
    clusters on ``torch.cuda.current_device()``.
Host lines: `vissl/trainer/trainer_main.py:345,471,516,558,591`,
    `vissl/utils/distributed_utils.py:57,70`.
Remedy: on the CPU our own loops, which write the host's files by the host's own
    function and return the host's types; on a GPU the host's. Gloo's `all_gather`
    wants equal shapes, so uneven shards are padded and cut.
Delete it when: VISSL extracts on the CPU.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from vissl_swav.compat.import_hook import after_import
from vissl_swav.compat.wrapping import wrap

NAME = "cpu_extraction"


def needed() -> bool:
    """Always: the host asserts a GPU whatever the machine has."""
    return True


def apply() -> None:
    """Arm both patches."""
    after_import("vissl.trainer.trainer_main", extract_on_cpu)
    after_import("vissl.utils.distributed_utils", gather_on_any_device)


def extract_on_cpu(module: ModuleType) -> None:
    """Give the trainer a CPU branch for its two extraction workflows."""
    trainer_class = module.SelfSupervisionTrainer
    for name, on_cpu in (
        ("extract", extract_features),
        ("extract_clusters", extract_clusters),
    ):
        wrap(trainer_class, name, _cpu_branch(on_cpu, module), shim=NAME)


def _cpu_branch(on_cpu: Callable[..., Any], module: ModuleType) -> Callable[..., Any]:
    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def workflow(self: Any, *arguments: Any, **options: Any) -> Any:
            if self.task.device.type == "cuda":
                return original(self, *arguments, **options)
            logging.info(
                "Extraction on the CPU: vissl_swav's loop, the host's is CUDA's"
            )
            return on_cpu(self, module, *arguments, **options)

        return workflow

    return around


def _prepare_model(trainer: Any, require_clusters: bool = False) -> Any:
    task = trainer.task
    task.prepare_extraction(pin_memory=trainer.cfg.DATA.PIN_MEMORY)
    if require_clusters and not task.base_model.is_clustering_model():
        raise ValueError(
            "extract_cluster needs a model whose head gives prototype scores (SwAV, "
            "DeepCluster-v2, SeLa-v2); this configuration's head does not"
        )
    trainer._add_dummy_layer()
    task.init_distributed_data_parallel_model()
    task.model.eval()
    return task


def _batches(task: Any, split: str) -> Iterator[tuple[Any, Any, list[int]]]:
    """Yield (model output, labels as numpy, image numbers) for each batch."""
    import torch

    task.data_iterator = iter(task.dataloaders[split.lower()])
    for sample in task.data_iterator:
        if "data_idx" not in sample:
            raise KeyError("the data set passes no 'data_idx', the number of an image")
        with torch.no_grad():
            output = task.model(torch.cat(sample["data"]).to(task.device))
        labels = torch.cat(sample["label"]).cpu().numpy()
        yield output, labels, torch.cat(sample["data_idx"]).tolist()


def extract_features(trainer: Any, module: ModuleType, output_folder: str) -> None:
    """Write each layer's features to .npy files, as the host's `extract` does.

    Args:
        trainer: the host's trainer, its task not yet prepared.
        module: `vissl.trainer.trainer_main`.
        output_folder: receives rank*_chunk*_{split}_{layer}_*.npy, the host's names.
    """
    task = _prepare_model(trainer)
    layers = module.get_trunk_output_feature_names(trainer.cfg.MODEL) or ["heads"]
    for split in task.available_splits:
        logging.info(f"Extracting features of {layers} for {split}")
        _extract_split(trainer, module, split, layers, output_folder)
    trainer._cleanup_task()


def _extract_split(
    trainer: Any, module: ModuleType, split: str, layers: list[str], folder: str
) -> None:
    limit = trainer.cfg.EXTRACT_FEATURES.CHUNK_THRESHOLD
    features: dict[str, dict[int, Any]] = {layer: {} for layer in layers}
    targets: dict[str, dict[int, Any]] = {layer: {} for layer in layers}
    chunk, num_held = 0, 0

    def save() -> None:
        trainer._save_extracted_features(
            features=features,
            targets=targets,
            dist_rank=module.dist.get_rank(),
            chunk_index=chunk,
            split=split,
            output_folder=folder,
        )

    for output, labels, numbers in _batches(trainer.task, split):
        outputs = trainer._flatten_features_list(output)
        # A head may give more than the layers asked for; the host takes the first.
        for layer, tensor in zip(layers, outputs, strict=False):
            rows = tensor.cpu().numpy()
            for row, number in enumerate(numbers):
                features[layer][number] = rows[row]
                targets[layer][number] = labels[row].reshape(-1)
        num_held += len(numbers)
        if num_held >= limit >= 0:
            save()
            for held in (*features.values(), *targets.values()):
                held.clear()
            chunk, num_held = chunk + 1, 0
    save()


def extract_clusters(trainer: Any, module: ModuleType) -> dict[str, dict[int, int]]:
    """Return split -> image number -> prototype, gathered from all processes."""
    task = _prepare_model(trainer, require_clusters=True)
    merged = {}
    for split in task.available_splits:
        logging.info(f"Extracting clusters for {split}")
        clusters: dict[int, int] = {}
        for output, _, numbers in _batches(task, split):
            # The head's output: [embeddings, scores of the first prototypes, ...].
            prototypes = output[0][1].argmax(dim=-1).tolist()
            clusters.update(zip(numbers, prototypes, strict=True))
        merged[split] = _gather(module, clusters)
    trainer._cleanup_task()
    return merged


def _gather(module: ModuleType, clusters: dict[int, int]) -> dict[int, int]:
    import torch

    pairs = torch.tensor(list(clusters.items()), dtype=torch.int64).reshape(-1, 2)
    sizes = module.all_gather_sizes(pairs)
    gathered = torch.cat(module.all_gather_heterogeneous(sizes, pairs))
    return dict(gathered.tolist())


def gather_on_any_device(module: ModuleType) -> None:
    """Let the host's two gathering functions work where their tensor is."""
    for name, on_cpu in (
        ("all_gather_sizes", _gather_sizes),
        ("all_gather_heterogeneous", _gather_heterogeneous),
    ):
        wrap(module, name, _by_device(on_cpu), shim=NAME)


def _by_device(on_cpu: Callable[..., Any]) -> Callable[..., Any]:
    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def gather(*arguments: Any, **options: Any) -> Any:
            tensor = options.get("x", arguments[-1] if arguments else None)
            chosen = original if getattr(tensor, "is_cuda", False) else on_cpu
            return chosen(*arguments, **options)

        return gather

    return around


def _gather_sizes(x: Any) -> list[int]:
    import torch
    import torch.distributed as dist

    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64)
    sizes[dist.get_rank()] = x.shape[0]
    dist.all_reduce(sizes)
    return sizes.tolist()


def _gather_heterogeneous(sizes: list[int], x: Any) -> list[Any]:
    import torch.distributed as dist

    padded = x.new_zeros(max(sizes), *x.shape[1:])
    padded[: x.shape[0]] = x
    gathered = [padded.new_zeros(padded.shape) for _ in sizes]
    dist.all_gather(gathered, padded)
    return [rows[:size] for rows, size in zip(gathered, sizes, strict=True)]
