"""Files of weights, as nested dictionaries of tensors; nothing in a file is run.

torch's files come through `compat.checkpoint_loading`, which reads data only; the
`safetensors` format holds nothing else. VISSL cuts large models into shards (each a
part of every layer) or slices (a file a layer), with one file that lists the others.
"""

import pickle
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vissl_swav.compat.checkpoint_loading import load_checkpoint
from vissl_swav.weights import formats
from vissl_swav.weights.errors import WeightsError

_SLICES = "_layers"


def read(path: Path) -> Mapping[str, Any]:
    """What a file holds, on the CPU; shards and slices put together.

    Raises:
        WeightsError: no file, a broken one, one that would run code, or no dictionary.
    """
    content = _content(path)
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path} holds a {type(content).__name__}; wanted a dictionary of tensors, "
            "as torch.save(model.state_dict(), ...) writes it."
        )
    kind = content.get("type")
    try:
        if kind == "shard_list":
            return _joined([_listed(path, name) for name in content["shards"]])
        if kind == "slice_list":
            return {"model_state_dict": _sliced(path, content["layers"])}
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"{path} lists the parts of a model, but they do not fit together "
            f"({type(error).__name__}: {error}). Take all parts from one checkpoint."
        ) from error
    if kind == "shard":
        raise WeightsError(
            f"{path} is one shard of a model; name the file that lists the shards "
            "(the same name without _shardN)."
        )
    return content


def _content(path: Path) -> Any:
    if path.is_dir():
        raise WeightsError(
            f"{path} is a folder; wanted a file of weights, as checkpoint.torch of a "
            "run's folder."
        )
    try:
        if formats.kind_of(path) == formats.SAFETENSORS:
            return _safetensors(path)
        # By its name torch would take it for what the ending says.
        with path.open("rb") as file:
            return load_checkpoint(file, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise WeightsError(" ".join(str(error).split())) from error
    except MemoryError as error:
        raise WeightsError(f"{path} does not fit into memory.") from error
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be opened ({error.strerror or error}). Check the path."
        ) from error


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    # A hostile header leads the reader to raise anything.
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(
            f"{path} cannot be read as safetensors ({' '.join(str(error).split())}). "
            "It is cut short, damaged or of another kind; copy it anew."
        ) from error


def _listed(path: Path, name: object) -> Any:
    """A part by its name, looked for beside the list: the folder may have moved."""
    return _content(path.parent / Path(str(name)).name)


def _sliced(path: Path, layers: Mapping[str, object]) -> dict[str, Tensor]:
    folder = path.with_name(path.stem + _SLICES)
    return {
        name: _content(folder / Path(str(file)).name)["weight"]
        for name, file in layers.items()
    }


def _joined(shards: Sequence[Any]) -> dict[str, Any]:
    """The checkpoint that one process would have written."""
    bases = [shard["classy_state_dict"]["base_model"] for shard in shards]
    model = {"trunk": {}, "heads": {}}
    for part in model:
        weights = [base["model"].get(part) or {} for base in bases]
        metadata = [base["meta"].get(part) for base in bases]
        if weights[0] and metadata[0]:
            model[part] = _consolidated(weights, metadata)
    return {"classy_state_dict": {"base_model": {"model": model, "meta": {}}}}


def _consolidated(
    weights: Sequence[Mapping[str, Tensor]], metadata: Sequence[Any]
) -> dict[str, Tensor]:
    """Parameters from all shards without their padding; buffers from the first."""
    taken: set[str] = set()
    found: dict[str, Tensor] = {}
    wrappers = [shard["param_metadata"] for shard in metadata]
    for position, wrapper in enumerate(wrappers[0]):
        paddings = [shard[position]["num_padded"] for shard in wrappers]
        names = [_below(wrapper["fsdp_path"], name) for name in wrapper["param_names"]]
        stored = names
        if wrapper["is_flat"]:
            stored = [_below(wrapper["fsdp_path"], "flat_param")]
        whole = [
            torch.cat(
                [
                    _unpadded(shard[name], padding[index])
                    for shard, padding in zip(weights, paddings, strict=True)
                ]
            )
            for index, name in enumerate(stored)
        ]
        shapes = [tuple(shape) for shape in wrapper["param_shapes"]]
        if wrapper["is_flat"]:
            whole = list(whole[0].split([prod(shape) for shape in shapes]))
        for name, values, shape in zip(names, whole, shapes, strict=True):
            found[name] = values.view(shape)
        taken |= {*names, *stored}
    buffers = {name: v for name, v in weights[0].items() if name not in taken}
    return {**buffers, **found}


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _unpadded(shard: Tensor, padding: int) -> Tensor:
    flat = shard.reshape(-1)
    return flat[: flat.numel() - padding]
