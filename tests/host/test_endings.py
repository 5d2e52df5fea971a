"""A run that ends early: one message, the rank named, and an exit code."""

import logging
import re
import traceback
from types import SimpleNamespace

import host_runs
import pytest
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from vissl_swav import train
from vissl_swav.backends.process_group_check import ProcessGroupError
from vissl_swav.compat.checkpoint_loading import BrokenFile
from vissl_swav.compat.checkpoint_writing import CheckpointNotWritten
from vissl_swav.data.decoding import UnreadableImage
from vissl_swav.data.errors import DataError
from vissl_swav.health.errors import Collapsed, NotFinite
from vissl_swav.host import endings
from vissl_swav.host.endings import ending_of
from vissl_swav.host.errors import StartError


def of_a_rank(error, *, rank=1, cause=None):
    """What torch's spawn makes of an error in a rank."""
    try:
        if cause is None:
            raise error
        try:
            raise cause
        except Exception as first:
            raise error from first
    except Exception:
        text = traceback.format_exc()
    head = f"\n\n-- Process {rank} terminated with the following error:\n"
    return ProcessRaisedException(head + text, rank, 4711)


OURS = [
    (StartError("no such head", key="config.MODEL"), "no such head", 2),
    (ProcessGroupError("rank 1 of 2 on host h: none came"), "none came", 2),
    (BrokenFile("x.torch is cut short"), "x.torch is cut short", 2),
    (DataError("two lines\n  of it"), "two lines\n  of it", 1),
    (UnreadableImage("a.png", "no image"), "no image", 1),
    (NotFinite("loss: nan"), "loss: nan", 1),
    (Collapsed("COLLAPSED"), "COLLAPSED", 1),
    (CheckpointNotWritten(28, "No space left", "m.torch"), "No space left: 'm.t", 1),
]


@pytest.mark.parametrize(("error", "words", "code"), OURS)
def test_an_error_of_ours_in_a_rank(error, words, code, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    for rank_error in (of_a_rank(error), of_a_rank(error, cause=KeyError("a cause"))):
        ending = ending_of(rank_error)
        assert ending.message.startswith("rank 1") and words in ending.message
        assert ending.message.count("rank 1") == 1
        assert (ending.exit_code, ending.traceback) == (code, None)
        assert "Traceback" not in ending.message


@pytest.mark.parametrize(("error", "words", "code"), OURS)
def test_an_error_of_ours_in_this_process(error, words, code, monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    ending = ending_of(error)
    assert ending == (str(error), code, None) and words in ending.message


def test_under_torchrun_each_process_names_itself(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert ending_of(DataError("bad")).message == "rank 3: bad"
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert ending_of(DataError("bad")).message == "bad"


def test_the_rank_counts_over_all_machines(monkeypatch):
    """The host's launcher sets RANK to that of the machine's first process."""
    monkeypatch.setenv("RANK", "8")
    assert ending_of(of_a_rank(DataError("bad"))).message == "rank 9: bad"


def test_an_unknown_error_keeps_its_traceback(monkeypatch):
    """Also where it came of one of ours, or speaks of one."""
    monkeypatch.delenv("RANK", raising=False)
    unknown = [
        of_a_rank(ValueError("odd")),
        of_a_rank(ValueError("odd"), cause=NotFinite("nan")),
        of_a_rank(RuntimeError("odd\nvissl_swav.data.errors.DataError: quoted")),
    ]
    for error in unknown:
        ending = ending_of(error)
        assert ending.exit_code == 1 and ending.message.startswith("rank 1: ")
        assert ending.traceback == str(error).strip()
        assert "Traceback (most recent call last)" in ending.traceback
    assert ending_of(unknown[0]).message == "rank 1: ValueError: odd"
    assert ending_of(ValueError("odd")) is None


def test_an_error_in_a_loaders_worker_is_the_message():
    """torch raises it again in the rank, with the worker's traceback for a message."""
    inner = str(of_a_rank(DataError("a.png is no image")))
    again = DataError(f"Caught DataError in DataLoader worker process 0.\n{inner}")
    assert ending_of(of_a_rank(again, rank=0)).message == "rank 0: a.png is no image"
    assert ending_of(again).message == "a.png is no image"


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("SIGKILL", -9, "was ended by SIGKILL. From outside .* short of memory"),
        ("SIGBUS", -7, "ended by SIGBUS.*/dev/shm"),
        ("SIGABRT", -6, "was ended by SIGABRT. The same command goes on"),
        (None, 3, "ended with exit code 3; its output above"),
    ],
)
def test_a_rank_that_dies(monkeypatch, name, code, words):
    monkeypatch.delenv("RANK", raising=False)
    ending = ending_of(
        ProcessExitedException("died", 2, error_pid=1, exit_code=code, signal_name=name)
    )
    assert ending.exit_code == 1 and ending.message.startswith("rank 2 ")
    assert re.search(words, ending.message)


def test_the_traceback_of_ours_goes_to_the_log_alone(tmp_path):
    with pytest.raises(NotFinite), endings.recorded(tmp_path):
        raise NotFinite("loss: nan")
    with pytest.raises(ProcessRaisedException), endings.recorded(tmp_path):
        raise of_a_rank(DataError("bad"))
    log = (tmp_path / "log.txt").read_text()
    assert "NotFinite: loss: nan" in log and "DataError: bad" in log
    assert log.count("in of_a_rank") == 1
    with pytest.raises(KeyError), endings.recorded(tmp_path):
        raise KeyError("unknown")
    assert (tmp_path / "log.txt").read_text() == log


def test_a_folder_that_takes_no_log_hides_no_error(tmp_path):
    with pytest.raises(DataError), endings.recorded(tmp_path / "missing"):
        raise DataError("bad")


def test_the_hosts_last_words_are_words(caplog):
    launcher = SimpleNamespace(logging=logging)
    endings.mend_last_words(launcher)
    with caplog.at_level(logging.INFO):
        launcher.logging.error("Wrapping up, caught exception: ", NotFinite("nan"))
        launcher.logging.info("All Done!")
        with pytest.raises(SystemExit) as caught:
            launcher.logging.error("Wrapping up", KeyboardInterrupt())
    assert caught.value.code == endings.INTERRUPTED == 130
    assert [record.getMessage() for record in caplog.records] == [
        "Wrapping up, caught exception: NotFinite",
        "All Done!",
        "Interrupted. The same command goes on from the last checkpoint.",
    ]


@pytest.mark.parametrize("known", [True, False])
def test_the_command_says_it_last(host, monkeypatch, capsys, known):
    from vissl_swav.host import launch

    error = of_a_rank(StartError("no head") if known else ValueError("odd"))

    def start(overrides):
        raise error

    monkeypatch.setattr(launch, "start", start)
    monkeypatch.delenv("RANK", raising=False)
    assert train.main(["config=any"]) == (2 if known else 1)
    lines = capsys.readouterr().err.rstrip().splitlines()
    if known:
        assert lines == ["vissl-swav train: rank 1: no head"]
    else:
        assert lines[-1] == "vissl-swav train: rank 1: ValueError: odd"
        assert "Traceback (most recent call last):" in lines


@pytest.mark.slow
def test_two_ranks_of_a_run(images, tmp_path):
    """The checked start of the process group, which refuses its time limit."""
    done = host_runs.python(
        *("-m", "vissl_swav.train"),
        *host_runs.overrides(images, tmp_path / "run", processes=2),
        env={"VISSL_SWAV_START_SECONDS": "soon"},
    )
    assert done.returncode == 2
    said = [x for x in done.stderr.splitlines() if x.startswith("vissl-swav train: ")]
    assert len(said) == 1 and done.stderr.rstrip().endswith(said[0])
    assert (
        "rank 0: VISSL_SWAV_START_SECONDS is 'soon'" in said[0] or "rank 1" in said[0]
    )
    assert "Traceback" not in done.stderr + done.stdout
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "ProcessGroupError: VISSL_SWAV_START_SECONDS is 'soon'" in log
