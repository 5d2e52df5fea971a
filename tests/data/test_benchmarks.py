"""Benchmark data sets: readers against torchvision's, writers, archives, the facts."""

import hashlib
import io
import tarfile
import zipfile

import benchmark_files
import numpy as np
import pytest
from PIL import Image

from vissl_swav.data import DataError, class_splits, list_images
from vissl_swav.data.archives import Unreachable, fetch, unpack
from vissl_swav.data.array_images import write_array_images
from vissl_swav.data.benchmark_facts import BENCHMARKS, find
from vissl_swav.data.benchmarks import Archive
from vissl_swav.data.class_folders import ClassFile, write_class_folders
from vissl_swav.data.label_lists import (
    Listed,
    inaturalist18,
    places205,
    read_lists,
    write_lists,
)
from vissl_swav.data.new_folder import new_folder

# Our name, the place of the archive, torchvision's class, and its splits for ours.
FILE_SETS = {
    "food101": ("food-101", "Food101", {"train": ["train"], "test": ["test"]}),
    "pets": (
        "oxford-iiit-pet",
        "OxfordIIITPet",
        {"train": ["trainval"], "test": ["test"]},
    ),
    "dtd": ("dtd/dtd", "DTD", {"train": ["train", "val"], "test": ["test"]}),
    "flowers102": (
        "flowers-102",
        "Flowers102",
        {"train": ["train", "val"], "test": ["test"]},
    ),
}


@pytest.fixture
def trusting(torchvision_datasets, monkeypatch):
    """torchvision without its MD5 sums, which small data sets cannot have."""
    for module in ("cifar", "stl10", "flowers102"):
        monkeypatch.setattr(
            getattr(torchvision_datasets, module),
            "check_integrity",
            lambda path, md5=None: bool(path),
        )
    return torchvision_datasets


@pytest.mark.parametrize("name", FILE_SETS)
def test_files_and_classes_are_the_archives(name, tmp_path):
    place = FILE_SETS[name][0]
    truth = getattr(benchmark_files, name)(tmp_path)
    splits = getattr(class_splits, name)(tmp_path)
    assert {
        split: [tuple(file) for file in files] for split, files in splits.items()
    } == (truth)
    # As unpacked by hand, without torchvision's folder around it.
    assert getattr(class_splits, name)(tmp_path / place) == splits
    write_class_folders(splits, tmp_path / "out")
    for split, files in truth.items():
        made = list_images(tmp_path / "out" / split)
        assert sum(map(len, made.values())) == len(files)
        for class_name, file in files:
            link = tmp_path / "out" / split / class_name / file.name
            assert link.samefile(file) and link in made[class_name]


@pytest.mark.parametrize("name", FILE_SETS)
def test_torchvision_says_the_same(name, tmp_path, trusting):
    getattr(benchmark_files, name)(tmp_path)
    splits = getattr(class_splits, name)(tmp_path)
    _, class_name, parts = FILE_SETS[name]
    dataset = getattr(trusting, class_name)
    for split, theirs in parts.items():
        expected = [pair for part in theirs for pair in dataset(tmp_path, split=part)]
        names = sorted({file.class_name for file in splits[split]}, key=str.lower)
        assert len(expected) == len(splits[split])
        for (pixels, label), (class_name, file) in zip(
            expected, splits[split], strict=True
        ):
            assert names.index(class_name) == label
            with Image.open(file) as mine:
                assert mine.convert("RGB").tobytes() == pixels.tobytes()


def test_eurosat_is_split_by_name_as_the_host_does(tmp_path):
    benchmark_files.eurosat(tmp_path)
    splits = class_splits.eurosat(tmp_path, train=3, val=2)
    numbers = {
        split: [file.file.stem.rpartition("_")[2] for file in files]
        for split, files in splits.items()
    }
    assert numbers == {"train": ["1", "10", "11"] * 2, "val": ["2", "3"] * 2}
    with pytest.raises(DataError, match=r"AnnualCrop .* has 5 images.* first 1000"):
        class_splits.eurosat(tmp_path)


def test_the_first_split_of_eurosat_is_that_of_the_hosts_script(tmp_path):
    script = pytest.importorskip("extra_scripts.datasets.create_euro_sat_data_files")
    benchmark_files.eurosat(tmp_path)
    splits = class_splits.eurosat(tmp_path, train=3, val=2)

    class Small(script._EuroSAT):
        TRAIN_SAMPLES, VALID_SAMPLES = 3, 2

    for split, files in splits.items():
        theirs = Small(str(tmp_path / "eurosat"), "", train=split == "train")
        assert theirs.images == [file.file.name for file in files]


def test_imagenet_subsets(tmp_path):
    benchmark_files.imagenet(tmp_path)
    # ImageNet's own, without labels.
    (tmp_path / "test").mkdir()
    splits = class_splits.imagenet(tmp_path)
    assert {split: len(files) for split, files in splits.items()} == {
        "train": 18,
        "val": 6,
    }
    names = ["n15075141_36.JPEG", "n01440764_26.JPEG", "n01443537_76.JPEG"]
    listed = tmp_path / "1percent.txt"
    listed.write_text("\n".join(names) + "\n")
    subset = class_splits.imagenet_subset(splits, listed)
    assert [file.file.name for file in subset["train"]] == sorted(names)
    assert {file.class_name for file in subset["train"]} == {
        "n01440764",
        "n01443537",
        "n15075141",
    }
    assert subset["val"] == splits["val"]


def test_a_draw_is_by_class_and_by_seed(tmp_path):
    benchmark_files.imagenet(tmp_path)
    splits = class_splits.imagenet(tmp_path)

    def draw(percent, seed):
        drawn = class_splits.imagenet_draw(splits, percent=percent, seed=seed)
        return [file.file.name for file in drawn["train"]]

    assert draw(50, 0) == draw(50, 0) != draw(50, 1)
    assert [name[:9] for name in draw(50, 0)] == [
        wnid for wnid in ("n01440764", "n01443537", "n15075141") for _ in range(3)
    ]
    assert len(draw(1, 0)) == 3, "one of each class at least"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n01440764_26.JPEG\nn01440764_26.JPEG\n", "n01440764_26.JPEG twice"),
        ("n01440764/n01440764_26.JPEG\n", "wanted a file name of ImageNet"),
        ("n01440764_26.JPEG\nn01440764_999.JPEG\n", "1 of 2 images .*_999.JPEG"),
    ],
)
def test_a_wrong_subset_is_refused(tmp_path, text, said):
    benchmark_files.imagenet(tmp_path, train=1, val=1)
    listed = tmp_path / "list.txt"
    listed.write_text(text)
    with pytest.raises(DataError, match=said):
        class_splits.imagenet_subset(class_splits.imagenet(tmp_path), listed)


def test_validation_images_without_folders_are_refused(tmp_path):
    benchmark_files.imagenet(tmp_path, train=1, val=1)
    (tmp_path / "val" / "ILSVRC2012_val_00000009.JPEG").write_bytes(b"")
    with pytest.raises(DataError, match="lies in no class folder"):
        class_splits.imagenet(tmp_path)


@pytest.mark.parametrize(
    ("name", "reader"), [("places205", places205), ("inaturalist18", inaturalist18)]
)
def test_lists_are_the_official_ones_in_their_order(name, reader, tmp_path):
    truth = getattr(benchmark_files, name)(tmp_path)
    splits = reader(tmp_path)
    for split, pairs in truth.items():
        assert splits[split].paths == [str(file) for _, file in pairs]
        assert splits[split].labels.tolist() == [label for label, _ in pairs]
    (tmp_path / "out").mkdir()
    write_lists(splits, tmp_path / "out")
    images, labels = read_lists(tmp_path / "out", "train")
    assert labels.dtype == np.int64 and labels.tolist() == [
        n for n, _ in truth["train"]
    ]
    for index, (_, file) in enumerate(truth["train"]):
        assert images.read(index).data == file.read_bytes()


def test_the_hosts_script_says_the_same_of_inaturalist(tmp_path):
    script = pytest.importorskip(
        "extra_scripts.datasets.create_inaturalist2018_data_files"
    )
    benchmark_files.inaturalist18(tmp_path)
    for split, listed in inaturalist18(tmp_path).items():
        paths, labels = script.get_images_labels_info(
            f"/{split}2018.json", str(tmp_path)
        )
        assert paths.tolist() == listed.paths
        assert labels.tolist() == listed.labels.tolist()


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("train2018.json", "{", "is not what iNaturalist 2018 has"),
        ("train2018.json", '{"images": [], "annotations": [[]]}', "TypeError"),
        (
            "val2018.json",
            '{"images": [{"id": 1, "file_name": "train_val2018/Aves/7/a.jpg"}],'
            ' "annotations": [{"image_id": 1, "category_id": 3}]}',
            "a.jpg with category 3",
        ),
        (
            "val2018.json",
            '{"images": [{"id": 1, "file_name": "../../3/a.jpg"}],'
            ' "annotations": [{"image_id": 1, "category_id": 3}]}',
            "lies outside",
        ),
    ],
)
def test_wrong_annotations_are_refused(tmp_path, file, text, said):
    benchmark_files.inaturalist18(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=said):
        inaturalist18(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a/abbey/gsun_1f.jpg\n", "line 1 .*wanted a/abbey/name.jpg"),
        ("a/abbey/gsun_1f.jpg -1\n", "line 1 "),
        ("../../../../../../secret.jpg 0\n", "lies outside"),
    ],
)
def test_wrong_places_lists_are_refused(tmp_path, text, said):
    benchmark_files.places205(tmp_path)
    file = tmp_path / "trainvalsplit_places205" / "train_places205.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=said):
        places205(tmp_path)


@pytest.mark.parametrize(
    ("train", "val", "said"),
    [([0, 2], [0], "class 1, but"), ([0, 1], [2], "class 2 has images in the val")],
)
def test_labels_with_gaps_are_refused(tmp_path, train, val, said):
    file = str(benchmark_files.image(tmp_path / "a.png", 0))
    splits = {
        "train": Listed([file] * len(train), np.array(train)),
        "val": Listed([file] * len(val), np.array(val)),
    }
    with pytest.raises(DataError, match=said):
        write_lists(splits, tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "stl10"])
def test_arrays_become_images_pixel_for_pixel(name, tmp_path, trusting):
    make = getattr(benchmark_files, name, None)
    truth, names = make(tmp_path) if make else benchmark_files.cifar(tmp_path, name)
    counted = []
    write_array_images(name, tmp_path, tmp_path / "out", done=counted.append)
    total = 0
    for split, (pixels, labels) in truth.items():
        made = list_images(tmp_path / "out" / split)
        assert list(made) == names
        total += len(labels)
        for index, (levels, label) in enumerate(zip(pixels, labels, strict=True)):
            file = tmp_path / "out" / split / names[label] / f"{index:05d}.png"
            with Image.open(file) as image:
                np.testing.assert_array_equal(np.asarray(image), levels)
        assert sum(map(len, made.values())) == len(labels)
    assert counted == list(range(1, total + 1))


def test_pickles_with_other_sums_are_never_opened(tmp_path, torchvision_datasets):
    benchmark_files.cifar(tmp_path, "cifar10")
    # A pickle that would make a folder.
    trap = b"cos\nmkdir\n(S'" + str(tmp_path / "hacked").encode() + b"'\ntR."
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(trap)
    with pytest.raises(DataError, match="not whole .*published MD5 sums"):
        write_array_images("cifar10", tmp_path, tmp_path / "out")
    assert not (tmp_path / "hacked").exists()


def test_class_names_cannot_lead_elsewhere(tmp_path, trusting):
    benchmark_files.stl10(tmp_path)
    names = tmp_path / "stl10_binary" / "class_names.txt"
    names.write_text("airplane\n../../up\ncar\n")
    with pytest.raises(DataError, match=r"'../../up'.* is no name of a class"):
        write_array_images("stl10", tmp_path, tmp_path / "out")
    names.unlink()
    with pytest.raises(DataError, match="no class_names.txt"):
        write_array_images("stl10", tmp_path, tmp_path / "out2")


def test_links_copies_and_what_is_refused(tmp_path, monkeypatch):
    file = benchmark_files.image(tmp_path / "in" / "a.png", 0)
    other = benchmark_files.image(tmp_path / "in" / "b" / "a.png", 1)
    splits = {"train": [ClassFile("cat", file)], "test": [ClassFile("cat", other)]}
    write_class_folders(splits, tmp_path / "hard")
    hard = tmp_path / "hard" / "train" / "cat" / "a.png"
    assert hard.samefile(file) and not hard.is_symlink()
    write_class_folders(splits, tmp_path / "copied", copy=True)
    copied = tmp_path / "copied" / "train" / "cat" / "a.png"
    assert copied.read_bytes() == file.read_bytes() and not copied.samefile(file)

    def no_hard_links(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", no_hard_links)
    write_class_folders(splits, tmp_path / "soft")
    soft = tmp_path / "soft" / "train" / "cat" / "a.png"
    assert soft.is_symlink() and soft.samefile(file)

    cases = {
        "is a class in train but not in test": [ClassFile("dog", other)],
        "same name and class": [ClassFile("cat", other)],
        "1 of 2 images of the train split are missing": [
            ClassFile("cat", tmp_path / "gone.png")
        ],
        "is no name of a class": [ClassFile("..", other)],
    }
    for said, more in cases.items():
        with pytest.raises(DataError, match=said):
            write_class_folders(
                {**splits, "train": [*splits["train"], *more]}, tmp_path / "no"
            )
        assert not (tmp_path / "no").exists()


def test_a_folder_is_made_whole_or_not_at_all(tmp_path):
    target = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt), new_folder(target) as folder:
        (folder / "half").mkdir()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    target.mkdir()
    with new_folder(target) as folder:
        (folder / "whole").write_text("x")
        assert list(target.iterdir()) == []
    assert [path.name for path in target.iterdir()] == ["whole"]
    assert target.stat().st_mode & 0o055 == 0o055 & ~_umask()
    with pytest.raises(DataError, match="is not empty"), new_folder(target):
        pass
    with pytest.raises(DataError, match="no folder"), new_folder(target / "whole"):
        pass


def _umask():
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


def tar_of(path, members, *, kind=tarfile.REGTYPE):
    mode = "w:gz" if path.suffix in (".gz", ".tgz") else "w"
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.type = len(data), kind
            member.linkname = "/etc/passwd" if kind != tarfile.REGTYPE else ""
            tar.addfile(member, io.BytesIO(data))
    return path


def test_two_archives_unpack_into_one_tree(tmp_path):
    first = tar_of(tmp_path / "trainval.tar", {"VOC/a/1.jpg": b"one", "VOC/b": b"two"})
    second = tar_of(tmp_path / "test.tar.gz", {"./VOC/a/2.jpg": b"three"})
    with zipfile.ZipFile(tmp_path / "third.zip", "w") as archive:
        archive.writestr("VOC/c/", "")
        archive.writestr("VOC/c/3.jpg", b"four")
    for file in (first, second, tmp_path / "third.zip"):
        unpack(file, tmp_path / "out")
    found = {
        str(path.relative_to(tmp_path / "out")): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert found == {
        "VOC/a/1.jpg": b"one",
        "VOC/b": b"two",
        "VOC/a/2.jpg": b"three",
        "VOC/c/3.jpg": b"four",
    }


@pytest.mark.parametrize("name", ["../out2/x", "/vissl-swav-x", "a/../../x", "a\\x"])
def test_members_cannot_leave_their_folder(tmp_path, name):
    tar = tar_of(tmp_path / "evil.tar", {"good": b"1", name: b"2"})
    with pytest.raises(DataError, match="outside of its folder"):
        unpack(tar, tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(name, b"2")
    with pytest.raises(DataError, match="outside of its folder"):
        unpack(tmp_path / "evil.zip", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "evil.tar",
        "evil.zip",
        "out",
    ]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_in_archives_are_refused(tmp_path, kind):
    tar = tar_of(tmp_path / "evil.tar", {"link": b""}, kind=kind)
    with pytest.raises(DataError, match="is a link or a device"):
        unpack(tar, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_archive_cut_off_leaves_nothing(tmp_path):
    noise = np.random.default_rng(0).bytes(100_000)
    tar = tar_of(tmp_path / "a.tar.gz", {"a": noise, "b": noise})
    tar.write_bytes(tar.read_bytes()[:150_000])
    with pytest.raises(DataError, match="cannot be unpacked: EOFError"):
        unpack(tar, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_fetching_goes_on_where_it_stopped(tmp_path, torchvision_datasets, monkeypatch):
    source = tar_of(tmp_path / "set.tar", {"set/a.jpg": b"image"})
    data, asked = source.read_bytes(), []

    def deliver(url, filename, **_):
        asked.append(url)
        with open(filename, "wb") as file:
            file.write(data)

    monkeypatch.setattr(torchvision_datasets.utils, "_urlretrieve", deliver)
    monkeypatch.setattr(
        torchvision_datasets.utils, "_get_redirect_url", lambda url, max_hops: url
    )
    archive = Archive(
        url="http://example.org/set.tar",
        md5=hashlib.md5(data, usedforsecurity=False).hexdigest(),
    )
    local = tmp_path / "local"
    fetch(archive, local)
    assert (local / "set" / "a.jpg").read_bytes() == b"image" and len(asked) == 1
    # Once more, with and without the archive: nothing to do.
    (local / "set.tar").unlink()
    fetch(archive, local)
    # An archive that was put there by hand is unpacked without a network.
    other = tmp_path / "other"
    other.mkdir()
    (other / "set.tar").write_bytes(data)
    fetch(archive, other)
    assert (other / "set" / "a.jpg").exists() and len(asked) == 1
    # A half of it is refused, and a server that sends another file too.
    third = tmp_path / "third"
    third.mkdir()
    (third / "set.tar").write_bytes(data[:600])
    with pytest.raises(DataError, match="is not whole, or another file"):
        fetch(archive, third)
    wrong = Archive(url=archive.url, md5="0" * 32)
    with pytest.raises(Unreachable, match="set.tar could not be downloaded"):
        fetch(wrong, tmp_path / "fourth")
    assert list((tmp_path / "fourth").iterdir()) == []


def test_the_facts_are_whole():
    for name, benchmark in BENCHMARKS.items():
        assert find(name) is benchmark and benchmark.name == name
        assert len(benchmark.num_images) == 2 and "train" in benchmark.num_images
        assert benchmark.page.startswith("http") and benchmark.source
        for archive in benchmark.archives:
            assert archive.md5 is None or len(archive.md5) == 32
    with pytest.raises(DataError, match="Did you mean cifar100"):
        find("CIFAR-100")
    with pytest.raises(DataError, match="another data set than the paper's Places205"):
        find("places365")


def test_the_archives_are_torchvisions(torchvision_datasets):
    known = {
        "cifar10": [("CIFAR10", "url", "tgz_md5")],
        "cifar100": [("CIFAR100", "url", "tgz_md5")],
        "stl10": [("STL10", "url", "tgz_md5")],
        "food101": [("Food101", "_URL", "_MD5")],
        "dtd": [("DTD", "_URL", "_MD5")],
    }
    for name, pairs in known.items():
        for (class_name, url, md5), mine in zip(
            pairs, BENCHMARKS[name].archives, strict=True
        ):
            theirs = getattr(torchvision_datasets, class_name)
            assert (mine.url, mine.md5) == (getattr(theirs, url), getattr(theirs, md5))
    pets = torchvision_datasets.OxfordIIITPet._RESOURCES
    assert [(a.url, a.md5) for a in BENCHMARKS["pets"].archives] == list(pets)
    flowers = torchvision_datasets.Flowers102._file_dict.values()
    assert [(a.name, a.md5) for a in BENCHMARKS["flowers102"].archives] == list(flowers)
    years = torchvision_datasets.voc.DATASET_YEAR_DICT
    assert [(a.url, a.md5) for a in BENCHMARKS["voc07"].archives] == [
        (years[key]["url"], years[key]["md5"]) for key in ("2007", "2007-test")
    ]
    inat = BENCHMARKS["inaturalist18"].archives[-1]
    module = torchvision_datasets.inaturalist
    assert inat.url == module.DATASET_URLS["2018"]
    assert inat.md5 == module.DATASET_MD5["2018"]
