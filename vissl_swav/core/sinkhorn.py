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
from vissl_swav.core.precision import check_floating, exact
from vissl_swav.core.scored_rows import ScoredRows
from vissl_swav.core.setting_checks import check_positive, check_whole

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
    more_rows: Sequence[ScoredRows] = (),
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
        more_rows: none, or for each problem rows (a queue's) that join it and whose
            codes nobody wants; on every process, at least one row each.

    Returns:
        The codes of each problem, and the summed count (a scalar tensor).
    """
    _check(problems, epsilon, num_iterations, tolerance)
    if more_rows and len(more_rows) != len(problems):
        raise ValueError(
            f"got more_rows for {len(more_rows)} of {len(problems)} problems; wanted "
            "an entry for each, or none."
        )
    first = problems[0]
    count = first.shape[0] if num_local_samples is None else num_local_samples
    with torch.no_grad(), torch.autocast(first.device.type, enabled=False):
        running: list[_Problem | _MoreRows] = [
            *(_Problem(exact(S.detach()), epsilon) for S in problems),
            *(_MoreRows(rows, epsilon) for rows in more_rows),
        ]
        # More rows stand beside the problems as those of further processes would.
        sides = len(running) // len(problems)
        parts = collective.world_size * sides
        sums = [problem.log_sums_of_scores() for problem in running]
        local_count = sums[0].new_full((1,), count)
        gathered = collective.all_gather(torch.cat([*sums, local_count]))
        total_count = gathered[:, -1].sum()
        widths = [S.shape[1] for S in problems]
        of_parts = gathered[:, :-1].reshape(parts, -1)
        columns = torch.split(of_parts, [2 * K for K in widths], dim=1)
        # One normalisation of the samples ends each iteration; the last gives Q itself.
        for problem, of_ranks in zip(running, columns * sides, strict=True):
            problem.scale_first(of_ranks)
        for _ in range(1, num_iterations):
            local = torch.cat([problem.log_sums() for problem in running])
            gathered = collective.all_gather(local).reshape(parts, -1)
            columns = torch.split(_log_sum_over_ranks(gathered), widths)
            # All processes see the same sums: they stop together.
            if tolerance is not None and _balanced(columns, tolerance):
                break
            for problem, C in zip(running, columns * sides, strict=True):
                problem.scale(C)
        codes = [p.codes() for p in running if isinstance(p, _Problem)]
        if hard:
            codes = [_one_hot(Q) for Q in codes]
    return codes, total_count


class _Problem:
    """One problem between two half steps: log Q up to what each row sums to.

    Either X = log Q, which is always safe; or, on the CPU, Q = u E v with E the softmax
    of the rows of S / eps and scalings u of the rows and v of the prototypes, so that a
    half step is one product with a vector. That form holds as long as S / eps keeps its
    digits and neither a row of E v nor a prototype's sum comes near the smallest number
    of the type; else X takes over. To look would cost a device a synchronisation, so
    there X it is from the start.
    """

    def __init__(self, S: Tensor, epsilon: float):
        self._S, self._epsilon = S, epsilon
        self._highest: Tensor | None = None
        self._matrix: Tensor | None = None
        self._v = self._shift = self._of_ranks = S.new_zeros(())
        self._log_codes = S

    def log_sums_of_scores(self) -> Tensor:
        """H[k], then log sum_b exp((S[b, k] - H[k]) / eps), H a reference: (2K,).

        H[k] is the largest score of prototype k, or one number for all. Apart, since
        their sum would round the second at the size of the first.
        """
        S = self._S
        if S.shape[0] == 0:
            return S.new_full((2 * S.shape[1],), -torch.inf)
        if S.device.type == "cpu" and not torch.compiler.is_compiling():
            sums = self._log_sums_by_scalings()
            if sums is not None:
                return sums
        highest = S.amax(dim=0)
        logs = (S - highest).div_(self._epsilon).exp_().sum(dim=0).log_()
        return torch.cat([highest, logs])

    def _log_sums_by_scalings(self) -> Tensor | None:
        """The same with E = softmax of the rows of S / eps; None where it is unsafe."""
        E = self._S / self._epsilon
        first = E[:, 0].clone()
        torch.softmax(E, dim=1, out=E)
        log_rows = first.sub_(E[:, 0].log())
        # Larger ones would round the scores that they are taken from; nan: no first.
        if not log_rows.abs().max() < _LARGE:
            return None
        self._highest = log_rows.max()
        sums = torch.mv(E.t(), (log_rows - self._highest).exp_())
        if not sums.min() > _SMALL:
            return None
        self._matrix = E
        return torch.cat([(self._highest * self._epsilon).expand_as(sums), sums.log_()])

    def scale_first(self, of_ranks: Tensor) -> None:
        """First half step, from every process's `log_sums_of_scores` (world, 2K)."""
        self._of_ranks = of_ranks
        if self._matrix is None or self._highest is None:
            self._log_codes = _first_half(self._S, of_ranks, self._epsilon)
            return
        highest, log_sums = _combined(of_ranks, self._epsilon)
        self._v = (self._highest - highest / self._epsilon - log_sums).exp_()
        self._shift = torch.zeros_like(log_sums)

    def log_sums(self) -> Tensor:
        """Log-sums over the samples of Q, its rows normalised: (B, K) -> (K,)."""
        u = self._row_scaling()
        if self._matrix is not None:
            sums = torch.mv(self._matrix.t(), u).mul_(self._v)
            if sums.min() > _SMALL:
                return sums.log_()
            self._go_to_logarithms()
        return _log_sum(self._log_codes)

    def scale(self, C: Tensor) -> None:
        """Divides prototype k's column by exp(C[k])."""
        if self._matrix is None:
            self._log_codes.sub_(C)
        else:
            self._v = self._v * (-C).exp()
            self._shift = self._shift + C

    def codes(self) -> Tensor:
        """Q (B, K), rows summing to 1; the problem is spent."""
        u = self._row_scaling()
        if self._matrix is None:
            return torch.softmax(self._log_codes, dim=1)
        return self._matrix.mul_(self._v).mul_(u.unsqueeze(1))

    def _row_scaling(self) -> Tensor:
        """Scalings u = 1 / (E v) of the rows, where that is safe."""
        if self._matrix is None:
            return self._v
        sums = torch.mv(self._matrix, self._v)
        if not sums.min() > _SMALL:
            self._go_to_logarithms()
        return sums.reciprocal_()

    def _go_to_logarithms(self) -> None:
        self._matrix = None
        self._log_codes = _first_half(self._S, self._of_ranks, self._epsilon).sub_(
            self._shift
        )


class _MoreRows:
    """Rows that join a problem; their scores are formed anew in every half step.

    Q's rows are the softmax of S / eps - V, with V (K,) what the half steps so far have
    taken from the prototypes' columns: V is all that is kept.
    """

    def __init__(self, rows: ScoredRows, epsilon: float):
        self._rows, self._epsilon = rows, epsilon
        self._taken: Tensor | None = None

    def log_sums_of_scores(self) -> Tensor:
        """As `_Problem.log_sums_of_scores`."""
        of_chunks: list[Tensor] = []
        for S in self._rows.chunks():
            highest = S.amax(dim=0)
            logs = S.sub_(highest).div_(self._epsilon).exp_().sum(dim=0).log_()
            of_chunks.append(torch.cat([highest, logs]))
        return torch.cat(_combined(torch.stack(of_chunks), self._epsilon))

    def scale_first(self, of_ranks: Tensor) -> None:
        """As `_Problem.scale_first`."""
        highest, log_sums = _combined(of_ranks, self._epsilon)
        self._taken = highest / self._epsilon + log_sums

    def log_sums(self) -> Tensor:
        """As `_Problem.log_sums`."""
        assert self._taken is not None
        sums = [
            _log_sum(S.div_(self._epsilon).sub_(self._taken))
            for S in self._rows.chunks()
        ]
        return _log_sum_over_ranks(torch.stack(sums))

    def scale(self, C: Tensor) -> None:
        """As `_Problem.scale`."""
        assert self._taken is not None
        self._taken = self._taken + C


# Far above the smallest float32, 1e-38: what vanished from a larger sum is nothing.
_SMALL = 1e-25
# Numbers of this size keep five decimals.
_LARGE = 128.0


def _combined(of_ranks: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """All processes' `log_sums_of_scores` (world, 2K) as one: H (K,), log-sums (K,)."""
    highest_of_each, logs = of_ranks.chunk(2, dim=1)
    highest = highest_of_each.amax(dim=0)
    log_sums = (highest_of_each - highest) / epsilon + logs
    return highest, _log_sum_over_ranks(log_sums)


def _log_sum_over_ranks(logs: Tensor) -> Tensor:
    """(world, K) -> (K,)."""
    return logs[0] if logs.shape[0] == 1 else torch.logsumexp(logs, dim=0)


def _log_sum(X: Tensor) -> Tensor:
    """Log-sums over the samples of log Q, its rows not yet normalised: (B, K) -> (K,).

    The largest entry of each column is taken out, so that no sum can vanish.
    """
    if X.shape[0] == 0:
        return X.new_full((X.shape[1],), -torch.inf)
    logs = torch.log_softmax(X, dim=1)
    highest = logs.amax(dim=0)
    return highest + (logs - highest).exp_().sum(dim=0).log_()


def _first_half(S: Tensor, of_ranks: Tensor, epsilon: float) -> Tensor:
    """Scores and every process's log-sums (world, 2K) -> log Q before its row sums.

    Differences are taken before the division by eps, those of prototypes and rows in
    whole numbers, which costs no digits: one score of 1e4, one such sample or
    prototype, or all scores shifted by it leave the rest as exact as without. What a
    row is shifted by does not matter here: its normalisation follows.
    """
    if S.shape[0] == 0:
        return S
    highest, log_sums = _combined(of_ranks, epsilon)
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


def check_sinkhorn(epsilon: float, num_iterations: int) -> None:
    """The settings of every Sinkhorn problem.

    Raises:
        SettingError: epsilon not above 0, or no iteration.
    """
    check_positive("epsilon", epsilon, paper=EPSILON)
    usual = f"the paper: {NUM_ITERATIONS}"
    check_whole("num_iterations", num_iterations, least=1, usual=usual)


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
        check_floating("scores", S)
    check_sinkhorn(epsilon, num_iterations)
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}; wanted None or a number >= 0.")
