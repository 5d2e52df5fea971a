"""Clusters of images: against VISSL's own model and Pillow, and against loops."""

import builtins
import csv
import io
import math
import os
import tarfile
from pathlib import Path

import cluster_runs
import host_runs
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from vissl_swav.data.folders import list_images
from vissl_swav.data.image_list import open_images

METHODS = ("swav", "deepcluster_v2", "sela_v2")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return host_runs.make_images(tmp_path_factory.mktemp("images") / "set")


@pytest.fixture(scope="module")
def run(host, images, tmp_path_factory):
    """A run with two heads, of 12 and 5 prototypes."""
    folder = tmp_path_factory.mktemp("runs") / "two_heads"
    return cluster_runs.untrained(images, folder, loss="sela_v2", clusters=(12, 5))


def assign(images, checkpoint, *arguments):
    return cluster_runs.command(
        "assign", "--images", images, "--checkpoint", checkpoint, *arguments
    )


def table(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def columns(rows, head=0):
    mine = [row for row in rows if int(row["head"]) == head]
    return (
        [row["path"] for row in mine],
        np.array([int(row["cluster"]) for row in mine]),
        np.array([float(row["score"]) for row in mine]),
        np.array([float(row["margin"]) for row in mine]),
    )


def hosts_scores(images, run):
    """Cosines (N, K) of each head: VISSL's loader and model, Pillow's pixels."""
    from vissl.config import AttrDict
    from vissl.models import build_model

    cfg = yaml.safe_load((run / "train_config.yaml").read_text())
    model = build_model(AttrDict(cfg["MODEL"]), AttrDict(cfg["OPTIMIZER"]))
    state = torch.load(run / "checkpoint.torch", weights_only=False)
    model.set_classy_state(state["classy_state_dict"]["base_model"])
    model.eval()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    batch = []
    for path in sorted(Path(images).rglob("*.png")):
        # 7/8 of 32 pixels is 28, in the middle; the run's largest crops have 24.
        small = Image.open(path).crop((2, 2, 30, 30)).resize((24, 24), Image.BILINEAR)
        batch.append(((np.asarray(small) / 255 - mean) / std).transpose(2, 0, 1))
    with torch.no_grad():
        ((embeddings, *_),) = model(torch.tensor(np.array(batch)).float())
    heads = [getattr(model.heads[0], f"prototypes{n}").weight for n in (0, 1)]
    units = [torch.nn.functional.normalize(C.detach(), dim=1).numpy() for C in heads]
    return [embeddings.numpy() @ C.T for C in units]


def second(values):
    return np.sort(values, axis=1)[:, -2]


@pytest.mark.parametrize("mode", ["argmax", "softmax", "sinkhorn"])
def test_the_three_modes(images, run, tmp_path, mode):
    out = tmp_path / "out.csv"
    assert assign(images, run, "--mode", mode, "-o", out) == 0
    rows = table(out)
    assert list(rows[0]) == ["path", "head", "cluster", "score", "margin"]
    for head, scores in enumerate(hosts_scores(images, run)):
        values = expected(scores, mode)
        paths, cluster, score, margin = columns(rows, head)
        assert paths == [str(p) for p in sorted(Path(images).rglob("*.png"))]
        np.testing.assert_allclose(score, values.max(axis=1), atol=3e-3)
        np.testing.assert_allclose(
            margin, values.max(axis=1) - second(values), atol=3e-3
        )
        clear = values.max(axis=1) - second(values) > 5e-3
        assert clear.any()
        assert (cluster == values.argmax(axis=1))[clear].all()


def expected(scores, mode):
    """Values (N, K) of a mode, in float64 and by explicit normalisations."""
    scores = scores.astype(np.float64)
    if mode == "argmax":
        return scores
    if mode == "softmax":
        values = np.exp(scores / 0.1)
        return values / values.sum(axis=1, keepdims=True)
    Q = np.exp((scores - scores.max()) / 0.05)
    for _ in range(2000):
        Q *= len(Q) / Q.shape[1] / Q.sum(axis=0, keepdims=True)
        Q /= Q.sum(axis=1, keepdims=True)
    return Q


def test_sinkhorn_uses_every_prototype_alike(images, run, tmp_path):
    for mode in ("argmax", "sinkhorn"):
        assert assign(images, run, "--mode", mode, "-o", tmp_path / f"{mode}.csv") == 0
    sizes = {
        mode: np.bincount(columns(table(tmp_path / f"{mode}.csv"), 1)[1], minlength=5)
        for mode in ("argmax", "sinkhorn")
    }
    assert sizes["sinkhorn"].max() < sizes["argmax"].max()
    assert sizes["sinkhorn"].min() > 0


def test_batches_and_workers_do_not_matter(images, run, tmp_path, host):
    for name, more in (("a", ["--batch-size", 48]), ("b", ["--batch-size", 5])):
        workers = ["--workers", 2 if name == "b" else 0]
        assert assign(images, run, "-o", tmp_path / f"{name}.csv", *more, *workers) == 0
    one, other = table(tmp_path / "a.csv"), table(tmp_path / "b.csv")
    assert [row["path"] for row in one] == [row["path"] for row in other]
    a, b = columns(one), columns(other)
    np.testing.assert_allclose(a[2], b[2], atol=1e-5)
    assert (a[1] == b[1])[a[3] > 1e-4].all()


def test_train_mode_would_give_other_clusters(images, run):
    """Why eval mode (swav#58): the batch's statistics decide, not the image alone."""
    from vissl_swav.suite.checkpoint_model import load_model
    from vissl_swav.suite.image_views import embed

    model = load_model(run, device="cpu")
    listed = open_images(images)
    assert not model.model.training
    wanted = embed(listed, model, batch_size=48).features
    model.model.train()
    whole = embed(listed, model, batch_size=48).features
    parts = embed(listed, model, batch_size=4).features
    C = model.prototypes[0]
    assert (whole - parts).abs().max() > 0.1
    assert ((whole @ C.t()).argmax(1) != (wanted @ C.t()).argmax(1)).any()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", METHODS)
def test_a_trained_run_of_each_method(host, images, tmp_path, method):
    """And the folder may have moved, so that its link to the checkpoint is broken."""
    host_runs.train(
        *cluster_runs.overrides(images, tmp_path / "run", loss=method, clusters=(6, 4))
    )
    (tmp_path / "run").rename(tmp_path / "moved")
    link = tmp_path / "moved" / "checkpoint.torch"
    link.unlink()
    link.symlink_to(tmp_path / "run" / "model_final_checkpoint_phase0.torch")
    out = tmp_path / "out.csv"
    assert assign(images, tmp_path / "moved", "-o", out) == 0
    rows = table(out)
    assert len(rows) == 2 * 48
    for head, count in enumerate((6, 4)):
        _, cluster, score, margin = columns(rows, head)
        assert 0 <= cluster.min() and cluster.max() < count
        assert (np.abs(score) <= 1.000001).all() and (margin >= 0).all()


def test_standard_output_is_the_table_alone(images, run, capsys):
    assert assign(images, run) == 0
    printed = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert len(rows) == 2 * 48
    assert "eval mode" in printed.err and "centre 24 x 24" in printed.err


def test_unreadable_images_are_named_and_left_out(run, tmp_path, capsys):
    folder = host_runs.make_images(tmp_path / "set", per_class=3)
    (folder / "class0" / "1.png").write_bytes(b"no image")
    assert assign(folder, run, "-o", tmp_path / "out.csv") == 0
    assert (
        f"left out: {folder / 'class0' / '1.png'}: no image" in capsys.readouterr().err
    )
    assert len(table(tmp_path / "out.csv")) == 2 * 5
    for file in folder.rglob("*.png"):
        file.write_bytes(b"no image")
    assert assign(folder, run) == 2
    assert "none of 6 images" in capsys.readouterr().err


def test_lists_and_shards(images, run, tmp_path):
    """A name that is no UTF-8 comes through as it is."""
    strange = os.fsdecode(b"caf\xe9.png")
    source = sorted(Path(images).rglob("*.png"))[0]
    (tmp_path / strange).write_bytes(source.read_bytes())
    (tmp_path / "list.txt").write_bytes(os.fsencode(f"{source}\n{strange}\n"))
    assert assign(tmp_path / "list.txt", run, "-o", tmp_path / "out.csv") == 0
    paths, cluster, *_ = columns(table(tmp_path / "out.csv"))
    assert paths == [str(source), str(tmp_path / strange)]
    assert cluster[0] == cluster[1]
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(source, "a.png")
    links = tmp_path / "links"
    assert (
        assign(
            tmp_path / "shard.tar", run, "-o", tmp_path / "out.csv", "--symlink", links
        )
        == 0
    )
    (copy,) = (links / "head1").rglob("*.png")
    assert copy.read_bytes() == source.read_bytes() and not copy.is_symlink()


def test_links_are_an_image_folder(images, run, tmp_path):
    links, out = tmp_path / "links", tmp_path / "out.csv"
    assert assign(images, run, "-o", out, "--symlink", links, "--mode", "sinkhorn") == 0
    rows = table(out)
    for head, digits in ((0, 2), (1, 1)):
        paths, cluster, *_ = columns(rows, head)
        found = {
            os.readlink(link): name
            for name, files in list_images(links / f"head{head}").items()
            for link in files
        }
        wanted = [f"{number:0{digits}d}" for number in cluster]
        assert found == dict(zip(paths, wanted, strict=True))


@pytest.mark.timeout(600)
def test_vissl_trains_on_the_links(images, host, tmp_path):
    """A supervised run of the host, a class a cluster, on the frozen trunk."""
    trained = tmp_path / "pretrain"
    host_runs.train(*cluster_runs.overrides(images, trained, clusters=(4,)))
    links = tmp_path / "links"
    assert assign(
        images, trained, "-o", tmp_path / "out.csv", "--symlink", links,
        "--mode", "sinkhorn",
    ) == 0  # fmt: skip
    classes = len(list_images(links))
    assert classes > 1
    host_runs.train(
        "config=benchmark/linear/small_images",
        f"config.DATA.TRAIN.DATA_PATHS=[{links}]",
        f"config.DATA.TEST.DATA_PATHS=[{links}]",
        "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=16",
        "config.MODEL.TRUNK.RESNET_SMALL.WIDTH=2",
        f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={trained}/checkpoint.torch",
        f"config.MODEL.HEAD.PARAMS=[[eval_mlp,{{in_channels:16,dims:[16,{classes}]}}]]",
        "config.OPTIMIZER.num_epochs=2",
        f"config.CHECKPOINT.DIR={tmp_path / 'linear'}",
    )
    losses = host_runs.losses(tmp_path / "linear")
    assert len(losses) == 2 * 3 and all(map(math.isfinite, losses))


@pytest.mark.parametrize("where", ["inside", "full", "file"])
def test_the_links_go_into_a_new_folder_elsewhere(run, tmp_path, capsys, where):
    folder = host_runs.make_images(tmp_path / "set", per_class=2)
    target = {"inside": folder / "links", "full": tmp_path, "file": tmp_path / "f"}
    (tmp_path / "f").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert assign(folder, run, "--symlink", target[where]) == 2
    said = {"inside": "lies in", "full": "not empty", "file": "no folder"}
    assert said[where] in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "checkpoint.torch").unlink(), ["holds no checkpoint"]),
        (lambda f: (f / "train_config.yaml").unlink(), ["--config", "train_config"]),
        (lambda f: (f / "train_config.yaml").write_text("a: [1"), ["as YAML"]),
        (lambda f: (f / "train_config.yaml").write_text("LOSS: 3"), ["not the config"]),
    ],
)
def test_what_is_missing_of_a_run(images, run, tmp_path, capsys, change, words):
    copy = copied(run, tmp_path)
    change(copy)
    assert assign(images, copy) == 2
    said = capsys.readouterr().err
    for word in words:
        assert word in said


def copied(run, tmp_path):
    import shutil

    return Path(shutil.copytree(run, tmp_path / "copy"))


def test_a_config_of_another_run(images, run, tmp_path, capsys):
    """Weights that do not fit are told, not left as they were initialised."""
    other = cluster_runs.untrained(
        images, tmp_path / "other", loss="sela_v2", clusters=(12, 6)
    )
    config = other / "train_config.yaml"
    assert assign(images, run, "--config", config) == 2
    said = capsys.readouterr().err
    assert "prototypes1.weight is (5, 8) there, (6, 8) in the model" in said


def test_a_run_of_another_loss(images, run, tmp_path, capsys):
    copy = copied(run, tmp_path)
    config = copy / "train_config.yaml"
    config.write_text(config.read_text().replace("name: sela_v2", "name: simclr"))
    assert assign(images, copy) == 2
    assert "'simclr'" in capsys.readouterr().err


def test_weights_that_are_not_finite(images, run, tmp_path, capsys):
    copy = copied(run, tmp_path)
    state = torch.load(copy / "checkpoint.torch", weights_only=False)
    trunk = state["classy_state_dict"]["base_model"]["model"]["trunk"]
    next(iter(trunk.values()))[0] = float("nan")
    torch.save(state, copy / "checkpoint.torch")
    assert assign(images, copy) == 2
    assert "is not finite" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["out.xlsx", "out", "gone/out.csv"])
def test_outputs_that_cannot_be(images, run, tmp_path, capsys, name):
    assert assign(images, run, "-o", tmp_path / name) == 2
    said = capsys.readouterr().err
    assert "wanted .csv or .parquet" in said or "there is no folder" in said


def test_parquet_without_pyarrow(images, run, tmp_path, capsys, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == "pyarrow":
            raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert assign(images, run, "-o", tmp_path / "out.parquet") == 2
    said = capsys.readouterr().err
    assert "pip install pyarrow" in said and "out.csv" in said


def test_parquet(images, run, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert assign(images, run, "-o", tmp_path / "out.parquet") == 0
    assert assign(images, run, "-o", tmp_path / "out.csv") == 0
    found = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    rows = table(tmp_path / "out.csv")
    assert [str(row["cluster"]) for row in found] == [row["cluster"] for row in rows]
    assert [row["path"] for row in found] == [row["path"] for row in rows]


def test_a_set_smaller_than_the_prototypes_is_told(run, tmp_path, capsys):
    folder = host_runs.make_images(tmp_path / "set", per_class=2)
    assert assign(folder, run, "--mode", "sinkhorn") == 0
    assert "4 images over 12 prototypes" in capsys.readouterr().err
