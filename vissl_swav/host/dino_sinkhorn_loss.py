"""Loss `dino_sinkhorn`: DINO whose teacher is balanced in place of centred.

The host's hook makes the teacher, a momentum encoder, runs it on the large crops and
sets its temperature; the student's and the teacher's scores meet here. DINO takes
softmax((t - c) / tau_t) of the teacher's scores t, with c their running mean. SwAV's
answer to the same danger, that all images choose one prototype, is the equal partition
(thesis, chapter 5, "Relation to SwAV"): Sinkhorn with tau_t as its epsilon, over the
batch of all ranks, each teacher crop by itself. The rest of the loss is the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from classy_vision.losses import register_loss
from torch import Tensor, nn

from vissl_swav.backends.torch_collective import collective
from vissl_swav.core.resharding import State
from vissl_swav.core.swapped_prediction import swapped_prediction_loss
from vissl_swav.host import settings
from vissl_swav.host.ranked_loss import RankedLoss


@register_loss(settings.DINO_SINKHORN)
class DINOSinkhorn(RankedLoss):
    """Takes the output of `swav_head`, of which the last entry is the scores.

    `momentum_teacher`, `checkpoint`, `teacher_output`, `teacher_temp` and `loss_config`
    are the names by which the host's `DINOHook` reads and sets them. The teacher is
    state of this loss, the same on every rank.
    """

    def __init__(self, config: Any):
        super().__init__()
        self.loss_config = config
        self.momentum_teacher: nn.Module | None = None
        self.checkpoint: State | None = None
        self.teacher_output: Tensor | None = None
        self.teacher_temp: float | None = None

    @classmethod
    def from_config(cls, config: Any) -> "DINOSinkhorn":
        """From an inferred `LOSS.dino_sinkhorn`."""
        return cls(config)

    def forward(self, output: Sequence[Tensor], target: Tensor) -> Tensor:
        """Mean over teacher crops and the student's other crops of H(Q_t, P_s)."""
        if self.teacher_output is None or self.teacher_temp is None:
            raise RuntimeError(
                "the loss was not given a teacher's output; a run through VISSL's "
                "trainer has VISSL's DINOHook do it."
            )
        config = self.loss_config
        return swapped_prediction_loss(
            output[-1],
            num_crops=config["num_crops"],
            crops_for_assign=config["crops_for_teacher"],
            temperature=config["student_temp"],
            epsilon=self.teacher_temp,
            num_iterations=config["num_iterations"],
            code_scores=self.teacher_output,
            collective=collective(),
        )

    def load_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """The hook makes the teacher in the first step, and asks for the state then."""
        if self.momentum_teacher is None:
            self.checkpoint = dict(state_dict) or None
            return None
        self.checkpoint = None
        return super().load_state_dict(state_dict, *args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Before the first step the state that was loaded: it waits for its teacher.

        A run that resumes with an epoch's last step done writes a checkpoint then.
        """
        if self.momentum_teacher is None and self.checkpoint is not None:
            return dict(self.checkpoint)
        return super().state_dict(*args, **kwargs)

    @property
    def sharded(self) -> tuple[str, nn.Module | None]:
        """Nothing differs from rank to rank."""
        return "shard", None

    def own_shard(self) -> State:
        """Empty."""
        return {}

    def shard_for(self, shards: list[State], rank: int, world: int) -> State | None:
        """None: there are no shards."""
        return None
