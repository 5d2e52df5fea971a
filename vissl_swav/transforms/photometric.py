"""The pixel steps of multi-crop on Pillow images: the reference for faster paths.

All take and return an RGB or grey ("L") image of 8 bits a channel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from vissl_swav.transforms.crop_parameters import Box, CropParameters
from vissl_swav.transforms.image_input import as_pillow

NUM_LEVELS = 256


def open_image(
    image: Any, *, channels: int, drawn: Sequence[CropParameters]
) -> Image.Image:
    """Decode at full scale, whatever the crops: this is the reference."""
    del drawn
    return as_pillow(image, channels=channels)


def cut_and_resize(image: Image.Image, box: Box, size: int) -> Image.Image:
    """Cut ``box`` out and resize it to a square, bilinear with anti-aliasing.

    Two steps, so that no pixel from outside the box leaks into the crop's border.
    """
    right, bottom = box.left + box.width, box.top + box.height
    cut = image.crop((box.left, box.top, right, bottom))
    return cut.resize((size, size), Image.Resampling.BILINEAR)


def flip_left_right(image: Image.Image) -> Image.Image:
    """Mirror the image left to right."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def adjust_brightness(image: Image.Image, factor: float) -> Image.Image:
    """Scale all levels: 0 gives black, 1 the image."""
    return ImageEnhance.Brightness(image).enhance(factor)


def adjust_contrast(image: Image.Image, factor: float) -> Image.Image:
    """Scale the distance from the mean grey: 0 gives flat grey, 1 the image."""
    return ImageEnhance.Contrast(image).enhance(factor)


def adjust_saturation(image: Image.Image, factor: float) -> Image.Image:
    """Scale the distance from the grey image: 0 gives grey, 1 the image."""
    if image.mode == "L":
        return image
    return ImageEnhance.Color(image).enhance(factor)


def shift_hue(image: Image.Image, turns: float) -> Image.Image:
    """Turn the colour circle by ``turns`` in [-0.5, 0.5]; 0 gives the image."""
    if image.mode == "L":
        return image
    # Towards zero and times 255, not 256, as torchvision does.
    shift = int(turns * (NUM_LEVELS - 1))
    hue, saturation, value = image.convert("HSV").split()
    turned = hue.point([(level + shift) % NUM_LEVELS for level in range(NUM_LEVELS)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def drop_colour(image: Image.Image) -> Image.Image:
    """Luma (ITU-R 601) in all three channels."""
    if image.mode == "L":
        return image
    luma = image.convert("L")
    return Image.merge("RGB", (luma, luma, luma))


def blur(image: Image.Image, radius: float) -> Image.Image:
    """Gaussian blur with standard deviation ``radius`` in pixels (Pillow's boxes)."""
    return image.filter(ImageFilter.GaussianBlur(radius))


def solarize(image: Image.Image, threshold: float) -> Image.Image:
    """Invert all levels from ``threshold`` on."""
    # Pillow wants a whole number here; a level is >= t exactly when it is >= ceil(t).
    return ImageOps.solarize(image, -int(-threshold // 1))


def to_planes(image: Image.Image, channels: int) -> torch.Tensor:
    """uint8 tensor (channels, height, width), one plane after the other."""
    width, height = image.size
    levels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return levels.view(height, width, channels).permute(2, 0, 1).contiguous()


JITTER: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": shift_hue,
}
