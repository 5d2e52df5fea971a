"""Image augmentations, free of any host: Pillow image in, crops out.

``multicrop.MultiCrop`` is the paper's multi-crop (appendix A.2).  Reading order:
``crop_groups`` (the settings), ``crop_parameters`` (the dice), ``photometric`` (the
pixels), ``multicrop`` (the three together).
"""

from vissl_swav.transforms.crop_groups import CropGroup
from vissl_swav.transforms.crop_parameters import Box, CropParameters
from vissl_swav.transforms.multicrop import MultiCrop

__all__ = ["Box", "CropGroup", "CropParameters", "MultiCrop"]
