"""Arguments of `vissl-swav assign` and `vissl-swav gallery`; imports nothing heavy."""

import argparse
from typing import Any


def add_commands(commands: Any) -> None:
    """Adds both commands to the parser's sub-commands."""
    assign = commands.add_parser(
        "assign",
        help="the cluster of each image under a trained model, as CSV or Parquet",
        description="Columns path, head, cluster, score, margin; see docs/clusters.md. "
        "Exit code 2 for bad input.",
    )
    _add_common(assign)
    assign.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        help="a .csv or .parquet file; without it CSV on standard output",
    )
    gallery = commands.add_parser(
        "gallery",
        help="a page of the top images of each prototype, with sizes and duplicates",
        description="Writes index.html, a PNG a head and clusters.json; see "
        "docs/clusters.md. Exit code 2 for bad input.",
    )
    _add_common(gallery)
    gallery.add_argument(
        "-o", "--out", metavar="FOLDER", default="gallery", help="folder (gallery)"
    )
    gallery.add_argument(
        "--top", type=_count, default=12, metavar="N", help="images a cluster (12)"
    )
    gallery.add_argument(
        "--clusters",
        type=_count,
        default=60,
        metavar="N",
        help="clusters shown, the largest first (60)",
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images",
        required=True,
        metavar="PATH",
        help="a folder of images, with class folders or without; a .txt or .npy list; "
        "a .tar, a folder of them, or shards-{000..010}.tar",
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="FILE",
        help="a checkpoint of `vissl-swav train`, or the run's folder",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="the run's train_config.yaml; by default the one beside the checkpoint",
    )
    parser.add_argument(
        "--mode",
        choices=("argmax", "softmax", "sinkhorn"),
        default="argmax",
        help="cosines; probabilities at the run's temperature; equal shares over the "
        "whole set given (argmax)",
    )
    parser.add_argument(
        "--symlink",
        metavar="FOLDER",
        help="a new folder with a folder a cluster, of links to its images",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--batch-size", type=_count, default=64, metavar="N")
    parser.add_argument(
        "--workers",
        type=_whole,
        metavar="N",
        help="processes that decode; by default one a core, 8 at most",
    )


def _count(text: str) -> int:
    return _at_least(text, 1)


def _whole(text: str) -> int:
    return _at_least(text, 0)


def _at_least(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text} is no whole number >= {least}")
    return number
