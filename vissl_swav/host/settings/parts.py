"""Keys of the parts that a run of ours is made of: crops, head, trunk."""

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from vissl_swav.host.errors import StartError
from vissl_swav.transforms.multicrop import MultiCrop

TRANSFORM_NAME = "MultiCrop"
AUTO = "auto"
# Read by the host's wrapper, and by our host layer; not by the transform.
_OF_THE_WRAPPER = ("name", "indices", "transform_type")
_OF_THE_LAYER = ("on_device", "max_side")
_TRANSFORMS_KEY = "config.DATA.TRAIN.TRANSFORMS"
_HEAD_KEY = "config.MODEL.HEAD.PARAMS"
SMALL_RESNET_DEPTHS = (18, 34)
_SMALL_RESNET = {"DEPTH": 18, "WIDTH": 64}


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean ...?`, or nothing where no valid name is near."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def check_keys(
    given: Iterable[str], valid: Iterable[str], where: str, *, key: str | None = None
) -> None:
    """Every given key is a valid one.

    Raises:
        StartError: names the key, where it stands and the nearest valid one.
    """
    valid = list(valid)
    for name in given:
        if name not in valid:
            raise StartError(
                f"{where}.{name} is no key of vissl_swav{nearest(name, valid) or '.'} "
                f"Valid keys: {', '.join(sorted(valid))}.",
                key=key or f"{where}.{name}",
            )


def multi_crop(transform: Mapping[str, Any], split: str = "TRAIN") -> MultiCrop:
    """The transform that an entry of `DATA.<split>.TRANSFORMS` describes.

    A mean or std of `auto`, which a start replaces by numbers, is left out here.

    Raises:
        StartError: an unknown key, or a value that the transform refuses.
    """
    arguments = {
        key: value
        for key, value in transform.items()
        if key not in _OF_THE_WRAPPER and not (key in ("mean", "std") and value == AUTO)
    }
    place = f"config.DATA.{split}.TRANSFORMS"
    where = f"{place}, {TRANSFORM_NAME}"
    valid = [*inspect.signature(MultiCrop).parameters, *_OF_THE_LAYER]
    check_keys(arguments, valid, where, key=place)
    for key in _OF_THE_LAYER:
        arguments.pop(key, None)
    try:
        return MultiCrop(**arguments)
    except (TypeError, ValueError) as error:
        raise StartError(f"{where}: {error}", key=place) from error


def num_crops(cfg: Any, given: int | None = None) -> int:
    """V: what the multi-crop transform of the training data makes of an image."""
    for transform in cfg.DATA.TRAIN.TRANSFORMS:
        if transform["name"] == TRANSFORM_NAME:
            return multi_crop(transform).total_num_crops
        if transform["name"] == "ImgPilToMultiCrop":
            return transform["total_num_crops"]
        if transform["name"] == "ImgReplicatePil":
            return transform.get("num_times", 2)
    if given is not None:
        return given
    names = [transform["name"] for transform in cfg.DATA.TRAIN.TRANSFORMS]
    raise StartError(
        f"{_TRANSFORMS_KEY} has no transform that makes several crops of an image (got "
        f"{names}); start the list with `- name: {TRANSFORM_NAME}`.",
        key=_TRANSFORMS_KEY,
    )


def swav_head(cfg: Any) -> Mapping[str, Any]:
    """Settings of the one `swav_head`, which may be the last module of a chain.

    Raises:
        StartError: another head, an unknown key, or values that it cannot have.
    """
    from vissl.models.heads.swav_prototypes_head import SwAVPrototypesHead

    heads = cfg.MODEL.HEAD.PARAMS
    head: Any = heads[0] if len(heads) == 1 else [None]
    is_chain = bool(head) and isinstance(head[0], list)
    if is_chain:
        head = head[-1]
    if len(head) != 2 or head[0] != "swav_head" or not isinstance(head[1], Mapping):
        problem = "wanted one head that ends in [swav_head, {dims, num_clusters, ...}]"
        raise StartError(f"{_HEAD_KEY} is {heads}: {problem}.", key=_HEAD_KEY)
    given = head[1]
    valid = list(inspect.signature(SwAVPrototypesHead).parameters)[1:]
    check_keys(given, valid, f"{_HEAD_KEY}, swav_head", key=_HEAD_KEY)
    problem = None
    if not isinstance(given.get("use_bn"), bool):
        problem = "use_bn wants true or false: whether its layers have BatchNorm"
    elif not _are_counts(given.get("num_clusters")):
        problem = "num_clusters wants a list of numbers of prototypes, [3000], say"
    elif not _are_counts(given.get("dims")):
        problem = "dims wants a list of layer widths, [2048, 2048, 128], say"
    elif not given.get("normalize_feats", True):
        problem = "normalize_feats is False, but prototypes score unit features"
    elif not given.get("return_embeddings", True):
        problem = "return_embeddings is False, but the queue stores embeddings"
    elif given.get("use_weight_norm_prototypes"):
        problem = "use_weight_norm_prototypes: vissl_swav keeps the rows at unit length"
    elif not is_chain and cfg.MODEL.TRUNK.NAME == "resnet_small":
        problem = _misfit(small_resnet(cfg.MODEL), given["dims"][0])
    if problem:
        raise StartError(f"{_HEAD_KEY} is {heads}: {problem}.", key=_HEAD_KEY)
    return given


def projection_head(cfg: Any) -> Mapping[str, Any]:
    """Settings of the last module of a head without prototypes; its dims end in D.

    It is `mlp`, several of them one after the other or a chain, or one `swav_head` with
    `num_clusters: []`.

    Raises:
        StartError: another head, an unknown key, or values that it cannot have.
    """
    from vissl.models.heads.mlp import MLP
    from vissl.models.heads.swav_prototypes_head import SwAVPrototypesHead

    heads = cfg.MODEL.HEAD.PARAMS
    is_chain = len(heads) == 1 and bool(heads[0]) and isinstance(heads[0][0], list)
    modules = heads[0] if is_chain else heads
    classes: dict[Any, Any] = {"mlp": MLP, "swav_head": SwAVPrototypesHead}
    name, given = modules[-1] if modules and len(modules[-1]) == 2 else (None, None)
    if name not in classes or not isinstance(given, Mapping):
        raise StartError(
            f"{_HEAD_KEY} is {heads}: wanted one that ends in [mlp, {{dims, ...}}], or "
            "in [swav_head, {dims, use_bn, num_clusters: []}]: no prototypes.",
            key=_HEAD_KEY,
        )
    valid = list(inspect.signature(classes[name]).parameters)[1:]
    check_keys(given, valid, f"{_HEAD_KEY}, {name}", key=_HEAD_KEY)
    problem = None
    if not _are_counts(given.get("dims")):
        problem = "dims wants a list of layer widths, [2048, 2048, 128], say"
    elif name == "swav_head":
        if not isinstance(given.get("use_bn"), bool):
            problem = "use_bn wants true or false: whether its layers have BatchNorm"
        elif given.get("num_clusters") != []:
            problem = "num_clusters wants []: this loss has no prototypes"
        elif not given.get("return_embeddings", True):
            problem = "return_embeddings is False, but the loss compares embeddings"
    if problem is None and len(modules) == 1:
        if cfg.MODEL.TRUNK.NAME == "resnet_small":
            problem = _misfit(small_resnet(cfg.MODEL), given["dims"][0])
    if problem:
        raise StartError(f"{_HEAD_KEY} is {heads}: {problem}.", key=_HEAD_KEY)
    return given


def check_is_whole(model_config: Any) -> None:
    """The model is not sharded by FSDP, so that a copy of it can follow it.

    Raises:
        StartError: it is.
    """
    name = model_config.TRUNK.NAME
    if name.endswith("_fsdp") or model_config.FSDP_CONFIG.AUTO_SETUP_FSDP:
        raise StartError(
            f"the trunk {name} is sharded by FSDP, and a momentum encoder is a copy of "
            "the whole model; take config.LOSS.name=swav, or a trunk without FSDP.",
            key="config.MODEL.TRUNK.NAME",
        )


def small_resnet(model_config: Any) -> dict[str, int]:
    """`MODEL.TRUNK.RESNET_SMALL`: depth and width of the trunk `resnet_small`.

    Raises:
        StartError: an unknown key, or a shape that the trunk cannot have.
    """
    given = dict(model_config.TRUNK.get("RESNET_SMALL") or {})
    where = "config.MODEL.TRUNK.RESNET_SMALL"
    check_keys(given, _SMALL_RESNET, where)
    depth, width = (given.get(key, _SMALL_RESNET[key]) for key in ("DEPTH", "WIDTH"))
    if depth not in SMALL_RESNET_DEPTHS or not isinstance(width, int) or width < 1:
        raise StartError(
            f"{where} has DEPTH {depth!r} and WIDTH {width!r}; wanted a depth of "
            f"{list(SMALL_RESNET_DEPTHS)} and a width >= 1.",
            key=where,
        )
    return {"depth": depth, "width": width}


def _misfit(trunk: Mapping[str, int], first: int) -> str | None:
    features = 8 * trunk["width"]
    if first == features:
        return None
    return f"dims starts with {first}, but the trunk gives {features} features"


def _are_counts(value: Any) -> bool:
    is_list = isinstance(value, list) and bool(value)
    return is_list and all(isinstance(n, int) and n > 0 for n in value)
