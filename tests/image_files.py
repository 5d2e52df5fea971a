"""Image files of every kind, in memory, for the tests of decoding and lists."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def photograph(width=96, height=64, seed=0):
    """Smooth colours with some grain: RGB levels that JPEG keeps well."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [
        128 + 90 * np.sin(columns / (7 + 3 * i) + rows / (5 + 4 * i)) for i in range(3)
    ]
    levels = np.stack(waves, axis=-1) + random.normal(0, 6, (height, width, 3))
    return np.clip(levels, 0, 255).astype(np.uint8)


def encode(image, format="PNG", **options):
    """A Pillow image or levels as the bytes of a file."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def with_orientation(image, orientation, format="JPEG"):
    """A file that asks to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, format, exif=exif)


def png_of_size(width, height):
    """A PNG whose header names a size that its few bytes do not have."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body))
        + kind
        + body
        + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
