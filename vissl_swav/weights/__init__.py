"""Checkpoints in and out: the layouts of others, one naming, loading, exporting.

`load_weights` reads a file of any known layout into torchvision's names, `load_into`
puts it into a model and counts what fits, `export` writes it for others.
"""

from vissl_swav.weights.loading import LoadedWeights, load_weights
from vissl_swav.weights.matching import LoadReport, load_into

load = load_weights

__all__ = ["LoadReport", "LoadedWeights", "load", "load_into", "load_weights"]
