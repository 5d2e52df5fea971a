"""DeepCluster-v2, which lightly does not have, on lightly's data set and head.

    python examples/lightly_deepcluster_v2.py --data FOLDER
    torchrun --nproc-per-node=4 examples/lightly_deepcluster_v2.py --data FOLDER

FOLDER holds train/<class>/ and, for a k-NN figure, test/<class>/. `DeepClusterV2` is a
`MemoryBank` of the features of all images, `spherical_kmeans` over it before each
epoch, and `cluster_prediction_loss` in each step. The centroids are the prototypes;
they are not trained.
"""

import sys
from collections.abc import Sequence
from typing import Any

import parts
import torch
from command_line import Parser, number
from lightly.models.modules import SwaVProjectionHead
from lightly_swav import lightly_crops
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import Dataset

from vissl_swav import DeepClusterV2, collective

DIM = 64


class Numbered(Dataset[Any]):
    """Crops and the image's number, by which the bank knows it."""

    def __init__(self, images: Any):
        self.images = images

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[list[Tensor], int]:
        """Crops (3, S, S) and the number."""
        return self.images[index][0], index


class Encoder(nn.Module):
    """Trunk and lightly's head; without prototypes."""

    def __init__(self, trunk: nn.Module, width: int):
        super().__init__()
        self.trunk = trunk
        self.head = SwaVProjectionHead(width, 2 * width, DIM)

    def forward(self, crops: Sequence[Tensor]) -> Tensor:
        """Unit features Z (V * B, D), all of crop 0 first."""
        return parts.unit_features(self.trunk, self.head, crops)


def main(arguments: Sequence[str] | None = None) -> float | None:
    """Trains; returns the k-NN accuracy in %, where there are test images."""
    parser = Parser(__doc__, resumes=False, out="runs/deepcluster_v2.pt")
    parser.add_argument("--clusterings", type=number(int, 1), default=3)
    options = parser.read(arguments)
    device, processes = parts.start(options.seed), collective()
    folders = parts.find_folders(options)
    crops_of = lightly_crops(options)
    images = parts.open_images(folders[0], crops_of)
    loader = parts.make_loader(Numbered(images), options)
    seen = min(len(images), len(loader) * options.batch * processes.world_size)
    if seen < options.prototypes:
        sys.exit(
            f"--prototypes {options.prototypes} is more than {seen}, the images seen."
        )

    net = Encoder(*parts.make_trunk(options.trunk)).to(device)
    model = DistributedDataParallel(net) if processes.world_size > 1 else net
    # Beside DDP, not below it: every rank has the bank of the images that it saw.
    method = DeepClusterV2(
        num_images=len(images),
        num_crops=sum(options.counts),
        num_prototypes=[options.prototypes] * options.clusterings,
        embedding_dim=DIM,
    ).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), options.lr)
    schedule = CosineAnnealingLR(optimizer, options.epochs * len(loader))
    # The first labels need features. Images beyond the last whole batch have none yet:
    # their label is -1, and the loss passes them over. BatchNorm in training mode: an
    # untrained net in eval mode maps all images to nearly one vector.
    with torch.no_grad():
        for crops, numbers in loader:
            found = model([crop.to(device) for crop in crops])
            method.remember(found, numbers.to(device))

    for epoch in range(options.epochs):
        clusters = method.assign(
            (), epoch=epoch, seed=options.seed, collective=processes
        )
        parts.seed_epoch(loader, options.seed, epoch)
        total = torch.zeros((), device=device)
        for crops, numbers in loader:
            numbers = numbers.to(device)
            features = model([crop.to(device) for crop in crops])
            scores = [features @ C.t() for C in clusters.prototypes]
            loss = method(scores, numbers, collective=processes)
            method.remember(features, numbers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() / len(loader)
        parts.print_loss(epoch, total, options)
        state = {"net": net.state_dict(), "prototypes": clusters.prototypes}
        # The cluster of each image, by clustering; -1 until an epoch has seen it.
        parts.save({**state, "labels": method.labels.labels}, options, loader)
    return parts.knn_accuracy(net.trunk, folders, max(options.sizes))


if __name__ == "__main__":
    main()
