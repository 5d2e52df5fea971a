"""How far the fast path's pixels are from Pillow's, step by step and all together.

Differences are in levels of 255: the mean over an image's pixels, of the worst image,
and the largest of any pixel. The largest of the blur is at the border (its docstring).
"""

import io
import math
import multiprocessing
import sys
import tarfile
import warnings

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from vissl_swav.transforms import Box, MultiCrop, fast_pixels, photometric
from vissl_swav.transforms.blur_kernels import blur_weights
from vissl_swav.transforms.fast_pixels import Opened

NUM_PHOTOGRAPHS = 200


def synthetic_images():
    """Smooth colours with noise, flat areas with edges, and noise alone."""
    random = np.random.default_rng(3)
    coarse = random.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize((461, 380), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth) + random.normal(0, 8, (380, 461, 3))
    blocks = random.integers(0, 256, (38, 46, 3)).astype(np.uint8)
    noise = random.integers(0, 256, (240, 320, 3)).astype(np.uint8)
    return [
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)),
        Image.fromarray(blocks).resize((460, 380), Image.Resampling.NEAREST),
        Image.fromarray(noise).resize((640, 480), Image.Resampling.BILINEAR),
    ]


@pytest.fixture(scope="module", params=["synthetic", "photographs"])
def images(request):
    if request.param == "synthetic":
        return synthetic_images()
    return [Image.open(io.BytesIO(data)) for data in photographs(request)]


def photographs(request):
    archive = request.getfixturevalue("shared") / "data" / "imagenet-samples-200.tar"
    if not archive.is_file():
        pytest.skip("no photographs in the shared data")
    with tarfile.open(archive) as tar:
        found = [tar.extractfile(member).read() for member in tar if member.isfile()]
    assert len(found) == NUM_PHOTOGRAPHS
    return found


@pytest.fixture(scope="module")
def crops(images):
    """Squares of 96 pixels."""
    return [image.convert("RGB").resize((96, 96)) for image in images]


def differences(fast, reference):
    """(mean over images, worst image, largest of any pixel), of the pairs."""
    means, largest = [], 0
    for ours, theirs in zip(fast, reference, strict=True):
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        if ours.ndim < theirs.ndim:
            ours = ours[..., None]
        difference = np.abs(ours.astype(int) - theirs.astype(int))
        means.append(difference.mean())
        largest = max(largest, difference.max())
    return np.mean(means), max(means), largest


FACTORS = (0.0, 0.2, 0.7, 1.0, 1.3, 1.8)
# Step, values, then the limits: mean, worst image, largest of any pixel.
STEPS = [
    ("adjust_brightness", FACTORS, (0.05, 0.1, 1)),
    ("adjust_contrast", FACTORS, (0.05, 0.1, 1)),
    ("adjust_saturation", FACTORS, (0.5, 0.8, 1)),
    ("shift_hue", (-0.5, -0.2, -0.01, 0.0, 0.05, 0.2), (0.8, 1.5, 16)),
    ("solarize", (0, 99.5, 128, 256), (0, 0, 0)),
    ("blur", (0.1, 0.3, 0.5, 1.0, 1.5, 2.0), (0.6, 1.8, 40)),
    # Wider than anyone's recipe: the border is a large part of 96 pixels.
    ("blur", (3.0, 4.0, 6.0), (1.0, 6.0, 50)),
]
CASES = [(name, value, limits) for name, values, limits in STEPS for value in values]


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("name", "value", "limits"), CASES)
def test_steps(crops, name, value, limits, mode):
    crops = [crop.convert(mode) for crop in crops]
    fast = [getattr(fast_pixels, name)(np.array(crop), value) for crop in crops]
    theirs = [getattr(photometric, name)(crop, value) for crop in crops]
    found = differences(fast, theirs)
    assert all(one <= limit for one, limit in zip(found, limits, strict=True)), found


def test_grayscale_and_flip(crops):
    fast = [fast_pixels.drop_colour(np.array(crop)) for crop in crops]
    theirs = [photometric.drop_colour(crop) for crop in crops]
    _, worst, largest = differences(fast, theirs)
    assert worst <= 0.1 and largest <= 1
    for crop in crops:
        flipped = fast_pixels.flip_left_right(np.array(crop))
        assert np.array_equal(flipped, photometric.flip_left_right(crop))


@pytest.mark.parametrize("size", [96, 224])
@pytest.mark.parametrize("share", [0.06, 0.25, 1.0])
def test_resize(images, size, share):
    fast, theirs = [], []
    for image in images:
        rgb = image.convert("RGB")
        width, height = (max(1, int(side * share**0.5)) for side in rgb.size)
        box = Box(rgb.height - height, (rgb.width - width) // 2, height, width)
        opened = fast_pixels.Opened(np.asarray(rgb))
        fast.append(fast_pixels.cut_and_resize(opened, box, size))
        theirs.append(photometric.cut_and_resize(rgb, box, size))
    mean, worst, largest = differences(fast, theirs)
    assert mean <= 0.05
    assert worst <= 0.3
    assert largest <= 2


@pytest.mark.parametrize("channels", [1, 3])
def test_checkerboard_shrunk_three_times_is_flat(channels):
    board = (np.indices((96, 96)).sum(axis=0) % 2 * 255).astype(np.uint8)
    levels = board if channels == 1 else np.stack([board] * 3, axis=2)
    small = fast_pixels.cut_and_resize(Opened(levels), Box(0, 0, 96, 96), 32)
    assert np.ptp(small[2:-2, 2:-2].astype(int)) <= 3
    assert abs(small.mean() - 127.5) < 2


def reduced(image, shrink):
    """Encoded as a JPEG and decoded at 1 / shrink; the full scale; what Pillow sees."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92)
    flag = getattr(cv2, f"IMREAD_REDUCED_COLOR_{shrink}")
    levels = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), flag)
    return cv2.cvtColor(levels, cv2.COLOR_BGR2RGB), Image.open(file).convert("RGB")


def mosaic(images, side):
    """Many small images side by side: finer detail than large photographs have."""
    tile = 400
    whole = Image.new("RGB", (side + 3, side - 5))
    across = math.ceil(side / tile) + 1
    for place in range(across * across):
        row, column = divmod(place, across)
        image = images[place % len(images)].convert("RGB").resize((tile, tile))
        whole.paste(image, (column * tile, row * tile))
    assert np.asarray(whole).std() > 20
    return whole


@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_reduced_scale(images, shrink):
    """At the smallest allowed share of pixels, boxes anywhere between the pixels.

    The synthetic images have an edge every 10 pixels, more than photographs do.
    """
    size, random = 64, np.random.default_rng(shrink)
    levels, full = reduced(mosaic(images[:90], size * shrink * 3 + 100), shrink)
    fast, theirs = [], []
    for _ in range(12):
        side = size * shrink * 2
        height, width = side + random.integers(0, 40), side + random.integers(0, 40)
        top = random.integers(0, full.height - height + 1)
        left = random.integers(0, full.width - width + 1)
        box = Box(int(top), int(left), int(height), int(width))
        fast.append(fast_pixels.cut_and_resize(Opened(levels, shrink), box, size))
        theirs.append(photometric.cut_and_resize(full, box, size))
    mean, worst, _ = differences(fast, theirs)
    assert mean <= (1.2 if len(images) == NUM_PHOTOGRAPHS else 1.6)
    assert worst <= 4


def test_reduced_scale_reaches_the_borders(images):
    """A box of everything, of an image whose sides do not divide."""
    levels, full = reduced(images[0].convert("RGB").resize((515, 389)), 4)
    box = Box(0, 0, full.height, full.width)
    fast = fast_pixels.cut_and_resize(Opened(levels, 4), box, 24)
    theirs = photometric.cut_and_resize(full, box, 24)
    assert differences([fast], [theirs])[1] <= 4


@pytest.mark.parametrize("channels", [1, 3])
def test_whole_pipeline(images, channels):
    settings = dict(
        size_crops=[96, 48],
        num_crops=[2, 3],
        channels=channels,
        solarize_probability=0.1,
        output="uint8",
    )
    fast = MultiCrop(**settings)
    reference = MultiCrop(backend="pillow", **settings)
    ours, theirs = [], []
    for key, image in enumerate(images):
        ours += fast(image, key=key)
        theirs += reference(image, key=key)
    mean, worst, _ = differences(ours, theirs)
    assert mean <= 0.8
    assert worst <= 6


@pytest.mark.parametrize("radius", [0.1, 0.5, 1.0, 1.7, 2.0, 4.0])
def test_blur_weights(radius):
    """Sum 1, symmetric, positive, and of the stated width."""
    weights = blur_weights(radius)
    places = np.arange(len(weights)) - len(weights) // 2
    assert weights.sum() == 1
    assert np.array_equal(weights, weights[::-1])
    assert weights.min() > 0
    # Weights under 1 / 512 are lost: at most a twentieth of the standard deviation.
    if radius >= 0.5:
        assert np.sqrt(weights @ places**2) == pytest.approx(radius, rel=0.05)


def test_a_read_only_array_is_taken_without_copy_or_warning():
    levels = np.random.default_rng(0).integers(0, 256, (40, 40)).astype(np.uint8)
    levels.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = fast_pixels.to_planes(levels, 1)
    assert tensor.data_ptr() == levels.ctypes.data
    kept = tensor.clone()
    del levels
    assert torch.equal(tensor, kept)


class Reports(torch.utils.data.Dataset):
    """The number of OpenCV's threads after a crop was made."""

    def __init__(self):
        self.transform = MultiCrop(size_crops=[16], num_crops=[1], crop_scales=[(1, 1)])

    def __len__(self):
        return 2

    def __getitem__(self, index):
        self.transform(np.zeros((32, 32, 3), np.uint8), key=index)
        # Large enough for OpenCV's pool, had it one.
        cv2.cvtColor(np.zeros((900, 900, 3), np.uint8), cv2.COLOR_RGB2HSV)
        return cv2.getNumThreads()


@pytest.mark.skipif(sys.platform != "linux", reason="workers by fork")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_have_no_pool_of_their_own(start):
    """Also after a fork from a process whose pool runs."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        cv2.GaussianBlur(np.zeros((900, 900, 3), np.uint8), (0, 0), 2)
        loader = torch.utils.data.DataLoader(
            Reports(),
            num_workers=1,
            batch_size=None,
            multiprocessing_context=multiprocessing.get_context(start),
            timeout=60,
        )
        assert [int(count) for count in loader] == [1, 1]
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)
