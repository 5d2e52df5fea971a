"""The multi-crop pipelines that `multicrop.py` compares: JPEG bytes to V crops each.

A program takes the bytes of an image and a number that no other call has, from which
ours draws; the others draw from the global generators.
"""

import importlib
import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vissl_swav.data.decoding import EncodedImage
from vissl_swav.transforms import MultiCrop

Program = Callable[[bytes, int], list[Tensor]]
# uint8 batch to float batch.
Normalize = Callable[[Tensor], Tensor]
LARGE, SMALL = (0.14, 1.0), (0.05, 0.14)


@dataclass(frozen=True)
class Recipe:
    """Crops of each size, the larger first; `2x224+6x96` in words."""

    num_crops: tuple[int, ...]
    size_crops: tuple[int, ...]

    @classmethod
    def parse(cls, words: str) -> "Recipe":
        """From such words."""
        pairs = [tuple(map(int, group.split("x"))) for group in words.split("+")]
        counts, sizes = zip(*pairs, strict=True)
        return cls(counts, sizes)

    @property
    def crop_scales(self) -> tuple[tuple[float, float], ...]:
        """Each group's range of areas."""
        return (LARGE, SMALL)[: len(self.size_crops)]

    @property
    def settings(self) -> dict[str, list]:
        """As VISSL and we name them."""
        return {
            "num_crops": list(self.num_crops),
            "size_crops": list(self.size_crops),
            "crop_scales": [list(scale) for scale in self.crop_scales],
        }


def pillow_decode(data: bytes) -> Image.Image:
    """As VISSL's `disk_filelist` reads an image."""
    with io.BytesIO(data) as file:
        return Image.open(file).convert("RGB")


def opencv_decode(data: bytes) -> np.ndarray:
    flag = cv2.IMREAD_COLOR_RGB
    return cv2.imdecode(np.frombuffer(data, np.uint8), flag)


def ours(recipe: Recipe, **settings: str) -> Program:
    transform = MultiCrop(**recipe.settings, **settings)
    return lambda data, number: transform(EncodedImage(data, "image"), key=number)


def vissl_steps(recipe: Recipe) -> dict[str, list[dict]]:
    """Stage -> entries of `DATA.TRAIN.TRANSFORMS`, as in VISSL's SwAV configs."""
    total = sum(recipe.num_crops)
    return {
        "crop": [
            {"name": "ImgPilToMultiCrop", "total_num_crops": total, **recipe.settings},
            {"name": "RandomHorizontalFlip", "p": 0.5},
        ],
        "colour": [{"name": "ImgPilColorDistortion", "strength": 1.0}],
        "blur": [
            {
                "name": "ImgPilGaussianBlur",
                "p": 0.5,
                "radius_min": 0.1,
                "radius_max": 2.0,
            }
        ],
        "pack": [
            {"name": "ToTensor"},
            {
                "name": "Normalize",
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
            },
        ],
    }


def vissl_stages(recipe: Recipe) -> dict[str, Callable[[dict], dict]]:
    """Stage -> what VISSL makes of those entries; they work on samples, in place."""
    from vissl_swav.host import registration

    registration.arm()
    from vissl.data.ssl_transforms import get_transform

    steps = vissl_steps(recipe)
    return {stage: get_transform(entries) for stage, entries in steps.items()}


def vissl_sample(data: bytes) -> dict:
    """What VISSL's dataset hands its transforms."""
    image = pillow_decode(data)
    return {"data": [image], "label": [0], "data_valid": [1], "data_idx": [0]}


def vissl(recipe: Recipe) -> Program:
    stages = vissl_stages(recipe)

    def run(data: bytes, number: int) -> list[Tensor]:
        sample = vissl_sample(data)
        for stage in stages.values():
            sample = stage(sample)
        return sample["data"]

    return run


def lightly(recipe: Recipe) -> Program | None:
    """The `SwaVTransform` of lightly, or None where it is not installed."""
    if importlib.util.find_spec("lightly") is None:
        print("lightly is not installed: its row is missing.")
        return None
    from lightly.transforms import SwaVTransform

    smallest, largest = zip(*recipe.crop_scales, strict=True)
    transform = SwaVTransform(
        crop_sizes=recipe.size_crops,
        crop_counts=recipe.num_crops,
        crop_min_scales=smallest,
        crop_max_scales=largest,
    )
    return lambda data, number: transform(pillow_decode(data))


def spdl(recipe: Recipe) -> Program | None:
    """FFmpeg through spdl: the crops alone, uint8, for it has no jitter per image.

    A chain of its filters has one output, so that each crop decodes anew.
    """
    try:
        # Loads FFmpeg's libraries where it is first asked for something.
        spdl_io = importlib.import_module("spdl.io")
        spdl_io.get_video_filter_desc(pix_fmt="rgb24")
        spdl_io.load_image(_tiny_jpeg())
    except (ImportError, RuntimeError, OSError) as error:
        print(f"spdl does not run here ({str(error)[:80]}...): its row is missing.")
        return None
    boxes = MultiCrop(**recipe.settings)

    def run(data: bytes, number: int) -> list[Tensor]:
        crops = []
        for crop in boxes.draw(EncodedImage(data, "image").size, key=number):
            top, left, height, width = crop.box
            chain = (
                f"format=rgb24,crop={width}:{height}:{left}:{top}:exact=1,"
                f"scale={crop.size}:{crop.size}:flags=bilinear"
                + (",hflip" if crop.flip else "")
            )
            frames = spdl_io.load_image(data, filter_desc=chain)
            levels = torch.from_numpy(np.array(spdl_io.to_numpy(frames)))
            crops.append(levels.permute(2, 0, 1))
        return crops

    return run


def _tiny_jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    return file.getvalue()


def say_about_ffcv() -> None:
    if importlib.util.find_spec("ffcv") is None:
        print(
            "ffcv is not installed (its build needs the headers of OpenCV's C++ "
            "library, which no Python package brings): its row is missing."
        )
    else:
        print("ffcv reads its own file format, not JPEG files: its row is missing.")
