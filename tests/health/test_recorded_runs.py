"""Verdicts on the curves of real runs, from `benchmarks/health_runs.py --record`.

The losses of every step and the readings of every tenth: the judge must come to what it
said while the run was under way.
"""

import json
from pathlib import Path

import pytest

from vissl_swav.health.verdicts import Judge, Signals

FILE = Path(__file__).with_name("recorded_runs.json")
RUNS = json.loads(FILE.read_text(encoding="utf-8"))


def judged(run, *, resumed_at=None):
    """[step, verdict] of each finding; at `resumed_at` another judge goes on."""
    judge, found = Judge(run["steps_per_epoch"]), []
    names, readings = run["signals"], iter(run["readings"])
    reading = next(readings)
    for step, loss in enumerate(run["losses"], start=1):
        judge.add(loss)
        if reading is not None and reading[0] == step:
            *values, in_use = reading
            given = dict(zip(names, values, strict=True))
            finding = judge.judge(Signals(**given, queue_in_use=in_use))
            if finding is not None:
                found.append([step, finding.verdict.value])
            reading = next(readings, None)
        if step == resumed_at:
            state, judge = judge.state(), Judge(run["steps_per_epoch"])
            judge.restore(state)
    assert reading is None, "every reading was used"
    return found


@pytest.mark.parametrize("name", RUNS)
def test_the_verdicts_of_a_real_run(name):
    run = RUNS[name]
    assert len(run["losses"]) >= 240 and len(run["readings"]) >= 24
    assert judged(run) == run["verdicts"]
    assert judged(run, resumed_at=len(run["losses"]) // 2) == run["verdicts"]


def test_every_verdict_is_among_them():
    said = {verdict for run in RUNS.values() for _, verdict in run["verdicts"]}
    wanted = {"COLLAPSED", "NOT LEARNING YET", "DIVERGING", "QUEUE HURTS", "AT FLOOR"}
    assert wanted <= said
    assert any(not run["verdicts"] for run in RUNS.values()), "and a healthy run"


def test_the_file_stays_small():
    assert FILE.stat().st_size < 100_000
