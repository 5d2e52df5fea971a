"""All files compose, alone and together, and leave the host's alone."""

import functools
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from config_catalogue import (
    BASES,
    CLUSTERING,
    CONFIGS,
    FILES,
    METHODS,
    OVERLAYS,
    PRETRAINING,
)

HOST_OVERLAYS = {
    "+config/pretrain/swav/models=resnet50_w2": {"num_crops": 6},
    "+config/pretrain/swav/transforms=multicrop_2x224": {"num_crops": 2},
    "+config/pretrain/swav/optimization=bs64_4gpu": {"num_crops": 8},
}
# One run of each method, for overlays.
RUN_OF = {
    "swav": "config=pretrain/swav/resnet50_400ep",
    "swav_momentum": "config=pretrain/swav_momentum/resnet50_200ep_batch256_queue65536",
    "deepcluster_v2": "config=pretrain/deepcluster_v2/resnet50_800ep",
    "sela_v2": "config=pretrain/sela_v2/resnet50_400ep_2x224",
    "simclr_multicrop": "config=pretrain/simclr_multicrop/resnet50_400ep_2x224",
}
# Ideas that are not of one method; a batch file stands in the runs already.
OF_ALL = [
    overlay
    for overlay in OVERLAYS
    if overlay.name.split("/")[2] in ("architecture", "crops", "precision")
]


def name(file):
    return file.name


def leaves(tree, path=()):
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, tree


@functools.cache
def host_names():
    """What a defaults list may call the host's files."""
    spec = find_spec("configs")
    assert spec is not None and spec.submodule_search_locations
    names = set()
    for folder in spec.submodule_search_locations:
        root = Path(folder)
        files = (root / "config").rglob("*.yaml")
        names |= {f"/{p.relative_to(root).with_suffix('').as_posix()}" for p in files}
    return names


def test_no_file_shadows_one_of_the_host(host):
    assert "/config/pretrain/swav/swav_8node_resnet" in host_names()
    assert not {f"/config/{file.name}" for file in FILES} & host_names()


def test_no_package_in_our_configs():
    """An `__init__.py` would hide the host's own package `configs`."""
    assert CONFIGS.is_dir() and not list(CONFIGS.rglob("__init__.py"))


@pytest.mark.parametrize("file", FILES, ids=name)
def test_file_holds_only_config_and_defaults_that_exist(file, host):
    content = yaml.safe_load(file.text)
    assert set(content) <= {"defaults", "config"}
    defaults = content.get("defaults", ["_self_"])
    assert defaults[-1] == "_self_"
    known = {f"/config/{other.name}" for other in FILES} | host_names()
    assert set(defaults[:-1]) <= known


@pytest.mark.parametrize("file", FILES, ids=name)
def test_inferred_settings_are_in_no_file(file):
    from vissl_swav.host.settings import LOSSES

    sections = (yaml.safe_load(file.text).get("config") or {}).get("LOSS") or {}
    for name, loss in LOSSES.items():
        assert not {*loss.inferred, "num_images"} & set(sections.get(name) or {})


@pytest.mark.parametrize("file", BASES, ids=name)
def test_base_composes_alone(file, compose):
    wanted = "images" if file.name.startswith("pretrain/") else "disk_folder"
    assert compose(file.override).config.DATA.TRAIN.DATA_SOURCES == [wanted]


@pytest.mark.parametrize("method", ("swav", *CLUSTERING))
@pytest.mark.parametrize("overlay", OVERLAYS, ids=name)
def test_overlay_wins_over_what_it_is_laid_over(overlay, method, compose):
    composed = compose(f"config=pretrain/{method}/base", overlay.override).config
    for path, value in leaves(yaml.safe_load(overlay.text)["config"]):
        found = composed
        for key in path:
            found = found[key]
        assert found == value, f"{overlay.name}: {'.'.join(path)}"


@pytest.mark.parametrize("method", CLUSTERING)
@pytest.mark.parametrize("overlay", OF_ALL, ids=name)
def test_overlays_of_swav_work_on_the_other_methods(overlay, method, complete):
    config = complete(RUN_OF[method], overlay.override)
    swav = complete(RUN_OF["swav"], overlay.override)
    assert config.LOSS.name == method
    (transform,) = config.DATA.TRAIN.TRANSFORMS
    assert config.LOSS[method].num_crops == sum(transform["num_crops"])
    assert config.MODEL.TRUNK == swav.MODEL.TRUNK
    assert config.MODEL.AMP_PARAMS == swav.MODEL.AMP_PARAMS
    if "/crops/" in overlay.name:
        assert transform == swav.DATA.TRAIN.TRANSFORMS[0]


@pytest.mark.parametrize("method", CLUSTERING)
def test_heads_of_a_wide_net_from_the_command_line(method, complete):
    """The overlays of wide nets bring SwAV's one head, as docs/configs.md says."""
    wide = (RUN_OF[method], "+config/pretrain/swav/architecture=resnet50_w2")
    assert complete(*wide).LOSS[method].num_prototypes == [3000]
    heads = (
        "config.MODEL.HEAD.PARAMS=[[swav_head,{dims:[4096,8192,128],use_bn:true,"
        "num_clusters:[3000,3000,3000]}]]"
    )
    assert complete(*wide, heads).LOSS[method].num_prototypes == [3000] * 3


@pytest.mark.parametrize(
    "file", [f for f in PRETRAINING if f.method != "swav"], ids=name
)
def test_nothing_is_set_for_a_loss_that_the_run_does_not_use(file, complete):
    from vissl_swav.host.settings import LOSSES

    sections = complete(file.override).LOSS
    assert sections.name == file.method
    others = [other for other in LOSSES if other != file.method]
    assert not [other for other in others if sections.get(other)]


@pytest.mark.parametrize(
    ("method", "key", "default", "value"),
    [
        ("swav", "epsilon", 0.05, 0.03),
        ("swav_momentum", "momentum_end", 1.0, 0.9),
        ("deepcluster_v2", "num_iterations", 10, 20),
        ("sela_v2", "epsilon", 0.05, 0.03),
    ],
)
def test_command_line_adds_a_loss_key_that_no_file_has(
    method, key, default, value, complete
):
    run = RUN_OF[method]
    assert complete(run).LOSS[method][key] == default
    added = complete(run, f"+config.LOSS.{method}.{key}={value}")
    assert added.LOSS[method][key] == value


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
    from vissl_swav.host.settings import LOSSES

    config = complete(file.override)
    assert config.LOSS.name == file.method
    assert set(config.LOSS[file.method]) == set(LOSSES[file.method].keys)


@pytest.mark.parametrize("method", METHODS)
def test_unknown_loss_key_is_refused(method, complete):
    with pytest.raises(ValueError, match="temprature.*did you mean temperature"):
        complete(RUN_OF[method], f"+config.LOSS.{method}.temprature=0.2")
