"""Arguments of `vissl-swav knn`, `svm` and `low-shot-svm`; imports nothing heavy."""

import argparse
from collections.abc import Callable
from typing import Any

# Command -> module of `vissl_swav.suite` whose `main` runs it.
MODULES = {"knn": "knn", "svm": "svm", "low-shot-svm": "low_shot_svm"}


def add_commands(commands: Any) -> None:
    """Adds the commands to the parser's sub-commands."""
    knn = _command(commands, "knn", "k-NN on frozen features, many k at once")
    knn.add_argument(
        "--k", type=_list(_positive), metavar="N,...", help="neighbours (20,200)"
    )
    knn.add_argument(
        "--temperature",
        type=_list(_above_0),
        metavar="T,...",
        help="of the votes exp(similarity / T) (0.1)",
    )
    knn.add_argument(
        "--inner-product",
        action="store_true",
        help="similarity of the features as they are, not their cosine",
    )
    knn.add_argument("--device", default="auto", help="auto, cpu or cuda")

    svm = _command(
        commands, "svm", "linear SVMs on frozen features: VOC07 mAP, or accuracy"
    )
    svm.add_argument(
        "--folds", type=_whole, metavar="N", help="that choose the cost (3)"
    )
    _add_solver(svm)

    low_shot = _command(
        commands, "low-shot-svm", "linear SVMs on a few images a class, several times"
    )
    low_shot.add_argument(
        "--k",
        type=_list(_positive),
        metavar="N,...",
        help="positive images a class (1,2,4,8,16,32,64,96)",
    )
    low_shot.add_argument(
        "--samples", type=_positive, metavar="N", help="independent draws (5)"
    )
    _add_solver(low_shot)


def _command(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}; see docs/features.md. "
        "Exit code 2 for bad input.",
    )
    parser.add_argument(
        "source",
        nargs="+",
        metavar="FEATURES_DIR | config=... key=value",
        help="a folder that VISSL's engine extract_features wrote to; or a config and "
        "overrides, whose features are extracted first",
    )
    parser.add_argument("--layer", metavar="NAME", help="one layer; all by default")
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        help=f"JSON file; {name}.json in the features' folder by default",
    )
    return parser


def _add_solver(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--costs",
        type=_list(_above_0),
        metavar="C,...",
        help="of the SVM (0.01,0.1,1,2,5,10,15,20,50,100,1000)",
    )
    parser.add_argument("--seed", type=_whole, metavar="N", help="(0)")
    parser.add_argument(
        "--jobs",
        type=_positive,
        metavar="N",
        help="processes; by default as many as cores and memory allow",
    )


def _list(item: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def numbers(text: str) -> list[Any]:
        return [item(part) for part in text.split(",")]

    return numbers


def _positive(text: str) -> int:
    return _at_least(text, 1)


def _whole(text: str) -> int:
    return _at_least(text, 0)


def _at_least(text: str, least: int) -> int:
    if not text.strip().isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number >= {least}")
    return int(text)


def _above_0(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number
