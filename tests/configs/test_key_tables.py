"""The tables of loss keys in docs/configs.md are those of the code."""

import re

import pytest
import yaml
from config_catalogue import CONFIGS, METHODS

ROW = re.compile(
    r"^\| (?P<keys>`.+?`) \| (?P<default>.*?) \| (?P<meaning>.*) \|$", re.M
)
# Two keys in one row, of which one at most is given.
IN_PAIRS = {"queue_start_epoch", "queue_start_step"}
IN_PAIRS |= {"freeze_prototypes_epochs", "freeze_prototypes_steps"}


def table(method):
    """Key -> the default that stands in the table of `LOSS.<method>`."""
    page = (CONFIGS.parent / "docs" / "configs.md").read_text(encoding="utf-8")
    section = page.split(f"### Keys of `LOSS.{method}`\n")[1].split("\n##")[0]
    return {
        key: yaml.safe_load(row["default"])
        for row in ROW.finditer(section)
        for key in re.findall(r"`(\w+)`", row["keys"])
    }


@pytest.mark.parametrize("method", METHODS)
def test_table_has_every_key_with_its_default(method):
    from vissl_swav.host.settings import LOSSES

    said, defaults = table(method), LOSSES[method].defaults
    assert set(said) == set(defaults)
    for key in set(defaults) - IN_PAIRS:
        assert said[key] == defaults[key], key


def test_pairs_show_what_the_inference_makes_of_nothing(complete):
    for method in ("swav", "sela_v2"):
        loss = complete(f"config=pretrain/{method}/base").LOSS[method]
        assert table(method)["freeze_prototypes_epochs"] == "1 epoch"
        assert loss.freeze_prototypes_epochs == 1
        assert loss.freeze_prototypes_steps is None
    swav = complete("config=pretrain/swav/base").LOSS.swav
    assert swav.queue_start_step == table("swav")["queue_start_step"] == 0
