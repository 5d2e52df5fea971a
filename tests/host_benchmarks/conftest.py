import sys
from pathlib import Path

import pytest

# The catalogue and the builders are plain modules beside these tests.
sys.path.insert(0, str(Path(__file__).resolve().parent))

PRETRAINING = "config=pretrain/swav/resnet50_400ep"


@pytest.fixture(scope="session")
def compose(host, tmp_path_factory):
    """`compose(*files, extra=())`: as `vissl-swav train` composes it, for the CPU."""
    from vissl_swav.host import launch

    # Some hooks open their files when they are made.
    folder = tmp_path_factory.mktemp("checkpoints")

    def compose(*files, extra=()):
        overrides = [file.override for file in files]
        overrides += ["+config/benchmark/device=cpu", *data_overrides(files[0], "data")]
        overrides += ["config.MODEL.WEIGHTS_INIT.PARAMS_FILE=checkpoint.torch"]
        overrides += [f"config.CHECKPOINT.DIR={folder}"]
        return launch.compose([*overrides, *extra])[1]

    return compose


def data_overrides(base, folder):
    """The data path: one for each data source that the file names."""
    from host_catalogue import INTERNAL_SOURCE

    overrides = []
    for split, name in (("TRAIN", "train"), ("TEST", "val")):
        sources = base.config.get("DATA", {}).get(split, {}).get("DATA_SOURCES", [])
        if not sources:
            continue
        key = f"config.DATA.{split}"
        overrides.append(f"{key}.DATA_PATHS=[{folder}/{name}]")
        if INTERNAL_SOURCE in sources:
            overrides.append(f"{key}.DATA_SOURCES=[disk_folder]")
            overrides.append(f"{key}.LABEL_SOURCES=[disk_folder]")
        elif "filelist" in str(sources):
            overrides.append(f"{key}.LABEL_PATHS=[{folder}/{name}_labels]")
    return overrides


@pytest.fixture(scope="session")
def checkpoint(host):
    """What `vissl-swav train` saves of a SwAV ResNet-50, its weights random."""
    import torch
    import weight_files
    from host_builds import meta_model

    from vissl_swav.host import launch

    config = launch.compose([PRETRAINING, "config.DATA.TRAIN.DATA_PATHS=[data]"])[1]
    model = weight_files.randomized(meta_model(config).to_empty(device="cpu"))
    state = model.get_classy_state()
    assert len(state["model"]["trunk"]) == 318
    assert any("prototypes" in name for name in state["model"]["heads"])
    assert all(torch.isfinite(t).all() for t in state["model"]["trunk"].values())
    return {"type": "consolidated", "classy_state_dict": {"base_model": state}}
