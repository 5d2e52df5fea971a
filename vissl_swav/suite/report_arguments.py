"""Arguments of `vissl-swav report`; imports nothing heavy."""

from typing import Any


def add_command(commands: Any) -> None:
    """Adds the command to the parser's sub-commands."""
    report = commands.add_parser(
        "report",
        help="one page on a run: what it is, how it goes, what to do next",
        description="Reads the folder of a run of `vissl-swav train`, finished or "
        "under way, and writes one HTML file that needs no network; see "
        "docs/health.md. Exit code 2 for bad input.",
    )
    report.add_argument(
        "folder", metavar="RUN_FOLDER", help="the run's config.CHECKPOINT.DIR"
    )
    report.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        help="the page to write (RUN_FOLDER/report.html)",
    )
