"""Checkpoints are whole or not there, and what is not whole is seen."""

import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vissl_swav.compat import checkpoint_files, checkpoint_writing
from vissl_swav.compat.checkpoint_files import CheckpointError, fault_of, to_resume_from
from vissl_swav.compat.checkpoint_writing import CheckpointNotWritten, link, save

ROOT = Path(__file__).resolve().parents[2]


def content(*, steps, phases, fill=0.0, size=1000):
    return {
        "type": "consolidated",
        "phase_idx": phases - 1,
        "train_phase_idx": phases - 1,
        "iteration": steps,
        "classy_state_dict": {"weights": torch.full((size,), fill)},
    }


def write(folder, name, **settings):
    save(content(**settings), folder / name)
    return folder / name


def cut(path, keep=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def flip_a_weight(path):
    """One byte in the middle: the archive's directory stays as it was."""
    data = bytearray(path.read_bytes())
    at = data.find(torch.full((64,), 3.0).numpy().tobytes())
    assert at > 0
    data[at] ^= 1
    path.write_bytes(bytes(data))


def test_what_is_saved_is_read_back_and_nothing_else_is_left(tmp_path):
    path = write(tmp_path, "model_phase0.torch", steps=3, phases=1, fill=2.0)
    read = torch.load(path)
    assert torch.equal(read["classy_state_dict"]["weights"], torch.full((1000,), 2.0))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_flushed_to_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """Order of the calls: file synced, renamed, folder synced."""
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("sync"), fsync(fd)))
    monkeypatch.setattr(
        os, "replace", lambda a, b: (calls.append(Path(b).name), replace(a, b))
    )
    write(tmp_path, "a.torch", steps=1, phases=1)
    link(tmp_path / "a.torch", tmp_path / "checkpoint.torch")
    assert calls == ["sync", "a.torch", "sync", "checkpoint.torch", "sync"]


class FullDisk:
    """A file on a disk that has room for so many bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.room -= memoryview(data).nbytes
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


@pytest.mark.parametrize("room", [0, 3000, 200_000])
def test_a_full_disk_stops_the_run_and_keeps_the_old_one(tmp_path, monkeypatch, room):
    path = write(tmp_path, "model_phase0.torch", steps=3, phases=1)
    before = path.read_bytes()
    monkeypatch.setattr(
        checkpoint_writing,
        "open",
        lambda *arguments: FullDisk(open(*arguments), room),
        raising=False,
    )
    monkeypatch.setattr(
        checkpoint_writing.shutil,
        "disk_usage",
        lambda folder: type("Usage", (), {"free": 1234})(),
    )
    with pytest.raises(CheckpointNotWritten) as caught:
        write(tmp_path, path.name, steps=6, phases=2, size=100_000)
    assert caught.value.errno == errno.ENOSPC
    for words in (str(path), "No space left", "1,234 bytes are free", "needs 40"):
        assert words in str(caught.value)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_disk_that_fills_while_it_syncs(tmp_path, monkeypatch):
    def no_room(descriptor):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(CheckpointNotWritten, match="quota"):
        write(tmp_path, "model_phase0.torch", steps=3, phases=1)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_pickled_is_another_error(tmp_path):
    with pytest.raises(Exception) as caught:
        save({"hook": lambda: None}, tmp_path / "model_phase0.torch")
    assert not isinstance(caught.value, CheckpointNotWritten)
    assert list(tmp_path.iterdir()) == []


PROGRAM = """
import sys
from pathlib import Path
import torch
from vissl_swav.compat.checkpoint_writing import save
content = {"weights": torch.zeros(2_000_000)}
print("ready", flush=True)
for number in range(10_000):
    content["weights"].fill_(number)
    save(content, Path(sys.argv[1]) / "model_phase0.torch")
"""


def test_killed_while_writing_leaves_a_whole_file(tmp_path):
    """SIGKILL at eight moments; all values of the file are from one write."""
    path, torn = tmp_path / "model_phase0.torch", 0
    for number in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3 + 0.037 * number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if path.exists():
            weights = torch.load(path)["weights"]
            assert (weights == weights[0]).all()
        torn += len(list(tmp_path.glob("*.partial")))
        checkpoint_writing.remove_leftovers(tmp_path)
    assert path.exists() and torn > 0, "no write was interrupted"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_link_follows_and_moves_with_its_folder(tmp_path):
    folder = tmp_path / "run"
    one = write(folder, "model_phase0.torch", steps=3, phases=1)
    two = write(folder, "model_phase1.torch", steps=6, phases=2)
    for target in (one, two):
        link(target, folder / "checkpoint.torch")
        assert (folder / "checkpoint.torch").resolve() == target
    moved = folder.rename(tmp_path / "moved")
    assert torch.load(moved / "checkpoint.torch")["iteration"] == 6
    outside = tmp_path / "elsewhere.torch"
    link(moved / "model_phase0.torch", outside)
    assert outside.resolve() == moved / "model_phase0.torch"


def test_a_disk_without_links_is_no_reason_to_stop(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    path = write(tmp_path, "model_phase0.torch", steps=3, phases=1)
    monkeypatch.setattr(os, "symlink", refuse)
    link(path, tmp_path / "checkpoint.torch")
    assert "was not made" in caplog.text
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_hosts_writer_writes_this_way(host, tmp_path):
    from vissl.utils.checkpoint import CheckpointWriter

    writer = CheckpointWriter(str(tmp_path), False, "phase", 0, "disk")
    writer.save_consolidated_checkpoint(content(steps=3, phases=1))
    assert os.readlink(tmp_path / "checkpoint.torch") == "model_phase0.torch"
    assert fault_of(tmp_path / "model_phase0.torch") is None
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["checkpoint.torch", "model_phase0.torch"]


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99, 0.9999])
def test_a_truncated_file_is_recognised(tmp_path, keep):
    path = write(tmp_path, "model_phase0.torch", steps=3, phases=1)
    assert fault_of(path) is None
    cut(path, keep)
    assert fault_of(path) == "is empty" if keep == 0 else "cut short" in fault_of(path)


def test_one_wrong_bit_is_recognised(tmp_path):
    path = write(tmp_path, "model_phase0.torch", steps=3, phases=1, fill=3.0)
    flip_a_weight(path)
    assert "checksum" in fault_of(path)
    torch.load(path)  # torch itself does not look


def test_a_file_that_is_no_checkpoint(tmp_path):
    save({"weights": torch.zeros(3)}, tmp_path / "model_phase0.torch")
    assert "no training state" in fault_of(tmp_path / "model_phase0.torch")
    assert "cannot be read" in fault_of(tmp_path / "nowhere.torch")


def test_a_list_of_shards_is_as_good_as_its_shards(tmp_path):
    shards = ["model_phase0_shard0.torch", "model_phase0_shard1.torch"]
    for name in shards:
        write(tmp_path, name, steps=3, phases=1)
    path = tmp_path / "model_phase0.torch"
    save({"type": "shard_list", "shards": shards}, path)
    assert to_resume_from(tmp_path, num_phases=2).num_steps == 3
    cut(tmp_path / shards[1])
    checkpoint_files._looked_at.cache_clear()
    assert shards[1] in fault_of(path)


def test_the_newest_whole_one_counts(tmp_path, caplog):
    """By steps, whatever their kind; a faulty one is named and passed over."""
    files = [
        write(tmp_path, "model_phase0.torch", steps=3, phases=1),
        write(tmp_path, "model_iteration4.torch", steps=4, phases=1),
        write(tmp_path, "model_iteration6.torch", steps=6, phases=1),
        write(tmp_path, "model_phase1.torch", steps=6, phases=2),
        write(tmp_path, "model_iteration8.torch", steps=8, phases=2),
        write(tmp_path, "model_final_checkpoint_phase2.torch", steps=9, phases=3),
    ]
    link(files[-1], tmp_path / "checkpoint.torch")
    (tmp_path / "notes.torch").touch()

    def newest(**settings):
        return to_resume_from(tmp_path, **settings).path

    assert newest(num_phases=4) == files[-1]
    assert newest(num_phases=4, back=1) == files[4]
    assert newest(num_phases=4, back=99) == files[0]
    # The run has ended, and is to be run again: what is left to do counts.
    assert newest(num_phases=3) == files[4]
    for wanted, broken in ((files[4], files[5]), (files[3], files[4])):
        cut(broken)
        caplog.clear()
        assert newest(num_phases=4) == wanted
        assert broken.name in caplog.text and "before it is used" in caplog.text


def test_with_none_left_the_start_stops(tmp_path):
    assert to_resume_from(tmp_path, num_phases=2) is None
    path = write(tmp_path, "model_phase0.torch", steps=3, phases=1)
    assert to_resume_from(tmp_path, num_phases=1) is None, "nothing is left to do"
    cut(path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"none of them.*model_phase0\.torch is"):
        to_resume_from(tmp_path, num_phases=2)
    assert path.read_bytes() == before


def host_config(folder, *, epochs=4, overwrite=False, link=False):
    from vissl.config import AttrDict

    section = {
        "DIR": str(folder),
        "OVERWRITE_EXISTING": overwrite,
        "AUTO_RESUME": True,
        "LATEST_CHECKPOINT_RESUME_FILE_NUM": 1,
        "CHECKPOINT_ITER_FREQUENCY": -1,
        "USE_SYMLINK_CHECKPOINT_FOR_RESUME": link,
    }
    return AttrDict(
        {
            "CHECKPOINT": section,
            "OPTIMIZER": {"num_epochs": epochs},
            "DATA": {"TRAIN": {}},
        }
    )


def test_the_host_resumes_from_it(host, tmp_path):
    from vissl.utils.checkpoint import get_resume_checkpoint

    good = write(tmp_path, "model_phase0.torch", steps=3, phases=1)
    cut(write(tmp_path, "model_phase1.torch", steps=6, phases=2))
    (tmp_path / f"{checkpoint_writing._PREFIX}7-a{checkpoint_writing._SUFFIX}").touch()
    assert get_resume_checkpoint(host_config(tmp_path), str(tmp_path)) == str(good)
    assert not list(tmp_path.glob("*.partial")), "what was never finished goes"
    cut(good)
    with pytest.raises(CheckpointError):
        get_resume_checkpoint(host_config(tmp_path), str(tmp_path))


def test_a_torn_final_checkpoint_is_no_finished_run(host, tmp_path, caplog):
    from vissl.utils.checkpoint import is_training_finished

    final = write(tmp_path, "model_final_checkpoint_phase3.torch", steps=12, phases=4)
    config = host_config(tmp_path)
    assert is_training_finished(config, str(tmp_path))
    cut(final)
    assert not is_training_finished(config, str(tmp_path))
    assert final.name in caplog.text


def test_a_finished_run_asked_for_more_epochs_is_not_finished(host, tmp_path):
    """Without OVERWRITE_EXISTING, too; of two final checkpoints the later counts."""
    from vissl.utils.checkpoint import is_training_finished

    write(tmp_path, "model_final_checkpoint_phase3.torch", steps=12, phases=4)
    assert not is_training_finished(host_config(tmp_path, epochs=6), str(tmp_path))
    for epochs in (4, 3):
        config = host_config(tmp_path, epochs=epochs)
        assert is_training_finished(config, str(tmp_path))
    write(tmp_path, "model_final_checkpoint_phase5.torch", steps=18, phases=6)
    assert is_training_finished(host_config(tmp_path, epochs=6), str(tmp_path))
    config = host_config(tmp_path, epochs=8)
    config.CHECKPOINT.AUTO_RESUME = False
    assert is_training_finished(config, str(tmp_path)), "then nothing may go on"


def test_a_link_to_a_torn_file_is_not_followed(host, tmp_path, caplog):
    """The host's launcher, asked to follow the link, is told to choose."""
    from types import SimpleNamespace

    from vissl_swav.compat.resume import follow_only_a_good_link

    seen = []
    launcher = SimpleNamespace(
        launch_distributed=lambda cfg: seen.append(cfg.CHECKPOINT.copy())
    )
    follow_only_a_good_link(launcher)
    path = write(tmp_path, "model_phase0.torch", steps=3, phases=1)
    link(path, tmp_path / "checkpoint.torch")
    with caplog.at_level(logging.WARNING):
        launcher.launch_distributed(host_config(tmp_path, link=True))
        cut(path)
        launcher.launch_distributed(host_config(tmp_path, link=True))
    followed = [one["USE_SYMLINK_CHECKPOINT_FOR_RESUME"] for one in seen]
    assert followed == [True, False]
    assert "is not followed" in caplog.text
