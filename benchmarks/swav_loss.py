"""SwAV loss, forward and backward: ours, VISSL's `SwAVCriterion`, lightly's `SwaVLoss`.

8 crops x 256 samples x 3000 prototypes, 2 threads, side by side in one run:

    python benchmarks/swav_loss.py [--device cuda] [--dtype float16]

Also prints the peak of temporary memory in score matrices. lightly is left out, and
said so, where it is not installed (`pip install -c constraints.txt lightly`).
"""

import argparse
from collections.abc import Callable

import torch
from side_by_side import machine, measure, report

from vissl_swav.core.swapped_prediction import swapped_prediction_loss


def make_scores(args: argparse.Namespace) -> torch.Tensor:
    """Cosines of random unit features and prototypes, (V * B, K)."""
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize
    features = unit(torch.randn(args.crops * args.batch, 128, generator=generator))
    prototypes = unit(torch.randn(args.prototypes, 128, generator=generator))
    scores = (features @ prototypes.t()).to(args.device, getattr(torch, args.dtype))
    return scores.requires_grad_()


def ours(scores: torch.Tensor, args: argparse.Namespace) -> Callable[[], torch.Tensor]:
    def step() -> torch.Tensor:
        scores.grad = None
        loss = swapped_prediction_loss(scores, num_crops=args.crops)
        loss.backward()
        return loss.detach()

    return step


def vissl(scores: torch.Tensor, args: argparse.Namespace) -> Callable[[], torch.Tensor]:
    from vissl_swav.host import registration

    registration.arm()
    from classy_vision.generic.distributed_util import set_cpu_device
    from vissl.losses.swav_loss import SwAVCriterion

    if args.device == "cpu":
        set_cpu_device()
    criterion = SwAVCriterion(
        temperature=0.1,
        crops_for_assign=[0, 1],
        num_crops=args.crops,
        num_iters=3,
        epsilon=0.05,
        use_double_prec=False,
        num_prototypes=[args.prototypes],
        local_queue_length=0,
        embedding_dim=128,
        temp_hard_assignment_iters=0,
        output_dir=".",
    ).to(args.device)

    def step() -> torch.Tensor:
        scores.grad = None
        loss = criterion(scores, 0)
        loss.backward()
        return loss.detach()

    return step


def lightly(
    scores: torch.Tensor, args: argparse.Namespace
) -> Callable[[], torch.Tensor] | None:
    try:
        from lightly.loss import SwaVLoss
    except ImportError:
        return None
    criterion = SwaVLoss()

    def step() -> torch.Tensor:
        scores.grad = None
        crops = list(scores.split(args.batch))
        loss = criterion(crops[:2], crops[2:])
        loss.backward()
        return loss.detach()

    return step


def peak_matrices(step: Callable[[], torch.Tensor], scores: torch.Tensor) -> float:
    """Peak of allocated memory during a step, in units of the score matrix."""
    return peak_bytes(step, scores) / (scores.numel() * scores.element_size())


def peak_bytes(step: Callable[[], torch.Tensor], scores: torch.Tensor) -> int:
    """Peak of memory that a step allocates; `scores` is what it has a gradient for."""
    if scores.is_cuda:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    from torch.profiler import ProfilerActivity, profile

    scores.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        step()
    in_use = peak = 0
    for event in log.profiler.kineto_results.events():
        if event.name() == "[memory]":
            in_use += event.nbytes()
            peak = max(peak, in_use)
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crops", type=int, default=8)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--prototypes", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    scores = make_scores(args)
    programs = {
        "vissl_swav": ours(scores, args),
        "VISSL 0.1.6 SwAVCriterion": vissl(scores, args),
    }
    of_lightly = lightly(scores, args)
    if of_lightly is None:
        print("lightly is not installed: its row is missing.")
    else:
        programs["lightly SwaVLoss"] = of_lightly
    print(machine())
    print(f"{args.crops} crops x {args.batch} x {args.prototypes}, {args.dtype}")
    report(measure(programs, rounds=args.rounds), "vissl_swav")
    for name, step in programs.items():
        print(
            f"{name:44s} loss {step().item():.4f}, "
            f"peak {peak_matrices(step, scores):.2f} score matrices"
        )


if __name__ == "__main__":
    main()
