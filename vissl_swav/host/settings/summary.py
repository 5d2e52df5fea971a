"""What a report says of a run's `train_config.yaml`."""

from collections.abc import Callable, Mapping
from typing import Any

from vissl_swav.host.settings.loss import (
    has_prototypes,
    is_ours,
    loss_settings,
    world_size,
)
from vissl_swav.host.settings.plan import plan_facts
from vissl_swav.host.settings.sums import WEIGHTED_SUM, is_sum

Row = tuple[str, str]
_MISSING = (KeyError, AttributeError, TypeError, IndexError, ValueError)
_SMALL = "resnet_small"
_HOST_PROBE = (
    "benchmark/linear_image_classification/imagenet1k/"
    "eval_resnet_8gpu_transfer_in1k_linear"
)


class Tree(dict[str, Any]):
    """A config read back from YAML: keys as attributes too, as the host's own."""

    def __init__(self, tree: Mapping[str, Any]):
        super().__init__({key: _node(value) for key, value in tree.items()})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


def _node(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Tree(value)
    if isinstance(value, list):
        return [_node(entry) for entry in value]
    return value


def summary(cfg: Any) -> list[Row]:
    """(name, text) of what a run is; a row whose keys are not there is left out.

    Args:
        cfg: a `Tree`.
    """
    found: list[Row] = []
    for name, text in _ROWS:
        try:
            found.append((name, text(cfg)))
        except _MISSING:
            continue
    return found


def probe_overrides(cfg: Any) -> list[str]:
    """What `vissl-swav train` wants for a linear probe of the run's trunk.

    Words in capitals are the user's to fill in. Empty where the trunk is not named.

    Args:
        cfg: a `Tree`.
    """
    try:
        trunk = cfg.MODEL.TRUNK
        if trunk.NAME != _SMALL:
            return [f"config={_HOST_PROBE}"]
        shape = trunk.RESNET_SMALL
        width, depth = int(shape.WIDTH), int(shape.DEPTH)
    except _MISSING:
        return []
    dims = f"{{in_channels:{8 * width},dims:[{8 * width},CLASSES]}}"
    return [
        "config=benchmark/linear/small_images",
        f"config.MODEL.TRUNK.RESNET_SMALL.DEPTH={depth}",
        f"config.MODEL.TRUNK.RESNET_SMALL.WIDTH={width}",
        f"config.MODEL.HEAD.PARAMS=[[eval_mlp,{dims}]]",
    ]


def lacks_prototypes(cfg: Any) -> bool:
    """Whether the run's loss is ours and has none.

    Args:
        cfg: a `Tree`.
    """
    try:
        return is_ours(cfg) and not has_prototypes(cfg)
    except _MISSING:
        return False


def _method(cfg: Any) -> str:
    if not is_sum(cfg):
        return str(cfg.LOSS["name"])
    terms = cfg.LOSS[WEIGHTED_SUM]["terms"]
    return " + ".join(f"{term['weight']:g} {term['name']}" for term in terms)


def _trunk(cfg: Any) -> str:
    trunk = cfg.MODEL.TRUNK
    if trunk.NAME == _SMALL:
        shape = trunk.RESNET_SMALL
        return f"{_SMALL}, depth {shape.DEPTH}, width {shape.WIDTH}"
    if trunk.NAME == "resnet":
        return f"resnet-{trunk.RESNETS.DEPTH}"
    return str(trunk.NAME)


def _head(cfg: Any) -> str:
    loss = loss_settings(cfg)
    if not has_prototypes(cfg):
        return f"embedding of dimension {loss['embedding_dim']}, no prototypes"
    heads = " + ".join(map(str, loss["num_prototypes"]))
    return f"{heads} prototypes of dimension {loss['embedding_dim']}"


def _crops(cfg: Any) -> str:
    for transform in cfg.DATA.TRAIN.TRANSFORMS:
        if "size_crops" in transform:
            pairs = zip(transform["num_crops"], transform["size_crops"], strict=True)
            return " + ".join(f"{count}x{size}" for count, size in pairs)
    return f"{loss_settings(cfg)['num_crops']} an image"


def _batch(cfg: Any) -> str:
    batch, world = cfg.DATA.TRAIN.BATCHSIZE_PER_REPLICA, world_size(cfg)
    return f"{batch} images x {world} process{'es' * (world > 1)} = {batch * world}"


def _optimizer(cfg: Any) -> str:
    optimizer, facts = cfg.OPTIMIZER, plan_facts(cfg)
    rate = facts.learning_rate
    shown = "" if rate is None else f", learning rate {rate:g} at most"
    name = f"{optimizer.name}{' with LARC' if facts.uses_larc else ''}"
    return f"{name}{shown}, weight decay {optimizer.weight_decay:g}"


def _codes(cfg: Any) -> str:
    loss = loss_settings(cfg)
    text = f"temperature {loss['temperature']:g}"
    if "epsilon" in loss:
        text += f", epsilon {loss['epsilon']:g}"
    if loss.get("queue_length"):
        text += f", queue of {loss['queue_length']} rows"
    if "momentum_end" in loss:
        text += f", momentum {loss['momentum']:g} to {loss['momentum_end']:g}"
    return text


def _precision(cfg: Any) -> str:
    amp = cfg.MODEL.AMP_PARAMS
    return str(amp.get("AMP_DTYPE", "float16")) if amp.USE_AMP else "float32"


_ROWS: list[tuple[str, Callable[[Any], str]]] = [
    ("method", _method),
    ("trunk", _trunk),
    ("head", _head),
    ("crops", _crops),
    ("batch", _batch),
    ("optimizer", _optimizer),
    ("loss", _codes),
    ("epochs", lambda cfg: str(cfg.OPTIMIZER.num_epochs)),
    ("precision", _precision),
    ("device", lambda cfg: str(cfg.MACHINE.DEVICE)),
    ("training data", lambda cfg: ", ".join(map(str, cfg.DATA.TRAIN.DATA_PATHS))),
    ("seed", lambda cfg: str(cfg.SEED_VALUE)),
]
