"""Paths in overrides: what hydra and the host read is what was meant."""

import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from vissl_swav.data.errors import DataError
from vissl_swav.suite import stage

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
    value = stage.quoted(path)
    assert parse(f"config.CHECKPOINT.DIR={value}").value() == path
    two = parse(f"config.DATA.TRAIN.DATA_PATHS=[{value},{value}]").value()
    assert two == [path, path]


@pytest.mark.parametrize("path", AWKWARD)
def test_it_arrives_in_the_config(host, path):
    from vissl_swav.host import launch

    value = stage.quoted(path)
    overrides = ["config.DATA.TRAIN.DATA_PATHS=[%s]", "config.CHECKPOINT.DIR=%s"]
    _, config = launch.compose(
        ["config=pretrain/swav/quickstart", *(o % value for o in overrides)]
    )
    assert config.DATA.TRAIN.DATA_PATHS == [path]
    assert config.CHECKPOINT.DIR == path


def test_a_reference_in_a_path_is_refused(tmp_path):
    folder = tmp_path / "${oc.env:HOME}"
    with pytest.raises(DataError, match=r"HOME} has \${ in it, .* Rename"):
        stage.run("A run", [], folder)
    assert not folder.exists()


WITHOUT_HOST = """
import importlib.util, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("vissl", "classy_vision"):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Missing())
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "vissl" else find_spec(name)
from vissl_swav import cli
sys.exit(cli.main(["quickstart", "--out", sys.argv[1]]))
"""


def test_without_vissl_it_says_how_to_install_it(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_HOST, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "VISSL is not installed" in done.stderr
    assert not (tmp_path / "out").exists()
