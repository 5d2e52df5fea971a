"""The host's evaluation tools: k-NN on any device, and the low-shot SVM's call.

`tools.nearest_neighbor_test`
    Symptoms: ``AssertionError: Torch not compiled with CUDA enabled``; with fewer than
    100 test images ``ValueError: range() arg 3 must not be zero``; ``RuntimeError:
    selected index k out of range`` with fewer training images than TOPK;
    ``RuntimeError: start (0) + length (5) exceeds dimension size`` with fewer than five
    classes; features of a layer that is not pooled to one row an image are refused,
    and so is a list of TOPK or SIGMA; a label of -1 is an index out of range.
    Host lines: `tools/nearest_neighbor_test.py:39-89`.
    Remedy: the tool's function is replaced by one on
    `vissl_swav.core.nearest_neighbors`, with the same settings, log line and result.
`tools.train_svm_low_shot`
    Symptom, on any device: ``TypeError: generate_low_shot_samples() missing 1 required
    positional argument: 'images_data_file'``.
    Host line: `tools/train_svm_low_shot.py:51`.
    Remedy: the argument, unused for VOC, is None by default, and the list of k values
    is passed as the text that the function wants.
Delete it when: the host's tools run on the CPU on ten images.

The SVM tools need nothing more: `cpu_extraction`, `removed_names` and `numpy_scalars`
do the rest. ``python -m tools.nearest_neighbor_test`` runs the file as `__main__`,
which no import hook sees. Each tool composes its configuration first, so we look for
the tool at that moment.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from vissl_swav.compat.import_hook import after_import
from vissl_swav.compat.wrapping import wrap

NAME = "cpu_tools"


def needed() -> bool:
    """Always: the host's functions fail whatever the machine has."""
    return True


def apply() -> None:
    """Arm the tools, imported or run."""
    for tool, mend in _MENDED.items():
        after_import(f"tools.{tool}", mend)
    after_import("vissl.utils.hydra_config", look_at_the_main_module)


def look_at_the_main_module(module: ModuleType) -> None:
    """Mend a tool when it composes its configuration as `__main__`."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def compose_hydra_configuration(overrides: list[str]) -> Any:
            main = sys.modules.get("__main__")
            file = str(getattr(main, "__file__", "")).replace("\\", "/")
            for tool, mend in _MENDED.items():
                if main is not None and file.endswith(f"tools/{tool}.py"):
                    mend(main)
            return original(overrides)

        return compose_hydra_configuration

    wrap(module, "compose_hydra_configuration", around, shim=NAME)


def mend_low_shot_sampling(module: ModuleType) -> None:
    """Let the tool call `generate_low_shot_samples` as it does."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def generate_low_shot_samples(
            dataset_name: str,
            targets: Any,
            k_values: Any,
            *rest: Any,
            images_data_file: str | None = None,
        ) -> None:
            text = (
                k_values if isinstance(k_values, str) else ",".join(map(str, k_values))
            )
            original(
                dataset_name, targets, text, *rest, images_data_file=images_data_file
            )

        return generate_low_shot_samples

    wrap(module, "generate_low_shot_samples", around, shim=NAME)


def use_our_neighbors(module: ModuleType) -> None:
    """Replace the tool's function."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def nearest_neighbor_test(
            cfg: Any, layer_name: str = "heads"
        ) -> tuple[float, float]:
            return classify(module, cfg, layer_name)

        return nearest_neighbor_test

    wrap(module, "nearest_neighbor_test", around, shim=NAME)


def classify(module: ModuleType, cfg: Any, layer_name: str) -> tuple[float, float]:
    """Classify the extracted test features by their neighbours in the training set.

    Args:
        module: the tool, for its `merge_features` and `get_checkpoint_folder`.
        cfg: the host's configuration; NEAREST_NEIGHBOR.{SIGMA,TOPK,L2_NORM_FEATS}, the
            first two a number or a list.
        layer_name: whose features to read from the checkpoint folder.

    Returns:
        Top-1 and top-5 accuracy in per cent; of the first of each list, all are logged.
    """
    from vissl_swav.core.nearest_neighbors import knn_predict, top_accuracy

    settings = cfg.NEAREST_NEIGHBOR
    train, train_labels = _load(module, cfg, "train", layer_name)
    test, test_labels = _load(module, cfg, "test", layer_name)
    num_labelled = int((train_labels >= 0).sum())
    used = {k: min(k, num_labelled) for k in _listed(settings.TOPK)}
    predictions = knn_predict(
        train,
        train_labels,
        test,
        num_neighbors=sorted(set(used.values())),
        temperatures=_listed(settings.SIGMA),
    )
    found = []
    for wanted, k in used.items():
        for sigma in _listed(settings.SIGMA):
            logging.info(
                f"k-NN by vissl_swav on {train.device}: {k} neighbors (TOPK={wanted}), "
                f"sigma {sigma}, {num_labelled} training images"
            )
            best = predictions[k, sigma]
            top1 = 100.0 * top_accuracy(best, test_labels, top=1)
            top5 = 100.0 * top_accuracy(best, test_labels, top=5)
            total = int((test_labels >= 0).sum())
            logging.info(f"Total images: {total}, Top1: {top1}, Top5: {top5}")
            found.append((top1, top5))
    return found[0]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _load(module: ModuleType, cfg: Any, split: str, layer_name: str) -> tuple[Any, Any]:
    """Return features (N, D), flattened, and labels (N,) on the configured device."""
    import torch

    merged = module.merge_features(module.get_checkpoint_folder(cfg), split, layer_name)
    use_gpu = cfg.MACHINE.DEVICE == "gpu" and torch.cuda.is_available()
    device = "cuda" if use_gpu else "cpu"
    features = torch.from_numpy(merged["features"]).float().to(device).flatten(1)
    labels = torch.as_tensor(merged["targets"], dtype=torch.int64).to(device)
    if labels.numel() != features.shape[0]:
        raise ValueError(
            f"the {split} targets have shape {tuple(labels.shape)} for "
            f"{features.shape[0]} images; k-NN needs one class number an image"
        )
    if cfg.NEAREST_NEIGHBOR.L2_NORM_FEATS:
        features = torch.nn.functional.normalize(features, dim=1)
    return features, labels.view(-1)


_MENDED: dict[str, Callable[[ModuleType], None]] = {
    "nearest_neighbor_test": use_our_neighbors,
    "train_svm_low_shot": mend_low_shot_sampling,
}
