"""The report counts what is there; mean and std follow from data and seed."""

import numpy as np
import pytest
from image_files import encode, photograph, with_orientation
from PIL import Image

from vissl_swav.data import DataError
from vissl_swav.data.check import (
    Spread,
    channel_statistics,
    check_images,
    count_classes,
)
from vissl_swav.data.image_list import open_images


def write(folder, **files):
    """Files by name, `a_png` for `a.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name.replace("_", ".")).write_bytes(data)
    return folder


@pytest.fixture
def mixed(tmp_path):
    write(
        tmp_path / "cat",
        a_jpg=encode(photograph(100, 60), "JPEG"),
        b_jpg=with_orientation(photograph(100, 60, seed=1), 6),
        c_png=encode(Image.fromarray(photograph(40, 50)).convert("L")),
    )
    write(
        tmp_path / "dog",
        d_png=encode(photograph(64, 48)),
        e_png=encode(photograph(64, 48)),
        f_jpg=encode(photograph(), "JPEG")[:-700],
        g_jpg=b"no image at all",
    )
    return tmp_path


def test_the_report_counts_everything(mixed):
    calls = []
    report = check_images(open_images(mixed), report=lambda *at: calls.append(at))
    assert (report.count, report.num_decoded) == (7, 7)
    assert report.widths == Spread(40, 64.0, 100)
    assert report.heights == Spread(48, 50.0, 100)
    assert report.modes == {"RGB": 4, "L": 1}
    assert report.formats == {"PNG": 3, "JPEG": 2}
    assert report.num_rotated == 1
    assert [(name, why[:8]) for name, why in report.unreadable] == [
        (str(mixed / "dog/f.jpg"), "image fi"),
        (str(mixed / "dog/g.jpg"), "no image"),
    ]
    assert report.images_per_class == {"cat": 3, "dog": 4}
    assert report.duplicates == [(str(mixed / "dog/d.png"), str(mixed / "dog/e.png"))]
    assert report.warnings == ["1 of 5 files are exact copies of others."]
    assert calls == [(done, 7) for done in range(1, 8)]


def test_a_sample_is_fixed_by_the_seed(mixed):
    images = open_images(mixed)
    samples = [check_images(images, num_decoded=3, seed=seed) for seed in (0, 0, 1, 2)]
    assert samples[0] == samples[1]
    assert any(sample != samples[0] for sample in samples[2:])
    assert all(s.count == 7 and s.num_decoded == 3 for s in samples)
    assert check_images(images, num_decoded=None) == check_images(images)
    with pytest.raises(DataError, match="sample of 0 images"):
        check_images(images, num_decoded=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_those_of_the_pixels_images_alike(tmp_path, channels):
    sizes = [(20, 30), (90, 10), (33, 32)]
    levels = [photograph(*size, seed=seed) for seed, size in enumerate(sizes)]
    files = {f"{i}_png": encode(values) for i, values in enumerate(levels)}
    images = open_images(write(tmp_path, **files, broken_png=b"?"))
    if channels == 1:
        levels = [
            np.asarray(Image.fromarray(v).convert("L"))[..., None] for v in levels
        ]
    scaled = [values.reshape(-1, channels) / 255.0 for values in levels]
    mean = np.mean([values.mean(axis=0) for values in scaled], axis=0)
    square = np.mean([(values**2).mean(axis=0) for values in scaled], axis=0)
    found = channel_statistics(images, channels=channels)
    np.testing.assert_allclose(found[0], mean, atol=1e-9)
    np.testing.assert_allclose(found[1], np.sqrt(square - mean**2), atol=1e-9)
    report = check_images(images, channels=channels)
    assert (report.mean, report.std) == found
    assert len(found[0]) == len(found[1]) == channels


def test_statistics_are_the_same_each_time(tmp_path):
    files = {f"{i}_jpg": encode(photograph(seed=i), "JPEG") for i in range(40)}
    images = open_images(write(tmp_path, **files))
    few = [channel_statistics(images, num_images=7, seed=seed) for seed in (3, 3, 4)]
    assert few[0] == few[1] != few[2]
    assert channel_statistics(images) == channel_statistics(images, seed=9)


def test_a_flat_image_has_no_deviation(tmp_path):
    images = open_images(
        write(tmp_path, a_png=encode(np.full((9, 9, 3), 51, np.uint8)))
    )
    mean, std = channel_statistics(images)
    assert mean == pytest.approx((0.2,) * 3) and std == (0.0,) * 3


def test_nothing_readable(tmp_path):
    images = open_images(write(tmp_path, a_png=b"", b_png=b"x"))
    report = check_images(images)
    assert len(report.unreadable) == report.num_decoded == 2
    assert report.mean is report.std is report.widths is report.heights is None
    assert report.modes == {} and report.warnings == []
    with pytest.raises(DataError, match=r"none of 2 images.*last one: .*b\.png cannot"):
        channel_statistics(images)


def test_counts_of_labels_without_names(tmp_path):
    write(tmp_path, a_png=encode(photograph()))
    (tmp_path / "list.txt").write_text("a.png 3\na.png 0\na.png 3\n")
    assert count_classes(open_images(tmp_path / "list.txt")) == {"0": 1, "3": 2}
    assert count_classes(open_images(tmp_path)) is None


def warnings_of(folder, **options):
    return " ".join(check_images(open_images(folder), **options).warnings)


def test_warnings(tmp_path):
    small = write(tmp_path / "small", a_png=encode(photograph(31, 64)))
    assert "1 of 1 images have a side below 32 pixels" in warnings_of(small)
    grey = Image.fromarray(photograph()).convert("L")
    grey_folder = write(
        tmp_path / "grey",
        a_png=encode(grey),
        b_jpg=encode(grey.convert("RGB"), "JPEG"),
    )
    assert "every image is grey: one channel is enough" in warnings_of(grey_folder)
    assert warnings_of(grey_folder, channels=1) == ""
    write(grey_folder, c_png=encode(photograph()))
    assert warnings_of(grey_folder) == ""
    dark = Image.fromarray(photograph()[..., 0].astype(np.uint16) * 8)
    said = warnings_of(write(tmp_path / "dark", a_png=encode(dark)))
    assert "1 images of 16 bits use less than a sixteenth" in said and "a.png" in said
    large = write(tmp_path / "large", a_jpg=encode(photograph(2000, 1001), "JPEG"))
    assert "over 2 million pixels" in warnings_of(large)


def test_a_lopsided_data_set_is_told(tmp_path):
    for number in range(20):
        write(tmp_path / "most", **{f"{number}_png": encode(photograph(seed=number))})
    assert warnings_of(tmp_path) == "", "one class is fine"
    write(tmp_path / "rest", a_png=encode(photograph(seed=99)))
    assert warnings_of(tmp_path) == "class most holds 20 of 21 images."
    write(tmp_path / "rest", b_png=encode(photograph(seed=98)))
    write(tmp_path / "rest", c_png=encode(photograph(seed=97)))
    assert warnings_of(tmp_path) == ""
