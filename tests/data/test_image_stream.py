"""The stream: every image once a pass, for any streams; the same order; going on."""

import json
import os
from pathlib import Path

import pytest
from shard_files import image_of, number_of, write_shard, write_shards

from vissl_swav.data.decoding import UnreadableImage
from vissl_swav.data.errors import DataError
from vissl_swav.data.image_stream import ImageStream, StreamLayout
from vissl_swav.data.shard_reading import BrokenShard, images_of, list_shards
from vissl_swav.data.stream_journal import Journal, Place
from vissl_swav.data.stream_order import chunk_order, shares

BUFFER = 5


def stream_of(
    shards, stream=0, streams=1, *, buffer=BUFFER, seed=0, folder=None, broken=None
):
    layout = StreamLayout(num_streams=streams, buffer=buffer, seed=seed)
    whole, data = layout.names(shards)
    journal = Journal(folder, rank=0, stream=stream, layout=whole, data=data)
    told = (lambda e: broken.append(e)) if broken is not None else None
    return ImageStream(shards, layout, stream=stream, journal=journal, on_broken=told)


def taken(stream, count, start=0):
    """Numbers of so many images; what cannot be read is passed over."""
    return [number_at(stream, n) for n in range(start, start + count)]


def number_at(stream, n):
    while True:
        try:
            return number_of(stream.take(n).decode())
        except UnreadableImage:
            stream.pass_over()


def share_of(shards, stream, streams, counts):
    """Images of a stream in a pass."""
    return sum(
        len(range(share.part, counts[share.shard], share.parts))
        for share in shares(
            len(shards), stream=stream, num_streams=streams, seed=0, pass_number=0
        )
    )


@pytest.mark.parametrize("streams", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("counts", [[7, 7, 7, 7, 7], [3, 11, 0, 6], [40]])
def test_every_image_once_a_pass(tmp_path, counts, streams):
    """Uneven shards, an empty one, fewer shards than streams."""
    shards = write_shards(tmp_path, counts)
    seen = []
    for number in range(streams):
        count = share_of(shards, number, streams, counts)
        if count:
            seen += taken(stream_of(shards, number, streams), count)
    assert sorted(seen) == list(range(sum(counts)))


def test_streams_of_even_shards_end_a_pass_together():
    """What does not fill a round is shared: no stream has a shard more than another."""
    for streams in (2, 3, 7, 16):
        loads = [
            sum(
                1 / s.parts
                for s in shares(
                    20, stream=g, num_streams=streams, seed=1, pass_number=0
                )
            )
            for g in range(streams)
        ]
        assert sum(loads) == pytest.approx(20)
        assert max(loads) - min(loads) <= 0.5
        assert max(loads) <= 20 / streams + 0.5


def test_the_order_follows_from_the_seed_and_differs_from_pass_to_pass(tmp_path):
    shards = write_shards(tmp_path, [10] * 4)
    first = taken(stream_of(shards), 80)
    assert first == taken(stream_of(shards), 80)
    assert sorted(first[:40]) == sorted(first[40:]) == list(range(40))
    assert first[:40] != first[40:] and first[:40] != sorted(first[:40])
    assert first != taken(stream_of(shards, seed=1), 80)


def test_the_buffer_mixes_neighbours_and_shards():
    order = chunk_order(1000, stream=0, chunk=3, seed=0)
    assert sorted(order.tolist()) == list(range(1000))
    moved = abs(order - range(1000)).mean()
    assert 280 < moved < 390  # A third of the length where the order is uniform.
    other = chunk_order(1000, stream=0, chunk=4, seed=0)
    assert (order != other).mean() > 0.9


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.xz"])
def test_it_goes_on_anywhere(tmp_path, suffix):
    """From a record of its own, and without one; forwards and backwards."""
    counts = [6, 9, 4, 8]
    shards = write_shards(tmp_path / "shards", counts, suffix=suffix)
    whole = taken(stream_of(shards, 1, 2), 40)
    folder = str(tmp_path / "run")
    for start in (0, 3, 13, 14, 27):
        assert taken(stream_of(shards, 1, 2), 40 - start, start) == whole[start:]
        again = stream_of(shards, 1, 2, folder=folder)
        assert taken(again, 40 - start, start) == whole[start:]
        assert taken(again, 2, 5) == whole[5:7]


def test_going_on_reads_one_chunk_and_nothing_before_it(tmp_path, monkeypatch):
    from vissl_swav.data import image_stream

    shards = write_shards(tmp_path / "shards", [10] * 30)
    folder = str(tmp_path / "run")
    whole = taken(stream_of(shards, folder=folder), 150)
    opened = []
    original = image_stream.images_of

    def counted(shard, wanted):
        opened.append(shard)
        return original(shard, wanted)

    monkeypatch.setattr(image_stream, "images_of", counted)
    assert taken(stream_of(shards, folder=folder), 1, 149) == whole[149:]
    assert len(opened) <= 4
    # A line that a killed process left half written changes nothing.
    (path,) = (tmp_path / "run").glob("stream.*")
    text = path.read_text()
    path.write_text(text + text.splitlines()[-1][:20])
    assert taken(stream_of(shards, folder=folder), 1, 149) == whole[149:]


def test_images_that_cannot_be_read_are_passed_over(tmp_path):
    """Cut off, empty, no image at all: the others come once each, in the same order."""
    good = {f"{n:03d}.png": image_of(n) for n in range(20)}
    bad = {**good, "003.png": image_of(3)[:60], "011.png": b"", "012.png": b"text"}
    shards = [str(write_shard(tmp_path / "a.tar", bad))]
    folder = str(tmp_path / "run")
    whole = taken(stream_of(shards, folder=folder), 34)
    assert sorted(whole[:17]) == sorted(set(range(20)) - {3, 11, 12})
    assert sorted(whole[17:]) == sorted(whole[:17])
    for start in (2, 9, 15, 20):
        again = stream_of(shards, folder=folder)
        assert taken(again, 34 - start, start) == whole[start:]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_broken_shard_is_left_and_told(tmp_path, suffix):
    """Cut off, damaged, gone, no tar: what is before the fault counts."""
    shards = write_shards(tmp_path, [12, 12, 12, 12], suffix=suffix)
    data = Path(shards[0]).read_bytes()
    Path(shards[0]).write_bytes(data[: 100 + len(data) // 2])
    os.remove(shards[1])
    Path(shards[2]).write_bytes(b"no tar" * 500)
    told = []
    seen = taken(stream_of(shards, broken=told), 40)
    whole = set(range(36, 48))
    before = next(e.num_images for e in told if e.shard == shards[0])
    assert 0 < before < 12 and whole <= set(seen) <= whole | set(range(before))
    # One image may be cut off itself.
    first = seen[: len(whole) + before - 1]
    assert len(set(first)) == len(first)
    assert {e.shard for e in told} == set(shards[:3])
    assert all(isinstance(e, BrokenShard) and e.reason for e in told)
    # The same with and without a record, though a survey reads no bytes.
    assert taken(stream_of(shards), 32, 8) == seen[8:]


def test_a_damaged_header_is_no_end(tmp_path):
    (shard,) = write_shards(tmp_path, [6])
    with open(shard, "r+b") as file:
        file.seek(2 * 1024 + 1)
        file.write(b"\xff" * 200)
    with pytest.raises(BrokenShard, match="after 2 images: the header at byte"):
        list(images_of(shard, lambda n: True))


def test_of_a_sample_the_plain_name_counts_and_hidden_files_do_not(tmp_path):
    names = ["a/1.png", "a/1.mask.png", "a/1.cls", "a/2.x.png", "a/2.y.png", "a/.3.png"]
    data = dict.fromkeys(names, image_of(1))
    shard = str(write_shard(tmp_path / "a.tar", data))
    found = [member.name for member in images_of(shard, lambda n: False)]
    assert found == ["a/1.png", "a/2.x.png", "a/2.y.png"]


def test_no_image_in_a_pass_is_an_error_with_a_remedy(tmp_path):
    shards = write_shards(tmp_path, [0, 0])
    with pytest.raises(DataError, match="found no image in 16 passes.*workers"):
        stream_of(shards).take(0)
    # Three images for eight streams: the last ones have none.
    shards = write_shards(tmp_path / "few", [3])
    with pytest.raises(DataError, match="Take fewer workers"):
        stream_of(shards, 7, 8).take(0)


def test_other_streams_go_on_at_the_same_shards(tmp_path):
    """Another number of ranks or workers: what was read counts by whole shards."""
    shards = write_shards(tmp_path / "shards", [4] * 24)
    folder = str(tmp_path / "run")
    before = []
    for g in range(2):
        before += taken(stream_of(shards, g, 2, buffer=2, folder=folder), 24)
    after = []
    for g in range(3):
        after += taken(stream_of(shards, g, 3, buffer=2, folder=folder), 16, 16)
    missed = set(range(96)) - set(before) - set(after)
    twice = set(before) & set(after)
    assert len(missed) + len(twice) <= 3 * 4
    # And again, exactly: by their own record now.
    again = stream_of(shards, 1, 3, buffer=2, folder=folder)
    assert taken(again, 10, 22) == after[16 + 6 : 32]


def test_a_journal_line_names_a_chunk_by_its_place(tmp_path):
    shards = write_shards(tmp_path / "shards", [8, 8])
    taken(stream_of(shards, folder=str(tmp_path)), 16)
    lines = [
        json.loads(line)
        for line in (tmp_path / "stream.0.0.jsonl").read_text().split("\n")
        if line
    ]
    assert [line["given"] for line in lines] == [0, 5, 10, 15]
    assert [Place(*line["place"]) for line in lines] == [
        (0, 0, 0),
        (0, 0, 5),
        (0, 1, 2),
        (0, 1, 7),
    ]


def test_shards_are_found_below_a_folder_and_by_a_range(tmp_path):
    shards = write_shards(tmp_path / "b" / "c", [1, 1])
    more = write_shards(tmp_path / "a", [1], suffix=".tar.gz")
    (tmp_path / "a" / "notes.txt").write_text("no shard")
    assert list_shards(tmp_path) == [*more, *shards]
    assert list_shards(tmp_path / "b" / "c" / "shard-{00000..00001}.tar") == shards
    assert list_shards(shards[0]) == shards[:1]


def test_shards_that_are_not_there_are_an_error(tmp_path):
    with pytest.raises(DataError, match="there is no .*wanted a folder with tar"):
        list_shards(tmp_path / "nothing")
    with pytest.raises(DataError, match="holds no tar file"):
        list_shards(tmp_path)
    write_shards(tmp_path, [1])
    with pytest.raises(DataError, match="1 of the 2 shards of .* are not there"):
        list_shards(tmp_path / "shard-{00000..00001}.tar")
