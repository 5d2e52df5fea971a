"""A data set of the host with keys: its draws, and what it does with broken images."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vissl_swav.data.decoding import UnreadableImage
from vissl_swav.host.keyed_items import KeyedItems, attach, current_key, keyed
from vissl_swav.host.keyed_sampler import KeyedIndex
from vissl_swav.host.unreadable import UnreadableLog, UnreadableReader


class HostData:
    """What `keyed` reads of the host's data set."""

    def __init__(self, count=10, *, broken=(), grey=(), label_type="sample_index"):
        self.count, self.broken, self.grey = count, set(broken), set(grey)
        self.label_type = label_type
        self.label_objs = [] if label_type == "sample_index" else [list(range(count))]
        self.data_limit, self.image_and_label_subset = -1, None
        samples = [(f"image{index}.jpg", 0) for index in range(count)]
        self.data_objs = [
            SimpleNamespace(image_dataset=SimpleNamespace(samples=samples))
        ]

    def __len__(self):
        return self.count

    def get(self, index):
        if index in self.broken:
            raise UnreadableImage(f"image{index}.jpg", "truncated")
        draws = (torch.rand(()).item(), float(np.random.rand()), random.random())
        return {
            "data": [index, draws, current_key()],
            "label": [index, index],
            "data_idx": [index, index],
            "data_valid": [-1 if index in self.grey else 1],
        }

    __getitem__ = keyed(get)


def attached(folder, data, *, seeds_globals=True):
    attach(data, KeyedItems(UnreadableLog(folder, "train", 0), seeds_globals))
    return data


def test_all_chance_is_the_keys(tmp_path):
    data = attached(tmp_path, HostData())
    first, again = data[KeyedIndex(3, 77)], data[KeyedIndex(3, 77)]
    other = data[KeyedIndex(3, 78)]
    assert first == again
    assert first["data"][0] == 3 and first["data"][2] == 77
    assert all(a != b for a, b in zip(first["data"][1], other["data"][1], strict=True))
    assert current_key() is None


def test_the_global_generators_go_on_as_if_nothing_had_been(tmp_path):
    data = attached(tmp_path, HostData())

    def draws():
        return torch.rand(()).item(), float(np.random.rand()), random.random()

    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(0)
    expected = draws()
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(0)
    assert data[KeyedIndex(3, 77)]["data"][1] != expected
    assert draws() == expected


def test_globals_are_left_alone_where_nobody_draws_from_them(tmp_path):
    data = attached(tmp_path, HostData(), seeds_globals=False)
    torch.manual_seed(0)
    expected = torch.rand(()).item()
    torch.manual_seed(0)
    assert data[KeyedIndex(3, 77)]["data"][1][0] == expected


def test_without_attach_the_hosts_data_set_is_as_it_was(tmp_path):
    data = HostData(broken=[3])
    assert data[2]["data"][2] is None
    with pytest.raises(UnreadableImage):
        data[3]


def test_a_broken_image_is_replaced_by_the_same_one_and_named(tmp_path):
    data = attached(tmp_path, HostData(broken=[3]))
    items = [data[KeyedIndex(3, key)] for key in (1, 2)]
    taken = {item["data"][0] for item in items}
    assert len(taken) == 1 and taken != {3}
    assert items[0]["label"] == items[0]["data_idx"] == [3, 3], "the bank's row is 3"
    assert items[0]["data"][2] == 1
    assert data[3]["data"][0] in taken, "a plain number as well"
    assert UnreadableReader(tmp_path, "train").new() == {"image3.jpg": "truncated"}


def test_what_the_hosts_source_greyed_out_is_replaced_too(tmp_path):
    data = attached(tmp_path, HostData(grey=[5]))
    assert data[KeyedIndex(5, 1)]["data"][0] != 5
    assert set(UnreadableReader(tmp_path, "train").new()) == {"image5.jpg"}


def test_a_labelled_replacement_keeps_its_own_label(tmp_path):
    data = attached(tmp_path, HostData(broken=[3], label_type="standard"))
    item = data[KeyedIndex(3, 1)]
    assert item["label"] == item["data_idx"] == [item["data"][0]] * 2


def test_one_readable_image_is_found(tmp_path):
    data = attached(tmp_path, HostData(20, broken=set(range(20)) - {11}))
    for index in range(20):
        assert data[KeyedIndex(index, 0)]["data"][0] == 11
    assert len(UnreadableReader(tmp_path, "train").new()) == 19


def test_nothing_readable_is_an_error(tmp_path):
    data = attached(tmp_path, HostData(4, broken=range(4)))
    with pytest.raises(RuntimeError, match=r"none .* can be read; .*data-check"):
        data[KeyedIndex(0, 0)]
    assert current_key() is None
