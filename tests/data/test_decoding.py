"""Every kind of image decodes upright to 8 bits, or says what is wrong with it."""

import io
import pickle
import random
import tarfile

import image_files
import numpy as np
import pytest
from image_files import encode, photograph, with_orientation
from PIL import Image, ImageOps

from vissl_swav.data import DataError
from vissl_swav.data.decoding import EncodedImage, UnreadableImage


def decode(data, **options):
    return EncodedImage(data, "some/file").decode(**options)


def reason(data):
    with pytest.raises(UnreadableImage) as caught:
        decode(data)
    assert caught.value.name == "some/file"
    return caught.value.reason


def difference(levels, image):
    return np.abs(levels.astype(int) - np.asarray(image).astype(int)).mean()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}],
    ids=["baseline", "progressive", "full-colour", "low-quality"],
)
def test_jpegs_have_pillows_pixels(mode, options):
    data = encode(Image.fromarray(photograph(97, 61)).convert(mode), "JPEG", **options)
    image = Image.open(io.BytesIO(data))
    levels = decode(data)
    assert levels.shape == (61, 97, 3) and levels.dtype == np.uint8
    assert levels.flags.c_contiguous and levels.flags.writeable
    assert difference(levels, image.convert("RGB")) <= 0.1
    luma = decode(data, channels=1)
    assert luma.shape == (61, 97, 1) and luma.flags.c_contiguous
    assert difference(luma[..., 0], image.convert("L")) <= 0.7


def test_photographs_have_pillows_pixels(shared):
    archive = shared / "data" / "imagenet-samples-200.tar"
    if not archive.is_file():
        pytest.skip(f"no {archive.name} among the shared data")
    with tarfile.open(archive) as tar:
        files = [tar.extractfile(member).read() for member in tar if member.isfile()]
    assert len(files) == 200
    for data in files[::4]:
        image = Image.open(io.BytesIO(data))
        assert difference(decode(data), image.convert("RGB")) <= 0.1
        assert difference(decode(data, channels=1)[..., 0], image.convert("L")) <= 0.3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_jpegs_shrink_to_the_means_of_blocks(shrink, channels):
    smooth = Image.fromarray(photograph(8, 8)).resize(
        (97, 61), Image.Resampling.BICUBIC
    )
    data = encode(smooth, "JPEG", quality=95)
    whole = decode(data, channels=channels)
    small = decode(data, channels=channels, shrink=shrink)
    rows, columns = 61 // shrink, 97 // shrink
    assert small.shape == (-(-61 // shrink), -(-97 // shrink), channels)
    blocks = whole[: rows * shrink, : columns * shrink].astype(float)
    blocks = blocks.reshape(rows, shrink, columns, shrink, channels).mean(axis=(1, 3))
    assert np.abs(small[:rows, :columns] - blocks).mean() < 1.5


def test_other_formats_ignore_shrink():
    assert decode(encode(photograph()), shrink=4).shape == (64, 96, 3)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns(orientation, format):
    data = with_orientation(photograph(), orientation, format)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    image = EncodedImage(data, "name")
    assert image.size == upright.size == ((64, 96) if orientation > 4 else (96, 64))
    levels = image.decode()
    assert levels.flags.c_contiguous and levels.flags.writeable
    assert difference(levels, upright) <= 0.1
    grey = image.decode(channels=1)
    assert difference(grey[..., 0], upright.convert("L")) <= 0.7
    if format == "JPEG":
        small = image.decode(shrink=2).shape[:2]
        assert small == tuple(side // 2 for side in reversed(image.size))


# Pillow warns of it, once a process.
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_is_no_reason_to_lose_an_image():
    exif = b"Exif\0\0II*\0" + bytes(range(60))
    image = EncodedImage(encode(photograph(), "JPEG", exif=exif), "name")
    assert image.size == (96, 64) and image.decode().shape == (64, 96, 3)


def test_size_reads_the_header_alone():
    data = encode(photograph(300, 200), "PNG")
    image = EncodedImage(data[:100], "cut")
    assert image.size == (300, 200)
    assert image.header is image.header, "looked up once"
    again = pickle.loads(pickle.dumps(image))
    assert again == image and again.size == image.size


def test_alpha_is_dropped_and_colour_kept():
    alpha = np.random.default_rng(0).integers(0, 255, (64, 96, 1), np.uint8)
    rgba = np.concatenate([photograph(), alpha], axis=-1)
    np.testing.assert_array_equal(decode(encode(rgba)), photograph())
    grey = photograph()[..., :1]
    both = Image.merge("LA", [Image.fromarray(part[..., 0]) for part in (grey, alpha)])
    np.testing.assert_array_equal(decode(encode(both)), np.repeat(grey, 3, axis=2))


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(64)) * 4])
def test_palettes(transparency):
    image = Image.fromarray(photograph()).quantize(256)
    options = {} if transparency is None else {"transparency": transparency}
    data = encode(image, "PNG", **options)
    np.testing.assert_array_equal(decode(data), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bits_keep_their_high_byte(format):
    values = np.linspace(0, 65535, 64 * 96).reshape(64, 96).astype(np.uint16)
    levels = decode(encode(Image.fromarray(values), format))
    np.testing.assert_array_equal(levels, np.repeat((values >> 8)[..., None], 3, 2))
    luma = decode(encode(Image.fromarray(values), format), channels=1)
    np.testing.assert_array_equal(luma[..., 0], values >> 8)


def test_32_bits_and_floats_within_range():
    values = np.arange(64 * 96, dtype=np.int32).reshape(64, 96) * 10
    levels = decode(encode(Image.fromarray(values), "TIFF"), channels=1)
    np.testing.assert_array_equal(levels[..., 0], values >> 8)
    floats = np.linspace(0, 254.6, 64 * 96, dtype=np.float32).reshape(64, 96)
    levels = decode(encode(Image.fromarray(floats), "TIFF"), channels=1)
    np.testing.assert_array_equal(levels[..., 0], np.rint(floats))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((4, 4), 70000, np.int32), "from 70000 to 70000, wanted 0 to 65535"),
        (np.full((4, 4), -1, np.int32), "from -1 to -1"),
        (np.eye(4, dtype=np.float32), "float values from 0 to 1, wanted 0 to 255"),
        (np.full((4, 4), 300.0, np.float32), "from 300 to 300"),
        (np.full((4, 4), np.nan, np.float32), "from nan to nan"),
    ],
)
def test_values_without_a_rule_are_named(values, said):
    assert said in reason(encode(Image.fromarray(values), "TIFF"))


def test_cmyk_one_bit_and_animations():
    image = Image.fromarray(photograph())
    cmyk = encode(image.convert("CMYK"), "JPEG", quality=95)
    assert difference(decode(cmyk), Image.open(io.BytesIO(cmyk)).convert("RGB")) == 0
    assert difference(decode(cmyk), image) < 4, "not its negative"
    bits = image.convert("1")
    np.testing.assert_array_equal(decode(encode(bits)), np.asarray(bits.convert("RGB")))
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    film = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(film).tolist() == [[[255, 0, 0]] * 8] * 8


@pytest.mark.parametrize("format", ["BMP", "PPM", "TIFF", "WEBP", "MPO"])
def test_other_formats(format):
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(photograph(), format, **options)
    image = Image.open(io.BytesIO(data)).convert("RGB")
    assert difference(decode(data), image) <= 0.1


def test_as_a_pillow_image():
    image = EncodedImage(with_orientation(photograph(), 6), "name")
    assert image.decode_pil().mode == "RGB" and image.decode_pil().size == (64, 96)
    np.testing.assert_array_equal(np.asarray(image.decode_pil()), image.decode())


JPEG = encode(photograph(200, 150), "JPEG")
PNG = encode(photograph(200, 150))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "no image; its 22 bytes begin with '<html>not fo"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (JPEG[:-500], "truncated"),
        (JPEG[:30], "Truncated File Read"),
        (encode(photograph(), "JPEG", progressive=True)[:-500], "truncated"),
        (PNG[: len(PNG) // 2], "truncated"),
        (PNG[:-400] + b"\0" * 4 + PNG[-396:], "fails its checksum"),
        (encode(photograph(), "GIF")[:2000], "truncated"),
        (encode(photograph(), "WEBP")[:900], ""),
    ],
    ids=[
        *("empty", "text", "half-jpeg", "jpeg-tail", "jpeg-start", "progressive"),
        *("half-png", "png-checksum", "gif", "webp"),
    ],
)
def test_broken_files_are_named(data, said, capfd):
    why = reason(data)
    assert why and said in why and len(why) <= 120
    printed = capfd.readouterr()
    assert printed.err == printed.out == "", "decoders do not talk over the log"


@pytest.mark.parametrize("tail", [b"\0", b"\n\r\n", b"\0" * 4000, b"x" * 100])
def test_a_few_bytes_too_many_do_no_harm(tail):
    np.testing.assert_array_equal(decode(JPEG + tail), decode(JPEG))


def test_bombs_are_refused_before_a_pixel_is_decoded():
    why = reason(image_files.png_of_size(20000, 20000))
    assert "400000000 pixels" in why and "DecompressionBombError" in why
    assert reason(image_files.png_of_size(0, 5))


@pytest.mark.parametrize("data", [JPEG, PNG], ids=["jpeg", "png"])
def test_no_damage_raises_anything_else(data):
    choose = random.Random(0)
    outcomes = set()
    for _ in range(150):
        damaged = bytearray(data[: choose.randrange(1, len(data) + 1)])
        for _ in range(choose.randrange(8)):
            damaged[choose.randrange(min(400, len(damaged)))] = choose.randrange(256)
        try:
            assert decode(bytes(damaged)).ndim == 3
            outcomes.add("decoded")
        except UnreadableImage as error:
            assert error.reason
            outcomes.add("named")
    assert "named" in outcomes


def test_the_error_crosses_processes():
    error = UnreadableImage("a/b.jpg", "the file is empty")
    assert isinstance(error, DataError)
    again = pickle.loads(pickle.dumps(error))
    assert (again.name, again.reason) == ("a/b.jpg", "the file is empty")
    assert str(again) == str(error)
    assert "a/b.jpg cannot be read: the file is empty. Remove or" in str(error)


def test_senseless_arguments_are_the_callers_fault():
    with pytest.raises(ValueError, match="shrink is 3; wanted one of"):
        decode(JPEG, shrink=3)
    with pytest.raises(ValueError, match="channels is 4; wanted 1 or 3"):
        decode(JPEG, channels=4)
