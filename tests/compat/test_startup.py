"""The hook of `vissl_swav.pth`, each time in an interpreter of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LIST_HOOK = (
    "import sys\n"
    "print([type(f).__module__ for f in sys.meta_path].count("
    "'vissl_swav.compat.import_hook'))\n"
)


@pytest.fixture
def interpreter(tmp_path):
    """Run a program where `vissl_swav.pth` is in site-packages, in effect."""
    line = (ROOT / "vissl_swav.pth").read_text()
    assert line.startswith("import ") and line.count("\n") == 1
    (tmp_path / "sitecustomize.py").write_text(line)

    def run(program, **environment):
        paths = [str(tmp_path), str(ROOT)]
        file = tmp_path / "program.py"
        file.write_text(program)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            **environment,
        }
        # Not the checkout: a program in it would find the package by itself.
        return subprocess.run(
            [sys.executable, "-W", "ignore", str(file)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def test_it_imports_nothing_but_itself(interpreter):
    run = interpreter(
        "import sys\n"
        "print(sorted(n for n in sys.modules if n.startswith('vissl')))\n"
        "print('torch' in sys.modules, 'logging' in sys.modules)\n",
        VISSL_SWAV_AUTO="1",
    )
    assert run.returncode == 0, run.stderr
    loaded, heavy = run.stdout.splitlines()
    assert "vissl_swav.compat.startup" in loaded
    assert "'vissl'" not in loaded and "amp" not in loaded
    assert heavy == "False False"


def test_it_can_be_switched_off(interpreter):
    assert interpreter(LIST_HOOK).stdout == "1\n"
    assert interpreter(LIST_HOOK, VISSL_SWAV_AUTO="0").stdout == "0\n"
    status = "from vissl_swav.compat.startup import status; print(status())"
    assert "installed" in interpreter(status).stdout
    assert "switched off" in interpreter(status, VISSL_SWAV_AUTO="off").stdout


def test_an_interpreter_without_the_package_starts_in_silence(tmp_path):
    # `-I -S`: no site-packages at all, then the line as site.py runs it.
    line = (ROOT / "vissl_swav.pth").read_text()
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"exec({line!r}); print('up')"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "up\n", "")


def test_the_first_host_import_applies_in_children_too(host, interpreter):
    """Spawned, and submitit's (which unpickles a host class before anything else)."""
    run = interpreter(
        "import multiprocessing as mp, sys\n"
        "import submitit\n"
        "def child(queue):\n"
        "    import vissl.utils.checkpoint as c\n"
        "    queue.put(type(c.torch).__name__)\n"
        "class Job:\n"
        "    def __call__(self):\n"
        "        import vissl.utils.checkpoint as c\n"
        "        return type(c.torch).__name__\n"
        "if __name__ == '__main__':\n"
        "    context = mp.get_context('spawn')\n"
        "    queue = context.Queue()\n"
        "    process = context.Process(target=child, args=(queue,))\n"
        "    process.start(); print(queue.get(timeout=60)); process.join()\n"
        "    executor = submitit.LocalExecutor('logs')\n"
        "    print(executor.submit(Job()).result())\n"
        "    assert 'vissl' not in sys.modules\n"
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["ModuleProxy", "ModuleProxy"]


def test_torchvision_imports_before_any_host(interpreter):
    """As timm, lightly and Lightning import it, whatever torch it was built for."""
    program = (
        "import sys\n"
        "assert 'torch' not in sys.modules\n"
        "import torchvision.models, torch\n"
        "assert hasattr(torch.ops.torchvision, 'nms')\n"
        "assert 'vissl_swav.compat.amp' not in sys.modules\n"
    )
    run = interpreter(program)
    assert run.returncode == 0, run.stderr


def test_an_error_of_ours_is_reported_not_swallowed(host, interpreter):
    run = interpreter(
        "import vissl_swav.compat as c\nc.SHIMS = ('no_such_shim',)\nimport vissl\n"
    )
    assert run.returncode == 1
    assert "could not prepare the host module 'vissl'" in run.stderr
    assert "no_such_shim" in run.stderr
    assert "VISSL_SWAV_AUTO=0" in run.stderr
