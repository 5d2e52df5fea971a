"""Transform `MultiCrop`: the host-free one behind the host's transform interface."""

from collections.abc import Mapping
from typing import Any

from classy_vision.dataset.transforms import register_transform
from classy_vision.dataset.transforms.classy_transform import ClassyTransform
from torch import Tensor

from vissl_swav.host import settings
from vissl_swav.transforms.multicrop import MultiCrop


@register_transform(settings.TRANSFORM_NAME)
class MultiCropTransform(ClassyTransform):
    """Pillow image -> list of V normalised crops; keys as `MultiCrop`'s arguments."""

    def __init__(self, multi_crop: MultiCrop):
        self.multi_crop = multi_crop

    def __call__(self, image: Any) -> list[Tensor]:
        """Crops of one image, drawn from torch's generator of this worker."""
        return self.multi_crop(image)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ClassyTransform:
        """From an entry of `DATA.*.TRANSFORMS`."""
        return cls(settings.multi_crop(config))
