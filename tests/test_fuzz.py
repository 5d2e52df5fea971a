"""Seeded mutations of good files and of good overrides: a result, or one sentence.

`VISSL_SWAV_FUZZ=500` sets the number of mutations a kind (the slow mark runs 500).
"""

import functools
import os
import pickle
import random

import cluster_runs
import host_runs
import hostile_files
import numpy as np
import pytest
import torch
import yaml
from config_fuzz import mutated
from first_step import attempt

from vissl_swav.data.decoding import EncodedImage, UnreadableImage
from vissl_swav.data.errors import DataError
from vissl_swav.data.image_list import open_images
from vissl_swav.host.errors import StartError

FEW = int(os.environ.get("VISSL_SWAV_FUZZ", "60"))
MANY = 500
FEW_CONFIGS = int(os.environ.get("VISSL_SWAV_FUZZ", "12"))
COUNTS = [FEW, pytest.param(MANY, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return host_runs.make_images(tmp_path_factory.mktemp("fuzz") / "set", per_class=8)


@pytest.fixture(scope="module")
def run(host, images, tmp_path_factory):
    return cluster_runs.untrained(images, tmp_path_factory.mktemp("fuzz") / "run")


def fuzz(good, count, load, tmp_path, name, *, errors=(DataError, StartError)):
    """`load` on every mutation of the bytes; the values it gave without an error."""
    file, values, refused = tmp_path / name, [], 0
    for seed in range(count):
        file.write_bytes(hostile_files.mutate(good, seed))
        try:
            result = hostile_files.opened(load, file, errors=errors)
        except Exception as error:
            raise AssertionError(f"mutation {seed} of {name}: {error!r}") from error
        refused += result.error is not None
        if result.error is None:
            values.append((seed, result.value))
    assert refused > 0, "mutations that nothing notices show nothing"
    return values


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.timeout(900)
def test_checkpoints_of_the_host(run, tmp_path, count):
    """What is read of a mutated file is what was written, to the bit."""
    from vissl.utils.checkpoint import CheckpointLoader

    load = functools.partial(
        CheckpointLoader.load_and_broadcast_init_weights, device=torch.device("cpu")
    )
    whole = run / "checkpoint.torch"
    wanted = torch.load(whole, weights_only=False)
    for seed, value in fuzz(
        whole.read_bytes(),
        count,
        lambda file: load(str(file)),
        tmp_path,
        "weights.torch",
        errors=(pickle.UnpicklingError,),
    ):
        assert same(value["classy_state_dict"], wanted["classy_state_dict"]), seed


def same(a, b):
    if isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in b)
    return a == b


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.timeout(900)
def test_checkpoints_of_assign(run, tmp_path, count):
    from vissl_swav.suite.checkpoint_model import load_model

    config = run / "train_config.yaml"
    wanted = load_model(run, device="cpu").prototypes[0]
    for seed, found in fuzz(
        (run / "checkpoint.torch").read_bytes(),
        count,
        lambda file: load_model(file, config=config, device="cpu"),
        tmp_path,
        "weights.torch",
    ):
        assert torch.equal(found.prototypes[0], wanted), seed


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.timeout(900)
def test_resume_passes_over_what_is_damaged(run, tmp_path, count):
    """A fault in words, and nothing raised: the checkpoint before it is used."""
    from vissl_swav.compat.checkpoint_files import fault_of

    state = torch.load(run / "checkpoint.torch", weights_only=False)
    state.update(iteration=3, train_phase_idx=0)
    torch.save(state, tmp_path / "whole.torch")
    assert fault_of(tmp_path / "whole.torch") is None
    good = (tmp_path / "whole.torch").read_bytes()
    for seed in range(count):
        file = tmp_path / f"model_phase{seed}.torch"
        file.write_bytes(hostile_files.mutate(good, seed))
        with hostile_files.time_limit():
            fault = fault_of(file)
        assert fault is None or len(fault.split()) > 1, seed
        if fault is None:
            assert same(torch.load(file, weights_only=False), state), seed
        file.unlink()


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM"])
def test_images(tmp_path, count, kind):
    good = hostile_files.image_bytes(kind)
    wanted = EncodedImage(good, "good").decode()

    def load(file):
        image = EncodedImage(file.read_bytes(), "x")
        return image.size, image.decode()

    for seed, (size, levels) in fuzz(
        good, count, load, tmp_path, f"x.{kind.lower()}", errors=(UnreadableImage,)
    ):
        assert levels.dtype == np.uint8 and levels.shape == (*size[::-1], 3), seed
        if kind == "PNG":  # The one with checksums.
            assert np.array_equal(levels, wanted), seed


@pytest.mark.parametrize("count", COUNTS)
def test_tar_shards(tmp_path, count):
    members = {}
    for n in range(4):
        members[f"a/{n}.png"] = hostile_files.image_bytes("PNG", n)
        members[f"a/{n}.cls"] = str(n).encode()

    def load(file):
        images, readable = open_images(file), 0
        for index in range(len(images)):
            try:
                images.read(index).decode()
                readable += 1
            except UnreadableImage:
                pass
        return readable, images.labels

    good = hostile_files.shard(members)
    for _, (readable, labels) in fuzz(good, count, load, tmp_path, "x.tar"):
        assert readable <= 5 and (labels is None or min(labels) >= 0)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", ["txt", "npy"])
def test_lists(images, tmp_path, count, kind):
    paths = sorted(map(str, images.rglob("*.png")))
    if kind == "txt":
        good = "".join(f"{path} {n % 2}\n" for n, path in enumerate(paths)).encode()
    else:
        np.save(tmp_path / "good.npy", np.array(paths))
        good = (tmp_path / "good.npy").read_bytes()

    def load(file):
        images = open_images(file)
        return [images.name(index) for index in range(len(images))]

    for _, names in fuzz(good, count, load, tmp_path, f"list.{kind}"):
        assert names and all(map(os.path.isabs, names))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.timeout(900)
def test_configs_of_runs(run, tmp_path, count):
    """`train_config.yaml`: a run with positive numbers, or a sentence."""
    from vissl_swav.suite.checkpoint_model import read_config

    tree = hostile_files.trained_config(run)
    small = {key: tree[key] for key in ("LOSS", "DATA", "OPTIMIZER")}
    small["LOSS"] = {key: tree["LOSS"][key] for key in ("name", "swav")}
    small["MODEL"] = {"HEAD": tree["MODEL"]["HEAD"], "TRUNK": {"NAME": "resnet_small"}}
    good = yaml.dump(small).encode()
    for _, found in fuzz(good, count, read_config, tmp_path, "train_config.yaml"):
        assert found.loss == "swav" and found.crop_size > 0 and found.temperature > 0


@pytest.mark.parametrize("loss", ["swav", "deepcluster_v2", "sela_v2"])
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.timeout(900)
def test_models_of_mutated_configs(images, run, tmp_path, count, loss, host):
    """Trees, not text: keys lost, values of another kind, enormous numbers."""
    from vissl_swav.suite.checkpoint_model import load_model

    folder = cluster_runs.untrained(images, tmp_path / "run", loss=loss)
    tree = hostile_files.trained_config(folder)
    small = {key: tree[key] for key in ("DATA", "OPTIMIZER", "MODEL")}
    small["LOSS"] = {key: tree["LOSS"][key] for key in ("name", loss)}
    small["DATA"] = {"TRAIN": {"TRANSFORMS": tree["DATA"]["TRAIN"]["TRANSFORMS"]}}
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    for seed in range(count // 3):
        changed = change_a_leaf(small, random.Random(seed))
        file = tmp_path / "mutated.yaml"
        file.write_text(yaml.dump(changed, Dumper=dumper))
        load = functools.partial(load_model, folder, config=file, device="cpu")
        try:
            result = hostile_files.opened(load, errors=(StartError,))
        except Exception as error:
            raise AssertionError(f"mutation {seed}: {error!r}") from error
        assert result.error is not None or len(result.value.prototypes[0]) == 12


VALUES = (None, -1, 0, 10**9, 1.5, float("nan"), "", "x", [], {}, [[]], True, [1], "1")


def change_a_leaf(tree, rng):
    """A copy with one entry lost or replaced, at a random depth."""
    tree = yaml.safe_load(yaml.safe_dump(tree))
    places = list(walk(tree))
    owner, key = rng.choice(places)
    if rng.random() < 0.2:
        del owner[key]
    else:
        owner[key] = rng.choice(VALUES)
    return tree


def walk(tree):
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(pairs):
        yield tree, key
        if isinstance(value, (dict, list)):
            yield from walk(value)


@pytest.mark.parametrize(
    "count", [FEW_CONFIGS, pytest.param(MANY, marks=pytest.mark.slow)]
)
@pytest.mark.timeout(3600)
def test_overrides(host, images, tmp_path, count):
    """Up to model, loss, hooks and a step of the images; else one message."""
    crashes, reached, refused = [], 0, 0
    for seed in range(count):
        overrides = mutated(images, tmp_path / f"run{seed}", seed)
        try:
            result = hostile_files.opened(
                attempt, overrides, errors=(StartError,), seconds=60
            )
            reached += result.error is None
            refused += result.error is not None
        except Exception as error:
            crashes.append(f"{seed}: {overrides[-3:]}: {error!r}"[:600])
    print(f"{reached} of {count} reached a step, {refused} ended with one message")
    assert not crashes, "\n".join([f"{len(crashes)} of {count}", *crashes])
    assert refused > 0
    if count == MANY:  # About one in eight.
        assert reached > 0
    else:
        done = attempt(cluster_runs.overrides(images, tmp_path / "valid"))
        assert done.num_updates > 0
