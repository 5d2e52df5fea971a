"""The multi-crop benchmark runs; what it measures is no test's business."""

import io
import json

import host_runs
import numpy as np
import pytest
from PIL import Image

RECIPE = "2x32+3x16"


@pytest.mark.parametrize("with_photographs", [True, False])
def test_the_benchmark_runs_at_toy_size(host, request, tmp_path, with_photographs):
    folder = request.getfixturevalue("shared") if with_photographs else tmp_path
    done = host_runs.python(
        *("benchmarks/multicrop.py", "--crops", RECIPE, "--images=3", "--rounds=1"),
        f"--json={tmp_path / 'figures.json'}",
        env={"VISSL_SWAV_SHARED": str(folder)},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert ("synthetic JPEGs" in done.stdout) != with_photographs
    assert "ffcv" in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["images"] == 3
    seconds = figures[RECIPE]["seconds"]
    for name in (
        *("decode alone, OpenCV", "VISSL 0.1.6 transform list, Pillow"),
        *("vissl_swav, opencv", "vissl_swav, opencv, uint8 to the device"),
    ):
        assert seconds[name] > 0
        assert name in done.stdout
    for stages in figures[RECIPE]["stages"].values():
        assert all(stages[stage] > 0 for stage in ("decode", "crop", "pack"))


def test_programs_make_the_crops_that_the_recipe_names(host, monkeypatch):
    monkeypatch.syspath_prepend(str(host_runs.ROOT / "benchmarks"))
    import multicrop_programs as programs

    levels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG")
    recipe = programs.Recipe.parse("2x64+3x32")
    shapes = [(3, 64, 64)] * 2 + [(3, 32, 32)] * 3
    for make in (programs.vissl, programs.ours, programs.lightly):
        program = make(recipe)
        if program is not None:
            crops = program(file.getvalue(), 0)
            assert [tuple(crop.shape) for crop in crops] == shapes
            assert -2.5 < min(crop.min() for crop in crops)
            assert max(crop.max() for crop in crops) < 2.7
