"""A stage is a run in a process of its own: what it is given, what it says."""

import subprocess
import sys
import time

import pytest

from vissl_swav.data.errors import DataError
from vissl_swav.suite import stage


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


@pytest.mark.timeout(60)
def test_a_run_that_does_not_go_is_made_to(tmp_path, monkeypatch):
    """Broken off, it is asked to end, and after a while made to."""
    deaf = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"open({str(tmp_path / 'there')!r}, 'w').close(); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", deaf])
    while not (tmp_path / "there").exists():
        time.sleep(0.05)
    monkeypatch.setattr(stage, "SECONDS_TO_END", 0.5)
    stage._end(process)
    assert process.returncode == -9
    stage._end(process)  # Gone already.
