"""Loss `simclr_multicrop` in the host: its head, its runs, what is said of them."""

import json
import math
import types

import host_runs
import pytest
import same_runs
import torch
from torch.nn import functional

from vissl_swav.core.simclr_multicrop import simclr_multicrop_loss
from vissl_swav.host.errors import StartError

NAME = "simclr_multicrop"
HEAD = "config.MODEL.HEAD.PARAMS=[[swav_head,{dims:[16,16,8],use_bn:true,%s}]]"
SWAV_HEAD = HEAD % "num_clusters:[]"
MLP_HEADS = (
    "config.MODEL.HEAD.PARAMS=[[mlp,{dims:[16,16],use_relu:true,"
    "skip_last_layer_relu_bn:false}],[mlp,{dims:[16,8]}]]"
)
CHAIN = "config.MODEL.HEAD.PARAMS=[[[mlp,{dims:[16,16]}],[mlp,{dims:[16,8]}]]]"
# The tiny run: 16 images a step over 2 processes, 3 crops of each.
NEGATIVES = 15 * 3


@pytest.fixture
def inferred(compose):
    return lambda *extra: compose(*(extra or [SWAV_HEAD]), loss=NAME)


@pytest.mark.parametrize("head", [SWAV_HEAD, MLP_HEADS, CHAIN])
def test_heads_give_the_loss_its_embeddings(inferred, head):
    """Of any length: the loss makes unit rows, whatever form the head gives them in."""
    from classy_vision.losses import build_loss
    from vissl.models import build_model

    cfg = inferred(head)
    assert cfg.LOSS[NAME].num_crops == 3 and cfg.LOSS[NAME].embedding_dim == 8
    torch.manual_seed(0)
    model = build_model(cfg.MODEL, cfg.OPTIMIZER).train()
    (output,) = model([torch.randn(4, 3, s, s) for s in (24, 24, 16)])
    loss = build_loss({**cfg.LOSS[NAME], "name": NAME})
    rows = output if torch.is_tensor(output) else output[0]
    assert rows.shape == (12, 8)
    unit = functional.normalize(rows, dim=1)
    torch.testing.assert_close(
        loss(output, None), simclr_multicrop_loss(unit, num_crops=3)
    )
    halves = loss(rows.detach().half(), None)
    assert halves.dtype == torch.float32
    torch.testing.assert_close(halves, loss(output, None), rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (HEAD % "num_clusters:[12]", "num_clusters wants .., this loss|no prototypes"),
        (HEAD % "num_clusters:[],use_bm:true", "use_bm is no key.*did you mean use_bn"),
        (HEAD % "num_clusters:[],return_embeddings:false", "compares embeddings"),
        ("config.MODEL.HEAD.PARAMS=[[eval_mlp,{dims:[16,8]}]]", "ends in .mlp"),
        ("config.MODEL.HEAD.PARAMS=[[mlp,{dims:[10,8]}]]", "trunk gives 16 features"),
        ("config.MODEL.HEAD.PARAMS=[[mlp,{dims:8}]]", "dims wants a list"),
    ],
)
def test_other_heads_are_refused(inferred, override, words):
    with pytest.raises(StartError, match=words):
        inferred(override)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (f"config.LOSS.{NAME}.temperature=0", "wanted > 0"),
        (f"config.LOSS.{NAME}.max_similarities=0", "max_similarities is 0"),
        (f"config.LOSS.{NAME}.max_similarities=1.5", "wanted a whole number"),
        (f"config.LOSS.{NAME}.num_prototypes=[5]", "is no key of vissl_swav"),
        (f"config.LOSS.{NAME}.embedding_dim=9", "leave the key out"),
        (
            "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[24],"
            "num_crops:[1],crop_scales:[[0.3,1.0]]}]",
            "num_crops 1; wanted >= 2",
        ),
    ],
)
def test_values_that_it_cannot_have(inferred, override, words):
    with pytest.raises(StartError, match=words):
        inferred(SWAV_HEAD, override)


def test_one_image_a_step_is_refused(inferred):
    from vissl_swav.health.plan_verdicts import NO_NEGATIVES, verdicts
    from vissl_swav.host.plan_facts import plan_of
    from vissl_swav.host.settings import run_facts

    def names(*extra):
        cfg = inferred(SWAV_HEAD, *extra)
        return [v.name for v in verdicts(plan_of(cfg, run_facts(cfg), 48))]

    assert names() == []
    assert names("config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=1") == [NO_NEGATIVES]


@pytest.fixture(scope="module")
def runs(host, images, tmp_path_factory):
    """A run of 2 processes, and the same one killed and ended by SIGTERM on its way."""
    folder = tmp_path_factory.mktemp("runs")
    settings = [
        setting
        for setting in host_runs.overrides(
            images,
            folder / "unused",
            SWAV_HEAD,
            "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1",
            "config.CHECKPOINT.CHECKPOINT_ITER_FREQUENCY=2",
            "config.LOG_FREQUENCY=2",
            loss=NAME,
            processes=2,
            epochs=2,
        )
        if not setting.startswith("config.CHECKPOINT.DIR=")
    ]
    done = host_runs.python(
        *("tests/interrupted_runs.py", folder / "whole", ""),
        *(folder / "parts", "KILL:step:2,TERM:step:4", "--", *settings),
        env={"VISSL_SWAV_ALLOW_OVERSUBSCRIPTION": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    logs = {name: (folder / f"{name}.log").read_text() for name in ("whole", "parts")}
    codes = json.loads(done.stdout.splitlines()[-1])
    return types.SimpleNamespace(folder=folder, codes=codes, logs=logs)


def test_a_resumed_run_is_the_same(runs):
    from vissl_swav.host.preemption import EXIT_CODE

    assert runs.codes == [[0], [-9, EXIT_CODE, 0]], runs.logs["parts"][-3000:]
    whole, parts = (same_runs.steps(runs.folder / name) for name in ("whole", "parts"))
    assert whole == parts and sorted(whole) == list(range(1, 7))
    one, other = (same_runs.final(runs.folder / name) for name in ("whole", "parts"))
    assert one["loss"] == other["loss"] == {"_extra_state": {}}, "it has no state"
    state = [final["classy_state_dict"] for final in (one, other)]
    assert state[0]["base_model"]
    assert not same_runs.unequal(*state, "classy_state_dict")


def test_the_run_is_watched_without_prototypes(runs):
    text = (runs.folder / "whole" / "health.jsonl").read_text()
    readings = [json.loads(line) for line in text.splitlines()]
    assert [line["step"] for line in readings] == [2, 4, 6]
    assert not [line for line in readings if "verdict" in line]
    for line in readings:
        assert line["ceiling"] == pytest.approx(math.log(1 + NEGATIVES), abs=1e-5)
        assert 0 < line["feature_spread"] < 1.1 and line["norm_error"] < 1e-5
        assert "prototype_spread" not in line
    assert "ln(1 + negatives) 3.8286" in runs.logs["whole"]


def test_the_report_speaks_of_negatives_and_of_no_clusters(runs, tmp_path):
    from vissl_swav.suite import figures
    from vissl_swav.suite.report import write_report

    page = write_report(runs.folder / "whole", None).read_text()
    assert "Progress from ln(1 + negatives)" in page and "NO PLAN" not in page
    assert "negatives of a crop" in page and "(16 - 1) images x 3 crops = 45" in page
    assert "no prototypes" in page and "No plan can be made" not in page
    figures.loss_curve(
        tmp_path / "curve.png",
        host_runs.lines(runs.folder / "whole"),
        runs.folder / "whole" / "train_config.yaml",
    )
    assert (tmp_path / "curve.png").is_file()
    assert "vissl-swav gallery" not in page and "vissl-swav assign" not in page


def test_its_features_are_at_hand_and_clusters_are_refused(
    runs, images, tmp_path, capsys
):
    from vissl_swav import cli
    from vissl_swav.suite.predictor import predictor

    embed = predictor(runs.folder / "whole", part="all", device="cpu")
    picture = next(images.rglob("*.png"))
    rows = embed([picture, picture])
    assert rows.shape == (2, 8)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2))
    run, table = runs.folder / "whole", tmp_path / "clusters.csv"
    words = ["--images", images, "--checkpoint", run, "-o", table]
    assert cli.main(["assign", *map(str, words)]) == 2
    assert "has no prototypes" in capsys.readouterr().err and not table.exists()
