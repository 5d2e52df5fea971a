"""Multi-crop of a batch on the device, beside the same on the CPU, image by image.

2x224+6x96 of photographs of at most 512 pixels, and 2x32 of 32-pixel images that lie on
the device as CIFAR-10 may, side by side in one run:

    python benchmarks/device_multicrop.py --device cuda [--json device_multicrop.json]
    python benchmarks/device_multicrop.py --device cpu --batch 32 --small-batch 256

All programs start from the same decoded uint8 images and end in the same crops,
normalised float32 batches on the device; copying there is part of the time, but for the
small images. `MultiCrop` runs in one process, as in one worker of a loader: a machine
has as many as cores. The photographs are those of
`$VISSL_SWAV_SHARED/data/imagenet-samples-200.tar` (`../shared` beside the checkout if
unset); without them synthetic ones, and it is said.

On a GPU each batch is made twice more: with products in TF32
(`torch.set_float32_matmul_precision("high")`), and with the draws on the device too.
"""

import argparse
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from multicrop import photographs
from PIL import Image
from side_by_side import machine, measure
from torch import Tensor

from vissl_swav.core.hashing import sample_keys
from vissl_swav.transforms import MultiCrop
from vissl_swav.transforms.batched_multicrop import BatchedMultiCrop

LONGEST = 512
BASELINE = "MultiCrop, opencv, one process"
BATCHED = "BatchedMultiCrop"


@dataclass
class Task:
    """Crops to make, and of what.

    Attributes:
        name: of the crops and images.
        transform: the settings.
        images: decoded, on the CPU (height, width, C).
        batch: the same, padded (B, C, H, W).
        resident: whether the batch lies on the device before the time starts.
    """

    name: str
    transform: MultiCrop
    images: list[np.ndarray]
    batch: Tensor
    resident: bool


def large_images(count: int) -> list[np.ndarray]:
    """Photographs, the longer side at most 512 pixels; the same again if too few."""
    decoded = []
    for data in photographs(count):
        image = Image.open(io.BytesIO(data)).convert("RGB")
        image.thumbnail((LONGEST, LONGEST), Image.Resampling.BILINEAR)
        decoded.append(np.array(image))
    return [decoded[row % len(decoded)] for row in range(count)]


def small_images(count: int) -> list[np.ndarray]:
    """Smooth colours, 32 x 32: what they show changes no time."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)
    return [
        np.array(Image.fromarray(levels).resize((32, 32), Image.Resampling.BILINEAR))
        for levels in coarse
    ]


def padded(images: list[np.ndarray]) -> Tensor:
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    batch = torch.zeros(len(images), 3, height, width, dtype=torch.uint8)
    for row, image in zip(batch, images, strict=True):
        levels = torch.from_numpy(image).permute(2, 0, 1)
        row[:, : image.shape[0], : image.shape[1]] = levels
    return batch


def tasks(args: argparse.Namespace) -> list[Task]:
    large, small = large_images(args.batch), small_images(args.small_batch)
    recipe = {"size_crops": [32], "num_crops": [2], "crop_scales": [(0.08, 1.0)]}
    return [
        Task(
            f"2x224+6x96 of {args.batch} photographs of at most {LONGEST} pixels",
            *(MultiCrop(), large, padded(large), False),
        ),
        Task(
            f"2x32 of {args.small_batch} images of 32 pixels on the device",
            *(MultiCrop(**recipe), small, padded(small), True),
        ),
    ]


def one_by_one(
    task: Task, device: torch.device, *, backend: str
) -> Callable[[], object]:
    """`MultiCrop` on each image, stacked and copied to the device."""
    groups = {
        "size_crops": [group.size for group in task.transform.groups],
        "num_crops": [group.count for group in task.transform.groups],
        "crop_scales": [group.scale for group in task.transform.groups],
    }
    transform = MultiCrop(**groups, backend=backend)
    keys = keys_of(task).tolist()

    def run() -> object:
        made = [
            transform(image, key=key)
            for image, key in zip(task.images, keys, strict=True)
        ]
        return [torch.stack(crops).to(device) for crops in zip(*made, strict=True)]

    return run


def batched(
    task: Task, device: torch.device, *, draws_on: torch.device, precision: str
) -> Callable[[], object]:
    make = BatchedMultiCrop(task.transform)
    sizes = torch.tensor([image.shape[1::-1] for image in task.images])
    sizes, keys = sizes.to(draws_on), keys_of(task).to(draws_on)
    on_cuda = device.type == "cuda"
    batch = task.batch.pin_memory() if on_cuda else task.batch
    bank = batch.to(device)
    indices = torch.arange(len(batch)).flip(0).to(device)

    def run() -> object:
        torch.set_float32_matmul_precision(precision)
        if task.resident:
            images = bank[indices].flip(0)
        else:
            images = batch.to(device, non_blocking=True)
        made = make(images, sizes, keys)
        torch.set_float32_matmul_precision("highest")
        return made

    return run


def keys_of(task: Task) -> Tensor:
    return sample_keys(torch.arange(len(task.images)), seed=0, epoch=0)


def programs(task: Task, device: torch.device) -> dict[str, Callable[[], object]]:
    host = torch.device("cpu")
    found = {
        BASELINE: one_by_one(task, device, backend="opencv"),
        "MultiCrop, pillow, one process": one_by_one(task, device, backend="pillow"),
        BATCHED: batched(task, device, draws_on=host, precision="highest"),
    }
    if device.type == "cuda":
        tf32 = batched(task, device, draws_on=host, precision="high")
        drawn = batched(task, device, draws_on=device, precision="highest")
        found |= {f"{BATCHED}, TF32": tf32, f"{BATCHED}, draws on the device": drawn}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--small-batch", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--block", type=int, default=3, help="timed runs in a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    device = torch.device(args.device)
    figures = {"machine": machine(), "arguments": vars(args) | {"json": None}}
    print(machine())
    for task in tasks(args):
        print(f"{task.name}:")
        work = programs(task, device)
        medians = measure(work, rounds=args.rounds, block=args.block)
        rows = {}
        for name, seconds in medians.items():
            rate, ratio = len(task.images) / seconds, medians[BASELINE] / seconds
            rows[name] = {"images_per_second": rate, "times_the_baseline": ratio}
            print(f"  {name:40s} {rate:10.0f} images/s   {ratio:7.2f} x")
        figures[task.name] = rows
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
