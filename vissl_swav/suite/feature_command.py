"""What `knn`, `svm` and `low-shot-svm` share: from arguments to features to a report.

The features are a folder's, or those of the host's extraction engine, which runs first
for a config: in a process of its own, its output in `log.txt`.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from vissl_swav import __version__
from vissl_swav.data.errors import DataError
from vissl_swav.suite import features
from vissl_swav.suite.terminal import counting_bars, say
from vissl_swav.weights.errors import WeightsError
from vissl_swav.weights.whole_file import check_free, whole_file

if TYPE_CHECKING:
    from vissl_swav.host.settings.frozen_features import FeatureSettings

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """What a command works on.

    Attributes:
        options: of the command line (`feature_arguments`).
        folder: that holds the features.
        layers: to evaluate.
        settings: of the config; None for a folder of features.
        bars: where the work shows.
    """

    options: argparse.Namespace
    folder: Path
    layers: list[str]
    settings: "FeatureSettings | None"
    bars: Progress

    def progress(self, name: str) -> Report:
        """A bar of this name, moved by (done, total)."""
        bar = self.bars.add_task(name, total=None)
        return lambda done, total: self.bars.update(bar, completed=done, total=total)

    def warn(self, text: str) -> None:
        """A line that is not part of the result."""
        say(f"warning: {text}", "yellow")


@dataclass(frozen=True)
class Outcome:
    """What came out for a layer: for the JSON file, and as rows of the table."""

    facts: dict[str, Any]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def run(
    command: str,
    options: argparse.Namespace,
    of_layer: Callable[[Job, str], Outcome],
) -> int:
    """Runs a command; what the user can mend ends as one message and exit code 2."""
    from vissl_swav.host.errors import StartError
    from vissl_swav.suite.stage import StageFailed

    try:
        return _run(command, options, of_layer)
    except (DataError, StartError, WeightsError, OSError) as error:
        say(f"vissl-swav {command}: {error}", "red")
        return 2
    except StageFailed as error:
        say(f"vissl-swav {command}: {error}", "red")
        return error.exit_code


def _run(
    command: str,
    options: argparse.Namespace,
    of_layer: Callable[[Job, str], Outcome],
) -> int:
    named = Path(options.out).expanduser() if options.out else None
    if named:
        # Before the features are extracted.
        check_free(named, force=True)
    with counting_bars() as bars:
        job = _job(command, options, bars)
        out = named or job.folder / f"{command}.json"
        check_free(out, force=True)
        outcomes: dict[str, Outcome] = {}
        seconds: dict[str, float] = {}
        for layer in job.layers:
            start = time.perf_counter()
            outcomes[layer] = of_layer(job, layer)
            seconds[layer] = round(time.perf_counter() - start, 3)
    tree = {
        "command": command,
        "version": __version__,
        "folder": str(job.folder),
        "layers": {
            layer: {**outcome.facts, "seconds": seconds[layer]}
            for layer, outcome in outcomes.items()
        },
    }
    with whole_file(out) as scratch:
        scratch.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
    Console(file=sys.stdout).print(_table(outcomes))
    say(str(out), "default")
    return 0


def _table(outcomes: dict[str, Outcome]) -> Table:
    table = Table(box=box.SIMPLE)
    table.add_column("layer")
    for column in next(iter(outcomes.values())).columns:
        table.add_column(column, justify="right")
    for layer, outcome in outcomes.items():
        for row in outcome.rows:
            table.add_row(layer, *row)
    return table


def _job(command: str, options: argparse.Namespace, bars: Progress) -> Job:
    given: list[str] = options.source
    if any(argument.startswith("config=") for argument in given):
        folder, names, settings = _extract(command, given, bars)
    elif len(given) == 1 and "=" not in given[0]:
        folder, settings = Path(given[0]), None
        names = features.layers(folder)
    else:
        raise DataError(
            f"got {' '.join(given)}; wanted a folder of features, or a config and "
            f"overrides: vissl-swav {command} config=benchmark/... key=value ..."
        )
    if options.layer is not None:
        if options.layer not in names:
            raise DataError(
                f"--layer {options.layer}: there is no such layer in {folder}, which "
                f"holds {', '.join(names)}."
            )
        names = [options.layer]
    return Job(options, folder, names, settings, bars)


def _extract(
    command: str, overrides: Sequence[str], bars: Progress
) -> tuple[Path, list[str], "FeatureSettings"]:
    """Runs the host's engine; where the features are, their layers, the settings."""
    from vissl_swav.train import INSTALL_LINE, have_host

    if not have_host():
        raise DataError(INSTALL_LINE)
    from vissl_swav.host.launch import compose
    from vissl_swav.host.settings import frozen_features as of_config
    from vissl_swav.suite import stage

    wanted = [o for o in overrides if not o.startswith("engine_name=")]
    _, cfg = compose([*wanted, "engine_name=extract_features"])
    settings = of_config.feature_settings(cfg)
    of_config.extraction_checks(cfg)
    folder = Path(of_config.feature_folder(cfg))
    if folder.is_dir() and features.holds_features(folder):
        raise DataError(
            f"{folder} holds the features of an earlier extraction. Evaluate those: "
            f"`vissl-swav {command} {folder}`, or name another config.CHECKPOINT.DIR."
        )
    run_folder = Path(settings.run_folder)
    bar = bars.add_task(f"extracting features, {run_folder / 'log.txt'}", total=None)
    wanted = [o for o in wanted if not o.startswith("config.CHECKPOINT.DIR=")]
    stage.run(
        "Feature extraction", [*wanted, "engine_name=extract_features"], run_folder
    )
    bars.remove_task(bar)
    return folder, of_config.feature_layers(cfg), settings
