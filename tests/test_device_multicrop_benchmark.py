"""The script runs at toy size and its figures can be read back."""

import json

import host_runs
import pytest


def test_device_multicrop_at_toy_size(tmp_path):
    pytest.importorskip("cv2")
    done = host_runs.python(
        "benchmarks/device_multicrop.py",
        *("--device=cpu", "--batch=3", "--small-batch=8"),
        *("--rounds=1", "--block=1", f"--json={tmp_path / 'figures.json'}"),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    figures = json.loads((tmp_path / "figures.json").read_text())
    tasks = [rows for name, rows in figures.items() if name.startswith("2x")]
    assert len(tasks) == 2
    for rows in tasks:
        assert rows["MultiCrop, opencv, one process"]["times_the_baseline"] == 1.0
        assert rows["BatchedMultiCrop"]["images_per_second"] > 0
        assert "BatchedMultiCrop" in done.stdout
