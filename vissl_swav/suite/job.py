"""A quickstart's job: what decides its result, its folder and its data."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from vissl_swav import __version__
from vissl_swav.data import cifar10, embedded, folders, subsets
from vissl_swav.host import settings
from vissl_swav.host.config_keys import find_yaml
from vissl_swav.host.errors import StartError
from vissl_swav.suite import stage

# A user's folder is cut to so many images a split, so that minutes stay minutes.
MOST_TRAIN, MOST_TEST = 5000, 2000


@dataclass(frozen=True)
class Job:
    """What decides the result; kept beside it, so that another job is not mixed in."""

    method: str
    data: str
    seed: int
    version: str = __version__


class Splits(NamedTuple):
    """Image folders of the job, both with the same classes."""

    train: folders.ImageFolderReport
    test: folders.ImageFolderReport


def _marker(out: Path) -> Path:
    return out / "quickstart.json"


def check_free(out: Path, job: Job) -> None:
    """Refuses a folder of another job or of the user's; writes nothing."""
    if _marker(out).exists():
        there = json.loads(_marker(out).read_text(encoding="utf-8"))
        if there != asdict(job):
            raise StartError(
                f"{out} holds another quickstart ({there}); this one is {asdict(job)}. "
                "Name another folder (make quickstart OUT=...), or delete that one."
            )
    elif out.exists() and not (out.is_dir() and all(map(_is_data, out.iterdir()))):
        raise StartError(
            f"{out} exists and is not a quickstart's folder; name another one "
            "(make quickstart OUT=...)."
        )


def _is_data(entry: Path) -> bool:
    """What there may be before the marker: data, whole or broken off, and CIFAR-10."""
    if entry.name == "data":
        return (entry / embedded.MANIFEST).is_file()
    return entry.name == "cifar10" or entry.name.startswith((".data-", ".cifar10-"))


def _claim(out: Path, job: Job) -> None:
    """Marks the folder as this job's."""
    check_free(out, job)  # Again: finding the data took its time.
    out.mkdir(parents=True, exist_ok=True)
    if not _marker(out).exists():
        _marker(out).write_text(json.dumps(asdict(job), indent=2), encoding="utf-8")


def find_data(out: Path, job: Job, report: stage.Report) -> Splits:
    """Finds and checks the data; with it there, the folder becomes this job's."""
    if job.data == "embedded":
        root = embedded.build(
            out / "data",
            seed=job.seed,
            progress=lambda done, total: report(done, total, ""),
        )
    elif job.data == "cifar10":
        root = cifar10.fetch_cifar10(out / "cifar10")
    else:
        root = Path(job.data)
    found = folders.find_splits(root)
    batch = batch_of("pretrain/swav/quickstart")  # All methods' stand on this one.
    train = folders.check_image_folder(found.train, min_images=batch)
    test = folders.check_image_folder(found.test, min_images=1)
    folders.check_same_classes(train, test)
    _claim(out, job)
    if job.data == "embedded":
        return Splits(train, test)
    return Splits(
        _cut(train, out / "subset" / "train", MOST_TRAIN, job.seed),
        _cut(test, out / "subset" / "test", MOST_TEST, job.seed),
    )


def _cut(
    whole: folders.ImageFolderReport, destination: Path, most: int, seed: int
) -> folders.ImageFolderReport:
    """At most `most` images: of each class an equal share, or the fewer it has."""
    if whole.num_images <= most:
        return whole
    if not destination.exists():
        scratch = destination.with_name(f".{destination.name}-unfinished")
        shutil.rmtree(scratch, ignore_errors=True)
        share = max(1, most // len(whole.images_per_class))
        subsets.subsample_folder(
            whole.path, scratch, per_class=share, seed=seed, allow_fewer=True
        )
        scratch.rename(destination)
    return folders.check_image_folder(destination, min_images=1)


def batch_of(config: str) -> int:
    """Images in a training step of one of our configs, all of one process."""
    return settings.batch_of_one_process(_tree(config))


def _tree(config: str) -> dict[str, Any]:
    """What the file itself holds, without what it is laid over."""
    group, _, name = f"config/{config}".rpartition("/")
    file = find_yaml(group, name)
    assert file is not None
    return yaml.safe_load(file.read_text(encoding="utf-8"))["config"]
