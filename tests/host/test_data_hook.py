"""The wait for data: measured, told, judged once; broken images counted."""

import logging
from types import SimpleNamespace

import pytest
import torch

from vissl_swav.host import data_hook
from vissl_swav.host.data_hook import VERDICT_AFTER, DataHook, TooManyUnreadable
from vissl_swav.host.unreadable import UnreadableLog


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


class Run:
    """A task of the host, as far as the hook looks at it; 4 images a step."""

    def __init__(self, folder, compose, *extra):
        self.config = compose("config.LOG_FREQUENCY=10", *extra)
        self.checkpoint_folder = str(folder)
        self.device = torch.device("cpu")
        self.datasets = {"train": range(100)}
        self.train, self.iteration = True, 0
        self.loader = SimpleNamespace(waited=0.0)
        self.dataloaders = {"train": self.loader}


@pytest.fixture
def clock(host, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(data_hook, "time", clock)
    return clock


def steps(hook, run, clock, count, *, wait, compute):
    """`count` steps of `wait` + `compute` seconds; one phase."""
    for _ in range(count):
        clock.now += wait + compute
        run.loader.waited += wait
        hook.on_update(run)
        run.iteration += 1


def started(run):
    hook = DataHook()
    hook.on_start(run)
    hook.on_phase_start(run)
    return hook


def messages(caplog, start):
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith(start)]


def test_rate_and_share_in_the_log(tmp_path, compose, clock, caplog):
    run = Run(tmp_path, compose)
    hook = started(run)
    with caplog.at_level(logging.INFO):
        # The phase's first step starts the workers and counts for nothing.
        steps(hook, run, clock, 1, wait=30.0, compute=1.0)
        steps(hook, run, clock, 19, wait=0.1, compute=0.3)
    told = messages(caplog, "Data:")
    batch = run.config.DATA.TRAIN.BATCHSIZE_PER_REPLICA
    line = f"Data: {batch / 0.4:.0f} images/s over all ranks; 25% of the step spent"
    assert [text.startswith(line) for text in told] == [True, True]


@pytest.mark.parametrize(("wait", "judged"), [(0.3, 1), (0.1, 0)])
def test_one_verdict_after_200_steps(tmp_path, compose, clock, caplog, wait, judged):
    run = Run(tmp_path, compose)
    hook = started(run)
    with caplog.at_level(logging.WARNING):
        steps(hook, run, clock, VERDICT_AFTER, wait=wait, compute=1 - wait)
        assert not messages(caplog, "vissl_swav: DATA BOUND"), "one step did not count"
        steps(hook, run, clock, 3 * VERDICT_AFTER, wait=wait, compute=1 - wait)
    verdicts = messages(caplog, "vissl_swav: DATA BOUND")
    assert len(verdicts) == judged
    if judged:
        assert "30% of the first 200 steps" in verdicts[0]
        assert "In order: config.DATA.NUM_DATALOADER_WORKERS=" in verdicts[0]


def test_a_gpu_can_make_the_crops(tmp_path, compose, clock, caplog):
    run = Run(tmp_path, compose, "config.DATA.NUM_DATALOADER_WORKERS=1000")
    run.device = SimpleNamespace(type="cuda")
    hook = started(run)
    hook._check_unreadable = lambda view: None  # It would make a tensor there.
    with caplog.at_level(logging.WARNING):
        steps(hook, run, clock, VERDICT_AFTER + 1, wait=0.5, compute=0.5)
    (verdict,) = messages(caplog, "vissl_swav: DATA BOUND")
    assert "In order: config.TRAINER.TRAIN_STEP_NAME=multi_crop_train_step" in verdict
    assert "NUM_DATALOADER_WORKERS" not in verdict, "there are no cores left"


def test_test_phases_are_not_looked_at(tmp_path, compose, clock):
    run = Run(tmp_path, compose)
    hook = started(run)
    run.train = False
    log = UnreadableLog(tmp_path, "train", 0)
    for number in range(50):
        log.add(f"{number}.jpg", "empty", index=number)
    hook.on_phase_end(run)
    run.train = True
    with pytest.raises(TooManyUnreadable, match="50 of 100 .*unreadable.train"):
        hook.on_phase_end(run)


def test_an_earlier_starts_record_is_told_and_not_counted(
    tmp_path, compose, clock, caplog
):
    log = UnreadableLog(tmp_path, "train", 1)
    for number in range(50):
        log.add(f"{number}.jpg", "empty", index=number)
    run = Run(tmp_path, compose)
    with caplog.at_level(logging.INFO):
        hook = started(run)
        steps(hook, run, clock, 10, wait=0.1, compute=0.1)
    assert messages(caplog, "50 unreadable train images are on record already")
    UnreadableLog(tmp_path, "train", 0).add("7.jpg", "empty", index=7)
    with caplog.at_level(logging.WARNING):
        steps(hook, run, clock, 10, wait=0.1, compute=0.1)
    (line,) = messages(caplog, "vissl_swav: 1 train images could not be read so far")
    assert "New: 7.jpg (empty)" in line


def test_test_images_are_told_and_not_counted(tmp_path, compose, clock, caplog):
    run = Run(tmp_path, compose)
    hook = started(run)
    log = UnreadableLog(tmp_path, "test", 0)
    for number in range(50):
        log.add(f"{number}.jpg", "empty", index=number)
    hook.on_phase_end(run)
    run.train = False
    with caplog.at_level(logging.WARNING):
        hook.on_phase_end(run)
    (line,) = messages(caplog, "vissl_swav: 50 test images could not be read so far")
    assert "and 45 more" in line


class Streamed:
    """A streamed data set, as far as the hook looks at it; 4 images a step."""

    data_objs = (SimpleNamespace(num_shards=40),)

    def get_global_batchsize(self):
        return 4


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([f"s.tar/{n}.jpg" for n in range(50)], None),
        ([f"s.tar/{n}.jpg" for n in range(51)], "51 of 1000 training images so far"),
        ([f"{n}.tar.gz" for n in range(3)], None),
        ([f"{n}.tar" for n in range(4)], "3 of 40 shards .beside one."),
    ],
)
def test_a_stream_has_limits_of_its_own(tmp_path, compose, clock, names, said):
    """Of the images seen, 1000 at least; and of the shards, one may always break."""
    run = Run(tmp_path, compose)
    run.datasets["train"] = Streamed()
    hook = started(run)
    log = UnreadableLog(tmp_path, "train", 0)
    for name in names:
        log.add(name, "broken", index=0)
    if said is None:
        steps(hook, run, clock, 10, wait=0.1, compute=0.1)
        return
    with pytest.raises(TooManyUnreadable, match=said):
        steps(hook, run, clock, 10, wait=0.1, compute=0.1)


def test_a_long_stream_may_have_more_of_them(tmp_path, compose, clock):
    run = Run(tmp_path, compose)
    run.datasets["train"] = Streamed()
    hook = started(run)
    log = UnreadableLog(tmp_path, "train", 0)
    for number in range(99):
        log.add(f"s.tar/{number}.jpg", "broken", index=number)
    run.iteration = 2000 // 4 - 10
    steps(hook, run, clock, 10, wait=0.1, compute=0.1)


def test_no_remedy_is_what_is_set_already(tmp_path, compose, monkeypatch, host):
    for cores, workers, ranks in ((4, 3, 1), (8, 3, 2), (2, 1, 1), (16, 20, 1)):
        monkeypatch.setattr(data_hook, "num_cores", lambda cores=cores: cores)
        run = Run(tmp_path, compose, f"config.DATA.NUM_DATALOADER_WORKERS={workers}")
        run.config.DISTRIBUTED.NUM_PROC_PER_NODE = ranks
        assert "WORKERS" not in data_hook._remedy(data_hook.TaskView(run))
    run.config.DATA.NUM_DATALOADER_WORKERS = 0
    assert "WORKERS=15" in data_hook._remedy(data_hook.TaskView(run))
