"""Data source `images`: folders with or without classes, lists, tar shards.

The host takes it as one more kind of `DATA_SOURCES`. Where `MultiCrop` comes first, the
file's bytes go to it, so that a JPEG can be decoded at the scale that its crops need;
else the decoded Pillow image, as the host's own sources give.
"""

from typing import Any

from torch.utils.data import Dataset

from vissl_swav.data.errors import DataError
from vissl_swav.data.image_list import ImageList, open_images
from vissl_swav.host import settings


class ImageSource(Dataset[tuple[Any, bool]]):
    """The host's interface of a source; the arguments are the host's."""

    def __init__(
        self, cfg: Any, data_source: str, path: str, split: str, dataset_name: str
    ):
        super().__init__()
        self.images: ImageList = open_images(path)
        self._encoded = settings.starts_with_multi_crop(cfg, split)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def num_samples(self) -> int:
        """Number of images, in the host's word for it."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, bool]:
        """The image, and True.

        Raises:
            UnreadableImage: which `keyed_items` replaces.
        """
        image = self.images.read(int(index))
        return (image if self._encoded else image.decode_pil()), True

    def get_labels(self) -> list[int]:
        """Asked for by the host under `LABEL_SOURCES: [torchvision_dataset]`.

        Raises:
            DataError: the data has no labels.
        """
        if self.images.labels is None:
            raise DataError(
                "the images have no labels; wanted class folders, a list with labels, "
                "or shards with .cls members."
            )
        return list(self.images.labels)

    def get_image_paths(self) -> list[str]:
        """Names of all images."""
        return [self.images.name(index) for index in range(len(self.images))]
