"""The whole suite `quick` from a checkpoint of ours, broken off and gone on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import host_runs
import pytest


@pytest.fixture(scope="module")
def pretrained(host, tmp_path_factory):
    root = tmp_path_factory.mktemp("table")
    host_runs.make_images(root / "images" / "train", classes=2, per_class=24)
    host_runs.make_images(root / "images" / "test", classes=2, per_class=8, seed=1)
    line = host_runs.overrides(root / "images" / "train", root / "run")
    done = host_runs.train(*line)
    assert done.returncode == 0, done.stderr
    return root


def command(root):
    return [
        *(sys.executable, "-m", "vissl_swav.cli", "table", str(root / "run")),
        *("--out", str(root / "out"), "--device", "cpu"),
    ]


def results(root):
    return {p.parent.name for p in (root / "out" / "rows").rglob("result.json")}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_broken_off_and_gone_on(pretrained):
    root = pretrained
    process = subprocess.Popen(
        command(root), cwd=host_runs.ROOT, env=host_runs.ENVIRONMENT
    )
    deadline = time.monotonic() + 600
    while len(results(root)) < 4 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.2)
    before = results(root)
    time.sleep(4)  # Into the next run.
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 130
    assert not still_there(root)
    assert before <= results(root)
    stamps = {
        p: p.stat().st_mtime_ns for p in (root / "out" / "rows").rglob("result.json")
    }
    done = subprocess.run(
        command(root),
        cwd=host_runs.ROOT,
        env=host_runs.ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())
    found = json.loads((root / "out" / "table.json").read_text())["columns"]
    assert list(found) == ["swav", "random trunk", "supervised"]
    for row in found.values():
        # 24 images a class are fewer than 128.
        assert row.pop("low_shot_128") is None
        # 16 test images. One column of a net that has seen 48 may be below chance.
        shares = [value / 6.25 for value in row.values()]
        assert all(share in range(17) for share in shares), row
        assert max(row.values()) >= 75, row
    assert "--data" not in done.stderr
    page = (root / "out" / "report.html").read_text()
    assert "Nearest neighbours" in page and page.count("data:image/jpeg") > 30
    assert "has classes with fewer than 128 images" in page


def still_there(root):
    """Processes that were started for the table."""
    found = []
    for folder in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{folder}/cmdline").read_bytes().decode()
        except OSError:
            continue
        if str(root / "out") in line:
            found.append(line)
    return found
