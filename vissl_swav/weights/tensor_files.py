"""Weights written for others to read: the names and the wrapping that each wants.

| target | names | file |
|---|---|---|
| torchvision | torchvision's; the head's behind them with `--part all` | `torch.save` |
| timm | timm's, the same for ResNets and VISSL's vision transformers | `torch.save` |
| detectron2 | `stem.conv1.norm.weight`, `res2.0.shortcut.weight` | pickle of numpy |
| safetensors | as torchvision | safetensors |
| vissl | `_feature_blocks.conv1.weight`, heads `0.projection_head.0.weight` | VISSL's |
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vissl_swav.weights import resnet_names
from vissl_swav.weights.errors import WeightsError
from vissl_swav.weights.loading import LoadedWeights

AUTHOR = "vissl_swav"
_VIT = "patch_embed.proj.weight"


def write_torchvision(weights: LoadedWeights, path: Path) -> None:
    """A plain dictionary with torchvision's names.

    Raises:
        WeightsError: the trunk is no ResNet.
    """
    _want_resnet(weights, "torchvision")
    torch.save(_owned(weights.tensors), path)


def write_timm(weights: LoadedWeights, path: Path) -> None:
    """As `timm.create_model(NAME, num_classes=0)` loads it, strictly.

    Raises:
        WeightsError: neither a ResNet nor a vision transformer; or more than a trunk.
    """
    if weights.part != "trunk":
        raise WeightsError(
            "timm has no place for a projection head or prototypes; take --part trunk."
        )
    if _VIT not in weights.trunk:
        _want_resnet(weights, "timm")
    torch.save(_owned(weights.tensors), path)


def write_detectron2(weights: LoadedWeights, path: Path) -> None:
    """A pickle as detectron2's model zoo has them, for MODEL.WEIGHTS.

    Raises:
        WeightsError: no ResNet with a 7x7 stem, or more than a trunk.
    """
    if weights.part != "trunk":
        raise WeightsError(
            "detectron2 has no place for a projection head or prototypes; take --part "
            "trunk."
        )
    if path.suffix != ".pkl":
        raise WeightsError(
            f"the file ends in {path.suffix or 'nothing'}; wanted .pkl, from which "
            "alone detectron2 reads this format."
        )
    _want_resnet(weights, "detectron2")
    if weights.trunk["conv1.weight"].shape[-1] != 7:
        raise WeightsError(
            f"{weights.path} has a small stem, which detectron2's ResNet has no place "
            "for; wanted a 7x7 convolution."
        )
    named = {
        resnet_names.to_detectron2(name): tensor.float().numpy()
        for name, tensor in _owned(weights.tensors).items()
        if not name.endswith(".num_batches_tracked")
    }
    if None in named:
        lost = [n for n in weights.tensors if resnet_names.to_detectron2(n) is None]
        lost = [n for n in lost if not n.endswith(".num_batches_tracked")]
        raise WeightsError(
            f"detectron2's ResNet has no place for {', '.join(lost[:3])} of "
            f"{weights.path}."
        )
    content = {"model": named, "__author__": AUTHOR, "matching_heuristics": True}
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=4)


def write_safetensors(weights: LoadedWeights, path: Path) -> None:
    """Canonical names in the safetensors format."""
    from safetensors.torch import save_file

    # The library makes files that only their owner may read.
    path.touch()
    mode = path.stat().st_mode
    save_file(
        _owned(weights.tensors),
        path,
        metadata={"format": "pt", "layout": weights.layout, "part": weights.part},
    )
    path.chmod(mode)


def write_vissl(weights: LoadedWeights, path: Path) -> None:
    """A file for `config.MODEL.WEIGHTS_INIT.PARAMS_FILE`, with no other key to set.

    Raises:
        WeightsError: a trunk that VISSL has not.
    """
    blocks = _blocks(weights)
    trunk = {blocks + name: t for name, t in _owned(weights.trunk).items()}
    behind = {n: t for n, t in weights.tensors.items() if n not in weights.trunk}
    # VISSL's heads have a number in front, classifiers of others no place.
    heads = {
        name if name[0].isdecimal() else f"0.{name}": tensor
        for name, tensor in _owned(behind).items()
        if re.match(r"projection_head\.|prototypes\d+\.|\d+\.", name)
    }
    model = {"trunk": trunk, "heads": heads}
    content = {
        "type": "consolidated",
        "classy_state_dict": {"base_model": {"model": model, "meta": {}}},
    }
    torch.save(content, path)


def _blocks(weights: LoadedWeights) -> str:
    """What VISSL puts in front of a trunk's names; nothing for its transformers."""
    if "cls_token" in weights.trunk:
        return ""
    if resnet_names.is_resnet(weights.trunk) or weights.layout.startswith("VISSL"):
        return "_feature_blocks."
    raise WeightsError(
        f"{weights.path} has a trunk ({', '.join(list(weights.trunk)[:3])}, ...) whose "
        "names are no ResNet's and no vision transformer's of VISSL's; only those, and "
        "VISSL's own files, can be written for VISSL."
    )


def _want_resnet(weights: LoadedWeights, target: str) -> None:
    if not resnet_names.is_resnet(weights.trunk):
        raise WeightsError(
            f"{weights.path} holds no ResNet with torchvision's parts (its trunk has "
            f"{', '.join(list(weights.trunk)[:3])}, ...), and {target} has no other "
            "net of its names. --to safetensors takes any trunk."
        )


def _owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies: files keep shared or sliced memory as a whole."""
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
