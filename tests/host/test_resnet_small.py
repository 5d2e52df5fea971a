"""The trunk for small images, on images that are not so small."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from types import SimpleNamespace as Settings
import torch
from vissl_swav.host import registration
registration.arm()
import vissl.models.trunks
from vissl_swav.host.resnet_small import ResNetSmall

width, size = map(int, sys.argv[1:])
torch.set_num_threads(1)
config = Settings(
    TRUNK={"RESNET_SMALL": {"DEPTH": 18, "WIDTH": width}},
    INPUT_TYPE="rgb",
    ACTIVATION_CHECKPOINTING=Settings(
        USE_ACTIVATION_CHECKPOINTING=False, NUM_ACTIVATION_CHECKPOINTING_SPLITS=1
    ),
)
config.TRUNK = Settings(get=config.TRUNK.get)
trunk = ResNetSmall(config, "resnet_small")
(features,) = trunk(torch.rand(4, 3, size, size))
features.square().mean().backward()
assert features.shape == (4, 8 * width)
gradients = [p.grad for p in trunk.parameters() if p.grad is not None]
assert len(gradients) > 50 and all(g.isfinite().all() for g in gradients)
"""


@pytest.mark.parametrize(("width", "size"), [(2, 64), (4, 64), (12, 96), (16, 64)])
def test_a_backward_pass_ends(host, width, size):
    """In a process of its own: what this guards against ends the process."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(width), str(size)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
