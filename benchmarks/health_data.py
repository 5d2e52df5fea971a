"""Images and start weights of the runs of `health_runs.py`."""

import shutil
from pathlib import Path

import torch
from PIL import Image

from vissl_swav.data import cifar10, embedded, subsets

_IMAGES, _HELD_OUT, _FEW = 1600, 500, 32


class Data:
    """The image folders, made when first asked for.

    Args:
        out: folder to make them in.
        cifar: CIFAR-10 as an image folder; None: it is downloaded.
    """

    def __init__(self, out: Path, cifar: Path | None):
        self._out, self._cifar = out, cifar

    def train(self, kind: str) -> Path:
        """The training images of a kind."""
        if kind == "embedded":
            return self._embedded / "train"
        if kind == "cifar10":
            return self._cut("train", _IMAGES)
        folder = self._out / kind.replace(" ", "_")
        if not folder.exists():
            makers = {
                "grey": lambda place: _plain(place, (120, 120, 120)),
                "orange": lambda place: _plain(place, (200, 120, 40)),
                "noise": _noise,
                "one image": self._copies,
                "few": self._some,
            }
            makers[kind](folder / "all")
        return folder

    def held_out(self, kind: str) -> Path:
        """Images with classes that no run has seen."""
        return self._cut("test", _HELD_OUT) if kind == "cifar10" else self._test

    @property
    def _embedded(self) -> Path:
        return embedded.build(self._out / "data", num_train=_IMAGES, num_test=_HELD_OUT)

    @property
    def _test(self) -> Path:
        return self._embedded / "test"

    def _cut(self, split: str, count: int) -> Path:
        place = self._out / "cifar_part" / split
        if not place.exists():
            whole = self._cifar or cifar10.fetch_cifar10(self._out / "cifar10")
            subsets.subsample_folder(
                whole / split, place, per_class=count // 10, seed=0
            )
        return place

    def _some(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        whole = sorted((self._embedded / "train").rglob("*.png"))
        for path in whole[:: len(whole) // _FEW][:_FEW]:
            shutil.copy(path, folder / path.name)

    def _copies(self, folder: Path) -> None:
        first = min(path for path in (self._embedded / "train").rglob("*.png"))
        folder.mkdir(parents=True)
        for number in range(_IMAGES):
            shutil.copy(first, folder / f"{number:05d}.png")


def _plain(folder: Path, colour: tuple[int, int, int]) -> None:
    folder.mkdir(parents=True)
    for number in range(_IMAGES):
        Image.new("RGB", (32, 32), colour).save(folder / f"{number:05d}.png")


def _noise(folder: Path) -> None:
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for number in range(_IMAGES):
        levels = torch.randint(256, (32, 32, 3), generator=generator).byte()
        Image.fromarray(levels.numpy()).save(folder / f"{number:05d}.png")


def _first_norm(trunk: torch.nn.Module) -> torch.nn.BatchNorm2d:
    return next(m for m in trunk.modules() if isinstance(m, torch.nn.BatchNorm2d))


def write_weights(path: Path, overrides: list[str], kind: str) -> None:
    """A checkpoint of the host's that ruins a run from its start."""
    from vissl_swav.host import launch, registration

    registration.arm()
    from vissl.models import build_model

    _, config = launch.compose(overrides)
    torch.manual_seed(0)
    model = build_model(config.MODEL, config.OPTIMIZER)
    with torch.no_grad():
        if kind == "equal prototypes":
            weight = model.heads[0].prototypes0.weight
            weight.copy_(weight[:1].expand_as(weight))
        else:
            # Far under what is added to it: the ReLU after it is closed for good.
            norms = {
                "dead stem": lambda: _first_norm(model.trunk),
                "dead trunk": lambda: model.trunk._feature_blocks["layer4"][-1].bn2,
                "shut head": lambda: model.heads[0].projection_head[1],
            }
            last = norms[kind]()
            last.weight.zero_()
            last.bias.fill_(-100.0)
    state = {"base_model": model.get_classy_state()}
    torch.save({"classy_state_dict": state, "type": "consolidated"}, path)
