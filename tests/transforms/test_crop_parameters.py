"""The dice: every drawn quantity has the distribution that the paper's code has."""

import math
from collections import Counter

import pytest
import torch

from vissl_swav.core.hashing import keyed_uniforms
from vissl_swav.transforms import MultiCrop
from vissl_swav.transforms.crop_parameters import JITTER_STEPS, _uniforms

NUM_DRAWS = 6000


def draw_many(*, image_size=(400, 300), **settings):
    transform = MultiCrop(
        size_crops=[32],
        num_crops=[NUM_DRAWS],
        **{"crop_scales": [(0.14, 1.0)]} | settings,
    )
    return transform.draw(image_size, torch.Generator().manual_seed(0))


def distance_from_uniform(values, low, high):
    """Kolmogorov-Smirnov distance; below 0.021 in 99 % of runs at 6000 draws."""
    place = torch.tensor(sorted(values), dtype=torch.float64).sub(low) / (high - low)
    steps = torch.arange(1, len(values) + 1, dtype=torch.float64) / len(values)
    return (place - steps).abs().max().item()


def share(flags):
    return sum(flags) / NUM_DRAWS


# Four standard deviations of a share of 6000 draws are at most 0.026.
def test_probabilities():
    drawn = draw_many(solarize_probability=0.1)
    assert share(crop.flip for crop in drawn) == pytest.approx(0.5, abs=0.026)
    assert share(bool(crop.jitter) for crop in drawn) == pytest.approx(0.8, abs=0.021)
    assert share(crop.grayscale for crop in drawn) == pytest.approx(0.2, abs=0.021)
    blurred = share(crop.blur_radius is not None for crop in drawn)
    assert blurred == pytest.approx(0.5, abs=0.026)
    solarized = share(crop.solarize_threshold is not None for crop in drawn)
    assert solarized == pytest.approx(0.1, abs=0.016)


def test_probability_zero_is_never_and_one_is_always():
    steps = ("flip", "jitter", "grayscale", "blur", "solarize")
    never = draw_many(**{f"{step}_probability": 0.0 for step in steps})
    always = draw_many(**{f"{step}_probability": 1.0 for step in steps})
    assert not any(crop.flip or crop.jitter or crop.grayscale for crop in never)
    assert all(crop.blur_radius is crop.solarize_threshold is None for crop in never)
    assert all(crop.flip and crop.jitter and crop.grayscale for crop in always)
    assert all(crop.solarize_threshold == 128 for crop in always)


@pytest.mark.parametrize("probability", [0.3, 1.0])
def test_solarize_thresholds_are_uniform_over_their_range(probability):
    drawn = draw_many(solarize_probability=probability, solarize_threshold=(100, 103))
    found = Counter(
        crop.solarize_threshold for crop in drawn if crop.solarize_threshold is not None
    )
    assert set(found) == {100, 101, 102, 103}
    total = sum(found.values())
    assert total / NUM_DRAWS == pytest.approx(probability, abs=0.025)
    for count in found.values():
        # Four standard deviations of a quarter.
        assert count / total == pytest.approx(0.25, abs=4 * 0.433 / total**0.5)


def test_steps_are_independent():
    drawn = draw_many()
    both = share(crop.flip and crop.blur_radius is not None for crop in drawn)
    assert both == pytest.approx(0.25, abs=0.023)
    both = share(bool(crop.jitter) and crop.grayscale for crop in drawn)
    assert both == pytest.approx(0.16, abs=0.019)


def test_area_is_uniform_and_ratio_log_uniform():
    """On cuts that always fit, so that no redraw bends the distributions."""
    drawn = draw_many(crop_scales=[(0.05, 0.14)], image_size=(4000, 4000))
    areas = [crop.box.width * crop.box.height / 4000**2 for crop in drawn]
    ratios = [math.log(crop.box.width / crop.box.height) for crop in drawn]
    assert distance_from_uniform(areas, 0.05, 0.14) < 0.021
    assert distance_from_uniform(ratios, math.log(3 / 4), math.log(4 / 3)) < 0.021


def test_place_is_uniform_over_all_that_fit():
    drawn = draw_many(
        crop_scales=[(0.25, 0.25)], crop_ratios=(1.0, 1.0), image_size=(8, 8)
    )
    places = Counter((crop.box.top, crop.box.left) for crop in drawn)
    assert set(places) == {(top, left) for top in range(5) for left in range(5)}
    expected = NUM_DRAWS / 25
    chi_square = sum((n - expected) ** 2 / expected for n in places.values())
    assert chi_square < 51.2  # 24 degrees of freedom: exceeded once in 1000 runs


@pytest.mark.parametrize("image_size", [(400, 300), (90, 400), (500, 60), (32, 32)])
@pytest.mark.parametrize("scale", [(0.14, 1.0), (0.05, 0.14), (0.9, 1.0)])
def test_same_cuts_as_torchvision(torchvision_transforms, image_size, scale):
    """Two-sample distance below its 99.9 % quantile, 1.95 sqrt(2 / n)."""
    torch.manual_seed(1)
    image = torch.empty(1, image_size[1], image_size[0])
    resized_crop = torchvision_transforms.RandomResizedCrop
    theirs = [
        resized_crop.get_params(image, list(scale), [3 / 4, 4 / 3])
        for _ in range(NUM_DRAWS)
    ]
    ours = [tuple(c.box) for c in draw_many(crop_scales=[scale], image_size=image_size)]
    for column in range(4):
        a = torch.tensor([box[column] for box in ours])
        b = torch.tensor([box[column] for box in theirs])
        levels = torch.unique(torch.cat([a, b]))
        below_a = torch.searchsorted(a.sort().values, levels, right=True)
        below_b = torch.searchsorted(b.sort().values, levels, right=True)
        distance = (below_a - below_b).abs().max().item() / NUM_DRAWS
        assert distance < 1.95 * math.sqrt(2 / NUM_DRAWS)


def test_boxes_lie_inside_the_image():
    for image_size in [(1, 50), (50, 1), (1, 1), (7, 3), (400, 300)]:
        for crop in draw_many(crop_scales=[(0.05, 1.0)], image_size=image_size):
            top, left, height, width = crop.box
            assert height >= 1 and width >= 1
            assert 0 <= top <= image_size[1] - height
            assert 0 <= left <= image_size[0] - width


def test_jitter_factors_are_uniform_in_their_ranges():
    drawn = [crop for crop in draw_many(jitter_probability=1.0)]
    for name, low, high in [
        ("brightness", 0.2, 1.8),
        ("contrast", 0.2, 1.8),
        ("saturation", 0.2, 1.8),
        ("hue", -0.2, 0.2),
    ]:
        factors = [dict(crop.jitter)[name] for crop in drawn]
        assert distance_from_uniform(factors, low, high) < 0.021


def test_strong_jitter_never_has_a_negative_factor():
    drawn = draw_many(jitter=(1.5, 1.5, 1.5, 0.5), jitter_probability=1.0)
    factors = [dict(crop.jitter)["brightness"] for crop in drawn]
    assert distance_from_uniform(factors, 0.0, 2.5) < 0.021


def test_all_orders_of_jitter_are_equally_likely():
    drawn = draw_many(jitter_probability=1.0)
    orders = Counter(tuple(name for name, _ in crop.jitter) for crop in drawn)
    assert len(orders) == 24
    assert all(sorted(order) == sorted(JITTER_STEPS) for order in orders)
    expected = NUM_DRAWS / 24
    chi_square = sum((n - expected) ** 2 / expected for n in orders.values())
    assert chi_square < 49.7  # 23 degrees of freedom: exceeded once in 1000 runs


def test_a_jitter_step_of_strength_zero_is_left_out():
    drawn = draw_many(jitter=(0.4, 0.0, 0.4, 0.0), jitter_probability=1.0)
    assert all({"brightness", "saturation"} == dict(c.jitter).keys() for c in drawn)


def test_blur_radius_is_uniform():
    radii = [crop.blur_radius for crop in draw_many(blur_probability=1.0)]
    assert distance_from_uniform(radii, 0.1, 2.0) < 0.021


def test_switching_one_step_leaves_the_other_draws_alone():
    plain = draw_many()
    other = draw_many(jitter_probability=0.0, solarize_probability=1.0)
    assert [crop.box for crop in plain] == [crop.box for crop in other]
    assert [crop.blur_radius for crop in plain] == [crop.blur_radius for crop in other]


def test_groups_come_in_order():
    transform = MultiCrop(size_crops=[64, 32], num_crops=[2, 3])
    sizes = [crop.size for crop in transform.draw((100, 100))]
    assert sizes == [64, 64, 32, 32, 32]


def test_the_numbers_are_those_of_the_hash():
    """numpy's arithmetic and torch's give the same 64-bit words."""
    keys = [0, 1, 2**62 - 1, 123456789]
    expected = keyed_uniforms(torch.tensor(keys), 300).numpy()
    for key, row in zip(keys, expected, strict=True):
        assert (_uniforms(key, 300) == row).all()
