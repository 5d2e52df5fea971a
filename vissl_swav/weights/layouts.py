"""Which tensor of a file is what: trunk, head, prototypes, or none of them.

| layout | trunk | head | prototypes |
|---|---|---|---|
| VISSL and ours | `_feature_blocks.` | `0.projection_head.` | `0.prototypes0.` |
| SwAV's authors | `module.` | `module.projection_head.` | `module.prototypes.` |
| solo-learn | `backbone.` or `encoder.` | `projector.` | `prototypes.` |
| lightly | `backbone.` | `projection_head.layers.` | `prototypes.heads.0.` |
| torchvision, timm | no prefix | `fc.`, `head.` | |
| detectron2 | `stem.`, `res2.` | | |

One naming for all: torchvision's (`resnet_names`) for the trunk, `projection_head.0.`
for the head, `prototypes0.weight` for the prototypes of the first head.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vissl_swav.weights import resnet_names
from vissl_swav.weights.errors import WeightsError

# Of `host.swav_loss`.
_ENCODER = "encoder."
PARTS = ("trunk", "head", "prototypes")
IGNORED = "ignored"
SOLO_LEARN = "solo-learn"
_WRAPPERS = r"(?:module|_orig_mod|_fsdp_wrapped_module|_fpw_module)\."
# Under which key a file keeps its tensors; the first that is there counts.
_STATE_KEYS = ("model_state_dict", "state_dict", "teacher", "student", "model")
# The longest first. Of the second kind only where what follows is a trunk.
_HOST_PREFIXES = (
    "trunk.base_model._feature_blocks.",
    "trunk._feature_blocks.",
    "base_model._feature_blocks.",
    "_feature_blocks.",
    "trunk.base_model.",
    "trunk.",
    "base_model.",
)
_OTHER_PREFIXES = ("backbone.", "encoder_q.", "encoder.", "model.")
_ANCHORS = (
    *("conv1.weight", "0.weight", "conv1.0.weight", "stem.conv1.weight"),
    *("stem.0.weight", "patch_embed.proj.weight", "layer1.0.conv1.weight"),
)
_HEAD = re.compile(r"(?:projection_head|projector)\.(?:layers\.)?(.+)")
_PROTOTYPES = re.compile(
    r"prototypes(?P<own>\d*)\."
    r"(?:layers\.|(?:heads\.|prototypes)?(?P<number>\d+)\.)?"
    r"(?P<last>weight|bias|weight_[gv]|parametrizations\.weight\.original[01])"
)
_CLASSIFIER = re.compile(r"(?:fc|linear|classifier|head|clf|channel_bn)\..+")
_NORMED = (
    (".weight_g", ".weight_v"),
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
)


class Place(NamedTuple):
    """Where a tensor belongs: one of `PARTS` or `IGNORED`, and its name there."""

    part: str
    name: str


class Content(NamedTuple):
    """Tensors of a file by canonical name.

    Attributes:
        layout: whose file it is, in words.
        tensors: part -> name -> tensor.
        ignored: names, as in the file, of what belongs to no part.
    """

    layout: str
    tensors: dict[str, dict[str, Tensor]]
    ignored: tuple[str, ...]


def places(
    names: Iterable[str], *, trunk_prefix: str | None = None
) -> dict[str, Place]:
    """Where each tensor of a file or a model belongs.

    Args:
        names: as they are.
        trunk_prefix: what the trunk's names begin with; None finds out.
    """
    bare = {
        name: re.sub(f"^{_WRAPPERS}|(?<=\\.){_WRAPPERS}", "", name) for name in names
    }
    prefix = _prefix(bare.values()) if trunk_prefix is None else trunk_prefix
    found = {name: _place(text, prefix) for name, text in bare.items()}
    trunk = {place.name for place in found.values() if place.part == "trunk"}
    new = resnet_names.canonical(trunk)
    return {
        name: Place("trunk", new[place.name]) if place.part == "trunk" else place
        for name, place in found.items()
    }


def sort(
    content: Mapping[str, Any],
    *,
    trunk_prefix: str | None = None,
    momentum: bool = False,
) -> Content:
    """The tensors of what `files.read` gave, part by part.

    Args:
        content: of the file.
        trunk_prefix: what the trunk's names begin with; None finds out.
        momentum: those of the momentum encoder of a run of `swav_momentum`.

    Raises:
        WeightsError: no tensors, two under one name, or one that is not finite.
    """
    state, kept = _encoder(content) if momentum else _state(content)
    where = places(state, trunk_prefix=trunk_prefix)
    tensors: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for old, (part, new) in where.items():
        if part == IGNORED:
            continue
        if new in tensors[part]:
            raise WeightsError(
                f"two tensors of the file would both be called {new} in the {part}, "
                f"one of them {old}. Say what the trunk's names begin with: "
                'trunk_prefix="...".'
            )
        tensors[part][new] = _plain(old, state[old])
    tensors["prototypes"] = _unnormed(tensors["prototypes"])
    ignored = tuple(old for old, place in where.items() if place.part == IGNORED)
    return Content(_layout(kept, state, where), tensors, ignored)


def _state(content: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Name -> tensor, and the key under which they were kept ("" for none)."""
    base = content.get("classy_state_dict")
    if isinstance(base, Mapping):
        try:
            model = base["base_model"]["model"]
            trunk, heads = model["trunk"], model["heads"]
        except (KeyError, TypeError) as error:
            raise WeightsError(
                "the file's classy_state_dict lacks base_model.model.trunk and .heads; "
                "wanted a checkpoint of VISSL's."
            ) from error
        if isinstance(heads, (list, tuple)):
            heads = {
                f"{n}.{k}": v for n, head in enumerate(heads) for k, v in head.items()
            }
        flat = {f"trunk.{name}": value for name, value in dict(trunk).items()}
        flat |= {f"heads.{name}": value for name, value in dict(heads).items()}
        return _tensors(flat, content), "classy_state_dict"
    for key in _STATE_KEYS:
        if isinstance(content.get(key), Mapping):
            return _tensors(content[key], content), key
    return _tensors(content, content), ""


def _encoder(content: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The momentum encoder, which is state of the loss."""
    loss = content.get("loss")
    state = loss if isinstance(loss, Mapping) else {}
    found = {
        name.removeprefix(_ENCODER): value
        for name, value in state.items()
        if isinstance(name, str) and name.startswith(_ENCODER)
    }
    if not found:
        raise WeightsError(
            "the file holds no momentum encoder; wanted a checkpoint of a run with "
            "config.LOSS.name=swav_momentum. Leave the flag out for the model itself."
        )
    return _tensors(found, content), "classy_state_dict"


def _tensors(state: Mapping[Any, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, (Tensor, np.ndarray))
    }
    if not found:
        keys = ", ".join(map(str, list(content)[:6])) or "nothing"
        raise WeightsError(
            f"the file holds no tensors where weights are kept (it holds {keys}); "
            "wanted names and tensors, under classy_state_dict, "
            f"{', '.join(_STATE_KEYS)} or by themselves."
        )
    return found


def _prefix(names: Iterable[str]) -> str:
    names = list(names)
    for prefix in _HOST_PREFIXES:
        if any(name.startswith(prefix) for name in names):
            return prefix
    known = set(names)
    for prefix in _OTHER_PREFIXES:
        if any(prefix + anchor in known for anchor in _ANCHORS):
            return prefix
    return ""


def _place(name: str, prefix: str) -> Place:
    if prefix and name.startswith(prefix):
        rest = name[len(prefix) :]
        return Place("head" if _CLASSIFIER.fullmatch(rest) else "trunk", rest)
    # VISSL numbers its heads, and the parts of a head that is a sequence.
    text = re.sub(r"^heads\.(?:\d+\.)*", "", name)
    if match := _PROTOTYPES.fullmatch(text):
        number = match["own"] or match["number"] or "0"
        return Place("prototypes", f"prototypes{number}.{match['last']}")
    if match := _HEAD.fullmatch(text):
        # A head that is one linear layer has no numbers.
        rest = match[1] if re.match(r"\d+\.", match[1]) else f"0.{match[1]}"
        return Place("head", f"projection_head.{rest}")
    if text != name:
        return Place("head", name.removeprefix("heads."))
    if _CLASSIFIER.fullmatch(text):
        return Place("head", text)
    return Place(IGNORED if prefix else "trunk", text)


def _plain(name: str, value: Any) -> Tensor:
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            raise WeightsError(f"{name} of the file is an array of objects.")
        value = torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape))
    value = value.detach()
    if value.layout != torch.strided or value.is_meta or value.is_quantized:
        raise WeightsError(f"{name} of the file is no plain tensor ({value.layout}).")
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise WeightsError(
            f"{name} of the file is not finite: the run had diverged when it was "
            "written. Take an earlier checkpoint."
        )
    return value


def _unnormed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weight normalisation, ``g v / ||v||`` for each row, multiplied out."""
    found = dict(tensors)
    for length, direction in _NORMED:
        for name in [name for name in found if name.endswith(length)]:
            owner = name.removesuffix(length)
            g, v = found.pop(name), found.pop(owner + direction, None)
            if v is None or v.dim() != 2 or g.numel() != len(v):
                raise WeightsError(
                    f"the file holds {name} without a {owner}{direction} that fits."
                )
            norms = v.float().norm(dim=1, keepdim=True)
            found[f"{owner}.weight"] = g.reshape(-1, 1).float() * v.float() / norms
    return found


def _layout(kept: str, names: Iterable[str], where: Mapping[str, Place]) -> str:
    text = "\n" + "\n".join(names)
    if kept == "classy_state_dict":
        return "VISSL"
    if "_feature_blocks." in text:
        return "VISSL, the model alone"
    if "projection_head.layers." in text or "prototypes.heads." in text:
        return "lightly"
    if re.search(r"\n(?:backbone|encoder)\.", text) and re.search(
        r"\n(?:projector|classifier)\.", text
    ):
        return SOLO_LEARN
    if "\nstem.conv1.norm." in text:
        return "detectron2"
    if "projection_head." in text or "prototypes" in text:
        return "SwAV's authors"
    if re.search(r"\n(?:backbone\.)?0\.weight", text):
        return "lightly"
    trunk = [place.name for place in where.values() if place.part == "trunk"]
    if resnet_names.is_resnet(trunk) or "patch_embed.proj.weight" in trunk:
        return "torchvision or timm"
    return "of no known names"
