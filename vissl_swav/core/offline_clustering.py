"""What DeepCluster-v2 and SeLa-v2 share: a bank, labels of all images, the loss.

Both alternate (SwAV, appendix D): before an epoch every image gets a label from the
features that the epoch before has left in the bank; during the epoch the network
predicts the labels from all crops. How the labels are found is the method.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vissl_swav.core.cluster_prediction import cluster_prediction_loss
from vissl_swav.core.collective import LOCAL, Collective
from vissl_swav.core.crops import CROPS_FOR_ASSIGN, CropLayout
from vissl_swav.core.memory_bank import MemoryBank
from vissl_swav.core.precision import exact, stored_dtype
from vissl_swav.core.pseudo_labels import PseudoLabels
from vissl_swav.core.setting_checks import (
    check_num_prototypes,
    check_positive,
    check_whole,
)
from vissl_swav.core.swapped_prediction import TEMPERATURE

_NEVER = -1


@dataclass(frozen=True)
class Assignment:
    """What an assignment phase found, head by head; the same on every process.

    Attributes:
        prototypes: (K, D) unit rows that the labels belong to.
        cluster_sizes: (K,) int64, images of each label.
        objective: mean over images of - <z, c_label> (eq. 11); lower is tighter.
        num_iterations: of k-means or Sinkhorn.
        error: largest relative error of a prototype's share of the images, where the
            method balances them; else None.
    """

    prototypes: list[Tensor]
    cluster_sizes: list[Tensor]
    objective: list[float]
    num_iterations: int
    error: float | None = None


class OfflineClustering(nn.Module, ABC):
    """The cycle; `DeepClusterV2` and `SeLaV2` say how labels are found.

    Once: fill the bank by `remember`, over all images. Before an epoch:
    `start_epoch(prototypes, ...)`. A training step: `loss = method(scores, images)`,
    then `remember(Z, images)`. All state is in buffers; do not place it inside a module
    that DDP wraps.

    Args:
        num_images: N, images of the data set.
        num_crops: V, 1 or more.
        num_prototypes: K of each head.
        embedding_dim: D.
        crops_for_assign: crops whose features are kept, a bank each; head j is
            assigned by bank j mod M. The first two by default, or the only one.
        temperature: tau.
        bank_dtype: "float32", "float16" or "bfloat16".
        num_labels: labels kept of an image.
    """

    assigned_epoch: Tensor
    started_epoch: Tensor

    def __init__(
        self,
        *,
        num_images: int,
        num_crops: int,
        num_prototypes: Sequence[int],
        embedding_dim: int,
        crops_for_assign: Sequence[int] | None = None,
        temperature: float = TEMPERATURE,
        bank_dtype: str = "float32",
        num_labels: int = 1,
    ):
        super().__init__()
        if crops_for_assign is None:
            crops_for_assign = CROPS_FOR_ASSIGN[:num_crops]
        self.layout = CropLayout(num_crops, crops_for_assign)
        self.num_prototypes = check_num_prototypes(num_prototypes)
        check_positive("temperature", temperature, paper=TEMPERATURE)
        check_whole("embedding_dim", embedding_dim, least=1)
        self.temperature = temperature
        self.bank = MemoryBank(
            num_images=num_images,
            num_banks=len(self.layout.crops_for_assign),
            dim=embedding_dim,
            dtype=stored_dtype("bank_dtype", bank_dtype),
        )
        self.labels = PseudoLabels(
            num_heads=len(self.num_prototypes),
            num_images=num_images,
            num_labels=num_labels,
        )
        never = torch.full((), _NEVER, dtype=torch.long)
        self.register_buffer("assigned_epoch", never)
        self.register_buffer("started_epoch", never.clone())

    def forward(
        self,
        scores: Sequence[Tensor],
        images: Tensor,
        valid: Tensor | None = None,
        *,
        collective: Collective = LOCAL,
    ) -> Tensor:
        """The loss of this step, a scalar.

        Args:
            scores: S (V * B, K) of each head, crop-major.
            images: (B,) int64, the image of each sample.
            valid: (B,) bool; a sample that is not counts as one without a label.
            collective: the processes that share the batch.
        """
        labels, weights = self.labels.of(images)
        if valid is not None:
            weights = weights * valid.to(weights).unsqueeze(1)
        return cluster_prediction_loss(
            scores,
            labels,
            weights,
            num_crops=self.layout.num_crops,
            temperature=self.temperature,
            collective=collective,
        )

    def remember(
        self, features: Tensor, images: Tensor, valid: Tensor | None = None
    ) -> None:
        """Stores the features Z (V * B, D) of images (B,) of a training step."""
        rows = self.layout.assignment_rows(features.detach())
        self.remember_rows(rows, images, valid)

    def remember_rows(
        self, rows: Tensor, images: Tensor, valid: Tensor | None = None
    ) -> None:
        """Stores features (M, B, D) of the bank crops alone, at unit length.

        Half precision and autocast leave lengths that are off by half a percent.
        """
        self.bank.write(nn.functional.normalize(exact(rows), dim=2), images, valid)

    def start_epoch(
        self,
        prototypes: Sequence[Tensor],
        *,
        epoch: int,
        every: int = 1,
        seed: int = 0,
        collective: Collective = LOCAL,
    ) -> Assignment | None:
        """Settles the bank; assigns in every `every`-th epoch, and if never before.

        An epoch that has been started before (a run resumed in the middle of it) goes
        on as it was.

        Args:
            prototypes: (K, D) of each head, as they are; see `assign`.
            epoch: the epoch about to begin.
            every: epochs from one assignment to the next.
            seed: see `assign`.
            collective: see `assign`.

        Returns:
            What was found, or None where nothing was assigned.

        Raises:
            ValueError: `every` is below 1, or what the method's assignment refuses.
        """
        if every < 1:
            raise ValueError(f"every is {every}; wanted a number of epochs >= 1.")
        if int(self.started_epoch) == epoch:
            return None
        self.started_epoch.fill_(epoch)
        if epoch % every and int(self.assigned_epoch) != _NEVER:
            self.bank.settle(collective)
            return None
        return self.assign(prototypes, epoch=epoch, seed=seed, collective=collective)

    def assign(
        self,
        prototypes: Sequence[Tensor],
        *,
        epoch: int,
        seed: int = 0,
        collective: Collective = LOCAL,
    ) -> Assignment:
        """Settles the bank and gives every image in it a label for `epoch`.

        Args:
            prototypes: (K, D) of each head, as they are.
            epoch: the epoch about to begin; `assigned_epoch` from then on.
            seed: of the method's draws, with `epoch`; the same on every process.
            collective: the processes that share the bank.

        Returns:
            What was found; its prototypes are those to train with.
        """
        self.bank.settle(collective)
        labels, weights, found = self._assign(
            prototypes, seed=seed * 1_000_003 + epoch, collective=collective
        )
        self.labels.publish(self.bank.images(), labels, weights, collective=collective)
        self.assigned_epoch.fill_(epoch)
        return found

    def features_of_heads(self) -> list[Tensor]:
        """The bank's rows (n, D) that each head is assigned by."""
        num_heads, num_banks = len(self.num_prototypes), self.bank.num_banks
        return [self.bank.rows(head % num_banks) for head in range(num_heads)]

    @abstractmethod
    def _assign(
        self, prototypes: Sequence[Tensor], *, seed: int, collective: Collective
    ) -> tuple[Tensor, Tensor | None, Assignment]:
        """Labels (H, n, L) and weights of this process's rows, and what was found."""
