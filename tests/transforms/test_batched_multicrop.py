"""The whole batched pipeline against `MultiCrop` on Pillow, image by image."""

import numpy as np
import pytest
import torch
from PIL import Image

from vissl_swav.core.hashing import sample_keys
from vissl_swav.transforms import MultiCrop
from vissl_swav.transforms.batched_multicrop import BatchedMultiCrop

SIZES = [(120, 90), (90, 120), (64, 64), (150, 40), (33, 33), (1, 1), (1, 50), (99, 70)]


def photograph(seed, width, height):
    """Smooth colours and noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth) + random.normal(0, 8, (height, width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def small(**settings):
    defaults = {"size_crops": [32, 16], "num_crops": [2, 3], "backend": "pillow"}
    return MultiCrop(**(defaults | {"solarize_probability": [0.0, 0.3]} | settings))


def keys_of(count):
    return sample_keys(torch.arange(count), seed=5, epoch=2)


def padded(images, *, more=0, seed=0):
    """A batch (B, C, H, W) with noise where there is no image, and the sizes."""
    sizes = torch.tensor([image.size for image in images])
    width, height = (sizes.amax(dim=0) + more).tolist()
    channels = len(images[0].getbands())
    shape = (len(images), channels, height, width)
    noise = torch.Generator().manual_seed(seed)
    batch = torch.randint(0, 256, shape, dtype=torch.uint8, generator=noise)
    for row, image in zip(batch, images, strict=True):
        levels = torch.from_numpy(np.array(image)).view(image.height, image.width, -1)
        row[:, : image.height, : image.width] = levels.permute(2, 0, 1)
    return batch, sizes


@pytest.fixture(scope="module")
def images():
    return [photograph(seed, *SIZES[seed % len(SIZES)]) for seed in range(48)]


def in_levels(difference, transform):
    std = torch.tensor(transform.normalization.std).view(-1, 1, 1)
    return difference.abs() * std * 255


def assert_close_to_pillow(transform, images, made, keys):
    means = []
    for row, image in enumerate(images):
        expected = transform(image, key=int(keys[row]))
        assert len(expected) == len(made)
        for crops, wanted in zip(made, expected, strict=True):
            assert crops[row].shape == wanted.shape
            means.append(in_levels(crops[row] - wanted, transform).mean().item())
    assert np.mean(means) < 1.5
    # A crop of one colour at the edge of a step may fall to its other side.
    assert np.quantile(means, 0.98) < 5.0


def test_equals_pillow(images):
    transform, keys = small(), keys_of(len(images))
    batch, sizes = padded(images, more=3)
    made = BatchedMultiCrop(transform)(batch, sizes, keys)
    assert [tuple(crops.shape) for crops in made] == [(48, 3, 32, 32)] * 2 + [
        (48, 3, 16, 16)
    ] * 3
    assert all(crops.is_contiguous() and not crops.requires_grad for crops in made)
    assert_close_to_pillow(transform, images, made, keys)


def test_one_channel_equals_pillow(images):
    grey = [image.convert("L") for image in images]
    transform, keys = small(channels=1), keys_of(len(images))
    batch, sizes = padded(grey)
    made = BatchedMultiCrop(transform)(batch, sizes, keys)
    assert made[0].shape == (48, 1, 32, 32)
    assert_close_to_pillow(transform, grey, made, keys)


def test_another_key_is_another_crop(images):
    batch, sizes = padded(images)
    make = BatchedMultiCrop(small())
    first, again = (make(batch, sizes, keys_of(48)) for _ in range(2))
    other = make(batch, sizes, keys_of(49)[1:])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[1])


def test_the_batch_is_each_image_alone(images):
    """Whatever stands beside it, below it, and however many are made at once."""
    keys = keys_of(len(images))
    batch, sizes = padded(images)
    whole = BatchedMultiCrop(small(), max_bytes=1 << 28)(batch, sizes, keys)
    one_by_one = BatchedMultiCrop(small(), max_bytes=1)
    other_noise, _ = padded(images, more=7, seed=1)
    split = one_by_one(other_noise, sizes, keys)
    for a, b in zip(whole, split, strict=True):
        assert_same_pixels(a, b)
    for row in (0, 5, 6):
        alone, size = padded(images[row : row + 1])
        made = one_by_one(alone, size, keys[row : row + 1])
        for a, b in zip(whole, made, strict=True):
            assert_same_pixels(a[row], b[0])


def assert_same_pixels(a, b):
    """But for sums in another order, and what these push over solarise's threshold."""
    far = (a - b).abs() > 1e-3
    assert far.float().mean() < 1e-3


def test_a_bank_on_the_device_is_indexed_by_the_caller():
    bank = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8)
    indices, sizes = torch.tensor([7, 3, 7]), torch.full((3, 2), 32)
    make, keys = BatchedMultiCrop(small()), keys_of(3)
    keys[2] = keys[0]
    made = make(bank[indices], sizes, keys)
    assert torch.equal(made[0][0], made[0][2])
    assert not torch.equal(made[0][0], made[0][1])


def test_settings_come_from_the_multicrop_or_are_given(images):
    batch, sizes = padded(images[:4])
    keys = keys_of(4)
    transform = small(mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 2.0))
    theirs = BatchedMultiCrop(transform)(batch, sizes, keys)
    given = BatchedMultiCrop(transform.groups, mean=(0.1, 0.2, 0.3), std=(1, 0.5, 2))
    imagenet = BatchedMultiCrop(transform.groups)(batch, sizes, keys)
    for a, b, c in zip(theirs, given(batch, sizes, keys), imagenet, strict=True):
        assert torch.equal(a, b)
        levels = a * torch.tensor([1, 0.5, 2.0]).view(3, 1, 1)
        levels = levels + torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        torch.testing.assert_close((levels - mean) / std, c, rtol=0, atol=1e-4)
    assert "size=16, count=3" in repr(given)


def test_dtype_and_autocast(images):
    batch, sizes = padded(images[:4])
    keys, transform = keys_of(4), small(solarize_probability=0.0)
    exact = BatchedMultiCrop(transform)(batch, sizes, keys)
    half = BatchedMultiCrop(transform, dtype=torch.bfloat16)(batch, sizes, keys)
    with torch.autocast("cpu", torch.bfloat16):
        under = BatchedMultiCrop(transform)(batch, sizes, keys)
    for a, b, c in zip(exact, half, under, strict=True):
        assert b.dtype == torch.bfloat16 and torch.equal(a.bfloat16(), b)
        assert c.dtype == torch.float32 and torch.equal(a, c)


def test_images_that_are_not_contiguous(images):
    batch, sizes = padded(images[:4])
    make, keys = BatchedMultiCrop(small()), keys_of(4)
    last = batch.to(memory_format=torch.channels_last)
    assert not last.is_contiguous()
    for a, b in zip(make(batch, sizes, keys), make(last, sizes, keys), strict=True):
        assert torch.equal(a, b)


GOOD = torch.zeros(2, 3, 8, 9, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("images", "sizes", "error", "said"),
    [
        (GOOD.float(), (9, 8), TypeError, "torch.float32; wanted uint8"),
        (GOOD[0], (9, 8), ValueError, r"images are \(3, 8, 9\)"),
        (GOOD[:, :1], (9, 8), ValueError, r"wanted \(B, 3, H, W\).* channels=1"),
        (GOOD, (8, 9), ValueError, r"wanted width and height from 1 to \[9, 8\]"),
        (GOOD, (0, 8), ValueError, r"reach from \[0, 8\]"),
        (GOOD[:1], (9, 8), ValueError, r"wanted \(1, 2\)"),
    ],
)
def test_wrong_batches_are_named(images, sizes, error, said):
    with pytest.raises(error, match=said):
        BatchedMultiCrop(small())(images, torch.tensor([sizes] * 2), keys_of(2))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"groups": ()}, "groups is empty"),
        ({"dtype": torch.uint8}, "dtype is torch.uint8"),
        ({"max_bytes": 0}, "max_bytes is 0"),
        ({"channels": 2}, "channels is 2"),
        ({"std": (1.0, 1.0)}, "three finite numbers"),
    ],
)
def test_wrong_settings_are_named(settings, said):
    with pytest.raises(ValueError, match=said):
        BatchedMultiCrop(**({"groups": small()} | settings))


def test_temporaries_stay_within_bounds():
    """Twice the batch takes more chunks, no larger ones."""
    make = BatchedMultiCrop(small(), max_bytes=1 << 20)
    limits = []
    for num_images in (40, 80):
        batch = torch.zeros(num_images, 3, 64, 64, dtype=torch.uint8)
        sizes = torch.full((num_images, 2), 64)
        peak = peak_of(lambda b=batch, s=sizes: make(b, s, keys_of(len(b))))
        outputs = 4 * 3 * num_images * (2 * 32**2 + 3 * 16**2)
        limits.append(peak - outputs)
    # Draws and kernels grow with the batch, by a few hundred numbers a crop.
    assert max(limits) < (1 << 20) + 80 * 5 * 2000


def peak_of(work):
    """Most memory in use at once, in bytes."""
    from torch.profiler import ProfilerActivity, profile

    work()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        work()
    in_use = peak = 0
    for event in log.profiler.kineto_results.events():
        if event.name() == "[memory]":
            in_use += event.nbytes()
            peak = max(peak, in_use)
    return peak


@pytest.mark.gpu
@pytest.mark.parametrize("draws_on", ["cpu", "cuda"])
def test_a_gpu_makes_the_same_without_waiting(images, draws_on):
    transform = small(solarize_probability=0.0)
    batch, sizes = padded(images)
    keys, make = keys_of(len(images)), BatchedMultiCrop(transform)
    expected = make(batch, sizes, keys)
    there = (batch.cuda(), sizes.to(draws_on), keys.to(draws_on))
    make(*there)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        made = make(*there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for a, b in zip(expected, made, strict=True):
        assert b.is_cuda
        assert in_levels(a - b.cpu(), transform).max() < 1.0
