"""Multi-crop (appendix A.2): a few large and several small views of one image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from vissl_swav.core.hashing import draw_key
from vissl_swav.transforms import photometric
from vissl_swav.transforms.crop_groups import make_groups
from vissl_swav.transforms.crop_parameters import CropParameters, draw_crops

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

OneOrPerGroup = float | Sequence[float]
RangeOrPerGroup = Sequence[float] | Sequence[Sequence[float]]


class MultiCrop:
    """Pillow image to a list of V normalised crops, all of the first group first.

    Steps of each crop: random resized crop, horizontal flip, colour jitter (the four
    steps in random order), grayscale, Gaussian blur, solarise, to tensor, normalise.
    The defaults are the paper's: 2 crops of 224 pixels and 6 of 96.

    Drawing (``draw``) and applying (``apply``) are separate, so that another path can
    apply the same draws and a test can apply chosen ones.

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
        solarize_threshold: OneOrPerGroup = 128,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
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
            solarize_threshold: first level to be inverted.
            mean: of each RGB channel, subtracted from values in [0, 1].
            std: of each RGB channel, divided by.
            total_num_crops: sum of ``num_crops``; only checked, None is any.

        Raises:
            ValueError: lists of unequal length or a value outside its range.
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
        self._mean = _per_channel("mean", mean)
        self._std = _per_channel("std", std)
        if not bool((self._std > 0).all()):
            raise ValueError(
                f"std is {list(std)}; wanted three numbers above 0 (ImageNet's are "
                f"{IMAGENET_STD})."
            )

    def __call__(
        self,
        image: Image.Image,
        generator: torch.Generator | None = None,
        *,
        key: int | None = None,
    ) -> list[torch.Tensor]:
        """Draw and make all crops: V tensors (3, size, size), float32.

        Args:
            image: of any Pillow mode; converted to RGB.
            generator: draws the key where none is given; None is torch's global one.
            key: stands for all chance: equal keys give equal crops.
        """
        rgb = _as_rgb(image)
        drawn = self.draw(rgb.size, generator, key=key)
        return [self.apply(rgb, crop) for crop in drawn]

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

    def apply(self, image: Image.Image, parameters: CropParameters) -> torch.Tensor:
        """Make one crop: (3, size, size), float32, normalised."""
        crop = photometric.cut_and_resize(
            _as_rgb(image), parameters.box, parameters.size
        )
        if parameters.flip:
            crop = photometric.flip_left_right(crop)
        for step, factor in parameters.jitter:
            crop = photometric.JITTER[step](crop, factor)
        if parameters.grayscale:
            crop = photometric.drop_colour(crop)
        if parameters.blur_radius is not None:
            crop = photometric.blur(crop, parameters.blur_radius)
        if parameters.solarize_threshold is not None:
            crop = photometric.solarize(crop, parameters.solarize_threshold)
        return photometric.to_tensor(crop).sub_(self._mean).div_(self._std)

    def __repr__(self) -> str:
        """The groups, one a line."""
        lines = "".join(f"\n    {group}," for group in self.groups)
        return f"{type(self).__name__}({lines}\n)"


def _as_rgb(image: Any) -> Image.Image:
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"MultiCrop got a {type(image).__name__}; wanted a PIL image. Put it "
            "before any transform that makes tensors or arrays."
        )
    return image if image.mode == "RGB" else image.convert("RGB")


def _per_channel(name: str, values: Sequence[float]) -> torch.Tensor:
    """Three numbers as a tensor (3, 1, 1) that broadcasts over an image."""
    numbers = [float(value) for value in values]
    if len(numbers) != 3 or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{name} is {values!r}; wanted three finite numbers, R, G, B.")
    return torch.tensor(numbers, dtype=torch.float32).view(3, 1, 1)
