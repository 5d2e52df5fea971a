"""The batched dice fall as the scalar ones do, image by image and crop by crop."""

import math

import pytest
import torch

from vissl_swav.core.hashing import sample_keys
from vissl_swav.transforms import Box, CropParameters, MultiCrop
from vissl_swav.transforms.batched_draws import draw_batch
from vissl_swav.transforms.crop_parameters import JITTER_STEPS, draw_crops

SIZES = [
    *[(461, 380), (380, 461), (32, 32), (500, 60), (60, 500), (31, 33), (4000, 3000)],
    *[(1, 1), (1, 200), (200, 1), (2, 3), (7, 5), (9, 9)],
]
SETTINGS = {
    "paper": {},
    "large cuts": {"crop_scales": [(0.9, 1.0), (1.0, 1.0)]},
    "any cut": {"crop_scales": [(0.01, 1.0), (0.05, 0.14)], "crop_ratios": (0.2, 5)},
    "squares whose side ends in a half": {
        "crop_scales": [(0.25, 0.25), (0.0625, 0.0625)],
        "crop_ratios": (1.0, 1.0),
    },
    "one oblong": {"crop_scales": [(0.5, 0.5), (0.125, 0.5)], "crop_ratios": (2, 2)},
    "few steps": {"jitter": [(0.4, 0.0, 0.4, 0.0), (0.0, 1.5, 0.0, 0.5)]},
    "no jitter": {"jitter": (0.0, 0.0, 0.0, 0.0), "blur_radius": (0.0, 0.0)},
    "always": {
        f"{step}_probability": 1.0
        for step in ("flip", "jitter", "grayscale", "blur", "solarize")
    },
    "now and then": {"solarize_probability": [0.0, 0.3], "solarize_threshold": 99.5},
}


def groups_of(**settings):
    return MultiCrop(size_crops=[32, 16], num_crops=[2, 3], **settings).groups


def keys_of(count):
    return sample_keys(torch.arange(count), seed=3, epoch=1)


def row_of(crops, row):
    """One row as the scalar function would have returned it."""
    places, factors = crops.jitter_place[row].tolist(), crops.jitter_factor[row]
    steps = sorted((p, s) for s, p in enumerate(places) if p >= 0)
    assert [place for place, _ in steps] == list(range(len(steps)))
    radius = crops.blur_radius[row].item()
    threshold = crops.solarize_threshold[row].item()
    return CropParameters(
        size=crops.group.size,
        box=Box(*crops.box[row].tolist()),
        flip=bool(crops.flip[row]),
        jitter=tuple((JITTER_STEPS[step], factors[step].item()) for _, step in steps),
        grayscale=bool(crops.grayscale[row]),
        blur_radius=radius if radius > 0 else None,
        solarize_threshold=None if math.isinf(threshold) else threshold,
    )


def image_of(drawn, image, num_images):
    return [
        row_of(crops, crop * num_images + image)
        for crops in drawn
        for crop in range(crops.group.count)
    ]


def without_blur_of_nothing(crops):
    """A drawn radius of 0 is a blur that changes nothing: batched, it is none."""
    return [
        CropParameters(**(vars(crop) | {"blur_radius": crop.blur_radius or None}))
        for crop in crops
    ]


@pytest.mark.parametrize("name", SETTINGS)
def test_every_draw_is_the_scalar_one(name):
    groups, keys = groups_of(**SETTINGS[name]), keys_of(40 * len(SIZES))
    sizes = SIZES * 40
    drawn = draw_batch(groups, keys=keys, image_sizes=torch.tensor(sizes))
    for image, (size, key) in enumerate(zip(sizes, keys.tolist(), strict=True)):
        expected = draw_crops(groups, image_size=size, key=key)
        assert image_of(drawn, image, len(sizes)) == without_blur_of_nothing(expected)


def test_thousands_of_keys():
    solarizing = dict(solarize_probability=0.2, solarize_threshold=(0, 256))
    groups, keys = groups_of(**solarizing), keys_of(4000)
    sizes = torch.stack([keys % 601 + 1, keys // 601 % 500 + 1], dim=1)
    drawn = draw_batch(groups, keys=keys, image_sizes=sizes)
    for image, (size, key) in enumerate(
        zip(sizes.tolist(), keys.tolist(), strict=True)
    ):
        expected = draw_crops(groups, image_size=tuple(size), key=key)
        assert image_of(drawn, image, 4000) == expected


def test_an_images_draws_are_its_own():
    """In another batch, at another place: the same."""
    groups, keys = groups_of(), keys_of(9)
    sizes = torch.tensor(SIZES[:9])
    whole = draw_batch(groups, keys=keys, image_sizes=sizes)
    alone = draw_batch(groups, keys=keys[5:6], image_sizes=sizes[5:6])
    assert image_of(whole, 5, 9) == image_of(alone, 0, 1)
    assert image_of(whole, 4, 9) != image_of(alone, 0, 1)


def test_steps_left_out_are_neutral():
    (crops,) = draw_batch(
        MultiCrop(size_crops=[8], num_crops=[500], crop_scales=[(0.1, 1)]).groups,
        keys=keys_of(1),
        image_sizes=torch.tensor([(50, 40)]),
    )
    left_out = crops.jitter_place < 0
    assert 0 < left_out.sum() < left_out.numel()
    neutral = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64).expand(500, -1)
    assert torch.equal(crops.jitter_factor[left_out], neutral[left_out])


def test_rows_can_be_taken():
    (crops, _) = draw_batch(
        groups_of(), keys=keys_of(4), image_sizes=torch.tensor(SIZES[:4])
    )
    taken = crops.take(torch.tensor([6, 1]))
    assert len(crops) == 8 and len(taken) == 2
    assert row_of(taken, 0) == row_of(crops, 6)
    assert row_of(crops.take(slice(1, 3)), 0) == row_of(taken, 1)


@pytest.mark.parametrize(
    ("keys", "sizes", "said"),
    [
        (torch.zeros(2), torch.ones(2, 2).long(), r"keys are \(2,\) torch.float32"),
        (torch.zeros(2, 1).long(), torch.ones(2, 2).long(), r"keys are \(2, 1\)"),
        (torch.zeros(2).long(), torch.ones(3, 2).long(), r"wanted integers \(2, 2\)"),
        (torch.zeros(2).long(), torch.ones(2, 2), "torch.float32; wanted integers"),
        (torch.zeros(2).long(), torch.ones(2, 2, device="meta").long(), "on meta"),
    ],
)
def test_wrong_arguments_are_named(keys, sizes, said):
    with pytest.raises(ValueError, match=said):
        draw_batch(groups_of(), keys=keys, image_sizes=sizes)


@pytest.mark.gpu
def test_a_gpu_draws_the_same():
    groups, keys = groups_of(solarize_probability=0.2), keys_of(4000)
    sizes = torch.stack([keys % 601 + 1, keys // 601 % 500 + 1], dim=1)
    here = draw_batch(groups, keys=keys, image_sizes=sizes)
    there = draw_batch(groups, keys=keys.cuda(), image_sizes=sizes.cuda())
    for a, b in zip(here, there, strict=True):
        b = b.to(torch.device("cpu"))
        for name in ("box", "flip", "jitter_place", "jitter_factor", "grayscale"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name
        assert torch.equal(a.blur_radius, b.blur_radius)
        assert torch.equal(a.solarize_threshold, b.solarize_threshold)
