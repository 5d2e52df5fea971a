"""Models of the host's without memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode


class _NumbersOnCpu(TorchFunctionMode):
    """`torch.linspace(...).item()` in a constructor, which no meta tensor has."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


@contextmanager
def meta_device() -> Iterator[None]:
    """What is built inside has shapes and no values; ViTs too."""
    with torch.device("meta"), _NumbersOnCpu():
        yield
