"""Transform `MultiCrop`: the host-free one behind the host's transform interface."""

from collections.abc import Mapping
from typing import Any

from classy_vision.dataset.transforms import register_transform
from classy_vision.dataset.transforms.classy_transform import ClassyTransform
from torch import Tensor

from vissl_swav.host.settings import TRANSFORM_NAME
from vissl_swav.transforms.multicrop import MultiCrop

# Read by the host's wrapper, not by the transform.
_OF_THE_WRAPPER = ("name", "indices", "transform_type")


@register_transform(TRANSFORM_NAME)
class MultiCropTransform(ClassyTransform):
    """Pillow image -> list of V normalised crops; keys as `MultiCrop`'s arguments."""

    def __init__(self, **arguments: Any):
        self.multi_crop = MultiCrop(**arguments)

    def __call__(self, image: Any) -> list[Tensor]:
        """Crops of one image, drawn from torch's generator of this worker."""
        return self.multi_crop(image)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ClassyTransform:
        """From an entry of `DATA.*.TRANSFORMS`."""
        return cls(**{k: v for k, v in config.items() if k not in _OF_THE_WRAPPER})
