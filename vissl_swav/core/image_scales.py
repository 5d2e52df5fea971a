"""Facts about images that transforms and data share; free of torch and Pillow."""

from __future__ import annotations

# Divisors of a side at which a JPEG can be decoded, smallest image first.
SHRINKS = (8, 4, 2, 1)
