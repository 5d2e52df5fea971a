"""SwAV learns the embedded set's classes: at least 10 points over a random trunk.

A plain loop without the host: ``MultiCrop``, the core's loss, Adam; the recipe of the
quickstart at fewer epochs.
"""

import math

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from vissl_swav.core.swapped_prediction import swapped_prediction_loss
from vissl_swav.data import EMBEDDED_CLASSES, draw
from vissl_swav.transforms import MultiCrop

NUM_TRAIN, NUM_TEST, BATCH, EPOCHS = 4000, 1000, 64, 4
LEARNING_RATE = 1e-3


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, wide_in, wide_out, stride):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(wide_in, wide_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(wide_out),
            nn.ReLU(),
            nn.Conv2d(wide_out, wide_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(wide_out),
        )
        self.shortcut = nn.Sequential()
        if (wide_in, stride) != (wide_out, 1):
            conv = nn.Conv2d(wide_in, wide_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(wide_out))

    def forward(self, images):
        return functional.relu(self.main(images) + self.shortcut(images))


def small_trunk():
    """ResNet-18's plan, width 16, 3x3 stem, no pooling: 128 features."""
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    wide_in = 16
    for wide_out, stride in ((16, 1), (32, 2), (64, 2), (128, 2)):
        layers += [Block(wide_in, wide_out, stride), Block(wide_out, wide_out, 1)]
        wide_in = wide_out
    trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return trunk.to(memory_format=torch.channels_last)


def drawn(split, count):
    pairs = [draw(split, index) for index in range(count)]
    images = [Image.fromarray(levels) for levels, _ in pairs]
    return images, torch.tensor([label for _, label in pairs])


@torch.no_grad()
def features(trunk, images):
    trunk.eval()
    whole = MultiCrop(
        size_crops=[images[0].width],
        num_crops=[1],
        crop_scales=[(1.0, 1.0)],
        crop_ratios=(1.0, 1.0),
        flip_probability=0.0,
        jitter_probability=0.0,
        grayscale_probability=0.0,
        blur_probability=0.0,
    )
    batches = [
        torch.stack([whole(image)[0] for image in images[start : start + 250]])
        for start in range(0, len(images), 250)
    ]
    rows = torch.cat([trunk(batch) for batch in batches])
    trunk.train()
    return functional.normalize(rows, dim=1)


def neighbours_accuracy(trunk, train, test, *, k=20):
    known, asked = features(trunk, train[0]), features(trunk, test[0])
    similarity, nearest = (asked @ known.T).topk(k, dim=1)
    votes = torch.zeros(len(asked), len(EMBEDDED_CLASSES))
    votes.scatter_add_(1, train[1][nearest], (similarity / 0.07).exp())
    return 100 * (votes.argmax(dim=1) == test[1]).float().mean().item()


def pretrain(trunk, images):
    """Fixed random prototypes, as the quickstart."""
    crop = MultiCrop(
        size_crops=[32],
        num_crops=[2],
        crop_scales=[(0.3, 1.0)],
        jitter_probability=0.0,
        grayscale_probability=0.0,
        blur_probability=0.0,
    )
    head = nn.Sequential(
        nn.Linear(128, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 16)
    )
    prototypes = functional.normalize(torch.randn(100, 16), dim=1)
    weights = [*trunk.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(weights, weight_decay=1e-6)
    per_epoch = len(images) // BATCH
    for step in range(EPOCHS * per_epoch):
        if step % per_epoch == 0:
            order = torch.randperm(len(images)).tolist()
        start = step % per_epoch * BATCH
        views = [crop(images[index]) for index in order[start : start + BATCH]]
        batch = torch.cat([torch.stack(view) for view in zip(*views, strict=True)])
        batch = batch.contiguous(memory_format=torch.channels_last)
        scores = functional.normalize(head(trunk(batch)), dim=1) @ prototypes.T
        loss = swapped_prediction_loss(scores, num_crops=2)
        cosine = (1 + math.cos(math.pi * step / (EPOCHS * per_epoch))) / 2
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * cosine
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_swav_beats_a_random_trunk_by_ten_points(seed):
    torch.manual_seed(seed)
    train, test = drawn("train", NUM_TRAIN), drawn("test", NUM_TEST)
    trunk = small_trunk()
    before = neighbours_accuracy(trunk, train, test)
    pretrain(trunk, train[0])
    after = neighbours_accuracy(trunk, train, test)
    assert after >= before + 10, f"random trunk {before:.1f}, SwAV {after:.1f}"
