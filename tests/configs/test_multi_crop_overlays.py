"""The overlays `multi_crop/` ask of MultiCrop what VISSL's own lists draw.

The host builds each of its lists; what its transforms were made with is read off the
objects, so that a default that a list leaves out is the host's and torchvision's own.
"""

from dataclasses import dataclass, fields

import pytest
import yaml
from config_catalogue import OVERLAYS

FOR_THE_HOST = [file for file in OVERLAYS if "/multi_crop/" in file.name]
VIT = "config=pretrain/vision_transformer"
# Overlay, and a run of the host's it is for, with the host's overlays.
CASES = {
    ("simclr", "config=pretrain/simclr/simclr_8node_resnet"): (),
    ("simclr", f"{VIT}/simclr/vit_b16"): (),
    ("simclr", f"{VIT}/simclr/vit_l16"): (),
    ("simclr", f"{VIT}/moco/vit_b16"): (),
    ("simclr_2x160_4x96", "config=pretrain/simclr/simclr_8node_resnet"): (
        "+config/pretrain/simclr/transforms=multicrop_2x160_4x96",
    ),
    ("moco", "config=pretrain/moco/moco_1node_resnet"): (),
    ("barlow_twins", "config=pretrain/barlow_twins/barlow_twins_4node_resnet"): (),
    ("dino_deits16", "config=pretrain/dino/dino_16gpus_deits16"): (),
    ("dino_deits8", "config=pretrain/dino/dino_64gpus_deits8"): (),
    ("dino_xcit", "config=pretrain/dino/dino_16gpus_xcit_small_12_p16"): (),
}
PAIRS = [(overlay, (run, *more)) for (overlay, run), more in CASES.items()]
each_pair = pytest.mark.parametrize(
    ("overlay", "base"),
    PAIRS,
    ids=[f"{overlay}-on-{run.rpartition('/')[2]}" for overlay, (run, *_) in PAIRS],
)


@dataclass
class Crop:
    """What is drawn of one crop; a step that a list lacks has probability 0.

    Thresholds are the smallest and the largest that solarising draws.
    """

    size: tuple[int, int]
    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: float = 0.0
    jitter: tuple[tuple[float, float], ...] = ()
    jittered: float = 0.0
    grey: float = 0.0
    blurred: float = 0.0
    radius: tuple[float, float] = (0.0, 0.0)
    solarized: float = 0.0
    thresholds: tuple[int, int] = (0, 0)


def wraps_of(transforms):
    """The host's own objects of a transform list, each with its name."""
    from vissl.data.ssl_transforms import get_transform

    return [
        (wrap.name, wrap.transform) for wrap in get_transform(transforms).transforms
    ]


def crops_of_the_host(transforms):
    """One `Crop` for each that the host's list makes, and its mean and std."""
    crops, count, normalized = [], 1, None
    for name, made in wraps_of(transforms):
        if name == "ImgReplicatePil":
            count = made.num_times
        elif name == "RandomResizedCrop":
            crops = [cut(made) for _ in range(count)]
        elif name == "ImgPilToMultiCrop":
            crops = [cut(each) for each in made.transforms]
        elif name == "ImgPilMultiCropRandomApply":
            for crop, apply in zip(crops, made.transforms, strict=True):
                (compose,) = apply.transforms
                (inner,) = compose.transforms
                add_step(crop, inner, share=apply.p)
        elif name == "Normalize":
            normalized = (list(made.mean), list(made.std))
        elif name != "ToTensor":
            for crop in crops:
                add_step(crop, made)
    return crops, normalized


def cut(random_resized_crop):
    made = random_resized_crop
    assert made.interpolation.value == "bilinear"
    return Crop(size=tuple(made.size), scale=tuple(made.scale), ratio=tuple(made.ratio))


def add_step(crop, step, share=1.0):
    """Notes a step that is applied to `share` of the crops."""
    name = type(step).__name__
    if name == "RandomHorizontalFlip":
        crop.flip = share * step.p
    elif name == "ImgPilColorDistortion":
        jitter = step.color_jitter
        crop.jitter = (
            jitter.brightness,
            jitter.contrast,
            jitter.saturation,
            jitter.hue,
        )
        crop.jittered = share * step.rnd_color_jitter.p
        crop.grey = share * step.rnd_gray.p
    elif name == "ImgPilGaussianBlur":
        crop.blurred = share * step.prob
        crop.radius = (step.radius_min, step.radius_max)
    else:
        assert name == "ImgPilRandomSolarize", f"{name} is not in MultiCrop"
        (solarize,) = step.transform.transforms
        crop.solarized = share * step.transform.p
        crop.thresholds = (solarize.min_v, solarize.max_v)


def crops_of_ours(multi_crop):
    """One `Crop` for each of MultiCrop's."""
    return [
        Crop(
            size=(group.size, group.size),
            scale=group.scale,
            ratio=group.ratio,
            flip=group.flip_probability,
            jitter=bounds(group.jitter),
            jittered=group.jitter_probability,
            grey=group.grayscale_probability,
            blurred=group.blur_probability,
            radius=group.blur_radius,
            solarized=group.solarize_probability,
            thresholds=group.solarize_threshold,
        )
        for group in multi_crop.groups
        for _ in range(group.count)
    ]


def bounds(strengths):
    *factors, hue = strengths
    return (*((max(0, 1 - s), 1 + s) for s in factors), (-hue, hue))


def flat(value):
    return [x for part in value for x in flat(part)] if is_nested(value) else [value]


def is_nested(value):
    return isinstance(value, (list, tuple))


def plain(config):
    return config.to_dict() if hasattr(config, "to_dict") else config


@each_pair
def test_draws_are_those_of_the_hosts_list(overlay, base, complete):
    from vissl_swav.host.settings import multi_crop

    over = complete(*base, f"+config/pretrain/multi_crop={overlay}")
    theirs, normalized = crops_of_the_host(complete(*base).DATA.TRAIN.TRANSFORMS)
    (entry,) = over.DATA.TRAIN.TRANSFORMS
    made = multi_crop(entry)
    ours = crops_of_ours(made)
    assert len(ours) == len(theirs) >= 2
    for mine, crop in zip(ours, theirs, strict=True):
        for field in fields(Crop):
            if field.name == "thresholds" and not crop.solarized:
                continue
            found, wanted = getattr(mine, field.name), getattr(crop, field.name)
            assert flat(found) == pytest.approx(flat(wanted)), field.name
    assert (made.normalization.mean, made.normalization.std) == tuple(
        tuple(values) for values in normalized
    )


@each_pair
def test_nothing_but_source_and_list_changes(overlay, base, complete):
    """Loss, collator, number of crops, optimiser: all as they are without it."""
    before = complete(*base)
    after = complete(*base, f"+config/pretrain/multi_crop={overlay}")
    assert after.DATA.TRAIN.DATA_SOURCES == ["images"]
    for config in (before, after):
        for key in ("DATA_SOURCES", "TRANSFORMS"):
            del config.DATA.TRAIN[key]
    assert plain(after) == plain(before)


@pytest.mark.parametrize("file", FOR_THE_HOST, ids=lambda file: file.name)
def test_file_holds_source_and_list_only(file):
    content = yaml.safe_load(file.text)
    assert set(content) == {"config"} and set(content["config"]) == {"DATA"}
    (split,) = content["config"]["DATA"].items()
    assert split[0] == "TRAIN" and set(split[1]) == {"DATA_SOURCES", "TRANSFORMS"}


def test_every_file_has_a_run_that_it_is_held_to():
    files = {file.name.rpartition("/")[2] for file in FOR_THE_HOST}
    assert files == {overlay for overlay, _ in PAIRS} and len(files) == 7
