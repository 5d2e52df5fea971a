"""The first pass over the images, which fills the memory bank.

BatchNorm works in train mode, as in the authors' code: in eval mode an untrained net
maps all images to nearly one vector. Its running statistics are put back afterwards.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from classy_vision.generic.distributed_util import is_primary
from rich.console import Console
from rich.progress import track
from torch import nn

from vissl_swav.host.task_view import TaskView


@torch.no_grad()
def fill(view: TaskView) -> None:
    """Stores a feature of every image that the train loader gives, without a gradient.

    Every rank calls it. Images that an incomplete last batch would hold and the loader
    drops have no label in the first epoch.
    """
    method = view.loss.method
    crops = method.layout.crops_for_assign
    loader = view.train_loader
    logging.info(f"Filling the memory bank: {len(loader)} batches a rank")
    batches = track(
        loader,
        description="filling the memory bank",
        total=len(loader),
        console=Console(stderr=True),
        disable=not is_primary(),
    )
    with batch_statistics(view.model), view.autocast():
        for batch in batches:
            batch = view.with_crops(batch)
            images, valid = view.images_of(batch, method.layout.num_crops)
            inputs = [view.on_device(batch["data"][0][crop]) for crop in crops]
            embeddings = view.model(inputs)[0][0]
            features = embeddings.view(len(crops), images.numel(), -1)
            method.remember_rows(features, images, valid)
    # Workers that live on serve one pass at a time: the host's iterator, which this
    # pass has ended, is made anew.
    view.restart_train_data()


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Train mode, and every buffer of a norm layer as it was afterwards."""
    was_training = model.training
    norms = [
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)
    ]
    before = [{k: v.clone() for k, v in m.named_buffers()} for m in norms]
    model.train()
    try:
        yield
    finally:
        for norm, buffers in zip(norms, before, strict=True):
            for name, value in norm.named_buffers():
                value.copy_(buffers[name])
        model.train(was_training)
