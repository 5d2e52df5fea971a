"""`vissl-swav export`: what each target loads gives the features of the source."""

import importlib.util
import pickle
import re
import warnings

import cluster_runs
import host_runs
import pytest
import torch
import weight_files
import yaml

from vissl_swav import weights
from vissl_swav.suite import export as export_module
from vissl_swav.weights.errors import WeightsError

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(7))


def close(found, wanted):
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def vissl_model(host):
    from vissl.models import build_model

    cfg = vissl_config("config=pretrain/swav/swav_8node_resnet")
    model = build_model(cfg.MODEL, cfg.OPTIMIZER)
    return weight_files.randomized(model)


def vissl_config(*overrides):
    from vissl.utils.hydra_config import (
        compose_hydra_configuration,
        convert_to_attrdict,
    )

    composed = compose_hydra_configuration(list(overrides))
    return convert_to_attrdict(composed, dump_config=False)[1]


@pytest.fixture(scope="module")
def big(vissl_model, tmp_path_factory):
    """A checkpoint of VISSL's with its own ResNet-50, and what its trunk gives."""
    path = tmp_path_factory.mktemp("vissl") / "model_phase0.torch"
    torch.save(
        {"classy_state_dict": {"base_model": vissl_model.get_classy_state()}}, path
    )
    with torch.no_grad():
        (features,) = vissl_model.trunk(IMAGES, [])
    return path, features


@pytest.fixture(scope="module")
def run(host, tmp_path_factory):
    """The folder of a run with our small ResNet, two heads of prototypes."""
    images = host_runs.make_images(tmp_path_factory.mktemp("images") / "set")
    folder = tmp_path_factory.mktemp("runs") / "ours"
    return cluster_runs.untrained(images, folder, loss="sela_v2", clusters=(12, 5))


def written(source, to, folder, *more, suffix):
    out = folder / f"out{suffix}"
    assert weight_files.export(source, "--to", to, "-o", out, *more) == 0
    assert list(folder.iterdir()) == [out]
    return out


def test_torchvision(big, tmp_path, capsys):
    import torchvision

    path, wanted = big
    out = written(path, "torchvision", tmp_path, suffix=".pth")
    said = capsys.readouterr().out
    assert "(VISSL): 318 trunk tensors; ignored: 9 head, 1 prototypes" in said
    # As the last line says.
    model, hint = torchvision.models.resnet50(), said.rpartition("to load: ")[2]
    assert "torchvision.models.resnet50()" in hint and str(out) in hint
    model.fc = torch.nn.Identity()
    model.load_state_dict(torch.load(out))
    with torch.no_grad():
        close(model.eval()(IMAGES), wanted)


def test_timm(big, tmp_path, capsys):
    timm = pytest.importorskip("timm")
    path, wanted = big
    out = written(path, "timm", tmp_path, suffix=".pth")
    assert 'timm.create_model("resnet50"' in capsys.readouterr().out
    model = timm.create_model("resnet50", num_classes=0, checkpoint_path=str(out))
    with torch.no_grad():
        close(model.eval()(IMAGES), wanted)


def test_timm_takes_a_vision_transformer_of_vissls_names(tmp_path):
    """VISSL's ViT has timm's names, without blocks of features."""
    timm = pytest.importorskip("timm")
    net = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    base = {"model": {"trunk": net.state_dict(), "heads": {}}}
    source = weight_files.saved(
        {"classy_state_dict": {"base_model": base}}, tmp_path / "vit.torch"
    )
    (tmp_path / "out").mkdir()
    out = written(source, "timm", tmp_path / "out", suffix=".pth")
    other = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, checkpoint_path=str(out)
    ).eval()
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        close(other(image), net(image))


def test_detectron2(big, tmp_path):
    """Its documented keys and wrapping; features by a way back of the test's own."""
    import torchvision

    path, wanted = big
    out = written(path, "detectron2", tmp_path, suffix=".pkl")
    content = pickle.loads(out.read_bytes())
    assert content["matching_heuristics"] is True and content["__author__"]
    model = content["model"]
    assert set(model) == set(weight_files.detectron2_names((3, 4, 6, 3), 3))
    assert all(array.dtype.name == "float32" for array in model.values())
    state = {}
    for name, array in model.items():
        name = re.sub(r"shortcut\.(?=weight)", "downsample.0.", name)
        name = name.replace("shortcut.norm.", "downsample.1.")
        name = re.sub(r"conv(\d)\.norm", r"bn\1", name).removeprefix("stem.")
        name = re.sub(r"^res(\d)", lambda m: f"layer{int(m[1]) - 1}", name)
        state[name] = torch.from_numpy(array)
    net = torchvision.models.resnet50()
    net.fc = torch.nn.Identity()
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert not unexpected and all("num_batches_tracked" in name for name in missing)
    with torch.no_grad():
        close(net.eval()(IMAGES), wanted)


def test_safetensors_with_head_and_prototypes(big, vissl_model, tmp_path):
    path, _ = big
    out = written(path, "safetensors", tmp_path, "--part", "all", suffix=".safetensors")
    found = weights.load(out)
    own = vissl_model.state_dict()
    assert found.counts == {"trunk": 318, "head": 9, "prototypes": 1}
    # As any other file that is written: not for its owner alone.
    (tmp_path / "any").touch()
    assert out.stat().st_mode == (tmp_path / "any").stat().st_mode
    for name, value in found.tensors.items():
        old = (
            f"trunk._feature_blocks.{name}"
            if name in found.trunk
            else f"heads.0.{name}"
        )
        assert torch.equal(value, own[old])


def test_vissl_loads_what_is_written_for_it(vissl_model, tmp_path, capsys):
    """An authors' file, by VISSL's own loading, with PARAMS_FILE alone (vissl#539).

    Pretraining takes trunk, head and prototypes; an evaluation, whose trunk lies a
    level deeper, takes the trunk.
    """
    from vissl.models import build_model

    net = weight_files.resnet("resnet50")
    state = {**weight_files.trunk_of(net), "prototypes.weight": torch.randn(3000, 128)}
    state |= weight_files.prefixed("projection_head.", wide_head().state_dict())
    source = weight_files.saved(
        weight_files.prefixed("module.", state), tmp_path / "swav_800ep.pth.tar"
    )
    (tmp_path / "out").mkdir()
    out = written(source, "vissl", tmp_path / "out", "--part", "all", suffix=".torch")
    assert f"PARAMS_FILE={out}" in capsys.readouterr().out
    names = {f"heads.0.{n}" for n in state if n.startswith("projection_head")}
    for overrides, more in (
        (
            ["config=pretrain/swav/swav_8node_resnet"],
            {*names, "heads.0.prototypes0.weight"},
        ),
        (["config=test/integration_test/quick_eval_in1k_linear"], set()),
    ):
        cfg = vissl_config(*overrides, f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={out}")
        model = weight_files.randomized(build_model(cfg.MODEL, cfg.OPTIMIZER), 3)
        before = {n: t.clone() for n, t in model.state_dict().items()}
        model.init_model_from_weights_params_file(cfg, torch.load(out))
        changed = {
            n for n, t in model.state_dict().items() if not torch.equal(before[n], t)
        }
        # The host's default leaves BatchNorm's counters out.
        trunk = {n for n in before if n.startswith("trunk.") and "num_batches" not in n}
        assert changed == trunk | {n for n in more if "num_batches" not in n}
        with torch.no_grad():
            found = getattr(model.trunk, "base_model", model.trunk)(IMAGES, [])[0]
        close(found, weight_files.features(net, IMAGES))


def wide_head():
    """The paper's: 2048, 2048, 128."""
    linear = torch.nn.Linear
    return weight_files.randomized(
        torch.nn.Sequential(
            linear(2048, 2048),
            torch.nn.BatchNorm1d(2048),
            torch.nn.ReLU(),
            linear(2048, 128),
        ),
        8,
    )


@pytest.mark.parametrize("source", ["big", "ours"])
def test_torchscript(source, request, tmp_path, capsys):
    if source == "big":
        path, wanted = request.getfixturevalue("big")
        images = IMAGES
    else:
        path = request.getfixturevalue("run")
        images = torch.randn(3, 3, 24, 24)
        wanted = own_features(path, images)[0]
    out = written(path, "torchscript", tmp_path, suffix=".pt")
    assert "run by torch" in capsys.readouterr().out
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = torch.jit.load(out)
    close(model(images), wanted)
    close(model(images[:1]), wanted[:1])


def own_features(run, images):
    """Trunk features, unit features and scores of the run's own model."""
    from vissl_swav.suite.checkpoint_model import load_model

    model = load_model(run, device="cpu")
    with torch.no_grad():
        (trunk,) = model.model.trunk(images, [])
        ((embeddings, *scores),) = model.model(images)
    return trunk, torch.nn.functional.normalize(embeddings, dim=1), scores, model


def test_the_whole_model_as_torchscript(run, tmp_path):
    out = written(run, "torchscript", tmp_path, "--part", "all", suffix=".pt")
    images = torch.randn(3, 3, 24, 24)
    _, Z, _, model = own_features(run, images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = torch.jit.load(out)(images)
    close(found[0], Z)
    for scores, C in zip(found[1:], model.prototypes, strict=True):
        close(scores, Z @ C.t())


@pytest.fixture(scope="module")
def transformer(host, tmp_path_factory):
    """The folder of a run with VISSL's vision transformer, of 24 pixels."""
    images = host_runs.make_images(tmp_path_factory.mktemp("images") / "set")
    shape = {"IMAGE_SIZE": 24, "PATCH_SIZE": 8, "HIDDEN_DIM": 16, "NUM_LAYERS": 2}
    shape |= {"NUM_HEADS": 2, "MLP_DIM": 32, "CLASSIFIER": "token"}
    trunk = "config.MODEL.TRUNK"
    return cluster_runs.untrained(
        images,
        tmp_path_factory.mktemp("runs") / "transformer",
        f"{trunk}.NAME=vision_transformer",
        *(f"{trunk}.VISION_TRANSFORMERS.{key}={value}" for key, value in shape.items()),
    )


def test_a_transformer_of_vissls(transformer, tmp_path, capsys):
    """Built by the host, since tensors alone do not say what it is."""
    from vissl_swav.suite.predictor import predictor

    out = written(transformer, "torchscript", tmp_path, "--part", "all", suffix=".pt")
    images = torch.randn(3, 3, 24, 24)
    trunk, Z, _, model = own_features(transformer, images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = torch.jit.load(out)(images)
    close(found[0], Z)
    close(found[1], Z @ model.prototypes[0].t())
    close(predictor(transformer, device="cpu")(images), trunk)
    close(predictor(transformer, part="all", device="cpu")(images), Z)
    out.unlink()
    assert weight_files.export(transformer, "--to", "torchvision", "-o", out) == 2
    assert "torchvision has no other net" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["newer", "older"])
@pytest.mark.parametrize("part", ["trunk", "all"])
def test_onnx(part, way, run, tmp_path, monkeypatch, capsys):
    """By both exporters: the one of torch 2.9 and later, and the one before."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"the extra [onnx] wants {name}")
    import onnxruntime

    from vissl_swav.weights import graph_files

    if way == "older":
        monkeypatch.setattr(graph_files, "_newer", graph_files._older)
    elif not graph_files._has_newer_exporter():
        pytest.skip("torch < 2.9 has only the older exporter")
    out = written(run, "onnx", tmp_path, "--part", part, suffix=".onnx")
    assert "run by onnxruntime" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    # Another number of images than exported with, and another size.
    images = torch.randn(5, 3, 40, 24)
    trunk, Z, _, model = own_features(run, images)
    found = session.run(None, {"images": images.numpy()})
    close(torch.from_numpy(found[0]), trunk if part == "trunk" else Z)
    names = [output.name for output in session.get_outputs()]
    assert names == ["features", *(["scores0", "scores1"] if part == "all" else [])]


@pytest.mark.slow
def test_onnx_of_vissls_resnet50(big, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"the extra [onnx] wants {name}")
    import onnxruntime

    path, wanted = big
    out = written(path, "onnx", tmp_path, suffix=".onnx")
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": IMAGES.numpy()})
    close(torch.from_numpy(found[0]), wanted)


def test_onnx_without_its_packages(run, tmp_path, capsys, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if "onnx" in n else real(n, *a)
    )
    assert weight_files.export(run, "--to", "onnx", "-o", tmp_path / "a.onnx") == 2
    assert "pip install 'vissl_swav[onnx]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_of_ours_to_tensors(run, tmp_path, capsys):
    """Ours has a small stem: torchvision's names, but no function of torchvision's."""
    out = written(run, "torchvision", tmp_path, suffix=".pth")
    said = capsys.readouterr().out
    assert "to load" not in said and said.count("note: ") == 1
    assert re.search(r"this ResNet \(conv1 \d+x3x3x3, basic blocks 2-2-2-2\);", said)
    assert f'vissl_swav.predictor("{out}") builds it' in said
    own = own_features(run, torch.randn(1, 3, 24, 24))[3].model.trunk.state_dict()
    found = torch.load(out)
    assert {f"_feature_blocks.{n}" for n in found} == set(own)
    assert all(torch.equal(t, own[f"_feature_blocks.{n}"]) for n, t in found.items())


def test_a_run_of_ours_to_vissls_layout_and_back(run, tmp_path):
    """Trunk and heads under the names that they had."""
    out = written(run, "vissl", tmp_path, "--part", "all", suffix=".torch")
    found = torch.load(out)["classy_state_dict"]["base_model"]["model"]
    own = own_features(run, torch.randn(1, 3, 24, 24))[3].model
    for part, module in (("trunk", own.trunk), ("heads", own.heads)):
        state = module.state_dict()
        assert found[part].keys() == state.keys()
        assert all(torch.equal(found[part][name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("names", "layout", "wanted"),
    [
        # A RegNet keeps VISSL's blocks, a transformer has none.
        (
            ["_feature_blocks.conv1.0.weight"],
            "VISSL",
            ["_feature_blocks.conv1.0.weight"],
        ),
        (["cls_token", "patch_embed.proj.weight"], "VISSL", None),
        (["cls_token", "patch_embed.proj.weight"], "timm", None),
        (["stem.0.weight"], "timm", []),
    ],
)
def test_other_trunks_for_vissl(names, layout, wanted, tmp_path, capsys):
    state = {name: torch.ones(2, 2) for name in names}
    content = {
        "classy_state_dict": {"base_model": {"model": {"trunk": state, "heads": {}}}}
    }
    path = weight_files.saved(
        content if layout == "VISSL" else state, tmp_path / "a.pth"
    )
    out = tmp_path / "out.torch"
    assert weight_files.export(path, "--to", "vissl", "-o", out) == (
        2 if wanted == [] else 0
    )
    if wanted == []:
        assert "can be written for VISSL" in capsys.readouterr().err
        assert not out.exists()
    else:
        model = torch.load(out)["classy_state_dict"]["base_model"]["model"]
        assert list(model["trunk"]) == (wanted or names)


def test_a_trunk_that_only_its_config_describes(run, tmp_path, capsys):
    """BGR order leaves no trace in the tensors: no graph is written of a wrong net."""
    config = yaml.safe_load((run / "train_config.yaml").read_text())
    config["MODEL"]["INPUT_TYPE"] = "bgr"
    (tmp_path / "bgr.yaml").write_text(yaml.dump(config))
    out = tmp_path / "out.pt"
    arguments = ("--to", "torchscript", "-o", out, "--config", tmp_path / "bgr.yaml")
    assert weight_files.export(run, *arguments) == 2
    assert "gives other features" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("to", ["torchvision", "safetensors", "torchscript", "vissl"])
def test_a_name_without_an_ending(to, run, tmp_path):
    out = written(run, to, tmp_path, suffix="")
    if to != "torchscript":
        assert weights.load(out).counts["trunk"] > 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "detectron2"], "has a small stem"),
        (["--to", "detectron2", "-o", "out.pth"], "ends in .pth; wanted .pkl"),
        (["--to", "detectron2", "--part", "all"], "no place for a projection head"),
        (["--to", "timm", "--part", "all"], "no place for a projection head"),
        (["--to", "torchvision", "-o", "gone/out.pth"], "there is no folder gone"),
        (["--to", "torchvision", "-o", "."], "is a folder"),
        (["--to", "vissl", "--trunk-prefix", "eyes."], "holds no trunk"),
    ],
)
def test_what_cannot_be_written(arguments, words, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert weight_files.export(run, *arguments) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_unasked(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "ours_safetensors.safetensors"
    out.write_text("mine")
    assert weight_files.export(run, "--to", "safetensors") == 2
    assert "--force" in capsys.readouterr().err and out.read_text() == "mine"
    assert weight_files.export(run, "--to", "safetensors", "--force") == 0
    assert weights.load(out).counts["trunk"] > 100
    checkpoint = run / "checkpoint.torch"
    before = checkpoint.read_bytes()
    assert weight_files.export(run, "--to", "vissl", "-o", checkpoint, "--force") == 2
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "stem"),
    [("swav_800ep_pretrain.pth.tar", "swav_800ep_pretrain"), ("v1.2", "v1.2")],
)
def test_the_name_by_default(name, stem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trunk = weight_files.trunk_of(weight_files.resnet())
    weight_files.saved(trunk, tmp_path / name)
    assert weight_files.export(name, "--to", "timm") == 0
    assert (tmp_path / f"{stem}_timm.pth").is_file()


def test_a_write_that_fails_leaves_nothing(run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out.pth"
    out.write_text("mine")

    def full(weights, path):
        path.write_bytes(b"half")
        raise RuntimeError("unexpected pos 512 vs 424")

    monkeypatch.setitem(export_module._WRITERS, "torchvision", full)
    arguments = ("--to", "torchvision", "-o", out, "--force")
    assert weight_files.export(run, *arguments) == 2
    assert "could not be written: unexpected pos" in capsys.readouterr().err
    assert out.read_text() == "mine" and list(tmp_path.iterdir()) == [out]


def test_a_graph_of_a_net_that_nothing_describes(tmp_path, capsys):
    state = {"patch_embed.proj.weight": torch.randn(4, 3, 8, 8)}
    path = weight_files.saved(state, tmp_path / "vit.pth")
    out = tmp_path / "out.pt"
    assert weight_files.export(path, "--to", "torchscript", "-o", out) == 2
    assert "name the run's with --config" in capsys.readouterr().err
    with pytest.raises(WeightsError, match="torchvision has no other"):
        export_module.export_weights(weights.load(path, "trunk"), "torchvision", out)
