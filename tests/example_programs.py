"""What the tests of `examples/` run in spawned processes, as torchrun would."""

import os
import sys
import warnings
from pathlib import Path

import torch

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TOY = ("--batch", "8", "--epochs", "2", "--workers", "0", "--prototypes", "10")
TOY = (*TOY, "--queue", "32")


def on_two_ranks(rank, world_size, data, out):
    """Checkpoints of the examples, and the queue that Lightning gives this rank."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        TORCHELASTIC_RUN_ID="test",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="29500",  # Nobody listens: the group is there already.
    )
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(EXAMPLES))
    import lightly_deepcluster_v2
    import lightly_swav
    import lightning_swav
    import plain_pytorch

    found = {}
    for module in (plain_pytorch, lightly_swav, lightly_deepcluster_v2):
        name = module.__name__
        file = str(Path(out) / f"{name}.pt")
        module.main([*TOY, "--data", str(data), "--out", file])
        torch.distributed.barrier()
        found[name] = torch.load(file)
    file = str(Path(out) / "lightning.ckpt")
    common = [*TOY, "--data", str(data), "--out", file, "--devices", str(world_size)]
    lightning_swav.main(common)
    torch.distributed.barrier()
    found["lightning"] = torch.load(file, weights_only=False)

    loaded = []
    original = lightning_swav.LightningSwAV.on_load_checkpoint

    def on_load_checkpoint(module, checkpoint):
        original(module, checkpoint)
        loaded.append(module.outside_ddp[0].queue.features.clone())

    lightning_swav.LightningSwAV.on_load_checkpoint = on_load_checkpoint
    lightning_swav.main([*common, "--resume", "--epochs", "3"])
    torch.distributed.barrier()
    found["resumed"] = torch.load(file, weights_only=False)
    (found["loaded"],) = loaded
    return found
