"""`pkg_resources` is gone from setuptools >= 81.

Symptom: ``ModuleNotFoundError: No module named 'pkg_resources'``.
Host lines: `vissl/utils/misc.py:16` (`resource_filename`),
    `vissl/utils/collect_env.py:12` (`get_distribution`),
    `tools/launch_benchmark_suite_scheduler_slurm.py:8`; and the host's own unit tests
    (`tests/utils.py`: `resource_isdir`, `resource_listdir`).
Remedy: a module with the names that the host uses, on importlib; only where the real
    one is absent.
Delete it when: VISSL reads its resources through importlib.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

NAME = "pkg_resources"


def needed() -> bool:
    """Say whether the real module is absent."""
    if NAME in sys.modules:
        return False
    return PathFinder.find_spec(NAME) is None


def resource_filename(package_or_requirement: str, resource_name: str) -> str:
    """Path of a file beside a package's or a plain module's code; it may not exist."""
    from importlib import import_module

    module = import_module(package_or_requirement)
    file = module.__file__
    folder = Path(file).parent if file else Path(next(iter(module.__path__)))
    return str(folder.joinpath(*resource_name.split("/")))


def resource_isdir(package_or_requirement: str, resource_name: str) -> bool:
    """Say whether it is a folder."""
    return Path(resource_filename(package_or_requirement, resource_name)).is_dir()


def resource_listdir(package_or_requirement: str, resource_name: str) -> list[str]:
    """Names in the folder."""
    return os.listdir(resource_filename(package_or_requirement, resource_name))


def get_distribution(dist: str) -> SimpleNamespace:
    """What is installed under this name, with `project_name` and `version`.

    Raises:
        DistributionNotFound: nothing is (importlib's PackageNotFoundError).
    """
    from importlib.metadata import version

    return SimpleNamespace(project_name=dist, version=version(dist))


def fixup_namespace_packages(path_item: str, parent: object = None) -> None:
    """Do nothing: pytest calls it for each path it adds once the module is there."""


def _missing(name: str) -> Any:
    raise AttributeError(
        f"pkg_resources.{name} is not there: setuptools >= 81 has no pkg_resources, "
        "and vissl_swav's stand-in holds only resource_filename, resource_isdir, "
        "resource_listdir, get_distribution and DistributionNotFound. Install "
        "'setuptools<81' for the rest."
    )


def apply() -> None:
    """Put the stand-in into `sys.modules`."""
    if not needed():
        return
    from importlib.metadata import PackageNotFoundError

    module = ModuleType(NAME, "Stand-in by vissl_swav.compat.package_resources.")
    module.__dict__.update(
        resource_filename=resource_filename,
        resource_isdir=resource_isdir,
        resource_listdir=resource_listdir,
        get_distribution=get_distribution,
        fixup_namespace_packages=fixup_namespace_packages,
        DistributionNotFound=PackageNotFoundError,
        __getattr__=_missing,
    )
    sys.modules[NAME] = module
