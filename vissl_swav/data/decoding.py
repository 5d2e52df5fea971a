"""Image bytes to pixels: upright, 8 bits, one or three channels, or a named reason.

Ordinary JPEGs, colour or grey, are decoded by OpenCV (libjpeg-turbo), at a fraction of
their size where that is enough.  Everything else goes through Pillow by these rules:

====================== ==============================================================
alpha (RGBA, LA, P)    dropped, as torchvision's ``ImageFolder`` does: the colours
                       below it are kept, no background is made up
16-bit grey, ``I``     the high byte, ``v >> 8``; Pillow's own conversion would clip at
                       255.  ``I`` (32 bits) beyond 0 to 65535 is unreadable
``F`` (floats)         rounded where all values lie in 0 to 255 and one is above 1; else
                       unreadable: floats have no fixed white
CMYK, YCCK, YCbCr, 1   as Pillow converts them
animations, pages      the first
====================== ==============================================================

The EXIF orientation is applied, which ``ImageFolder`` does not do.  Colour profiles are
ignored, as everywhere in the field.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from vissl_swav.core.image_scales import SHRINKS
from vissl_swav.data.errors import DataError

MAX_REASON = 120

_JPEG_FORMATS = frozenset({"JPEG", "MPO"})
_END_OF_JPEG = b"\xff\xd9"
# Cameras and tools pad: good files have a few bytes after the marker.
_JPEG_TAIL = 64
_PNG_START = 8
_PNG_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT"})
_COLOUR_FLAGS = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_GREY_FLAGS = {
    1: cv2.IMREAD_GRAYSCALE,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


class UnreadableImage(DataError):
    """An image that cannot be read.

    Args:
        name: of the image: a path, or shard and member.
        reason: why, in a few words.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(
            f"{name} cannot be read: {reason}. Remove or replace it; "
            "`vissl-swav data-check` finds such files."
        )
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableImage], tuple[str, str]]:
        # The default would hand the message alone to __init__, in the worker's parent.
        return type(self), (self.name, self.reason)


class Header(NamedTuple):
    """What a file says of itself before its pixels.

    Attributes:
        format: Pillow's name of it, ``JPEG`` say.
        mode: Pillow's name of the pixel type, ``RGB`` say.
        width: pixels, as stored.
        height: pixels, as stored.
        orientation: EXIF's, 1 (upright) to 8, that is still to be applied.
    """

    format: str
    mode: str
    width: int
    height: int
    orientation: int


@dataclass(frozen=True)
class EncodedImage:
    """An image file in memory.

    Attributes:
        data: the file's bytes.
        name: what messages call it.
    """

    data: bytes
    name: str

    @cached_property
    def header(self) -> Header:
        """Format, mode, stored size and orientation; no pixel is decoded.

        Raises:
            UnreadableImage: no image, an empty one, or one so large that decoding it
                could fill the memory (twice Pillow's ``MAX_IMAGE_PIXELS``).
        """
        with self._opened() as image:
            # Pillow turns TIFFs itself, and gives the size they will have.
            turned = image.format == "TIFF"
            header = Header(
                image.format or "",
                image.mode,
                *image.size,
                orientation=1 if turned else _orientation(image),
            )
        if min(header.width, header.height) < 1:
            size = f"{header.width} x {header.height}"
            raise UnreadableImage(self.name, f"its size is {size} pixels")
        return header

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, upright.

        Raises:
            UnreadableImage: as ``header``.
        """
        header = self.header
        width, height = header.width, header.height
        return (height, width) if header.orientation > 4 else (width, height)

    def decode(self, *, channels: int = 3, shrink: int = 1) -> np.ndarray:
        """Decodes the pixels.

        Args:
            channels: 3 for RGB, 1 for luma (ITU-R 601, as Pillow's ``L``).
            shrink: 1, 2, 4 or 8: ordinary JPEGs come out at this fraction of their
                size, rounded up, straight from the DCT; other files whole.

        Returns:
            Levels (height, width, channels) uint8, upright, contiguous, writable.

        Raises:
            UnreadableImage: not an image, truncated, or of a kind without a rule.
        """
        if channels not in (1, 3):
            raise ValueError(f"channels is {channels}; wanted 1 or 3")
        if shrink not in SHRINKS:
            raise ValueError(f"shrink is {shrink}; wanted one of {SHRINKS}")
        levels = self._decode_jpeg(channels, shrink)
        if levels is None:
            levels = self._decode_with_pillow(channels)
        return _turn(levels, self.header.orientation)

    def decode_pil(self) -> Image.Image:
        """The same pixels as ``decode()``, as an RGB image of Pillow's."""
        return Image.fromarray(self.decode())

    def _opened(self) -> Image.Image:
        if not self.data:
            raise UnreadableImage(self.name, "the file is empty")
        try:
            return Image.open(io.BytesIO(self.data))
        except UnidentifiedImageError:
            start = repr(self.data[:12])[2:-1]
            reason = f"no image; its {len(self.data)} bytes begin with '{start}'"
            raise UnreadableImage(self.name, reason) from None
        except MemoryError:
            raise
        # Pillow's readers raise whatever a broken file leads them to.
        except Exception as error:
            raise UnreadableImage(self.name, _reason(error)) from error

    def _decode_jpeg(self, channels: int, shrink: int) -> np.ndarray | None:
        """None where OpenCV would not do, or could fill a truncated file with grey."""
        header = self.header
        if header.format not in _JPEG_FORMATS or header.mode not in ("RGB", "L"):
            return None
        if self.data.rfind(_END_OF_JPEG, max(0, len(self.data) - _JPEG_TAIL)) < 0:
            return None
        flags = (_COLOUR_FLAGS if channels == 3 else _GREY_FLAGS)[shrink]
        encoded = np.frombuffer(self.data, np.uint8)
        try:
            levels = cv2.imdecode(encoded, flags | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:
            return None
        if levels is None:
            return None
        if channels == 1:
            return levels[..., None]
        # There is no RGB variant of the reduced flags.
        return levels if shrink == 1 else cv2.cvtColor(levels, cv2.COLOR_BGR2RGB)

    def _decode_with_pillow(self, channels: int) -> np.ndarray:
        if self.header.format == "PNG":
            self._check_png()
        with self._opened() as image:
            try:
                image.load()
                plain = _with_eight_bits(image)
                levels = np.array(plain.convert("RGB" if channels == 3 else "L"))
            except MemoryError:
                raise
            # Pillow's decoders raise whatever a broken file leads them to.
            except Exception as error:
                raise UnreadableImage(self.name, _reason(error)) from error
        return levels if channels == 3 else levels[..., None]

    def _check_png(self) -> None:
        """Checksums of the pixels, over which Pillow passes."""
        data, place = self.data, _PNG_START
        while place + 12 <= len(data):
            length = int.from_bytes(data[place : place + 4], "big")
            kind, end = data[place + 4 : place + 8], place + 8 + length
            if kind in _PNG_PIXEL_CHUNKS and end + 4 <= len(data):
                stored = int.from_bytes(data[end : end + 4], "big")
                if zlib.crc32(memoryview(data)[place + 4 : end]) != stored:
                    where = f"its {kind.decode()} chunk at byte {place}"
                    raise UnreadableImage(self.name, f"{where} fails its checksum")
            place = end + 4


def _orientation(image: Image.Image) -> int:
    # Asked for in `info` first: getexif() alone decodes a PNG in search of it.
    if "exif" not in image.info:
        return 1
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    # A broken EXIF block is no fault of the pixels.
    except Exception:
        return 1
    return found if found in range(1, 9) else 1


def _turn(levels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation: (H, W, C) -> (H, W, C), or (W, H, C) above 4."""
    if orientation > 4:
        levels = levels.swapaxes(0, 1)
    # After the transposition of 5 to 8, which axes still run backwards.
    if orientation in (3, 4, 7, 8):
        levels = levels[::-1]
    if orientation in (2, 3, 6, 7):
        levels = levels[:, ::-1]
    return np.ascontiguousarray(levels)


def _with_eight_bits(image: Image.Image) -> Image.Image:
    """The image in a mode that Pillow converts without clipping or a warning.

    Raises:
        ValueError: no rule for its values.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image)
        lowest, highest = int(values.min()), int(values.max())
        if lowest < 0 or highest > 65535:
            raise ValueError(
                f"32-bit values from {lowest} to {highest}, wanted 0 to 65535"
            )
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        values = np.asarray(image)
        lowest, highest = float(values.min()), float(values.max())
        if not (0 <= lowest and 1 < highest <= 255):
            raise ValueError(
                f"float values from {lowest:g} to {highest:g}, wanted 0 to 255; save "
                "it with 8 or 16 bits"
            )
        return Image.fromarray(np.rint(values).astype(np.uint8))
    # Straight to RGB Pillow warns of transparency that is lost.
    return image.convert("RGBA") if image.mode in ("P", "PA") else image


def _reason(error: Exception) -> str:
    text = str(error).split(" <")[0].rstrip(".") or "no further word"
    own = isinstance(error, (OSError, ValueError))
    return (text if own else f"{type(error).__name__}: {text}")[:MAX_REASON]
