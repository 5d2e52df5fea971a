"""`vissl-swav doctor` on this machine: the table, the exit code, no exception."""

import argparse
import os
import subprocess
import sys

import pytest
from host_runs import ROOT

from vissl_swav.health.doctor import FAIL, OK, WARN, Finding
from vissl_swav.health.probes import Answer
from vissl_swav.suite import doctor


@pytest.fixture
def quick(monkeypatch):
    """Programs are not run: every one answers `answer[0]`."""
    answer = [Answer(0, "fine")]
    monkeypatch.setattr(doctor, "ask", lambda command, **_: answer[0])
    monkeypatch.setattr(
        doctor, "ask_all", lambda commands, **_: [answer[0] for _ in commands]
    )
    return answer


def run(folder):
    return doctor.main(argparse.Namespace(folder=str(folder)))


def test_the_real_probes(tmp_path, host):
    """Whatever this machine is: torch sums over two processes, and VISSL imports."""
    facts = doctor.gather(tmp_path, seconds=120)
    for name in ("torch", "vissl", "gloo0", "gloo1"):
        assert facts.probes[name].ok, facts.probes[name]
    assert facts.probes["gloo0"].out == "summed"
    assert facts.versions["vissl"] == ["0.1.6"]
    assert isinstance(facts.free_bytes, int) and facts.free_bytes > 0
    assert facts.overwritten == {}


def test_a_sound_machine_has_exit_code_0(quick, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "show", lambda found: shown.extend(found))
    shown: list[Finding] = []
    code = run(tmp_path)
    failing = [finding for finding in shown if finding.level == FAIL]
    assert code == (1 if failing else 0)
    assert {"apex", "import torch", "CUDA", "sum over 2 processes"} <= {
        finding.what for finding in shown
    }


def test_a_failure_has_exit_code_1_and_a_cure(quick, tmp_path, capsys):
    quick[0] = Answer(None, "", "no answer within the time limit")
    assert run(tmp_path) == 1
    out = capsys.readouterr().out
    assert "FAIL import torch: reinstall torch" in out
    assert "no answer within the" in out


def test_a_folder_that_cannot_be(quick, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert run(tmp_path / "file" / "runs") == 1
    assert "name a folder to write to" in capsys.readouterr().out
    facts = doctor.gather(tmp_path / "not" / "yet" / "there")
    assert isinstance(facts.free_bytes, int)


def test_probes_that_break_do_not_end_it(quick, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("broken metadata")

    for name in ("installed", "files_of", "ask", "ask_all", "_apex", "_open_files"):
        monkeypatch.setattr(doctor, name, broken)
    facts = doctor.gather(tmp_path)
    assert facts.versions == {} and facts.probes == {}
    assert facts.hook == (False, "not known")
    assert run(tmp_path) == 1, "nothing is known to be installed"


def test_a_second_classy_vision_is_seen(monkeypatch):
    files = {
        "vissl": {"vissl/a.py", "classy_vision/b.py", "fairscale/c.py"},
        "classy-vision": {"classy_vision/b.py", "classy_vision/z.py"},
    }
    monkeypatch.setattr(doctor, "files_of", lambda name: files.get(name, set()))
    versions = {"vissl": ["0.1.6"], "classy-vision": ["0.6.0"]}
    assert doctor._overwritten(versions) == {"classy-vision": ["classy_vision"]}
    assert doctor._overwritten({"vissl": ["0.1.6"]}) == {}


def test_cures_come_through_unbroken(capsys):
    cure = "pip install " + "a-long-name " * 30
    doctor.show(
        [
            Finding(OK, "one", "fine"),
            Finding(WARN, "two [x]", "so so", cure),
            Finding(FAIL, "three", "broken", "mend it"),
        ]
    )
    out = capsys.readouterr().out
    assert f"WARN two [x]: {cure}\n" in out and "FAIL three: mend it\n" in out
    assert "OK one" not in out, "what is well needs no cure"


def test_it_speaks_where_torch_does_not_import(tmp_path):
    """The command itself imports neither torch nor the host."""
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise OSError('libcudart.so is not there')")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "vissl_swav.cli", "doctor"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 1, done.stderr
    assert "libcudart.so is not there" in done.stdout
    assert "FAIL import torch: reinstall torch" in done.stdout
