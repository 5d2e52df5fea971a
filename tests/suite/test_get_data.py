"""`vissl-swav data`: from archives to a checked data set that VISSL's configs read."""

import argparse
import dataclasses
import hashlib
import importlib.util
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import benchmark_files
import numpy as np
import pytest
import voc_files
from PIL import Image

from vissl_swav import cli, compat
from vissl_swav.data import class_folders, class_splits, host_scripts, list_images
from vissl_swav.data.benchmark_facts import BENCHMARKS, find
from vissl_swav.data.benchmarks import Archive
from vissl_swav.data.cifar10 import CLASSES
from vissl_swav.suite import data_arguments, get_data

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmark_data.md"
VISSL = pytest.mark.usefixtures("host")


def parsed(*words):
    top = argparse.ArgumentParser()
    data_arguments.add_command(top.add_subparsers())
    return top.parse_args(["data", *map(str, words)])


def command(*words):
    return get_data.main(parsed(*words))


@pytest.fixture
def run(capsys):
    """`run(*words)`: exit code, and what is printed to stdout and stderr."""

    def run(*words):
        code = command(*words)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def datasets():
    compat.apply()
    import torchvision.datasets

    return torchvision.datasets


def files_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_without_a_name_every_set_is_told(run):
    code, out, _ = run()
    assert code == 0
    for name, benchmark in BENCHMARKS.items():
        assert f"{name}: {benchmark.title}\n" in out
        for fact in (benchmark.page, benchmark.terms, benchmark.download):
            assert f" {fact}\n" in out
        for split, images in benchmark.num_images.items():
            assert f"{images} {split}" in out
    code, out, _ = run("dtd")
    assert code == 0 and "needs     dtd/{images,labels}\n" in out
    assert find("dtd").host_configs[1] in out


def test_every_config_that_is_named_is_the_hosts(host):
    root = Path(importlib.util.find_spec("configs").submodule_search_locations[0])
    for benchmark in BENCHMARKS.values():
        for config in benchmark.host_configs:
            assert (root / "config" / f"{config}.yaml").is_file(), config


def test_the_page_says_what_the_table_says():
    page = PAGE.read_text(encoding="utf-8")
    rows = {
        cells[0].strip("`"): cells[1:]
        for line in page.splitlines()
        if line.startswith("| `")
        for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
        if len(cells) == 7
    }
    assert list(rows) == list(BENCHMARKS)
    for name, benchmark in BENCHMARKS.items():
        classes, train, test, size, layout, _ = rows[name]
        images = [int(train), int(test)]
        assert images == list(benchmark.num_images.values())
        assert int(classes) == benchmark.num_classes
        assert size == "none" or size in benchmark.download.replace(" (", ", ")
        assert layout == benchmark.layout or name == "imagenet"
        assert re.search(rf"^## .*`{name}`", page, re.M)
        for config in benchmark.host_configs:
            # Its folder, or the last part of it where a sentence names several.
            assert config.split("/")[-2] in page


def test_every_script_of_vissls_is_named(host):
    """On the page, and by the command for the sets that it does not make itself."""
    (folder,) = importlib.util.find_spec(
        "extra_scripts.datasets"
    ).submodule_search_locations
    scripts = {
        path.stem.removeprefix("create_") for path in Path(folder).glob("create_*.py")
    }
    rest = PAGE.read_text(encoding="utf-8").partition("## The rest of VISSL's")[2]
    named = set(re.findall(r"`(\w+_(?:data_files|dataset))`", rest))
    assert len(scripts) > 20 and named == scripts
    told = set(host_scripts._SCRIPTS.values())
    above = rest.partition("The scripts of the sets above")[2]
    assert told == {script for script in scripts if f"`{script}`" not in above}
    root = Path(importlib.util.find_spec("configs").submodule_search_locations[0])
    for group in re.findall(
        r"`((?:linear|low_shot|robust|instance)\w+(?:/\w+)?)`", rest
    ):
        assert (root / "config" / "benchmark" / group).is_dir(), group


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Caltech-101", "extra_scripts.datasets.create_caltech101_data_files"),
        ("imagenet_a", "create_imagenet_a_data_files"),
        ("svhn", 'torchvision.datasets.SVHN("LOCAL", download=True)'),
        ("copydays", "VISSL has no script for it"),
        ("places365", "with 365 classes in its head"),
    ],
)
def test_other_sets_are_told_what_makes_them(name, said, run):
    code, _, errors = run(name)
    assert code == 2 and said in errors and "Did you mean" not in errors


def test_the_commands_of_the_page_are_commands():
    page = PAGE.read_text(encoding="utf-8")
    lines = re.findall(r"^    vissl-swav data\b(.*)$", page, re.M)
    assert len(lines) > 15
    for line in lines:
        options = parsed(*shlex.split(line, comments=True))
        assert options.name is None or options.name in BENCHMARKS


@pytest.mark.parametrize("name", ["food101", "pets", "dtd", "flowers102"])
def test_files_of_classes(name, tmp_path, run):
    truth = getattr(benchmark_files, name)(tmp_path / "local")
    out = tmp_path / "out"
    code, printed, errors = run(name, "--from", tmp_path / "local", "--out", out)
    assert (code, errors) == (0, "")
    for split, files in truth.items():
        classes = {class_name for class_name, _ in files}
        line = f"  {split}: {len(files)} images, {len(classes)} classes of "
        assert line in printed and f"{len(files)} tried, 0 broken\n" in printed
        for class_name, file in files:
            assert (out / split / class_name / file.name).samefile(file)
    assert "as published, not" in printed, "a small set is no published one"
    named = shlex.quote(f"{name}={out}")
    assert f"vissl-swav table CHECKPOINT --data {named}\n" in printed
    about = json.loads((out / "about.json").read_text())
    assert about["name"] == name and about["from"] == str(tmp_path / "local")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["local", "out"]


def test_data_check_takes_what_is_made(tmp_path, run):
    benchmark_files.flowers102(tmp_path / "flowers")
    benchmark_files.places205(tmp_path / "places")
    assert (
        run("flowers102", "--from", tmp_path / "flowers", "--out", tmp_path / "a")[0]
        == 0
    )
    assert (
        run("places205", "--from", tmp_path / "places", "--out", tmp_path / "b")[0] == 0
    )
    for path in (tmp_path / "a", tmp_path / "b" / "val_images.npy"):
        assert cli.main(["data-check", str(path)]) == 0


def test_a_full_disk_leaves_nothing(tmp_path, run, monkeypatch):
    benchmark_files.food101(tmp_path / "local")
    put, calls = class_folders._put, []

    def put_some(*words):
        calls.append(words)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        put(*words)

    monkeypatch.setattr(class_folders, "_put", put_some)
    words = ("food101", "--from", tmp_path / "local", "--out", tmp_path / "out")
    code, _, errors = run(*words)
    assert code == 2 and "No space left on device" in errors
    assert [p.name for p in tmp_path.iterdir()] == ["local"]
    monkeypatch.undo()
    assert run(*words)[0] == 0


def test_eurosat(tmp_path, run, monkeypatch):
    benchmark_files.eurosat(tmp_path)
    monkeypatch.setattr(class_splits.eurosat, "__kwdefaults__", {"train": 3, "val": 1})
    code, out, _ = run("eurosat", "--from", tmp_path, "--out", tmp_path / "out")
    assert code == 0 and "  val: 2 images, 2 classes of 1 to 1 images" in out
    assert files_below(tmp_path / "out" / "val") == [
        "AnnualCrop/AnnualCrop_2.jpg",
        "SeaLake/SeaLake_2.jpg",
    ]


def test_imagenet_is_checked_where_it_lies(tmp_path, run):
    benchmark_files.imagenet(tmp_path)
    before = files_below(tmp_path)
    code, out, _ = run("imagenet", "--from", tmp_path)
    assert code == 0 and "  train: 18 images, 3 classes of 6 to 6 images" in out
    assert f"'config.DATA.TEST.DATA_PATHS=[\"{tmp_path}/val\"]'\n" in out
    assert files_below(tmp_path) == before
    next((tmp_path / "val" / "n01440764").iterdir()).write_bytes(b"\xff\xd8broken")
    code, out, _ = run("imagenet", "--from", tmp_path)
    assert code == 1 and "6 tried, 1 broken" in out and "broken: " in out
    code, _, errors = run("imagenet", "--from", tmp_path, "--out", tmp_path / "new")
    assert code == 2 and "only checked: leave --out out" in errors


def test_imagenets_subsets(tmp_path, run):
    local, out = tmp_path / "imagenet", tmp_path / "out"
    benchmark_files.imagenet(local)
    words = ("imagenet_1percent", "--from", local, "--out", out)
    code, _, errors = run(*words)
    assert code == 2 and f"there is no list {local}/1percent.txt" in errors
    assert (
        "simclr/master/imagenet_subsets/1percent.txt" in errors and "--draw" in errors
    )
    listed = tmp_path / "mine.txt"
    wnids = ("n01440764", "n01443537", "n15075141")
    listed.write_text("".join(f"{wnid}_36.JPEG\n" for wnid in wnids))
    code, printed, _ = run(*words, "--list", listed)
    assert code == 0 and "  train: 3 images" in printed and "own draw" not in printed
    assert files_below(out / "train") == [f"{w}/{w}_36.JPEG" for w in wnids]
    assert files_below(out / "val") == files_below(local / "val")
    # A list that lies there already needs no network.
    shutil.copyfile(listed, local / "1percent.txt")
    again = (*words[:-1], tmp_path / "again", "--download")
    code, printed, _ = run(*again)
    assert code == 0 and "no longer needed" not in printed
    assert files_below(tmp_path / "again" / "train") == files_below(out / "train")
    drawn = tmp_path / "drawn"
    words = ("imagenet_10percent", "--from", local, "--out", drawn, "--draw")
    code, printed, _ = run(*words, "--seed", 5)
    assert code == 0 and "an own draw, not SimCLR's list" in printed
    assert len(files_below(drawn / "train")) == 3
    about = json.loads((drawn / "about.json").read_text())
    assert about["split"] == "drawn by class, seed 5; not SimCLR's list"


@pytest.mark.parametrize("name", ["places205", "inaturalist18"])
def test_lists(name, tmp_path, run):
    local, out = tmp_path / "local", tmp_path / "out"
    truth = getattr(benchmark_files, name)(local)
    code, printed, _ = run(name, "--from", local, "--out", out)
    assert code == 0 and f"point to the images in {local}: leave them" in printed
    for split, pairs in truth.items():
        assert f"  {split}: {len(pairs)} images" in printed
        paths = np.load(out / f"{split}_images.npy")
        assert paths.dtype.kind == "U" and paths.tolist() == [str(f) for _, f in pairs]
        labels = np.load(out / f"{split}_labels.npy")
        assert labels.tolist() == [label for label, _ in pairs]
    pairs[0][1].unlink()
    code, _, errors = run(name, "--from", local, "--out", tmp_path / "again")
    assert code == 2 and "1 of" in errors and f"are missing: {pairs[0][1]}" in errors
    assert sorted(p.name for p in tmp_path.iterdir()) == ["local", "out"]


@VISSL
def test_voc07_says_what_the_annotations_say(tmp_path, run):
    tree = voc_files.make(tmp_path / "VOCdevkit" / "VOC2007")
    out = tmp_path / "out"
    code, printed, _ = run("voc07", "--from", tmp_path, "--out", out)
    assert code == 0 and "train: 40 images, 3 classes of" in printed
    seen = set()
    for split, count in (("train", 40), ("test", 30)):
        paths = np.load(out / f"{split}_images.npy")
        labels = np.load(out / f"{split}_labels.npy")
        assert labels.shape == (count, 3) and paths.tolist() == sorted(paths.tolist())
        for path, row in zip(paths, labels, strict=True):
            assert Path(path).parent == tree / "JPEGImages"
            page = ElementTree.parse(tree / "Annotations" / f"{Path(path).stem}.xml")
            objects = [
                (o.findtext("name"), o.findtext("difficult"))
                for o in page.iter("object")
            ]
            for kind, label in zip(voc_files.CLASSES, row, strict=True):
                mine = {difficult for name, difficult in objects if name == kind}
                # 1 is there, 0 is not, -1 (to be ignored) where all are difficult.
                assert label == (0 if not mine else 1 if "0" in mine else -1)
                seen.add(int(label))
    assert seen == {-1, 0, 1}


@VISSL
def test_wrong_voc_trees(tmp_path, run):
    tree = voc_files.make(tmp_path / "VOC2007", trainval=4, test=3)
    main = tree / "ImageSets" / "Main"

    def refused():
        code, _, errors = run("voc07", "--from", tmp_path, "--out", tmp_path / "out")
        assert code == 2 and errors.count("vissl-swav data: ") == 1
        return errors

    lines = (main / "bird_test.txt").read_text().splitlines()
    (main / "bird_test.txt").write_text("\n".join([*lines[:-1], "000007 maybe"]))
    assert "line 3 of" in refused()
    (main / "bird_test.txt").write_text("\n".join(lines[:-1]) + "\n")
    assert "do not name the same images" in refused()
    (main / "bird_test.txt").unlink()
    assert "VOCtest_06-Nov-2007.tar" in refused()
    for file in main.glob("*"):
        file.unlink()
    assert "has no <class>_trainval.txt" in refused()
    main.rmdir()
    assert (
        "does not hold ImageSets/Main and JPEGImages, nor its VOC2007 or" in refused()
    )
    assert not (tmp_path / "out").exists()


@VISSL
def test_importing_the_hosts_script_leaves_the_log_alone():
    program = (
        "import logging\n"
        "from vissl_swav.suite import voc_lists\n"
        "voc_lists._script()\n"
        "assert logging.getLogger().handlers == [], logging.getLogger().handlers\n"
        "assert logging.getLogger().level == logging.WARNING\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize("name", ["cifar10", "stl10"])
def test_arrays(name, tmp_path, run, datasets, monkeypatch):
    module = datasets.cifar if name == "cifar10" else datasets.stl10
    make = benchmark_files.stl10 if name == "stl10" else benchmark_files.cifar
    given = () if name == "stl10" else (name,)
    truth, names = make(tmp_path, *given)
    words = (name, "--from", tmp_path, "--out", tmp_path / "out")
    code, _, errors = run(*words)
    assert code == 2 and "published MD5 sums" in errors
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: True)
    code, printed, errors = run(*words)
    assert (code, errors) == (0, "")
    for split, (pixels, labels) in truth.items():
        assert f"  {split}: {len(labels)} images, {len(names)} classes" in printed
        last = names[labels[-1]], f"{len(labels) - 1:05d}.png"
        with Image.open(tmp_path.joinpath("out", split, *last)) as image:
            np.testing.assert_array_equal(np.asarray(image), pixels[-1])


def test_cifar10_of_the_shared_data(tmp_path, run, shared, datasets, monkeypatch):
    """Real images, in the Python version's pickles, come out as they went in."""
    archive = shared / "data" / "cifar10-jpeg.tar.xz"
    if not archive.is_file():
        pytest.skip("no cifar10-jpeg.tar.xz in the shared data")
    found = {name: [] for name in CLASSES[:2]}
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.isreg():
                continue
            name = member.name.split("/")[-2]
            if len(found[name]) < 30:
                image = Image.open(io.BytesIO(tar.extractfile(member).read()))
                found[name].append(np.asarray(image.convert("RGB")))
            if all(len(images) == 30 for images in found.values()):
                break
    # By turns.
    pixels = np.stack(list(found.values()), axis=1).reshape(60, 32, 32, 3)
    labels = [0, 1] * 30
    root = tmp_path / "cifar-10-batches-py"
    benchmark_files.write_cifar10(root, pixels, labels, list(found))
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda path, md5=None: True)
    code, printed, _ = run("cifar10", "--from", root, "--out", tmp_path / "out")
    assert code == 0 and "train: 50 images" in printed and "0 broken" in printed
    made = list_images(tmp_path / "out" / "train")
    assert list(made) == ["airplane", "automobile"]
    for index in (0, 49):
        file = tmp_path / "out" / "train" / CLASSES[labels[index]] / f"{index:05d}.png"
        with Image.open(file) as image:
            np.testing.assert_array_equal(np.asarray(image), pixels[index])


def test_without_a_network_it_says_how_to_go_on(tmp_path, run, datasets, monkeypatch):
    """The same command goes on once the archives lie there."""
    truth = benchmark_files.dtd(tmp_path / "made")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        tar.add(tmp_path / "made" / "dtd" / "dtd", "dtd")
    archive = Archive(
        # Nobody listens there.
        url="http://127.0.0.1:9/dtd-r1.0.1.tar.gz",
        md5=hashlib.md5(data.getvalue(), usedforsecurity=False).hexdigest(),
    )
    unreachable = dataclasses.replace(find("dtd"), archives=(archive,))
    monkeypatch.setitem(BENCHMARKS, "dtd", unreachable)
    out, local = tmp_path / "out", tmp_path / "out-download"
    code, printed, errors = run("dtd", "--out", out, "--download")
    assert (code, printed) == (2, "")
    assert errors.startswith(f"vissl-swav data: {archive.name} could not be downloaded")
    assert f"curl -L -O {archive.url}   # MD5 {archive.md5}\n" in errors
    assert not out.exists() and list(local.iterdir()) == []
    # What it says.
    said = shlex.split(errors.splitlines()[-1])
    assert said[:3] == ["vissl-swav", "data", "dtd"] and f"into {local}" in errors
    (local / archive.name).write_bytes(data.getvalue())
    code, printed, _ = run(*said[2:])
    assert code == 0 and f"{local} is no longer needed" in printed
    names = sorted(f"{name}/{file.name}" for name, file in truth["train"])
    assert files_below(out / "train") == names
    # True: the images are links of their own.
    shutil.rmtree(local)
    assert command("dtd", "--from", local, "--out", tmp_path / "more") == 2
    assert len(list_images(out / "test")["banded"]) == 2
    assert run("dtd")[0] == 0

    # What was unpacked and then removed is told.
    local.mkdir()
    (local / archive.mark).touch()
    code, _, errors = run(*said[2:-1], tmp_path / "more")
    assert code == 2 and f"{archive.mark} in {local} say" in errors


@VISSL
def test_the_hosts_configs_read_what_is_made(tmp_path, run):
    """VISSL's own data sets, by its own configs and the overrides that are printed."""
    from vissl.data import build_dataset

    from vissl_swav.host import launch

    truth = benchmark_files.flowers102(tmp_path / "flowers")
    places = benchmark_files.places205(tmp_path / "places")
    for name, local, expected in (
        ("flowers102", "flowers", truth),
        ("places205", "places", places),
    ):
        out = tmp_path / f"{name} made, here"
        code, printed, _ = run(name, "--from", tmp_path / local, "--out", out)
        assert code == 0
        overrides = [
            shlex.split(line)[0]
            for line in printed.splitlines()
            if "config.DATA." in line
        ]
        assert overrides == get_data.overrides(find(name), out)
        config = f"config={find(name).host_configs[0]}"
        _, cfg = launch.compose([config, *overrides])
        for key, split in zip(("TRAIN", "TEST"), expected, strict=True):
            dataset = build_dataset(cfg, key)
            dataset.load_labels()
            images = dataset.data_objs[0].get_image_paths()
            assert len(dataset) == len(images) == len(expected[split])
            found = [
                (Path(image).read_bytes(), int(label))
                for image, label in zip(images, dataset.label_objs[0], strict=True)
            ]
            classes = sorted({label for label, _ in expected[split]})
            assert sorted(found) == sorted(
                (file.read_bytes(), classes.index(label))
                for label, file in expected[split]
            )


@VISSL
@pytest.mark.parametrize("percent", [1, 10])
def test_the_command_of_our_config_reads_a_drawn_subset(percent, tmp_path, run):
    """As the YAML's head has it, on what `vissl-swav data` has made."""
    from vissl.data import build_dataset

    from vissl_swav.host import launch

    local, out = tmp_path / "imagenet", tmp_path / "out"
    benchmark_files.imagenet(local)
    name = f"imagenet_{percent}percent"
    assert run(name, "--from", local, "--out", out, "--draw")[0] == 0
    file = CONFIGS / "benchmark" / "semi_supervised" / f"{name}.yaml"
    head = file.read_text(encoding="utf-8").partition("# Expected:")[0]
    assert f"vissl-swav data {name}" in " ".join(head.split())
    command = re.findall(r"config[.=]\S+=?\S*", head.partition("# Command:")[2])
    _, cfg = launch.compose([word.replace("PATH/", f"{out}/") for word in command])
    for key, split in (("TRAIN", "train"), ("TEST", "val")):
        dataset = build_dataset(cfg, key)
        dataset.load_labels()
        paths = dataset.data_objs[0].get_image_paths()
        assert sorted(paths) == sorted(map(str, (out / split).rglob("*.JPEG")))
        classes = sorted(folder.name for folder in (out / split).iterdir())
        found = [classes[int(label)] for label in dataset.label_objs[0]]
        assert found == [Path(path).parent.name for path in paths]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("imagenetx", "--out", "new"), "Did you mean imagenet"),
        (("places365", "--out", "new"), "another data set than the paper's Places205"),
        (("dtd", "--out", "new"), "--from is missing: the folder with dtd/"),
        (("dtd", "--from", "full"), "--out is missing"),
        (("dtd", "--from", "gone", "--out", "new"), "there is no folder"),
        (("dtd", "--from", "full", "--out", "full"), "is there and is not empty"),
        (
            ("dtd", "--from", "full", "--out", "new"),
            "does not hold labels/train1.txt and labels/val1.txt",
        ),
        (("dtd", "--from", "full", "--out", "full/file"), "no folder; name a new one"),
        (("dtd", "--from", "full", "--out", "new", "--draw"), "has no subset"),
        (("stl10", "--from", "full", "--out", "new", "--copy"), "are written PNG"),
        (("voc07", "--from", "full", "--out", "new", "--copy"), "are written lists"),
        (("places205", "--out", "new", "--download"), "places.csail.mit.edu"),
        (
            ("places205", "--from", "full", "--out", "new", "--download"),
            "cannot be downloaded by a program",
        ),
        (("imagenet", "--download"), "--from is missing"),
        (("cifar10", "--from", "full", "--out", "new"), "no cifar-10-batches-py in"),
        (("pets", "--from", "archived", "--out", "new"), "with --download it is"),
    ],
)
def test_mistakes_end_with_one_message(tmp_path, monkeypatch, run, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("precious")
    (tmp_path / "archived").mkdir()
    (tmp_path / "archived" / "images.tar.gz").write_bytes(b"")
    code, out, errors = run(*words)
    assert (code, out) == (2, "") and said in errors
    assert errors.startswith("vissl-swav data: ") and "Traceback" not in errors
    assert (tmp_path / "full" / "file").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["archived", "full"]
