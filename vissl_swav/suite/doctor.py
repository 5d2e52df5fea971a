"""`vissl-swav doctor`: what is wrong with this installation and machine, and the cure.

Every probe has a time limit; imports run in processes of their own. Nothing is raised:
what cannot be found out is said.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vissl_swav.compat import apex_identity
from vissl_swav.health import doctor, doctor_machine
from vissl_swav.health.doctor import FAIL, OK, WARN, Facts, Finding
from vissl_swav.health.probes import Answer, ask, ask_all, files_of, installed

SECONDS = 60.0
_STYLES = {OK: "green", WARN: "yellow", FAIL: "red"}
_HOST_PACKAGES = {"classy-vision": "classy_vision", "fairscale": "fairscale"}
_PROGRAMS = {
    "torch": "import torch; torch.ones(2).sum(); print(torch.__version__)",
    "torchvision": (
        "import torch, torchvision\n"
        "box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])\n"
        "torchvision.ops.nms(box, torch.ones(1), 0.5)\n"
        "print(torchvision.__version__)"
    ),
    "vissl": (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from vissl_swav.host import registration; registration.arm()\n"
        "import vissl.trainer; print('works, with the shims')"
    ),
    "faiss": (
        "import numpy, torch, faiss\n"
        "torch.mm(torch.ones(64, 64), torch.ones(64, 64))\n"
        "index = faiss.IndexFlatIP(8)\n"
        "index.add(numpy.eye(8, dtype='float32'))\n"
        "assert index.search(numpy.eye(8, dtype='float32'), 1)[1][3, 0] == 3\n"
        "print(getattr(faiss, 'get_num_gpus', int)())"
    ),
    "cuda": (
        "import sys, torch\n"
        "ready = torch.cuda.is_available()\n"
        "ready or sys.exit(f'torch {torch.__version__} (CUDA {torch.version.cuda}) "
        "sees no device')\n"
        "torch.ones(2, device='cuda').sum().item()\n"
        "print(f'{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, "
        "CUDA {torch.version.cuda}')"
    ),
}
_HOOK = (
    "import sys\n"
    "from vissl_swav.compat import import_hook, startup\n"
    "print(startup.status())\n"
    "sys.exit(not import_hook.is_installed() or startup.is_switched_off())"
)
_GROUP = "vissl_swav.backends.process_group_check"
Result = TypeVar("Result")


def main(options: argparse.Namespace) -> int:
    """Prints the table; returns 1 where something fails, else 0.

    Args:
        options: `folder`, for checkpoints.
    """
    facts = gather(Path(options.folder))
    checks = [*doctor.CHECKS, *doctor_machine.CHECKS]
    found = doctor.diagnose(facts, checks)
    show(found)
    return 1 if any(finding.level == FAIL for finding in found) else 0


def show(found: list[Finding]) -> None:
    """The table, then every cure on lines of its own, unbroken for copying."""
    console = Console(file=sys.stdout)
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column()
    table.add_column(style="bold", overflow="fold")
    table.add_column(overflow="fold")
    for finding in found:
        level = Text(finding.level, style=_STYLES[finding.level])
        table.add_row(level, Text(finding.what), Text(finding.text))
    console.print(table)
    for finding in found:
        if finding.cure:
            line = f"{finding.level} {finding.what}: {finding.cure}"
            style = _STYLES[finding.level]
            console.print(
                line, style=style, markup=False, highlight=False, soft_wrap=True
            )


def gather(folder: Path, *, seconds: float = SECONDS) -> Facts:
    """The facts of this machine; each probe has `seconds`."""
    versions = _or(dict, installed)
    return Facts(
        python=sys.version_info[:2],
        versions=versions,
        overwritten=_or(dict, lambda: _overwritten(versions)),
        apex=_or(lambda: ("absent", "not known"), _apex),
        hook=_or(lambda: (False, "not known"), lambda: _hook(seconds)),
        probes=_or(dict, lambda: _probes(versions, seconds)),
        folder=str(folder),
        free_bytes=_free_bytes(folder),
        shared_bytes=_or(
            lambda: None, lambda: shutil.disk_usage("/dev/shm").free, OSError
        ),
        open_files=_or(lambda: None, _open_files),
    )


def _or(
    default: Callable[[], Result],
    probe: Callable[[], Result],
    kind: type[Exception] = Exception,
) -> Result:
    """The probe's result, or the default where it breaks: a doctor does not die."""
    try:
        return probe()
    except kind:
        return default()


def _overwritten(versions: dict[str, list[str]]) -> dict[str, list[str]]:
    """Distributions that hold packages which VISSL's wheel holds too."""
    hosts = files_of("vissl")
    found: dict[str, list[str]] = {}
    for name, package in _HOST_PACKAGES.items():
        if name in versions:
            both = {
                file.split("/")[0]
                for file in files_of(name) & hosts
                if file.startswith(f"{package}/")
            }
            found[name] = sorted(both)
    return found


def _apex() -> tuple[str, str]:
    words = apex_identity.describe()
    if words == "no apex":
        return "absent", words
    return ("nvidia" if apex_identity.is_nvidia_apex() else "other"), words


def _hook(seconds: float) -> tuple[bool, str]:
    """Whether an interpreter that starts now has the hook; this one has armed it."""
    answer = ask([sys.executable, "-c", _HOOK], seconds=seconds)
    return answer.ok, answer.out or answer.error


def _probes(versions: dict[str, list[str]], seconds: float) -> dict[str, Answer]:
    names = [name for name in _PROGRAMS if name not in ("faiss", "vissl")]
    names += ["vissl"] if "vissl" in versions else []
    names += ["faiss"] if any(n.startswith("faiss-") for n in versions) else []
    # One after the other: side by side they would share the time that each is given.
    answers = {
        name: ask([sys.executable, "-c", _PROGRAMS[name]], seconds=seconds)
        for name in names
    }
    answers["driver"] = ask(
        ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], seconds=seconds
    )
    if not answers["driver"].ok:
        answers["driver"] = Answer(None)
    if answers["torch"].ok:
        pair = _sum(2, "gloo", seconds)
        answers |= {f"gloo{rank}": answer for rank, answer in enumerate(pair)}
    if answers["cuda"].ok:
        answers["nccl"] = _sum(1, "nccl", seconds)[0]
    return answers


def _sum(world_size: int, backend: str, seconds: float) -> list[Answer]:
    """Processes that meet in a file of their own and sum ones."""
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        # Less than the limit, so that their own message comes.
        own = str(seconds / 3)
        commands = [
            [
                *(sys.executable, "-m", _GROUP, store, str(rank)),
                *(str(world_size), backend, own),
            ]
            for rank in range(world_size)
        ]
        return ask_all(commands, seconds=seconds, env={"OMP_NUM_THREADS": "1"})


def _free_bytes(folder: Path) -> int | str | None:
    """Free space where a folder is or will be; words where it cannot be written to."""
    try:
        place = folder.absolute()
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir():
            return f"{place} is no folder"
        if not os.access(place, os.W_OK):
            return f"{place} cannot be written to"
        return shutil.disk_usage(place).free
    except OSError as error:
        return str(error)


def _open_files() -> int | None:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
