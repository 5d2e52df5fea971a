"""`vissl-swav report RUN_FOLDER`: one page on a run, from the files in its folder.

Nothing of the run is touched, the host is not needed, and the run may be under way.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from vissl_swav import __version__
from vissl_swav.data.errors import DataError
from vissl_swav.suite import report_page as html
from vissl_swav.suite.report_charts import charts
from vissl_swav.suite.report_page import Page, Section
from vissl_swav.suite.report_plan import plan_section, summary_rows
from vissl_swav.suite.report_words import clock, next_commands, span, state, verdicts
from vissl_swav.suite.run_folder import Checkpoint, RunFolder, read_run

PAGE = "report.html"
_MOST_ROWS = 30


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code (2 for bad input)."""
    try:
        path = write_report(Path(options.folder), options.out and Path(options.out))
    except (DataError, OSError) as error:
        print(f"vissl-swav report: {error}", file=sys.stderr)
        return 2
    print(f"report: {path}")
    return 0


def write_report(
    folder: Path, out: Path | None = None, *, now: float | None = None
) -> Path:
    """Writes the page; returns where.

    Args:
        folder: of the run.
        out: the file; by default `report.html` in the folder.
        now: the time of the clock, in seconds; by default the present.

    Raises:
        DataError: no folder of a run, or `out` is a folder.
    """
    run = read_run(folder.expanduser())
    target = run.path / PAGE if out is None else out.expanduser()
    if target.is_dir():
        raise DataError(f"{target} is a folder; wanted a file to write the page to.")
    page = html.render(page_of(run, time.time() if now is None else now))
    scratch = target.with_name(f".{target.name}-{os.getpid()}")
    try:
        scratch.write_text(page, encoding="utf-8")
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)
    return target


def page_of(run: RunFolder, now: float) -> Page:
    """Everything that the page says."""
    sections = [
        Section("Verdicts", html.sayings(verdicts(run))),
        Section("The run and its plan", _run_and_plan(run)),
        Section("Curves", html.grid(charts(run))),
        Section("Not finite", _not_finite(run)),
        Section("Images that could not be read", _unreadable(run)),
        Section("Interruptions", _restarts(run)),
        Section("What the log says", _told(run)),
        Section("Checkpoints", _checkpoints(run)),
        Section("What next", html.commands(next_commands(run, now))),
        Section("What is not here", _missing(run)),
    ]
    written = (
        f"Written {clock(now)} by vissl_swav {__version__}. What the figures mean: "
        "docs/health.md."
    )
    return Page(str(run.path.resolve()), state(run, now), written, sections)


def _run_and_plan(run: RunFolder) -> str:
    return html.side_by_side(html.definitions(summary_rows(run)), plan_section(run))


def _not_finite(run: RunFolder) -> str:
    return html.table(
        ("file", "what it says"),
        [(name, _message(run.path / name)) for name in run.nonfinite[:_MOST_ROWS]],
        _MOST_ROWS,
    )


def _message(path: Path) -> str:
    """Of a file that the non-finite hook wrote; it holds tensors and plain words."""
    import torch

    try:
        facts = torch.load(path, map_location="cpu", weights_only=True)["facts"]
        return f"rank {facts['rank']}, step {facts['step']}: {facts['message']}"
    except Exception as error:  # Anything may lie under the name.
        return f"cannot be read ({type(error).__name__})"


def _unreadable(run: RunFolder) -> str:
    return html.table(("split", "image", "reason"), run.unreadable, _MOST_ROWS)


def _restarts(run: RunFolder) -> str:
    rows = [
        (r.step, span(r.seconds) if r.seconds >= 0 else "not known", r.repeated)
        for r in run.restarts
    ]
    found = html.table(
        ("taken up at step", "after a pause of", "steps done again"), rows, _MOST_ROWS
    )
    if run.older_configs:
        names = ", ".join(run.older_configs)
        found += html.paragraph(f"The config was another before: {names}.")
    return found


def _told(run: RunFolder) -> str:
    return html.table(("when", "what"), run.told, _MOST_ROWS)


def _checkpoints(run: RunFolder) -> str:
    def row(checkpoint: Checkpoint) -> tuple[str, str, str]:
        size = f"{checkpoint.size / 1e6:.1f} MB"
        return checkpoint.name, size, clock(checkpoint.time)

    rows = [row(checkpoint) for checkpoint in reversed(run.checkpoints)]
    return html.table(("file, newest first", "size", "written"), rows, _MOST_ROWS)


def _missing(run: RunFolder) -> str:
    rows = [(name, f"is not there: {why}") for name, why in run.missing]
    rows += [
        (name, "cannot be read" if name.endswith("yaml") else f"{count} lines left out")
        for name, count in run.bad_lines.items()
    ]
    return html.definitions(rows)
