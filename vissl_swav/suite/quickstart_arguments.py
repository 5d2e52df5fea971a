"""Arguments of `vissl-swav quickstart`; imports nothing heavy."""

from typing import Any


def add_command(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    quick = commands.add_parser(
        "quickstart",
        help="pretrain, probe and compare with a random trunk, in a few minutes",
    )
    quick.add_argument("--out", default="runs/quickstart", help="folder to write to")
    quick.add_argument(
        "--method",
        default="swav",
        help="swav, swav_momentum, deepcluster_v2, sela_v2 or simclr_multicrop",
    )
    quick.add_argument(
        "--data",
        help="an image folder with train/ and test/ or val/, or cifar10; "
        "without it the embedded data set",
    )
    quick.add_argument("--seed", type=int, default=0)
