"""Loss `weighted_sum`: values, settings and mistakes, hooks, and a run that resumes."""

import copy
import json
import math
import re

import host_runs
import mixing_programs as programs
import numpy as np
import pytest
import reference
import same_runs
import torch
import yaml

from vissl_swav.host import preemption

MIXED = (
    "+config/pretrain/mixed=swav_plus_simclr",
    "config.LOSS.simclr_info_nce_loss.buffer_params.embedding_dim=8",
)
TERMS = "config.LOSS.weighted_sum.terms="
SWAV, SIMCLR = "{name:swav,weight:1}", "{name:simclr_info_nce_loss,weight:0.5}"


@pytest.fixture
def mixed(compose):
    """`mixed(*extra)`: the inferred config of a small run of the example."""
    return lambda *extra: compose(*MIXED, *extra, loss="weighted_sum")


@pytest.fixture(scope="module")
def inferred(compose):
    return compose(*MIXED, loss="weighted_sum")


def contrast(features, temperature):
    """SimCLR's loss of two crops, (2 B, D) unit rows, by loops."""
    total, count = 0.0, len(features)
    for i in range(count):
        similarities = features @ features[i] / temperature
        partner = (i + count // 2) % count
        others = [math.exp(s) for j, s in enumerate(similarities) if j != i]
        total += math.log(sum(others)) - similarities[partner]
    return total / count


def test_value_is_the_weighted_sum_of_the_terms(host, monkeypatch):
    from classy_vision.generic import distributed_util

    monkeypatch.setattr(distributed_util, "_cuda_device_index", -1)
    features, prototypes = (part.numpy() for part in programs.sum_outputs())
    scores = features @ prototypes.T
    by_crop = scores.reshape(programs.CROPS, programs.BATCH, -1)
    codes = [reference.sinkhorn_codes(by_crop[crop], 0.05, 3) for crop in (0, 1)]
    swav = reference.swav_loss(scores, programs.CROPS, [0, 1], 0.1, codes)
    of_crops = features.reshape(programs.CROPS, programs.BATCH, -1)[[0, 2]]
    simclr = contrast(np.concatenate(of_crops), temperature=0.2)
    value, _, means = programs.sum_step(0, 1)
    assert float(value) == pytest.approx(2.0 * swav + 0.3 * simclr, rel=1e-6)
    assert means["swav"] == pytest.approx(swav, rel=1e-6)
    assert means["simclr_info_nce_loss"] == pytest.approx(simclr, rel=1e-6)


def test_targets_go_with_their_rows(host):
    """A term on some crops gets the labels of these crops' rows."""
    from vissl_swav.host.weighted_sum_loss import Term, WeightedSum

    class Ours(torch.nn.Module):
        def forward(self, output, target):
            return output[0].sum() * 0

    class Keeps(torch.nn.Module):
        def forward(self, rows, target):
            self.seen = rows.tolist(), target.tolist()
            return rows.sum()

    from vissl_swav.core.crops import CropLayout

    keeps = Keeps()
    terms = [Term("ours", 1.0), Term("theirs", 0.5, 1, CropLayout(3, [2, 0]))]
    loss = WeightedSum(terms, {"ours": Ours(), "theirs": keeps})
    rows = torch.arange(6.0)[:, None]
    value = loss([torch.zeros(6, 2), rows], torch.arange(6) * 10)
    assert keeps.seen == ([[4.0], [5.0], [0.0], [1.0]], [40, 50, 0, 10])
    assert float(value) == 0.5 * 10


def test_the_example_is_inferred(mixed):
    config = mixed()
    swav, simclr = config.LOSS.swav, config.LOSS.simclr_info_nce_loss
    assert config.LOSS.name == "weighted_sum"
    assert (swav.num_crops, swav.num_prototypes) == (3, [12])
    # The host's own inference: two crops of 16 images.
    assert simclr.buffer_params.effective_batch_size == 32
    from vissl_swav.host import settings
    from vissl_swav.host.settings.same_run import identity

    again = copy.deepcopy(config)
    assert settings.infer(again) == config, "a config may be inferred twice"
    assert settings.is_ours(config) and not settings.clusters(config)
    assert settings.loss_settings(config) == swav
    wanted = ["simclr_info_nce_loss", "swav"]
    assert identity(config)["LOSS.weighted_sum.terms"] == wanted


def test_a_term_may_leave_out_what_it_does_not_change(mixed):
    config = mixed(f"{TERMS}[{SWAV},{SIMCLR}]")
    ours, theirs = config.LOSS.weighted_sum.terms
    assert set(ours) == {"name", "weight"}
    assert (theirs["output"], theirs["crops"]) == (0, [0, 1])


def test_labels_train_a_prototype_head_beside_clusters_of_ours(mixed):
    """Another of ours, and a loss of VISSL's on scores and all crops."""
    terms = (
        f"{TERMS}[{{name:sela_v2,weight:1}},"
        "{name:cross_entropy_multiple_output_single_target,weight:1,output:1}]"
    )
    with pytest.raises(ValueError, match="learns classes.*LABEL_TYPE is sample_index"):
        mixed(terms)
    labels = "config.DATA.TRAIN.LABEL_SOURCES=[disk_folder]"
    config = mixed(terms, "config.DATA.TRAIN.LABEL_TYPE=standard", labels)
    from vissl_swav.host import settings

    assert settings.clusters(config)
    assert config.LOSS.weighted_sum.terms[1]["crops"] is None
    assert config.LOSS.sela_v2.num_crops == 3


@pytest.mark.parametrize("crops", [None, [0, 2]])
def test_our_contrastive_loss_is_a_term(mixed, crops):
    """It has no prototypes, so it may stand beside a loss that does."""
    from vissl_swav.core.simclr_multicrop import simclr_multicrop_loss
    from vissl_swav.host import settings
    from vissl_swav.host.weighted_sum_loss import WeightedSum

    listed = "null" if crops is None else str(crops).replace(" ", "")
    config = mixed(
        f"{TERMS}[{SWAV},{{name:simclr_multicrop,weight:0.5,crops:{listed}}}]",
        "config.LOSS.simclr_multicrop.temperature=0.2",
    )
    assert config.LOSS.simclr_multicrop.num_crops == (3 if crops is None else 2)
    settings.take_terms(config)
    loss = WeightedSum.from_config(config.LOSS.weighted_sum)
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(3 * 4, 8), dim=1)
    scores = rows @ torch.nn.functional.normalize(torch.randn(12, 8), dim=1).T
    loss.eval()
    both = loss([rows, scores], torch.zeros(12, dtype=torch.long))
    alone = loss.losses["swav"]([rows, scores], torch.zeros(12, dtype=torch.long))
    seen = rows if crops is None else rows.view(3, 4, 8)[crops].flatten(0, 1)
    count = 3 if crops is None else 2
    contrast = simclr_multicrop_loss(seen, num_crops=count, temperature=0.2)
    assert float(both) == pytest.approx(float(alone + 0.5 * contrast), rel=1e-6)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ("[{name:simclr_multicrop,weight:1}," + SIMCLR + "]", "has none of our losses"),
        (
            f"[{SWAV},{{name:simclr_multicrop,weight:1,crops:[0]}}]",
            "simclr_multicrop has num_crops 1; wanted >= 2",
        ),
        (f"[{SWAV}]", "two terms at least"),
        ("[swav,simclr_info_nce_loss]", "wanted a mapping with name and weight"),
        (f"[{SWAV},{{name:simclr_info_nce_loss}}]", "has weight None; wanted a number"),
        (f"[{SWAV},{{name:simclr_info_nce_loss,weight:0}}]", "weight 0; wanted"),
        (f"[{SWAV},{{name:simclr_info_nce_loss,weight:true}}]", "weight True; wanted"),
        (f"[{SWAV},{{name:simclr_infonce_loss,weight:1}}]", "did you mean simclr_info"),
        (f"[{SWAV},{{name:moco_loss,weight:1}}]", "momentum encoder at the run's own"),
        (f"[{SWAV},{{name:swav_loss,weight:1}}]", "ours stands for it: swav"),
        (f"[{SWAV},{{name:sela_v2,weight:1}}]", "wanted exactly one of"),
        (f"[{SIMCLR},{{name:barlow_twins_loss,weight:1}}]", "has none of our losses"),
        (f"[{SWAV},{SIMCLR},{SIMCLR}]", "names a loss twice"),
        (f"[{SWAV},{{name:simclr_info_nce_loss,wieght:1}}]", "did you mean weight"),
        ("[{name:swav,weight:1,output:0}," + SIMCLR + "]", "output is no key"),
        (
            f"[{SWAV},{{name:simclr_info_nce_loss,weight:1,output:2}}]",
            "output is 2; wanted 0 for the embeddings, or 1 to 1",
        ),
        (
            f"[{SWAV},{{name:simclr_info_nce_loss,weight:1,crops:[0,3]}}]",
            r"crops is \[0, 3\]; wanted a list of distinct crops of 0 to 2",
        ),
        (
            f"[{SWAV},{{name:simclr_info_nce_loss,weight:1,crops:null}}]",
            "of 3 crops; simclr_info_nce_loss compares two",
        ),
        (
            f"[{SWAV},{{name:barlow_twins_loss,weight:1}}]",
            "set config.LOSS.barlow_twins_loss.embedding_dim=8",
        ),
        (
            f"[{SWAV},{{name:barlow_twins_loss,weight:1,output:1}}]",
            "output 1, .* 12 numbers; set config.LOSS.barlow_twins_loss.embedding_dim",
        ),
        (
            f"[{SWAV},{{name:simclr_info_nce_loss,weight:1,crops:[[0],[1]]}}]",
            r"crops is \[\[0\], \[1\]\]; wanted a list of distinct crops of 0 to 2",
        ),
        (
            f"[{SWAV},{{name:multicrop_simclr_info_nce_loss,weight:1,crops:[0,1]}}]",
            "takes all crops; leave crops out, or take simclr_multicrop",
        ),
    ],
)
def test_mistakes_are_told(inferred, terms, message):
    from vissl_swav.host import settings
    from vissl_swav.host.errors import StartError

    config = copy.deepcopy(inferred)
    config.LOSS.weighted_sum.terms = yaml.safe_load(terms.replace(":", ": "))
    with pytest.raises(StartError, match=message) as caught:
        settings.infer(settings.infer_hosts_terms(config, lambda config: config))
    assert "config.LOSS." in str(caught.value)


def test_another_key_of_the_section_is_refused(mixed):
    with pytest.raises(ValueError, match="term is no key.*did you mean terms"):
        mixed("+config.LOSS.weighted_sum.term=[]")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "+config.LOSS.simclr_info_nce_loss.temprature=0.2",
            "temprature.* is no key of VISSL's or vissl_swav's.*temperature",
        ),
        (
            "config.LOSS.simclr_info_nce_loss.temperature=-1",
            "is -1; wanted a number > 0",
        ),
        ("config.LOSS.weighted_sum=null", "terms is None; wanted a list of two terms"),
        ("config.LOSS.weighted_sum.terms={a:1}", "gives a value of another kind"),
        ("config.LOSS.swav.queue_length=65536000000", "the queue needs .*queue_length"),
    ],
)
def test_mistakes_on_the_command_line(
    host, images, tmp_path, capsys, override, message
):
    from vissl_swav import train

    arguments = host_runs.overrides(images, tmp_path / "run", loss="weighted_sum")
    assert train.main([*arguments, *MIXED, override]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and "Traceback" not in error, error
    assert not (tmp_path / "run").exists()


def test_hooks_are_those_of_our_term_and_come_before_the_hosts(mixed, tmp_path):
    from vissl.hooks import default_hook_generator

    config = mixed(f"config.CHECKPOINT.DIR={tmp_path}")
    names = [type(hook).__name__ for hook in default_hook_generator(config)]
    ours = ("TermsHook", "QueueHook", "PrototypesHook", "HealthHook", "PreemptionHook")
    places = [names.index(name) for name in ours]
    assert places == sorted(places)
    (checkpoint,) = [i for i, name in enumerate(names) if "Checkpoint" in name]
    assert max(places) < checkpoint


def ended_run(images, folder, *extra, processes):
    """Folder of a run that was not ended; one that was has equalled it bit for bit."""
    pytest.importorskip("vissl")
    settings = [
        setting
        for setting in host_runs.overrides(
            images,
            folder / "unused",
            *MIXED,
            "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1",
            "config.LOG_FREQUENCY=1",
            *extra,
            loss="weighted_sum",
            processes=processes,
        )
        if not setting.startswith("config.CHECKPOINT.DIR=")
    ]
    whole, parts = folder / "whole", folder / "parts"
    done = host_runs.python(
        *("tests/interrupted_runs.py", whole, "", parts, "TERM:step:3", "--"),
        *settings,
        env={"VISSL_SWAV_ALLOW_OVERSUBSCRIPTION": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    log = parts.with_name("parts.log").read_text(errors="replace")
    codes = json.loads(done.stdout.splitlines()[-1])
    assert codes == [[0], [preemption.EXIT_CODE, 0]], log[-3000:]
    assert same_runs.steps(whole) == same_runs.steps(parts)
    same_runs.assert_same_state(same_runs.final(whole), same_runs.final(parts))
    assert len(host_runs.lines(whole)) == 6
    return whole


def test_a_run_on_two_ranks_goes_on_where_it_was_ended(images, tmp_path):
    """Each rank has its own queue; terms and health are in the files."""
    queue = "config.LOSS.swav.queue_length=32"
    whole = ended_run(images, tmp_path, queue, processes=2)
    lines = host_runs.lines(whole)
    for line in lines:
        terms = line["terms"]
        sums = terms["swav"] + 0.5 * terms["simclr_info_nce_loss"]
        assert line["loss"] == pytest.approx(sums, rel=1e-5)
    loss = same_runs.final(whole)["loss"]
    first = loss["losses.swav.swav.queue.features"]
    (second,) = loss["losses.swav._extra_state"]["other_ranks"]
    assert first.abs().sum() > 0 and not torch.equal(first, second["features"])
    rows = (whole / "health.jsonl").read_text().splitlines()
    measured = [row for row in map(json.loads, rows) if "loss" in row]
    swav = [line["terms"]["swav"] for line in lines]
    assert [row["loss"] for row in measured] == pytest.approx(swav, abs=1e-4)
    assert {row["ceiling"] for row in measured} == {round(math.log(12), 6)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "theirs", "state"),
    [
        ("sela_v2", "simclr_info_nce_loss", "method.bank.features"),
        ("swav_momentum", "barlow_twins_loss", "encoder.heads.0.prototypes0.weight"),
    ],
)
def test_hooks_of_other_terms_of_ours(images, tmp_path, ours, theirs, state):
    """Bank and labels, or a momentum encoder, are kept as without the sum."""
    terms = f"{TERMS}[{{name:{ours},weight:1}},{{name:{theirs},weight:0.1}}]"
    width = "config.LOSS.barlow_twins_loss.embedding_dim=8"
    whole = ended_run(images, tmp_path, terms, width, processes=1)
    assert all(set(line["terms"]) == {ours, theirs} for line in host_runs.lines(whole))
    assert f"losses.{ours}.{state}" in same_runs.final(whole)["loss"]
