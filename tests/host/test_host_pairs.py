"""VISSL's losses see the same pairs of images from our crops as from the host's.

Each image has a colour of its own, and the crops that a list solarises at times are
inverted always; no other step touches colours. So the image, and where a list tells its
crops apart the crop too, are read off the pixels. In the place of a net stands a reader
that answers with the image's unit vector: a loss is then at its least if it compares
crops of one image, and at no other time.
"""

import pytest
import torch
from host_methods import BATCH, METHODS, arguments
from PIL import Image, ImageOps

# Red of image n is n times this; inverted it is above half of the range.
STEP = 12
# The others differ from one of these in sizes and numbers alone.
SELDOM = ("dino_deits8", "dino_xcit")
EACH = [pytest.param(n, marks=pytest.mark.slow) if n in SELDOM else n for n in METHODS]
PHOTOMETRIC = ("ImgPilColorDistortion", "ImgPilGaussianBlur")


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours")
    for number in range(BATCH):
        target = folder / f"class{number % 2}"
        target.mkdir(exist_ok=True)
        image = Image.new("RGB", (48, 48), (STEP * number, 50, 90))
        image.save(target / f"{number}.png")
    return folder


def without_colours(transforms):
    """The list without steps that change colours; what is solarised at times, always.

    Of the host's list and of ours the same: probabilities become 0 or 1.
    """
    kept = []
    for entry in transforms:
        if entry["name"] == "MultiCrop":
            for step in ("jitter", "grayscale", "blur"):
                entry[f"{step}_probability"] = 0.0
            shares = entry.get("solarize_probability", 0.0)
            many = shares if isinstance(shares, list) else [shares]
            entry["solarize_probability"] = [float(p > 0) for p in many]
            if not isinstance(shares, list):
                entry["solarize_probability"] = float(shares > 0)
            entry["solarize_threshold"] = 0
        elif entry["name"] == "ImgPilMultiCropRandomApply":
            (step,) = entry["transforms"]
            if step["name"] in PHOTOMETRIC:
                continue
            entry["prob"] = [float(p > 0) for p in entry["prob"]]
        elif entry["name"] in PHOTOMETRIC:
            continue
        kept.append(entry)
    return kept


@pytest.fixture
def batch_of(host, colours, tmp_path, monkeypatch):
    """`batch_of(name, overlaid=)`: an inferred config, and its first batch."""
    from classy_vision.generic import distributed_util
    from vissl.data import build_dataloader, build_dataset
    from vissl.data.ssl_transforms import pil_photometric_transforms_lib as library
    from vissl.utils.hydra_config import (
        compose_hydra_configuration,
        convert_to_attrdict,
    )

    def invert(self, image):
        return ImageOps.invert(image)

    monkeypatch.setattr(library.RandomSolarizeTransform, "__call__", invert)
    # The host's losses ask whether a run is on the CPU, which its trainer says.
    monkeypatch.setattr(distributed_util, "_cuda_device_index", -1)

    def make(name, *, overlaid):
        paths = f"config.DATA.TRAIN.DATA_PATHS=[{colours}]"
        given = arguments(name, paths, tmp_path, overlaid=overlaid)
        composed = compose_hydra_configuration(given)
        config = convert_to_attrdict(composed, dump_config=False)[1]
        train = config.DATA.TRAIN
        train.DATA_LIMIT = -1
        train.TRANSFORMS = without_colours(train.TRANSFORMS)
        loader = build_dataloader(
            build_dataset(config, "TRAIN"),
            train,
            0,
            pin_memory=False,
            multi_processing_method="forkserver",
            device=torch.device("cpu"),
            sampler_seed=0,
            split="train",
        )
        return config, next(iter(loader))

    return make


def read(value):
    """Image, whether inverted, and side of each row of a batch, in the model's order.

    VISSL's model answers to a list of crops with their rows, one crop after the other.
    """
    rows = []
    for crops in [value] if isinstance(value, torch.Tensor) else value:
        # The mean and std of ImageNet's red.
        red = (crops[:, 0].mean(dim=(1, 2)) * 0.229 + 0.485) * 255
        inverted = red > 127
        number = torch.where(inverted, 255 - red, red) / STEP
        side = torch.full_like(inverted, crops.shape[-1], dtype=torch.long)
        assert (number - number.round()).abs().max() < 0.2
        rows.append(torch.stack([number.round().long(), inverted.long(), side], dim=1))
    return torch.cat(rows).unbind(dim=1)


def unit_vectors(images, width):
    return torch.nn.functional.one_hot(images, width).float()


def loss_of(config, rows, keys=None):
    """The host's loss, as its step and hooks feed it; nothing that needs a group.

    Args:
        config: inferred.
        rows: image of each row of the model's output.
        keys: of the momentum encoder's input, where it has one.
    """
    from classy_vision.losses import build_loss

    name = config.LOSS.name
    config.LOSS[name].name = name
    loss = build_loss(config.LOSS[name])
    if name == "moco_loss":
        loss.key = unit_vectors(keys, BATCH)
        loss.queue.zero_()
        loss._dequeue_and_enqueue = lambda key: None
    if name == "dino_loss":
        width = config.LOSS.dino_loss.output_dim
        crops = rows.reshape(-1, BATCH)[list(config.LOSS.dino_loss.crops_for_teacher)]
        loss.teacher_output = unit_vectors(crops.flatten(), width)
        loss.teacher_temp = 0.04
        loss.update_center = lambda: None
        return float(loss([unit_vectors(rows, width)]))
    return float(loss(unit_vectors(rows, BATCH), rows))


@pytest.mark.parametrize("name", EACH)
def test_pairs_are_those_of_the_hosts_own_crops(batch_of, name):
    found = {}
    for overlaid in (True, False):
        config, batch = batch_of(name, overlaid=overlaid)
        images, inverted, sides = read(batch["data"][0])
        keys = None
        if "data_momentum" in batch:
            keys, *marks = read(batch["data_momentum"][0])
            inverted, sides = map(torch.cat, zip((inverted, sides), marks, strict=True))
        found[overlaid] = inverted.tolist(), sides.tolist()
        # What the loader says of the rows is what the pixels say.
        said = batch["data_idx"][0]
        said = said[:, 0] if said.ndim == 2 else said
        number_of = {int(i): int(n) for i, n in zip(said, images, strict=True)}
        assert sorted(number_of.values()) == list(range(BATCH))
        assert [number_of[int(i)] for i in said] == images.tolist()
        right, wrong = pairs(len(images) // BATCH)
        least, larger = loss_of(config, *right), loss_of(config, *wrong)
        given = (images,) if keys is None else (images, keys)
        assert loss_of(config, *given) == pytest.approx(least, abs=1e-5)
        assert larger > least + 0.1, "wrong pairs must show"
    # Which crop of an image is marked, and how large each one is.
    assert found[True] == found[False]


def pairs(num_crops):
    """Rows and keys in which all crops fit each other; and with the last one shifted.

    A loss on one crop a row has its second in the keys.
    """
    images = torch.arange(BATCH)
    rows, shifted = images.repeat(num_crops), images.roll(1)
    if num_crops == 1:
        return (rows, images), (rows, shifted)
    return (rows,), (torch.cat([rows[:-BATCH], shifted]),)


def test_the_marks_tell_the_crops_of_dino_and_barlow_twins_apart(batch_of):
    """The second large crop alone is solarised, and the teacher sees the large ones."""
    for name in ("barlow_twins", "dino_deits16"):
        config, batch = batch_of(name, overlaid=True)
        _, inverted, sides = read(batch["data"][0])
        by_crop = inverted.reshape(-1, BATCH)
        assert by_crop[1].all() and by_crop.sum() == BATCH
    teacher = list(config.LOSS.dino_loss.crops_for_teacher)
    assert teacher == [0, 1]
    large = sides.reshape(-1, BATCH)[:, 0] == 224
    assert large.nonzero().flatten().tolist() == teacher
