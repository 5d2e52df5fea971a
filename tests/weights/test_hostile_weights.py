"""Broken and hostile files, and models in parts."""

import io
import pickle
import re
import warnings

import hostile_files
import pytest
import safetensors.torch
import torch
import weight_files

from vissl_swav import weights
from vissl_swav.weights import files
from vissl_swav.weights.errors import WeightsError

TRUNK = {"conv1.weight": torch.randn(4, 3, 3, 3), "bn1.weight": torch.ones(4)}


def plain(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


BYTES = {
    "empty": lambda mark: b"",
    "text": lambda mark: b"a file of text, no weights\n" * 9,
    "image": lambda mark: b"\x89PNG\r\n\x1a\n" + bytes(200),
    "cut short": lambda mark: plain(TRUNK)[:700],
    "torch": lambda mark: hostile_files.harmful(mark),
    "legacy": lambda mark: hostile_files.harmful(mark, "legacy"),
    "pickle": lambda mark: hostile_files.harmful(mark, "pickle"),
    "bomb": lambda mark: hostile_files.bomb(1 << 24),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", BYTES)
def test_one_message_and_no_harm(kind, suffix, tmp_path, capsys):
    mark = tmp_path / "harmed"
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(BYTES[kind](mark))
    found = hostile_files.opened(weights.load, path, errors=(WeightsError,))
    assert found.error is not None and str(path) in str(found.error)
    assert not mark.exists()
    out = tmp_path / "out.pth"
    assert weight_files.export(path, "--to", "torchvision", "-o", out) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("vissl-swav export: ")
    assert not out.exists() and list(tmp_path.iterdir()) == [path]


def test_a_file_that_needs_more_says_how_to_go_on(tmp_path, monkeypatch):
    import argparse

    path = tmp_path / "lightning.ckpt"
    content = {"state_dict": TRUNK, "hyper_parameters": argparse.Namespace(lr=0.1)}
    torch.save(content, path)
    with pytest.raises(WeightsError, match="argparse.Namespace") as caught:
        weights.load(path)
    assert "VISSL_SWAV_TRUST_CHECKPOINTS=1" in str(caught.value)
    monkeypatch.setenv("VISSL_SWAV_TRUST_CHECKPOINTS", "1")
    assert set(weights.load(path).trunk) == set(TRUNK)


@pytest.mark.parametrize("name", ["weights.pth", "weights", "weights.safetensors"])
@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_a_file_is_what_its_first_bytes_say(kind, name, tmp_path):
    whole = plain(TRUNK) if kind == "torch" else safetensors.torch.save(TRUNK)
    (tmp_path / name).write_bytes(whole)
    found = weights.load(tmp_path / name).trunk
    assert all(torch.equal(found[key], TRUNK[key]) for key in TRUNK)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"MODEL:\n  TRUNK: resnet\n", "a text file, .* begins 'MODEL: TRUNK: resnet'"),
        ("<!DOCTYPE html>Gr\u00fc\u00dfe".encode() * 20, "begins '<!DOCTYPE html>"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x93NUMPY\x01\x00v\x00", r"begins with the bytes b'\\x93NUMPY"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "begins with the bytes"),
    ],
)
def test_files_of_other_kinds_are_told(content, words, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=words) as caught:
        weights.load(path)
    assert "weights_only" not in str(caught.value)


def test_a_program_says_how_its_tensors_are_had(tmp_path, monkeypatch):
    """What the message says is done, and loads."""
    monkeypatch.chdir(tmp_path)
    net = weight_files.resnet()
    path = weight_files.saved(weight_files.trunk_of(net), tmp_path / "net.pth")
    out = tmp_path / "net.pt"
    assert weight_files.export(path, "--to", "torchscript", "-o", out) == 0
    with pytest.raises(WeightsError, match="is a TorchScript program") as caught:
        weights.load(out)
    code = re.search(r"torch\.save\(.*\)", str(caught.value))[0].replace("NEW", "'new'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        exec(code)
    found = weights.load("new").trunk
    wanted = weights.load(path).trunk
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_every_cut_of_a_file_is_told(tmp_path):
    whole = plain(TRUNK)
    path = tmp_path / "cut.pth"
    for end in range(0, len(whole), 97):
        path.write_bytes(whole[:end])
        found = hostile_files.opened(weights.load, path, errors=(WeightsError,))
        assert found.error is not None, end


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_seeded_damage(suffix, tmp_path):
    """A value or one message, never another error."""
    whole = plain(TRUNK) if suffix == ".pth" else safetensors.torch.save(TRUNK)
    path = tmp_path / f"damaged{suffix}"
    for seed in range(150):
        path.write_bytes(hostile_files.mutate(whole, seed))
        hostile_files.opened(weights.load, path, errors=(WeightsError,))


@pytest.mark.parametrize("name", ["gone.pth", "gone.safetensors", ""])
def test_no_file(name, tmp_path):
    with pytest.raises(WeightsError, match="cannot be opened|is a folder"):
        weights.load(tmp_path / name)


def test_an_address():
    with pytest.raises(WeightsError, match="https://a.org/b.pth is an address; downl"):
        weights.load("https://a.org/b.pth")


def sharded(folder):
    """Two shards as fairscale cuts them: a flat wrapper inside one that is not."""
    flat = torch.arange(11.0)
    weight, bias = torch.arange(6.0).reshape(3, 2), torch.arange(3.0) + 10
    shards = []
    for rank in range(2):
        trunk = {
            "weight": torch.cat([weight.reshape(-1)])[rank * 3 : rank * 3 + 3],
            "bias": torch.cat([bias, torch.zeros(1)])[rank * 2 : rank * 2 + 2],
            "inner.flat_param": torch.cat([flat, torch.zeros(1)])[
                rank * 6 : rank * 6 + 6
            ],
            "inner.bn.running_mean": torch.full((2,), 7.0),
        }
        meta = {
            "param_metadata": [
                {
                    "fsdp_path": "", "is_flat": False,
                    "param_names": ["weight", "bias"],
                    "param_numels": [6, 3], "param_shapes": [(3, 2), (3,)],
                    "num_padded": [0, rank],
                },
                {
                    "fsdp_path": "inner", "is_flat": True,
                    "param_names": ["a.weight", "a.bias"],
                    "param_numels": [8, 3], "param_shapes": [(2, 4), (3,)],
                    "num_padded": [rank],
                },
            ],
            "buffer_names": ["inner.bn.running_mean"],
        }  # fmt: skip
        shards.append((trunk, meta))
        base = {"model": {"trunk": trunk, "heads": [{}]}, "meta": {"trunk": meta}}
        state = {"type": "shard", "classy_state_dict": {"base_model": base}}
        torch.save(state, folder / f"model_shard{rank}.torch")
    names = [f"model_shard{rank}.torch" for rank in range(2)]
    torch.save({"type": "shard_list", "shards": names}, folder / "model.torch")
    return shards


def test_shards_come_out_as_fairscale_puts_them_together(host, tmp_path):
    from fairscale.nn import FullyShardedDataParallel

    shards = sharded(tmp_path)
    wanted = FullyShardedDataParallel.consolidate_shard_weights(
        [trunk for trunk, _ in shards], [meta for _, meta in shards]
    )
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    found = weights.load(moved / "model.torch").trunk
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
    with pytest.raises(WeightsError, match="name the file that lists the shards"):
        weights.load(moved / "model_shard0.torch")
    (moved / "model_shard1.torch").unlink()
    with pytest.raises(WeightsError, match="model_shard1.torch cannot be opened"):
        weights.load(moved / "model.torch")


def test_vissls_slices(host, tmp_path):
    """Written by VISSL's own converter, then the folder moves."""
    from vissl.utils.checkpoint import CheckpointFormatConverter

    sharded(tmp_path)
    wanted = weights.load(tmp_path / "model.torch").trunk
    CheckpointFormatConverter.sharded_to_sliced_checkpoint(
        str(tmp_path / "model.torch"), str(tmp_path / "sliced.torch")
    )
    moved = tmp_path.rename(tmp_path.with_name("moved_slices"))
    found = weights.load(moved / "sliced.torch").trunk
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_shards_that_do_not_fit_together(tmp_path):
    sharded(tmp_path)
    state = torch.load(tmp_path / "model_shard1.torch")
    state["classy_state_dict"]["base_model"]["model"]["trunk"].pop("bias")
    torch.save(state, tmp_path / "model_shard1.torch")
    with pytest.raises(WeightsError, match="do not fit together .KeyError: 'bias'"):
        weights.load(tmp_path / "model.torch")


def test_a_pickle_of_detectron2s_is_told_from_torchs(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": {}, "__author__": "me"}))
    with pytest.raises(WeightsError, match="cannot be read as a checkpoint"):
        files.read(path)
