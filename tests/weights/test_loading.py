"""Every layout of a file comes out in one naming, tensor for tensor."""

import copy

import numpy as np
import pytest
import torch
import weight_files
from torch import nn

from vissl_swav import weights
from vissl_swav.weights import layouts, resnet_names
from vissl_swav.weights.errors import WeightsError

NET = weight_files.resnet()
TRUNK = weight_files.trunk_of(NET)
STATE = NET.state_dict()
ON_HOST = weight_files.prefixed("_feature_blocks.", TRUNK)

# name: (content, layout, tensors of the head, of the prototypes, of no part)
FILES = {
    "torchvision": (lambda: STATE, "torchvision or timm", 2, 0, 0),
    "under a key": (
        lambda: {"model": STATE, "epoch": 1}, "torchvision or timm", 2, 0, 0,
    ),
    "authors": (lambda: weight_files.authors(TRUNK), "SwAV's authors", 9, 2, 0),
    "authors' checkpoint": (
        lambda: weight_files.authors_checkpoint(TRUNK), "SwAV's authors", 9, 1, 0,
    ),
    "VISSL": (lambda: weight_files.vissl(TRUNK), "VISSL", 9, 2, 0),
    "VISSL evaluation": (
        lambda: weight_files.vissl(TRUNK, "base_model._feature_blocks."),
        "VISSL", 9, 2, 0,
    ),
    "VISSL extracted": (
        lambda: {"model_state_dict": ON_HOST}, "VISSL, the model alone", 0, 0, 0,
    ),
    "VISSL bare": (lambda: ON_HOST, "VISSL, the model alone", 0, 0, 0),
    "VISSL numpy": (
        lambda: {"model_state_dict": {n: t.numpy() for n, t in ON_HOST.items()}},
        "VISSL, the model alone", 0, 0, 0,
    ),
    "solo-learn": (lambda: weight_files.solo_learn(TRUNK), "solo-learn", 10, 1, 2),
    "solo-learn, old": (
        lambda: weight_files.solo_learn(TRUNK, "encoder."), "solo-learn", 10, 1, 2,
    ),
    "a backbone": (
        lambda: weight_files.prefixed("module.backbone.", STATE),
        "torchvision or timm", 2, 0, 0,
    ),
    "a query encoder": (
        lambda: {
            "state_dict": weight_files.prefixed("module.encoder_q.", STATE)
            | weight_files.prefixed("module.encoder_k.", STATE)
        },
        "torchvision or timm", 2, 0, 122,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_layouts(name, tmp_path):
    content, layout, *counts = FILES[name]
    path = weight_files.saved(content(), tmp_path / "weights.pth")
    found = weights.load(path)
    assert found.layout == layout
    assert list(found.trunk) == list(TRUNK)
    for key, value in TRUNK.items():
        assert torch.equal(found.trunk[key], value), key
    head, prototypes, ignored = counts
    assert found.counts == {"trunk": 120, "head": head, "prototypes": prototypes}
    assert len(found.ignored) == ignored
    said = str(weights.load(path, "trunk"))
    assert f"({layout}): 120 trunk tensors" in said
    assert (f"{head} head" in said) == (head > 0)


@pytest.mark.parametrize("name", ["authors", "authors' checkpoint", "VISSL"])
def test_head_and_prototypes_have_one_naming(name, tmp_path):
    path = weight_files.saved(FILES[name][0](), tmp_path / "weights.pth")
    head = weight_files.head().state_dict()
    found = weights.load(path, "head").tensors
    assert set(found) == {f"projection_head.{key}" for key in head}
    for key, value in head.items():
        assert torch.equal(found[f"projection_head.{key}"], value)
    for number, C in enumerate(weights.load(path, "prototypes").tensors.values()):
        assert torch.equal(C, weight_files.prototypes(number))


def test_weight_normalised_prototypes_are_multiplied_out(tmp_path):
    """Against torch's own: both of its ways to keep g and v."""
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(8, 12, bias=False))
    layer.parametrizations.weight.original0.data.uniform_(1, 2)
    state = weight_files.solo_learn(TRUNK)
    found = weights.load(weight_files.saved(state, tmp_path / "a.ckpt"), "prototypes")
    torch.testing.assert_close(
        found.tensors["prototypes0.weight"], 2 * weight_files.prototypes()
    )
    state = TRUNK | weight_files.prefixed("prototypes.", layer.state_dict())
    found = weights.load(weight_files.saved(state, tmp_path / "b.pth"), "prototypes")
    torch.testing.assert_close(found.tensors["prototypes0.weight"], layer.weight.data)
    state.pop("prototypes.parametrizations.weight.original1")
    with pytest.raises(WeightsError, match="without a prototypes0"):
        weights.load(weight_files.saved(state, tmp_path / "c.pth"))


@pytest.mark.parametrize("own", [False, True])
def test_lightly(own, tmp_path):
    """lightly's own modules say the names; the second net is lightly's ResNet."""
    pytest.importorskip("lightly")
    state = weight_files.lightly(TRUNK if not own else weight_files.grown(TRUNK), own)
    found = weights.load(weight_files.saved(state, tmp_path / "lightly.ckpt"))
    assert found.layout == "lightly" and list(found.trunk) == list(TRUNK)
    assert torch.equal(found.trunk["layer4.1.bn2.bias"], TRUNK["layer4.1.bn2.bias"])
    assert "projection_head.3.bias" in found.tensors
    assert [tuple(found.tensors[f"prototypes{n}.weight"].shape) for n in (0, 1)] == [
        (12, 8),
        (5, 8),
    ]


@pytest.mark.parametrize("name", ["resnet50", "resnet18", "vit_tiny_patch16_224"])
def test_timm(name, tmp_path):
    timm = pytest.importorskip("timm")
    model = weight_files.randomized(timm.create_model(name, num_classes=4))
    path = weight_files.saved(model.state_dict(), tmp_path / "timm.pth")
    found = weights.load(path)
    assert found.layout == "torchvision or timm" and found.counts["head"] == 2
    other = timm.create_model(name, num_classes=0)
    other.load_state_dict(found.trunk)
    size = 224 if "vit" in name else 64
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        wanted = model.forward_head(model.forward_features(images), pre_logits=True)
        assert torch.equal(other.eval()(images), wanted)


def test_detectron2s_names_there_and_back(tmp_path):
    named = {}
    for old, value in TRUNK.items():
        new = resnet_names.to_detectron2(old)
        assert (new is None) == old.endswith("num_batches_tracked")
        if new:
            named[new] = value
    assert set(named) == set(weight_files.detectron2_names())
    found = weights.load(weight_files.saved({"model": named}, tmp_path / "d2.pth"))
    assert found.layout == "detectron2"
    assert found.trunk.keys() == {n for n in TRUNK if "num_batches" not in n}
    assert all(torch.equal(found.trunk[n], TRUNK[n]) for n in found.trunk)
    bottlenecks = {
        resnet_names.to_detectron2(n)
        for n in weight_files.trunk_of(weight_files.resnet("resnet50"))
    } - {None}
    assert bottlenecks == set(weight_files.detectron2_names((3, 4, 6, 3), 3))


def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    save_file({n: t.clone() for n, t in STATE.items()}, tmp_path / "a.safetensors")
    found = weights.load(tmp_path / "a.safetensors")
    assert found.counts == {"trunk": 120, "head": 2, "prototypes": 0}
    assert torch.equal(found.trunk["conv1.weight"], STATE["conv1.weight"])


def test_the_format_of_2020(tmp_path):
    """No zip archive, as torch wrote when the authors' files were made."""
    path = tmp_path / "swav_800ep_pretrain.pth.tar"
    content = weight_files.authors(TRUNK, wide=False)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    found = weights.load(path)
    assert found.counts == {"trunk": 120, "head": 9, "prototypes": 1}
    assert torch.equal(found.trunk["conv1.weight"], TRUNK["conv1.weight"])


def test_a_prefix_that_nobody_knows(tmp_path):
    state = weight_files.prefixed("eyes.left.", TRUNK)
    path = weight_files.saved({"state_dict": state}, tmp_path / "mine.pth")
    assert "conv1.weight" not in weights.load(path).trunk
    found = weights.load(path, trunk_prefix="eyes.left.")
    assert list(found.trunk) == list(TRUNK)
    with pytest.raises(WeightsError, match='trunk_prefix="..."'):
        weights.load(path, trunk_prefix="eyes.right.")


def test_torchvisions_vision_transformer_keeps_its_encoder():
    """`encoder.` is a prefix of solo-learn's, and a part of this net."""
    import torchvision

    with torch.device("meta"):
        names = list(torchvision.models.vit_b_16().state_dict())
    places = layouts.places(names)
    assert all(
        place.name == name for name, place in places.items() if place.part == "trunk"
    )
    assert sum(place.part == "trunk" for place in places.values()) > 100


@pytest.mark.parametrize(
    ("part", "content", "words"),
    [
        (
            "prototypes",
            lambda: STATE,
            "holds no prototypes (tensors: 120 trunk, 2 head",
        ),
        ("head", lambda: TRUNK, "holds no head"),
        ("trunk", lambda: {"epoch": 3}, "holds no tensors where weights are kept"),
        ("trunk", lambda: [TRUNK], "holds a list; wanted a dictionary"),
        ("trunk", lambda: {"classy_state_dict": {}}, "lacks base_model.model.trunk"),
        ("tail", lambda: TRUNK, "part is 'tail'"),
        (
            "trunk",
            lambda: {**TRUNK, "bn1.bias": torch.full((64,), float("nan"))},
            "bn1.bias of the file is not finite",
        ),
        (
            "trunk",
            lambda: {**TRUNK, "bn1.bias": TRUNK["bn1.bias"].to_sparse()},
            "bn1.bias of the file is no plain tensor",
        ),
        (
            "trunk",
            lambda: {**TRUNK, "module.bn1.bias": TRUNK["bn1.bias"]},
            "would both be called bn1.bias",
        ),
    ],
)
def test_what_cannot_be_used_is_told(part, content, words, tmp_path):
    path = weight_files.saved(content(), tmp_path / "weights.pth")
    with pytest.raises(WeightsError) as caught:
        weights.load(path, part)
    assert words in str(caught.value)
    assert part == "tail" or str(path) in str(caught.value)


def test_numpy_scalars_and_copies(tmp_path):
    """A caffe2 file has arrays with a dimension of nothing, and no counters."""
    names = {"_feature_blocks.bn1.num_batches_tracked": np.array(3)}
    path = weight_files.saved({"model_state_dict": names}, tmp_path / "a.torch")
    assert weights.load(path).trunk["bn1.num_batches_tracked"].shape == ()


def test_a_model_inside_wrappers_is_known():
    names = ["module._orig_mod." + n for n in weight_files.vissl(TRUNK)]
    assert all(not p.name.startswith("module") for p in layouts.places(names).values())
    wrapped = nn.Sequential()
    wrapped.module = copy.deepcopy(NET)
    places = layouts.places(wrapped.state_dict())
    assert {p.name for p in places.values() if p.part == "trunk"} == set(TRUNK)
