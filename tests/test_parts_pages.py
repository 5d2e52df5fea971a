"""Every example of docs/parts runs, and prints what the page says."""

import doctest
import re
from pathlib import Path

import pytest
import torch

PAGES = sorted((Path(__file__).resolve().parents[1] / "docs" / "parts").glob("*.md"))
EXAMPLE = re.compile(r"```python\n(>>> .*?)```", re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples(page):
    text = page.read_text(encoding="utf-8")
    examples = EXAMPLE.findall(text)
    assert examples or page.stem == "index"
    torch.manual_seed(0)
    test = doctest.DocTestParser().get_doctest(
        "\n".join(examples), {}, page.name, str(page), 0
    )
    said = []
    result = doctest.DocTestRunner().run(test, out=said.append)
    assert result.failed == 0, "".join(said)
    assert result.attempted >= 3 * len(examples)


def test_every_part_says_the_same_things():
    """Shapes, use, what goes wrong; the index and `training` are of another kind."""
    for page in PAGES:
        if page.stem in ("index", "training"):
            continue
        text = page.read_text(encoding="utf-8")
        for words in (
            "| shape |",
            "**Use ",
            "**What goes wrong.**",
            "**False friends.**",
        ):
            assert words in text, f"{page.name}: {words}"
        assert "**Processes.**" in text or "rocess" in text.splitlines()[2], page.name
