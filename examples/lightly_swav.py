"""lightly's SwAV with our loss and queue: right on several processes, and saved.

    python examples/lightly_swav.py --data FOLDER
    torchrun --nproc-per-node=4 examples/lightly_swav.py --data FOLDER

FOLDER holds train/<class>/ and, for a k-NN figure, test/<class>/. Data set, transform,
projection head and prototypes are lightly's. Ours: `SwAV`, in place of `SwaVLoss` and
the queues of `MemoryBankModule`.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import parts
import torch
from command_line import Parser
from lightly.data import LightlyDataset
from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes
from lightly.transforms.swav_transform import SwaVTransform
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import CosineAnnealingLR

from vissl_swav import SwAV, collective

DIM = 64


class LightlySwAV(nn.Module):
    """The module of lightly's own example, without queues."""

    def __init__(self, trunk: nn.Module, width: int, num_prototypes: int):
        super().__init__()
        self.trunk = trunk
        self.head = SwaVProjectionHead(width, 2 * width, DIM)
        self.prototypes = SwaVPrototypes(DIM, num_prototypes)
        for layer in self.prototypes.heads:
            # A score is a cosine; lightly's layers have a bias.
            layer.register_parameter("bias", None)
        self.prototypes.normalize()

    def forward(self, crops: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Unit features Z (V * B, D), all of crop 0 first, and scores (V * B, K)."""
        features = parts.unit_features(self.trunk, self.head, crops)
        return features, self.prototypes(features)


def lightly_crops(options: argparse.Namespace) -> SwaVTransform:
    """The multi-crop of lightly, of one size or two."""
    scales: Any = [(options.cut, 1.0), (options.cut / 3, options.cut)]
    least, most = zip(*scales[: len(options.sizes)], strict=True)
    return SwaVTransform(
        crop_sizes=tuple(options.sizes),
        crop_counts=tuple(options.counts),
        crop_min_scales=least,
        crop_max_scales=most,
        cj_prob=0.8 * options.strength,
        random_gray_scale=0.2 * options.strength,
        gaussian_blur=0.5 * options.strength,
    )


def main(arguments: Sequence[str] | None = None) -> float | None:
    """Trains; returns the k-NN accuracy in %, where there are test images."""
    options = Parser(__doc__, resumes=False, out="runs/lightly.pt").read(arguments)
    device, processes = parts.start(options.seed), collective()
    world = processes.world_size
    folders = parts.find_folders(options)
    crops_of = lightly_crops(options)
    images = parts.open_images(folders[0], crops_of)
    images = LightlyDataset.from_torch_dataset(images)  # crops, label, file name
    loader = parts.make_loader(images, options)

    net = LightlySwAV(*parts.make_trunk(options.trunk), options.prototypes).to(device)
    model = DistributedDataParallel(net) if world > 1 else net
    # lightly's queues are buffers of the module that DDP wraps, so every step they are
    # overwritten by rank 0's. Ours stands beside it and is used once it is full.
    swav = SwAV(
        num_crops=sum(options.counts),
        num_prototypes=[options.prototypes],
        embedding_dim=DIM,
        queue_length=options.queue // world,
    ).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), options.lr)
    schedule = CosineAnnealingLR(optimizer, options.epochs * len(loader))
    for epoch in range(options.epochs):
        parts.seed_epoch(loader, options.seed, epoch)
        total = torch.zeros((), device=device)
        for crops, _, _ in loader:
            features, scores = model([crop.to(device) for crop in crops])
            queue = swav.score_queue(list(net.prototypes.parameters()))
            loss = swav([scores], queue_scores=queue, collective=processes)
            swav.finish_step(features)
            optimizer.zero_grad()
            loss.backward()
            if epoch == 0:  # The paper freezes the prototypes for an epoch.
                net.prototypes.zero_grad()
            optimizer.step()
            schedule.step()
            net.prototypes.normalize()
            total += loss.detach() / len(loader)
        parts.print_loss(epoch, total, options)
        mine = swav.state_dict().items()
        queues = {name: processes.all_gather(of) for name, of in mine}
        parts.save({"net": net.state_dict(), "swav": queues}, options, loader)
    return parts.knn_accuracy(net.trunk, folders, max(options.sizes))


if __name__ == "__main__":
    main()
