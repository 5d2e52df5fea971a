"""A small data set in the format of PASCAL VOC 2007, with difficult objects."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("aeroplane", "bicycle", "bird")
_OBJECT = """  <object>
    <name>{name}</name>
    <pose>Unspecified</pose>
    <truncated>0</truncated>
    <difficult>{difficult}</difficult>
    <bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>
    </bndbox>
  </object>
"""
_PAGE = """<annotation>
  <folder>VOC2007</folder>
  <filename>{name}.jpg</filename>
  <size><width>64</width><height>48</height><depth>3</depth></size>
  <segmented>0</segmented>
{objects}</annotation>
"""


def make(folder, *, trainval=40, test=30, seed=0):
    """`folder/{Annotations,ImageSets/Main,JPEGImages}`; returns the folder.

    A class is a colour of patches; one object in eight is difficult. In the lists, as
    in VOC's: 1 an object that is not difficult, 0 difficult ones alone, -1 none.
    """
    folder, generator = Path(folder), np.random.default_rng(seed)
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True)
    number = 0
    for split, count in (("trainval", trainval), ("test", test)):
        lists = {name: [] for name in CLASSES}
        for _ in range(count):
            number += 1
            image = f"{number:06d}"
            for name, label in _scene(folder, image, generator).items():
                lists[name].append(f"{image} {label:2d}\n")
        main = folder / "ImageSets" / "Main"
        for name, lines in lists.items():
            (main / f"{name}_{split}.txt").write_text("".join(lines))
        names = [line.split()[0] + "\n" for line in lists[CLASSES[0]]]
        (main / f"{split}.txt").write_text("".join(names))
    return folder


def _scene(folder, image, generator):
    """Writes an image and its annotation; the label of each class."""
    pixels = generator.integers(60, 120, (48, 64, 3))
    objects, labels = [], dict.fromkeys(CLASSES, -1)
    for channel, name in enumerate(CLASSES):
        if generator.random() > 0.4:
            continue
        difficult = int(generator.random() < 1 / 8)
        size = 10 if difficult else 20
        x, y = (int(generator.integers(0, side - size)) for side in (64, 48))
        pixels[y : y + size, x : x + size, channel] += 120
        labels[name] = max(labels[name], 0 if difficult else 1)
        objects.append(
            _OBJECT.format(
                name=name,
                difficult=difficult,
                x=x + 1,
                y=y + 1,
                right=x + size,
                bottom=y + size,
            )
        )
    Image.fromarray(pixels.astype("uint8")).save(
        folder / "JPEGImages" / f"{image}.jpg", quality=95
    )
    page = _PAGE.format(name=image, objects="".join(objects))
    (folder / "Annotations" / f"{image}.xml").write_text(page)
    return labels
