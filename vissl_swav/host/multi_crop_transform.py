"""Transform `MultiCrop`: the host-free one behind the host's transform interface."""

from collections.abc import Mapping
from typing import Any

from classy_vision.dataset.transforms import register_transform
from classy_vision.dataset.transforms.classy_transform import ClassyTransform

from vissl_swav.host import settings
from vissl_swav.host.decoding_transform import Decoding
from vissl_swav.host.keyed_items import current_key
from vissl_swav.transforms.multicrop import MultiCrop


@register_transform(settings.TRANSFORM_NAME)
class MultiCropTransform(ClassyTransform):
    """Image -> list of V crops; keys as `MultiCrop`'s arguments, and those of the host.

    `on_device` (whether a train step makes the crops, inferred) and `max_side` (then,
    bound of the decoded image's sides in pixels).
    """

    def __init__(self, make: MultiCrop | Decoding):
        self.make = make

    def __call__(self, image: Any) -> list[Any]:
        """Crops of one image; the key of its sample stands for all chance."""
        return self.make(image, key=current_key())

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ClassyTransform:
        """From an entry of `DATA.*.TRANSFORMS`.

        Raises:
            StartError: keys or values that do not hold, or `auto` that nobody resolved.
        """
        settings.check_resolved(config)
        multi_crop = settings.multi_crop(config)
        if not config.get("on_device", False):
            return cls(multi_crop)
        return cls(
            Decoding(
                num_crops=multi_crop.total_num_crops,
                channels=config.get("channels", 3),
                **({"max_side": config["max_side"]} if "max_side" in config else {}),
            )
        )
