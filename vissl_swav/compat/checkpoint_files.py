"""Which checkpoint of a folder to go on from: the newest one that is whole.

No shim; `compat/resume.py` hands it to the host, `host/preflight.py` asks it before.
"""

from __future__ import annotations

import functools
import itertools
import logging
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vissl_swav.compat.checkpoint_loading import BrokenFile, load_checkpoint

_PHASE = re.compile(r"model_(?:final_checkpoint_)?phase(\d+)\.torch")
_ITERATION = re.compile(r"model_iteration(\d+)\.torch")
_KEYS = {"classy_state_dict", "iteration", "train_phase_idx", "phase_idx"}


class CheckpointError(RuntimeError):
    """There are checkpoints to go on from, and none can be read."""


class Found(NamedTuple):
    """A checkpoint that is whole, and how far it had come."""

    path: Path
    num_steps: int
    num_phases: int


class Verdict(NamedTuple):
    """What a look at a file gave: a fault in words, or how far it had come."""

    fault: str | None
    num_steps: int = 0
    num_phases: int = 0


def to_resume_from(folder: Path, *, num_phases: int, back: int = 0) -> Found | None:
    """The newest whole checkpoint with training left to do.

    Whether it was written at the end of an epoch, in its middle or at the end of a
    shorter run does not matter: the one with the most steps counts, at a tie the one
    at the end of the epoch.

    Args:
        folder: the checkpoint folder.
        num_phases: training phases that the run is to have.
        back: how many of the newest to pass over; never more than there are.

    Returns:
        None where the folder holds no checkpoint of fewer phases.

    Raises:
        CheckpointError: it holds some, and all are faulty.
    """
    faults: list[str] = []
    found: Found | None = None
    for whole in itertools.islice(_newest_first(folder, num_phases, faults), back + 1):
        found = whole
    if found is None and faults:
        raise CheckpointError(
            f"{folder} holds checkpoints, but none of them can be read: "
            f"{'; '.join(faults)}. Nothing was changed there. Put a good copy in their "
            "place, or, to start anew, name another config.CHECKPOINT.DIR or remove "
            "the files."
        )
    return found


def fault_of(path: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None if it is whole.

    Every byte is read and held against the checksums that torch stored (about a second
    for a gigabyte from a warm disk), and the structure is unpickled as data.
    """
    return _verdict(path).fault


def phases_done(path: Path) -> int:
    """Training phases that a whole checkpoint has behind it; 0 of a faulty one."""
    found = _verdict(path)
    return 0 if found.fault is not None else found.num_phases


def _newest_first(folder: Path, num_phases: int, faults: list[str]) -> Iterator[Found]:
    """Whole checkpoints by steps, most first; only as many files are read as asked."""
    by_phase: list[tuple[int, Path]] = []
    by_step: list[tuple[int, Path]] = []
    for path in folder.iterdir():
        if match := _PHASE.fullmatch(path.name):
            if int(match[1]) + 1 < num_phases:
                by_phase.append((int(match[1]), path))
        elif match := _ITERATION.fullmatch(path.name):
            by_step.append((int(match[1]), path))
    queues = [_whole(files, num_phases, faults) for files in (by_phase, by_step)]
    heads = [next(queue, None) for queue in queues]
    while any(heads):
        # At a tie the first, which is that of the epoch's end.
        steps = [-1 if head is None else head.num_steps for head in heads]
        newest = steps.index(max(steps))
        head = heads[newest]
        assert head is not None
        yield head
        heads[newest] = next(queues[newest], None)


def _whole(
    files: list[tuple[int, Path]], num_phases: int, faults: list[str]
) -> Iterator[Found]:
    for _, path in sorted(files, reverse=True):
        verdict = _verdict(path)
        if verdict.fault is not None:
            faults.append(f"{path.name} {verdict.fault}")
            logging.warning(
                f"vissl_swav: {path} {verdict.fault}; the checkpoint before it is used"
            )
        elif verdict.num_phases < num_phases:
            yield Found(path, verdict.num_steps, verdict.num_phases)


def _verdict(path: Path) -> Verdict:
    try:
        stat = path.stat()
    except OSError as error:
        return Verdict(f"cannot be read ({error.strerror})")
    return _looked_at(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _looked_at(path: Path, size: int, mtime: int) -> Verdict:
    """Cached: the checks before a run and the host's start ask for the same file."""
    try:
        if size == 0:
            return Verdict("is empty")
        content = load_checkpoint(
            str(path), map_location="cpu", mmap=zipfile.is_zipfile(path)
        )
    except BrokenFile as error:
        return Verdict(f"is cut short or damaged ({size:,} bytes; {error.reason})")
    # A torn file fails in as many ways as there are bytes.
    except Exception as error:
        what = " ".join(str(error).split())[:200]
        return Verdict(f"cannot be read ({type(error).__name__}: {what})")
    return _state_of(path, content)


def _state_of(path: Path, content: Any) -> Verdict:
    if isinstance(content, dict) and content.get("type") == "shard_list":
        shards = [path.parent / name for name in content["shards"]]
        verdicts = [_verdict(shard) for shard in shards]
        for shard, verdict in zip(shards, verdicts, strict=True):
            if verdict.fault is not None:
                return Verdict(f"needs {shard.name}, which {verdict.fault}")
        return verdicts[0] if verdicts else Verdict("names no shards")
    missing = _KEYS - set(content if isinstance(content, dict) else ())
    if missing:
        return Verdict(f"holds no training state (no {', '.join(sorted(missing))})")
    # `train_phase_idx` counts from 0 the last phase that is finished.
    return Verdict(None, int(content["iteration"]), content["train_phase_idx"] + 1)
