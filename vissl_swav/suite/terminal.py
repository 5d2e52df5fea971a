"""What the commands say to the user: lines and bars on standard error."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


def say(text: str, style: str = "default") -> None:
    """A line for the user; standard output is for the data."""
    Console(stderr=True).print(
        text, style=style, markup=False, highlight=False, soft_wrap=True
    )


def counting_bars() -> Progress:
    """Bars that count, gone when they are done; none where nobody looks on."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
