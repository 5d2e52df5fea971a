"""What the README shows can be typed in."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)")


def test_the_python_example_runs():
    (program,) = re.findall(r"```python\n(.*?)```", PAGES[0].read_text(), re.S)
    names = {}
    exec(compile(program, "README.md", "exec"), names)
    assert names["swav"].queue.is_full and names["loss"].item() > 0


def test_the_python_example_of_multi_crop_runs():
    page = ROOT / "docs" / "multicrop.md"
    (program,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    names = {}
    exec(compile(program, page.name, "exec"), names)
    assert names["batch"].shape == (1, 3, 96, 96)
    assert names["levels"].normalize(names["batch"]).mean() != 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"make ([a-z-]+)", "".join(p.read_text() for p in PAGES)))
    assert {"quickstart", "test"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.M), target
