"""Users' folders: what is right is counted, what is wrong is named with a remedy."""

import shutil

import pytest
from PIL import Image

from vissl_swav.data import (
    DataError,
    ImageFolderReport,
    check_image_folder,
    find_splits,
    list_images,
    subsample_folder,
)
from vissl_swav.data.folders import check_same_classes


def make_images(folder, *, count=3, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        colour = (index % 256, 100, 200)
        Image.new("RGB", (8, 8), colour).save(folder / f"{index}{suffix}")
    return folder


@pytest.fixture
def split(tmp_path):
    make_images(tmp_path / "cat", count=5)
    make_images(tmp_path / "dog", count=4, suffix=".jpg")
    return tmp_path


def test_equal_classes_pass(split, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    make_images(other / "dog", count=1)
    make_images(other / "cat", count=1)
    reports = [check_image_folder(folder, min_images=1) for folder in (split, other)]
    check_same_classes(*reports)


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ("cat dog owl", "cat owl", "only a has dog. Give"),
        ("cat owl", "cat dog owl", "only b has dog. Give"),
        ("cat Dog", "cat dog", "only a has Dog; only b has dog. Give"),
        ("1 2 3 4 5 6 7", "1", "only a has 2, 3, 4, 5, 6 and 1 more. Give"),
    ],
)
def test_classes_of_one_side_are_named(train, test, said):
    reports = [
        ImageFolderReport(
            path=path, images_per_class=dict.fromkeys(names.split(), 9), num_decoded=0
        )
        for path, names in (("a", train), ("b", test))
    ]
    with pytest.raises(DataError, match=f"classes differ: {said}"):
        check_same_classes(*reports)


def test_find_splits(tmp_path):
    make_images(tmp_path / "train" / "cat")
    make_images(tmp_path / "val" / "cat")
    assert find_splits(tmp_path) == (tmp_path / "train", tmp_path / "val")
    make_images(tmp_path / "test" / "cat")
    assert find_splits(str(tmp_path)).test == tmp_path / "test"


@pytest.mark.parametrize(
    ("present", "said"),
    [
        ([], "no train/ and no test/ or val/; it holds nothing"),
        (["train"], "has no test/ or val/; it holds train"),
        (["test", "pictures"], "has no train/; it holds pictures, test"),
    ],
)
def test_missing_splits_are_named(tmp_path, present, said):
    for name in present:
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=said):
        find_splits(tmp_path)


def test_a_good_folder_is_counted(split):
    (split / "notes.txt").write_text("not an image")
    make_images(split / "cat" / "young", count=2)
    report = check_image_folder(split, min_images=11)
    assert report.images_per_class == {"cat": 7, "dog": 4}
    assert report.num_images == 11
    assert report.num_decoded == 11


def test_it_counts_as_imagefolder_does(split, image_folder):
    make_images(split / "cat" / "young", count=2)
    (split / "dog" / "readme.md").write_text("no image")
    Image.new("L", (4, 4)).save(split / "dog" / "GREY.PNG")
    theirs = image_folder(str(split))
    ours = list_images(split)
    assert list(ours) == theirs.classes
    flat = sorted(str(file) for files in ours.values() for file in files)
    assert flat == sorted(file for file, _ in theirs.samples)


def test_missing_folder(tmp_path):
    for look in (find_splits, list_images):
        with pytest.raises(DataError, match="there is no folder .*nowhere. Check"):
            look(tmp_path / "nowhere")


def test_a_file_in_place_of_a_folder(split):
    with pytest.raises(DataError, match="is a file; wanted a folder"):
        check_image_folder(split / "cat" / "0.png", min_images=1)


def test_empty_folder(tmp_path):
    with pytest.raises(DataError, match="is empty; wanted <folder>/train/<class>"):
        check_image_folder(tmp_path, min_images=1)


def test_no_class_folders(tmp_path):
    make_images(tmp_path, count=8)
    with pytest.raises(DataError, match="no class folders.* and 3 more.*one folder a"):
        check_image_folder(tmp_path, min_images=1)


def test_an_empty_class(split):
    (split / "emu").mkdir()
    with pytest.raises(DataError, match="without an image: emu. Remove them"):
        check_image_folder(split, min_images=1)


def test_fewer_images_than_a_batch(split):
    with pytest.raises(DataError, match="9 images, fewer than one batch of 10"):
        check_image_folder(split, min_images=10)


@pytest.mark.parametrize("content", [b"", b"not an image", "truncated"])
def test_unreadable_images_are_named(split, content):
    victim = split / "dog" / "1.jpg"
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2] if content == "truncated" else content)
    with pytest.raises(DataError, match=r"1 of 9 images .*dog/1.jpg \(\w+: .*Remove"):
        check_image_folder(split, min_images=1)


def test_the_sample_is_bounded_and_seeded(split):
    (split / "dog" / "1.jpg").write_bytes(b"")
    found = []
    for seed in range(20):
        try:
            report = check_image_folder(split, min_images=1, num_decoded=2, seed=seed)
            found.append(report.num_decoded)
        except DataError:
            found.append("corrupt")
    assert set(found) == {2, "corrupt"}


def test_subsample_is_balanced_seeded_and_readable(split, tmp_path_factory):
    place = tmp_path_factory.mktemp("subsets")
    first = subsample_folder(split, place / "a", per_class=3, seed=0)
    report = check_image_folder(first, min_images=6)
    assert report.images_per_class == {"cat": 3, "dog": 3}
    names = {seed: set() for seed in range(6)}
    for seed in names:
        chosen = subsample_folder(split, place / f"s{seed}", per_class=3, seed=seed)
        names[seed] = {path.name for path in (chosen / "cat").iterdir()}
    assert names[0] == {path.name for path in (first / "cat").iterdir()}
    assert len({frozenset(chosen) for chosen in names.values()}) > 1
    link = next((first / "cat").iterdir())
    assert link.read_bytes() == (split / "cat" / link.name).read_bytes()


def test_subsample_takes_all_of_a_rare_class(split, tmp_path_factory):
    """A rare class gives what it has, and changes nothing in the others."""
    make_images(split / "emu", count=2)
    place = tmp_path_factory.mktemp("subsets")
    chosen = subsample_folder(split, place / "a", per_class=4, seed=0, allow_fewer=True)
    report = check_image_folder(chosen, min_images=1)
    assert report.images_per_class == {"cat": 4, "dog": 4, "emu": 2}
    shutil.rmtree(split / "emu")
    strict = subsample_folder(split, place / "b", per_class=4, seed=0)
    for name in ("cat", "dog"):
        names = [
            {path.name for path in (part / name).iterdir()} for part in (chosen, strict)
        ]
        assert names[0] == names[1]


def test_subsample_keeps_images_of_equal_name_apart(split, tmp_path_factory):
    make_images(split / "cat" / "young", count=5)
    make_images(split / "dog", count=10)
    target = tmp_path_factory.mktemp("subsets") / "a"
    chosen = subsample_folder(split, target, per_class=10, seed=0)
    assert len(list((chosen / "cat").iterdir())) == 10


def test_subsample_without_symbolic_links(split, tmp_path_factory, monkeypatch):
    def refuse(self, target):
        raise OSError("no links here")

    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    target = tmp_path_factory.mktemp("subsets") / "a"
    link = next(
        (subsample_folder(split, target, per_class=1, seed=0) / "cat").iterdir()
    )
    assert not link.is_symlink() and link.stat().st_nlink == 2


def test_subsample_refuses_what_it_cannot_do(split, tmp_path_factory):
    target = tmp_path_factory.mktemp("subsets") / "a"
    with pytest.raises(DataError, match="fewer than 5 images: dog 4"):
        subsample_folder(split, target, per_class=5, seed=0)
    assert not target.exists()
    with pytest.raises(DataError, match="per_class is 0"):
        subsample_folder(split, target, per_class=0, seed=0)
    with pytest.raises(DataError, match="is not empty"):
        subsample_folder(split, split, per_class=1, seed=0)


def test_a_flat_test_folder_stands_back_behind_val(tmp_path):
    for folder in ("train/a", "val/a", "test"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "test" / "unlabelled.jpg").write_bytes(b"x")
    assert find_splits(tmp_path).test == tmp_path / "val"
    (tmp_path / "test" / "a").mkdir()
    assert find_splits(tmp_path).test == tmp_path / "test"
