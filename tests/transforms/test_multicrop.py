"""MultiCrop: shapes, seeds, inputs, outputs, and what it says to wrong settings."""

import io
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vissl_swav.transforms import MultiCrop


def photograph(width=61, height=47, seed=0):
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return Image.fromarray(levels.astype(np.uint8))


@pytest.fixture(params=["opencv", "pillow"])
def small(request):
    """Makes a small transform with either backend."""

    def make(**settings):
        defaults = dict(size_crops=[32, 16], num_crops=[2, 3], backend=request.param)
        return MultiCrop(**(defaults | settings))

    return make


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("backend", ["opencv", "pillow"])
def test_default_is_the_papers(backend):
    crops = MultiCrop(backend=backend)(photograph(), seeded(0))
    assert [tuple(crop.shape) for crop in crops] == [(3, 224, 224)] * 2 + [
        (3, 96, 96)
    ] * 6
    assert all(crop.dtype == torch.float32 for crop in crops)
    large, local = MultiCrop().groups
    assert (large.scale, local.scale) == ((0.14, 1.0), (0.05, 0.14))
    assert large.jitter == (0.8, 0.8, 0.8, 0.2)
    assert large.blur_radius == (0.1, 2.0)


def test_same_seed_same_crops_other_seed_other_crops(small):
    transform, image = small(), photograph()
    first, again = transform(image, seeded(3)), transform(image, seeded(3))
    other = transform(image, seeded(4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[1])


def test_no_generator_means_torchs_global_one(small):
    transform, image = small(), photograph()
    torch.manual_seed(5)
    first, second = transform(image), transform(image)
    torch.manual_seed(5)
    again = transform(image)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], second[0])


def test_call_is_draw_then_apply(small):
    transform, image = small(solarize_probability=0.5), photograph()
    crops = transform(image, seeded(1))
    drawn = transform.draw(image.size, seeded(1))
    for crop, parameters in zip(crops, drawn, strict=True):
        assert torch.equal(crop, transform.apply(image, parameters))


def test_a_pickled_copy_makes_the_same_crops(small):
    transform = small()
    copy = pickle.loads(pickle.dumps(transform))
    image = photograph()
    assert torch.equal(transform(image, seeded(2))[4], copy(image, seeded(2))[4])
    assert repr(copy) == repr(transform)
    assert "size=16, count=3" in repr(copy)


def test_global_rng_is_left_alone_with_a_generator(small):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    small()(photograph(), seeded(0))
    assert torch.equal(before, torch.get_rng_state())


def test_settings_per_group(small):
    transform = small(
        flip_probability=[0.0, 1.0],
        jitter=[(0.0, 0.0, 0.0, 0.0), (0.4, 0.4, 0.4, 0.1)],
        jitter_probability=1.0,
        crop_ratios=[(1.0, 1.0), (0.5, 2.0)],
        solarize_probability=[1, 0],
        solarize_threshold=[100, [200, 210]],
    )
    drawn = transform.draw((64, 64), seeded(0))
    assert [crop.flip for crop in drawn] == [False] * 2 + [True] * 3
    assert [len(crop.jitter) for crop in drawn] == [0] * 2 + [4] * 3
    assert all(crop.box.width == crop.box.height for crop in drawn[:2])
    assert [crop.solarize_threshold for crop in drawn] == [100] * 2 + [None] * 3


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "LA"])
def test_other_modes_become_rgb(small, mode):
    image = photograph().convert(mode)
    transform = small()
    crops = transform(image, seeded(0))
    expected = transform(image.convert("RGB"), seeded(0))
    assert all(torch.equal(a, b) for a, b in zip(crops, expected, strict=True))


@pytest.mark.parametrize("size", [(1, 200), (200, 1), (1, 1), (2, 3)])
def test_thin_images_do_not_crash(small, size):
    image = Image.new("RGB", size, (255, 0, 0))
    transform = small(jitter_probability=0.0, grayscale_probability=0.0)
    for seed in range(20):
        for crop in transform(image, seeded(seed)):
            assert crop[0].min() > 2.2  # (1 - 0.485) / 0.229
            assert crop[1].max() < -2.0  # -0.456 / 0.224


def test_mean_and_std_normalise(small):
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
        ({"solarize_threshold": 300}, r"solarize_threshold holds \(300, 300\)"),
        ({"solarize_threshold": [200, 100]}, "the smaller first"),
        ({"solarize_threshold": [1, 2, 3]}, r"holds \(1, 2, 3\); wanted a pair"),
        ({"solarize_threshold": [1, [2, 3], 4]}, "has 3 entries for 2"),
        ({"solarize_threshold": "128"}, "solarize_threshold holds"),
        ({"blur_radius": (-1.0, 2.0)}, "blur_radius holds"),
        ({"jitter": (0.8, 0.8, 0.8)}, "wanted four numbers"),
        ({"jitter": (0.8, 0.8, 0.8, 0.6)}, "hue at most 0.5"),
        ({"jitter": (-0.8, 0.8, 0.8, 0.2)}, "none negative"),
        ({"total_num_crops": 8}, r"total_num_crops is 8 .* add up to 5"),
        ({"std": (0.2, 0.2, 0.0)}, "above 0"),
        ({"mean": (0.5,)}, "three finite numbers"),
        ({"mean": "auto"}, "three finite numbers"),
        ({"mean": 0.5}, "three finite numbers"),
        ({"channels": 1, "std": (0.2, 0.2, 0.2)}, "one finite number"),
        ({"channels": 1, "std": (-0.2,)}, "above 0"),
        ({"channels": 2}, r"channels is 2; wanted 1 \(grey\) or 3"),
        ({"channels": True}, "channels is True"),
        ({"backend": "cv2"}, "backend is 'cv2'; wanted 'opencv' or 'pillow'"),
        ({"output": "half"}, "output is 'half'; wanted 'float' or 'uint8'"),
    ],
)
def test_wrong_settings_are_named(small, settings, said):
    with pytest.raises(ValueError, match=said):
        small(**settings)


def test_total_num_crops_is_accepted_when_right(small):
    assert small(total_num_crops=5).total_num_crops == 5


def test_a_tensor_is_refused(small):
    with pytest.raises(TypeError, match=r"got a Tensor; wanted a PIL image"):
        small()(torch.zeros(3, 8, 8))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (
            np.zeros((8, 8, 3), np.float32),
            r"float32 and shape \(8, 8, 3\); wanted uint8",
        ),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\)"),
        (np.zeros((8,), np.uint8), "wanted uint8 of"),
        (np.zeros((0, 8, 3), np.uint8), "wanted uint8 of"),
        (Image.new("I;16", (8, 8)), "mode 'I;16', whose levels have no fixed white"),
        (Image.new("F", (8, 8)), "mode 'F'"),
    ],
)
def test_levels_without_a_meaning_are_refused(small, array, said):
    with pytest.raises(ValueError, match=said):
        small()(array)


@pytest.mark.parametrize("wrong", [b"a file's bytes", "a/path.jpg", None])
def test_other_objects_are_refused(small, wrong):
    with pytest.raises(TypeError, match=f"got a {type(wrong).__name__}; wanted"):
        small()(wrong)


def test_both_backends_draw_the_same():
    """The crop's box as colours: equal pixels within rounding, in every crop."""
    across, down = np.meshgrid(np.arange(240), np.arange(200))
    ramps = np.stack([across, down, 255 - across], axis=2).astype(np.uint8)
    crops = [
        MultiCrop(jitter_probability=0, backend=backend, output="uint8")(ramps, key=9)
        for backend in ("opencv", "pillow")
    ]
    for fast, reference in zip(*crops, strict=True):
        assert (fast.float() - reference.float()).abs().mean() < 1


@pytest.mark.parametrize("channels", [1, 3])
def test_an_array_is_the_image_of_it(small, channels):
    image = photograph()
    transform = small(channels=channels)
    expected = transform(image, key=1)
    for same in (np.array(image), np.asarray(image), np.array(image.convert("RGBA"))):
        crops = transform(same, key=1)
        assert all(torch.equal(a, b) for a, b in zip(crops, expected, strict=True))
    grey = image.convert("L")
    expected = transform(grey, key=1)
    for same in (np.array(grey), np.array(grey)[..., None]):
        crops = transform(same, key=1)
        assert all(torch.equal(a, b) for a, b in zip(crops, expected, strict=True))


def test_transparent_palettes_do_not_warn(small):
    file = io.BytesIO()
    palette = photograph().convert("P")
    palette.save(file, "PNG", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        crops = small()(Image.open(file), key=0)
    expected = small()(palette.convert("RGB"), key=0)
    assert all(torch.equal(a, b) for a, b in zip(crops, expected, strict=True))


def test_a_non_contiguous_array(small):
    levels = np.array(photograph())
    mirrored = small()(levels[::-1, ::-1], key=2)
    expected = small()(levels[::-1, ::-1].copy(), key=2)
    assert all(torch.equal(a, b) for a, b in zip(mirrored, expected, strict=True))


class Recorder:
    """A decodable image that remembers how it was decoded."""

    def __init__(self, width, height, *, obeys=True):
        self.full = np.array(photograph(64, 64).resize((width, height)))
        self.obeys = obeys
        self.asked = []

    @property
    def size(self):
        return self.full.shape[1], self.full.shape[0]

    def decode(self, *, channels, shrink):
        self.asked.append((channels, shrink))
        image = Image.fromarray(self.full)
        if self.obeys and shrink > 1:
            image = image.reduce(shrink)
        levels = np.array(image.convert("L" if channels == 1 else "RGB"))
        return levels.reshape(*levels.shape[:2], channels)


@pytest.mark.parametrize(("side", "shrink"), [(200, 1), (301, 2), (603, 4), (2001, 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_one_decode_at_the_scale_that_the_crops_allow(side, shrink, channels):
    """Cuts of half of each side, for crops of 32 pixels."""
    settings = dict(
        size_crops=[32],
        num_crops=[4],
        crop_scales=[(0.25, 0.25)],
        crop_ratios=(1.0, 1.0),
        channels=channels,
        output="uint8",
    )
    image = Recorder(side, side + 4)
    crops = MultiCrop(**settings)(image, key=3)
    assert image.asked == [(channels, shrink)]
    whole = MultiCrop(**settings)(Recorder(side, side + 4, obeys=False), key=3)
    reference = MultiCrop(backend="pillow", **settings)(image, key=3)
    assert image.asked[1:] == [(channels, 1)]
    for crop, full, pillow in zip(crops, whole, reference, strict=True):
        assert crop.shape == (channels, 32, 32)
        assert (crop.float() - full.float()).abs().mean() < 3
        assert (crop.float() - pillow.float()).abs().mean() < 3


def test_one_small_cut_forbids_reduced_decoding():
    image = Recorder(900, 700)
    MultiCrop(size_crops=[32, 256], num_crops=[2, 1])(image, key=0)
    assert image.asked == [(3, 1)]


def test_a_decoder_that_contradicts_itself_is_named(small):
    class Turned(Recorder):
        size = (40, 30)

    turned = Turned(30, 40)
    with pytest.raises(
        ValueError, match="decode gave 30 x 40 pixels of an image of 40"
    ):
        small()(turned)


@pytest.mark.parametrize("channels", [1, 3])
def test_uint8_output_normalises_to_the_float_one(small, channels):
    settings = dict(channels=channels, mean=(0.3,) * channels, std=(0.2,) * channels)
    image = photograph()
    levels = small(output="uint8", **settings)
    crops = [levels(image, key=key) for key in range(8)]
    floats = [small(**settings)(image, key=key) for key in range(8)]
    for place, size in enumerate([32, 32, 16, 16, 16]):
        for made in crops:
            assert made[place].dtype == torch.uint8
            assert made[place].shape == (channels, size, size)
        batch = torch.stack([made[place] for made in crops])
        normalized = levels.normalize(batch)
        expected = torch.stack([made[place] for made in floats])
        assert normalized.is_contiguous() and expected.is_contiguous()
        assert torch.equal(normalized, expected)
        channels_last = batch.contiguous(memory_format=torch.channels_last)
        assert torch.equal(levels.normalize(channels_last), expected)


def test_normalize_refuses_what_is_not_levels():
    with pytest.raises(
        ValueError, match=r"float32 of shape \(2, 3, 8, 8\); wanted uint8"
    ):
        MultiCrop().normalize(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"\.\.\., 1, height, width"):
        MultiCrop(channels=1).normalize(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


def test_grey_crops(small):
    """Defaults of one channel; steps on colour do nothing and draws stay the same."""
    image = photograph()
    transform = small(channels=1)
    assert (transform.normalization.mean, transform.normalization.std) == (
        (0.449,),
        (0.226,),
    )
    crops = transform(image, key=5)
    assert [tuple(crop.shape) for crop in crops] == [(1, 32, 32)] * 2 + [
        (1, 16, 16)
    ] * 3
    only_colour = small(
        channels=1,
        jitter=(0, 0, 0.8, 0.2),
        jitter_probability=1.0,
        grayscale_probability=1.0,
    )
    without = small(channels=1, jitter_probability=0.0, grayscale_probability=0.0)
    made, expected = only_colour(image, key=5), without(image, key=5)
    assert all(torch.equal(a, b) for a, b in zip(made, expected, strict=True))
    # Brightness and contrast still do.
    assert not all(torch.equal(a, b) for a, b in zip(crops, expected, strict=True))


def test_without_opencv_the_remedy_is_named():
    """The package imports, Pillow's backend works, the other says what to install."""
    program = (
        "import sys\n"
        "sys.modules['cv2'] = None\n"
        "import numpy as np\n"
        "from vissl_swav.transforms import MultiCrop\n"
        "crops = MultiCrop(backend='pillow')(np.zeros((9, 9, 3), np.uint8))\n"
        "assert len(crops) == 8\n"
        "try:\n"
        "    MultiCrop()\n"
        "except ImportError as error:\n"
        "    assert 'opencv-python-headless' in str(error), error\n"
        "    assert 'pillow' in str(error), error\n"
        "else:\n"
        "    raise AssertionError('no error')\n"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root, timeout=120)
