"""What an example cannot do ends with one sentence before anything is trained."""

from types import SimpleNamespace

import pytest
import torch
from example_programs import losses, toy

pytestmark = [pytest.mark.filterwarnings(f"ignore:::{p}") for p in ("timm", "datasets")]
PLAIN = {
    "--counts 2": "do not go together",
    "--sizes 24 16 12 --counts 2 2 2": "do not go together",
    "--sizes 12 --counts 1": "a loss compares two crops",
    "--counts 2 0": "--counts: 0 is out of range; wanted at least 1",
    "--strength 5": "--strength: 5 is out of range; wanted 0 to 1.25",
    "--cut 2": "--cut: 2 is out of range; wanted 0.01 to 1",
    "--cut nan": "--cut: nan is out of range",
    "--lr inf": "--lr: inf is out of range; wanted at least 0",
    "--queue -1": "--queue: -1 is out of range; wanted at least 0",
    "--epochs -1": "--epochs: -1 is out of range",
    "--batch 0": "--batch: 0 is out of range; wanted at least 1",
    "--batch many": "--batch: invalid int value: 'many'",
    "--resume": "there is no",
    "--out .": "is a folder; wanted a file",
    "--out setup.py/a.pt": "cannot be written",
}
CASES = [("plain_pytorch", words, told) for words, told in PLAIN.items()]
CASES += [
    ("hugging_face_data", "--stream --steps 0", "--steps: 0 is out of range"),
    ("lightly_deepcluster_v2", "--clusterings 0", "--clusterings: 0 is out of range"),
    ("timm_trunks", "--set patch_size", "patch_size is not NAME=VALUE"),
]


@pytest.mark.parametrize(("name", "words", "told"), CASES)
def test_arguments_that_no_run_can_have(
    name, words, told, example, data, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "setup.py").touch()
    with pytest.raises(SystemExit) as end:
        example(name).main(toy(data, tmp_path / "a.pt", *words.split()))
    printed = capsys.readouterr()
    assert end.value.code == 2 and not losses(printed.out)
    assert told in printed.err.splitlines()[-1]


@pytest.mark.parametrize("trunk", ["mobilenet_v3_small", "nosuch"])
def test_a_trunk_that_does_not_fit(trunk, example, data, tmp_path):
    with pytest.raises(SystemExit, match=f"--trunk {trunk}: wanted small or a ResNet"):
        example("plain_pytorch").main(toy(data, tmp_path / "a.pt", "--trunk", trunk))


def test_a_resnet_fits(example):
    trunk, width = example("parts").make_trunk("resnet18")
    assert trunk(torch.zeros(2, 3, 24, 24)).shape == (2, width) == (2, 512)


def test_settings_of_timms_trunks(example):
    timm_trunks = example("timm_trunks")
    name, sizes = "vit_tiny_patch16_224", [24, 16]
    small = {"patch_size": 8, "depth": 1}
    with pytest.raises(SystemExit, match=r"does not take .*--set.*'dept'"):
        timm_trunks.make_trunk(name, sizes, {"dept": 1})
    with pytest.raises(SystemExit, match="gives no row of features"):
        timm_trunks.make_trunk(name, sizes, {**small, "global_pool": ""})
    word = timm_trunks.setting("global_pool=avg")
    assert word == ("global_pool", "avg")
    assert timm_trunks.setting("dims=(8, 16)") == ("dims", (8, 16))
    _, width = timm_trunks.make_trunk(name, sizes, {**small, **dict([word])})
    assert width == 192


@pytest.mark.parametrize("name", ["plain_pytorch", "lightly_swav"])
def test_crops_of_one_size(name, example, data, tmp_path, capsys):
    options = toy(data / "train", tmp_path / "a.pt", "--epochs", "1")
    example(name).main([*options, "--sizes", "12", "--counts", "3"])
    assert len(losses(capsys.readouterr().out)) == 1


def test_more_prototypes_than_images(example, data, tmp_path):
    options = toy(data, tmp_path / "a.pt", "--batch", "9", "--prototypes", "37")
    with pytest.raises(SystemExit, match="--prototypes 37 is more than 36, the images"):
        example("lightly_deepcluster_v2").main(options)


def test_an_epoch_without_a_step(example, monkeypatch):
    """10 images are a batch of 8, but none of two processes."""
    parts = example("parts")
    options = SimpleNamespace(batch=8, workers=0, seed=0, data="here")
    assert len(parts.make_loader(range(10), options)) == 1
    two = SimpleNamespace(rank=0, world_size=2)
    monkeypatch.setattr(parts, "collective", lambda: two)
    with pytest.raises(
        SystemExit, match="here holds 10 images, fewer than a batch of 16"
    ):
        parts.make_loader(range(10), options)
