"""SimCLR with multi-crop (eq. 7), forward and backward: ours, VISSL's and lightly's.

6 crops x 256 images of 128 features on one process, where VISSL's
`multicrop_simclr_info_nce_loss` is the same loss; then 2 crops, which lightly's
`NTXentLoss` can do too. 2 threads, side by side in one run:

    python benchmarks/simclr_loss.py [--device cuda] [--batch 1024]

Also prints each program's loss, which must agree, and its peak of temporary memory in
matrices of all similarities. lightly is left out, and said so, where it is not
installed (`pip install -c constraints.txt lightly`).
"""

import argparse
from collections.abc import Callable

import torch
from side_by_side import machine, measure, report
from swav_loss import peak_bytes

from vissl_swav.core.simclr_multicrop import simclr_multicrop_loss

Step = Callable[[], torch.Tensor]
_DIM = 128
_OURS = "vissl_swav"


def make_features(num_crops: int, args: argparse.Namespace) -> torch.Tensor:
    """Random unit features, (V * B, D)."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(num_crops * args.batch, _DIM, generator=generator)
    unit = torch.nn.functional.normalize(rows, dim=1)
    return unit.to(args.device).requires_grad_()


def step_of(loss: Callable[[torch.Tensor], torch.Tensor], Z: torch.Tensor) -> Step:
    """Forward and backward."""

    def step() -> torch.Tensor:
        Z.grad = None
        value = loss(Z)
        value.backward()
        return value.detach()

    return step


def vissl(num_crops: int, args: argparse.Namespace) -> torch.nn.Module:
    from vissl_swav.host import registration

    registration.arm()
    from classy_vision.generic.distributed_util import set_cpu_device
    from vissl.config import AttrDict
    from vissl.losses.multicrop_simclr_info_nce_loss import (
        MultiCropSimclrInfoNCECriterion,
    )

    if args.device == "cpu":
        set_cpu_device()
    buffers = {
        "embedding_dim": _DIM,
        "effective_batch_size": args.batch,
        "world_size": 1,
    }
    return MultiCropSimclrInfoNCECriterion(AttrDict(buffers), 0.1, num_crops)


def programs(
    num_crops: int, Z: torch.Tensor, args: argparse.Namespace
) -> dict[str, Step]:
    """Name -> a training step of the loss."""

    def ours(rows: torch.Tensor) -> torch.Tensor:
        return simclr_multicrop_loss(rows, num_crops=num_crops)

    def in_chunks(rows: torch.Tensor) -> torch.Tensor:
        most = len(rows) ** 2 // 16
        return simclr_multicrop_loss(rows, num_crops=num_crops, max_similarities=most)

    found = {
        _OURS: step_of(ours, Z),
        "vissl_swav, 16 chunks": step_of(in_chunks, Z),
        "VISSL 0.1.6 multicrop_simclr_info_nce_loss": step_of(
            vissl(num_crops, args), Z
        ),
    }
    if num_crops == 2:
        try:
            from lightly.loss import NTXentLoss
        except ImportError:
            print("lightly is not installed: its row is missing.")
            return found
        theirs = NTXentLoss(temperature=0.1)
        found["lightly NTXentLoss"] = step_of(lambda rows: theirs(*rows.chunk(2)), Z)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crops", type=int, default=6)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine())
    for num_crops in dict.fromkeys((args.crops, 2)):
        Z = make_features(num_crops, args)
        steps = programs(num_crops, Z, args)
        print(f"{num_crops} crops x {args.batch} images, float32")
        report(measure(steps, rounds=args.rounds), _OURS)
        matrix = 4 * len(Z) ** 2
        for name, step in steps.items():
            print(
                f"{name:44s} loss {step().item():.4f}, "
                f"peak {peak_bytes(step, Z) / matrix:.2f} matrices"
            )


if __name__ == "__main__":
    main()
