"""All files compose, alone and together, and leave the host's alone."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from config_catalogue import BASES, CONFIGS, FILES, OVERLAYS, PRETRAINING

HOST_OVERLAYS = {
    "+config/pretrain/swav/models=resnet50_w2": {"num_crops": 6},
    "+config/pretrain/swav/transforms=multicrop_2x224": {"num_crops": 2},
    "+config/pretrain/swav/optimization=bs64_4gpu": {"num_crops": 8},
}
INFERRED = {"num_crops", "num_prototypes", "embedding_dim", "queue_length_per_rank"}


def name(file):
    return file.name


def leaves(tree, path=()):
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, tree


def test_no_file_shadows_one_of_the_host(host):
    spec = find_spec("configs")
    assert spec is not None and spec.submodule_search_locations
    hosts = set()
    for folder in spec.submodule_search_locations:
        root = Path(folder) / "config"
        hosts |= {path.relative_to(root).as_posix() for path in root.rglob("*.yaml")}
    assert "pretrain/swav/swav_8node_resnet.yaml" in hosts
    assert not {f"{file.name}.yaml" for file in FILES} & hosts


def test_no_package_in_our_configs():
    """An `__init__.py` would hide the host's own package `configs`."""
    assert CONFIGS.is_dir() and not list(CONFIGS.rglob("__init__.py"))


@pytest.mark.parametrize("file", FILES, ids=name)
def test_file_holds_only_config_and_defaults_that_exist(file):
    content = yaml.safe_load(file.text)
    assert set(content) <= {"defaults", "config"}
    defaults = content.get("defaults", ["_self_"])
    assert defaults[-1] == "_self_"
    assert set(defaults[:-1]) <= {f"/config/{other.name}" for other in FILES}


@pytest.mark.parametrize("file", FILES, ids=name)
def test_inferred_settings_are_in_no_file(file):
    loss = (yaml.safe_load(file.text).get("config") or {}).get("LOSS") or {}
    assert not INFERRED & set(loss.get("swav") or {})


@pytest.mark.parametrize("file", BASES, ids=name)
def test_base_composes_alone(file, compose):
    assert compose(file.override).config.DATA.TRAIN.DATA_SOURCES == ["disk_folder"]


@pytest.mark.parametrize("overlay", OVERLAYS, ids=name)
def test_overlay_wins_over_what_it_is_laid_over(overlay, compose):
    composed = compose("config=pretrain/swav/base", overlay.override).config
    for path, value in leaves(yaml.safe_load(overlay.text)["config"]):
        found = composed
        for key in path:
            found = found[key]
        assert found == value, f"{overlay.name}: {'.'.join(path)}"


def test_command_line_adds_a_loss_key_that_no_file_has(complete):
    run = "config=pretrain/swav/resnet50_400ep"
    assert complete(run).LOSS.swav.epsilon == 0.05
    assert complete(run, "+config.LOSS.swav.epsilon=0.03").LOSS.swav.epsilon == 0.03


def test_number_of_prototypes_from_the_command_line(complete):
    config = complete(
        "config=pretrain/swav/resnet50_400ep_2x160_4x96",
        "config.MODEL.HEAD.PARAMS="
        "[[swav_head,{dims:[2048,2048,128],use_bn:true,num_clusters:[300]}]]",
    )
    assert config.LOSS.swav.num_prototypes == [300]


@pytest.mark.parametrize("overlay", HOST_OVERLAYS)
def test_overlays_of_the_host_work_on_ours(overlay, complete):
    config = complete("config=pretrain/swav/resnet50_400ep", overlay)
    assert config.LOSS.name == "swav"
    for key, value in HOST_OVERLAYS[overlay].items():
        assert config.LOSS.swav[key] == value
    if "w2" in overlay:
        assert config.MODEL.TRUNK.RESNETS.WIDTH_MULTIPLIER == 2
    if "4gpu" in overlay:
        assert config.DISTRIBUTED.NUM_PROC_PER_NODE == 4


@pytest.mark.parametrize("file", PRETRAINING, ids=name)
def test_loss_has_exactly_the_known_keys_when_inferred(file, complete):
    """An unknown key in a file would stop the inference; absent ones are filled in."""
    from vissl_swav.host.settings import SWAV_KEYS

    assert set(complete(file.override).LOSS.swav) == set(SWAV_KEYS)


def test_unknown_loss_key_is_refused(complete):
    with pytest.raises(ValueError, match="temprature.*did you mean temperature"):
        complete("config=pretrain/swav/base", "+config.LOSS.swav.temprature=0.2")
