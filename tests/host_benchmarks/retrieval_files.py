"""Small data sets in the formats of Copydays and of revisited Oxford and Paris."""

import pickle
from pathlib import Path

import numpy as np
from PIL import Image

OBJECTS, SHAPE = 3, (48, 64, 3)


def _save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype("uint8")).save(path)


def _objects():
    rng = np.random.default_rng(0)
    # Coarse patches, so that an image stays like itself when it is resized.
    return rng.integers(0, 255, (OBJECTS, 6, 8, 3)).repeat(8, axis=1).repeat(8, axis=2)


def make_copydays(folder):
    """The original and a darker copy of each object as queries, and distractors."""
    root = Path(folder) / "copydays"
    rng = np.random.default_rng(1)
    for number, pixels in enumerate(_objects()):
        first = 200000 + 100 * number
        _save(root / "queries" / f"original_{first}.jpg", pixels)
        _save(root / "queries" / f"strong_{first + 1}.jpg", pixels // 2 + 40)
        _save(root / "database_and_distractors" / f"{first}.jpg", pixels)
        noise = rng.integers(0, 255, SHAPE)
        name = f"distractor_{number}.jpg"
        _save(root / "database_and_distractors" / name, noise)
        _save(root / "train" / f"{number}.jpg", noise)


def make_revisited(folder, name):
    """Each object once easy, once hard and once junk; a query is the image itself."""
    root = Path(folder) / name
    truth = []
    for number, pixels in enumerate(_objects()):
        _save(root / "jpg" / f"query{number}.jpg", pixels)
        for copy in range(3):
            _save(root / "jpg" / f"image{number}_{copy}.jpg", pixels)
        first = 3 * number
        box = [0, 0, SHAPE[1], SHAPE[0]]
        found = {"easy": [first], "hard": [first + 1], "junk": [first + 2]}
        truth.append({"bbx": box, **found})
    images = [f"image{n}_{copy}" for n in range(OBJECTS) for copy in range(3)]
    queries = [f"query{n}" for n in range(OBJECTS)]
    content = {"imlist": images, "qimlist": queries, "gnd": truth}
    with open(root / f"gnd_{name}.pkl", "wb") as file:
        pickle.dump(content, file)
