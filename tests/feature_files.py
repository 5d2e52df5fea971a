"""Features as the host's extraction engine writes them, and small problems of them."""

import argparse
from importlib import import_module
from pathlib import Path

import numpy as np


def write(folder, split, features, targets, *, layer="res5avg", ranks=1, chunks=1):
    """The files of so many processes, images dealt out as the host's sampler does."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.arange(len(features))
    padded = np.resize(numbers, -(-len(numbers) // ranks) * ranks)
    for rank in range(ranks):
        for chunk, mine in enumerate(np.array_split(padded[rank::ranks], chunks)):
            stem = folder / f"rank{rank}_chunk{chunk}_{split}_{layer}"
            np.save(f"{stem}_features.npy", features[mine])
            np.save(f"{stem}_targets.npy", targets[mine])
            np.save(f"{stem}_inds.npy", mine)
    return folder


def blobs(num_images, num_classes, dimension=12, *, noise=0.6, seed=0):
    """Features (N, D) float32 around a centre a class, and targets (N, 1)."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_classes, dimension))
    labels = np.arange(num_images) % num_classes
    features = centres[labels] + noise * generator.normal(size=(num_images, dimension))
    return features.astype(np.float32), labels[:, None]


def scenes(num_images, num_classes, dimension=12, *, noise=0.8, seed=0):
    """Features, and targets (N, C): 1 for a class that is there, -1 one time in 20."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_classes, dimension))
    targets = (generator.random((num_images, num_classes)) < 0.3).astype(np.int32)
    features = targets @ centres + noise * generator.normal(
        size=(num_images, dimension)
    )
    targets[generator.random(targets.shape) < 0.05] = -1
    return features.astype(np.float32), targets


def command(*arguments):
    """`vissl-swav ARGUMENTS`; the exit code."""
    from vissl_swav.suite import feature_arguments

    parser = argparse.ArgumentParser()
    feature_arguments.add_commands(parser.add_subparsers(dest="command"))
    options = parser.parse_args(list(map(str, arguments)))
    module = feature_arguments.MODULES[options.command]
    return import_module(f"vissl_swav.suite.{module}").main(options)
