"""Where a stream stood: a line a chunk, so that going on costs one chunk and no scan.

`stream.<rank>.<stream>.jsonl` in the run's folder. What a stream gives follows from its
settings and the shards alone; a line only saves reading up to it. So a lost or damaged
file costs time, not exactness, but for the images that could not be read: those stand
in it too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FILE_NAME = "stream.{rank}.{stream}.jsonl"
_PATTERN = "stream.*.jsonl"


class Place(NamedTuple):
    """A place in a stream: the image that comes next.

    Attributes:
        passes: over the data, finished.
        share: shards of this pass that are finished.
        member: images of the shard that lie before.
    """

    passes: int = 0
    share: int = 0
    member: int = 0


class ChunkStart(NamedTuple):
    """A chunk, and how many images the stream had given before it."""

    given: int
    chunk: int
    place: Place


class Journal:
    """The lines of one stream.

    Args:
        folder: of the run; None keeps them in memory.
        rank: of the process.
        stream: of the rank's streams.
        layout: names everything that the stream's order follows from.
        data: names the shards and the seed alone.
    """

    def __init__(
        self, folder: str | None, *, rank: int, stream: int, layout: str, data: str
    ):
        self._folder = None if folder is None else Path(folder)
        self._name = FILE_NAME.format(rank=rank, stream=stream)
        self._layout, self._data = layout, data
        self._memory: list[dict[str, Any]] = []

    def start(self, start: ChunkStart, num_shares: int) -> None:
        """A chunk begins; its pass has so many shards for this stream."""
        self._write(
            {
                "given": start.given,
                "chunk": start.chunk,
                "place": list(start.place),
                "shares": num_shares,
            }
        )

    def bad(self, chunk: int, index: int) -> None:
        """The image `index` of a chunk cannot be read."""
        self._write({"chunk": chunk, "bad": index})

    def before(self, given: int) -> ChunkStart | None:
        """The last chunk that began when `given` images or fewer had been given."""
        found: ChunkStart | None = None
        for line in self._lines():
            if "given" in line and line["given"] <= given:
                start = ChunkStart(line["given"], line["chunk"], Place(*line["place"]))
                if found is None or start.given >= found.given:
                    found = start
        return found

    def bad_of(self, chunk: int) -> set[int]:
        """Images of a chunk that could not be read."""
        return {
            line["bad"]
            for line in self._lines()
            if "bad" in line and line["chunk"] == chunk
        }

    def progress_elsewhere(self, given: int) -> float | None:
        """Passes done by streams of another layout over the same data.

        Of several layouts, that which came furthest; None where there is none.

        Args:
            given: images that all streams have given; the lines are of a moment before.
        """
        if self._folder is None:
            return None
        found: dict[str, list[tuple[int, float]]] = {}
        for path in sorted(self._folder.glob(_PATTERN)):
            last: dict[str, tuple[int, float]] = {}
            for line in _parsed(path):
                if line.get("data") == self._data and "given" in line:
                    passes, share, _ = line["place"]
                    done = passes + share / max(1, line["shares"])
                    last[line["layout"]] = line["given"], done
            for layout, pair in last.items():
                found.setdefault(layout, []).append(pair)
        found.pop(self._layout, None)
        totals = [
            (sum(known for known, _ in pairs), sum(p for _, p in pairs) / len(pairs))
            for pairs in found.values()
        ]
        if not totals:
            return None
        known, progress = max(totals)
        return progress * given / known if known else progress

    def _lines(self) -> Iterator[dict[str, Any]]:
        if self._folder is None:
            yield from self._memory
            return
        for line in _parsed(self._folder / self._name):
            if line.get("layout") == self._layout:
                yield line

    def _write(self, line: dict[str, Any]) -> None:
        if self._folder is None:
            self._memory.append(line)
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        whole = {**line, "layout": self._layout, "data": self._data}
        # Opened each time: a stream may move to another worker of its rank. The first
        # newline ends what a dying process left half written.
        text = f"\n{json.dumps(whole)}\n"
        handle = os.open(
            self._folder / self._name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644
        )
        try:
            os.write(handle, text.encode())
        finally:
            os.close(handle)


def _parsed(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of a file; none where there is no file."""
    if not path.is_file():
        return
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "chunk" in line:
            yield line
