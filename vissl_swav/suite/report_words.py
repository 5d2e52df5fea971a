"""What a report says in words: how the run stands, its verdicts, what to do next."""

import re
import shlex
import statistics
import time
from pathlib import Path

from vissl_swav.health.verdicts import Verdict
from vissl_swav.suite.report_page import BAD, GOOD, NOTE, PLAIN, Said
from vissl_swav.suite.report_plan import lacks_prototypes, trunk_probe
from vissl_swav.suite.run_folder import RunFolder

FINISHED = "FINISHED"
_KINDS = {v.value: BAD if v.is_alarm else NOTE for v in Verdict}
_KINDS[Verdict.HEALTHY.value] = GOOD
_SILENCE, _SILENT_STEPS = 600.0, 50


def state(run: RunFolder, now: float) -> Said:
    """Whether the run is finished, under way or stands still, and how far it is."""
    last = run.steps[-1] if run.steps else None
    done, total = (last["step"], last.get("max_step")) if last else (0, None)
    if run.final is not None and (total is None or done >= total):
        text = f"{done} steps" if last else f"{run.final.name} is there"
        if last and len(run.steps) > 1 and not run.restarts:
            text += f" in {span(last['time'] - run.steps[0]['time'])}"
        return Said(GOOD, FINISHED, text)
    if last is None or not isinstance(last.get("time"), (int, float)):
        return Said(PLAIN, "NOT KNOWN", "no step is written down with its time")
    share = f"step {done}" + (f" of {total}" if total else "")
    silent, usual = max(0.0, now - last["time"]), _step_seconds(run)
    if silent > max(_SILENCE, _SILENT_STEPS * usual):
        return Said(
            BAD,
            "STANDS STILL",
            f"at {share}; the last step was {span(silent)} ago ({clock(last['time'])}"
            "). Start it again by the same command: it goes on from its checkpoint.",
        )
    left = f", about {span((total - done) * usual)} to go" if total and usual else ""
    return Said(NOTE, "UNDER WAY", f"{share}{left}; the last one {span(silent)} ago")


def verdicts(run: RunFolder) -> list[Said]:
    """Those of the health hook, the last one first."""
    found: list[Said] = []
    for line in reversed(run.verdicts):
        name = line["verdict"]
        remedies = line.get("remedies")
        found.append(
            Said(
                _KINDS.get(name, NOTE),
                name,
                f"at step {line['step']}: {line.get('why', '')}",
                [str(r) for r in remedies] if isinstance(remedies, list) else [],
            )
        )
    if found or not run.readings:
        return found
    count, last = len(run.readings), run.readings[-1]["step"]
    text = f"nothing to object to in {count} readings up to step {last}"
    return [Said(GOOD, Verdict.HEALTHY.value, text)]


def next_commands(run: RunFolder, now: float) -> list[tuple[str, str]]:
    """What a user would do with the run now: (what for, command)."""
    path = run.path.resolve()
    folder = shlex.quote(str(path))
    again = ("This page again, with what is new", f"vissl-swav report {folder}")
    checkpoint = run.final or (run.checkpoints[-1] if run.checkpoints else None)
    if checkpoint is None:
        return [again] if state(run, now).name != FINISHED else []
    weights = shlex.quote(
        f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={_value(path / checkpoint.name)}"
    )
    of_clusters = [
        (
            "The top images of each prototype, with empty and duplicate ones",
            f"vissl-swav gallery --images IMAGES --checkpoint {folder} -o gallery",
        ),
        (
            "The cluster of each image",
            f"vissl-swav assign --images IMAGES --checkpoint {folder} -o clusters.csv",
        ),
    ]
    found = [] if lacks_prototypes(run) else of_clusters
    probe = trunk_probe(run)
    if probe:
        words = " ".join(shlex.quote(word) for word in [*probe, "data=IMAGES"])
        found.append(
            (
                "A linear probe of the frozen trunk; IMAGES has train/ and test/ or "
                "val/, with class folders",
                f"vissl-swav train {words} {weights} "
                "config.CHECKPOINT.DIR=PROBE_FOLDER",
            )
        )
    return found if state(run, now).name == FINISHED else [again, *found]


def clock(seconds: float) -> str:
    """A time as this machine's clock shows it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def span(seconds: float) -> str:
    """A length of time in a unit that fits it."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _value(path: Path) -> str:
    """A path as the value of an override: quoted where hydra would read more in it."""
    text = str(path)
    if re.fullmatch(r"[\w./+-]+", text, re.ASCII):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _step_seconds(run: RunFolder) -> float:
    times = [line.get("time") for line in run.steps[-200:]]
    known = [t for t in times if isinstance(t, (int, float))]
    gaps = [b - a for a, b in zip(known, known[1:], strict=False) if b > a]
    return statistics.median(gaps) if gaps else 0.0
