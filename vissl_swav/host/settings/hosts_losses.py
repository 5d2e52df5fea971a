"""VISSL's own SwAV-family pretraining configs in our keys: the flag `--ours`.

The host's loss section becomes ours, and its list of multi-crop transforms our
`MultiCrop` where ours does all of it. Everything else of the config stays as it is.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vissl_swav.host.errors import StartError
from vissl_swav.host.settings.data import COLLATOR_NAME
from vissl_swav.host.settings.losses import DEEPCLUSTER_V2, SWAV, SWAV_MOMENTUM
from vissl_swav.host.settings.parts import TRANSFORM_NAME

FLAG = "--ours"
_HOSTS = {
    "swav_loss": SWAV,
    "swav_momentum_loss": SWAV_MOMENTUM,
    "deepclusterv2_loss": DEEPCLUSTER_V2,
}
_COLLATOR = "multicrop_collator"
_PROTOTYPES = "prototypes"


class Translation(NamedTuple):
    """What `--ours` adds to the command line, and what it says of it.

    Attributes:
        overrides: for the host's command line, behind the user's.
        said: sentences without full stops.
    """

    overrides: list[str]
    said: list[str]


def translate(cfg: Mapping[str, Any]) -> Translation:
    """Overrides that put our loss in the place of the host's.

    Args:
        cfg: the composed config of a pretraining of the host's.

    Raises:
        StartError: its loss is not one that we have, or has a setting that ours lacks.
    """
    name = cfg["LOSS"]["name"]
    if name not in _HOSTS:
        raise StartError(
            f"{FLAG} puts our loss in the place of {' or '.join(_HOSTS)}; the config's "
            f"loss is {name}. Leave {FLAG} out, or name a SwAV or DeepCluster-v2 "
            "pretraining of VISSL's."
        )
    ours = _HOSTS[name]
    found = Translation([f"config.LOSS.name={ours}"], [f"loss {name} -> {ours}"])
    section = cfg["LOSS"][name]
    if ours == DEEPCLUSTER_V2:
        _deepcluster_v2(cfg, section, found)
    else:
        _swav(cfg, section, ours, found)
    if ours == SWAV_MOMENTUM:
        _momentum(section, found)
    _transforms(cfg["DATA"]["TRAIN"], found)
    return found


def _swav(cfg: Any, section: Any, ours: str, found: Translation) -> None:
    name = cfg["LOSS"]["name"]
    if not section["normalize_last_layer"]:
        raise StartError(
            f"config.LOSS.{name}.normalize_last_layer is false; our prototypes "
            "always have unit rows, as the paper's. Leave the key out."
        )
    queue = section["queue"]
    for theirs, mine in (
        ("temperature", "temperature"),
        ("epsilon", "epsilon"),
        ("num_iters", "num_iterations"),
        ("crops_for_assign", "crops_for_assign"),
        ("temp_hard_assignment_iters", "hard_codes_steps"),
    ):
        if theirs in section:
            _take(found, f"{name}.{theirs}", ours, mine, section[theirs])
    if queue["queue_length"]:
        length, start = queue["queue_length"], queue["start_iter"]
        _take(found, f"{name}.queue.queue_length", ours, "queue_length", length)
        _take(found, f"{name}.queue.start_iter", ours, "queue_start_step", start)
    if section["use_double_precision"]:
        found.said.append(
            f"{name}.use_double_precision: not needed, our Sinkhorn is in the log "
            "domain"
        )
    _freeze(cfg["MODEL"], ours, found)


def _momentum(section: Any, found: Translation) -> None:
    """The host's momentum is constant, and its encoder may be in eval mode."""
    name, momentum = "swav_momentum_loss", section["momentum"]
    for mine in ("momentum", "momentum_end"):
        _take(found, f"{name}.momentum", SWAV_MOMENTUM, mine, momentum)
    found.said.append(
        f"{name}.momentum_eval_mode_iter_start: not taken, the batch norm of our "
        "momentum encoder works on the batch in every step, as the model's"
    )


def _freeze(model: Any, ours: str, found: Translation) -> None:
    """The host's map of frozen prototypes as our key; other entries stay."""
    entries = model.get("TEMP_FROZEN_PARAMS_ITER_MAP") or []
    steps = [int(count) for key, count in entries if _PROTOTYPES in key]
    if not steps:
        return
    rest = [[key, count] for key, count in entries if _PROTOTYPES not in key]
    found.overrides.append(f"config.MODEL.TEMP_FROZEN_PARAMS_ITER_MAP={_text(rest)}")
    key = "MODEL.TEMP_FROZEN_PARAMS_ITER_MAP"
    _take(found, key, ours, "freeze_prototypes_steps", max(steps))


def _deepcluster_v2(cfg: Any, section: Any, found: Translation) -> None:
    bank = section["memory_params"]["crops_for_mb"]
    for theirs, mine, value in (
        ("temperature", "temperature", section["temperature"]),
        ("kmeans_iters", "num_iterations", section["kmeans_iters"]),
        ("memory_params.crops_for_mb", "crops_for_assign", bank),
    ):
        _take(found, f"deepclusterv2_loss.{theirs}", DEEPCLUSTER_V2, mine, value)
    heads = cfg["MODEL"]["HEAD"]["PARAMS"]
    if any(name != "mlp" for name, _ in heads):
        raise StartError(
            f"{FLAG}: config.MODEL.HEAD.PARAMS has {[name for name, _ in heads]}; "
            "wanted the mlp heads of VISSL's DeepCluster-v2."
        )
    dims = [int(width) for width in heads[0][1]["dims"]]
    for _, settings in heads[1:]:
        dims += [int(width) for width in settings["dims"][1:]]
    batch_norm = any(bool(settings.get("use_bn")) for _, settings in heads)
    clusters = [int(count) for count in section["num_clusters"]]
    head = {"dims": dims, "use_bn": batch_norm, "num_clusters": clusters}
    found.overrides.append(f"config.MODEL.HEAD.PARAMS=[[swav_head,{_text(head)}]]")
    found.said.append(
        f"MODEL.HEAD.PARAMS: {len(heads)} mlp -> one swav_head {dims} with the "
        f"centroids {clusters} of deepclusterv2_loss.num_clusters"
        + ("" if batch_norm else "; without batch norm, which the authors' head has")
    )


def _take(found: Translation, theirs: str, loss: str, mine: str, value: Any) -> None:
    found.overrides.append(f"++config.LOSS.{loss}.{mine}={_text(value)}")
    place = theirs if theirs.startswith("MODEL") else f"LOSS.{theirs}"
    found.said.append(f"{place} -> LOSS.{loss}.{mine} = {_text(value)}")


def _transforms(train: Any, found: Translation) -> None:
    """The host's list as one `MultiCrop`, and the collator that goes with it."""
    entries = list(train["TRANSFORMS"])
    made = _multi_crop(entries)
    if made is None or train["COLLATE_FUNCTION"] != _COLLATOR:
        names = [str(entry["name"]) for entry in entries]
        found.said.append(
            f"DATA.TRAIN.TRANSFORMS and COLLATE_FUNCTION stay the host's ({names}, "
            f"{train['COLLATE_FUNCTION']}): our {TRANSFORM_NAME} does not do all of it"
        )
        return
    found.overrides.append(f"config.DATA.TRAIN.TRANSFORMS=[{_text(made)}]")
    found.overrides.append(f"config.DATA.TRAIN.COLLATE_FUNCTION={COLLATOR_NAME}")
    found.said.append(
        f"DATA.TRAIN.TRANSFORMS: {len(entries)} transforms -> one {TRANSFORM_NAME}"
    )


def _multi_crop(entries: Sequence[Any]) -> dict[str, Any] | None:
    """`MultiCrop`'s settings for the host's list of SwAV; None for any other list."""
    by_name = {str(entry["name"]): entry for entry in entries}
    order = [
        "ImgPilToMultiCrop",
        "RandomHorizontalFlip",
        "ImgPilColorDistortion",
        "ImgPilGaussianBlur",
        "ToTensor",
        "Normalize",
    ]
    if [str(entry["name"]) for entry in entries] != order:
        return None
    crops, flip = by_name["ImgPilToMultiCrop"], by_name["RandomHorizontalFlip"]
    colour, blur = by_name["ImgPilColorDistortion"], by_name["ImgPilGaussianBlur"]
    usual = (
        float(flip.get("p", 0.5)) == 0.5,
        float(colour.get("strength", 1.0)) == 1.0,
        float(blur["p"]) == 0.5,
        (float(blur["radius_min"]), float(blur["radius_max"])) == (0.1, 2.0),
    )
    if not all(usual):
        return None
    normalize = by_name["Normalize"]
    return {
        "name": TRANSFORM_NAME,
        "size_crops": [int(side) for side in crops["size_crops"]],
        "num_crops": [int(count) for count in crops["num_crops"]],
        "crop_scales": [[float(a), float(b)] for a, b in crops["crop_scales"]],
        "mean": [float(value) for value in normalize["mean"]],
        "std": [float(value) for value in normalize["std"]],
    }


def _text(value: Any) -> str:
    """In hydra's grammar: lists and mappings without quotes around plain keys."""
    if isinstance(value, Mapping):
        inner = ",".join(f"{key}:{_text(entry)}" for key, entry in value.items())
        return f"{{{inner}}}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_text, value))}]"
    return value if isinstance(value, str) else json.dumps(value)
