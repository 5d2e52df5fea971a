"""Runs on users' own data: every layout, broken files, channels, statistics."""

import shutil
import tarfile

import host_runs
import pytest
import yaml


def run(folder, *extra, source=None, images=None, **settings):
    """A tiny run on `data=SOURCE`, or on the image folder."""
    arguments = host_runs.overrides(images or "unused", folder, *extra, **settings)
    if source is not None:
        arguments = [a for a in arguments if "TRAIN.DATA_PATHS" not in a]
        arguments.append(f"data={source}")
    return host_runs.python("-m", "vissl_swav.train", *arguments)


def losses(folder, done):
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return host_runs.losses(folder)


def flat_folder(images, target):
    """The images without class folders; names keep the order."""
    target.mkdir()
    for file in files_of(images):
        shutil.copy(file, target / f"{file.parent.name}-{file.stem:0>3}.png")
    return target


def files_of(images):
    return sorted(images.rglob("*.png"))


def text_list(images, target):
    names = [str(file) for file in files_of(images)]
    target.write_text("# all of them\n" + "\n".join(names) + "\n")
    return target


def shards(images, target):
    target.mkdir()
    files = files_of(images)
    for number in range(3):
        with tarfile.open(target / f"part-{number:03}.tar", "w") as archive:
            for place, file in enumerate(files[number * 16 : (number + 1) * 16]):
                archive.add(file, f"{number:03}{place:04}.png")
    return f"{target}/part-{{000..002}}.tar"


def renamed(images, target):
    """The class folders with names in which number and alphabet agree."""
    for file in files_of(images):
        copy = target / file.parent.name / f"{file.stem:0>3}.png"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    return target


@pytest.mark.parametrize("layout", ["list", "shards"])
def test_layouts_with_workers_and_ranks(images, tmp_path, layout):
    """Each of 2 ranks has 2 workers; the numbers of workers change no loss."""
    folder = renamed(images, tmp_path / "class folders")
    source = {
        "list": lambda: text_list(folder, tmp_path / "list.txt"),
        "shards": lambda: shards(folder, tmp_path / "shards"),
    }[layout]()
    found = []
    for workers in (0, 2):
        out = tmp_path / str(workers)
        more = f"config.DATA.NUM_DATALOADER_WORKERS={workers}"
        found.append(losses(out, run(out, more, source=source, processes=2)))
    assert len(found[0]) == 6 and found[0] == found[1]


def test_images_on_the_device_of_two_ranks(images, tmp_path):
    """41 images, the last batch incomplete: as without it, to the bit."""
    few = renamed(images, tmp_path / "few")
    for file in files_of(few)[41:]:
        file.unlink()
    step = "config.TRAINER.TRAIN_STEP_NAME=multi_crop_train_step"
    extra = [step, "config.DATA.TRAIN.DROP_LAST=false"]
    found = []
    for resident in ("false", "true"):
        out = tmp_path / resident
        more = f"config.DATA.TRAIN.IMAGES_ON_DEVICE={resident}"
        found.append(losses(out, run(out, *extra, more, source=few, processes=2)))
    assert len(found[0]) == 6 and found[0] == found[1]


def test_every_layout_trains_alike(images, tmp_path):
    """The same images in the same order give the same losses, to the bit."""
    folder = renamed(images, tmp_path / "class folders")
    sources = {
        "classes": folder,
        "flat": flat_folder(images, tmp_path / "flat, with = and spaces"),
        "list": text_list(folder, tmp_path / "list.txt"),
        "shards": shards(folder, tmp_path / "tar shards"),
    }
    found = {
        name: losses(tmp_path / name, run(tmp_path / name, source=source))
        for name, source in sources.items()
    }
    assert len(found["classes"]) == 6
    for name, values in found.items():
        assert values == found["classes"], name


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_skipped_and_named(images, tmp_path, workers):
    broken = renamed(images, tmp_path / "images")
    bad = broken / "class0" / "003.png"
    bad.write_bytes(bad.read_bytes()[:60])
    (broken / "class1" / "007.png").write_bytes(b"")
    folder = tmp_path / "run"
    more = [f"config.DATA.NUM_DATALOADER_WORKERS={workers}", "config.LOG_FREQUENCY=1"]
    done = run(folder, *more, source=broken)
    assert len(losses(folder, done)) == 6
    text = done.stdout + done.stderr
    assert "2 train images could not be read so far" in text
    assert "003.png" in text and "007.png" in text
    named = (folder / "unreadable.train.0.jsonl").read_text()
    assert "003.png" in named and "007.png" in named


def test_too_many_broken_images_stop_the_run(images, tmp_path):
    broken = renamed(images, tmp_path / "images")
    for file in files_of(broken)[::10]:
        file.write_bytes(b"no image")
    folder = tmp_path / "run"
    share = "config.DATA.TRAIN.MAX_UNREADABLE_SHARE=0.2"
    done = run(folder, "config.LOG_FREQUENCY=1", source=broken, processes=2)
    text = done.stdout + done.stderr
    assert "training images could not be read" in text
    assert (
        "MAX_UNREADABLE_SHARE=0.05 allows" in text
        and "unreadable.train.*.jsonl" in text
    )
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("or raise the share.")
    alone = run(tmp_path / "alone", source=broken)
    assert alone.returncode == 1
    assert alone.stderr.rstrip().endswith("or raise the share.")
    # Mended, the run goes on where it was.
    for file, good in zip(files_of(broken), files_of(images), strict=True):
        shutil.copy(good, file)
    assert len(losses(tmp_path / "alone", run(tmp_path / "alone", source=broken))) >= 6
    for file in files_of(broken)[::10]:
        file.write_bytes(b"no image")
    other = tmp_path / "other"
    assert len(losses(other, run(other, share, source=broken))) == 6


def test_grey_images_and_measured_statistics(images, tmp_path):
    folder = tmp_path / "run"
    transforms = (
        "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[24],num_crops:[2],"
        "crop_scales:[[0.3,1.0]],mean:auto,std:auto}]"
    )
    done = run(folder, transforms, "config.MODEL.INPUT_TYPE=grey", source=images)
    assert len(losses(folder, done)) == 6
    config = yaml.safe_load((folder / "train_config.yaml").read_text())
    (entry,) = config["DATA"]["TRAIN"]["TRANSFORMS"]
    (mean,), (std,) = entry["mean"], entry["std"]
    # Noise of 0 to 119 and of 100 to 219, as luma.
    assert mean == pytest.approx(109.5 / 255, abs=0.01)
    assert 0.1 < std < 0.3
    assert entry["channels"] == 1 and entry["output"] == "uint8"


@pytest.mark.parametrize("loss", ["swav", "deepcluster_v2"])
def test_crops_made_by_the_train_step(images, tmp_path, loss):
    """With or without workers, or all images on the device: the same losses."""
    step = "config.TRAINER.TRAIN_STEP_NAME=multi_crop_train_step"
    settings = {
        "plain": [],
        "resident": ["config.DATA.TRAIN.IMAGES_ON_DEVICE=true"],
        "workers": ["config.DATA.NUM_DATALOADER_WORKERS=1"],
    }
    found = {
        name: losses(
            tmp_path / name,
            run(tmp_path / name, step, *extra, source=images, loss=loss),
        )
        for name, extra in settings.items()
    }
    assert len(set(found["plain"])) == 6
    assert found["resident"] == found["workers"] == found["plain"]
    in_workers = losses(
        tmp_path / "cpu", run(tmp_path / "cpu", source=images, loss=loss)
    )
    # Pixels differ by a level or so: the first step of an equal net shows it best.
    if loss == "swav":
        assert found["plain"][0] == pytest.approx(in_workers[0], rel=0.03)


def test_data_with_train_and_val_trains_on_train(images, tmp_path):
    whole = tmp_path / "whole"
    renamed(images, whole / "train")
    renamed(images, whole / "val")
    folder = tmp_path / "run"
    assert len(losses(folder, run(folder, source=whole))) == 6
    config = yaml.safe_load((folder / "train_config.yaml").read_text())
    assert config["DATA"]["TRAIN"]["DATA_PATHS"] == [str(whole / "train")]


def probe(folder, source, *extra):
    """VISSL's linear probe of a random trunk on data of two classes."""
    return host_runs.python(
        *("-m", "vissl_swav.train", "config=benchmark/linear/small_images"),
        *(f"data={source}", f"config.CHECKPOINT.DIR={folder}"),
        "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=16",
        "config.OPTIMIZER.num_epochs=1",
        "config.MODEL.HEAD.PARAMS=[[eval_mlp,{in_channels:128,dims:[128,2]}]]",
        *extra,
    )


def test_a_probe_reads_labels_of_our_source(images, tmp_path):
    """Unreadable test images are told, and stop no training."""
    whole = tmp_path / "whole"
    for split in ("train", "val"):
        renamed(images, whole / split)
    for file in files_of(whole / "val")[::5]:
        file.write_bytes(b"no image")
    done = probe(tmp_path / "run", whole)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    text = done.stdout + done.stderr
    assert "test_accuracy_list_meter" in text
    assert "10 test images could not be read so far" in text
    assert not list((tmp_path / "run").glob("unreadable.train.*"))


def test_splits_with_other_classes_are_refused(images, tmp_path):
    whole = tmp_path / "whole"
    for split in ("train", "val"):
        renamed(images, whole / split)
    (whole / "val" / "class1").rename(whole / "val" / "other")
    done = probe(tmp_path / "run", whole)
    assert done.returncode == 2
    assert "classes differ" in done.stderr
    assert "class1" in done.stderr and "other" in done.stderr


@pytest.mark.parametrize(
    ("source", "said"),
    [("", "data= is empty"), ("/no/such/place", "there is no"), (None, "data=")],
)
def test_wrong_data_is_refused(tmp_path, source, said):
    if source is None:
        done = run(tmp_path / "run", "data=a", source="b")
    else:
        done = run(tmp_path / "run", source=source)
    assert done.returncode == 2 and said in done.stderr
    assert "Traceback" not in done.stderr
