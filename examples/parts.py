"""What the examples share around their loops: arguments, images, a net, k-NN."""

import atexit
import math
import os
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, DistributedSampler
from torchvision.datasets import ImageFolder
from torchvision.models import get_model
from torchvision.ops import Conv2dNormActivation
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

from vissl_swav import MultiCrop, Prototypes, collective
from vissl_swav.core.nearest_neighbors import knn_predict, top_accuracy
from vissl_swav.data import DataError, build, list_images
from vissl_swav.data.folders import test_split


def parser(doc: str | None, *, resumes: bool = True, **defaults: Any) -> ArgumentParser:
    """The arguments of every example; `defaults` are those of one."""
    parser = ArgumentParser(
        description=doc, formatter_class=RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", help="folder with train/<class>/ and, for k-NN, test/<class>/; "
        "without one a small data set is drawn to runs/embedded")  # fmt: skip
    add("--trunk", default="small", help="small, or a ResNet of torchvision")
    add("--sizes", type=int, nargs="+", default=[24, 16], help="of crops, in pixels")
    add("--counts", type=int, nargs="+", default=[2, 2], help="crops of each size")
    add("--cut", type=float, default=0.3, help="least share of the area, large crops")
    add("--strength", type=float, help="of colour steps and blur, 1 is the paper's")
    add("--batch", type=int, default=32, help="images a step and process")
    add("--epochs", type=int, default=5)
    add("--lr", type=float, default=1e-3)
    add("--prototypes", type=int, default=100)
    add("--queue", type=int, default=480, help="rows over all processes; 0: none")
    add("--workers", type=int, default=2, help="processes that load images")
    add("--seed", type=int, default=0)
    add("--out", default="runs/example.pt", help="checkpoint")
    if resumes:
        add("--resume", action="store_true", help="go on from --out")
    parser.set_defaults(**defaults)
    return parser


def find_folders(options: Namespace) -> tuple[Path, Path | None]:
    """The folders of training and test images; a folder without train/ is the first."""
    if options.strength is None:  # The colours of the embedded set tell nothing.
        options.strength = 0.5 if options.data else 0.0
    options.data = options.data or build("runs/embedded", seed=options.seed)
    root = Path(options.data)
    train = root / "train"
    return (train, test_split(root)) if train.is_dir() else (root, None)


def multi_crop(options: Namespace) -> MultiCrop:
    """Crops as the paper's; small images bear less colour and blur (`--strength`)."""
    scales = [(options.cut, 1.0), (options.cut / 3, options.cut)]
    return MultiCrop(
        size_crops=options.sizes,
        num_crops=options.counts,
        crop_scales=scales[: len(options.sizes)],
        jitter_probability=0.8 * options.strength,
        grayscale_probability=0.2 * options.strength,
        blur_probability=0.5 * options.strength,
    )


def open_images(path: Path, view: Callable[..., Any], batch: int = 1) -> ImageFolder:
    """The folder, or the end of the program with what is wrong with it."""
    try:
        list_images(path)
    except DataError as error:
        sys.exit(str(error))
    images = ImageFolder(str(path), view)
    wanted = batch * collective().world_size
    if len(images) < wanted:
        sys.exit(
            f"{path} holds {len(images)} images, fewer than a batch of {wanted} over "
            "all processes. Add images, or make --batch smaller."
        )
    return images


def start(seed: int) -> torch.device:
    """The device of this process; under torchrun it joins the others."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    torch.manual_seed(seed)
    return device


def make_loader(
    images: Any, options: Namespace, collate: Callable[..., Any] | None = None
) -> DataLoader[Any]:
    """Batches; the sampler gives every process other images."""
    processes = collective()
    sampler: DistributedSampler[Any] = DistributedSampler(
        images, processes.world_size, processes.rank, seed=options.seed
    )
    return DataLoader(
        images,
        options.batch,
        sampler=sampler,
        num_workers=options.workers,
        collate_fn=collate,
        drop_last=True,
    )


def seed_epoch(loader: Any, seed: int, epoch: int) -> None:
    """Order and crops of an epoch, the same in a run that was resumed before it."""
    loader.sampler.set_epoch(epoch)
    torch.manual_seed((seed * 1000 + epoch) * 1000 + collective().rank)


def print_loss(epoch: int, loss: Tensor, options: Namespace) -> None:
    """The mean over the processes, beside what it is where nothing is learnt: ln K."""
    processes = collective()
    mean = float(processes.all_reduce_sum(loss)) / processes.world_size
    if processes.rank == 0:
        ceiling = math.log(options.prototypes)
        print(f"epoch {epoch + 1}: loss {mean:.3f} (ln K: {ceiling:.3f})", flush=True)


def save(content: dict[str, Any], path: str) -> None:
    """Writes a checkpoint, whole or not at all; rank 0 does."""
    if collective().rank:
        return
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, file.with_suffix(".unfinished"))
    file.with_suffix(".unfinished").replace(file)


def make_trunk(name: str) -> tuple[nn.Module, int]:
    """A trunk and the width of its features."""
    if name != "small":
        trunk: Any = get_model(name)
        width, trunk.fc = trunk.fc.in_features, nn.Identity()
        return trunk, width
    layers: list[nn.Module] = []
    for inner, outer in ((3, 32), (32, 64), (64, 128), (128, 256)):
        stride = 1 if inner == 3 else 2
        layers.append(Conv2dNormActivation(inner, outer, stride=stride))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 256


def unit_features(trunk: nn.Module, head: nn.Module, crops: Sequence[Tensor]) -> Tensor:
    """Z (V * B, D) of V crops (B, 3, S, S); one pass of the trunk a crop size."""
    sizes = groupby(crops, key=lambda crop: crop.shape[-1])
    rows = torch.cat([trunk(torch.cat(list(same))) for _, same in sizes])
    return normalize(head(rows))


class Net(nn.Module):
    """Trunk, projection head and prototypes: all that has gradients."""

    def __init__(
        self, trunk: nn.Module, width: int, num_prototypes: int, dim: int = 64
    ):
        super().__init__()
        self.trunk, self.dim, hidden = trunk, dim, 2 * width
        layers = (nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU())
        self.head = nn.Sequential(*layers, nn.Linear(hidden, dim))
        self.prototypes = Prototypes(dim, [num_prototypes])

    def forward(self, crops: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Unit features Z (V * B, D) and scores [(V * B, K)]."""
        features = unit_features(self.trunk, self.head, crops)
        return features, self.prototypes(features)


def central_view(size: int) -> Callable[..., Tensor]:
    """Pillow image to the levels (3, size, size) of its centre, uint8."""
    return Compose([Resize(size), CenterCrop(size), PILToTensor()])


def knn_accuracy(
    trunk: nn.Module, folders: tuple[Path, Path | None], size: int
) -> float | None:
    """Prints `knn` of the images' centres where there is a folder of test images."""
    known, asked = folders
    if asked is None:
        return None
    view = central_view(size)
    return knn(trunk, *(DataLoader(open_images(f, view), 256) for f in (known, asked)))


@torch.no_grad()
def knn(trunk: nn.Module, known: Iterable[Any], asked: Iterable[Any]) -> float | None:
    """Prints and returns the top-1 accuracy in % of 20-NN on the frozen trunk; rank 0.

    Args:
        trunk: images (B, 3, S, S) to features (B, D).
        known: batches of levels, uint8, and labels: the neighbours.
        asked: such batches, of the images to classify.
    """
    if collective().rank:
        return None
    trunk.eval()
    device, normalized = next(trunk.parameters()).device, MultiCrop().normalize
    found = []
    for batches in (known, asked):
        rows = [(trunk(normalized(x.to(device))), y.to(device)) for x, y in batches]
        features, labels = (torch.cat(column) for column in zip(*rows, strict=True))
        found.append((normalize(features), labels))
    (Z, labels), (tests, wanted) = found
    k = min(20, len(Z))
    classes = knn_predict(Z, labels, tests, num_neighbors=[k], temperatures=[0.1])
    accuracy = 100 * top_accuracy(classes[k, 0.1], wanted, top=1)
    print(f"{k}-NN: {accuracy:.1f} %", flush=True)
    return accuracy
