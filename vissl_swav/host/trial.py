"""Makes the parts of a run once, small and at once, to see whether they can be made.

The host makes them in the started processes, where a wrong argument is a traceback
after the loading of data and weights. Nothing of what is made here is kept.
"""

import copy
import logging
import re
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import nn

from vissl_swav.host.errors import StartError
from vissl_swav.host.settings.to_make import ToMake

_BATCH = 2
_UNKNOWN_SIZE = 64
# torch's words where a layer gets rows of another length than it takes.
_MISFIT = re.compile(r"mat1 and mat2 .*\(\d+x(\d+) and (\d+)x\d+\)")


def check(parts: ToMake) -> int | None:
    """Schedulers, optimizer, meters, a batch of crops, and the model's answer to one.

    Args:
        parts: of an inferred config.

    Returns:
        Parameters of the model; None where it cannot be made without its processes.

    Raises:
        StartError: one cannot be made; names its section and the reason.
    """
    optimizer = copy.deepcopy(parts.optimizer)
    _tried("OPTIMIZER", "an optimizer", lambda: _optimizer(optimizer))
    _tried("METERS", "meters", lambda: _meters(copy.deepcopy(parts.meters)))
    batch = _tried("DATA.TRAIN.TRANSFORMS", "a batch of crops", lambda: _batch(parts))
    for name in parts.inputs:
        if name not in batch:
            key = "config.DATA.TRAIN.INPUT_KEY_NAMES"
            raise StartError(
                f"{key} and TARGET_KEY_NAMES name {name!r}, which no batch holds; "
                f"a batch holds {', '.join(sorted(batch))}.",
                key=key,
            )
    if parts.model is None:
        return None
    return _tried("MODEL", "a model that takes these crops", lambda: _model(parts))


def _tried(section: str, what: str, make: Callable[[], Any]) -> Any:
    key = f"config.{section}"
    try:
        return make()
    except StartError:
        raise
    except Exception as error:  # Whatever constructors of VISSL and torch raise.
        text = (str(error).strip().splitlines() or ["no further word"])[0][:300]
        if misfit := _MISFIT.search(text):
            text = (
                f"a layer that takes {misfit[2]} numbers gets {misfit[1]}; where it is "
                f"the head's first, let its dims start with {misfit[1]}"
            )
        raise StartError(
            f"{key}: VISSL cannot make {what} of it ({type(error).__name__}: {text}). "
            "Compare the section with the one of a config that works; vissl-swav plan "
            "tries it without starting a run.",
            key=key,
        ) from error


def _optimizer(config: Any) -> None:
    """Rates at the start, the middle and the end; the optimizer with one parameter.

    Of a copy: classy's constructors write into their config.
    """
    from classy_vision.optim import build_optimizer, build_optimizer_schedulers

    schedulers = build_optimizer_schedulers(config)
    for name, scheduler in schedulers.items():
        for where in (0.0, 0.5, 1.0 - 1e-6):
            rate = scheduler(where)
            if not rate >= 0:
                raise ValueError(f"{name} is {rate} after {where:.0%} of the run")
    optimizer = build_optimizer(config)
    parameter = nn.Parameter(torch.zeros(2, 2))
    group = {
        "params": [parameter],
        "lr": schedulers["lr"],
        "weight_decay": config.weight_decay,
    }
    optimizer.set_param_groups([group])


def _meters(config: Any) -> None:
    from classy_vision.meters import build_meter

    for name in config.get("names", []):
        build_meter({"name": name, **config[name]})


def _batch(parts: ToMake) -> dict[str, Any]:
    from vissl.data.collators import get_collator
    from vissl.data.ssl_transforms import get_transform

    transform, collate = get_transform(parts.transforms), get_collator(*parts.collator)
    side = max(parts.crop_sizes, default=_UNKNOWN_SIZE)
    image = Image.new("RGB", (side, side), (120, 90, 60))
    samples = [
        transform({"data": [image], "label": [0], "data_valid": [1], "data_idx": [n]})
        for n in range(_BATCH)
    ]
    return collate(samples)


def _model(parts: ToMake) -> int:
    """Without memory; where that fails, as some trunks do, for real."""
    level = logging.root.manager.disable
    logging.disable(logging.INFO)  # The host tells the model's name and more.
    try:
        return _answer(parts, "meta")
    except Exception:  # The second attempt says what is wrong.
        return _answer(parts, "cpu")
    finally:
        logging.disable(level)


@torch.no_grad()
def _answer(parts: ToMake, device: str) -> int:
    """Parameters of a model that takes the crops."""
    from vissl.models import build_model

    assert parts.model is not None
    with torch.device(device):
        model = build_model(*parts.model)
        crops = [torch.zeros(_BATCH, parts.channels, s, s) for s in parts.crop_sizes]
    # Outside: the host counts crops of a size by tensors of its own, with values.
    if crops and model(crops) is None:
        raise ValueError("the heads do not fit the trunk's outputs, one to one")
    return sum(parameter.numel() for parameter in model.parameters())
