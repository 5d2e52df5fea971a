"""Folders, lists and shards open as one list; what is wrong is named with a remedy."""

import io
import os
import pickle
import tarfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from image_files import encode

from vissl_swav.data import DataError
from vissl_swav.data.decoding import UnreadableImage
from vissl_swav.data.image_list import expand_braces, open_images, split_folders
from vissl_swav.data.packed_strings import PackedStrings


def make_files(folder, *names):
    """One image a name, each of its own grey level."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(np.full((4, 4, 3), number, np.uint8)))
    return folder


def make_tar(file, members, mode="w"):
    """Members by name: bytes, or a number for an image of that grey level."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as tar:
        for name, content in members.items():
            if isinstance(content, int):
                content = encode(np.full((4, 4, 3), content, np.uint8))
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file


def names_of(images, folder):
    return [os.path.relpath(images.name(index), folder) for index in range(len(images))]


def levels_of(images):
    return [int(images.read(i).decode()[0, 0, 0]) for i in range(len(images))]


def refusal(path):
    with pytest.raises(DataError) as caught:
        open_images(path)
    return str(caught.value)


def test_class_folders_are_what_imagefolder_reads(tmp_path, image_folder):
    make_files(
        tmp_path, "b/2.png", "b/10.PNG", "a/deep/er/x.png", "a/x.jpg", "C/space d.png"
    )
    (tmp_path / "notes.txt").write_text("not an image")
    images, theirs = open_images(tmp_path), image_folder(tmp_path)
    found = [images.name(index) for index in range(len(images))]
    assert found == [path for path, _ in theirs.samples]
    assert images.labels == theirs.targets
    assert images.class_names == theirs.classes == ["C", "a", "b"]


def test_a_folder_without_classes(tmp_path):
    make_files(tmp_path, "b.png", "a.png", "more/c.png", ".hidden.png", ".cache/d.png")
    images = open_images(tmp_path)
    assert names_of(images, tmp_path) == ["a.png", "b.png", "more/c.png"]
    assert images.labels is None and images.class_names is None
    assert levels_of(images) == [1, 0, 2]
    assert images.read(-1).name == str(tmp_path / "more/c.png")
    with pytest.raises(IndexError, match="image 3 of 3"):
        images.read(3)


def test_links_and_relative_paths(tmp_path, monkeypatch):
    make_files(tmp_path / "disk", "a/x.png")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "linked").symlink_to(tmp_path / "disk" / "a")
    monkeypatch.chdir(tmp_path)
    images = open_images("mine")
    monkeypatch.chdir("/")
    assert images.class_names == ["linked"] and levels_of(images) == [0]


def test_splits_are_named(tmp_path):
    make_files(tmp_path, "train/a/1.png", "val/a/2.png")
    assert split_folders(tmp_path) == {
        "train": tmp_path / "train",
        "val": tmp_path / "val",
    }
    assert f"name one of them: {tmp_path / 'train'} or" in refusal(tmp_path)
    make_files(tmp_path, "test/a/2.png")
    assert list(split_folders(tmp_path)) == ["train", "test"]
    vehicles = make_files(tmp_path / "vehicles", "train/1.png", "car/2.png")
    assert split_folders(vehicles) == {}
    assert open_images(vehicles).class_names == ["car", "train"]
    alone = make_files(tmp_path / "alone", "train/1.png")
    assert list(split_folders(alone)) == ["train"]
    assert split_folders(tmp_path / "absent") == {}


def write_list(folder, text, name="list.txt"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_a_text_list(tmp_path):
    make_files(tmp_path, "a.png", "my photo 12.png", "sub/c.png")
    elsewhere = tmp_path / "sub" / "c.png"
    text = f"\ufeff# two and one\r\n\r\nmy photo 12.png\na.png\r\n{elsewhere}\n"
    images = open_images(write_list(tmp_path, text))
    assert levels_of(images) == [1, 0, 2] and images.labels is None
    assert images.name(2) == str(elsewhere)


@pytest.mark.parametrize("between", [" ", "\t", "   "])
def test_a_text_list_with_labels(tmp_path, between):
    make_files(tmp_path, "a.png", "my photo 12.png")
    text = f"my photo 12.png{between}7\na.png{between}0"
    images = open_images(write_list(tmp_path, text))
    assert images.labels == [7, 0] and levels_of(images) == [1, 0]
    assert images.class_names is None


def test_numbers_that_belong_to_names_are_no_labels(tmp_path):
    make_files(tmp_path, "holiday 1", "holiday 2")
    images = open_images(write_list(tmp_path, "holiday 1\nholiday 2\n"))
    assert images.labels is None and levels_of(images) == [0, 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n# nothing\n", "holds no path; wanted one path a line"),
        ("a.png 1\nb.png\n", "line 2 of .*no label .b.png., but 1 of 2 lines have one"),
        ("a.png\nb.png 1\n", "line 1 of .*no label .a.png., but 1 of 2"),
        ("a.png 1\nb.png -1\n", "line 2 of .*the label -1; labels count from 0"),
        ("a.png 9999999999999999999\n", "line 1 of .*the label 9+; .* 18 digits"),
        ("a.png 1\nb.png " + "9" * 5000, "line 2 of .*the label 9{30}; labels"),
        (
            "gone.png\na.png\n",
            "gone.png, named in .*does not exist .1 of 2.*typing|moun",
        ),
        ("a.png\ngone.png\n", "gone.png, named in"),
        ("a.png,1\nb.png,2\n", "a.png,1, named in .*CSV or JSON"),
        ("a.png\nb.png\0\n", "does not exist"),
    ],
)
def test_text_lists_that_cannot_be_right(tmp_path, text, said):
    make_files(tmp_path, "a.png", "b.png")
    with pytest.raises(DataError, match=said):
        open_images(write_list(tmp_path, text))


def test_paths_from_elsewhere_are_explained(tmp_path, monkeypatch):
    make_files(tmp_path, "images/a.png")
    (tmp_path / "lists").mkdir()
    monkeypatch.chdir(tmp_path)
    said = refusal(write_list(tmp_path / "lists", "images/a.png"))
    assert f"taken from the list's folder, {tmp_path / 'lists'}" in said


def test_names_that_are_no_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        make_files(tmp_path, name)
    except OSError:
        pytest.skip("the file system wants UTF-8")
    (tmp_path / "list.txt").write_bytes(os.fsencode(name) + b"\n")
    assert levels_of(open_images(tmp_path)) == [0]
    assert levels_of(open_images(tmp_path / "list.txt")) == [0]


def test_an_array_of_paths(tmp_path):
    make_files(tmp_path, "a.png", "b.png")
    for number, kind in enumerate((str, np.bytes_)):
        file = tmp_path / f"{number}.npy"
        np.save(file, np.array(["b.png", str(tmp_path / "a.png")], dtype=kind))
        assert levels_of(open_images(file)) == [1, 0]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array(["a.png"], dtype=object), "allow_pickle=False.*dtype=str"),
        (np.zeros(3), r"holds an array \(3,\) of float64; wanted one string"),
        (np.array([["a.png"]]), r"an array \(1, 1\)"),
        (np.array(["gone.png"]), "gone.png, named in .*does not exist"),
        (np.array([], dtype=str), r"an array \(0,\)"),
    ],
)
def test_arrays_that_cannot_be_right(tmp_path, array, said):
    make_files(tmp_path, "a.png")
    np.save(tmp_path / "list.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=said):
        open_images(tmp_path / "list.npy")


@pytest.fixture
def shards(tmp_path):
    """Two webdataset shards with five labelled images."""
    folder = tmp_path / "shards"
    first = {"00.jpg": 0, "00.cls": b"3", "a/01.png": 1, "a/01.cls": b"0\n"}
    second = {
        "02.json": b"{}",
        "02.cls": b"1",
        "02.PNG": 2,
        "03.png": 3,
        "03.cls": b"3",
    }
    make_tar(folder / "part-000.tar", first)
    make_tar(folder / "part-001.tar", second)
    return folder


def test_shards_by_folder_pattern_and_file(shards):
    for path in (
        shards,
        shards / "part-{000..001}.tar",
        f"{shards}/part-00{{0,1}}.tar",
    ):
        images = open_images(path)
        assert levels_of(images) == [0, 1, 2, 3]
        assert images.labels == [3, 0, 1, 3] and images.class_names is None
        assert images.name(1) == str(shards / "part-000.tar" / "a/01.png")
    assert levels_of(open_images(shards / "part-001.tar")) == [2, 3]


def test_shards_without_labels_and_with_other_members(tmp_path):
    members = {
        "x.jpg": 0,
        "x.mask.png": 9,
        "._x.jpg": b"a Macintosh was here",
        "trip.2020.1.png": 1,
        "trip.2020.2.png": 2,
        "y.txt": b"a caption",
        "n01440764_tench.JPEG": 3,
    }
    images = open_images(make_tar(tmp_path / "some.tar", members))
    assert levels_of(images) == [0, 1, 2, 3] and images.labels is None


def test_a_shard_that_is_written_anew_is_scanned_anew(tmp_path):
    file = make_tar(tmp_path / "a.tar", {"1.png": 1})
    assert levels_of(open_images(file)) == [1]
    make_tar(file, {"2.png": 2, "long-name-3.png": 3, "4.png": 4})
    assert levels_of(open_images(file)) == [2, 3, 4]


def test_brace_patterns():
    assert list(expand_braces("a{08..10}.tar")) == ["a08.tar", "a09.tar", "a10.tar"]
    assert list(expand_braces("{8..10}")) == ["8", "9", "10"]
    assert list(expand_braces("{a,b}-{0..1}")) == ["a-0", "a-1", "b-0", "b-1"]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("part-{000..002}.tar", "part-002.tar cannot be opened: No such file.*all sha"),
        ("part-{001..000}.tar", "runs backwards"),
        ("part-{000}.tar", r"\{000\} in .* is no range; wanted \{000\.\.127\}"),
    ],
)
def test_patterns_that_cannot_be_right(shards, pattern, said):
    with pytest.raises(DataError, match=said):
        open_images(shards / pattern)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"a.txt": b"no image"}, "there is no image; wanted members such as"),
        (
            {"a.png": 0, "b.png": 1, "a.cls": b"1"},
            "b.png has no .cls member, but 1 of 2",
        ),
        ({"a.png": 0, "a.cls": b"cat"}, "a.cls in .* holds b'cat'; wanted a whole num"),
        ({"a.png": 0, "a.cls": b"-2"}, "holds b'-2'"),
        ({"a.png": 0, "a.cls": b"9" * 19}, "of 18 digits at most"),
    ],
)
def test_shards_that_cannot_be_right(tmp_path, members, said):
    with pytest.raises(DataError, match=said):
        open_images(make_tar(tmp_path / "a.tar", members))


def test_links_in_shards_are_refused(tmp_path):
    make_files(tmp_path, "a.png")
    os.link(tmp_path / "a.png", tmp_path / "b.png")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "a.png", "a.png")
        tar.add(tmp_path / "b.png", "b.png")
    assert "b.png in" in (said := refusal(tmp_path / "a.tar"))
    assert "--hard-dereference" in said


def test_broken_and_compressed_shards(shards, tmp_path):
    whole = (shards / "part-000.tar").read_bytes()
    # Within the pixels of the second image, whose header is whole.
    (shards / "part-000.tar").write_bytes(whole[: 512 * 5 + 20])
    assert "part-000.tar cannot be read as an uncompressed tar" in refusal(shards)
    (shards / "part-000.tar").write_bytes(b"<html>" * 200)
    assert "part-000.tar cannot be read as an uncompressed tar" in refusal(shards)
    for name in ("x.tar.gz", "y.tgz"):
        file = make_tar(tmp_path / "zip" / name, {"a.png": 0}, mode="w:gz")
        assert "is a compressed tar" in refusal(file)
        assert "Unpack it to .tar" in refusal(file.parent)


def test_reading_what_is_gone(tmp_path, shards):
    folder = make_files(tmp_path / "folder", "a.png", "b.png")
    images = open_images(folder)
    (folder / "a.png").unlink()
    with pytest.raises(UnreadableImage, match="No such file") as caught:
        images.read(0)
    assert caught.value.name == str(folder / "a.png")
    assert levels_of_last(images) == 1
    images = open_images(shards)
    os.truncate(shards / "part-001.tar", 600)
    with pytest.raises(UnreadableImage, match="ends .* bytes too early"):
        images.read(3)
    (shards / "part-000.tar").unlink()
    with pytest.raises(UnreadableImage, match="No such file"):
        images.read(0)


def levels_of_last(images):
    return int(images.read(len(images) - 1).decode()[0, 0, 0])


def test_more_shards_than_files_may_be_open(tmp_path, monkeypatch):
    from vissl_swav.data import tar_shards

    monkeypatch.setattr(tar_shards, "MAX_OPEN_FILES", 2)
    for number in range(5):
        make_tar(tmp_path / f"{number}.tar", {f"{number}.png": number})
    open_before = len(os.listdir("/proc/self/fd")) if Path("/proc").is_dir() else 0
    images = open_images(tmp_path)
    assert levels_of(images) + levels_of(images) == [*range(5)] * 2
    if open_before:
        assert len(os.listdir("/proc/self/fd")) == open_before + 2
        del images
        assert len(os.listdir("/proc/self/fd")) == open_before


@pytest.mark.parametrize("kind", ["folder", "list", "shards"])
def test_workers_of_any_start_method_read_it(tmp_path, shards, kind):
    make_files(tmp_path / "folder", *(f"a/{i}.png" for i in range(4)))
    lines = "\n".join(f"folder/a/{i}.png" for i in range(4))
    path = {
        "folder": tmp_path / "folder",
        "list": write_list(tmp_path, lines),
        "shards": shards,
    }[kind]
    images = open_images(path)
    assert images.read(0).size == (4, 4)
    again = pickle.loads(pickle.dumps(images))
    assert levels_of(again) == levels_of(images) == [0, 1, 2, 3]
    assert again.labels == images.labels
    with ProcessPoolExecutor(1, get_context("forkserver")) as pool:
        image = pool.submit(images.read, 2).result(timeout=120)
    assert image == images.read(2)


def test_a_million_names_pickle_small():
    names = PackedStrings(f"n{i % 1000:08d}/{i:08d}.jpg" for i in range(50_000))
    assert len(pickle.dumps(names)) < 50_000 * (22 + 8 + 1)
    assert names[0] == "n00000000/00000000.jpg"
    assert names[49_999] == names[-1] == "n00000999/00049999.jpg"
    assert len(PackedStrings([])) == 0


def test_what_is_no_data_set(tmp_path):
    assert f"there is no {tmp_path / 'gone'}. Check the path" in refusal(
        tmp_path / "gone"
    )
    assert "Only local data is read" in refusal("s3://bucket/part-000.tar")
    empty = tmp_path / "empty"
    (empty / "sub").mkdir(parents=True)
    assert "holds no image; it is empty. Wanted a folder of images" in refusal(empty)
    (empty / "sub" / "a.heic").write_bytes(b"x")
    (empty / "b.HEIC").write_bytes(b"x")
    assert ".webp), but .heic (2). Wanted" in refusal(empty)
    make_files(tmp_path, "one.png")
    assert "is a .png file. It is one image. Wanted" in refusal(tmp_path / "one.png")
    (tmp_path / "a.csv").write_text("x")
    assert "is a .csv file. Wanted" in refusal(tmp_path / "a.csv")
    make_files(tmp_path / "holes", "a/1.png", "b/2.png")
    (tmp_path / "holes" / "c").mkdir()
    assert "class folders without an image: c" in refusal(tmp_path / "holes")


def test_photographs_in_a_tar(shared):
    archive = shared / "data" / "imagenet-samples-200.tar"
    if not archive.is_file():
        pytest.skip(f"no {archive.name} among the shared data")
    images = open_images(archive)
    assert len(images) == 200 and images.labels is None
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.isfile()]
        for index in (0, 77, 199):
            image = images.read(index)
            assert image.data == tar.extractfile(members[index]).read()
            assert image.name.endswith(members[index].name.removeprefix("./"))


@pytest.mark.parametrize("kind", ["flat", "classes", "root"])
def test_a_locked_folder_is_named(tmp_path, monkeypatch, kind):
    """Passed over, its images would be missing without a word."""
    make_files(tmp_path / "open" if kind == "classes" else tmp_path, "0.png", "1.png")
    make_files(tmp_path / "locked", "2.png")
    locked = tmp_path if kind == "root" else tmp_path / "locked"
    scandir = os.scandir

    def refuse(path="."):
        if os.fspath(path) == str(locked):
            raise PermissionError(13, "Permission denied", str(locked))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=f"{locked} cannot be read: Permission denied"):
        open_images(tmp_path)
