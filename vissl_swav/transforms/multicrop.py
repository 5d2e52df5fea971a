"""Multi-crop (appendix A.2): a few large and several small views of one image."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch

from vissl_swav.core.hashing import draw_key
from vissl_swav.transforms.crop_groups import make_groups
from vissl_swav.transforms.crop_parameters import CropParameters, draw_crops
from vissl_swav.transforms.image_input import ImageInput, size_of
from vissl_swav.transforms.normalization import Normalization

# The modules of pixel steps, and what a crop comes out as.
BACKENDS = {
    "opencv": "vissl_swav.transforms.fast_pixels",
    "pillow": "vissl_swav.transforms.photometric",
}
OUTPUTS = ("float", "uint8")

OneOrPerGroup = float | Sequence[float]
RangeOrPerGroup = Sequence[float] | Sequence[Sequence[float]]


class MultiCrop:
    """Image to a list of V normalised crops, all of the first group first.

    Steps of each crop: random resized crop, horizontal flip, colour jitter (the four
    steps in random order), grayscale, Gaussian blur, solarise, to tensor, normalise.
    The defaults are the paper's: 2 crops of 224 pixels and 6 of 96.

    Drawing (``draw``) and applying (``apply``) are separate, so that another path can
    apply the same draws and a test can apply chosen ones.

    The pixels are made by OpenCV or, several times slower and the reference for it, by
    Pillow; the draws are the same. An image is a PIL image, a uint8 array (height,
    width, channels), or a ``DecodableImage``, decoded once for all crops and by OpenCV
    at the reduced scale that its crops allow.

    Every setting after ``crop_scales`` is one value for all groups or a list with one
    value a group; ``CropGroup`` states meaning and range of each.
    """

    def __init__(
        self,
        *,
        size_crops: Sequence[int] = (224, 96),
        num_crops: Sequence[int] = (2, 6),
        crop_scales: Sequence[Sequence[float]] = ((0.14, 1.0), (0.05, 0.14)),
        crop_ratios: RangeOrPerGroup = (3 / 4, 4 / 3),
        flip_probability: OneOrPerGroup = 0.5,
        jitter: RangeOrPerGroup = (0.8, 0.8, 0.8, 0.2),
        jitter_probability: OneOrPerGroup = 0.8,
        grayscale_probability: OneOrPerGroup = 0.2,
        blur_probability: OneOrPerGroup = 0.5,
        blur_radius: RangeOrPerGroup = (0.1, 2.0),
        solarize_probability: OneOrPerGroup = 0.0,
        solarize_threshold: float | RangeOrPerGroup = 128,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        channels: int = 3,
        backend: str = "opencv",
        output: str = "float",
        total_num_crops: int | None = None,
    ) -> None:
        """Check the settings and keep them.

        Args:
            size_crops: side in pixels of each group's crops.
            num_crops: crops per image of each group.
            crop_scales: range of the cut's share of the image area, each group.
            crop_ratios: range of width over height of the cut.
            flip_probability: chance of a horizontal flip.
            jitter: strengths of brightness, contrast, saturation, hue.
            jitter_probability: chance of the four jitter steps.
            grayscale_probability: chance of losing colour.
            blur_probability: chance of a Gaussian blur.
            blur_radius: range of its standard deviation, in pixels of the crop.
            solarize_probability: chance of solarising.
            solarize_threshold: first level to be inverted, or the range of it.
            mean: of each channel, subtracted from values in [0, 1]; None is
                ImageNet's, 0.449 for one channel.
            std: of each channel, divided by; None is ImageNet's, 0.226 for one channel.
            channels: 3 for RGB, 1 for grey: then saturation, hue and grayscale change
                nothing. Images of another kind are converted.
            backend: ``opencv``, or ``pillow`` for the reference.
            output: ``float`` for normalised float32; ``uint8`` for levels, left to
                ``normalize`` on the device.
            total_num_crops: sum of ``num_crops``; only checked, None is any.

        Raises:
            ValueError: lists of unequal length or a value outside its range.
            ImportError: OpenCV is wanted and missing.
        """
        self.groups = make_groups(
            size_crops=size_crops,
            num_crops=num_crops,
            crop_scales=crop_scales,
            crop_ratios=crop_ratios,
            flip_probability=flip_probability,
            jitter=jitter,
            jitter_probability=jitter_probability,
            grayscale_probability=grayscale_probability,
            blur_probability=blur_probability,
            blur_radius=blur_radius,
            solarize_probability=solarize_probability,
            solarize_threshold=solarize_threshold,
        )
        self.total_num_crops = sum(group.count for group in self.groups)
        if total_num_crops is not None and total_num_crops != self.total_num_crops:
            raise ValueError(
                f"total_num_crops is {total_num_crops!r} but num_crops "
                f"{list(num_crops)} add up to {self.total_num_crops}. Correct one of "
                "them, or leave total_num_crops out."
            )
        self.normalization = Normalization(channels=channels, mean=mean, std=std)
        self.channels = channels
        self.backend = _one_of("backend", backend, tuple(BACKENDS))
        self.output = _one_of("output", output, OUTPUTS)
        self._pixels()

    def __call__(
        self,
        image: ImageInput,
        generator: torch.Generator | None = None,
        *,
        key: int | None = None,
    ) -> list[torch.Tensor]:
        """Draw and make all crops: V tensors (channels, size, size).

        Args:
            image: of any Pillow mode of 8 bits or less a channel, an array, or one to
                be decoded.
            generator: draws the key where none is given; None is torch's global one.
            key: stands for all chance: equal keys give equal crops.
        """
        drawn = self.draw(size_of(image), generator, key=key)
        return self._make(image, drawn)

    def draw(
        self,
        image_size: tuple[int, int],
        generator: torch.Generator | None = None,
        *,
        key: int | None = None,
    ) -> list[CropParameters]:
        """Draw the parameters of all crops of one image.

        Args:
            image_size: width and height in pixels, as ``Image.size``.
            generator: draws the key where none is given; None is torch's global one.
            key: stands for all chance: equal keys give equal draws.
        """
        key = draw_key(generator) if key is None else key
        return draw_crops(self.groups, image_size=image_size, key=key)

    def apply(self, image: ImageInput, parameters: CropParameters) -> torch.Tensor:
        """Make one crop, as the whole call would: (channels, size, size)."""
        return self._make(image, [parameters])[0]

    def normalize(self, levels: torch.Tensor) -> torch.Tensor:
        """What ``output="uint8"`` left: uint8 (B, C, S, S) to contiguous float32.

        On the levels' device, and to the bit what ``output="float"`` gives on the CPU.
        """
        return self.normalization(levels)

    def _make(
        self, image: ImageInput, drawn: Sequence[CropParameters]
    ) -> list[torch.Tensor]:
        pixels = self._pixels()
        opened = pixels.open_image(image, channels=self.channels, drawn=drawn)
        made = (_take_steps(pixels, opened, parameters) for parameters in drawn)
        planes = [pixels.to_planes(crop, self.channels) for crop in made]
        if self.output == "uint8":
            return planes
        return [self.normalization(plane) for plane in planes]

    def _pixels(self) -> ModuleType:
        # Looked up by name: a module as an attribute could not be pickled.
        try:
            return importlib.import_module(BACKENDS[self.backend])
        except ImportError as error:
            raise ImportError(
                f'backend="opencv" cannot import OpenCV ({error}). Install '
                'opencv-python-headless, or give backend="pillow", which is slower.'
            ) from error

    def __repr__(self) -> str:
        """The groups, one a line."""
        lines = "".join(f"\n    {group}," for group in self.groups)
        return f"{type(self).__name__}({lines}\n)"


def _take_steps(pixels: ModuleType, opened: Any, parameters: CropParameters) -> Any:
    """The steps of one crop in the paper's order, by either module of them."""
    crop = pixels.cut_and_resize(opened, parameters.box, parameters.size)
    if parameters.flip:
        crop = pixels.flip_left_right(crop)
    for step, factor in parameters.jitter:
        crop = pixels.JITTER[step](crop, factor)
    if parameters.grayscale:
        crop = pixels.drop_colour(crop)
    if parameters.blur_radius is not None:
        crop = pixels.blur(crop, parameters.blur_radius)
    if parameters.solarize_threshold is not None:
        crop = pixels.solarize(crop, parameters.solarize_threshold)
    return crop


def _one_of(name: str, value: Any, valid: Sequence[str]) -> str:
    if value not in valid:
        words = " or ".join(repr(word) for word in valid)
        raise ValueError(f"{name} is {value!r}; wanted {words}.")
    return value
