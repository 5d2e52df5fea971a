"""Weights into models: counted, named, refused."""

import copy

import pytest
import torch
import weight_files
from torch import nn

from vissl_swav import weights
from vissl_swav.weights.errors import WeightsError

NET = weight_files.resnet()
TRUNK = weight_files.trunk_of(NET)
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def file(tmp_path):
    return weight_files.saved(
        weight_files.authors(TRUNK, wide=False), tmp_path / "a.pth"
    )


@pytest.fixture(scope="module")
def vissl_model(host):
    """A ResNet-50 of VISSL's with the paper's head, as its configs build it."""
    return build_vissl()


def build_vissl(*overrides):
    from vissl.models import build_model
    from vissl.utils.hydra_config import (
        compose_hydra_configuration,
        convert_to_attrdict,
    )

    _, cfg = convert_to_attrdict(
        compose_hydra_configuration(
            ["config=pretrain/swav/swav_8node_resnet", *overrides]
        ),
        dump_config=False,
    )
    return weight_files.randomized(build_model(cfg.MODEL, cfg.OPTIMIZER))


def test_a_net_of_torchvision(file):
    lines = []
    model = weight_files.resnet(seed=9)
    own = copy.deepcopy(model.fc.state_dict())
    found = weights.load_into(model, file, report=lines.append)
    assert lines == [
        f"120/120 trunk tensors, 10 ignored (head, prototypes) from {file} "
        "(SwAV's authors)"
    ]
    assert found.share == 1 and not found.faults()
    assert torch.equal(
        weight_files.features(model, IMAGES), weight_files.features(NET, IMAGES)
    )
    for name, value in own.items():
        assert torch.equal(model.fc.state_dict()[name], value)


def test_the_line_is_printed(file, capsys):
    weights.load_into(weight_files.resnet(seed=9), file)
    assert capsys.readouterr().out.startswith("120/120 trunk tensors, 10 ignored")


@pytest.mark.parametrize("kind", ["timm", "lightly", "wrapped", "sequence"])
def test_nets_of_others(kind, file):
    model = weight_files.resnet(seed=9)
    if kind == "timm":
        timm = pytest.importorskip("timm")
        model = timm.create_model("resnet18", num_classes=0).eval()
    elif kind == "lightly":
        model = nn.Module()
        model.backbone = nn.Sequential(
            *list(weight_files.resnet(seed=9).children())[:-1]
        )
    elif kind == "wrapped":
        model = nn.Sequential()
        model.module = weight_files.resnet(seed=9)
    else:
        model = nn.Sequential(*list(model.children())[:-1]).eval()
    found = weights.load_into(model, file, report=None)
    assert len(found.matched) == 120
    if kind in ("timm", "sequence"):
        with torch.no_grad():
            got = model(IMAGES).flatten(1)
        torch.testing.assert_close(got, weight_files.features(NET, IMAGES))


def test_a_whole_model_of_vissls(vissl_model, tmp_path, capsys):
    """318 tensors of a ResNet-50, as the issue has them; then head and prototypes."""
    other = weight_files.resnet("resnet50")
    head = weight_files.head(2048).state_dict()
    state = weight_files.trunk_of(other)
    state |= weight_files.prefixed("projection_head.", head)
    path = weight_files.saved(
        weight_files.prefixed("module.", state), tmp_path / "a.pth"
    )
    model = copy.deepcopy(vissl_model)
    weights.load_into(model, path)
    assert capsys.readouterr().out.startswith("318/318 trunk tensors, 9 ignored (head)")
    with torch.no_grad():
        (got,) = model.trunk(IMAGES, [])
    torch.testing.assert_close(got, weight_files.features(other, IMAGES))
    own = vissl_model.state_dict()
    weight_files.saved(
        {"classy_state_dict": {"base_model": vissl_model.get_classy_state()}},
        tmp_path / "own.torch",
    )
    found = weights.load_into(model, tmp_path / "own.torch", "all", report=None)
    assert found.share == 1 and len(found.matched) == len(own)
    assert all(torch.equal(model.state_dict()[name], own[name]) for name in own)


def test_vissls_trunk_into_torchvisions_net(vissl_model, tmp_path):
    path = weight_files.saved(vissl_model.trunk.state_dict(), tmp_path / "trunk.torch")
    model = weight_files.resnet("resnet50", seed=9)
    weights.load_into(model, path, report=None)
    with torch.no_grad():
        (wanted,) = vissl_model.trunk(IMAGES, [])
    torch.testing.assert_close(weight_files.features(model, IMAGES), wanted)


def test_resnet_small_of_ours(host, file):
    """A file with a 7x7 stem: all but one tensor, and that one is told."""
    from vissl.config import AttrDict

    from vissl_swav.host.resnet_small import ResNetSmall

    config = AttrDict(
        {
            "INPUT_TYPE": "rgb",
            "ACTIVATION_CHECKPOINTING": {
                "USE_ACTIVATION_CHECKPOINTING": False,
                "NUM_ACTIVATION_CHECKPOINTING_SPLITS": 2,
            },
            "TRUNK": {"RESNET_SMALL": {"DEPTH": 18, "WIDTH": 64}},
        }
    )
    model = ResNetSmall(config, "resnet_small").eval()
    with pytest.warns(UserWarning, match=r"_feature_blocks.conv1.weight \(\(64, 3, 7"):
        found = weights.load_into(model, file, report=None)
    assert len(found.matched) == 119
    small = weight_files.small(NET)
    content = {"state_dict": small.state_dict()}
    path = weight_files.saved(content, file.with_name("small.pth"))
    assert not weights.load_into(model, path, report=None).faults()
    with torch.no_grad():
        (got,) = model(IMAGES)
    torch.testing.assert_close(got, weight_files.features(small, IMAGES))


@pytest.mark.parametrize(
    ("net", "words"),
    [
        ("resnet34", "not in the file: layer1.2.conv1.weight"),
        ("resnet50", "of another shape: layer1.0.conv1.weight"),
    ],
)
def test_less_than_95_percent_is_refused(net, words, file):
    model = weight_files.resnet(net, seed=9)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(WeightsError, match="so nothing was loaded") as caught:
        weights.load_into(model, file)
    assert words in str(caught.value) and "allow_partial=True" in str(caught.value)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    with pytest.warns(UserWarning, match="left as they were"):
        found = weights.load_into(model, file, allow_partial=True, report=None)
    assert 0 < len(found.matched) < found.wanted
    for name in found.matched:
        assert torch.equal(model.state_dict()[name], TRUNK[name])


def test_a_deeper_file_is_refused_too(tmp_path):
    """Every tensor of a ResNet-18 is in a ResNet-34's file, with the same shape."""
    deeper = weight_files.trunk_of(weight_files.resnet("resnet34"))
    path = weight_files.saved(deeper, tmp_path / "deeper.pth")
    with pytest.raises(WeightsError, match="120/120 trunk tensors") as caught:
        weights.load_into(weight_files.resnet(), path)
    assert "not in the model: layer1.2.conv1.weight" in str(caught.value)


def test_counters_of_batch_norm_do_not_count(tmp_path):
    state = {n: t for n, t in TRUNK.items() if "num_batches_tracked" not in n}
    path = weight_files.saved(state, tmp_path / "a.pth")
    found = weights.load_into(weight_files.resnet(seed=9), path, report=None)
    assert str(found).startswith("100/100 trunk tensors") and not found.faults()


def test_one_missing_tensor_is_loaded_around_and_told(tmp_path):
    state = {n: t for n, t in TRUNK.items() if n != "bn1.running_mean"}
    path = weight_files.saved(state, tmp_path / "a.pth")
    with pytest.warns(UserWarning, match="not in the file: bn1.running_mean"):
        found = weights.load_into(weight_files.resnet(seed=9), path, report=None)
    assert str(found).startswith("119/120 trunk tensors")


def test_half_precision_is_brought_to_the_models(tmp_path):
    state = {n: t.half() if t.is_floating_point() else t for n, t in TRUNK.items()}
    model = weight_files.resnet(seed=9)
    weights.load_into(model, weight_files.saved(state, tmp_path / "a.pth"), report=None)
    assert model.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(model.conv1.weight, NET.conv1.weight, atol=1e-3, rtol=0)


def test_what_was_loaded_says_which_part(file):
    model = weight_files.resnet(seed=9)
    loaded = weights.load(file, "trunk")
    with pytest.raises(WeightsError, match="part is 'head', but what was loaded"):
        weights.load_into(model, loaded, "head")
    for part in (None, "trunk"):
        found = weights.load_into(model, loaded, part, report=None)
        assert (found.part, found.share) == ("trunk", 1)
