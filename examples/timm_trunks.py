"""SwAV with a trunk of timm: a ViT, a ConvNeXt or any other, from random weights.

    python examples/timm_trunks.py --trunk vit_tiny_patch16_224 --set patch_size=8
    python examples/timm_trunks.py --trunk convnext_atto --sizes 224 96 --data FOLDER

All but the trunk is `plain_pytorch.py`, torchrun too. `--set` hands settings to the
trunk. A ViT takes crops of several sizes by interpolating its position embedding
(`dynamic_img_size`); their sides must be multiples of its patch.
"""

import ast
import sys
from collections.abc import Sequence
from typing import Any

import parts
import plain_pytorch
import timm
import torch
from torch import nn


def make_trunk(
    name: str, sizes: Sequence[int], settings: dict[str, Any]
) -> tuple[nn.Module, int]:
    """The trunk without classifier and its width, or the end of the program."""
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        sys.exit(f"timm has no {name}. It has {', '.join(near) or 'none like it'}, ...")
    settings = {"pretrained": False, "num_classes": 0, **settings}
    any_size = {"dynamic_img_size": True, "img_size": max(sizes)}
    try:
        trunk = timm.create_model(name, **any_size, **settings)
    except TypeError:  # A convolutional net, which takes any size anyway.
        trunk = timm.create_model(name, **settings)
    trunk.eval()
    for size in sizes:
        try:
            width = trunk(torch.zeros(1, 3, size, size)).shape[1]
        except (AssertionError, RuntimeError) as error:
            sys.exit(
                f"{name} takes no crops of {size} pixels: {error}. Change --sizes, or "
                "the trunk's patch (--set patch_size=8): a ViT wants multiples of it."
            )
    return trunk.train(), width


def main(arguments: Sequence[str] | None = None) -> float | None:
    """Trains; returns the k-NN accuracy in %, where there are test images."""
    trunk = "vit_tiny_patch16_224"
    # Of a ViT without warm-up: at 1e-3 its loss stays at ln K.
    parser = parts.parser(__doc__, out="runs/timm.pt", trunk=trunk, lr=2e-4)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE")
    options = parser.parse_args(arguments)
    words = [setting.partition("=") for setting in options.set]
    settings = {name: ast.literal_eval(value) for name, _, value in words}
    device = parts.start(options.seed)
    folders = parts.find_folders(options)
    images = parts.open_images(folders[0], parts.multi_crop(options), options.batch)
    made, width = make_trunk(options.trunk, options.sizes, settings)
    net = parts.Net(made, width, options.prototypes).to(device)
    plain_pytorch.train(options, net, parts.make_loader(images, options))
    return parts.knn_accuracy(net.trunk, folders, max(options.sizes))


if __name__ == "__main__":
    main()
