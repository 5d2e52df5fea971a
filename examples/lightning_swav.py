"""SwAV in PyTorch Lightning, on one process or several, with a queue for each.

    python examples/lightning_swav.py --data FOLDER --devices 2

Under DDP the queue is no submodule, and the checkpoint holds the queue of every rank.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import parts
import pytorch_lightning as pl
import torch
from command_line import Parser, number
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from vissl_swav import SwAV, collective


class LightningSwAV(pl.LightningModule):
    """Net and loss; the trainer brings loop, devices and checkpoints."""

    def __init__(self, options: argparse.Namespace, settings: dict[str, Any]):
        super().__init__()
        self.options, self.settings = options, settings
        self.net = parts.Net(*parts.make_trunk(options.trunk), options.prototypes)
        # In a list, so that it is no submodule: DDP copies the buffers of submodules
        # from rank 0 to all, and each rank must keep the queue of its own images.
        self.outside_ddp: list[SwAV] = []

    def setup(self, stage: str) -> None:
        """The number of processes is known now; a checkpoint is loaded after this."""
        swav = SwAV(
            num_crops=sum(self.options.counts),
            num_prototypes=[self.options.prototypes],
            embedding_dim=self.net.dim,
            queue_length=self.options.queue // self.trainer.world_size,
        )
        self.outside_ddp[:] = [swav.to(self.trainer.strategy.root_device)]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a step; its features go into the queue."""
        (swav,) = self.outside_ddp
        features, scores = self.net(batch[0])
        queue = swav.score_queue(list(self.net.prototypes.parameters()))
        loss = swav(scores, queue_scores=queue, collective=collective())
        swav.finish_step(features)
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """The paper freezes the prototypes for an epoch."""
        if self.current_epoch == 0:
            self.net.prototypes.zero_grad()

    def on_train_batch_end(self, *_: Any) -> None:
        """Prototypes have unit length before each forward pass."""
        self.net.prototypes.normalize_()

    def on_train_epoch_end(self) -> None:
        """`loss` is the mean over the processes: `sync_dist`."""
        loss = self.trainer.callback_metrics["loss"]
        parts.print_loss(self.current_epoch, loss, self.options)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Called on every rank: (world_size, ...) of each buffer."""
        mine, gather = self.outside_ddp[0].state_dict(), collective().all_gather
        checkpoint["swav"] = {name: gather(of) for name, of in mine.items()}
        checkpoint["settings"] = self.settings

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Each rank takes its own."""
        mine = {name: of[self.global_rank] for name, of in checkpoint["swav"].items()}
        self.outside_ddp[0].load_state_dict(mine)

    def configure_optimizers(self) -> Any:
        """AdamW, cosine by the step."""
        optimizer = torch.optim.AdamW(self.net.parameters(), self.options.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return [optimizer], [{"scheduler": cosine, "interval": "step"}]


def main(arguments: Sequence[str] | None = None) -> float | None:
    """Trains; returns the k-NN accuracy in %, where there are test images."""
    parser = Parser(__doc__, out="runs/lightning.ckpt")
    parser.add_argument("--devices", type=number(int, 1), default=1, help="processes")
    options = parser.read(arguments)
    pl.seed_everything(options.seed, workers=True, verbose=False)
    folders = parts.find_folders(options)
    images = parts.open_images(folders[0], parts.multi_crop(options))
    parts.require_batch(images, options, options.devices)
    # Lightning puts a DistributedSampler in where there are several processes.
    loading = {"num_workers": options.workers, "drop_last": True}
    loader = DataLoader(images, options.batch, shuffle=True, **loading)
    resumed = parts.load(options, loader)  # Ends where the settings are others.
    out = Path(options.out).absolute()  # Lightning reads more into some bare names.
    keep: Any = ModelCheckpoint(out.parent, out.stem, enable_version_counter=False)
    keep.FILE_EXTENSION = out.suffix
    trainer = pl.Trainer(
        max_epochs=options.epochs,
        devices=options.devices,
        strategy="ddp" if options.devices > 1 else "auto",  # gloo on the CPU.
        callbacks=[keep],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = LightningSwAV(options, parts.settings_of(options, loader))
    trainer.fit(module, loader, ckpt_path=out if resumed else None)
    return parts.knn_accuracy(module.net.trunk, folders, max(options.sizes))


if __name__ == "__main__":
    main()
