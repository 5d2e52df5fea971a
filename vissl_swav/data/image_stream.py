"""Images of tar shards as a stream: no index, a shuffle buffer, a place to go on from.

A stream (one worker of one rank) reads its shards one after the other
(`stream_order.shares`), pass after pass without end. It holds one chunk of images at a
time and gives them in a shuffled order; for every image given it reads one of the next
chunk, so that memory and speed are even. A chunk ends where a pass ends: no image comes
twice before all of the stream's have come once.

What a stream gives as its n-th image follows from its settings and the shards. It may
be asked for any n, and continues from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from vissl_swav.data.decoding import EncodedImage
from vissl_swav.data.errors import DataError
from vissl_swav.data.shard_reading import BrokenShard, images_of
from vissl_swav.data.stream_journal import ChunkStart, Journal, Place
from vissl_swav.data.stream_order import Share, chunk_order, shares

# By chance all of a stream's shards of a pass may be empty ones, or broken.
_MOST_EMPTY_PASSES = 16
OnBroken = Callable[[BrokenShard], None]


class Shards(Protocol):
    """A list of paths; `PackedStrings` is one as well."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> str: ...


@dataclass(frozen=True)
class StreamLayout:
    """What the order of all streams of a run follows from, beside the shards.

    Attributes:
        num_streams: G, over all ranks.
        buffer: images of a chunk.
        seed: the run's.
    """

    num_streams: int
    buffer: int
    seed: int

    def names(self, shards: Sequence[str]) -> tuple[str, str]:
        """Of the whole order, and of shards and seed alone; for `Journal`."""
        listed = hashlib.blake2b("\0".join(shards).encode(errors="surrogateescape"))
        data = f"{listed.hexdigest()[:16]}-{self.seed}"
        return f"{data}-{self.num_streams}-{self.buffer}", data


class ImageStream:
    """One stream's images.

    Args:
        shards: tar files; all streams have the same list.
        layout: of all streams.
        stream: number of this one, from 0 to `layout.num_streams` - 1.
        journal: where the starts of chunks are kept.
        on_broken: is told of a shard that cannot be read to its end; what is left of it
            is passed over.
    """

    def __init__(
        self,
        shards: Shards,
        layout: StreamLayout,
        *,
        stream: int,
        journal: Journal,
        on_broken: OnBroken | None = None,
    ):
        self._shards = shards
        self._layout = layout
        self._stream = stream
        self._journal = journal
        self._on_broken = on_broken or _say_nothing
        self._next: int | None = None  # The number of the image that comes next.
        self._start = ChunkStart(0, 0, Place())
        self._chunk: list[EncodedImage | None] = []
        self._order: list[int] = []
        self._given = 0  # Of the chunk, those that cannot be read included.
        self._entries: Iterator[_Entry] = iter(())
        self._ahead: _Entry | None = None
        self._filled: list[_Entry] = []
        self._filled_is_whole = False
        self._dealt: tuple[int, list[Share]] = (-1, [])

    def take(self, number: int) -> EncodedImage:
        """The `number`-th image of the stream, from 0.

        Raises:
                DataError: the stream's share of the shards has no image.
        """
        if number != self._next:
            self._seek(number)
        if self._given == len(self._order):
            self._turn_over(number)
        image = self._pop()
        self._next = number + 1
        return image

    def pass_over(self) -> None:
        """The image given last cannot be read: the next one takes its number."""
        assert self._next is not None
        self._next -= 1
        self._journal.bad(self._start.chunk, self._order[self._given - 1])

    def _pop(self) -> EncodedImage:
        place = self._order[self._given]
        image, self._chunk[place] = self._chunk[place], None
        self._given += 1
        self._fill_one()
        assert image is not None
        return image

    def _turn_over(self, number: int) -> None:
        """The next chunk, filled up, takes the place of the one that is used up."""
        while not self._filled_is_whole:
            self._fill_one()
        first = self._filled[0].place
        self._begin(ChunkStart(number, self._start.chunk + 1, first), self._filled)

    def _begin(self, start: ChunkStart, entries: list[_Entry]) -> None:
        self._start = start
        self._chunk = [entry.image for entry in entries]
        self._order = chunk_order(
            len(entries),
            stream=self._stream,
            chunk=start.chunk,
            seed=self._layout.seed,
        ).tolist()
        self._given, self._filled, self._filled_is_whole = 0, [], False
        self._journal.start(start, len(self._shares(start.place.passes)))

    def _fill_one(self) -> None:
        """Reads one image of the next chunk, unless that is whole."""
        if self._filled_is_whole:
            return
        entry = self._ahead or next(self._entries)
        self._ahead = None
        # One image ahead: only it tells that a pass has ended.
        if self._filled and entry.place.passes != self._filled[0].place.passes:
            self._ahead, self._filled_is_whole = entry, True
            return
        self._filled.append(entry)
        self._filled_is_whole = len(self._filled) == self._layout.buffer

    def _seek(self, number: int) -> None:
        """Makes `number` the next image: the chunk that holds it, and what is given."""
        start = self._journal.before(number) or self._first(number)
        while True:
            names, after = self._survey(start.place)
            bad = self._journal.bad_of(start.chunk)
            if start.given + names - len(bad) > number:
                break
            start = ChunkStart(
                start.given + names - len(bad), start.chunk + 1, after.place
            )
        self._entries, self._ahead = self._read(start.place, with_data=True), None
        self._filled, self._filled_is_whole = [], False
        while not self._filled_is_whole:
            self._fill_one()
        self._begin(start, self._filled)
        given = start.given
        while given < number or self._order[self._given] in bad:
            given += self._order[self._given] not in bad
            self._pop()

    def _first(self, number: int) -> ChunkStart:
        """The stream's start; or, where another layout was at work, where that stood.

        What was given before is then another layout's: as many shards as it had read
        count as read.
        """
        total = number * self._layout.num_streams
        progress = self._journal.progress_elsewhere(total) if number else None
        if progress is None:
            return ChunkStart(0, 0, Place())
        passes = int(progress)
        share = round((progress - passes) * len(self._shares(passes)))
        return ChunkStart(number, 0, Place(passes, share, 0))

    def _survey(self, place: Place) -> tuple[int, _Entry]:
        """Images of the chunk that starts at a place, and the one after it."""
        entries = self._read(place, with_data=False)
        first = next(entries)
        for count, entry in enumerate(entries, 1):
            whole = count == self._layout.buffer
            if whole or entry.place.passes != first.place.passes:
                return count, entry
        raise AssertionError("a stream has no end")

    def _read(self, place: Place, *, with_data: bool) -> Iterator[_Entry]:
        """All images from a place on, without end."""
        passes, first_share, first_member = place
        empty = 0
        while True:
            empty += 1
            for at, share in enumerate(self._shares(passes)):
                if at < first_share:
                    continue
                start = Place(passes, at, first_member)
                for entry in self._read_shard(share, start, with_data=with_data):
                    empty = 0
                    yield entry
                first_member = 0
            if empty == _MOST_EMPTY_PASSES:
                raise DataError(
                    f"stream {self._stream} of {self._layout.num_streams} (ranks x "
                    f"workers) found no image in {empty} passes over its share of "
                    f"{len(self._shards)} shards, {self._shards[0]} first. Take fewer "
                    "workers (config.DATA.NUM_DATALOADER_WORKERS) for so few images, "
                    "or look at the shards: vissl-swav data-check PATH --shards 5."
                )
            passes, first_share = passes + 1, 0

    def _read_shard(
        self, share: Share, start: Place, *, with_data: bool
    ) -> Iterator[_Entry]:
        """This stream's images of a shard, from one on."""

        def mine(number: int) -> bool:
            return number >= start.member and number % share.parts == share.part

        shard = self._shards[share.shard]
        try:
            for member in images_of(shard, lambda n: with_data and mine(n)):
                if mine(member.number):
                    place = start._replace(member=member.number)
                    name = f"{shard}/{member.name}"
                    data = member.data
                    image = None if data is None else EncodedImage(data, name)
                    yield _Entry(place, image)
        except BrokenShard as error:
            if with_data:
                self._on_broken(error)

    def _shares(self, passes: int) -> list[Share]:
        if self._dealt[0] != passes:
            dealt = shares(
                len(self._shards),
                stream=self._stream,
                num_streams=self._layout.num_streams,
                seed=self._layout.seed,
                pass_number=passes,
            )
            self._dealt = passes, dealt
        return self._dealt[1]


@dataclass(frozen=True)
class _Entry:
    """An image and its place; no image where only places are asked for."""

    place: Place
    image: EncodedImage | None


def _say_nothing(error: BrokenShard) -> None:
    """For those who do not ask."""
