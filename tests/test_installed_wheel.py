"""A wheel works as a checkout does: configs, import hook and the run itself."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import host_runs
import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("vissl_swav", "hydra_plugins", "configs", "setup.py", "pyproject.toml")


def pip(*arguments, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, since a build leaves folders in its source."""
    source = tmp_path_factory.mktemp("source")
    for name in (*SOURCES, "README.md", "LICENSE", "vissl_swav.pth"):
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    pip(
        *("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), "."),
        cwd=source,
    )
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    pip("install", "--no-deps", "--target", str(folder), str(wheel), cwd=folder)
    return folder


def test_the_wheel_holds_every_module_and_config_once(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    wanted = {
        f"vissl_swav/conf/config/{path.relative_to(ROOT / 'configs').as_posix()}"
        for path in (ROOT / "configs").rglob("*.yaml")
    } | {
        path.relative_to(ROOT).as_posix()
        for package in ("vissl_swav", "hydra_plugins")
        for path in (ROOT / package).rglob("*.py")
    }
    assert wanted and wanted <= set(names)
    assert len(names) == len(set(names))
    assert {"vissl_swav.pth", "vissl_swav/py.typed"} <= set(names)
    strangers = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert strangers == {"vissl_swav", "hydra_plugins", "vissl_swav.pth"}


def test_an_installed_wheel_trains(site, host, tmp_path):
    images = host_runs.make_images(tmp_path / "train")
    run = tmp_path / "run"
    elsewhere = {"cwd": tmp_path, "env": {"PYTHONPATH": str(site)}}
    where = host_runs.python(
        "-c", "import vissl_swav; print(vissl_swav.__file__)", **elsewhere
    )
    assert Path(where.stdout.strip()).parent == site / "vissl_swav"
    host_runs.train(*host_runs.overrides(images, run, epochs=1), **elsewhere)
    assert len(host_runs.losses(run)) == 3
