"""What the tests of `examples/` share, and what they run in spawned processes."""

import os
import re
import sys
import warnings
from pathlib import Path

import torch

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TOY = ("--batch", "8", "--epochs", "2", "--workers", "0", "--prototypes", "10")
TOY = (*TOY, "--queue", "32")


def toy(data, out, *more):
    """The arguments of a run of seconds."""
    return [*TOY, "--data", str(data), "--out", str(out), *more]


def losses(text):
    """Those that an example printed."""
    return [float(x) for x in re.findall(r"loss (\S+)", text)]


def same(a, b):
    """Nested states, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


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

    found = {"files": Path(out)}
    for module in (plain_pytorch, lightly_swav, lightly_deepcluster_v2):
        name = module.__name__
        file = str(Path(out) / f"{name}.pt")
        module.main([*TOY, "--data", str(data), "--out", file])
        torch.distributed.barrier()
        found[name] = torch.load(file)
    file = str(Path(out) / "lightning.pt")
    common = [*TOY, "--data", str(data), "--out", file, "--devices", str(world_size)]
    common += ["--epochs", "3"]
    finish = lightning_swav.LightningSwAV.on_train_epoch_end

    def break_off(module):
        finish(module)
        module.trainer.should_stop = module.current_epoch == 1

    lightning_swav.LightningSwAV.on_train_epoch_end = break_off
    lightning_swav.main(common)
    lightning_swav.LightningSwAV.on_train_epoch_end = finish
    torch.distributed.barrier()
    found["lightning"] = torch.load(file, weights_only=False)

    found["refused"] = []
    for other in (["--epochs", "5"], ["--devices", "1"]):
        try:
            lightning_swav.main([*common, "--resume", *other])
        except SystemExit as end:
            found["refused"].append(end.code)
    loaded = []
    original = lightning_swav.LightningSwAV.on_load_checkpoint

    def on_load_checkpoint(module, checkpoint):
        original(module, checkpoint)
        loaded.append(module.outside_ddp[0].queue.features.clone())

    lightning_swav.LightningSwAV.on_load_checkpoint = on_load_checkpoint
    lightning_swav.main([*common, "--resume"])
    torch.distributed.barrier()
    found["resumed"] = torch.load(file, weights_only=False)
    (found["loaded"],) = loaded
    return found
