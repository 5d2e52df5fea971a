"""The swapped prediction loss of SwAV (eq. 1, 2 and 6).

    loss = mean over heads, assignment crops i, other crops v, samples b of
           - sum_k Q_i[b, k] log softmax_k(S_v[b, :] / tau)

`S (V * B, K)` scores in crop-major order, `Q_i (B, K)` the code of crop i (no
gradient), `A` assignment crops, `V` crops, `B` samples, `K` prototypes, `tau`
temperature.

Each crop's softmax is computed once, not once per pair: the pairs of crop v share it,
so
    sum over i != v of CE(Q_i, v) = w_v lse(S_v / tau) - <T_v, S_v> / tau,
with T_v = sum over i in A, i != v of Q_i and w_v the number of its terms. The gradient
(w_v softmax - T_v) / tau is formed in the forward pass, in the one buffer of S's size
that the loss allocates.

Limits: equal features give uniform codes and exactly ln K; with N samples in the
Sinkhorn problem and soft codes the loss cannot fall below ln(K / N) where N < K. No
sample on any process gives 0, and gradient 0.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vissl_swav.core.collective import LOCAL, Collective
from vissl_swav.core.crops import CROPS_FOR_ASSIGN, CropLayout
from vissl_swav.core.scored_rows import ScoredRows
from vissl_swav.core.setting_checks import SettingError, check_positive
from vissl_swav.core.sinkhorn import EPSILON, NUM_ITERATIONS, balanced_codes

TEMPERATURE = 0.1
"""The paper's (appendix A.1), and the default wherever it is an argument."""

Scores = Tensor | Sequence[Tensor]
QueueScores = Scores | Sequence[Sequence[ScoredRows]]


def swapped_prediction_loss(
    scores: Scores,
    *,
    num_crops: int,
    crops_for_assign: Sequence[int] = CROPS_FOR_ASSIGN,
    temperature: float = TEMPERATURE,
    epsilon: float = EPSILON,
    num_iterations: int = NUM_ITERATIONS,
    queue_scores: QueueScores | None = None,
    code_scores: Scores | None = None,
    hard_codes: bool = False,
    collective: Collective = LOCAL,
) -> Tensor:
    """The loss of one step, a scalar.

    Over several processes the mean of the returned values, and the mean of the
    gradients that DDP forms, are those of one process holding all samples, also where
    processes hold different numbers of them.

    Args:
        scores: S (V * B, K) in crop-major order, or one such tensor per prototype head.
        num_crops: V.
        crops_for_assign: the crops that give codes; the global ones.
        temperature: tau > 0.
        epsilon: entropy weight of the codes (see `sinkhorn`).
        num_iterations: Sinkhorn iterations.
        queue_scores: (A, L, K) scores of earlier samples that join the Sinkhorn problem
            of each assignment crop and nothing else; one per head if scores are. Of a
            queue that is too long to be scored at once, A `ScoredRows` per head.
        code_scores: (A * B, K) scores of the assignment crops, in their order, by
            another encoder: the codes come from these; one per head if scores are.
            None: from the scores themselves.
        hard_codes: one-hot codes.
        collective: the processes that share the Sinkhorn problem.

    Returns:
        The loss, float32 (float64 for float64 scores); differentiable once in `scores`.

    Raises:
        ValueError: shapes or settings that do not fit each other.
    """
    heads = _as_heads(scores)
    layout = CropLayout(num_crops, crops_for_assign)
    check_prediction(num_crops, temperature)
    num_assign, num_samples = len(layout.crops_for_assign), layout.num_samples(heads[0])
    sources = _code_sources(heads, layout, code_scores)
    problems, more_rows = _sinkhorn_problems(sources, queue_scores)
    codes, total = balanced_codes(
        problems,
        epsilon=epsilon,
        num_iterations=num_iterations,
        hard=hard_codes,
        collective=collective,
        num_local_samples=num_samples,
        more_rows=more_rows,
    )
    # Local sum * world / total: processes with fewer samples weigh less in DDP's mean.
    total = total.clamp_min(1)  # No sample anywhere: 0, and so is the gradient.
    scale = collective.world_size / (total * num_assign * (num_crops - 1) * len(heads))
    fused: Any = _SwappedCrossEntropy.apply  # pyright: ignore
    cross_entropy = _for_the_compiler if torch.compiler.is_compiling() else fused
    losses: list[Tensor] = []
    for head, S in enumerate(heads):
        of_head = codes[head * num_assign : (head + 1) * num_assign]
        Q = [code[:num_samples] for code in of_head]
        losses.append(cross_entropy(S, scale, layout, temperature, *Q))
    return torch.stack(losses).sum()


def check_prediction(num_crops: int, temperature: float) -> None:
    """The settings of every swapped prediction.

    Raises:
        SettingError: nothing to swap, or a temperature that is not above 0.
    """
    if num_crops < 2:
        raise SettingError(
            f"num_crops is {num_crops}; a swapped prediction needs two crops.",
            "num_crops",
        )
    check_positive("temperature", temperature, paper=TEMPERATURE)


class _SwappedCrossEntropy(torch.autograd.Function):
    """scale * sum over i in A, v != i, b of CE(Q_i[b], softmax(S_v[b] / tau))."""

    @staticmethod
    def forward(
        ctx: Any,
        S: Tensor,
        scale: Tensor,
        layout: CropLayout,
        temperature: float,
        *Q: Tensor,
    ) -> Tensor:
        by_crop, assign = layout.split(S.detach()), layout.crops_for_assign
        step = scale / temperature
        gradient = Q[0].new_empty(by_crop.shape)
        of_others = sum(Q[1:], start=Q[0]) * -step
        matched: list[Tensor] = []
        log_sums: list[Tensor] = []
        # Crop by crop, so that the passes over a crop find it in the cache.
        for v, logits in enumerate(gradient):
            minus_target, weight = of_others, len(Q)
            if v in assign:
                code, weight = Q[assign.index(v)], len(Q) - 1
                minus_target = torch.addcmul(of_others, code, step)
            scores = by_crop[v].to(logits.dtype)
            torch.div(scores, temperature, out=logits)
            matched.append(torch.dot(minus_target.view(-1), logits.view(-1)))
            # In place: the logits' buffer becomes softmax, then gradient.
            P = torch.softmax(logits, dim=1, out=logits)
            log_sums.append(weight * _log_sum_exp(scores, temperature, P).sum())
            torch.addcmul(minus_target, P, step, value=weight, out=P)
        loss = torch.stack(log_sums).sum() * scale
        loss += torch.stack(matched).sum() * temperature
        ctx.save_for_backward(gradient)
        ctx.shape, ctx.dtype = S.shape, S.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        if not _is_one(grad_outputs[0]):
            gradient = gradient * grad_outputs[0]
        no_gradient = [None] * (len(ctx.needs_input_grad) - 1)
        return gradient.reshape(ctx.shape).to(ctx.dtype), *no_gradient


def _for_the_compiler(
    S: Tensor, scale: Tensor, layout: CropLayout, temperature: float, *Q: Tensor
) -> Tensor:
    """What `_SwappedCrossEntropy` computes, left to torch.compile to fuse.

    It does so as well, and not every release follows a function that writes its own
    gradient into views: torch 2.11 makes wrong gradients of it, without a word.
    """
    of_all, assign = torch.stack(Q).sum(dim=0), layout.crops_for_assign
    targets = [
        of_all - Q[assign.index(v)] if v in assign else of_all
        for v in range(layout.num_crops)
    ]
    logits = layout.split(S).to(of_all.dtype) / temperature
    return -scale * (torch.stack(targets) * torch.log_softmax(logits, dim=2)).sum()


def _log_sum_exp(S: Tensor, temperature: float, P: Tensor) -> Tensor:
    """Row by row log sum_k exp(S / tau), given its softmax: (B, K), (B, K) -> (B,).

    It is S / tau - log P at any entry that has not vanished. To see whether the first
    has would cost a device a synchronisation: there the largest is looked up.
    """
    if P.device.type == "cpu":
        first = P[:, 0]
        if P.shape[0] == 0 or first.min() > 1e-30:
            return S[:, 0] / temperature - first.log()
    largest, place = P.max(dim=1, keepdim=True)
    return (S.gather(1, place) / temperature - largest.log()).squeeze(1)


def _is_one(factor: Tensor) -> bool:
    """Whether a CPU scalar is 1, which saves a pass over the gradient.

    On a device the answer would cost a synchronisation, more than the pass.
    """
    if factor.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return factor.item() == 1.0


def _as_heads(scores: Scores) -> list[Tensor]:
    heads = [scores] if isinstance(scores, Tensor) else list(scores)
    if not heads:
        raise ValueError("got no scores; wanted one (V * B, K) tensor per head.")
    for S in heads:
        if S.ndim != 2 or S.shape[0] != heads[0].shape[0]:
            raise ValueError(
                f"scores have shapes {[tuple(s.shape) for s in heads]}; wanted "
                "(V * B, K) with the same number of rows for every head."
            )
    return heads


def _code_sources(
    heads: list[Tensor], layout: CropLayout, code_scores: Scores | None
) -> list[list[Tensor]]:
    """For every head, the (B, K) scores of each assignment crop that give its codes."""
    if code_scores is None:
        crops = layout.crops_for_assign
        return [[layout.split(S.detach())[i] for i in crops] for S in heads]
    num_assign = len(layout.crops_for_assign)
    rows = num_assign * layout.num_samples(heads[0])
    others = [code_scores] if isinstance(code_scores, Tensor) else list(code_scores)
    wanted = [(rows, S.shape[1]) for S in heads]
    if [tuple(S.shape) for S in others] != wanted:
        raise ValueError(
            f"code_scores have shapes {[tuple(S.shape) for S in others]}; wanted "
            f"{wanted}: the {num_assign} assignment crops alone, crop by crop, for "
            "each head."
        )
    sources: list[list[Tensor]] = []
    for S, code in zip(heads, others, strict=True):
        exact = code.detach().to(torch.promote_types(code.dtype, S.dtype))
        sources.append(list(exact.reshape(num_assign, -1, S.shape[1])))
    return sources


def _sinkhorn_problems(
    sources: list[list[Tensor]], queue_scores: QueueScores | None
) -> tuple[list[Tensor], list[ScoredRows]]:
    """The scores of every head and assignment crop, head by head, and more rows.

    (B + L, K) scores where those of the queue are given, else (B, K) ones, to which the
    queue's rows come on their own.
    """
    problems = [rows for of_head in sources for rows in of_head]
    if queue_scores is None:
        return problems, []
    queues = _queue_heads(queue_scores, sources)
    more = [rows for rows in queues if isinstance(rows, ScoredRows)]
    if more:
        return problems, more
    joined = [
        torch.cat([rows, queue.detach().to(rows.dtype)])
        for rows, queue in zip(problems, queues, strict=True)
        if isinstance(queue, Tensor)
    ]
    return joined, []


def _queue_heads(
    queue_scores: QueueScores, sources: list[list[Tensor]]
) -> list[Tensor] | list[ScoredRows]:
    """What the queue adds to every head and assignment crop, head by head."""
    one = isinstance(queue_scores, Tensor)
    queues = [queue_scores] if one else list(queue_scores)
    wanted = [(len(of_head), of_head[0].shape[1]) for of_head in sources]
    found = [_crops_and_width(queue) for queue in queues]
    if found != wanted:
        shapes = [f"({A}, L, {K})" for A, K in wanted]
        got = [tuple(q.shape) if isinstance(q, Tensor) else q for q in queues]
        raise ValueError(
            f"queue_scores have shapes {got}; wanted "
            f"{shapes}: assignment crops, queue length, prototypes of each head."
        )
    return [rows for queue in queues for rows in queue]  # pyright: ignore


def _crops_and_width(queue: Tensor | Sequence[ScoredRows]) -> tuple[int, int] | None:
    """A and K of a head's queue; None where it has another form."""
    if isinstance(queue, Tensor):
        return (queue.shape[0], queue.shape[2]) if queue.ndim == 3 else None
    widths = {rows.prototypes.shape[0] for rows in queue}
    return (len(queue), widths.pop()) if len(widths) == 1 else None
