"""A transfer table through SLURM: one job a row, by submitit, into one folder.

A job runs the command itself for its row, on its machine; a job that SLURM takes away
is queued again and goes on where it stopped. The command that submitted them waits,
then collects what they have left.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vissl_swav.host.errors import StartError

INSTALL = "submitit is not installed; run pip install submitit."
_NUMBERS = ("hours", "gpus", "cpus", "mem_gb", "nodes")
_WAIT_SECONDS = 2.0


def parse_settings(text: str) -> dict[str, Any]:
    """`partition=gpu,hours=24,...` as a mapping.

    Raises:
        StartError: an entry without `=`, or a number that is none.
    """
    settings: dict[str, Any] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = entry.partition("=")
        if not equals or not key or not value:
            raise StartError(
                f"--slurm has {entry!r}; wanted KEY=VALUE, like partition=gpu,hours=24."
            )
        if key in _NUMBERS:
            try:
                settings[key] = float(value) if key == "hours" else int(value)
            except ValueError:
                raise StartError(
                    f"--slurm {key} is {value!r}; wanted a number."
                ) from None
            if settings[key] <= 0:
                raise StartError(f"--slurm {key} is {value}; wanted more than 0.")
        else:
            settings[key] = value
    return settings


def check(text: str) -> None:
    """Refuses what would run on this machine unasked, as submitit does without sbatch.

    Raises:
        StartError: settings that are none, or no sbatch here and no cluster named.
    """
    if "cluster" not in parse_settings(text) and shutil.which("sbatch") is None:
        raise StartError(
            "--slurm: there is no sbatch on this machine. Start it where jobs are "
            "submitted, or say cluster=local to run the rows here, at once."
        )


def parameters(settings: Mapping[str, Any], cluster: str) -> dict[str, Any]:
    """What submitit is told.

    Args:
        settings: of `--slurm`; keys that are not known here go to sbatch as they are.
        cluster: submitit's name of the executor.
    """
    rest = dict(settings)
    rest.pop("cluster", None)
    found: dict[str, Any] = {
        "timeout_min": max(1, round(60 * rest.pop("hours", 24.0))),
        "cpus_per_task": rest.pop("cpus", 8),
        "gpus_per_node": rest.pop("gpus", 0),
        "nodes": rest.pop("nodes", 1),
    }
    if "mem_gb" in rest:
        found["mem_gb"] = rest.pop("mem_gb")
    if cluster == "slurm":
        if "partition" in rest:
            found["slurm_partition"] = rest.pop("partition")
        found["slurm_additional_parameters"] = rest
    return found


def command(options: argparse.Namespace, row: str) -> list[str]:
    """The command line of a row's job."""
    line = [sys.executable, "-m", "vissl_swav.cli", "table", *options.checkpoints]
    line += ["--suite", options.suite, "--out", str(Path(options.out).resolve())]
    for data in options.data:
        line += ["--data", data]
    if options.columns:
        line += ["--columns", options.columns]
    if options.only_checkpoints:
        line.append("--only-checkpoints")
    if options.processes is not None:
        line += ["--processes", str(options.processes)]
    line += ["--device", options.device, "--workers", str(options.workers)]
    return [*line, "--seed", str(options.seed), "--row", row]


def run(options: argparse.Namespace, rows: list[str], report: Any) -> None:
    """Submits a job a row and waits for all of them.

    Args:
        options: of the command.
        rows: names of the rows.
        report: called with (rows over, rows, text).

    Raises:
        StartError: submitit is not there, or refuses the settings.
    """
    try:
        import submitit
    except ImportError as error:
        raise StartError(INSTALL) from error
    settings = parse_settings(options.slurm)
    folder = Path(options.out).resolve() / "slurm"
    try:
        executor = submitit.AutoExecutor(folder, cluster=settings.get("cluster"))
        executor.update_parameters(
            name="vissl-swav-table", **parameters(settings, executor.cluster)
        )
        jobs = [executor.submit(_RowJob(command(options, row))) for row in rows]
    # submitit raises what sbatch says, and NameError or TypeError for its own keys.
    except Exception as error:
        raise StartError(
            f"submitit cannot submit ({type(error).__name__}: {error}); check --slurm "
            f"{options.slurm}."
        ) from error
    numbers = ", ".join(job.job_id for job in jobs)
    while not all(job.done() for job in jobs):
        over = sum(job.done() for job in jobs)
        report(over, len(jobs), f"jobs {numbers}")
        time.sleep(_WAIT_SECONDS)
    report(len(jobs), len(jobs), f"jobs {numbers}")


class _RowJob:
    """What a job runs; submitit pickles it by its class's name."""

    def __init__(self, line: list[str]):
        self.line = line

    def __call__(self) -> int:
        return subprocess.run(self.line).returncode

    def checkpoint(self) -> Any:
        """Asked by submitit when SLURM takes the job away: queue it again."""
        import submitit

        return submitit.helpers.DelayedSubmission(_RowJob(self.line))
