"""The model of a run of ours, from its folder: built by VISSL, loaded as data only.

In eval mode: BatchNorm in train mode would make an image's cluster depend on the other
images of its batch (swav#58).
"""

import os
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from vissl_swav.compat.checkpoint_loading import load_checkpoint
from vissl_swav.core.prototypes import normalize_rows_
from vissl_swav.host.errors import StartError
from vissl_swav.host.settings.saved_run import SavedRun, saved_run
from vissl_swav.suite.device import find_device

CONFIG_NAME = "train_config.yaml"
CHECKPOINT_NAME = "checkpoint.torch"
_PHASE = re.compile(r"model_(?:final_checkpoint_)?phase(\d+)\.torch")
# Of a config: hundreds of lines. A file of another kind is not parsed for minutes.
_MAX_CONFIG_BYTES = 4 * 2**20


@dataclass(frozen=True)
class CheckpointModel:
    """A model in eval mode, and the run that it comes from.

    Attributes:
        model: the host's, on `device`.
        prototypes: C (K, D) of each head, unit rows, on the CPU; empty where the run's
            loss has none.
        run: what the run's config says.
        file: the checkpoint.
        device: where the model computes.
    """

    model: nn.Module
    prototypes: list[Tensor]
    run: SavedRun
    file: Path
    device: torch.device

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to unit features Z (B, D), on the CPU, float32."""
        (output,) = self.model(images.to(self.device))
        return nn.functional.normalize(embeddings(output).float(), dim=1).cpu()


def embeddings(output: Any) -> Tensor:
    """Of a head's output: [embeddings, scores, ...], or of `mlp` embeddings alone."""
    return output if isinstance(output, Tensor) else output[0]


def load_model(
    checkpoint: Path, *, config: Path | None = None, device: str = "auto"
) -> CheckpointModel:
    """Builds the run's model and loads the checkpoint's weights, every one of them.

    Args:
        checkpoint: a checkpoint of `vissl-swav train`, or the folder of the run.
        config: the run's `train_config.yaml`; by default the one beside the file.
        device: "cpu", "cuda", or "auto" for the GPU where there is one.

    Raises:
        StartError: a file is missing, broken, would run code, or does not hold the
            model that the config describes; or no such device.
    """
    file = find_checkpoint(checkpoint)
    run = read_config(config or file.parent / CONFIG_NAME)
    place = find_device(device)
    weights = _weights(file)
    model = _built(run)
    _load(model, weights, file)
    prototypes = _prototypes(model, run, file)
    return CheckpointModel(model.eval().to(place), prototypes, run, file, place)


def find_checkpoint(path: Path) -> Path:
    """The file itself, or the newest checkpoint of a run's folder.

    Raises:
        StartError: there is none.
    """
    path = path.expanduser()
    if path.is_dir():
        phases = {
            int(match[1]): entry
            for entry in sorted(path.iterdir())
            if (match := _PHASE.fullmatch(entry.name))
        }
        # The host's link is absolute, and broken once the folder has moved.
        if (path / CHECKPOINT_NAME).is_file():
            return path / CHECKPOINT_NAME
        if phases:
            return phases[max(phases)]
        raise StartError(
            f"{path} holds no checkpoint; wanted {CHECKPOINT_NAME} or "
            "model_phase*.torch, as a run of `vissl-swav train` leaves them in its "
            "config.CHECKPOINT.DIR."
        )
    if not path.is_file():
        raise StartError(f"there is no checkpoint {path}. Check the path.")
    return path


def read_config(path: Path) -> SavedRun:
    """The run's config.

    Raises:
        StartError: no such file, no YAML, or another config.
    """
    tree = read_tree(path)
    try:
        return saved_run(tree)
    except StartError as error:
        raise StartError(f"{path}: {error}") from error


def read_tree(path: Path) -> Any:
    """What the run's config file holds.

    Raises:
        StartError: no such file, or no YAML.
    """
    try:
        size = path.stat().st_size
        if size > _MAX_CONFIG_BYTES:
            raise StartError(f"{path} has {size} bytes, which is no config.")
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartError(
            f"{path} cannot be opened ({error.strerror}). It describes the model; the "
            "run wrote it beside its checkpoints. Name it with --config."
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, StartError):
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else "nested"
        raise StartError(f"{path} cannot be read as YAML: {first}.") from error


def _weights(file: Path) -> Mapping[str, Any]:
    """`{"trunk": ..., "heads": ...}` of the host's checkpoint."""
    try:
        content = load_checkpoint(os.fspath(file), map_location="cpu")
    except (pickle.UnpicklingError, OSError, MemoryError) as error:
        raise StartError(str(error) or f"{file} does not fit into memory.") from error
    try:
        weights = content["classy_state_dict"]["base_model"]["model"]
        parts = {name: dict(weights[name]) for name in ("trunk", "heads")}
    except (KeyError, TypeError, ValueError, IndexError) as error:
        found = ", ".join(map(str, list(content)[:5])) if _is_mapping(content) else ""
        raise StartError(
            f"{file} holds no model of VISSL's ({found or type(content).__name__}); "
            "wanted a checkpoint of `vissl-swav train`, with the model under "
            "classy_state_dict.base_model.model."
        ) from error
    return parts


def _is_mapping(content: Any) -> bool:
    return isinstance(content, Mapping)


def _built(run: SavedRun) -> nn.Module:
    from vissl_swav.host import registration

    registration.arm()
    with warnings.catch_warnings():
        # What VISSL's own files warn of when they are imported.
        warnings.simplefilter("ignore")
        from vissl.config import AttrDict
        from vissl.models import build_model

    try:
        return build_model(AttrDict(dict(run.model)), AttrDict(dict(run.optimizer)))
    # The host asserts, looks up names and calls constructors with what it is given.
    except Exception as error:
        raise StartError(
            "VISSL cannot build the model of the run's config "
            f"({type(error).__name__}: {error}); is the {CONFIG_NAME} the run's own?"
        ) from error


def _load(model: Any, weights: Mapping[str, Any], file: Path) -> None:
    """Strictly: a weight that stays as initialised is a wrong cluster for all."""
    for part, module in (("trunk", model.trunk), ("heads", model.heads)):
        state = weights[part]
        wanted = module.state_dict()
        problems = [f"lacks {key}" for key in wanted if key not in state]
        problems += [f"has {key} beside" for key in state if key not in wanted]
        problems += [
            f"{key} {problem}"
            for key, value in wanted.items()
            if key in state and (problem := _misfit(state[key], value))
        ]
        if problems:
            more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
            raise StartError(
                f"{file} does not hold the {part} of the model that its config "
                f"describes: {'; '.join(problems[:3])}{more}. Take the checkpoint and "
                f"the {CONFIG_NAME} of one run."
            )
        module.load_state_dict(state)


def _misfit(saved: Any, wanted: Tensor) -> str | None:
    """Why a saved weight cannot take the place of the model's; None if it can."""
    if not isinstance(saved, Tensor) or saved.layout != torch.strided or saved.is_meta:
        return f"is no plain tensor but {type(saved).__name__}"
    if saved.shape != wanted.shape:
        return f"is {tuple(saved.shape)} there, {tuple(wanted.shape)} in the model"
    if saved.is_floating_point() != wanted.is_floating_point() or saved.is_complex():
        return f"is {saved.dtype} there, {wanted.dtype} in the model"
    if saved.is_floating_point() and not bool(torch.isfinite(saved).all()):
        return "is not finite"
    return None


def _prototypes(model: Any, run: SavedRun, file: Path) -> list[Tensor]:
    head = model.heads[0]
    if isinstance(head, nn.Sequential):
        head = head[-1]
    found = [
        getattr(head, f"prototypes{index}").weight.detach().float().clone()
        for index in range(getattr(head, "nmb_heads", 0))
    ]
    sizes = tuple(len(C) for C in found)
    if sizes != run.num_prototypes:
        raise StartError(
            f"{file} has heads of {list(sizes)} prototypes, and its config says "
            f"{list(run.num_prototypes)}; take both of one run."
        )
    return [normalize_rows_(C) for C in found]
