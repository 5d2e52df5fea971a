"""Paths in overrides: what hydra and the host read is what was meant."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from vissl_swav.host.quoting import quoted

AWKWARD = [
    "/x/my images (1)",
    "a,b",
    "a=b",
    "x[1]",
    "{x:1}",
    "it's",
    'say "it\'s"',
    " spaces at the ends ",
    "price $5",
    "back\\slash\\",
    "\\'",
    "''",
    "a\\\\'b",
    "colon: #1 & 100%",
    "two\nlines",
    "null",
    "12",
    "Zoë/写真",
]


@pytest.mark.parametrize("path", AWKWARD)
def test_hydra_reads_the_path_again(path):
    parse = OverridesParser.create().parse_override
    value = quoted(path)
    assert parse(f"config.CHECKPOINT.DIR={value}").value() == path
    two = parse(f"config.DATA.TRAIN.DATA_PATHS=[{value},{value}]").value()
    assert two == [path, path]


@pytest.mark.parametrize("path", AWKWARD)
def test_it_arrives_in_the_config(host, path):
    from vissl_swav.host import launch

    value = quoted(path)
    overrides = ["config.DATA.TRAIN.DATA_PATHS=[%s]", "config.CHECKPOINT.DIR=%s"]
    _, config = launch.compose(
        ["config=pretrain/swav/quickstart", *(o % value for o in overrides)]
    )
    assert config.DATA.TRAIN.DATA_PATHS == [path]
    assert config.CHECKPOINT.DIR == path
