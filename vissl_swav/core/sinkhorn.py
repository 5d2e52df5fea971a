"""Equal partition of samples over prototypes (SwAV, eq. 3 to 5).

    max over Q of  Tr(Q^T S) + eps H(Q)   with rows of Q summing to 1, columns to B / K

`S (B, K)` scores, `Q (B, K)` codes, `B` samples over all processes, `K` prototypes.
Samples are rows here; the paper's Q is K x B.

Sinkhorn-Knopp on exp(S / eps): `num_iterations` times (scale the prototypes' sums to
B / K, then the samples' sums to 1). It runs in the log domain, so no eps and no score
can overflow: with X = log Q up to the constants that cancel, each half step subtracts a
log-sum-exp. Samples are spread over processes; only the K log-sums of each process
cross the network, one gather an iteration for all problems together.

Limits: eps -> infinity gives uniform codes 1 / K; eps -> 0 the optimal assignment, for
which more iterations are needed; B = 1 gives uniform codes for any score, after one
iteration, since a lone sample must feed all prototypes alike.
False friend: scaling the *samples* first, or shifting each sample's scores by its own
maximum before the first half step, is another algorithm at 3 iterations.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vissl_swav.core.collective import LOCAL, Collective

EPSILON = 0.05
NUM_ITERATIONS = 3
"""The paper's (appendix A.1), and the defaults wherever these two are an argument."""


def sinkhorn(
    scores: Tensor,
    *,
    epsilon: float = EPSILON,
    num_iterations: int = NUM_ITERATIONS,
    tolerance: float | None = None,
    hard: bool = False,
    collective: Collective = LOCAL,
) -> Tensor:
    """Codes of this process's samples, balanced over all processes' samples.

    Args:
        scores: S (B_local, K), cosines of features and prototypes. B_local may differ
            between processes and may be 0.
        epsilon: weight of the entropy, in the unit of the scores; > 0.
        num_iterations: the paper's 3; at most so many with a `tolerance`.
        tolerance: stop as soon as every prototype's sum is within this relative
            distance of B / K. Costs one device-to-host copy an iteration.
        hard: round each row to its largest entry (one-hot).
        collective: the processes that share the problem.

    Returns:
        Q (B_local, K), rows summing to 1, no gradient; float64 for float64 scores,
        float32 for every other dtype.

    Raises:
        ValueError: a shape or a setting that cannot work.
    """
    codes, _ = balanced_codes(
        [scores],
        epsilon=epsilon,
        num_iterations=num_iterations,
        tolerance=tolerance,
        hard=hard,
        collective=collective,
    )
    return codes[0]


def balanced_codes(
    problems: Sequence[Tensor],
    *,
    epsilon: float,
    num_iterations: int,
    tolerance: float | None = None,
    hard: bool = False,
    collective: Collective = LOCAL,
    num_local_samples: int | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Solves several Sinkhorn problems (crops, heads) with one gather an iteration.

    Args:
        problems: scores (B_local, K) each; sizes may differ from problem to problem.
        epsilon: see `sinkhorn`.
        num_iterations: see `sinkhorn`.
        tolerance: see `sinkhorn`.
        hard: see `sinkhorn`.
        collective: see `sinkhorn`.
        num_local_samples: a count to be summed over the processes on the way (the
            batch without the queue); B_local of the first problem by default.

    Returns:
        The codes of each problem, and the summed count (a scalar tensor).
    """
    _check(problems, epsilon, num_iterations, tolerance)
    first = problems[0]
    count = first.shape[0] if num_local_samples is None else num_local_samples
    with torch.no_grad(), torch.autocast(first.device.type, enabled=False):
        scores = [_full_precision(problem) for problem in problems]
        sums = [_log_sum_over_samples(S, epsilon) for S in scores]
        local_count = sums[0].new_full((1,), count)
        gathered = collective.all_gather(torch.cat([*sums, local_count]))
        total_count = gathered[:, -1].sum()
        widths = [S.shape[1] for S in scores]
        columns = torch.split(gathered[:, :-1], [2 * K for K in widths], dim=1)
        # One normalisation of the samples ends each iteration; the last gives Q itself.
        pending = [
            _first_half(S, C, epsilon) for S, C in zip(scores, columns, strict=True)
        ]
        for _ in range(1, num_iterations):
            local = torch.cat([_log_sum(X) for X in pending])
            summed = torch.logsumexp(collective.all_gather(local), dim=0)
            columns = torch.split(summed, widths)
            # All processes see the same sums: they stop together.
            if tolerance is not None and _balanced(columns, tolerance):
                break
            pending = [X.sub_(C) for X, C in zip(pending, columns, strict=True)]
        codes = [torch.softmax(X, dim=1) for X in pending]
        if hard:
            codes = [_one_hot(Q) for Q in codes]
    return codes, total_count


def _log_sum_over_samples(S: Tensor, epsilon: float) -> Tensor:
    """H[k] = max_b S[b, k] and log sum_b exp((S[b, k] - H[k]) / eps): (B, K) -> (2K,).

    Apart, since their sum would round the second at the size of the first.
    """
    if S.shape[0] == 0:
        return S.new_full((2 * S.shape[1],), -torch.inf)
    highest = S.amax(dim=0)
    sums = (S - highest).div_(epsilon).exp_().sum(dim=0)
    return torch.cat([highest, sums.log_()])


def _log_sum(X: Tensor) -> Tensor:
    """Log-sums over the samples of log Q, its rows not yet normalised: (B, K) -> (K,).

    The sums of Q itself are exact where none is near the smallest number of the type.
    To look costs a synchronisation on a device, so there the safe form is taken always.
    """
    if X.shape[0] == 0:
        return X.new_full((X.shape[1],), -torch.inf)
    if X.device.type == "cpu" and not torch.compiler.is_compiling():
        sums = torch.softmax(X, dim=1).sum(dim=0)
        if sums.min() > 1e-30:
            return sums.log_()
    logs = torch.log_softmax(X, dim=1)
    highest = logs.amax(dim=0)
    return highest + (logs - highest).exp_().sum(dim=0).log_()


def _first_half(S: Tensor, columns: Tensor, epsilon: float) -> Tensor:
    """Scores and every process's log-sums (world, 2K) -> log Q before its row sums.

    Differences are taken before the division by eps, those of prototypes and rows in
    whole numbers, which costs no digits: one score of 1e4, one such sample or
    prototype, or all scores shifted by it leave the rest as exact as without. What a
    row is shifted by does not matter here: its normalisation follows.
    """
    if S.shape[0] == 0:
        return S
    highest_of_each, logs = columns.chunk(2, dim=1)
    highest = highest_of_each.amax(dim=0)
    log_sums = torch.logsumexp((highest_of_each - highest) / epsilon + logs, dim=0)
    median, typical = highest.median(dim=0, keepdim=True)
    coarse = (highest - median).round()
    C = (highest - coarse - median) / epsilon + log_sums
    X = (S - coarse).sub_(S.index_select(1, typical).round())
    return torch.add(-C, X, alpha=1 / epsilon, out=X)


def _balanced(columns: Sequence[Tensor], tolerance: float) -> bool:
    """Whether every prototype's sum is within `tolerance` of B / K, relatively."""
    errors = [
        ((C - torch.logsumexp(C, dim=0)).exp() * C.shape[0] - 1).abs().max()
        for C in columns
    ]
    return bool((torch.stack(errors) <= tolerance).all())


def _one_hot(Q: Tensor) -> Tensor:
    return torch.zeros_like(Q).scatter_(1, Q.argmax(dim=1, keepdim=True), 1.0)


def _full_precision(scores: Tensor) -> Tensor:
    return scores.detach() if scores.dtype == torch.float64 else scores.detach().float()


def _check(
    problems: Sequence[Tensor],
    epsilon: float,
    num_iterations: int,
    tolerance: float | None,
) -> None:
    if not problems:
        raise ValueError("got no scores; wanted at least one (B, K) tensor.")
    for S in problems:
        if S.ndim != 2 or S.shape[1] == 0:
            raise ValueError(f"scores have shape {tuple(S.shape)}; wanted (B, K), K>0.")
        if not S.is_floating_point():
            raise ValueError(f"scores are {S.dtype}; wanted a floating-point tensor.")
    if not epsilon > 0:
        raise ValueError(f"epsilon is {epsilon}; wanted > 0 (the paper: 0.05).")
    if num_iterations < 1:
        raise ValueError(f"num_iterations is {num_iterations}; wanted >= 1 (paper: 3).")
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}; wanted None or a number >= 0.")
