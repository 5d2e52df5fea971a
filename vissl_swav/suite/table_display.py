"""Progress of a transfer table in the terminal."""

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Display:
    """A bar over all benchmarks, and one for what is running."""

    def __init__(self, console: Console, total: int):
        columns = (
            TextColumn("{task.description:34}"),
            BarColumn(),
            TextColumn("{task.fields[text]:>24}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console)
        self._total = total
        self._whole = self._progress.add_task("table", total=total, text=f"0/{total}")
        self._done = 0

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def advance(self) -> None:
        """One benchmark more is over."""
        self._done += 1
        self._progress.update(
            self._whole, completed=self._done, text=f"{self._done}/{self._total}"
        )

    def line(self, name: str) -> "Line":
        """A line for one benchmark, gone when it is over."""
        return Line(self, self._progress, name)


class Line:
    """The line of what is running."""

    def __init__(self, display: Display, progress: Progress, name: str):
        self._display, self._progress, self._name = display, progress, name
        self._task: TaskID | None = None

    def __enter__(self) -> Callable[[int, int, str], None]:
        self._task = self._progress.add_task(self._name, total=None, text="")
        return self._report

    def __exit__(self, *exception: object) -> None:
        assert self._task is not None
        self._progress.remove_task(self._task)
        self._display.advance()

    def _report(self, step: int, total: int, text: str) -> None:
        assert self._task is not None
        text = text or f"{step}/{total}"
        self._progress.update(self._task, completed=step, total=total, text=text)
