"""VISSL's own methods on `MultiCrop`: batches of the same form, a few real steps."""

import math

import host_runs
import pytest
import torch
from host_methods import BATCH, METHODS, STEPS, arguments

# One run of each method is enough for every day; DINO's is in test_dino_sinkhorn.
SELDOM = ("simclr_2x160_4x96", "dino_deits16", "dino_deits8", "dino_xcit")
RUNS = [pytest.param(n, marks=pytest.mark.slow) if n in SELDOM else n for n in METHODS]
# Crops that keep an image's colours, so that bright and dark ones stay so.
PLAIN = (
    "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[16],num_crops:[2],"
    "crop_scales:[[0.5,1.0]],jitter_probability:0,grayscale_probability:0}]"
)


@pytest.fixture
def first_batch(host, images, tmp_path):
    """`first_batch(name, *extra, overlaid=, workers=)`: of the host's own loader."""
    from vissl.data import build_dataloader, build_dataset
    from vissl.utils.hydra_config import (
        compose_hydra_configuration,
        convert_to_attrdict,
    )

    def make(name, *extra, overlaid=True, workers=0):
        paths = f"config.DATA.TRAIN.DATA_PATHS=[{images}]"
        given = arguments(name, paths, tmp_path, *extra, overlaid=overlaid)
        composed = compose_hydra_configuration(given)
        config = convert_to_attrdict(composed, dump_config=False)[1]
        loader = build_dataloader(
            build_dataset(config, "TRAIN"),
            config.DATA.TRAIN,
            workers,
            pin_memory=False,
            multi_processing_method="forkserver",
            device=torch.device("cpu"),
            sampler_seed=0,
            split="train",
        )
        return next(iter(loader))

    return make


def form(value):
    """Shape and type of a tensor; of a list or a dict, those of what is in it."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, dict):
        return {key: form(part) for key, part in value.items()}
    return [form(part) for part in value]


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for part in value for tensor in tensors(part)]


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_has_the_form_of_the_hosts(first_batch, name):
    """Keys, nesting, shapes, types, and where each image's crops stand."""
    ours, theirs = first_batch(name), first_batch(name, overlaid=False)
    assert form(ours) == form(theirs)
    for key in ("label", "data_idx", "data_valid"):
        rows = [batch[key][0].unique(return_counts=True)[1] for batch in (ours, theirs)]
        assert torch.equal(*rows), key
    for key in (key for key in ours if key in ("data", "data_momentum")):
        for made, wanted in zip(tensors(ours[key]), tensors(theirs[key]), strict=True):
            assert made.dtype == torch.float32
            # Normalised levels of one range, black to white.
            assert -2.2 < made.min() and made.max() < 2.7
            assert (made.std() / wanted.std()).log().abs() < math.log(2)


def test_crops_of_an_image_stand_where_the_loss_looks_for_them(first_batch):
    """Row i of both halves is the image that `data_idx` names, for SimCLR and MoCo.

    The images of the second class, from number 24 on, are bright, the others dark.
    """
    every_image = "config.DATA.TRAIN.DATA_LIMIT=-1"
    simclr = first_batch("simclr", PLAIN, every_image)
    moco = first_batch("moco", PLAIN, every_image)
    first, second = simclr["data_idx"][0].chunk(2)
    assert torch.equal(first, second) and 0 < (first >= 24).sum() < BATCH
    assert torch.equal(moco["data_idx"][0], torch.stack([first, second], dim=1))
    pairs = [simclr["data"][0].chunk(2), (moco["data"][0], moco["data_momentum"][0])]
    for pair in pairs:
        assert not torch.equal(*pair)
        for crops in pair:
            # Halfway from 60 to 160 levels, normalised.
            assert torch.equal(crops.mean(dim=(1, 2, 3)) > -0.1, first >= 24)


def test_crops_of_two_sizes_do_not_go_to_a_collator_of_one(first_batch):
    two = PLAIN.replace("[16]", "[16,8]").replace("[2]", "[2,1]")
    two = two.replace("[[0.5,1.0]]", "[[0.5,1.0],[0.1,0.5]]")
    with pytest.raises(ValueError, match=r"simclr_collator, .* crops of \[8, 16\]"):
        first_batch("simclr", two)


def test_workers_send_levels_that_the_loader_normalises(first_batch):
    alone, sent = first_batch("moco"), first_batch("moco", workers=1)
    assert form(alone) == form(sent)
    for key in alone:
        assert all(map(torch.equal, tensors(alone[key]), tensors(sent[key]))), key


def check_losses(folder):
    losses = host_runs.losses(folder)
    assert len(losses) == STEPS and len(set(losses)) == STEPS
    assert all(map(math.isfinite, losses))


@pytest.mark.parametrize("name", RUNS)
def test_the_method_trains(name, images, tmp_path):
    done = host_runs.train(*arguments(name, f"data={images}", tmp_path))
    check_losses(tmp_path)
    assert "'name': 'MultiCrop'" in done.stdout
    assert "waited" in host_runs.lines(tmp_path)[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["moco", "dino_deits16", "simclr"])
def test_the_method_trains_in_two_processes(name, images, tmp_path):
    """Each with half of the images, and a worker."""
    more = "config.DATA.NUM_DATALOADER_WORKERS=1"
    given = arguments(name, f"data={images}", tmp_path, more, processes=2)
    host_runs.train(*given)
    check_losses(tmp_path)
