"""The report opened in a real browser (headless Chromium)."""

import shutil
import subprocess

import host_runs
import numpy as np
import pytest
import table_fakes
from PIL import Image

from vissl_swav.suite import stage, table

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser; wanted one of {', '.join(BROWSERS)}")
    return found


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_report_shows(host, browser, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "run", table_fakes.FakeRuns())
    images, recipe = tmp_path / "images", tmp_path / "fake.yaml"
    host_runs.make_images(images / "train", classes=3, per_class=10)
    host_runs.make_images(images / "val", classes=3, per_class=2, seed=1)
    recipe.write_text(table_fakes.RECIPE)
    run, out = table_fakes.checkpoint(tmp_path / "run"), tmp_path / "out"
    arguments = (run, "--suite", recipe, "--data", f"main={images}", "--out", out)
    assert table.main(table_fakes.options(*arguments, "--device", "cpu")) == 0
    picture = tmp_path / "report.png"
    common = [
        *(browser, "--headless=new", "--no-sandbox", "--disable-gpu"),
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    page = (out / "report.html").resolve().as_uri()
    subprocess.run(
        [*common, "--window-size=1200,1600", f"--screenshot={picture}", page],
        check=True,
        capture_output=True,
        timeout=120,
    )
    with Image.open(picture) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    assert pixels.shape == (1600, 1200, 3)
    # Text and curves: dark and coloured pixels on white.
    assert (pixels.min(axis=2) < 100).mean() > 0.005
    assert (np.ptp(pixels.astype(int), axis=2) > 60).sum() > 200
    shown = subprocess.run(
        [*common, "--dump-dom", page], capture_output=True, text=True, timeout=120
    ).stdout
    assert "A &lt;made up&gt; table" in shown and '<td class="best">65.0</td>' in shown
