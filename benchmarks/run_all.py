"""Every benchmark, the tests that need the device, and one report.

    python benchmarks/run_all.py --device cuda          # on a machine with a GPU
    python benchmarks/run_all.py --device cpu           # the same without one
    python benchmarks/run_all.py --device cpu --quick   # toy sizes: does it run at all

With `--cifar FOLDER` (CIFAR-10 as an image folder) also the paper's comparison, with
all of its images on a GPU.

Writes `<out>/report.md`: per step the command, how long it took, its exit code and what
it printed. The figures go from there into `docs/results.md`. Exit code 1 where a step
failed; the other steps are run all the same.
"""

import argparse
import datetime
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from side_by_side import machine

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable


def steps(args: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Title and command of every step."""
    cuda = args.device == "cuda"
    if cuda:
        yield "Tests that need a GPU", [PYTHON, "-m", "pytest", "-q", "-m", "gpu"]
    size = ["--crops=3", "--batch=16", "--prototypes=30", "--rounds=1"]
    for dtype in ("float32", "float16", "bfloat16") if cuda else ("float32",):
        yield (
            f"SwAV loss, {dtype}",
            [
                PYTHON,
                "benchmarks/swav_loss.py",
                f"--device={args.device}",
                f"--dtype={dtype}",
                *(size if args.quick else []),
            ],
        )
    size = ["--crops=3", "--batch=16", "--rounds=1"] if args.quick else []
    yield (
        "SimCLR loss with multi-crop",
        [PYTHON, "benchmarks/simclr_loss.py", f"--device={args.device}", *size],
    )
    kmeans = [PYTHON, "benchmarks/kmeans.py", f"--device={args.device}"]
    if args.quick:
        size = ["--rows=2000", "--dim=16", "--clusters=50", "--rounds=1"]
        yield "Spherical k-means", [*kmeans, *size]
    else:
        yield "Spherical k-means", kmeans
        larger = ["--rows=1000000", "--rounds=1", "--iterations=2"]
        yield "Spherical k-means, 1 M rows", [*kmeans, *larger]
    few = ["--shards=3", "--images=40", "--take=60"] if args.quick else []
    stream = [PYTHON, "benchmarks/image_stream.py", *few]
    yield "Tar shards as a list and as a stream", stream
    crops = ["--images=3", "--rounds=1", "--crops", "2x32+3x16"] if args.quick else []
    yield "Multi-crop in a worker", [PYTHON, "benchmarks/multicrop.py", *crops]
    small = ["--batch=3", "--small-batch=8", "--rounds=1", "--block=1"]
    yield (
        "Multi-crop on the device",
        [
            PYTHON,
            "benchmarks/device_multicrop.py",
            f"--device={args.device}",
            *(small if args.quick else []),
        ],
    )
    short = ["--epochs=1", "--images=128"] if args.quick else []
    for amp in ("float16", "bfloat16", None) if cuda else (None,):
        yield (
            f"SwAV in VISSL's trainer, embedded data set, {amp or 'float32'}",
            [
                PYTHON,
                "benchmarks/host_run.py",
                f"--device={args.device}",
                *([f"--amp={amp}"] if amp else []),
                *short,
            ],
        )

    for place in ("resident",) if args.quick else ("device", "resident"):
        yield (
            f"The same, crops made on the device ({place})",
            [
                PYTHON,
                "benchmarks/host_run.py",
                f"--device={args.device}",
                f"--crops={place}",
                *short,
            ],
        )
    if args.cifar is not None:
        yield "The paper's comparison", comparison(args)


def comparison(args: argparse.Namespace) -> list[str]:
    """Of all methods: resumed by the same command."""
    size = "toy" if args.quick else "full" if args.device == "cuda" else "small"
    return [
        *(PYTHON, "benchmarks/comparison.py", f"--device={args.device}"),
        *(f"--size={size}", f"--data={args.cifar.resolve()}"),
        f"--out={args.out / 'comparison'}",
    ]


def run(command: Sequence[str]) -> tuple[int, float, str]:
    """Exit code, seconds and output of a step."""
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, time.perf_counter() - started, done.stdout


def readable(command: Sequence[str]) -> str:
    return " ".join(["python" if word == PYTHON else word for word in command])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as an image folder")
    parser.add_argument("--quick", action="store_true", help="toy sizes")
    args = parser.parse_args()
    args.out = args.out.resolve()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no CUDA device; give --device cpu.", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    today = datetime.date.today().isoformat()
    report, failed = [f"# Benchmarks, {today}", machine()], 0
    for title, command in steps(args):
        print(f"{title} ...", flush=True)
        code, seconds, output = run(command)
        failed += code != 0
        print(output, flush=True)
        report.append(
            f"## {title}\n\n`{readable(command)}`: exit code {code}, {seconds:.0f} s"
            f"\n\n```\n{output.strip()}\n```"
        )
        (args.out / "report.md").write_text("\n\n".join(report) + "\n")
    print(f"{failed} steps failed; the report is in {args.out / 'report.md'}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
