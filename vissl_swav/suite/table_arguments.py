"""Arguments of `vissl-swav table`."""

import argparse
from typing import Any


def add_command(commands: Any) -> None:
    """Adds the command to `vissl-swav`'s."""
    table = commands.add_parser(
        "table",
        help="a row of the transfer table for each checkpoint: every benchmark of a "
        "recipe, one report",
        description="Runs a recipe's benchmarks on checkpoints, and on a random and a "
        "supervised trunk beside them. What has finished is not run again. Exit code 1 "
        "if a benchmark failed (the rest has run), 2 for bad input.",
    )
    table.add_argument(
        "checkpoints",
        nargs="*",
        metavar="[NAME=]CHECKPOINT",
        help="a checkpoint of `vissl-swav train`, or the folder of its run",
    )
    table.add_argument(
        "--suite",
        default="quick",
        metavar="quick|paper|FILE",
        help="a recipe of ours, or a YAML file (docs/table.md)",
    )
    table.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="where a data set of the recipe lies; without it, the checkpoint's own "
        "images where the recipe has one data set and a test/ lies beside them",
    )
    table.add_argument("--out", default="runs/table", help="folder to write to")
    table.add_argument(
        "--columns", metavar="A,B", help="only the benchmarks or columns of these names"
    )
    table.add_argument(
        "--only-checkpoints",
        action="store_true",
        help="leave out the recipe's own rows (random, supervised)",
    )
    add_machine(table)
    table.add_argument("--seed", type=int, default=0)
    table.add_argument(
        "--slurm",
        metavar="KEY=VALUE,...",
        help="one job of SLURM a row, through submitit: partition=gpu,hours=24,gpus=8 "
        "(docs/table.md)",
    )
    table.add_argument(
        "--row", metavar="NAME", help="only this row; the others stay as they are"
    )
    table.add_argument(
        "--list",
        action="store_true",
        help="say what would run and what has; run nothing",
    )


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Arguments that say where runs run."""
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu"))
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="of a run; by default one a GPU, or one",
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="of each loader (0)"
    )
