"""A loss some of whose state differs from rank to rank.

The host saves the loss of rank 0 and hands it to every rank
(`hooks/log_hooks.py`, `trainer/train_task.py`). So before a checkpoint every rank's
shard is collected, and each takes its own when the state is loaded.
"""

import logging
from abc import abstractmethod
from typing import Any

from classy_vision.losses import ClassyLoss
from torch import nn

from vissl_swav.backends.torch_collective import collective
from vissl_swav.core.resharding import State, shards_of_all

OTHER_RANKS = "other_ranks"


class RankedLoss(ClassyLoss):
    """Base of our losses; `sharded` names the module that differs by rank."""

    def __init__(self) -> None:
        super().__init__()
        self._other_ranks: list[State] = []
        self.register_load_state_dict_pre_hook(_take_own_shard)

    @property
    @abstractmethod
    def sharded(self) -> tuple[str, nn.Module | None]:
        """Dotted name, and the module; None where this run has none."""

    @abstractmethod
    def own_shard(self) -> State:
        """This rank's state, as the others' checkpoint needs it."""

    @abstractmethod
    def shard_for(self, shards: list[State], rank: int, world: int) -> State | None:
        """This rank's state out of those saved; None if they do not fit this run."""

    def gather_shards(self) -> None:
        """Collects all ranks' shards for the state dict; every rank must call it."""
        self.forget_shards()
        module, ranks = self.sharded[1], collective()
        if module is None or ranks.world_size == 1:
            return
        found = shards_of_all(self.own_shard(), ranks, keep=ranks.rank == 0)
        self._other_ranks = found[1:]

    def forget_shards(self) -> None:
        """Gives up the other ranks' shards: they are those of a step gone by."""
        self._other_ranks = []

    def get_extra_state(self) -> dict[str, list[State]]:
        """The shards of ranks 1, 2, ...; rank 0's stands with the other buffers."""
        return {OTHER_RANKS: self._other_ranks} if self._other_ranks else {}

    def set_extra_state(self, state: dict[str, list[State]]) -> None:
        """Nothing: `_take_own_shard` has put this rank's shard in place."""


def _take_own_shard(
    loss: RankedLoss, state: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Replaces rank 0's shard in a loaded state by this rank's own."""
    path, module = loss.sharded
    name, ranks = f"{prefix}{path}.", collective()
    saved = {k.removeprefix(name): v for k, v in state.items() if k.startswith(name)}
    for key in saved:
        del state[name + key]
    others = (state.get(f"{prefix}_extra_state") or {}).get(OTHER_RANKS, [])
    shards: list[State] = [saved, *others] if saved else []
    told = logging.warning if ranks.rank == 0 else logging.debug
    if module is None:
        if saved:
            told(f"vissl_swav: the checkpoint's {path} is not used here.")
        return
    mine = loss.shard_for(shards, ranks.rank, ranks.world_size) if shards else None
    if mine is None:
        told(
            f"vissl_swav: the checkpoint's {path} ({_shapes(shards)}) does not fit "
            f"this run ({ranks.world_size} x {_shapes([module.state_dict()])}): it "
            "starts empty."
        )
        mine = module.state_dict()
    elif len(shards) != ranks.world_size:
        told(
            f"vissl_swav: {path} of {len(shards)} ranks was dealt out to "
            f"{ranks.world_size}: nothing is lost, but the run differs from one "
            "without interruption."
        )
    for key, value in mine.items():
        state[name + key] = value


def _shapes(shards: list[State]) -> str:
    if not shards:
        return "none"
    features = [tuple(shard["features"].shape) for shard in shards]
    return f"features {', '.join(map(str, features))}"
