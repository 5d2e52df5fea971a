"""VISSL's own benchmark configs compose, build and load a checkpoint of ours.

Nothing is overridden but data path, device and weights.
"""

import pytest
import torch
from host_builds import check_build, sources_of
from host_catalogue import (
    CANNOT,
    COMPLETE,
    FILES,
    INTERNAL_SOURCE,
    OVERLAYS,
    PAIRS,
    REPRESENTATIVE,
    RESNET50,
    TRUNKLESS,
)

pytestmark = pytest.mark.usefixtures("host")
TRUNK_TENSORS, COUNTERS = 318, 53
_slow = pytest.mark.slow
_BUILDS = [
    pytest.param(file, id=file.name, marks=[] if file.name in REPRESENTATIVE else _slow)
    for file in COMPLETE
    if file.name not in TRUNKLESS
]


def shown(pair):
    base, overlay = pair
    return f"{overlay.name}-on-{base.stem}"


def test_the_walk_finds_every_file_of_the_wheel():
    assert len(FILES) == 349 and len(COMPLETE) == 73 and len(RESNET50) == 64
    assert set(REPRESENTATIVE) <= {file.name for file in RESNET50}
    assert set(CANNOT) <= {file.name for file in OVERLAYS}
    assert {overlay.name for _, overlay in PAIRS} == {file.name for file in OVERLAYS}


def fill(model):
    """Values that no checkpoint has: NaN, and -1 for the counters of BatchNorm."""
    for tensor in model.state_dict().values():
        tensor.fill_(float("nan") if tensor.is_floating_point() else -1)


def check_loads(config, model, checkpoint):
    """Every trunk tensor of ours arrives; BatchNorm's counters the host leaves out."""
    model = model.to_empty(device="cpu")
    fill(model)
    model.init_model_from_weights_params_file(config, checkpoint)
    saved = checkpoint["classy_state_dict"]["base_model"]["model"]["trunk"]
    trunk = {
        name.removeprefix("base_model."): tensor
        for name, tensor in model.trunk.state_dict().items()
    }
    assert trunk.keys() == saved.keys() and len(trunk) == TRUNK_TENSORS
    loaded = {name for name in saved if torch.equal(trunk[name], saved[name])}
    left_out = {name for name in saved if name.endswith("num_batches_tracked")}
    assert config.MODEL.WEIGHTS_INIT.SKIP_LAYERS == ["num_batches_tracked"]
    assert loaded == saved.keys() - left_out and len(left_out) == COUNTERS
    for name, tensor in model.heads.state_dict().items():
        assert not tensor.is_floating_point() or tensor.isnan().all(), name


@pytest.mark.parametrize("file", _BUILDS)
def test_complete_file_builds_and_loads(file, compose, checkpoint):
    config = compose(file)
    assert INTERNAL_SOURCE not in sources_of(config)
    model = check_build(config)
    if file.is_resnet50:
        check_loads(config, model, checkpoint)


@_slow
@pytest.mark.parametrize(
    "pair", [p for p in PAIRS if p[1].name not in CANNOT], ids=shown
)
def test_overlay_builds_on_its_base(pair, compose):
    base, overlay = pair
    check_build(compose(base, overlay))


@_slow
@pytest.mark.parametrize("pair", [p for p in PAIRS if p[1].name in CANNOT], ids=shown)
def test_what_does_not_build_fails_as_listed(pair, compose):
    base, overlay = pair
    words, remedy = CANNOT[overlay.name]
    with pytest.raises(Exception, match=words):
        check_build(compose(base, overlay))
    if remedy:
        check_build(compose(base, overlay, extra=remedy))


@pytest.mark.parametrize("name", sorted(TRUNKLESS))
def test_a_file_without_a_trunk_of_its_own(name, compose):
    """Alone it has the trunk of the host's defaults and no head: nothing to train."""
    (file,) = [file for file in COMPLETE if file.name == name]
    assert not file.trunk and any(base == file for base, _ in PAIRS)
    config = compose(file)
    assert config.MODEL.TRUNK.NAME == "resnet" and config.MODEL.HEAD.PARAMS == []
