"""SwAV's loss with its state: the swapped prediction, the queue and the step count.

One forward of an encoder gives `Z (V * B, D)` unit features and, per prototype head,
`S (V * B, K)` scores, both crop-major. The defaults are the paper's; the host layer
reads them from this signature.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vissl_swav.core.collective import LOCAL, Collective
from vissl_swav.core.crops import CROPS_FOR_ASSIGN, CropLayout
from vissl_swav.core.feature_queue import FeatureQueue
from vissl_swav.core.outside_graphs import outside_graphs
from vissl_swav.core.precision import stored_dtype
from vissl_swav.core.scored_rows import ScoredRows
from vissl_swav.core.setting_checks import check_num_prototypes, check_whole
from vissl_swav.core.sinkhorn import EPSILON, NUM_ITERATIONS, check_sinkhorn
from vissl_swav.core.swapped_prediction import (
    TEMPERATURE,
    check_prediction,
    swapped_prediction_loss,
)


class SwAV(nn.Module):
    """Swapped prediction with an optional feature queue.

    Per training step, in this order: `loss = swav(S_per_head, queue_scores=...)`,
    `swav.finish_step(Z)`, `loss.backward()`, the optimiser's step,
    `prototypes.normalize_()`. The queue's scores come from
    `swav.score_queue(prototypes)`, which is None until the queue is full.

    With a momentum encoder (`core.momentum`), codes and queue are the encoder's: it
    sees the assignment crops alone, and gives Z' (A * B, D) and S' (A * B, K), crop by
    crop. Then `loss = swav(S_per_head, code_scores=S'_per_head, queue_scores=...)` and
    `swav.finish_step(Z', of_assignment_crops=True)`.

    Args:
        num_crops: V.
        num_prototypes: K of each head.
        embedding_dim: D.
        crops_for_assign: crops that give codes.
        temperature: tau.
        epsilon: entropy weight of the codes.
        num_iterations: Sinkhorn iterations.
        hard_codes: one-hot codes, always.
        hard_codes_steps: one-hot codes during the first so many training steps.
        queue_length: rows of the queue on this process; 0 for none. The paper's runs at
            batch 256 hold 3840 over all processes.
        queue_start_step: training step at which *filling* begins; used once full.
        queue_dtype: of the stored features: "float32", "float16" or "bfloat16".

    Raises:
        SettingError: a setting that it cannot have, a queue of length -4, say.
    """

    num_steps: Tensor

    def __init__(
        self,
        *,
        num_crops: int,
        num_prototypes: Sequence[int],
        embedding_dim: int,
        crops_for_assign: Sequence[int] = CROPS_FOR_ASSIGN,
        temperature: float = TEMPERATURE,
        epsilon: float = EPSILON,
        num_iterations: int = NUM_ITERATIONS,
        hard_codes: bool = False,
        hard_codes_steps: int = 0,
        queue_length: int = 0,
        queue_start_step: int = 0,
        queue_dtype: str = "float32",
    ):
        super().__init__()
        check_prediction(num_crops, temperature)
        self.layout = CropLayout(num_crops, crops_for_assign)
        check_sinkhorn(epsilon, num_iterations)
        self.num_prototypes = check_num_prototypes(num_prototypes)
        for name, value, least in (
            ("embedding_dim", embedding_dim, 1),
            ("hard_codes_steps", hard_codes_steps, 0),
            ("queue_length", queue_length, 0),
            ("queue_start_step", queue_start_step, 0),
        ):
            check_whole(name, value, least=least)
        stored = stored_dtype("queue_dtype", queue_dtype)
        self.temperature, self.epsilon = temperature, epsilon
        self.num_iterations = num_iterations
        self.hard_codes, self.hard_codes_steps = hard_codes, hard_codes_steps
        self.queue_start_step = queue_start_step
        self.queue = None
        if queue_length > 0:
            self.queue = FeatureQueue(
                num_assign_crops=len(self.layout.crops_for_assign),
                length=queue_length,
                dim=embedding_dim,
                dtype=stored,
            )
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.long))
        self._count(0)

    def forward(
        self,
        scores: Sequence[Tensor],
        *,
        queue_scores: Sequence[Tensor] | Sequence[Sequence[ScoredRows]] | None = None,
        code_scores: Sequence[Tensor] | None = None,
        collective: Collective = LOCAL,
    ) -> Tensor:
        """The loss of this step, a scalar (see `swapped_prediction_loss`).

        Raises:
            ValueError: scores of other heads than `num_prototypes` says.
        """
        self._check_heads(scores)
        return swapped_prediction_loss(
            scores,
            num_crops=self.layout.num_crops,
            crops_for_assign=self.layout.crops_for_assign,
            temperature=self.temperature,
            epsilon=self.epsilon,
            num_iterations=self.num_iterations,
            queue_scores=queue_scores,
            code_scores=code_scores,
            hard_codes=self._codes_are_hard,
            collective=collective,
        )

    def score_queue(
        self, prototypes: Sequence[Tensor]
    ) -> list[Tensor] | list[list[ScoredRows]] | None:
        """(A, L, K) per head with today's prototypes (K, D); None while not full.

        Of a queue that is too long to be scored at once, the rows to be scored.
        """
        if self.queue is None or not self.queue.is_full:
            return None
        rows = [self.queue.rows(weight) for weight in prototypes]
        if all(of_crop.fit_at_once for of_head in rows for of_crop in of_head):
            return [self.queue.score(weight) for weight in prototypes]
        return rows

    @outside_graphs
    def finish_step(
        self, features: Tensor, *, of_assignment_crops: bool = False
    ) -> None:
        """Counts a training step and stores its features.

        Args:
            features: Z (V * B, D) of all crops.
            of_assignment_crops: they are (A * B, D), of the assignment crops alone.
        """
        if self.queue is not None and self._num_steps >= self.queue_start_step:
            rows = features.detach()
            if of_assignment_crops:
                num_assign = len(self.layout.crops_for_assign)
                rows = rows.reshape(num_assign, -1, rows.shape[-1])
            else:
                rows = self.layout.assignment_rows(rows)
            self.queue.push(rows)
        self._count(self._num_steps + 1)
        self.num_steps.fill_(self._num_steps)

    @property
    def steps_finished(self) -> int:
        """Training steps so far; no wait for the device."""
        return self._num_steps

    def _check_heads(self, scores: Tensor | Sequence[Tensor]) -> None:
        heads = [scores] if isinstance(scores, Tensor) else scores
        if [tuple(S.shape[-1:]) for S in heads] != [(K,) for K in self.num_prototypes]:
            raise ValueError(
                f"scores have shapes {[tuple(S.shape) for S in heads]}; wanted "
                f"(V * B, K) of each head, with K {list(self.num_prototypes)} "
                "(num_prototypes)."
            )

    def _count(self, num_steps: int) -> None:
        # Mirrors of the buffer, so that no step waits for the device; and of what
        # follows from it, so that a compiled step reads no number that changes.
        self._num_steps = num_steps
        self._codes_are_hard = self.hard_codes or num_steps < self.hard_codes_steps

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)  # pyright: ignore
        self._count(int(self.num_steps))
