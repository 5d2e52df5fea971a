"""What the classifiers on frozen features need to know of a config."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vissl_swav.host.errors import StartError


@dataclass(frozen=True)
class FeatureSettings:
    """Of an extraction, and of the k-NN and SVM tools that come after it.

    Attributes:
        num_neighbors: `NEAREST_NEIGHBOR.TOPK`, a number or a list.
        temperatures: `NEAREST_NEIGHBOR.SIGMA`, a number or a list.
        unit_length: `NEAREST_NEIGHBOR.L2_NORM_FEATS`.
        costs: `SVM.costs`, the powers of its base included.
        folds: `SVM.cross_val_folds`.
        classes: `SVM.cls_list`; empty for all.
        normalize: `SVM.normalize`.
        penalty: `SVM.penalty`.
        loss: `SVM.loss`.
        dual: `SVM.dual`.
        max_iter: `SVM.max_iter`.
        k_values: `SVM.low_shot.k_values`.
        sample_numbers: `SVM.low_shot.sample_inds`.
        seed: `SEED_VALUE`.
        run_folder: `CHECKPOINT.DIR`.
    """

    num_neighbors: tuple[int, ...]
    temperatures: tuple[float, ...]
    unit_length: bool
    costs: tuple[float, ...]
    folds: int
    classes: tuple[int, ...]
    normalize: bool
    penalty: str
    loss: str
    dual: bool
    max_iter: int
    k_values: tuple[int, ...]
    sample_numbers: tuple[int, ...]
    seed: int
    run_folder: str


def feature_settings(cfg: Any) -> FeatureSettings:
    """From an inferred config.

    Raises:
        StartError: a value that is no number, or no list of them.
    """
    knn, svm = cfg.NEAREST_NEIGHBOR, cfg.SVM
    low_shot = svm.low_shot
    return FeatureSettings(
        num_neighbors=_whole("NEAREST_NEIGHBOR.TOPK", knn.TOPK),
        temperatures=_numbers("NEAREST_NEIGHBOR.SIGMA", knn.SIGMA),
        unit_length=bool(knn.L2_NORM_FEATS),
        costs=_costs(svm.costs),
        folds=_whole("SVM.cross_val_folds", svm.cross_val_folds)[0],
        classes=tuple(int(number) for number in svm.cls_list),
        normalize=bool(svm.normalize),
        penalty=svm.penalty,
        loss=svm.loss,
        dual=bool(svm.dual),
        max_iter=int(svm.max_iter),
        k_values=_whole("SVM.low_shot.k_values", low_shot.k_values),
        sample_numbers=_whole("SVM.low_shot.sample_inds", low_shot.sample_inds),
        seed=int(cfg.SEED_VALUE),
        run_folder=cfg.CHECKPOINT.DIR,
    )


def extraction_checks(cfg: Any) -> None:
    """Refuses a config whose features no classifier could use.

    Raises:
        StartError: evaluation mode is off, or there is no test set.
    """
    if not cfg.MODEL.FEATURE_EVAL_SETTINGS.EVAL_MODE_ON:
        raise StartError(
            "MODEL.FEATURE_EVAL_SETTINGS.EVAL_MODE_ON is false, so the network would "
            "not be frozen; set config.MODEL.FEATURE_EVAL_SETTINGS.EVAL_MODE_ON=True.",
            key="config.MODEL.FEATURE_EVAL_SETTINGS.EVAL_MODE_ON",
        )
    if cfg.TEST_ONLY or not cfg.TEST_MODEL:
        raise StartError(
            "features of the training and of the test images are wanted: set "
            "config.TEST_MODEL=True and config.TEST_ONLY=False.",
            key="config.TEST_MODEL",
        )


def feature_layers(cfg: Any) -> list[str]:
    """The layers that the host's engine extracts, `heads` for the output."""
    from vissl.models.model_helpers import get_trunk_output_feature_names

    return list(get_trunk_output_feature_names(cfg.MODEL)) or ["heads"]


def feature_folder(cfg: Any) -> str:
    """Where the host's engine writes; the folder of the run is made."""
    from vissl.utils.checkpoint import get_checkpoint_folder

    folder = get_checkpoint_folder(cfg)
    return cfg.EXTRACT_FEATURES.OUTPUT_DIR or folder


def _costs(costs: Any) -> tuple[float, ...]:
    """The list, then base ** n for the range of n where the base is above 0."""
    listed = _numbers("SVM.costs.costs_list", costs.costs_list)
    if costs.base <= 0:
        return listed
    first, stop = costs.power_range
    return listed + tuple(float(costs.base) ** n for n in range(first, stop))


def _whole(key: str, value: Any) -> tuple[int, ...]:
    numbers = _numbers(key, value)
    if any(number != int(number) for number in numbers):
        raise StartError(f"config.{key} is {value}; wanted whole numbers.", key=key)
    return tuple(int(number) for number in numbers)


def _numbers(key: str, value: Any) -> tuple[float, ...]:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    numbers: tuple[Any, ...] = tuple(value) if is_list else (value,)
    if not numbers or any(not isinstance(n, int | float) for n in numbers):
        raise StartError(
            f"config.{key} is {value!r}; wanted a number or a list of numbers, "
            f"config.{key}=[20,200], say.",
            key=f"config.{key}",
        )
    return numbers
