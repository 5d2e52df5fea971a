"""`vissl-swav data-check`: tables, exit codes, and no need of the host."""

import re
import subprocess
import sys

import numpy as np
import pytest
from image_files import encode, photograph
from shard_files import write_shards

from vissl_swav import cli


def write(folder, count=2, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        data = encode(photograph(40, 32 + number, seed=number))
        (folder / f"{number}.png").write_bytes(data)
    return folder


def rows_of(text):
    pairs = (line.strip().split("  ", 1) for line in text.splitlines())
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


@pytest.fixture
def splits(tmp_path):
    for number, name in enumerate(("train/cat", "train/dog", "val/cat", "val/dog")):
        write(tmp_path / name, start=10 * number)
    return tmp_path


def test_a_sound_folder(tmp_path, capsys):
    write(tmp_path / "cat", 3)
    write(tmp_path / "dog [1]", 1, start=5)
    assert cli.main(["data-check", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    rows = rows_of(printed.out)
    assert rows["images"] == rows["tried"] == "4" and rows["unreadable"] == "0"
    assert rows["width"] == "40 to 40, median 40"
    assert rows["height"] == "32 to 37, median 33.5"
    assert rows["formats"] == "PNG 4" and rows["modes"] == "RGB 4"
    assert rows["classes"] == "2, of 1 to 3 images: cat 3, dog [1] 1"
    assert rows["mean"].count(",") == rows["std"].count(",") == 2


def test_channels_sample_and_all(tmp_path, capsys):
    write(tmp_path, 5)
    assert cli.main(["data-check", str(tmp_path), "--channels", "1", "--all"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows["tried"] == "5" and "," not in rows["mean"]
    assert rows["classes"] == "no labels"
    assert cli.main(["data-check", str(tmp_path), "--sample", "2"]) == 0
    assert rows_of(capsys.readouterr().out)["tried"] == "2"
    with pytest.raises(SystemExit) as refused:
        cli.main(["data-check", str(tmp_path), "--sample", "2", "--all"])
    assert refused.value.code == 2


def test_unreadable_images_are_named_and_exit_1(tmp_path, capsys):
    write(tmp_path)
    name = "a very long name of a file " * 4 + "[bold].jpg"
    (tmp_path / name).write_bytes(b"")
    for number in range(25):
        (tmp_path / f"broken{number}.png").write_bytes(b"x")
    assert cli.main(["data-check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"unreadable: {tmp_path / name}: the file is empty\n" in out
    assert "unreadable: and 6 more\n" in out
    assert rows_of(out)["unreadable"] == "26"


def test_copies_are_named(tmp_path, capsys):
    write(tmp_path, 1)
    (tmp_path / "copy.png").write_bytes((tmp_path / "0.png").read_bytes())
    assert cli.main(["data-check", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"same file: {tmp_path / '0.png'} = {tmp_path / 'copy.png'}\n" in out
    assert "warning: 1 of 2 files are exact copies" in out


def test_both_splits_are_checked(splits, capsys):
    assert cli.main(["data-check", str(splits)]) == 0
    out = capsys.readouterr().out
    for split in ("train", "val"):
        assert f"{splits / split}\n" in out
    assert out.count("tried") == 2
    (splits / "val" / "dog" / "x.png").write_bytes(b"x")
    assert cli.main(["data-check", str(splits)]) == 1


def test_classes_of_one_split_only_are_named(splits, capsys):
    write(splits / "val" / "owl")
    assert cli.main(["data-check", str(splits)]) == 2
    printed = capsys.readouterr()
    assert f"only {splits / 'val'} has owl" in printed.err
    assert printed.out.count("tried") == 2, "the tables come first"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone"], "there is no"),
        (["."], "holds no image; it is empty"),
        (["images", "--sample", "0"], "sample of 0 images"),
    ],
)
def test_bad_input_exits_2(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    if "images" in arguments:
        write(tmp_path / "images")
    assert cli.main(["data-check", *arguments]) == 2
    printed = capsys.readouterr()
    assert "vissl-swav data-check: " in printed.err and said in printed.err
    assert printed.out == ""


def test_it_needs_neither_the_host_nor_torch(tmp_path):
    write(tmp_path)
    program = (
        "import sys\n"
        "for name in ('vissl', 'classy_vision', 'torch', 'torchvision'):\n"
        "    sys.modules[name] = None\n"
        "import argparse\n"
        "from vissl_swav.suite import data_check\n"
        f"options = argparse.Namespace(path={str(tmp_path)!r}, all=False, sample=9,"
        " channels=3, seed=0)\n"
        "sys.exit(data_check.main(options))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_few_of_many_shards(tmp_path, capsys, monkeypatch):
    """Nothing else is opened; the estimate is near; compressed ones will do."""
    from vissl_swav.data import shard_sample

    write_shards(tmp_path / "plain", [49] * 30)
    opened = []
    original = shard_sample.images_of
    monkeypatch.setattr(
        shard_sample,
        "images_of",
        lambda shard, wanted: opened.append(shard) or original(shard, wanted),
    )
    arguments = ["--shards", "3", "--sample", "30"]
    assert cli.main(["data-check", str(tmp_path / "plain"), *arguments]) == 0
    out = capsys.readouterr().out
    assert len(opened) == 3 and rows_of(out)["tried"] == "30"
    about = int(re.search(r"30 shards of \d+ bytes: about (\d+) images", out)[1])
    assert 30 * 49 <= about <= 1.03 * 30 * 49  # Each tar ends in some zeros.
    write_shards(tmp_path / "gz", [5] * 2, suffix=".tar.gz")
    (tmp_path / "gz" / "shard-00001.tar.gz").write_bytes(b"x" * 900)
    assert cli.main(["data-check", str(tmp_path / "gz"), *arguments]) == 1
    out = capsys.readouterr().out
    assert "unreadable: " in out and "shard-00001.tar.gz: after 0 images" in out
    assert cli.main(["data-check", str(tmp_path), "--shards", "0"]) == 2
    assert "wanted a number of shards from 1 on" in capsys.readouterr().err


def test_grey_data_are_told(tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(encode(np.full((40, 40), 7, np.uint8)))
    assert cli.main(["data-check", str(tmp_path)]) == 0
    assert "warning: every image is grey" in capsys.readouterr().out
