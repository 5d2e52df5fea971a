"""Arguments of `vissl-swav data` and `data-check`; imports nothing heavy."""

import argparse
from typing import Any


def add_command(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    data = commands.add_parser(
        "data",
        help="a benchmark data set, as VISSL's benchmarks and `table` want it",
        description="Without a name: what there is. With a name alone: what it is and "
        "what it needs. See docs/benchmark_data.md. Exit code 1 if an image of the "
        "sample cannot be read, 2 for bad input.",
    )
    data.add_argument("name", nargs="?", metavar="NAME", help="food101, say")
    data.add_argument(
        "--from",
        dest="source",
        metavar="LOCAL",
        help="the folder in which its archives lie unpacked, or for --download are to "
        "lie (by default OUT-download)",
    )
    data.add_argument("-o", "--out", metavar="OUT", help="a new folder")
    data.add_argument(
        "--download",
        action="store_true",
        help="fetch its archives into LOCAL, or take those that lie there, check their "
        "MD5 sums and unpack them",
    )
    data.add_argument(
        "--copy", action="store_true", help="copy the images instead of linking them"
    )
    subset = data.add_mutually_exclusive_group()
    subset.add_argument(
        "--list",
        metavar="FILE",
        help="of imagenet_1percent and imagenet_10percent: SimCLR's list, by default "
        "LOCAL/1percent.txt or LOCAL/10percent.txt",
    )
    subset.add_argument(
        "--draw",
        action="store_true",
        help="of the same: an own draw by class instead; it is not SimCLR's",
    )
    data.add_argument("--seed", type=int, default=0, help="of --draw (0)")
    data.add_argument(
        "--sample",
        type=_count,
        default=200,
        metavar="N",
        help="images of each split to decode for the check (200)",
    )


def add_check_command(commands: Any) -> None:
    """Adds `data-check` to the parser's sub-commands."""
    check = commands.add_parser(
        "data-check",
        help="decode a sample of some images: sizes, kinds, classes, broken files",
        description="Exit code 1 if an image cannot be read, 2 for bad input.",
    )
    check.add_argument(
        "path",
        metavar="PATH",
        help="a folder of images, with class folders or without, or with train/ and "
        "test/ or val/; a .txt or .npy list; a .tar, a folder of them, "
        "or shards-{000..010}.tar",
    )
    amount = check.add_mutually_exclusive_group()
    amount.add_argument("--all", action="store_true", help="decode every image")
    amount.add_argument(
        "--sample", type=int, default=1000, metavar="N", help="images to decode (1000)"
    )
    check.add_argument(
        "--shards",
        type=int,
        metavar="N",
        help="look into N of many tar shards, compressed ones too, and scan none",
    )
    check.add_argument(
        "--channels", type=int, choices=(1, 3), default=3, help="of mean and std"
    )
    check.add_argument("--seed", type=int, default=0, help="of the sample")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 on")
    return int(text)
