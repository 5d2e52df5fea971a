"""Every batched pixel step against Pillow's, each image with its own parameters.

Differences are in levels of 255. Ours are not rounded; Pillow's are, most downwards.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from reference import extended_box

from vissl_swav.transforms import Box, CropParameters, photometric
from vissl_swav.transforms.batched_draws import BatchedCrops
from vissl_swav.transforms.batched_pixels import (
    blend,
    drop_colour,
    jitter,
    jitter_slots,
    normalize_into,
    shift_hue,
    solarize,
)
from vissl_swav.transforms.batched_resampling import (
    blur,
    cut_and_resize,
    triangle_weights,
)
from vissl_swav.transforms.blur_kernels import blur_kernels
from vissl_swav.transforms.crop_groups import make_groups
from vissl_swav.transforms.crop_parameters import JITTER_STEPS

FACTORS = [0.0, 0.2, 0.7, 1.0, 1.3, 1.8]


def photograph(seed, width=96, height=96):
    """Smooth colours and noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth) + random.normal(0, 8, (height, width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


@pytest.fixture
def images():
    return [photograph(seed) for seed in range(6)]


def as_crops(images):
    """(N, S, C, S)."""
    return torch.from_numpy(np.stack(images)).permute(0, 1, 3, 2).float()


def differences(crops, images):
    """Mean over each image's pixels (N,)."""
    assert crops.dtype == torch.float32
    assert crops.min() >= 0 and crops.max() <= 255
    return (crops - as_crops(images)).abs().mean(dim=(1, 2, 3))


def zeros(like):
    return torch.zeros_like(like)


@pytest.mark.parametrize("step", JITTER_STEPS[:3])
def test_blends(images, step):
    weight = 1 - torch.tensor(FACTORS)
    flags = {"contrast": "mean", "saturation": "grey"}
    chosen = {"mean": zeros(weight), "grey": zeros(weight)}
    if step in flags:
        chosen[flags[step]] = torch.ones_like(weight)
    ours = blend(as_crops(images), weight, **chosen)
    theirs = [
        photometric.JITTER[step](i, f) for i, f in zip(images, FACTORS, strict=True)
    ]
    assert differences(ours, theirs).max() < 1.0
    assert torch.equal(ours[3], as_crops(images)[3])


@pytest.mark.parametrize("turns", [(0.0, 0.05, -0.05, 0.2, -0.2, 0.5)])
def test_hue(images, turns):
    ours = shift_hue(as_crops(images), torch.tensor(turns))
    theirs = [photometric.shift_hue(i, t) for i, t in zip(images, turns, strict=True)]
    found = differences(ours, theirs)
    assert found.max() < 2.5 and found.mean() < 2.0


def test_no_hue_shift_is_no_change_and_a_third_of_a_turn_moves_the_channels(images):
    crops = as_crops(images)
    still = shift_hue(crops.clone(), torch.zeros(6))
    torch.testing.assert_close(still, crops, rtol=0, atol=2e-3)
    moved = shift_hue(crops.clone(), torch.full((6,), 1 / 3))
    torch.testing.assert_close(moved, crops.roll(1, dims=2), rtol=0, atol=2e-3)
    grey = torch.full((1, 2, 3, 2), 77.0)
    assert torch.equal(shift_hue(grey.clone(), torch.tensor([0.3])), grey)


def test_grayscale_of_some(images):
    wanted = torch.tensor([True, False, True, False, False, True])
    ours = drop_colour(as_crops(images), wanted)
    theirs = [
        photometric.drop_colour(i) if w else i
        for i, w in zip(images, wanted.tolist(), strict=True)
    ]
    found = differences(ours, theirs)
    assert found.max() < 0.5
    assert torch.equal(found[~wanted], torch.zeros(3))


def test_solarize(images):
    thresholds = [0.0, 100.0, 99.5, 128.0, 256.0, float("inf")]
    ours = solarize(as_crops(images), torch.tensor(thresholds))
    theirs = [
        photometric.solarize(i, min(t, 256))
        for i, t in zip(images, thresholds, strict=True)
    ]
    assert torch.equal(ours, as_crops(theirs))


@pytest.mark.parametrize("size", [96, 40])
def test_blur(size):
    radii = [0.0, 0.1, 0.5, 1.0, 1.5, 2.0]
    images = [photograph(seed, size, size) for seed in range(6)]
    ours = blur(as_crops(images), blur_kernels(torch.tensor(radii), largest=2.0))
    theirs = [photometric.blur(i, r) for i, r in zip(images, radii, strict=True)]
    assert differences(ours, theirs).max() < 1.0
    assert torch.equal(ours[0], as_crops(images)[0])


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_blur_wider_than_the_crop(size):
    crops = torch.rand(3, size, 3, size) * 255
    blurred = blur(crops, blur_kernels(torch.tensor([0.0, 3.0, 9.0]), largest=9.0))
    assert blurred.shape == crops.shape
    assert blurred.min() >= crops.min() - 1e-3 and blurred.max() <= crops.max() + 1e-3
    flat = blur(torch.full_like(crops, 60.0), blur_kernels(torch.ones(3), largest=9.0))
    torch.testing.assert_close(flat, torch.full_like(crops, 60.0))


def test_kernels_are_three_boxes():
    radii = torch.linspace(0, 5, 101, dtype=torch.float64)
    for radius, kernel in zip(radii, blur_kernels(radii, largest=5.0), strict=True):
        box = extended_box(radius.item() ** 2 / 3)
        expected = np.convolve(np.convolve(box, box), box)
        spare = (len(kernel) - len(expected)) // 2
        expected = np.pad(expected, spare)
        np.testing.assert_allclose(kernel.numpy(), expected, atol=1e-6)


BOXES = [
    Box(0, 0, 61, 83),
    Box(10, 20, 40, 30),
    Box(5, 5, 1, 1),
    Box(60, 82, 1, 1),
    Box(21, 3, 40, 80),
    Box(0, 50, 61, 4),
]


@pytest.mark.parametrize("size", [16, 96])
@pytest.mark.parametrize("window", [(61, 83), (61, 90), (70, 90)])
def test_cut_and_resize(size, window):
    """The batch is padded with noise, which must not leak in; every other is turned."""
    padded = torch.randint(0, 256, (6, 3, 70, 90), dtype=torch.uint8)
    images = [photograph(seed, 83, 61) for seed in range(6)]
    padded[:, :, :61, :83] = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    image_ids = torch.tensor([3, 1, 4, 0, 0, 5])
    flip = torch.tensor([True, False] * 3)
    ours = cut_and_resize(
        padded,
        image_ids=image_ids,
        box=torch.tensor(BOXES),
        flip=flip,
        size=size,
        window=window,
    )
    for row, (image, box) in enumerate(zip(image_ids.tolist(), BOXES, strict=True)):
        theirs = photometric.cut_and_resize(images[image], box, size)
        if flip[row]:
            theirs = photometric.flip_left_right(theirs)
        assert differences(ours[row : row + 1], [theirs]).item() < 0.6, box


def test_shrinking_is_antialiased():
    board = (torch.arange(96)[:, None] + torch.arange(96)) % 2 * 255
    small = cut_and_resize(
        board.to(torch.uint8).expand(1, 3, 96, 96).contiguous(),
        image_ids=torch.tensor([0]),
        box=torch.tensor([(0, 0, 96, 96)]),
        flip=torch.tensor([False]),
        size=32,
        window=(96, 96),
    )[0, 2:-2, :, 2:-2]
    # 255 / 3^4 is what a triangle over six pixels leaves; it shows as three levels.
    assert (small.max() - small.min()).item() == pytest.approx(255 / 81, abs=1e-3)
    assert small.round().max() - small.round().min() <= 3
    assert small.mean() == pytest.approx(127.5, abs=0.1)


def test_weights_sum_to_one_within_the_cut_and_same_size_is_the_identity():
    offset, extent = torch.tensor([0, 2, 5]), torch.tensor([9, 3, 1])
    weights = triangle_weights(offset, extent, size=4, length=9)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(3, 4))
    assert weights[1, :, :2].abs().max() == weights[1, :, 5:].abs().max() == 0
    same = triangle_weights(torch.tensor([1]), torch.tensor([4]), size=4, length=6)
    assert torch.equal(same[0, :, 1:5], torch.eye(4))


ORDERS = [
    *[(), ("hue",), ("contrast",)],
    *[("hue", "contrast", "brightness", "saturation")],
    *[("contrast", "hue", "saturation", "brightness")],
    *[("saturation", "brightness", "contrast", "hue")],
]
STRENGTHS = {"brightness": 1.6, "contrast": 0.4, "saturation": 1.7, "hue": 0.1}


def crops_with(orders, strengths=(0.8, 0.8, 0.8, 0.2)):
    groups = make_groups(
        size_crops=[96],
        num_crops=[1],
        crop_scales=[(0.1, 1.0)],
        crop_ratios=(1.0, 1.0),
        flip_probability=0.0,
        jitter=strengths,
        jitter_probability=1.0,
        grayscale_probability=0.0,
        blur_probability=0.0,
        blur_radius=(0.1, 2.0),
        solarize_probability=0.0,
        solarize_threshold=128,
    )
    place = [[o.index(s) if s in o else -1 for s in JITTER_STEPS] for o in orders]
    neutral = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    factor = [
        [(STRENGTHS if s in o else neutral)[s] for s in JITTER_STEPS] for o in orders
    ]
    none = torch.zeros(len(orders))
    return BatchedCrops(
        group=groups[0],
        box=torch.tensor([(0, 0, 96, 96)] * len(orders)),
        flip=none.bool(),
        jitter_place=torch.tensor(place),
        jitter_factor=torch.tensor(factor, dtype=torch.float64),
        grayscale=none.bool(),
        blur_radius=none.double(),
        solarize_threshold=none.double() + torch.inf,
    )


def with_pillow(image, order):
    parameters = CropParameters(size=96, box=Box(0, 0, 96, 96))
    assert parameters.jitter == ()
    for step in order:
        image = photometric.JITTER[step](image, STRENGTHS[step])
    return image


def test_jitter_in_each_images_own_order(images):
    slots = jitter_slots(crops_with(ORDERS))
    assert slots.weight.shape == (6, 6) and slots.before_hue == 3
    ours = jitter(as_crops(images), slots, known=slots)
    theirs = [with_pillow(i, o) for i, o in zip(images, ORDERS, strict=True)]
    found = differences(ours, theirs)
    assert found.max() < 3.0 and found.mean() < 2.0
    assert found[0] < 1e-3
    other = [with_pillow(i, o[::-1]) for i, o in zip(images, ORDERS, strict=True)]
    assert differences(ours, other)[3:].min() > 4.0


def test_jitter_without_hue_takes_half_the_slots(images):
    orders = [("contrast", "brightness"), ("brightness", "contrast"), ()] * 2
    slots = jitter_slots(crops_with(orders, (0.8, 0.8, 0.0, 0.0)))
    assert slots.weight.shape == (6, 2) and slots.before_hue == 0
    ours = jitter(as_crops(images), slots, known=slots)
    theirs = [with_pillow(i, o) for i, o in zip(images, orders, strict=True)]
    assert differences(ours, theirs).max() < 2.0


def test_one_channel_has_no_colour():
    crops = torch.rand(2, 8, 1, 8) * 255
    same = shift_hue(crops.clone(), torch.full((2,), 0.3))
    assert torch.equal(same, crops)
    assert torch.equal(drop_colour(crops.clone(), torch.ones(2).bool()), crops)
    weight = torch.tensor([0.8, -0.8])
    ours = blend(crops.clone(), weight, mean=zeros(weight), grey=zeros(weight) + 1)
    torch.testing.assert_close(ours, crops)


def test_normalize():
    crops = torch.rand(2, 4, 3, 4) * 255
    out = torch.empty(2, 3, 4, 4, dtype=torch.float64)
    normalize_into(out, crops.clone(), mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 1.0, 2.0])
    planes = crops.permute(0, 2, 1, 3) / 255
    expected = (planes - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(out, expected.double(), rtol=0, atol=1e-5)
