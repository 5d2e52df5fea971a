"""MultiCrop: shapes, seeds, input modes, and what it says to wrong settings."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from vissl_swav.transforms import MultiCrop


def photograph(width=61, height=47, seed=0):
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return Image.fromarray(levels.astype(np.uint8))


def small(**settings):
    defaults = dict(size_crops=[32, 16], num_crops=[2, 3])
    return MultiCrop(**(defaults | settings))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_default_is_the_papers():
    crops = MultiCrop()(photograph(), seeded(0))
    assert [tuple(crop.shape) for crop in crops] == [(3, 224, 224)] * 2 + [
        (3, 96, 96)
    ] * 6
    assert all(crop.dtype == torch.float32 for crop in crops)
    large, local = MultiCrop().groups
    assert (large.scale, local.scale) == ((0.14, 1.0), (0.05, 0.14))
    assert large.jitter == (0.8, 0.8, 0.8, 0.2)
    assert large.blur_radius == (0.1, 2.0)


def test_same_seed_same_crops_other_seed_other_crops():
    transform, image = small(), photograph()
    first, again = transform(image, seeded(3)), transform(image, seeded(3))
    other = transform(image, seeded(4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[1])


def test_no_generator_means_torchs_global_one():
    transform, image = small(), photograph()
    torch.manual_seed(5)
    first, second = transform(image), transform(image)
    torch.manual_seed(5)
    again = transform(image)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], second[0])


def test_call_is_draw_then_apply():
    transform, image = small(solarize_probability=0.5), photograph()
    crops = transform(image, seeded(1))
    drawn = transform.draw(image.size, seeded(1))
    for crop, parameters in zip(crops, drawn, strict=True):
        assert torch.equal(crop, transform.apply(image, parameters))


def test_a_pickled_copy_makes_the_same_crops():
    transform = small()
    copy = pickle.loads(pickle.dumps(transform))
    image = photograph()
    assert torch.equal(transform(image, seeded(2))[4], copy(image, seeded(2))[4])
    assert repr(copy) == repr(transform)
    assert "size=16, count=3" in repr(copy)


def test_global_rng_is_left_alone_with_a_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    small()(photograph(), seeded(0))
    assert torch.equal(before, torch.get_rng_state())


def test_settings_per_group():
    transform = small(
        flip_probability=[0.0, 1.0],
        jitter=[(0.0, 0.0, 0.0, 0.0), (0.4, 0.4, 0.4, 0.1)],
        jitter_probability=1.0,
        crop_ratios=[(1.0, 1.0), (0.5, 2.0)],
        solarize_probability=[1, 0],
        solarize_threshold=[100, 200],
    )
    drawn = transform.draw((64, 64), seeded(0))
    assert [crop.flip for crop in drawn] == [False] * 2 + [True] * 3
    assert [len(crop.jitter) for crop in drawn] == [0] * 2 + [4] * 3
    assert all(crop.box.width == crop.box.height for crop in drawn[:2])
    assert [crop.solarize_threshold for crop in drawn] == [100] * 2 + [None] * 3


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "LA"])
def test_other_modes_become_rgb(mode):
    image = photograph().convert(mode)
    transform = small()
    crops = transform(image, seeded(0))
    expected = transform(image.convert("RGB"), seeded(0))
    assert all(torch.equal(a, b) for a, b in zip(crops, expected, strict=True))


@pytest.mark.parametrize("size", [(1, 200), (200, 1), (1, 1), (2, 3)])
def test_thin_images_do_not_crash(size):
    image = Image.new("RGB", size, (255, 0, 0))
    transform = small(jitter_probability=0.0, grayscale_probability=0.0)
    for seed in range(20):
        for crop in transform(image, seeded(seed)):
            assert crop[0].min() > 2.2  # (1 - 0.485) / 0.229
            assert crop[1].max() < -2.0  # -0.456 / 0.224


def test_mean_and_std_normalise():
    image = Image.new("RGB", (8, 8), (255, 0, 128))
    plain = dict(jitter_probability=0.0, grayscale_probability=0.0)
    crop = small(mean=(0, 0.5, 0), std=(1, 0.25, 2), **plain)(image, seeded(0))[0]
    expected = torch.tensor([1.0, -2.0, 128 / 255 / 2])
    torch.testing.assert_close(crop.mean(dim=(1, 2)), expected)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_crops": [2]}, "size_crops has 2, num_crops has 1, crop_scales has 2"),
        ({"crop_scales": [(0.1, 1.0)]}, "crop_scales has 1"),
        ({"size_crops": [], "num_crops": [], "crop_scales": []}, "no length"),
        ({"size_crops": 224}, r"wanted a list .* \[224\]"),
        ({"size_crops": [32, 0]}, "size_crops holds 0"),
        ({"size_crops": [32, 16.5]}, "size_crops holds 16.5"),
        ({"num_crops": [2, -1]}, "num_crops holds -1"),
        ({"crop_scales": [(0.1, 1.0), (0.0, 0.5)]}, r"crop_scales holds \(0.0, 0.5\)"),
        ({"crop_scales": [(0.1, 1.5), (0.1, 0.5)]}, r"within \(0, 1\]"),
        ({"crop_scales": [(0.5, 0.1), (0.1, 0.5)]}, "the smaller first"),
        ({"crop_scales": [0.5, 0.5]}, "crop_scales holds 0.5"),
        ({"crop_ratios": (0.0, 1.0)}, "crop_ratios holds"),
        ({"crop_ratios": (2.0, 1.0)}, "the smaller first"),
        ({"crop_ratios": 1.0}, "crop_ratios is 1.0"),
        ({"flip_probability": 1.5}, "flip_probability is 1.5"),
        ({"jitter_probability": -0.1}, "jitter_probability is -0.1"),
        ({"blur_probability": [0.5]}, "blur_probability has 1 entries for 2"),
        ({"grayscale_probability": "often"}, "grayscale_probability is 'often'"),
        ({"solarize_probability": float("nan")}, "solarize_probability is nan"),
        ({"solarize_threshold": 300}, "from 0 to 256"),
        ({"blur_radius": (-1.0, 2.0)}, "blur_radius holds"),
        ({"jitter": (0.8, 0.8, 0.8)}, "wanted four numbers"),
        ({"jitter": (0.8, 0.8, 0.8, 0.6)}, "hue at most 0.5"),
        ({"jitter": (-0.8, 0.8, 0.8, 0.2)}, "none negative"),
        ({"total_num_crops": 8}, r"total_num_crops is 8 .* add up to 5"),
        ({"std": (0.2, 0.2, 0.0)}, "above 0"),
        ({"mean": (0.5,)}, "three finite numbers"),
    ],
)
def test_wrong_settings_are_named(settings, said):
    with pytest.raises(ValueError, match=said):
        small(**settings)


def test_total_num_crops_is_accepted_when_right():
    assert small(total_num_crops=5).total_num_crops == 5


def test_a_tensor_is_refused():
    with pytest.raises(TypeError, match=r"got a Tensor; wanted a PIL image"):
        small()(torch.zeros(3, 8, 8))
