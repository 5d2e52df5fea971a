"""Where a model or a search computes, from the word that the user gave."""

import torch

from vissl_swav.host.errors import StartError


def find_device(name: str) -> torch.device:
    """The device of "auto" (the GPU where there is one), "cpu", "cuda" or "cuda:N".

    Raises:
        StartError: another word, or a GPU that torch does not see.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if num_gpus else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise _unknown(name) from error
    if device.type not in ("cpu", "cuda"):
        raise _unknown(name)
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        sees = f"only {num_gpus} GPUs, numbered from 0" if num_gpus else "no GPU"
        raise StartError(f"the device is {name}, but torch sees {sees}; take cpu.")
    return device


def _unknown(name: object) -> StartError:
    return StartError(f"the device is {name!r}; wanted auto, cpu or cuda.")
