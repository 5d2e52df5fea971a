"""Every file of `examples/`, at toy size on data drawn here."""

import ast
import importlib
import subprocess
import sys

import gloo
import pytest
import torch
from example_programs import EXAMPLES, losses, on_two_ranks, same, toy

import vissl_swav
from vissl_swav.data import build

MOST_LINES = {"plain_pytorch": 79, "parts": 230}
FILES = sorted(EXAMPLES.glob("*.py"))
# What other packages warn of is not ours to mend.
pytestmark = [pytest.mark.filterwarnings(f"ignore:::{p}") for p in ("timm", "datasets")]


def is_unit(rows):
    return torch.allclose(rows.norm(dim=1), torch.ones(len(rows)), atol=1e-6)


def test_plain(example, data, tmp_path, capsys):
    module = example("plain_pytorch")
    accuracy = module.main(toy(data, tmp_path / "a.pt"))
    first = capsys.readouterr().out
    assert accuracy is not None and f"20-NN: {accuracy:.1f} %" in first
    assert len(losses(first)) == 2 and "ln K: 2.303" in first
    module.main(toy(data, tmp_path / "b.pt"))
    assert capsys.readouterr().out == first
    module.main(toy(data, tmp_path / "c.pt", "--seed", "1"))
    assert losses(capsys.readouterr().out) != losses(first)
    a, b = (torch.load(tmp_path / name) for name in ("a.pt", "b.pt"))
    assert same(a, b)
    assert is_unit(a["net"]["prototypes.heads.0.weight"])
    # 5 steps an epoch, 8 images each: 32 rows are full in the first.
    assert a["swav"]["num_steps"].tolist() == [10]
    assert a["swav"]["queue.num_filled"].tolist() == [32]


def test_hugging_face_trains_as_the_folder_does(example, data, tmp_path, capsys):
    plain, hugging_face = example("plain_pytorch"), example("hugging_face_data")
    accuracy = plain.main(toy(data, tmp_path / "a.pt"))
    wanted = capsys.readouterr().out
    assert hugging_face.main(toy(data, tmp_path / "b.pt")) == accuracy
    assert capsys.readouterr().out == wanted
    a, b = (torch.load(tmp_path / name) for name in ("a.pt", "b.pt"))
    assert b["settings"].items() > a.pop("settings").items()
    assert all(same(a[name], b[name]) for name in a) and "net" in a


def test_hugging_face_stream(example, data, tmp_path, capsys):
    module = example("hugging_face_data")
    options = toy(data, tmp_path / "a.pt", "--stream", "--steps", "7")
    accuracy = module.main(options)
    assert len(losses(capsys.readouterr().out)) == 2 and accuracy is not None
    # 14 steps of 5 a pass: the stream was begun anew.
    assert torch.load(tmp_path / "a.pt")["swav"]["num_steps"].tolist() == [14]
    with pytest.raises(SystemExit, match="no whole batch; make --batch smaller"):
        module.main([*options, "--batch", "64"])
    with pytest.raises(SystemExit, match="No column picture; name one of"):
        module.main([*options, "--image", "picture"])


VIT = ("--trunk", "vit_tiny_patch16_224", "--set", "patch_size=8", "depth=1")
CONVNEXT = ("--trunk", "convnext_atto", "--set", "patch_size=1", "depths=(1,1,1,1)")
CONVNEXT = (*CONVNEXT, "dims=(8,16,32,64)")


@pytest.mark.parametrize("trunk", [VIT, CONVNEXT], ids=["vit", "convnext"])
def test_timm(trunk, example, data, tmp_path, capsys):
    module = example("timm_trunks")
    module.main(toy(data, tmp_path / "a.pt", *trunk))
    assert len(losses(capsys.readouterr().out)) == 2
    names = torch.load(tmp_path / "a.pt")["net"]
    assert any("blocks.0" in name for name in names)
    assert not any("trunk.head.fc" in name for name in names)


def test_timm_says_what_does_not_fit(example, data, tmp_path):
    module = example("timm_trunks")
    options = toy(data, tmp_path / "a.pt")
    with pytest.raises(SystemExit, match="no crops of 12 pixels.*multiples"):
        module.main([*options, *VIT, "--sizes", "24", "12"])
    with pytest.raises(SystemExit, match="no crops of 24 pixels"):
        module.main([*options, "--trunk", "convnext_atto"])
    with pytest.raises(SystemExit, match="timm has no convnext_huge_9"):
        module.main([*options, "--trunk", "convnext_huge_9"])


@pytest.mark.parametrize("name", ["plain_pytorch", "hugging_face_data"])
def test_data_that_cannot_be_used(name, example, data, tmp_path):
    module = example(name)
    (tmp_path / "empty").mkdir()
    options = toy(tmp_path / "empty", tmp_path / "a.pt")
    with pytest.raises(SystemExit, match="empty|doesn't contain"):
        module.main(options)
    missing = toy(tmp_path / "missing", tmp_path / "a.pt")
    with pytest.raises(SystemExit, match="there is no folder|No data set from"):
        module.main(missing)
    with pytest.raises(SystemExit, match="40 images, fewer than a batch of 64"):
        module.main([*options, "--data", str(data), "--batch", "64"])
    assert not (tmp_path / "a.pt").exists()


@pytest.fixture(scope="module")
def two_ranks(data, tmp_path_factory):
    """All that exchanges between processes, in one start of them."""
    for package in ("pytorch_lightning", "lightly"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is missing: pip install vissl_swav[dev]")
    out = tmp_path_factory.mktemp("out")
    return gloo.run(on_two_ranks, 2, data / "train", out, timeout=270)


@pytest.mark.parametrize("name", ["plain_pytorch", "lightly_swav", "lightning"])
def test_every_rank_keeps_its_own_queue(name, two_ranks):
    saved = two_ranks[0][name]["swav"]
    features = saved["queue.features"]
    # 40 images over 2 ranks: 2 steps an epoch; 32 rows are 16 for each rank.
    assert features.shape == (2, 2, 16, 64)
    assert saved["queue.num_filled"].tolist() == [16, 16]
    assert saved["num_steps"].tolist() == [4, 4]
    assert not torch.isclose(features[0], features[1]).all(dim=-1).any()


def test_lightning_gives_every_rank_its_queue_back(two_ranks):
    saved = two_ranks[0]["lightning"]["swav"]["queue.features"]
    for rank, found in enumerate(two_ranks):
        assert torch.equal(found["loaded"], saved[rank])
    assert two_ranks[0]["resumed"]["swav"]["num_steps"].tolist() == [6, 6]
    weights = two_ranks[0]["resumed"]["state_dict"]
    assert is_unit(weights["net.prototypes.heads.0.weight"])
    assert not any("queue" in name for name in weights)
    # The rate has fallen to its end, as in a run that was not broken off.
    assert two_ranks[0]["resumed"]["lr_schedulers"][0]["_last_lr"] == [0.0]


def test_lightning_goes_on_with_the_same_settings_alone(two_ranks):
    epochs, devices = two_ranks[0]["refused"]
    assert "lightning.pt was begun with other settings" in epochs
    assert "(--epochs 3, now 5)" in epochs and "(--devices 2, now 1)" in devices


def test_a_run_of_two_processes_does_not_go_on_with_one(example, data, two_ranks):
    file = two_ranks[0]["files"] / "plain_pytorch.pt"
    options = toy(data / "train", file, "--resume")
    with pytest.raises(SystemExit, match=r"processes 2, now 1.*Keep them"):
        example("plain_pytorch").main(options)


def test_lightlys_prototypes_are_cosines(two_ranks):
    net = two_ranks[0]["lightly_swav"]["net"]
    assert is_unit(net["prototypes.heads.0.weight"])
    assert "prototypes.heads.0.bias" not in net


def test_deepcluster_v2_clusters_the_images_of_both_ranks(two_ranks):
    saved = two_ranks[0]["lightly_deepcluster_v2"]
    assert len(saved["prototypes"]) == 3
    assert all(is_unit(C) and C.shape == (10, 64) for C in saved["prototypes"])
    assert saved["labels"].shape == (3, 40, 1)
    # A rank sees 16 of its 20 images in an epoch.
    assert (saved["labels"] >= 0).sum(dim=1).min() >= 32


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_examples_are_short_and_use_public_names(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES.get(file.stem, 119)
    for node in ast.walk(ast.parse(text)):
        if file.stem != "parts" and isinstance(node, ast.ImportFrom):
            assert node.module != "vissl_swav" or {
                alias.name for alias in node.names
            } <= set(vissl_swav.__all__)
            assert not (node.module or "").startswith("vissl_swav.")


def test_the_page_names_every_example():
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text(encoding="utf-8")
    for file in FILES:
        assert f"examples/{file.name}" in page, file.name


@pytest.mark.slow
def test_lightning_starts_its_processes(data, tmp_path):
    pytest.importorskip("pytorch_lightning", reason="pip install vissl_swav[dev]")
    command = [sys.executable, str(EXAMPLES / "lightning_swav.py"), "--devices", "2"]
    run = subprocess.run(
        [*command, *toy(data, tmp_path / "a.ckpt")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr
    assert len(losses(run.stdout)) == 2 and run.stdout.count("NN:") == 1
    saved = torch.load(tmp_path / "a.ckpt", weights_only=False)["swav"]
    assert saved["num_steps"].tolist() == [4, 4]


@pytest.mark.slow
def test_plain_learns(example, tmp_path):
    """39.0 and 83.4 % where docs/examples.md was written."""
    module = example("plain_pytorch")
    data = build(tmp_path / "set", num_train=2000, num_test=500)
    options = ["--data", str(data), "--strength", "0", "--workers", "0"]
    options += ["--out", str(tmp_path / "a.pt")]
    random = module.main([*options, "--epochs", "0"])
    assert module.main(options) > random + 10
