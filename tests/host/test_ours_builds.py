"""Every SwAV-family pretraining config of VISSL's, and every overlay, with `--ours`.

Built on the meta device: model, loss, optimizer and hooks fit together.
"""

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from meta_device import meta_device

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("host")]
HOST = Path(str(files("configs"))) / "config" if find_spec("vissl") else None
FOLDERS = ("swav", "deepcluster_v2", "vision_transformer/swav")
SWAV = "pretrain/swav/swav_8node_resnet"
DEEPCLUSTER = "pretrain/deepcluster_v2/deepclusterv2_2crops_resnet"
BATCH = 2


def found(pattern):
    """Names below `configs/config/` of the files in the three folders."""
    if HOST is None:
        return []
    paths = [p for f in FOLDERS for p in sorted((HOST / "pretrain" / f).glob(pattern))]
    return [path.relative_to(HOST).with_suffix("").as_posix() for path in paths]


COMPLETE = [(name,) for name in found("*.yaml")]
OVERLAYS = [
    (DEEPCLUSTER if "deepcluster" in name else SWAV, name) for name in found("*/*.yaml")
]
# A head for a trunk wider than the base's: it is laid over the two together.
WIDE = {
    "pretrain/swav/heads/d7392_d8192_d8192_d256_proto16k": "regnet128Gf",
    "pretrain/swav/heads/d10444_d8192_d8192_d256_proto16k": "regnet256Gf_1",
}
CASES = [
    (base, f"pretrain/swav/models/{WIDE[name]}", name) if name in WIDE else (base, name)
    for base, name in OVERLAYS
]


@pytest.fixture
def built(tmp_path):
    """`built(*names)`: the config with `--ours`, and its model on the meta device."""
    from vissl.models import build_model

    from vissl_swav.host import launch

    def build(base, *overlays):
        overlaid = [f"+config/{n.rpartition('/')[0]}={Path(n).name}" for n in overlays]
        data = ["config.DATA.TRAIN.DATA_PATHS=[x]", f"config.CHECKPOINT.DIR={tmp_path}"]
        config = launch.compose([f"config={base}", *overlaid, *data, "--ours"])[1]
        with meta_device():
            return config, build_model(config.MODEL, config.OPTIMIZER)

    return build


def crops(config):
    """One for each crop of the config's, of the size it has."""
    (entry,) = [
        entry
        for entry in config.DATA.TRAIN.TRANSFORMS
        if entry["name"] in ("MultiCrop", "ImgPilToMultiCrop")
    ]
    return [
        torch.empty(BATCH, 3, side, side, device="meta")
        for side, count in zip(entry["size_crops"], entry["num_crops"], strict=True)
        for _ in range(count)
    ]


def test_the_walk_finds_the_hosts_files():
    assert len(COMPLETE) == 5 and len(OVERLAYS) == 29
    assert set(WIDE) <= {name for _, name in OVERLAYS}


@pytest.mark.parametrize("names", COMPLETE + CASES, ids=lambda names: names[-1])
def test_model_loss_optimizer_and_hooks(names, built):
    from classy_vision.losses import build_loss
    from classy_vision.optim import build_optimizer, build_optimizer_schedulers
    from vissl.hooks import default_hook_generator
    from vissl.optimizers import get_optimizer_param_groups

    config, model = built(*names)
    settings = config.LOSS[config.LOSS.name]
    ((embeddings, *scores),) = model(crops(config))
    rows = BATCH * settings.num_crops
    assert embeddings.shape == (rows, settings.embedding_dim)
    assert [s.shape for s in scores] == [(rows, k) for k in settings.num_prototypes]
    if config.LOSS.name != "swav":
        from vissl_swav.host.settings import take_num_images

        take_num_images(config, 7)
    loss = build_loss({**settings, "name": config.LOSS.name})
    assert type(loss).__module__.startswith("vissl_swav.")
    hooks = [type(hook).__module__ for hook in default_hook_generator(config)]
    assert any(module.startswith("vissl_swav.") for module in hooks)
    optimizer = build_optimizer(config.OPTIMIZER)
    groups = get_optimizer_param_groups(
        model=model,
        model_config=config.MODEL,
        optimizer_config=config.OPTIMIZER,
        optimizer_schedulers=build_optimizer_schedulers(config.OPTIMIZER),
    )
    optimizer.set_param_groups(groups)
    held = sum(len(group["params"]) for group in optimizer.optimizer.param_groups)
    assert held == sum(p.requires_grad for p in model.parameters())
