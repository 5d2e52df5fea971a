"""Data source `image_stream`: tar shards from front to back, and the order of them.

The host's data set is one of numbered images. Here a number stands for a place in the
run: of the rank's n-th image it is n x ranks + rank, n counted from the run's start. So
the sampler asks for places, and the source finds the stream, one for each worker, and
the number in it: batch b of a rank belongs to stream b mod S.
"""

from collections.abc import Iterator
from typing import Any

import torch
from classy_vision.generic.distributed_util import get_rank, get_world_size
from torch.utils.data import Dataset

from vissl_swav.core.hashing import sample_keys
from vissl_swav.data.errors import DataError
from vissl_swav.data.image_stream import ImageStream, StreamLayout
from vissl_swav.data.packed_strings import PackedStrings
from vissl_swav.data.shard_reading import BrokenShard, list_shards
from vissl_swav.data.stream_journal import Journal
from vissl_swav.host import settings
from vissl_swav.host.keyed_sampler import KeyedIndex, KeyedSampler
from vissl_swav.host.unreadable import UnreadableLog

_CHUNK = 4096


class StreamSource(Dataset[tuple[Any, bool]]):
    """The host's interface of a source; the arguments are the host's."""

    def __init__(
        self, cfg: Any, data_source: str, path: str, split: str, dataset_name: str
    ):
        super().__init__()
        wanted = settings.stream_settings(cfg)
        shards = list_shards(path)
        self._shards = PackedStrings(shards)
        self._encoded = settings.starts_with_multi_crop(cfg, split)
        self._settings = wanted
        self._rank, self._ranks = get_rank(), get_world_size()
        self._layout = StreamLayout(
            num_streams=self._ranks * wanted.streams_per_rank,
            buffer=wanted.buffer,
            seed=wanted.seed,
        )
        self._names = self._layout.names(shards)
        self._log = UnreadableLog(wanted.folder, split.lower(), self._rank)
        self._streams: dict[int, ImageStream] = {}
        self._last: ImageStream | None = None

    @property
    def num_shards(self) -> int:
        """Tar files in all."""
        return len(self._shards)

    def __len__(self) -> int:
        """Images of an epoch, which is a stretch of the run."""
        return self._settings.images_per_epoch

    def num_samples(self) -> int:
        """Number of images, in the host's word for it."""
        return len(self)

    def __getitem__(self, index: int) -> tuple[Any, bool]:
        """The image of a place in the run, and True.

        Raises:
            UnreadableImage: `keyed_items` calls `pass_over` then, and asks again.
        """
        wanted = self._settings
        batch, row = divmod(int(index) // self._ranks, wanted.batch_size)
        turn, stream = divmod(batch, wanted.streams_per_rank)
        self._last = self._stream(stream)
        image = self._last.take(turn * wanted.batch_size + row)
        return (image if self._encoded else image.decode_pil()), True

    def pass_over(self) -> None:
        """The image given last cannot be read."""
        assert self._last is not None
        self._last.pass_over()

    def get_labels(self) -> list[int]:
        """There are none.

        Raises:
            DataError: always.
        """
        raise DataError("a stream of images has no labels; take DATA_SOURCES=[images].")

    def __getstate__(self) -> dict[str, Any]:
        # Open files stay where they are; each worker reads its own.
        return {**self.__dict__, "_streams": {}, "_last": None}

    def _stream(self, number: int) -> ImageStream:
        if number not in self._streams:
            # A worker that takes another stream over needs the one before no more.
            self._streams.clear()
            whole, data = self._names
            self._streams[number] = ImageStream(
                self._shards,
                self._layout,
                # Neighbours in the shuffled list of shards go to different ranks.
                stream=number * self._ranks + self._rank,
                journal=Journal(
                    self._settings.folder,
                    rank=self._rank,
                    stream=number,
                    layout=whole,
                    data=data,
                ),
                on_broken=self._tell,
            )
        return self._streams[number]

    def _tell(self, error: BrokenShard) -> None:
        reason = f"the rest of the shard, after {error.num_images} images: "
        self._log.add(error.shard, reason + error.reason, index=-1)


class StreamSampler(KeyedSampler):
    """Places of an epoch of this rank, with a key each; nothing is kept for them.

    The arguments are those of `KeyedSampler`; the last images that make no whole step
    of all ranks are left to the next epoch.
    """

    def __init__(self, num_images: int, **settings: Any):
        super().__init__(num_images, **settings, drop_last=True)
        self.num_samples -= self.num_samples % self.batch_size
        self.total_size = self.num_samples * self.num_replicas

    def __iter__(self) -> Iterator[KeyedIndex]:
        """Places one by one, from `start_iter` on."""
        first = self.epoch * self.num_samples
        start = self.start_iter * self.batch_size
        for at in range(start, self.num_samples, _CHUNK):
            stop = min(at + _CHUNK, self.num_samples)
            places = torch.arange(first + at, first + stop) * self.num_replicas
            places += self.rank
            keys = sample_keys(places, seed=self.seed, epoch=0)
            pairs = zip(places.tolist(), keys.tolist(), strict=True)
            yield from map(KeyedIndex._make, pairs)
