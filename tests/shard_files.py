"""Small tar shards for the tests: images of which each tells its number."""

import io
import tarfile

import numpy as np
from image_files import encode


def image_of(number, size=16):
    """A PNG whose colour is its number: at most 256 x 256 of them."""
    levels = np.empty((size, size, 3), np.uint8)
    levels[...] = number % 256, number // 256, 77
    return encode(levels)


def number_of(levels):
    """The number of an image of `image_of`, by its first pixel."""
    red, green, _ = levels.reshape(-1, 3)[0].tolist()
    return red + 256 * green


def write_shard(path, images, mode="w"):
    """A tar of {member name: bytes}."""
    with tarfile.open(path, mode) as tar:
        for name, data in images.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_shards(folder, counts, *, suffix=".tar", first=0):
    """Shards of so many images each, numbered on; returns the names of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths, number = [], first
    for at, count in enumerate(counts):
        images = {
            f"{number + i:06d}.png": image_of(number + i, 16) for i in range(count)
        }
        number += count
        path = folder / f"shard-{at:05d}{suffix}"
        mode = {".tar": "w", ".tar.gz": "w:gz", ".tar.xz": "w:xz"}[suffix]
        paths.append(str(write_shard(path, images, mode)))
    return paths
