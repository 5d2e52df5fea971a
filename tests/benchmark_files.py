"""Small data sets in the formats of the benchmarks' archives.

Each maker writes the unpacked archive below ``folder``, in torchvision's layout where
it has a class, and returns what is true of it: split to (class name or label, file).
"""

import json
import pickle

import numpy as np
import scipy.io
from image_files import encode, photograph


def image(path, seed, size=(40, 36)):
    """An image file with levels of its own; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "PNG" if path.suffix == ".png" else "JPEG"
    path.write_bytes(encode(photograph(*size, seed=seed), kind))
    return path


def food101(folder):
    root = folder / "food-101"
    (root / "meta").mkdir(parents=True)
    truth, seed = {}, 0
    for split, numbers in (("train", (12, 7, 103)), ("test", (5, 44))):
        truth[split] = []
        for name in ("apple_pie", "baby_back_ribs"):
            for number in numbers:
                seed += 1
                file = image(root / "images" / name / f"{number}.jpg", seed)
                truth[split].append((name, file))
        lines = [f"{name}/{file.stem}" for name, file in truth[split]]
        (root / "meta" / f"{split}.txt").write_text("\n".join(lines) + "\n")
        by_class = {}
        for name, file in truth[split]:
            by_class.setdefault(name, []).append(f"{name}/{file.stem}")
        (root / "meta" / f"{split}.json").write_text(json.dumps(by_class))
    return truth


def pets(folder):
    """Breeds in the order of their numbers, which is not the one of their names."""
    root, breeds = (
        folder / "oxford-iiit-pet",
        ("Abyssinian", "american_bulldog", "Sphynx"),
    )
    truth = {}
    for split, name, numbers in (
        ("train", "trainval", (1, 20, 3)),
        ("test", "test", (4, 100)),
    ):
        truth[split], lines = [], []
        for label, breed in enumerate(breeds, 1):
            for number in numbers:
                file = root / "images" / f"{breed}_{number}.jpg"
                truth[split].append((breed, image(file, 10 * label + number)))
                lines.append(f"{breed}_{number} {label} {1 + breed.islower()} 1")
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return truth


def dtd(folder):
    root = folder / "dtd" / "dtd"
    (root / "labels").mkdir(parents=True)
    parts = {}
    for seed, part in enumerate(("train", "val", "test")):
        parts[part] = []
        for name in ("banded", "zigzagged"):
            for number in (2, 4):
                file = root / "images" / name / f"{name}_{part}{number:04d}.jpg"
                parts[part].append((name, image(file, 7 * seed + number)))
        lines = [f"{name}/{file.name}" for name, file in parts[part]]
        (root / "labels" / f"{part}1.txt").write_text("\n".join(lines) + "\n")
    return {"train": parts["train"] + parts["val"], "test": parts["test"]}


def flowers102(folder):
    """Twelve images of three classes; image n has the label 1 + n % 3."""
    root = folder / "flowers-102"
    ids = {"trnid": [3, 1, 2], "valid": [9, 7, 8], "tstid": [4, 5, 6, 10, 11, 12]}
    files = {n: image(root / "jpg" / f"image_{n:05d}.jpg", n) for n in range(1, 13)}
    labels = [1 + n % 3 for n in range(1, 13)]
    rows = {key: np.array([values], np.uint16) for key, values in ids.items()}
    scipy.io.savemat(root / "setid.mat", rows)
    scipy.io.savemat(root / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    return {
        split: [(f"{labels[n - 1]:03d}", files[n]) for key in keys for n in ids[key]]
        for split, keys in (("train", ("trnid", "valid")), ("test", ("tstid",)))
    }


def eurosat(folder, count=5):
    """Files without numbers padded: 10 comes before 2."""
    for name in ("AnnualCrop", "SeaLake"):
        for number in (1, 2, 3, 10, 11)[:count]:
            path = folder / "eurosat" / "2750" / name / f"{name}_{number}.jpg"
            image(path, number + len(name))


def imagenet(folder, train=6, val=2):
    for label, wnid in enumerate(("n01440764", "n01443537", "n15075141")):
        for number in range(train):
            image(folder / "train" / wnid / f"{wnid}_{10 * number + 26}.JPEG", number)
        for number in range(val):
            name = f"ILSVRC2012_val_{3 * number + label + 1:08d}.JPEG"
            image(folder / "val" / wnid / name, 100 + 3 * number + label)


def places205(folder):
    """The official lists: a file name, a space, a class."""
    root = folder / "data" / "vision" / "torralba" / "deeplearning" / "images256"
    (folder / "trainvalsplit_places205").mkdir(parents=True)
    names = ("a/abbey", "a/apartment_building/outdoor", "b/bedroom")
    truth = {}
    for split, numbers in (("train", (31, 7, 5)), ("val", (9,))):
        truth[split] = [
            (label, image(root / name / f"gsun_{number:02x}.jpg", number + label))
            for number in numbers
            for label, name in enumerate(names)
        ]
        lines = [f"{file.relative_to(root)} {label}\n" for label, file in truth[split]]
        file = folder / "trainvalsplit_places205" / f"{split}_places205.csv"
        file.write_text("".join(lines))
    return truth


def inaturalist18(folder):
    """COCO's form, annotations in another order than the images."""
    truth = {}
    for split, ids in (("train", (501, 17, 88, 3)), ("val", (9, 10))):
        truth[split] = [
            (
                number % 2,
                image(
                    folder
                    / "train_val2018"
                    / group
                    / str(number % 2)
                    / f"{number}.jpg",
                    number,
                ),
            )
            for number in ids
            for group in (("Plantae", "Aves")[number % 2],)
        ]
        images = [
            {"id": n, "file_name": str(file.relative_to(folder)), "width": 40}
            for n, (_, file) in zip(ids, truth[split], strict=True)
        ]
        annotations = [
            {"id": 1000 + n, "image_id": n, "category_id": n % 2} for n in sorted(ids)
        ]
        page = {"info": {}, "images": images, "annotations": annotations}
        (folder / f"{split}2018.json").write_text(json.dumps(page))
    return truth


def cifar(folder, kind, *, count=24):
    """The Python version's pickles: pixels (N, 32, 32, 3) and labels; class names."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = [(5 * n + 1) % 3 for n in range(count)]
    if kind == "cifar10":
        names = ["airplane", "bird", "cat"]
        return write_cifar10(folder / "cifar-10-batches-py", pixels, labels, names)
    names = ["apple", "bed", "cup"]
    root = folder / "cifar-100-python"
    root.mkdir()
    parts = {"train": slice(0, -6), "test": slice(-6, None)}
    for split, part in parts.items():
        _pickle_cifar(root / split, pixels[part], "fine_labels", labels[part])
    (root / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    return {split: (pixels[part], labels[part]) for split, part in parts.items()}, names


def write_cifar10(root, pixels, labels, names):
    """Five batches for training and one for the test, of as many images each."""
    root.mkdir(parents=True)
    size = len(pixels) // 6
    files = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for number, file in enumerate(files):
        part = slice(number * size, (number + 1) * size)
        _pickle_cifar(root / file, pixels[part], "labels", labels[part])
    (root / "batches.meta").write_bytes(pickle.dumps({"label_names": list(names)}))
    train, test = slice(0, 5 * size), slice(5 * size, 6 * size)
    return {
        "train": (pixels[train], labels[train]),
        "test": (pixels[test], labels[test]),
    }, names


def _pickle_cifar(file, pixels, key, labels):
    rows = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    file.write_bytes(pickle.dumps({"data": rows, key: list(labels)}))


def stl10(folder, *, count=6):
    """Binary files: uint8, channel by channel, each column by column; labels from 1."""
    generator = np.random.default_rng(1)
    root = folder / "stl10_binary"
    root.mkdir(parents=True)
    names = ["airplane", "bird", "car"]
    (root / "class_names.txt").write_text("\n".join(names) + "\n")
    truth = {}
    for split in ("train", "test"):
        pixels = generator.integers(0, 256, (count, 96, 96, 3), dtype=np.uint8)
        labels = [n % len(names) for n in range(count)]
        (root / f"{split}_X.bin").write_bytes(pixels.transpose(0, 3, 2, 1).tobytes())
        (root / f"{split}_y.bin").write_bytes(bytes(label + 1 for label in labels))
        truth[split] = pixels, labels
    (root / "unlabeled_X.bin").write_bytes(b"")
    return truth, names
