"""Files of weights in everybody's layout, from small random nets."""

import argparse
import copy
import warnings

import torch
from torch import nn

from vissl_swav import compat

compat.apply()
DIM, CLUSTERS = 8, (12, 5)


def randomized(module, seed=0):
    """BatchNorm statistics and scales too, so that eval mode shows a wrong one."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.dim() == 1 and "weight" in name:
            # Small, so that features stay near 1 through all blocks.
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.4 + 0.1)
        elif tensor.is_floating_point():
            scale = (2 / max(1, tensor[0].numel())) ** 0.5 if tensor.dim() > 1 else 0.1
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)
        else:
            tensor.fill_(3)
    return module.eval()


def resnet(name="resnet18", seed=0):
    import torchvision

    return randomized(getattr(torchvision.models, name)(num_classes=3), seed)


def trunk_of(model):
    """Its tensors but the classifier's."""
    return {n: t for n, t in model.state_dict().items() if not n.startswith("fc.")}


def features(model, images):
    """What torchvision's ResNet gives before its classifier."""
    model = copy.deepcopy(model).eval()
    model.fc = nn.Identity()
    with torch.no_grad():
        return model(images)


def head(in_dim=512, seed=1, dim=DIM):
    """The authors' projection head: linear, BatchNorm, ReLU, linear."""
    return randomized(
        nn.Sequential(
            nn.Linear(in_dim, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, dim)
        ),
        seed,
    )


def prototypes(number=0):
    weight = torch.randn(
        CLUSTERS[number], DIM, generator=torch.Generator().manual_seed(2 + number)
    )
    return nn.functional.normalize(weight, dim=1)


def prefixed(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def projection(prefix):
    return prefixed(prefix, head().state_dict())


def authors(trunk, wide=True):
    """As the files that the SwAV repository publishes."""
    if not wide:
        names = {"prototypes.weight": prototypes()}
    else:
        names = {f"prototypes.prototypes{n}.weight": prototypes(n) for n in (0, 1)}
    return prefixed("module.", {**trunk, **projection("projection_head."), **names})


def authors_checkpoint(trunk):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], 0.1)
    return {
        "epoch": 3,
        "state_dict": authors(trunk, wide=False),
        "optimizer": optimizer.state_dict(),
        "amp": {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 3}},
    }


def vissl(trunk, prefix="_feature_blocks."):
    heads = projection("0.projection_head.")
    heads |= {f"0.prototypes{n}.weight": prototypes(n) for n in (0, 1)}
    model = {"trunk": prefixed(prefix, trunk), "heads": heads}
    return {
        "type": "consolidated",
        "iteration": 12,
        "classy_state_dict": {"base_model": {"model": model, "meta": {}}},
    }


def solo_learn(trunk, backbone="backbone."):
    """SwAV's module there: weight-normalised prototypes, a queue, an online probe."""
    state = prefixed(backbone, trunk) | projection("projector.")
    length = torch.full((CLUSTERS[0], 1), 2.0)
    state |= {"prototypes.weight_g": length, "prototypes.weight_v": 3 * prototypes()}
    state |= {"queue": torch.zeros(2, 4, DIM), "classifier.weight": torch.zeros(3, 512)}
    state |= prefixed("momentum_backbone.", {"conv1.weight": torch.zeros(2)})
    return {"state_dict": state, "pytorch-lightning_version": "2.1.2", "epoch": 9}


def lightly(trunk, own=False):
    """The module of lightly's examples, with lightly's own parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightly.models import ResNetGenerator
        from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes
    net = ResNetGenerator("resnet-18") if own else resnet()
    children = list(net.children())[:-1] + [nn.AdaptiveAvgPool2d(1)] * own
    model = nn.Module()
    model.backbone = nn.Sequential(*children)
    model.projection_head = randomized(SwaVProjectionHead(512, 16, DIM), 4)
    model.prototypes = SwaVPrototypes(DIM, list(CLUSTERS))
    old, new = list(model.backbone.state_dict()), list(trunk)
    assert len(old) == len(new)
    model.backbone.load_state_dict(dict(zip(old, trunk.values(), strict=True)))
    return {"state_dict": model.state_dict(), "pytorch-lightning_version": "2.6"}


def detectron2_names(blocks=(2, 2, 2, 2), convolutions=2):
    """As detectron2's `BasicStem`, `BasicBlock` and `BottleneckBlock` make them."""
    norm = [
        f"norm.{word}" for word in ("weight", "bias", "running_mean", "running_var")
    ]
    modules = ["stem.conv1"]
    for stage, count in enumerate(blocks, start=2):
        for block in range(count):
            at = f"res{stage}.{block}."
            first_is_wider = block == 0 and (stage > 2 or convolutions == 3)
            modules += [f"{at}shortcut"] * first_is_wider
            modules += [f"{at}conv{n}" for n in range(1, convolutions + 1)]
    return [f"{m}.{last}" for m in modules for last in ("weight", *norm)]


def grown(trunk, seed=5):
    """The same net with a 3x3 stem."""
    generator = torch.Generator().manual_seed(seed)
    width, channels = trunk["conv1.weight"].shape[:2]
    stem = torch.randn(width, channels, 3, 3, generator=generator) / 5
    return {**trunk, "conv1.weight": stem}


def small(model):
    """torchvision's net with the stem of 32-pixel images, padding 1."""
    changed = copy.deepcopy(model)
    changed.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    changed.maxpool = nn.Identity()
    trunk = grown(trunk_of(model))
    changed.load_state_dict(trunk, strict=False)
    return changed.eval()


def saved(content, path):
    torch.save(content, path)
    return path


def export(*arguments):
    """`vissl-swav export ARGUMENTS`; the exit code."""
    from vissl_swav.suite import export, export_arguments

    parser = argparse.ArgumentParser()
    export_arguments.add_command(parser.add_subparsers(dest="command"))
    return export.main(parser.parse_args(["export", *map(str, arguments)]))
