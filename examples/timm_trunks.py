"""SwAV with a trunk of timm: a ViT, a ConvNeXt or any other, from random weights.

    python examples/timm_trunks.py --trunk vit_tiny_patch16_224 --set patch_size=8
    python examples/timm_trunks.py --trunk convnext_atto --sizes 224 96 --data FOLDER

All but the trunk is `plain_pytorch.py`, torchrun too. `--set` hands settings to the
trunk. A ViT takes crops of several sizes by interpolating its position embedding
(`dynamic_img_size`); their sides must be multiples of its patch.
"""

import argparse
import ast
import sys
from collections.abc import Sequence
from typing import Any

import parts
import plain_pytorch
import timm
import torch
from command_line import Parser
from torch import nn


def setting(text: str) -> tuple[str, Any]:
    """NAME=VALUE for `--set`; a value that is no Python literal is a word."""
    name, _, value = text.partition("=")
    if not (name and value):
        raise argparse.ArgumentTypeError(f"{text} is not NAME=VALUE, as patch_size=8")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def make_trunk(
    name: str, sizes: Sequence[int], settings: dict[str, Any]
) -> tuple[nn.Module, int]:
    """The trunk without classifier and its width, or the end of the program."""
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        sys.exit(f"timm has no {name}. It has {', '.join(near) or 'none like it'}, ...")
    settings = {"pretrained": False, "num_classes": 0, **settings}
    any_size = {"dynamic_img_size": True, "img_size": max(sizes), **settings}
    width, problem = 0, None
    for these in (any_size, settings):  # A convolutional net takes any size anyway.
        try:
            trunk = timm.create_model(name, **these).eval()
            break
        except Exception as error:  # Each trunk fails in its own way.
            problem = error
    else:
        sys.exit(f"{name} does not take these settings (--set): {problem}.")
    for size in sizes:
        try:
            features = trunk(torch.zeros(1, 3, size, size))
        except (AssertionError, RuntimeError) as error:
            sys.exit(
                f"{name} takes no crops of {size} pixels: {error}. Change --sizes, or "
                "the trunk's patch (--set patch_size=8): a ViT wants multiples of it."
            )
        if getattr(features, "ndim", 0) != 2:
            sys.exit(f"{name} gives no row of features an image; change --set.")
        width = features.shape[1]
    return trunk.train(), width


def main(arguments: Sequence[str] | None = None) -> float | None:
    """Trains; returns the k-NN accuracy in %, where there are test images."""
    trunk = "vit_tiny_patch16_224"
    # Of a ViT without warm-up: at 1e-3 its loss stays at ln K.
    parser = Parser(__doc__, out="runs/timm.pt", trunk=trunk, lr=2e-4)
    parser.add_argument(
        "--set", type=setting, nargs="+", default=[], metavar="NAME=VALUE"
    )
    options = parser.read(arguments)
    device = parts.start(options.seed)
    folders = parts.find_folders(options)
    images = parts.open_images(folders[0], parts.multi_crop(options))
    made, width = make_trunk(options.trunk, options.sizes, dict(options.set))
    net = parts.Net(made, width, options.prototypes).to(device)
    plain_pytorch.train(options, net, parts.make_loader(images, options))
    return parts.knn_accuracy(net.trunk, folders, max(options.sizes))


if __name__ == "__main__":
    main()
