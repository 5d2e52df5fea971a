"""The plan of a run: what its settings amount to, by arithmetic alone.

Legend: `B` samples of a global batch, `N` samples of the Sinkhorn problem (batch of all
ranks and queue), `K` prototypes, `D` dimension. All times are in epochs, fractions too;
a run of `num_epochs` ends at that number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# SGD with LARC (SwAV, appendices A.1 and A.6): 0.6 at 256 images, linear in the batch.
RULE_RATE, RULE_BATCH = 0.6, 256
_RULE_OPTIMIZER = "sgd"
# ImageNet's: the epoch that the paper's settings are counted in.
USUAL_EPOCH = 1_281_167


@dataclass(frozen=True)
class Contrast:
    """What a loss of pairs of images compares, over all processes (SwAV, eq. 7).

    Attributes:
        num_images: B.
        num_crops: V of an image.
        temperature: tau.
        max_similarities: entries of the matrix of cosines that a process holds.
    """

    num_images: int
    num_crops: int
    temperature: float
    max_similarities: int

    @property
    def num_negatives(self) -> int:
        """Of every crop: all crops of the other images."""
        return (self.num_images - 1) * self.num_crops

    @property
    def ceiling(self) -> float:
        """ln(1 + negatives), in nats: equal features, where nothing is learned."""
        return math.log1p(self.num_negatives)

    @property
    def floor(self) -> float:
        """What the loss cannot go below with unit features, in nats.

        Crops of an image are one vector at best, and the images of a batch at best as
        far apart as the corners of a simplex, with cosines of -1 / (B - 1).
        """
        if self.num_images < 2:
            return 0.0
        apart = 1 + 1 / (self.num_images - 1)
        return math.log1p(self.num_negatives * math.exp(-apart / self.temperature))


@dataclass(frozen=True)
class Plan:
    """A run's settings as numbers; what follows from them are its properties.

    Attributes:
        method: name of the loss.
        batch_per_process: images in a step of one process.
        world_size: number of processes.
        num_epochs: length of the run.
        num_images: of the training data; None where it is not known.
        drops_last: whether an incomplete batch is left out.
        num_prototypes: K of every head.
        embedding_dim: D.
        num_crops: crops of an image.
        num_assign_crops: those that get codes.
        crop_sizes: edges in pixels; empty where not known.
        trunk_stride: pixels between the trunk's last features; None where not known.
        optimizer: its name.
        uses_larc: whether LARC scales its steps.
        learning_rate: the highest of the run; None where not known.
        queue_length: rows over all ranks; 0 for none.
        queue_start: epoch at which the queue begins to fill; None where not known.
        freeze: epochs during which prototypes get no gradient, infinite where they are
            never to have one; None where not known.
        soft_codes: whether codes are distributions, which bounds the loss from below.
        keeps_bank: whether labels come from a bank of all images, before an epoch.
        bytes_per_bank_value: of the bank's features.
        contrast: what a loss without prototypes compares; None with prototypes.
        bytes_per_queue_value: of the queue's features.
    """

    method: str
    batch_per_process: int
    world_size: int
    num_epochs: int
    num_prototypes: tuple[int, ...]
    embedding_dim: int
    num_crops: int
    num_assign_crops: int
    num_images: int | None = None
    drops_last: bool = True
    crop_sizes: tuple[int, ...] = ()
    trunk_stride: int | None = None
    optimizer: str = _RULE_OPTIMIZER
    uses_larc: bool = True
    learning_rate: float | None = None
    queue_length: int = 0
    queue_start: float | None = 0.0
    freeze: float | None = 0.0
    soft_codes: bool = True
    keeps_bank: bool = False
    bytes_per_bank_value: int = 4
    contrast: Contrast | None = None
    bytes_per_queue_value: int = 4

    @property
    def batch(self) -> int:
        """B, images in a step of all processes."""
        return self.batch_per_process * self.world_size

    @property
    def steps_per_epoch(self) -> int | None:
        """Training steps of an epoch; 0 where the images do not fill one batch."""
        if self.num_images is None:
            return None
        return steps_per_epoch(
            self.num_images,
            batch_per_process=self.batch_per_process,
            world_size=self.world_size,
            drops_last=self.drops_last,
        )

    @property
    def num_steps(self) -> int | None:
        """Training steps of the run."""
        steps = self.steps_per_epoch
        return None if steps is None else steps * self.num_epochs

    @property
    def most_prototypes(self) -> int:
        """K of the largest head; 0 without prototypes."""
        return max(self.num_prototypes, default=0)

    @property
    def num_samples(self) -> int | None:
        """N, with a full queue; all images where labels come from a bank."""
        return self.num_images if self.keeps_bank else self.batch + self.queue_length

    @property
    def queue_fill(self) -> float | None:
        """Epochs from the queue's start until it is full, and so in use."""
        steps = self.steps_per_epoch
        return self.queue_length / self.batch / steps if steps else None

    @property
    def ceiling(self) -> float:
        """The loss where nothing is learned, in nats; see `loss_ceiling`."""
        if self.contrast is not None:
            return self.contrast.ceiling
        return loss_ceiling(self.num_prototypes)

    def floor(self, num_samples: int) -> float:
        """What the loss cannot go below with N samples, in nats; see `loss_floor`."""
        if self.contrast is not None:
            return self.contrast.floor
        if not self.soft_codes or self.keeps_bank:
            return 0.0
        return loss_floor(self.num_prototypes, num_samples)

    @property
    def rule_applies(self) -> bool:
        """Whether the linear rule is for this optimizer."""
        return self.optimizer == _RULE_OPTIMIZER and self.uses_larc

    @property
    def rule_rate(self) -> float:
        """Learning rate by the linear rule."""
        return RULE_RATE * self.batch / RULE_BATCH


def steps_per_epoch(
    num_images: int, *, batch_per_process: int, world_size: int, drops_last: bool
) -> int:
    """Training steps of an epoch: each process has its share, in batches."""
    if drops_last:
        return num_images // world_size // batch_per_process
    share = -(-num_images // world_size)
    return -(-share // batch_per_process)


def usual_epoch_steps(batch: int) -> int:
    """Steps of ImageNet's epoch, with the last, incomplete one."""
    return -(-USUAL_EPOCH // batch)


def loss_ceiling(num_prototypes: Sequence[int]) -> float:
    """Ln K, where every prediction is uniform; in nats. The mean over heads."""
    return sum(map(math.log, num_prototypes)) / len(num_prototypes)


def loss_floor(num_prototypes: Sequence[int], num_samples: int) -> float:
    """ln(K / N) for N samples with soft codes over more prototypes, else 0; in nats.

    Equal shares leave each of K prototypes N / K of a sample, so that a code has a mean
    entropy of ln(K / N) at least, which no prediction undercuts. The mean over heads.
    """
    floors = [max(0.0, math.log(K / num_samples)) for K in num_prototypes]
    return sum(floors) / len(floors)
