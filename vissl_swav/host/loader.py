"""Our loader, where a split has `MultiCrop` or the source `images`.

The host builds a loader with its own sampler and restarts its workers in each epoch.
Ours has `KeyedSampler`, keeps the workers, sends uint8 crops through them, normalises
on the device, and knows how long the training waited.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from classy_vision.generic.distributed_util import get_rank, get_world_size
from torch import Tensor
from torch.utils.data import DataLoader

from vissl_swav.host import settings
from vissl_swav.host.keyed_items import KeyedItems, attach
from vissl_swav.host.keyed_sampler import KeyedSampler
from vissl_swav.host.resident_loader import ResidentLoader
from vissl_swav.host.stream_source import StreamSampler
from vissl_swav.host.unreadable import UnreadableLog
from vissl_swav.transforms.multicrop import MultiCrop

Batch = dict[str, Any]
BuildLoader = Callable[..., Any]


class PreparedLoader:
    """Batches ready for the model, and the time they were waited for.

    Attributes are the wrapped loader's (`sampler`, `dataset`, ...).

    Args:
        loader: gives batches on the device of the model.
        multi_crop: what made their crops, or will; None for other transforms.
        on_device: batches hold whole images, of which `make_crops` makes the crops.

    Attributes:
        waited: seconds spent waiting for a batch since the loader was made.
    """

    def __init__(self, loader: Any, multi_crop: MultiCrop | None, *, on_device: bool):
        self._loader = loader
        self._multi_crop = multi_crop
        self._make = None
        if on_device and multi_crop is not None:
            from vissl_swav.transforms.batched_multicrop import BatchedMultiCrop

            self._make = BatchedMultiCrop(multi_crop)
        self.waited = 0.0

    def __len__(self) -> int:
        """Batches of an epoch on this rank."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        """Starts the workers at once, as the loader of torch does."""
        return _Prepared(self, iter(self._loader))

    def __getattr__(self, name: str) -> Any:
        if name == "_loader":  # While a copy is being made there is none.
            raise AttributeError(name)
        return getattr(self._loader, name)

    def prepare(self, batch: Batch) -> Batch:
        """Normalises uint8 crops, whatever lists the collator put them into."""
        if self._multi_crop is None or self._make is not None:
            return batch
        return {
            key: _normalized(value, self._multi_crop)
            if key.startswith("data")
            else value
            for key, value in batch.items()
        }

    def make_crops(self, batch: Batch) -> Batch:
        """The batch with crops for whole images; others as they are."""
        if self._make is None:
            return batch
        images, sizes, keys = batch["data"][0]
        _used_here(images)
        crops = self._make(images, torch.from_numpy(sizes), torch.from_numpy(keys))
        return {**batch, "data": [crops]}


class _Prepared(Iterator[Batch]):
    def __init__(self, loader: PreparedLoader, batches: Iterator[Batch]):
        self._loader, self._batches = loader, batches

    def __len__(self) -> int:
        """Batches of the whole epoch; the host asks its iterator."""
        return len(self._loader)

    def __next__(self) -> Batch:
        started = time.perf_counter()
        batch = next(self._batches)
        self._loader.waited += time.perf_counter() - started
        return self._loader.prepare(batch)


def with_our_loader(build_dataloader: BuildLoader, wrap: BuildLoader) -> BuildLoader:
    """The host's `build_dataloader`, ours where a split is ours.

    Args:
        build_dataloader: the host's.
        wrap: the host's `wrap_dataloader`, which copies batches to a GPU.
    """

    def build(
        dataset: Any,
        dataset_config: Any,
        num_dataloader_workers: int,
        pin_memory: bool,
        multi_processing_method: str,
        device: torch.device,
        sampler_seed: int = 0,
        **others: Any,
    ) -> Any:
        if not settings.uses_our_loader(dataset.cfg, dataset.split):
            return build_dataloader(
                dataset,
                dataset_config,
                num_dataloader_workers,
                pin_memory,
                multi_processing_method,
                device,
                sampler_seed=sampler_seed,
                **others,
            )
        wanted = settings.loader_settings(dataset.cfg, dataset.split)
        attach(
            dataset,
            KeyedItems(
                UnreadableLog(wanted.folder, dataset.split.lower(), get_rank()),
                seeds_globals=not wanted.only_multi_crop,
                streams=wanted.streams,
            ),
        )
        loader = _loader(
            dataset,
            wanted,
            sampler=_sampler(dataset, dataset_config, wanted, sampler_seed),
            num_workers=num_dataloader_workers,
            pin_memory=pin_memory and device.type == "cuda",
            start_method=multi_processing_method,
        )
        if wanted.images_on_device:
            batches = ResidentLoader(loader, device)
        else:
            batches = wrap(loader, wanted.copies_ahead, device)
        entry = wanted.multi_crop
        return PreparedLoader(
            batches,
            None if entry is None else settings.multi_crop(entry),
            on_device=wanted.crops_on_device,
        )

    return build


def _loader(
    dataset: Any,
    wanted: settings.LoaderSettings,
    *,
    sampler: Any,
    num_workers: int,
    pin_memory: bool,
    start_method: str,
) -> DataLoader[Any]:
    from vissl.data.collators import get_collator
    from vissl.utils.misc import set_dataloader_seeds

    return DataLoader(
        dataset,
        batch_size=wanted.batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=get_collator(wanted.collator, wanted.collator_arguments),
        pin_memory=pin_memory,
        drop_last=wanted.drop_last,
        worker_init_fn=set_dataloader_seeds,
        multiprocessing_context=start_method if num_workers else None,
        # Test phases are short and rare: their workers would only take memory.
        persistent_workers=num_workers > 0 and dataset.split == "TRAIN",
    )


def _sampler(
    dataset: Any, dataset_config: Any, wanted: settings.LoaderSettings, seed: int
) -> Any:
    if wanted.uses_hosts_sampler:
        from vissl.data import get_sampler

        return get_sampler(dataset, dataset_config, seed)
    common: dict[str, Any] = {
        "batch_size": wanted.batch_size,
        "seed": seed,
        "rank": get_rank(),
        "num_replicas": get_world_size(),
    }
    if wanted.streams:
        return StreamSampler(len(dataset), **common)
    return KeyedSampler(len(dataset), **common, drop_last=wanted.drop_last)


def _normalized(value: Any, multi_crop: MultiCrop) -> Any:
    if isinstance(value, (list, tuple)):
        return [_normalized(entry, multi_crop) for entry in value]
    if not isinstance(value, Tensor) or value.dtype != torch.uint8:
        return value
    _used_here(value)
    # (B, C, S, S), or what a collator of the host makes of several crops at once.
    flat = multi_crop.normalize(value.reshape(-1, *value.shape[-3:]))
    return flat.reshape(*value.shape[:-3], *flat.shape[1:])


def _used_here(tensor: Tensor) -> None:
    """The host's asynchronous copies are made on a stream of their own.

    Without this a tensor that we drop could be overwritten there while it is read here.
    """
    if tensor.is_cuda:
        tensor.record_stream(torch.cuda.current_stream(tensor.device))
