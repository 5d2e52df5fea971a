"""Arguments of `vissl-swav export`; imports nothing heavy."""

from typing import Any

TARGETS = {
    "torchvision": ".pth",
    "timm": ".pth",
    "detectron2": ".pkl",
    "safetensors": ".safetensors",
    "torchscript": ".pt",
    "onnx": ".onnx",
    "vissl": ".torch",
}


def add_command(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    export = commands.add_parser(
        "export",
        help="write a checkpoint's weights for torchvision, timm, detectron2, ...",
        description="Reads checkpoints of `vissl-swav train`, VISSL, SwAV's authors, "
        "solo-learn, lightly, torchvision and timm; see docs/weights.md. Exit code 2 "
        "for bad input.",
    )
    export.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a file of weights, or the folder of a run",
    )
    export.add_argument("--to", required=True, choices=tuple(TARGETS))
    export.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        help="by default CHECKPOINT's name, in this folder",
    )
    export.add_argument(
        "--part",
        choices=("trunk", "all"),
        default="trunk",
        help="all: with projection head and prototypes (trunk)",
    )
    export.add_argument(
        "--config",
        metavar="FILE",
        help="the run's train_config.yaml; by default the one beside the checkpoint",
    )
    export.add_argument(
        "--trunk-prefix",
        metavar="TEXT",
        help="what the names of the trunk begin with, where the layout is not known",
    )
    export.add_argument(
        "--momentum",
        action="store_true",
        help="the momentum encoder of a run of swav_momentum, not the model",
    )
    export.add_argument(
        "--force", action="store_true", help="overwrite the file if there is one"
    )
