"""One embedded image: a glyph many times over on a background that is never plain.

The class is the shape of the glyph and nothing else.  Nuisances, drawn anew for every
image: the places, sizes, small turns and colours of the glyphs, brighter or darker than
what lies behind them; a background of smooth random colours; grain.  All of them vary
*within* an image, so that what two crops of it share is the shape.  (With a tint or
contrast of the whole image, tried too, SwAV did not learn the shape here.)
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from vissl_swav.data.glyphs import Polygon

SIDE = 40
"""Width and height of an image, in pixels."""

_OVERSAMPLING = 4
_GRID = 5
_MAX_TURN = math.radians(14)
# Square root of a glyph's area, in pixels.
_SIZES = (3.6, 5.2)
_SHAKE = 0.45
_BACKGROUND = (50, 206)
_PATCHES = 12
_CONTRAST = (90, 150)
_GRAIN = 5.0


def draw_scene(glyph: Polygon, random: np.random.Generator) -> Image.Image:
    """An RGB image of ``SIDE`` x ``SIDE`` pixels filled with copies of the glyph."""
    full = SIDE * _OVERSAMPLING
    background = _background(full, random)
    canvas = Image.fromarray(background)
    pen = ImageDraw.Draw(canvas)
    for place in _places(random):
        outline = _placed(glyph, place, random)
        row, column = (np.clip(place[::-1], 0, SIDE - 1) * _OVERSAMPLING).astype(int)
        ink = _ink(background[row, column], random)
        pen.polygon([tuple(point) for point in outline.tolist()], fill=ink)
    small = canvas.resize((SIDE, SIDE), Image.Resampling.BOX)
    grain = random.normal(0.0, _GRAIN, (SIDE, SIDE, 1))
    levels = np.asarray(small, dtype=np.float64) + grain
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def _background(full: int, random: np.random.Generator) -> np.ndarray:
    """Smooth random colours, (full, full, 3) uint8."""
    coarse = random.integers(*_BACKGROUND, (_PATCHES, _PATCHES, 3), dtype=np.uint8)
    canvas = Image.fromarray(coarse).resize((full, full), Image.Resampling.BICUBIC)
    return np.asarray(canvas)


def _places(random: np.random.Generator) -> np.ndarray:
    """Centres (n, 2) of the glyphs in pixels: a grid, moved and shaken."""
    step = SIDE / _GRID
    lattice = np.stack(np.meshgrid(*[np.arange(-1, _GRID + 1)] * 2), axis=-1)
    moved = lattice.reshape(-1, 2) + random.uniform(0, 1, 2)
    shaken = moved + random.uniform(-_SHAKE, _SHAKE, moved.shape)
    places = shaken * step
    inside = ((places > -step / 2) & (places < SIDE + step / 2)).all(axis=1)
    return random.permutation(places[inside])


def _placed(
    glyph: Polygon, place: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """The glyph's outline on the oversampled canvas, sized, turned and moved."""
    angle = random.uniform(-_MAX_TURN, _MAX_TURN)
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = np.array([(cosine, sine), (-sine, cosine)])
    return (glyph @ turn * random.uniform(*_SIZES) + place) * _OVERSAMPLING


def _ink(behind: np.ndarray, random: np.random.Generator) -> tuple[int, int, int]:
    """A random colour that is clearly brighter or darker than what lies behind."""
    tint = random.uniform(-60, 60, 3)
    contrast = random.uniform(*_CONTRAST)
    brighter = random.random() < 0.5
    if behind.mean() + contrast > 255:
        brighter = False
    elif behind.mean() - contrast < 0:
        brighter = True
    level = behind.mean() + (contrast if brighter else -contrast)
    red, green, blue = np.clip(level + tint - tint.mean(), 0, 255).astype(int).tolist()
    return red, green, blue
