"""What multi-crop takes for an image: Pillow's, an array, one still to be decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from vissl_swav.core.image_scales import SHRINKS
from vissl_swav.transforms.crop_parameters import CropParameters

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601
# A cut of an image decoded at 1/2, 1/4 or 1/8 must still have this many times the
# crop's pixels along each side; the difference to full scale is then small enough.
REDUCING_GAP = 2.0

_MODES = {1: "L", 3: "RGB"}


class DecodableImage(Protocol):
    """An encoded image, decoded when its crops are known."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels at full scale."""
        ...

    def decode(self, *, channels: int, shrink: int) -> np.ndarray:
        """Levels (height, width, channels), uint8.

        Args:
            channels: 1 or 3.
            shrink: 1, 2, 4 or 8. Both sides may come out divided by it, rounded up;
                a format that cannot do so returns full scale.
        """
        ...


ImageInput = Image.Image | np.ndarray | DecodableImage


def size_of(image: Any) -> tuple[int, int]:
    """Width and height in pixels.

    Raises:
        TypeError: no image.
        ValueError: an array that is no image.
    """
    if isinstance(image, np.ndarray):
        height, width = _checked(image).shape[:2]
        return width, height
    if isinstance(image, Image.Image) or _is_decodable(image):
        return image.size
    raise TypeError(
        f"MultiCrop got a {type(image).__name__}; wanted a PIL image, a uint8 array "
        "(height, width, channels), or an object with `size` and `decode`. Put it "
        "before any transform that makes tensors."
    )


def as_pillow(image: Any, *, channels: int) -> Image.Image:
    """RGB or grey ("L") image at full scale; errors as `size_of`, `ValueError` else."""
    size = size_of(image)
    mode = _MODES[channels]
    if _is_decodable(image):
        image = image.decode(channels=channels, shrink=1)
        shrink_of(image, size)
    if isinstance(image, np.ndarray):
        image = Image.fromarray(_squeezed(image))
    return image if image.mode == mode else _with_eight_bits(image).convert(mode)


def as_array(image: Any, *, channels: int, shrink: int = 1) -> np.ndarray:
    """Levels (height, width, 3), or (height, width) for one channel; errors as above.

    Args:
        image: any.
        channels: 1 or 3.
        shrink: allowed for those that are still to be decoded.
    """
    if _is_decodable(image):
        image = image.decode(channels=channels, shrink=shrink)
    if isinstance(image, np.ndarray):
        levels = _squeezed(_checked(image))
        if levels.ndim == (2 if channels == 1 else 3) and levels.shape[2:] != (4,):
            # torch takes no negative strides.
            return levels if min(levels.strides) > 0 else np.ascontiguousarray(levels)
    return np.asarray(as_pillow(image, channels=channels))


def largest_shrink(drawn: Sequence[CropParameters]) -> int:
    """Scale of decoding that leaves every crop enough pixels: 1, 2, 4 or 8."""
    room = min(min(crop.box.height, crop.box.width) / crop.size for crop in drawn)
    return next(s for s in SHRINKS if s == 1 or room >= REDUCING_GAP * s)


def shrink_of(levels: np.ndarray, size: tuple[int, int]) -> int:
    """The scale 1 / shrink at which an image (width, height) was decoded.

    Raises:
        ValueError: neither full scale nor a half, a quarter or an eighth, rounded up.
    """
    width, height = size
    for shrink in reversed(SHRINKS):
        if levels.shape[:2] == (-(-height // shrink), -(-width // shrink)):
            return shrink
    raise ValueError(
        f"decode gave {levels.shape[1]} x {levels.shape[0]} pixels of an image of "
        f"{width} x {height}; wanted that, or it divided by 2, 4 or 8 and rounded up. "
        "`size` and `decode` must agree, on the orientation too."
    )


def _is_decodable(image: Any) -> bool:
    # By its names: isinstance on a protocol takes longer than a small crop.
    return callable(getattr(image, "decode", None)) and hasattr(image, "size")


def _checked(array: np.ndarray) -> np.ndarray:
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if array.dtype != np.uint8 or not is_image or not array.size:
        raise ValueError(
            f"MultiCrop got an array of {array.dtype} and shape {array.shape}; wanted "
            "uint8 of (height, width) or (height, width, channels), channels 1, 3 or "
            "4. Bring its levels to 0 to 255 and the channels to the end."
        )
    return array


def _squeezed(array: np.ndarray) -> np.ndarray:
    return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array


def _with_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"MultiCrop got a PIL image of mode {image.mode!r}, whose levels have no "
            "fixed white: Pillow would clip them at 255. Scale them to 8 bits first, "
            "or give the file as a `vissl_swav.data.decoding.EncodedImage`."
        )
    # Straight to RGB Pillow warns of transparency that is lost.
    has_palette = image.mode in ("P", "PA") and "transparency" in image.info
    return image.convert("RGBA") if has_palette else image
