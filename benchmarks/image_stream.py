"""Tar shards as a numbered list and as a stream: start, memory, speed, going on.

    python benchmarks/image_stream.py                    # 200 shards of 2000 images
    python benchmarks/image_stream.py --shards 4 --images 50 --take 100

Both read the bytes of images in a shuffled order, without decoding, each in a process
of its own; the shards are written first, so they lie in the page cache. A stream goes
on from its record after half of the images. Times are of the CPU.
"""

import argparse
import io
import json
import random
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from side_by_side import machine

from vissl_swav.data.image_list import open_images
from vissl_swav.data.image_stream import ImageStream, StreamLayout
from vissl_swav.data.shard_reading import list_shards
from vissl_swav.data.stream_journal import Journal

KIBIBYTE = 1024


def write_shards(folder: Path, *, shards: int, images: int, size: int) -> None:
    """Tar files of members of `size` bytes on average; what is in them is noise."""
    noise = random.Random(0)
    for shard in range(shards):
        with tarfile.open(folder / f"shard-{shard:05d}.tar", "w") as tar:
            for number in range(images):
                member = tarfile.TarInfo(f"{shard:05d}/{number:06d}.jpg")
                member.size = noise.randint(size // 2, 3 * size // 2)
                tar.addfile(member, io.BytesIO(noise.randbytes(member.size)))


def as_list(folder: Path, take: int) -> dict[str, Any]:
    """The numbered source: one scan, then random access."""
    before, began = _memory(), time.process_time()
    images = open_images(folder)
    images.read(0)
    start = time.process_time() - began
    grown = _memory() - before
    chosen = random.Random(0).sample(range(len(images)), min(take, len(images)))
    began = time.process_time()
    for number in chosen:
        images.read(number)
    rate = len(chosen) / (time.process_time() - began)
    return {"start": start, "memory": grown, "rate": rate, "again": start}


def as_stream(folder: Path, take: int) -> dict[str, Any]:
    """The stream, with a buffer of 1000 images."""
    before, began = _memory(), time.process_time()
    stream = _stream(folder)
    stream.take(0)
    start = time.process_time() - began
    grown = _memory() - before
    began = time.process_time()
    for number in range(1, take):
        stream.take(number)
    rate = (take - 1) / (time.process_time() - began)
    began = time.process_time()
    _stream(folder).take(take // 2)
    again = time.process_time() - began
    return {"start": start, "memory": grown, "rate": rate, "again": again}


def _stream(folder: Path) -> ImageStream:
    shards = list_shards(folder)
    layout = StreamLayout(num_streams=1, buffer=1000, seed=0)
    whole, data = layout.names(shards)
    run = str(folder / "run")
    journal = Journal(run, rank=0, stream=0, layout=whole, data=data)
    return ImageStream(shards, layout, stream=0, journal=journal)


def _memory() -> int:
    return KIBIBYTE * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _in_a_process(kind: str, folder: str, take: int) -> dict[str, Any]:
    command = [sys.executable, __file__, f"--child={kind}", folder, f"--take={take}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    """Writes the shards, or runs one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=("list", "stream"), help=argparse.SUPPRESS)
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--images", type=int, default=2000, help="of a shard")
    parser.add_argument("--size", type=int, default=4096, help="mean bytes of an image")
    parser.add_argument("--take", type=int, default=50_000, help="images to read")
    args = parser.parse_args()
    if args.child:
        program = as_list if args.child == "list" else as_stream
        print(json.dumps(program(Path(args.folder), args.take)))
        return
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"shards": args.shards, "images": args.images, "size": args.size}
        write_shards(Path(folder), **sizes)
        total = args.shards * args.images
        print(f"{args.shards} shards, {total} images of {args.size} bytes; {machine()}")
        for kind in ("list", "stream"):
            found = _in_a_process(kind, folder, args.take)
            print(
                f"{kind:8s} first image after {found['start']:6.2f} s, "
                f"{found['memory'] / 2**20:6.1f} MB more memory, "
                f"{found['rate']:7.0f} images/s, goes on after {found['again']:.2f} s"
            )


if __name__ == "__main__":
    main()
