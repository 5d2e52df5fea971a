"""What the examples share around their loops: images, checkpoints, a net, k-NN."""

import atexit
import math
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, DistributedSampler
from torchvision import models
from torchvision.datasets import ImageFolder
from torchvision.ops import Conv2dNormActivation
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

from vissl_swav import MultiCrop, Prototypes, collective
from vissl_swav.core.nearest_neighbors import knn_predict, top_accuracy
from vissl_swav.data import DataError, build, list_images
from vissl_swav.data.folders import test_split


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


def open_images(path: Path, view: Callable[..., Any]) -> ImageFolder:
    """The folder, or the end of the program with what is wrong with it."""
    try:
        list_images(path)
    except DataError as error:
        sys.exit(str(error))
    return ImageFolder(str(path), view)


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


def require_batch(images: Any, options: Namespace, processes: int) -> None:
    """Ends the program where an epoch would be without a step."""
    wanted = options.batch * processes
    if len(images) < wanted:
        sys.exit(
            f"{options.data} holds {len(images)} images, fewer than a batch of "
            f"{wanted} over all processes. Add images, or make --batch smaller."
        )


def make_loader(
    images: Any, options: Namespace, collate: Callable[..., Any] | None = None
) -> DataLoader[Any]:
    """Batches; the sampler gives every process other images."""
    processes = collective()
    require_batch(images, options, processes.world_size)
    sampler: DistributedSampler[Any] = DistributedSampler(
        images, processes.world_size, processes.rank, seed=options.seed
    )
    settings: Any = {"num_workers": options.workers, "collate_fn": collate}
    settings |= {"sampler": sampler, "drop_last": True}
    return DataLoader(images, options.batch, **settings)


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


def settings_of(options: Namespace, loader: Any) -> dict[str, Any]:
    """What a run keeps when it goes on: all but where files lie and who reads them."""
    free = ("data", "out", "resume", "workers")
    kept = {f"--{name}": to for name, to in vars(options).items() if name not in free}
    return {**kept, "processes": collective().world_size, "steps": len(loader)}


def save(content: dict[str, Any], options: Namespace, loader: Any) -> None:
    """Writes a checkpoint to --out, whole or not at all; rank 0 does."""
    if collective().rank:
        return
    file = Path(options.out)
    content = {**content, "settings": settings_of(options, loader)}
    torch.save(content, file.with_suffix(".unfinished"))
    file.with_suffix(".unfinished").replace(file)


def load(options: Namespace, loader: Any) -> dict[str, Any] | None:
    """The checkpoint for --resume; the program ends where its settings are others."""
    if not options.resume:
        return None
    try:
        saved = torch.load(options.out, map_location="cpu")
        before, _ = saved["settings"], saved["epoch"]
    except (UnpicklingError, EOFError, RuntimeError, KeyError, TypeError):
        sys.exit(f"{options.out} is no checkpoint from which this program can go on.")
    now = settings_of(options, loader)
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if keys:  # The cosine is made for so many epochs, the queues for the processes.
        told = "; ".join(f"{key} {before.get(key)}, now {now.get(key)}" for key in keys)
        sys.exit(f"{options.out} was begun with other settings ({told}). Keep them.")
    return saved


def make_trunk(name: str) -> tuple[nn.Module, int]:
    """A trunk and the width of its features."""
    if name != "small":
        known = name in models.list_models(module=models)
        trunk: Any = models.get_model(name) if known else None
        if not hasattr(trunk, "fc") or hasattr(trunk, "aux_logits"):
            sys.exit(f"--trunk {name}: wanted small or a ResNet of torchvision, for "
                     "example resnet18; timm_trunks.py takes other nets.")  # fmt: skip
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
