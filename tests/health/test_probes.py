"""Probes never hang and never raise, whatever the program does."""

import sys
import time

from vissl_swav.health.probes import Answer, ask, ask_all, files_of, installed


def python(program):
    return [sys.executable, "-c", program]


def test_an_answer():
    answer = ask(python("print('  well '); import sys; sys.exit(0)"), seconds=60)
    assert answer == Answer(0, "well", "exit code 0") and answer.ok


def test_failures_have_their_last_line():
    answer = ask(python("raise OSError('broken\\nin two')"), seconds=60)
    assert answer.code == 1 and not answer.ok and answer.error == "in two"
    answer = ask(python("import os; os.abort()"), seconds=60)
    assert answer.code == -6 and not answer.ok and answer.error == "exit code -6"


def test_what_is_not_there():
    answer = ask(["/no/such/program"], seconds=1)
    assert answer.code is None and "No such file" in answer.error and not answer.ok


def test_a_hang_ends_with_its_children(tmp_path):
    """The grandchild inherits the output and would keep a pipe open for ever."""
    alive = tmp_path / "alive"
    child = (
        f"import time, pathlib\n"
        f"for n in range(600): pathlib.Path({str(alive)!r}).write_text(str(n)); "
        "time.sleep(0.05)"
    )
    program = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "print('started', flush=True); time.sleep(600)"
    )
    started = time.monotonic()
    answer = ask(python(program), seconds=3)
    assert time.monotonic() - started < 30
    assert answer == Answer(None, "started", "no answer within the time limit")
    last = alive.exists() and alive.read_text()
    time.sleep(0.5)
    assert (alive.exists() and alive.read_text()) == last, "the grandchild lives on"


def test_several_share_one_limit():
    started = time.monotonic()
    hang = python("import time; time.sleep(600)")
    answers = ask_all([hang, python("print(1)"), hang], seconds=4)
    assert [answer.code for answer in answers] == [None, 0, None]
    assert time.monotonic() - started < 40


def test_the_environment_is_added_to():
    program = python("import os; print(os.environ['A_B'], 'PATH' in os.environ)")
    assert ask(program, seconds=60, env={"A_B": "7"}).out == "7 True"


def test_distributions():
    found = installed()
    assert "pytest" in found and all(versions for versions in found.values())
    assert any(name.endswith("__init__.py") for name in files_of("pytest"))
    assert files_of("no-such-distribution") == set()
