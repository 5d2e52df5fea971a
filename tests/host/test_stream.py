"""A stream inside the host: its loader, its limits, what it refuses, a run killed."""

import copy
import json
from itertools import islice
from pathlib import Path

import health_task
import host_runs
import pytest
import same_runs
import torch
from shard_files import image_of, number_of, write_shard, write_shards

from vissl_swav.host.errors import StartError

BATCH, SHARDS = 4, [8] * 6
STREAM = "config.DATA.TRAIN.STREAM"


def stream_overrides(path, *, num_images=48, buffer=6):
    return [
        "config.DATA.TRAIN.DATA_SOURCES=[image_stream]",
        f"config.DATA.TRAIN.DATA_PATHS=[{path}]",
        f"{STREAM}.NUM_IMAGES={num_images}",
        f"{STREAM}.SHUFFLE_BUFFER={buffer}",
    ]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, SHARDS)
    return folder


@pytest.fixture
def loader_of(compose, shards, monkeypatch, tmp_path):
    """`loader_of(streams=, workers=, rank=, ranks=)`: the loader of a rank."""
    from vissl_swav.host import loader as module
    from vissl_swav.host import stream_source

    def make(
        *, streams=1, workers=0, rank=0, ranks=1, epochs=1, path=shards, folder=tmp_path
    ):
        from vissl.data import build_dataloader, build_dataset

        for place in (module, stream_source):
            monkeypatch.setattr(place, "get_rank", lambda: rank)
            monkeypatch.setattr(place, "get_world_size", lambda: ranks)
        config = compose(
            *stream_overrides(path),
            f"config.CHECKPOINT.DIR={folder}",
            f"config.DATA.TRAIN.BATCHSIZE_PER_REPLICA={BATCH}",
            f"config.DATA.NUM_DATALOADER_WORKERS={streams}",
            # The pixels as they are: a number each.
            "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[16],"
            "num_crops:[2],crop_scales:[[0.9,1.0]],jitter_probability:0.0,"
            "grayscale_probability:0.0,blur_probability:0.0,output:uint8}]",
            processes=ranks,
            epochs=epochs,
        )
        return build_dataloader(
            build_dataset(config, "TRAIN"),
            config.DATA.TRAIN,
            workers,
            pin_memory=False,
            multi_processing_method="forkserver",
            device=torch.device("cpu"),
            sampler_seed=config.SEED_VALUE,
            split="train",
        )

    return make


def batches(loader, *, epoch=0, start=0, count=None):
    """Numbers of the images of each batch, told by their pixels."""
    loader.sampler.set_epoch(epoch)
    loader.sampler.set_start_iter(start)
    # Not normalised: `prepare` is passed by.
    found = []
    for batch in islice(iter(loader._loader), count):
        first = batch["data"][0][0]
        found.append([number_of(crop.permute(1, 2, 0).numpy()) for crop in first])
    return found


def flat(found):
    return [number for batch in found for number in batch]


def test_every_image_once_over_the_ranks(loader_of):
    seen = []
    for rank in range(3):
        loader = loader_of(rank=rank, ranks=3)
        assert len(loader) == 4 and len(loader.dataset) == 48
        seen += flat(batches(loader))
    assert sorted(seen) == list(range(48))


def test_workers_have_a_stream_each_and_it_resumes_in_mid_epoch(loader_of, tmp_path):
    """In two worker processes; then in one's own, which takes the streams in turn."""
    parallel = loader_of(streams=2, workers=2)
    # As the host does after a resume: an iterator that nobody uses comes first.
    iter(parallel._loader)
    whole = batches(parallel)
    assert sorted(flat(whole)) == list(range(48))
    records = sorted(path.name for path in tmp_path.glob("stream.*"))
    assert records == ["stream.0.0.jsonl", "stream.0.1.jsonl"]
    assert batches(loader_of(streams=2), start=3) == whole[3:]
    elsewhere = loader_of(streams=2, folder=tmp_path / "without a record")
    assert batches(elsewhere, start=7) == whole[7:]


def test_epochs_are_stretches_of_one_stream(loader_of):
    whole = batches(loader_of())
    parts = loader_of(epochs=3)
    assert len(parts) == 4
    assert [b for epoch in range(3) for b in batches(parts, epoch=epoch)] == whole


def test_a_second_pass_comes_in_another_order(loader_of):
    loader = loader_of()
    first, second = batches(loader), batches(loader, epoch=1)
    assert sorted(flat(first)) == sorted(flat(second)) and first != second


def test_what_cannot_be_read_is_passed_over_and_named(loader_of, tmp_path):
    images = {f"{n:02d}.png": image_of(n) for n in range(20)}
    images |= {"07.png": image_of(7)[:50], "13.png": b"no image"}
    write_shard(tmp_path / "a.tar", images)
    write_shard(tmp_path / "b.tar", {"x.png": image_of(20)})
    broken = (tmp_path / "b.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(broken[:540])
    loader = loader_of(path=tmp_path, folder=tmp_path / "run")
    seen = flat(batches(loader, count=4)) + flat(batches(loader, start=4, count=1))
    good = {*range(20)} - {7, 13}
    assert sorted(seen[:18]) == sorted(good) and set(seen[18:]) < good
    text = (tmp_path / "run" / "unreadable.train.0.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    names = {Path(line["name"]).name: line["reason"] for line in lines}
    assert {"07.png", "13.png", "b.tar"} <= set(names)
    assert "rest of the shard" in names["b.tar"]


@pytest.fixture(scope="module")
def streamed(compose):
    return compose(*stream_overrides("x"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("TRAIN.STREAM.NUM_IMAGES", None, "NUM_IMAGES is missing.*--shards 20"),
        ("TRAIN.STREAM.NUM_IMAGES", "many", "NUM_IMAGES is 'many'"),
        ("TRAIN.STREAM.SHUFFLE_BUFFER", 0, "SHUFFLE_BUFFER is 0; wanted"),
        ("TRAIN.STREAM.BUFFER", 9, "BUFFER is no key .*did you mean SHUFFLE_BUFFER"),
        ("TRAIN.DATA_LIMIT", 9, "length is STREAM.NUM_IMAGES"),
        ("TRAIN.DROP_LAST", False, "batches are whole: take true"),
        ("TRAIN.LABEL_SOURCES", ["torchvision_dataset"], "a stream has no labels"),
        ("TRAIN.USE_DEBUGGING_SAMPLER", True, "its own order"),
        ("TRAIN.IMAGES_ON_DEVICE", True, "a stream's images do not stay"),
        ("TRAIN.DATA_SOURCES", ["image_stream"] * 2, "a stream stands alone"),
        ("TRAIN.DATA_SOURCES", ["images"], "which nothing reads.*.image_stream."),
        ("TEST.DATA_SOURCES", ["image_stream"], "are counted: take images"),
        ("TRAIN.TRANSFORMS", [{"name": "MultiCrop", "mean": "auto"}], "give the num"),
    ],
)
def test_what_does_not_go_with_a_stream_is_refused(streamed, key, value, message):
    from vissl_swav.host.settings.stream import infer_stream

    cfg = copy.deepcopy(streamed)
    *sections, last = key.split(".")
    node = cfg.DATA
    for section in sections:
        node = node[section]
    node[last] = value
    with pytest.raises(StartError, match=message) as error:
        infer_stream(cfg)
    assert error.value.key.startswith(f"config.DATA.{sections[0]}.")


def test_a_stream_shorter_than_a_step_names_its_length(streamed):
    from vissl_swav.host import settings
    from vissl_swav.host.data_checks import check_counts

    cfg = copy.deepcopy(streamed)
    cfg.DATA.TRAIN.STREAM.NUM_IMAGES = 10
    run = settings.run_facts(cfg)
    with pytest.raises(StartError, match="STREAM.NUM_IMAGES over .* makes 5 images"):
        check_counts(run, {"TRAIN": run.splits[0].streamed})


@pytest.mark.parametrize("loss", ["deepcluster_v2", "sela_v2"])
def test_methods_with_a_bank_say_what_to_take_instead(compose, loss):
    with pytest.raises(StartError) as error:
        compose(*stream_overrides("x"), loss=loss)
    said = str(error.value)
    assert said.startswith(f"the loss is {loss}, and config.DATA.TRAIN.DATA_SOURCES")
    assert "neither numbers nor, in one pass, a next epoch" in said
    assert "config=pretrain/swav/one_pass" in said
    assert "DATA_SOURCES=[images]" in said


def test_so_do_losses_of_the_host_that_number_the_images(streamed):
    from vissl_swav.host.settings.stream import infer_stream

    cfg = copy.deepcopy(streamed)
    for name in ("deepclusterv2_loss", "nce_loss_with_memory"):
        cfg.LOSS["name"] = name
        with pytest.raises(StartError, match=f"the loss is {name}, and"):
            infer_stream(cfg)
    cfg.LOSS["name"] = "simclr_info_nce_loss"
    infer_stream(cfg)
    cfg.LOSS["name"] = "weighted_sum"
    terms = [{"name": "sela_v2", "weight": 1}, {"name": "simclr_info_nce_loss"}]
    cfg.LOSS["weighted_sum"] = {"terms": terms}
    with pytest.raises(StartError, match="the loss is sela_v2, and"):
        infer_stream(cfg)


def test_a_start_looks_into_a_few_shards_only(compose, shards, tmp_path, monkeypatch):
    from vissl_swav.data import shard_sample
    from vissl_swav.host import data_checks, settings

    write_shards(tmp_path, [3] * 40)
    opened = []
    original = shard_sample.images_of
    monkeypatch.setattr(
        shard_sample,
        "images_of",
        lambda shard, wanted: opened.append(shard) or original(shard, wanted),
    )
    facts = settings.run_facts(compose(*stream_overrides(tmp_path, num_images=640)))
    checked = data_checks.check_data(facts, torchrun=False)
    assert checked.num_images == 320  # Of one of two epochs.
    assert 0 < len(opened) <= 8
    for path in tmp_path.glob("*.tar"):
        path.write_bytes(b"no tar" * 300)
    with pytest.raises(StartError, match="nothing in 4 of 40 shards.*--shards 100"):
        data_checks.check_data(facts, torchrun=False)


def test_freeze_of_the_only_epoch_names_the_steps(compose, shards):
    """`one_pass` has steps; a run of one epoch without them is told how many."""
    from vissl_swav.health.plan_verdicts import verdicts
    from vissl_swav.host import plan_facts, settings

    cfg = compose(
        *stream_overrides(shards, num_images=160_000),
        "config.LOSS.swav.freeze_prototypes_epochs=null",
        epochs=1,
    )
    plan = plan_facts.plan_of(cfg, settings.run_facts(cfg), 160_000)
    (said,) = [v for v in verdicts(plan) if v.name == "PROTOTYPES NEVER THAW"]
    assert "freeze_prototypes_steps=1000 freeze_prototypes_epochs=null" in said.text
    cfg.LOSS.swav.freeze_prototypes_epochs = None
    cfg.LOSS.swav.freeze_prototypes_steps = 1000
    plan = plan_facts.plan_of(cfg, settings.run_facts(cfg), 160_000)
    assert plan.freeze == pytest.approx(0.1)
    assert not [v for v in verdicts(plan) if "FREEZE" in v.name or "THAW" in v.name]


def test_a_freeze_without_end_is_told_on_any_command_line(tmp_path, host, caplog):
    """VISSL's own command lines make no plan; `max_iteration` is that of the task."""
    from vissl_swav.host.prototypes_hook import PrototypesHook

    for steps, told in ((1000, True), (999, False)):
        cfg = health_task.config()
        cfg.LOSS.swav["freeze_prototypes_steps"] = steps
        caplog.clear()
        health_task.started(health_task.Task(tmp_path, cfg), PrototypesHook())
        assert ("PROTOTYPES NEVER THAW" in caplog.text) is told
    cfg.LOSS.swav["trainable_prototypes"] = False
    health_task.started(health_task.Task(tmp_path, cfg), PrototypesHook())
    assert "NEVER THAW" not in caplog.text


def test_distinct_prototypes_by_the_window_of_a_long_epoch(tmp_path, host, monkeypatch):
    from vissl_swav.host.health_hook import HealthHook
    from vissl_swav.host.settings import health

    monkeypatch.setattr(health, "usual_epoch_steps", lambda batch: 4)
    hook = HealthHook()
    task = health_task.started(health_task.Task(tmp_path), hook)
    for _ in range(9):
        task.step()
    task.run("on_end")
    text = (tmp_path / "health.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    counted = [line["step"] for line in lines if "distinct_prototypes" in line]
    assert counted == [4, 8]


def run_overrides(shards, *, ranks, workers, epochs=1):
    return [
        setting
        for setting in host_runs.overrides(
            "x",
            "x",
            *stream_overrides(shards, num_images=12 * 16),
            "config.CHECKPOINT.CHECKPOINT_ITER_FREQUENCY=3",
            "config.LOG_FREQUENCY=2",
            f"config.DATA.NUM_DATALOADER_WORKERS={workers}",
            "config.LOSS.swav.freeze_prototypes_epochs=null",
            "config.LOSS.swav.freeze_prototypes_steps=2",
            "config.LOSS.swav.queue_length=32",
            "config.LOSS.swav.queue_start_step=3",
            processes=ranks,
            epochs=epochs,
        )
        if not setting.startswith("config.CHECKPOINT.DIR=")
        and setting != "config.LOSS.swav.freeze_prototypes_epochs=0"
    ]


def killed_and_whole(tmp_path, overrides, ends):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = host_runs.python(
        *("tests/interrupted_runs.py", whole, "", parts, ",".join(ends)),
        *("--", *overrides),
        env={"VISSL_SWAV_ALLOW_OVERSUBSCRIPTION": "1"},
        timeout=580,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    log = parts.with_name("parts.log").read_text(errors="replace")
    return json.loads(done.stdout.splitlines()[-1]), log


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("ranks", "workers"), [(1, 0), pytest.param(2, 2, marks=pytest.mark.slow)]
)
def test_a_run_of_one_pass_is_killed_and_goes_on(tmp_path, ranks, workers):
    """One epoch of 12 steps; SIGKILL and SIGTERM in it; the same bits at the end."""
    pytest.importorskip("vissl")
    write_shards(tmp_path / "shards", [24] * 8)
    overrides = run_overrides(tmp_path / "shards", ranks=ranks, workers=workers)
    ends = ["KILL:step:5", "TERM:step:8"]
    codes, log = killed_and_whole(tmp_path, overrides, ends)
    assert codes[0] == [0] and codes[1][0] == -9 and codes[1][-1] == 0, log[-3000:]
    assert "model_iteration3.torch" in log
    whole, parts = (same_runs.steps(tmp_path / name) for name in ("whole", "parts"))
    assert whole == parts and sorted(whole) == list(range(1, 13))
    states = [same_runs.final(tmp_path / name) for name in ("whole", "parts")]
    same_runs.assert_same_state(*states)
    # Health by step: a line every LOG_FREQUENCY steps of the only epoch.
    text = (tmp_path / "whole" / "health.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["step"] for line in lines if "feature_spread" in line] == [
        *range(2, 13, 2)
    ]
