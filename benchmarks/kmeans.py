"""Spherical k-means: ours with torch, faiss and flash-kmeans, and VISSL's own.

100 000 rows x 128 x 3000 clusters, 2 threads, side by side in one run:

    python benchmarks/kmeans.py [--device cuda]
    python benchmarks/kmeans.py --rows 1000000 --rounds 1   # memory of a larger bank

VISSL's is `DeepClusterV2Loss.cluster_memory` as installed, on one process: its calls of
`.cuda()` change nothing on the CPU for the time of the run. Each program starts from
random rows and is timed from inside: an iteration from one assignment to the next, its
update step from the end of the assignment on. Also prints the objective after the run
and the peak of memory above the bank.

Leave the cores alone meanwhile: with more threads than idle cores every small operation
waits for its slowest thread, which costs VISSL's update step, thousands of them, most.
"""

import argparse
import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
import torch.distributed as dist
from side_by_side import machine, report
from torch import Tensor

from vissl_swav.backends.faiss_nearest import FaissNearest, has_faiss
from vissl_swav.backends.flash_nearest import FlashNearest, has_flash_kmeans
from vissl_swav.core.kmeans import spherical_kmeans
from vissl_swav.core.nearest_centroid import Nearest, TorchNearest

# VISSL's score matrix stands in memory at once: above this it is not run.
MOST_SCORES = 4 * 2**30


@dataclass
class Times:
    """Seconds: of whole iterations, and of their update steps."""

    iterations: list[float] = field(default_factory=list)
    updates: list[float] = field(default_factory=list)


# Rows, times to add to -> centroids.
Program = Callable[[Tensor, Times], Tensor]


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def ours(nearest: Nearest, args: argparse.Namespace) -> Program:
    def run(rows: Tensor, times: Times) -> Tensor:
        marks: list[tuple[float, float]] = []

        def timed(features: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
            started = now()
            found = nearest(features, centroids)
            marks.append((started, now()))
            return found

        result = spherical_kmeans(
            rows,
            num_clusters=args.clusters,
            num_iterations=args.iterations,
            generator=torch.Generator().manual_seed(0),
            nearest=timed,
        )
        for (start, end), (next_start, _) in zip(marks, marks[1:], strict=False):
            times.iterations.append(next_start - start)
            times.updates.append(next_start - end)
        return result.centroids

    return run


def vissl(args: argparse.Namespace) -> Program:
    from vissl_swav.host import registration

    registration.arm()
    from classy_vision.generic.distributed_util import set_cpu_device
    from vissl.config import AttrDict
    from vissl.losses import deepclusterv2_loss as module

    if args.device == "cpu":
        set_cpu_device()
    settings = {
        "num_train_samples": args.rows,
        "DROP_LAST": False,
        "BATCHSIZE_PER_REPLICA": 256,
        "num_crops": 2,
        "temperature": 0.1,
        "num_clusters": [args.clusters],
        "kmeans_iters": args.iterations,
        "memory_params": {"crops_for_mb": [0], "embedding_dim": args.dim},
    }

    def run(rows: Tensor, times: Times) -> Tensor:
        torch.manual_seed(0)
        loss = module.DeepClusterV2Loss(AttrDict(settings)).to(args.device)
        loss.local_memory_embeddings = rows.unsqueeze(0)
        loss.local_memory_index = torch.arange(args.rows, device=args.device)
        # Its update step begins with this sort of the labels and ends with the only
        # normalisation of the loop.
        begun, ended = [], []
        sort, normalize = module.get_indices_sparse, torch.nn.functional.normalize

        def sort_and_mark(labels: object) -> object:
            begun.append(now())
            return sort(labels)

        def normalize_and_mark(*values: Any, **options: Any) -> Tensor:
            centroids = normalize(*values, **options)
            ended.append(now())
            return centroids

        with (
            mock.patch.object(module, "get_indices_sparse", sort_and_mark),
            mock.patch.object(torch.nn.functional, "normalize", normalize_and_mark),
            without_cuda_calls(args.device),
        ):
            started = now()
            loss.cluster_memory()
        times.updates.extend(e - b for b, e in zip(begun, ended, strict=True))
        ends = [started, *ended]
        times.iterations.extend(b - a for a, b in zip(ends, ends[1:], strict=False))
        return cast(Tensor, loss.centroids0)

    return run


@contextlib.contextmanager
def without_cuda_calls(device: str) -> Iterator[None]:
    """On the CPU `tensor.cuda(...)` is the tensor, so that VISSL's code runs there."""
    if device == "cuda":
        yield
        return
    with mock.patch.object(Tensor, "cuda", lambda self, *_, **__: self):
        yield


@contextlib.contextmanager
def group_of_one(device: str) -> Iterator[None]:
    """A process group of this process: VISSL's code broadcasts its seeds."""
    with tempfile.TemporaryDirectory() as folder:
        store = dist.FileStore(  # pyright: ignore[reportPrivateImportUsage]
            str(Path(folder) / "store"), 1
        )
        backend = "nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def peak_memory(work: Callable[[], Tensor], device: str) -> tuple[Tensor, float]:
    """What the work returns, and the peak of memory in GB above what was in use before.

    On a GPU torch's allocator tells; on the CPU the resident set, read every 2 ms.
    """
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = work()
        return result, (torch.cuda.max_memory_allocated() - before) / 1e9
    before = peak = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = work()
    finally:
        done.set()
        watcher.join()
    return result, (peak - before) / 1e9


def resident() -> int:
    """Bytes of this process in memory (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def make_rows(args: argparse.Namespace) -> Tensor:
    """Random unit rows (N, D)."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(args.rows, args.dim, generator=generator)
    return rows.div_(rows.norm(dim=1, keepdim=True)).to(args.device)


def programs(args: argparse.Namespace) -> dict[str, Program]:
    """What is to be compared; says what is left out, and why."""
    found = {"vissl_swav, torch": ours(TorchNearest(), args)}
    if has_faiss():
        import faiss

        # faiss on a GPU needs another build than the one for CPUs.
        if args.device == "cpu" or hasattr(faiss, "StandardGpuResources"):
            faiss.omp_set_num_threads(args.threads)
            found["vissl_swav, faiss"] = ours(FaissNearest(), args)
    if "vissl_swav, faiss" not in found:
        print("faiss for this device is not installed: its row is missing.")
    if args.device == "cuda" and has_flash_kmeans():
        found["vissl_swav, flash-kmeans"] = ours(FlashNearest(), args)
    else:
        print("flash-kmeans needs a GPU and to be installed: its row is missing.")
    scores = args.rows * args.clusters * 4
    if scores <= MOST_SCORES:
        found["VISSL 0.1.6 cluster_memory"] = vissl(args)
    else:
        print(f"VISSL's score matrix would take {scores / 1e9:.1f} GB: it is not run.")
    return found


def measure(
    rows: Tensor, compared: dict[str, Program], args: argparse.Namespace
) -> dict[str, Times]:
    """The programs take turns, so that a busy moment of the machine hits all of them.

    A first run of each, which is not timed, tells its objective and its memory.
    """
    for name, run in compared.items():
        centroids, memory = peak_memory(partial(run, rows, Times()), args.device)
        objective = -TorchNearest()(rows, centroids)[1].double().mean().item()
        print(f"{name:44s} objective {objective:.4f}, {memory:.2f} GB above the bank")
    times = {name: Times() for name in compared}
    for _ in range(args.rounds):
        for name, run in compared.items():
            run(rows, times[name])
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--clusters", type=int, default=3000)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = make_rows(args)
    print(machine())
    print(f"{args.rows} rows x {args.dim}, {args.clusters} clusters, float32")
    with group_of_one(args.device):
        times = measure(rows, programs(args), args)
    baseline = next(iter(times))
    print("An iteration:")
    report({n: statistics.median(t.iterations) for n, t in times.items()}, baseline)
    print("Its update step alone:")
    report({n: statistics.median(t.updates) for n, t in times.items()}, baseline)


if __name__ == "__main__":
    main()
