"""In which type tensors are stored, and in which they are computed with.

Half precision is for storage and for products with a network's weights. Exponentials,
logarithms and sums over many samples run in float32, or in float64 where a caller gave
that.
"""

import torch
from torch import Tensor

from vissl_swav.core.setting_checks import SettingError

STORED_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""What a queue or a bank may be asked for by name."""


def exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type to compute in: float64 stays, all else becomes float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def exact(tensor: Tensor) -> Tensor:
    """(...) -> (...) in `exact_dtype`; the tensor itself where it has it already."""
    return tensor.to(exact_dtype(tensor.dtype))


def check_floating(name: str, tensor: Tensor) -> None:
    """Whole and complex numbers would give a value, and no gradient.

    Raises:
        ValueError: `tensor` is neither float nor half.
    """
    if not tensor.is_floating_point():
        raise ValueError(f"{name} are {tensor.dtype}; wanted a floating-point tensor.")


def stored_dtype(name: str, word: str) -> torch.dtype:
    """The type that the setting `name` asks for by `word`.

    Raises:
        SettingError: names the words that there are.
    """
    if word not in STORED_DTYPES:
        raise SettingError(
            f"{name} is {word!r}; wanted one of {sorted(STORED_DTYPES)}.", name
        )
    return STORED_DTYPES[word]


def check_stored(dtype: torch.dtype) -> None:
    """Whole numbers would keep the sign of a unit feature at most.

    Raises:
        ValueError: no type that holds features.
    """
    if dtype not in (*STORED_DTYPES.values(), torch.float64):
        raise ValueError(
            f"dtype is {dtype}; wanted a floating-point type: torch.float32, float16, "
            "bfloat16 or float64."
        )
