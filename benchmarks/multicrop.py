"""Multi-crop on one core, decode included: ours, VISSL's transform list, lightly's.

2x224+6x96, 2x224 and 2x160+4x96 of JPEG photographs, side by side in one run:

    python benchmarks/multicrop.py [--json multicrop.json]

The photographs are those of `$VISSL_SWAV_SHARED/data/imagenet-samples-200.tar`
(`../shared` beside the checkout if unset); without them synthetic JPEGs of 500 x 375,
and it is said. Each program takes the files' bytes and ends in one normalised float
batch a crop: ours, as in training, by way of uint8 batches that are normalised as a
whole, or crop by crop ("float crops"). The rows "to the device" end in the uint8
batches, which the device normalises. VISSL's is its transform list as installed, in its
own wrapper. The programs take turns, round by round; the table holds the medians over
rounds of the mean time of an image.

A second table splits the time of VISSL's and ours by stage.
"""

import argparse
import io
import json
import os
import statistics
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import cv2
import multicrop_programs as programs
import numpy as np
import torch
from multicrop_programs import Program, Recipe
from PIL import Image
from side_by_side import machine
from torch import Tensor

from vissl_swav.data.decoding import EncodedImage
from vissl_swav.transforms import MultiCrop, fast_pixels, photometric

ROOT = Path(__file__).resolve().parents[1]
BATCH = 32
VISSL, FAST = "VISSL 0.1.6 transform list, Pillow", "vissl_swav, opencv"
DECODE = "decode alone, OpenCV"
# Work on the files, each with a number of its own.
Work = Callable[[Sequence[bytes], Iterator[int]], None]
STAGES = ("decode", "draw", "crop", "colour", "blur", "pack")


def photographs(limit: int) -> list[bytes]:
    """JPEG files in memory; synthetic ones where the photographs are missing."""
    shared = Path(os.environ.get("VISSL_SWAV_SHARED", ROOT.parent / "shared"))
    archive = shared / "data" / "imagenet-samples-200.tar"
    if archive.is_file():
        with tarfile.open(archive) as tar:
            members = [tar.extractfile(member) for member in tar if member.isfile()]
            return [file.read() for file in members[:limit] if file is not None]
    print(f"No photographs at {archive}: synthetic JPEGs of 500 x 375 instead.")
    return [synthetic(seed) for seed in range(limit)]


def synthetic(seed: int) -> bytes:
    """Smooth colours and noise, about as many bytes as a photograph has."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (12, 16, 3)).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
    levels = np.asarray(smooth) + random.normal(0, 10, (375, 500, 3))
    file = io.BytesIO()
    image = Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def compared(recipe: Recipe) -> dict[str, Work]:
    """What is to be compared; says what is left out, and why."""
    levels = programs.ours(recipe, output="uint8")
    normalize = MultiCrop(**recipe.settings).normalize
    found: dict[str, Work | None] = {
        VISSL: in_batches(programs.vissl(recipe)),
        "lightly SwaVTransform, Pillow": in_batches(programs.lightly(recipe)),
        "vissl_swav, pillow": in_batches(programs.ours(recipe, backend="pillow")),
        FAST: in_batches(levels, normalize),
        "vissl_swav, opencv, float crops": in_batches(programs.ours(recipe)),
        "vissl_swav, opencv, uint8 to the device": in_batches(levels),
        "spdl: crops and flips alone, to the device": in_batches(programs.spdl(recipe)),
    }
    programs.say_about_ffcv()
    return {name: work for name, work in found.items() if work}


def in_batches(
    program: Program | None, normalize: programs.Normalize | None = None
) -> Work | None:
    """Crops of many images, gathered to a batch for each crop; None for no program."""
    if program is None:
        return None

    def run(files: Sequence[bytes], numbers: Iterator[int]) -> None:
        for start in range(0, len(files), BATCH):
            some = files[start : start + BATCH]
            made = [program(data, next(numbers)) for data in some]
            for crops in zip(*made, strict=True):
                batch = stack(crops)
                if normalize is not None:
                    normalize(batch)

    return run


def stack(crops: Sequence[Tensor]) -> Tensor:
    """A batch in the memory layout of its crops."""
    if crops[0].is_contiguous():
        return torch.stack(list(crops))
    return torch.stack([crop.permute(1, 2, 0) for crop in crops]).permute(0, 3, 1, 2)


def measure(
    works: dict[str, Work],
    files: Sequence[bytes],
    rounds: int,
) -> dict[str, float]:
    """Median over rounds of the mean seconds of an image; a first round is not timed.

    Args:
        works: name -> the work on the files, each with a number of its own.
        files: the images.
        rounds: turns of each.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    numbers = {name: count() for name in works}
    for name, work in works.items():
        work(files[:BATCH], numbers[name])
    for _ in range(rounds):
        for name, work in works.items():
            started = time.perf_counter()
            work(files, numbers[name])
            times[name].append((time.perf_counter() - started) / len(files))
    return {name: statistics.median(values) for name, values in times.items()}


def decode_works() -> dict[str, Work]:
    """Decoding alone, and nothing kept."""

    def each(decode: Callable[[bytes], object]) -> Work:
        def run(files: Sequence[bytes], numbers: Iterator[int]) -> None:
            for data in files:
                decode(data)

        return run

    return {
        "decode alone, Pillow": each(programs.pillow_decode),
        DECODE: each(programs.opencv_decode),
    }


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def around(self, stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The work, its time added to the stage's."""

        def timed(*values: Any, **options: Any) -> Any:
            started = time.perf_counter()
            result = work(*values, **options)
            self.seconds[stage] += time.perf_counter() - started
            return result

        return timed


@contextmanager
def clocked(pixels: ModuleType, transform: MultiCrop, clock: Clock) -> Iterator[None]:
    """Puts the clock around the steps that the transform calls."""
    stage_of = {
        "open_image": "decode",
        "cut_and_resize": "crop",
        "flip_left_right": "crop",
        "drop_colour": "colour",
        "blur": "blur",
        "to_planes": "pack",
    }
    steps = {n: clock.around(s, getattr(pixels, n)) for n, s in stage_of.items()}
    jitter = {n: clock.around("colour", step) for n, step in pixels.JITTER.items()}
    own = {
        "draw": clock.around("draw", transform.draw),
        "normalization": clock.around("pack", transform.normalization),
    }
    with (
        mock.patch.multiple(pixels, **steps),
        mock.patch.dict(pixels.JITTER, jitter),
        mock.patch.multiple(transform, **own),
    ):
        yield


def our_stages(recipe: Recipe, backend: str, files: Sequence[bytes]) -> Clock:
    clock = Clock()
    transform = MultiCrop(**recipe.settings, backend=backend)
    pixels = photometric if backend == "pillow" else fast_pixels
    with clocked(pixels, transform, clock):
        for number, data in enumerate(files):
            transform(EncodedImage(data, "image"), key=number)
    return clock


def vissl_stages(recipe: Recipe, files: Sequence[bytes]) -> Clock:
    clock = Clock()
    decode = clock.around("decode", programs.vissl_sample)
    stages = programs.vissl_stages(recipe)
    timed = [clock.around(name, stage) for name, stage in stages.items()]
    for data in files:
        sample = decode(data)
        for stage in timed:
            sample = stage(sample)
    return clock


def stage_table(
    recipe: Recipe, files: Sequence[bytes], rounds: int
) -> dict[str, dict[str, float]]:
    """Program -> stage -> median over rounds of seconds an image."""
    runs: dict[str, list[Clock]] = {VISSL: [], "vissl_swav, pillow": [], FAST: []}
    for _ in range(rounds):
        runs[VISSL].append(vissl_stages(recipe, files))
        runs["vissl_swav, pillow"].append(our_stages(recipe, "pillow", files))
        runs[FAST].append(our_stages(recipe, "opencv", files))
    return {
        name: {
            stage: statistics.median(clock.seconds[stage] for clock in clocks)
            / len(files)
            for stage in STAGES
        }
        for name, clocks in runs.items()
    }


def print_times(medians: dict[str, float]) -> None:
    print(f"{'':44s} {'ms an image':>11s} {'VISSL / it':>11s} {'it / decode':>12s}")
    for name, seconds in medians.items():
        faster = f"{medians[VISSL] / seconds:.2f} x"
        decodes = f"{seconds / medians[DECODE]:.2f} x"
        print(f"{name:44s} {seconds * 1e3:11.2f} {faster:>11s} {decodes:>12s}")


def print_stages(table: dict[str, dict[str, float]]) -> None:
    print("By stage, ms an image, float crops, not gathered (VISSL draws within):")
    print(f"{'':44s}" + "".join(f"{stage:>8s}" for stage in STAGES))
    for name, seconds in table.items():
        cells = "".join(f"{1e3 * seconds[stage]:8.2f}" for stage in STAGES)
        print(f"{name:44s}{cells}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--crops", nargs="+", default=["2x224+6x96", "2x224", "2x160+4x96"]
    )
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    files = photographs(args.images)
    print(f"{machine()}, OpenCV {cv2.__version__}; {len(files)} images")
    figures: dict[str, Any] = {"machine": machine(), "images": len(files)}
    for words in args.crops:
        recipe = Recipe.parse(words)
        print(f"\n{words}, {args.rounds} rounds")
        medians = measure(decode_works() | compared(recipe), files, args.rounds)
        print_times(medians)
        stages = stage_table(recipe, files, args.rounds)
        print_stages(stages)
        figures[words] = {"seconds": medians, "stages": stages}
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
