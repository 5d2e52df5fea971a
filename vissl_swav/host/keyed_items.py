"""What a data set of the host does with a key, and with an image it cannot read.

The host hands transforms nothing but the image. So the key of the image in work is kept
here, for `MultiCrop`; the global generators, which the host's own transforms use, are
seeded with it and put back afterwards.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import torch

from vissl_swav.core.hashing import sample_keys
from vissl_swav.data.decoding import UnreadableImage
from vissl_swav.host.keyed_sampler import KeyedIndex
from vissl_swav.host.unreadable import UnreadableLog

# With one readable image in a hundred, one is found in 99.99 % of cases; and a whole
# shard of a stream may be unreadable.
_ATTEMPTS, _STREAM_ATTEMPTS = 1000, 100_000
_ATTACHED = "_vissl_swav_keyed_items"

_current: list[int] = []

GetItem = Callable[[Any, int], dict[str, Any]]


@dataclass(frozen=True)
class KeyedItems:
    """How a data set of the host treats its images.

    Attributes:
        log: where images that cannot be read are named.
        streams: whether the source gives another image when it is asked again
            (`StreamSource`), instead of having numbered ones.
        seeds_globals: whether transforms draw from the global generators, as the host's
            own do; seeding and restoring three of them costs 0.13 ms an image.
    """

    log: UnreadableLog
    seeds_globals: bool
    streams: bool = False


def current_key() -> int | None:
    """The key of the image in work; None outside of a keyed data set."""
    return _current[-1] if _current else None


def attach(dataset: Any, items: KeyedItems) -> None:
    """Lets a data set take a `KeyedIndex`, and replace what it cannot read."""
    setattr(dataset, _ATTACHED, items)


def keyed(get_item: GetItem) -> Callable[[Any, Any], dict[str, Any]]:
    """The host's `GenericSSLDataset.__getitem__`, for `KeyedIndex` as for numbers.

    An image that cannot be read is replaced by another one of the data set, always the
    same one, which takes its number where numbers are the labels (so a memory bank has
    its row). Data sets without `attach` work as they did.
    """

    def get(dataset: Any, index: Any) -> dict[str, Any]:
        items = getattr(dataset, _ATTACHED, None)
        if items is None:
            return get_item(dataset, index)
        return _first_readable(get_item, dataset, index, items)

    return get


def _first_readable(
    get_item: GetItem, dataset: Any, index: Any, items: KeyedItems
) -> dict[str, Any]:
    key = None
    if isinstance(index, KeyedIndex):
        index, key = index
    fault = None
    attempts = _STREAM_ATTEMPTS if items.streams else _ATTEMPTS
    again = repeat(index, attempts)
    for candidate in again if items.streams else _candidates(index, len(dataset)):
        try:
            with _drawing_with(key, seeds_globals=items.seeds_globals):
                item = get_item(dataset, candidate)
            if min(item["data_valid"]) < 0:  # The host's own sources say it so.
                name = _name(dataset, candidate)
                raise UnreadableImage(name, "VISSL's reader failed (see its log)")
        except UnreadableImage as error:
            fault = fault or error
            items.log.add(error.name, error.reason, index=candidate)
            if items.streams:
                dataset.data_objs[0].pass_over()
            continue
        if candidate != index:
            _take_number(dataset, item, index)
        return item
    raise RuntimeError(
        f"none of {attempts} images tried can be read; the first fault: {fault}. Look "
        "at the data: vissl-swav data-check PATH."
    ) from fault


def _candidates(index: int, count: int) -> Iterator[int]:
    """The image, then others: a hash of its number, the same in every epoch."""
    yield index
    number = torch.tensor([index])
    for attempt in range(_ATTEMPTS - 1):
        yield int(sample_keys(number, seed=0, epoch=attempt)) % count


def _take_number(dataset: Any, item: dict[str, Any], index: int) -> None:
    if dataset.label_type != "sample_index" or dataset.label_objs:
        return
    for key in ("label", "data_idx"):
        item[key] = [index] * len(item[key])


def _name(dataset: Any, index: int) -> str:
    """The file, where the host's source knows it, else the number."""
    if dataset.data_limit >= 0 and dataset.image_and_label_subset is not None:
        index = int(dataset.image_and_label_subset[index])
    images = dataset.data_objs[0].image_dataset
    entry = getattr(images, "samples", images)
    found = entry[index] if len(entry) > index else f"image number {index}"
    return str(found[0] if isinstance(found, tuple) else found)


@contextmanager
def _drawing_with(key: int | None, *, seeds_globals: bool) -> Iterator[None]:
    """`current_key` and the global generators of this process, for one image."""
    if key is None:
        yield
        return
    _current.append(key)
    try:
        if seeds_globals:
            with _global_generators(key):
                yield
        else:
            yield
    finally:
        _current.pop()


@contextmanager
def _global_generators(key: int) -> Iterator[None]:
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(key)
    np.random.seed(key % 2**32)
    random.seed(key)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
