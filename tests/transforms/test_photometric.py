"""Pixel equality of every step with torchvision's reference on PIL images."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from vissl_swav.transforms import Box, CropParameters, MultiCrop, photometric

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture
def image():
    """Smooth colours and noise, so that no step meets flat grey only."""
    random = np.random.default_rng(7)
    coarse = random.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize((83, 61), Image.Resampling.BICUBIC)
    noise = random.integers(-20, 21, (61, 83, 3))
    levels = np.clip(np.asarray(smooth).astype(int) + noise, 0, 255)
    return Image.fromarray(levels.astype(np.uint8))


def same(ours, theirs):
    return np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("factor", [0.0, 0.2, 0.73, 1.0, 1.8])
def test_factors(functional, image, factor):
    assert same(
        photometric.adjust_brightness(image, factor),
        functional.adjust_brightness(image, factor),
    )
    assert same(
        photometric.adjust_contrast(image, factor),
        functional.adjust_contrast(image, factor),
    )
    assert same(
        photometric.adjust_saturation(image, factor),
        functional.adjust_saturation(image, factor),
    )


@pytest.mark.parametrize("turns", [-0.5, -0.2, -0.001, 0.0, 0.05, 0.2, 0.5])
def test_hue(functional, image, turns):
    ours, theirs = photometric.shift_hue(image, turns), functional.adjust_hue
    assert same(ours, theirs(image, turns))


def test_grayscale_flip_and_tensor(functional, image):
    assert same(photometric.drop_colour(image), functional.to_grayscale(image, 3))
    assert same(photometric.flip_left_right(image), functional.hflip(image))
    tensor = functional.to_tensor(image)
    assert torch.equal(photometric.to_planes(image, 3).float().div(255), tensor)
    assert torch.equal(photometric.to_planes(image, 3).float().div(255), tensor)


@pytest.mark.parametrize("threshold", [0, 100, 128, 256])
def test_solarize(functional, image, threshold):
    theirs = functional.solarize(image, threshold)
    assert same(photometric.solarize(image, threshold), theirs)


def test_solarize_between_levels_rounds_up(image):
    between, above = (photometric.solarize(image, t) for t in (99.5, 100))
    assert same(between, above)
    assert not same(between, photometric.solarize(image, 99))


@pytest.mark.parametrize(
    "box", [Box(0, 0, 61, 83), Box(10, 20, 40, 30), Box(5, 5, 1, 1)]
)
@pytest.mark.parametrize("size", [16, 96])
def test_cut_and_resize(functional, image, box, size):
    theirs = functional.resized_crop(image, *box, size=[size, size])
    assert same(photometric.cut_and_resize(image, box, size), theirs)


def test_shrinking_is_antialiased():
    board = np.indices((96, 96)).sum(axis=0) % 2 * 255
    image = Image.fromarray(board.astype(np.uint8)).convert("RGB")
    small = photometric.cut_and_resize(image, Box(0, 0, 96, 96), 32)
    assert np.ptp(np.asarray(small)[2:-2, 2:-2].astype(int)) <= 3


@pytest.mark.parametrize(("backend", "tolerance"), [("pillow", 1e-6), ("opencv", 0.3)])
def test_apply_is_the_steps_in_the_papers_order(functional, image, backend, tolerance):
    parameters = CropParameters(
        size=32,
        box=Box(3, 7, 50, 60),
        flip=True,
        jitter=(("hue", 0.1), ("contrast", 0.5), ("saturation", 1.7)),
        grayscale=True,
        blur_radius=1.3,
        solarize_threshold=120,
    )
    crop = functional.hflip(functional.resized_crop(image, 3, 7, 50, 60, [32, 32]))
    crop = functional.adjust_contrast(functional.adjust_hue(crop, 0.1), 0.5)
    crop = functional.to_grayscale(functional.adjust_saturation(crop, 1.7), 3)
    crop = functional.solarize(crop.filter(ImageFilter.GaussianBlur(1.3)), 120)
    expected = functional.normalize(functional.to_tensor(crop), MEAN, STD)
    crop = MultiCrop(backend=backend).apply(image, parameters)
    torch.testing.assert_close(crop, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("backend", ["opencv", "pillow"])
def test_order_of_jitter_matters(image, backend):
    steps = (("contrast", 0.3), ("brightness", 1.8))
    there, back = (
        CropParameters(size=32, box=Box(0, 0, 61, 83), jitter=order)
        for order in (steps, steps[::-1])
    )
    transform = MultiCrop(backend=backend)
    assert not torch.equal(transform.apply(image, there), transform.apply(image, back))


def test_blur_has_the_stated_width():
    """An edge blurred with standard deviation r has slope 1 / (r sqrt(2 pi))."""
    levels = np.zeros((41, 41, 3), np.uint8)
    levels[:, 21:] = 255
    for radius in (1.0, 2.0):
        blurred = np.asarray(photometric.blur(Image.fromarray(levels), radius))
        slope = np.diff(blurred[20, :, 0].astype(float)).max() / 255
        assert slope == pytest.approx(1 / (radius * np.sqrt(2 * np.pi)), rel=0.12)
