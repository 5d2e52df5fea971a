"""`mean: auto` and `std: auto` of `MultiCrop`: measured before the run starts.

The numbers take the word's place in the config, so that `train_config.yaml` has them.
They follow from the images alone: a run that resumes measures the same ones.
"""

import logging
from typing import Any

from vissl_swav.data.check import channel_statistics
from vissl_swav.data.errors import DataError
from vissl_swav.data.image_list import open_images
from vissl_swav.host import settings
from vissl_swav.host.errors import StartError

_DIGITS = 4


def measure(cfg: Any) -> None:
    """Replaces `auto` in every `MultiCrop` of the config, in place.

    Raises:
        StartError: the images cannot be looked at.
    """
    for split, entry in settings.sets_automatic(cfg):
        path = settings.data_path(cfg, split)
        key = f"config.DATA.{split}.DATA_PATHS"
        if path is None:
            raise StartError(
                f"MultiCrop has mean or std auto, and {key} is empty; name the images, "
                "or give the numbers.",
                key=key,
            )
        try:
            found = channel_statistics(
                open_images(path), channels=entry.get("channels", 3)
            )
        except DataError as error:
            raise StartError(f"{key}: {error}", key=key) from error
        for name, numbers in zip(("mean", "std"), found, strict=True):
            if entry.get(name) == "auto":
                entry[name] = [round(number, _DIGITS) for number in numbers]
                logging.info(f"{split}: {name} of the images is {entry[name]}")
