"""Images that cannot be read during training: named once, counted, written down.

Workers append a line to `unreadable.<split>.<rank>.jsonl` in the run's folder; the
ranks' processes read the files. So the record outlives the run, whatever dies.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

FILE_PATTERN = "unreadable.{split}.{rank}.jsonl"


class UnreadableLog:
    """The file of one rank; copies in worker processes write to the same one.

    Args:
        folder: of the run; created with the first line.
        split: `train` or `test`.
        rank: of this process.
    """

    def __init__(self, folder: str | Path, split: str, rank: int):
        self.path = Path(folder) / FILE_PATTERN.format(split=split, rank=rank)
        self._told: set[str] = set()

    def add(self, name: str, reason: str, *, index: int) -> None:
        """Writes the line of an image, once in this process."""
        if name in self._told:
            return
        self._told.add(name)
        line = {"name": name, "reason": reason, "index": index, "time": time.time()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One write to a file opened for appending: lines of two workers do not mix.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        handle = os.open(self.path, flags, 0o644)
        try:
            os.write(handle, (json.dumps(line) + "\n").encode())
        finally:
            os.close(handle)


class UnreadableReader:
    """The images that the files of a folder name, each once, as the files grow.

    Args:
        folder: of the run.
        split: `train` or `test`.
    """

    def __init__(self, folder: str | Path, split: str):
        self._folder, self._split = Path(folder), split
        self.reasons: dict[str, str] = {}
        self._offsets: dict[Path, int] = {}

    @property
    def pattern(self) -> Path:
        """The files, for messages."""
        return self._folder / FILE_PATTERN.format(split=self._split, rank="*")

    def new(self) -> dict[str, str]:
        """Names and reasons that have come since the last call."""
        found: dict[str, str] = {}
        for path in sorted(self._folder.glob(self.pattern.name)):
            for name, reason in self._lines(path):
                if name not in self.reasons:
                    self.reasons[name] = found[name] = reason
        return found

    def forget(self) -> int:
        """Passes over what is there already; returns how many images it names."""
        count = len(self.new())
        self.reasons.clear()
        return count

    def _lines(self, path: Path) -> Iterator[tuple[str, str]]:
        with path.open("rb") as file:
            file.seek(self._offsets.get(path, 0))
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offsets[path] = self._offsets.get(path, 0) + len(whole)
        for line in whole.splitlines():
            try:
                entry = json.loads(line)
                yield str(entry["name"]), str(entry["reason"])
            except (ValueError, KeyError, TypeError):
                continue  # A line that a dying process left half written.
