"""Image augmentations, free of any host: image in, crops out.

``multicrop.MultiCrop`` is the paper's multi-crop (appendix A.2).  Reading order:
``crop_groups`` (the settings), ``crop_parameters`` (the dice), ``photometric`` (the
pixels, by Pillow), ``fast_pixels`` (the same by OpenCV), ``image_input`` (what an image
is), ``normalization``, ``multicrop`` (all of it together); ``batched_draws``,
``batched_resampling``, ``batched_pixels`` and ``batched_multicrop`` do the same for a
batch of images on any device.
"""

from vissl_swav.transforms.crop_groups import CropGroup
from vissl_swav.transforms.crop_parameters import Box, CropParameters
from vissl_swav.transforms.image_input import DecodableImage
from vissl_swav.transforms.multicrop import MultiCrop
from vissl_swav.transforms.normalization import Normalization

__all__ = [
    "Box",
    "CropGroup",
    "CropParameters",
    "DecodableImage",
    "MultiCrop",
    "Normalization",
]
