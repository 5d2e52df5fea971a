"""`vissl-swav plan config=... key=value ...`: what a run amounts to, before it runs.

Takes what `vissl-swav train` takes. Nothing is written, no process is started, and the
machine need not be the one that trains. With `images=N` the images need not be there
either: the plan is made for N of them.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vissl_swav.data.shard_sample import sample_shards
from vissl_swav.health.plan_table import in_words, rows
from vissl_swav.health.plan_verdicts import (
    ERROR,
    MORE_CLUSTERS,
    TOO_FEW_IMAGES,
    verdicts,
)
from vissl_swav.host import plan_facts, settings, trial
from vissl_swav.host.data_checks import Counts, check_counts, look_at_data
from vissl_swav.host.errors import StartError
from vissl_swav.host.launch import compose
from vissl_swav.host.settings.plan import plan_facts as facts_of
from vissl_swav.host.settings.to_make import to_make

_IMAGES = "images"
_SHARDS, _IMAGES_LOOKED_AT = 4, 256
_STYLES = {ERROR: "red"}


def main(overrides: Sequence[str]) -> int:
    """Runs the command; returns 0, 1 for a plan that cannot work, 2 for bad input."""
    try:
        return run(overrides)
    except StartError as error:
        _print(Console(stderr=True), f"vissl-swav plan: {error}", "red")
        return 2


def run(overrides: Sequence[str]) -> int:
    """Prints the plan and its verdicts; returns 1 where one of them is an error.

    Raises:
        StartError: the config cannot be composed, or its loss is none of ours.
    """
    given, overrides = _given_images(overrides)
    _, cfg = compose(overrides)
    facts = settings.run_facts(cfg)
    if not settings.is_ours(cfg):
        raise StartError(
            f"the loss of this config is {facts.loss}; a plan is for "
            f"{', '.join(settings.LOSSES)}.",
            key="config.LOSS.name",
        )
    problems, count = ([], given) if given else _images_of(facts)
    parameters, problem = _parameters(cfg)
    problems += [problem] if problem else []
    plan = plan_facts.plan_of(cfg, facts, count)
    about = facts_of(cfg)
    console = Console(file=sys.stdout)
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in rows(plan, num_parameters=parameters, momentum=about.momentum):
        table.add_row(name, Text(text))
    for name, text in [] if given or problems else _shard_rows(cfg):
        table.add_row(name, Text(text))
    console.print(table)
    for problem in problems:
        _print(console, f"error: {problem}", "red")
    # What the images' own checks have refused is not said twice.
    known = (TOO_FEW_IMAGES, MORE_CLUSTERS) if problems else ()
    found = [verdict for verdict in verdicts(plan) if verdict.name not in known]
    for verdict in found:
        key = plan_facts.config_key(verdict, about.method)
        _print(
            console,
            f"{verdict.level}: {verdict} ({key})",
            _STYLES.get(verdict.level, "yellow"),
        )
    if not found and not problems:
        _print(console, "nothing to object", "green")
    return 1 if problems or any(v.level == ERROR for v in found) else 0


def _given_images(overrides: Sequence[str]) -> tuple[int | None, list[str]]:
    """N of `images=N`, None without it, and the overrides but that one.

    Raises:
        StartError: no number of images.
    """
    mine = [o for o in overrides if o.startswith(f"{_IMAGES}=")]
    if not mine:
        return None, list(overrides)
    text = mine[-1].partition("=")[2]
    if not text.isdecimal() or int(text) < 1:
        raise StartError(f"{_IMAGES}={text}: wanted a number of images, 1281167, say.")
    return int(text), [o for o in overrides if o not in mine]


def _images_of(facts: settings.RunFacts) -> tuple[list[str], int | None]:
    """What a start would refuse about the images, and how many there are to train on.

    Not for the size of this machine.
    """
    elsewhere = replace(facts, on_slurm=True)
    counts: Counts = {}
    try:
        counts = look_at_data(elsewhere)
        check_counts(elsewhere, counts)
    except StartError as error:
        return [str(error)], counts.get("TRAIN")
    return [], counts.get("TRAIN")


def _shard_rows(cfg: Any) -> list[tuple[str, str]]:
    """What there is to read, where the images are streamed; by a look into a few."""
    path = settings.data_path(cfg, "TRAIN")
    if path is None or not settings.streams(cfg):
        return []
    wanted = settings.stream_settings(cfg)
    sample = sample_shards(path, num_shards=_SHARDS, num_images=_IMAGES_LOOKED_AT)
    rows = [("shards", f"{sample.num_shards}, {in_words(sample.num_bytes)} in all")]
    if sample.about:
        passes = wanted.num_images / sample.about
        read = in_words(round(passes * sample.num_bytes))
        rows += [
            ("images in the shards", f"about {sample.about} ({sample.looked_at} seen)"),
            ("passes", f"about {passes:.2f}: {read} to read, over all ranks"),
        ]
    share = wanted.buffer * wanted.streams_per_rank
    rows.append(("shuffle buffer", f"{share} images a rank, as their files are"))
    return rows


def _parameters(cfg: Any) -> tuple[int | None, str | None]:
    """Parameters of the model, or why no model and optimizer can be made."""
    parts = to_make(cfg)
    assert parts is not None  # Its loss is ours.
    try:
        return trial.check(parts), None
    except StartError as error:
        return None, str(error)


def _print(console: Console, text: str, style: str) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
