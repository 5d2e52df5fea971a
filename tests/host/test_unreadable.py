"""The record of images that could not be read."""

from concurrent.futures import ThreadPoolExecutor

from vissl_swav.host.unreadable import UnreadableLog, UnreadableReader


def test_what_is_added_is_read_once(tmp_path):
    reader = UnreadableReader(tmp_path, "train")
    assert reader.new() == {}
    log, other = (
        UnreadableLog(tmp_path, "train", 0),
        UnreadableLog(tmp_path, "train", 1),
    )
    log.add("a b.jpg", "truncated", index=3)
    log.add("a b.jpg", "truncated", index=3)
    other.add("c.png", 'says "no"\n', index=5)
    assert reader.new() == {"a b.jpg": "truncated", "c.png": 'says "no"\n'}
    other.add("a b.jpg", "truncated", index=3)
    log.add("d.png", "gone", index=6)
    assert reader.new() == {"d.png": "gone"}
    assert reader.new() == {}
    assert len(reader.reasons) == 3
    assert len((tmp_path / "unreadable.train.0.jsonl").read_text().splitlines()) == 2
    assert UnreadableReader(tmp_path, "train").new() == reader.reasons


def test_a_line_half_written_waits_and_rubbish_is_passed_over(tmp_path):
    log, reader = (
        UnreadableLog(tmp_path, "train", 0),
        UnreadableReader(tmp_path, "train"),
    )
    log.add("a.png", "empty", index=0)
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + b'{"name": "b.p')
    assert set(reader.new()) == {"a.png"}
    log.path.write_bytes(whole + b'{"name": "b.png", "reason": "empty"}\nrubbish\n[]\n')
    assert set(reader.new()) == {"b.png"}


def test_writers_do_not_mix_their_lines(tmp_path):
    def write(worker):
        log = UnreadableLog(tmp_path, "train", 0)
        for number in range(50):
            log.add(f"{worker}/{number}" * 20, "empty", index=number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(UnreadableReader(tmp_path, "train").new()) == 400


def test_the_folder_is_made_with_the_first_line(tmp_path):
    UnreadableLog(tmp_path / "run", "train", 0).add("a.png", "empty", index=0)
    assert (tmp_path / "run" / "unreadable.train.0.jsonl").exists()
