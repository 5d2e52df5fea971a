"""Data: the embedded data set, and folders of images that the host can read.

``embedded`` makes a small data set without a download (``scenes`` draws one image,
``glyphs`` holds the shapes); ``folders`` checks a user's folder before a run,
``subsets`` takes a part of it, ``cifar10`` fetches one.  Nothing here knows the host.
"""

from vissl_swav.data.embedded import EMBEDDED_CLASSES, build, draw
from vissl_swav.data.errors import DataError
from vissl_swav.data.folders import (
    ImageFolderReport,
    Splits,
    check_image_folder,
    find_splits,
    list_images,
)
from vissl_swav.data.subsets import subsample_folder

__all__ = [
    "EMBEDDED_CLASSES",
    "DataError",
    "ImageFolderReport",
    "Splits",
    "build",
    "check_image_folder",
    "draw",
    "find_splits",
    "list_images",
    "subsample_folder",
]
