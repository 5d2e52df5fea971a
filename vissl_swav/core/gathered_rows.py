"""Rows of all processes in one tensor, also where they have different numbers of them.

`N` rows over all processes, process by process in rank order.
"""

import torch
from torch import Tensor

from vissl_swav.core.collective import Collective


class GatheredRows:
    """How many rows each process has.

    Args:
        lengths: by rank.
        collective: the processes.

    Attributes:
        own: where this process's rows stand among all.
        total: N.
    """

    def __init__(self, lengths: list[int], collective: Collective):
        self._lengths, self._collective = lengths, collective
        first = sum(lengths[: collective.rank])
        self.own = slice(first, first + lengths[collective.rank])
        self.total = sum(lengths)

    @classmethod
    def of(
        cls, length: int, device: torch.device, collective: Collective
    ) -> "GatheredRows":
        """Asks the others how many rows they have; on a device that is a wait.

        Args:
            length: rows of this process.
            device: where the collective exchanges tensors.
            collective: the processes.
        """
        if collective.world_size == 1:
            return cls([length], collective)
        lengths = collective.all_gather(torch.tensor([length], device=device))
        return cls(lengths.flatten().tolist(), collective)  # pyright: ignore

    def rows(self, own: Tensor) -> Tensor:
        """`length` rows (length, ...) of this process -> all (N, ...).

        Padded to one length, gathered, cut.
        """
        longest = max(self._lengths)
        if len(own) < longest:
            own = torch.cat([own, own.new_zeros(longest - len(own), *own.shape[1:])])
        gathered = self._collective.all_gather(own)
        if min(self._lengths) == longest:
            return gathered.flatten(0, 1)
        parts = zip(gathered, self._lengths, strict=True)
        return torch.cat([part[:length] for part, length in parts])
