"""SwAV on a folder of images: a plain PyTorch loop, on one process or several.

    python examples/plain_pytorch.py --data FOLDER
    torchrun --nproc-per-node=4 examples/plain_pytorch.py --data FOLDER

FOLDER holds train/<class>/ and, for a k-NN figure, test/<class>/. For photographs:
--trunk resnet50 --sizes 224 96 --counts 2 6 --cut 0.14 --strength 1 --prototypes 3000
"""

import argparse
from collections.abc import Sequence
from typing import Any

import parts
import torch
from command_line import Parser
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import CosineAnnealingLR

from vissl_swav import SwAV, collective


def train(options: argparse.Namespace, net: parts.Net, loader: Any) -> None:
    """Trains on batches (crops, ...), writes a checkpoint after each epoch."""
    processes, device = collective(), next(net.parameters()).device
    world, rank = processes.world_size, processes.rank
    model = DistributedDataParallel(net) if world > 1 else net
    # Not below DDP, which copies rank 0's buffers to all: each rank has its own queue.
    swav = SwAV(
        num_crops=sum(options.counts),
        num_prototypes=[options.prototypes],
        embedding_dim=net.dim,
        queue_length=options.queue // world,
    ).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), options.lr)
    schedule = CosineAnnealingLR(optimizer, options.epochs * len(loader))
    first, state = 0, {"net": net, "optimizer": optimizer, "schedule": schedule}
    saved = parts.load(options, loader)
    if saved:  # By --resume.
        first = saved["epoch"]
        for name, part in state.items():
            part.load_state_dict(saved[name])
        swav.load_state_dict({name: of[rank] for name, of in saved["swav"].items()})
    for epoch in range(first, options.epochs):
        parts.seed_epoch(loader, options.seed, epoch)
        total = torch.zeros((), device=device)
        for crops, *_ in loader:
            features, scores = model([crop.to(device) for crop in crops])
            queue = swav.score_queue(list(net.prototypes.parameters()))
            loss = swav(scores, queue_scores=queue, collective=processes)
            swav.finish_step(features)
            optimizer.zero_grad()
            loss.backward()
            if epoch == 0:  # The paper freezes the prototypes for an epoch.
                net.prototypes.zero_grad()
            optimizer.step()
            schedule.step()
            net.prototypes.normalize_()
            total += loss.detach() / len(loader)
        parts.print_loss(epoch, total, options)
        mine = swav.state_dict().items()
        queues = {name: processes.all_gather(of) for name, of in mine}
        saved = {name: part.state_dict() for name, part in state.items()}
        parts.save({**saved, "swav": queues, "epoch": epoch + 1}, options, loader)


def main(arguments: Sequence[str] | None = None) -> float | None:
    """Returns the k-NN accuracy in %, where there are test images."""
    options = Parser(__doc__, out="runs/plain.pt").read(arguments)
    device = parts.start(options.seed)
    folders = parts.find_folders(options)
    images = parts.open_images(folders[0], parts.multi_crop(options))
    net = parts.Net(*parts.make_trunk(options.trunk), options.prototypes).to(device)
    train(options, net, parts.make_loader(images, options))
    return parts.knn_accuracy(net.trunk, folders, max(options.sizes))


if __name__ == "__main__":
    main()
