"""Ended by a signal, in mid-epoch and at an epoch's end: the same losses, bit for bit.

Every method on 1, 2 and 3 ranks. Moments drawn at random, and the writing of
checkpoints among them: `benchmarks/kill_bench.py`.
"""

import json
import re

import host_runs
import pytest
import same_runs

from vissl_swav.host import preemption

METHODS = ["swav", "deepcluster_v2", "sela_v2"]
DIAGONAL = set(zip(METHODS, (3, 2, 1), strict=True))
# Epochs of 4 steps, a checkpoint every third step and at every epoch's end.
ENDS = {
    # Two steps later: with the last step of the epoch done, its end not yet written.
    "TERM:step:2": "model_iteration4.torch",
    "KILL:step:7": "model_iteration6.torch",
    "KILL:phase:2": "model_phase1.torch",
    "TERM:step:9": "model_iteration11.torch",
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return host_runs.make_images(tmp_path_factory.mktemp("images"), per_class=32)


def runs(whole, parts, settings):
    """Exit codes of the starts of two runs, and what the second one said."""
    done = host_runs.python(
        *("tests/interrupted_runs.py", whole, "", parts, ",".join(ENDS)),
        *("--", *settings),
        env={"VISSL_SWAV_ALLOW_OVERSUBSCRIPTION": "1"},
        timeout=580,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    log = parts.with_name(f"{parts.name}.log").read_text(errors="replace")
    return json.loads(done.stdout.splitlines()[-1]), log


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("method", "ranks"),
    [
        pytest.param(m, r, marks=[] if (m, r) in DIAGONAL else pytest.mark.slow)
        for m in METHODS
        for r in (1, 2, 3)
    ],
)
def test_every_end_is_gone_on_from(images, tmp_path, method, ranks):
    """SIGKILL and SIGTERM, each in mid-epoch and at the end of an epoch, in one run."""
    pytest.importorskip("vissl")
    batch = 16 - 16 % ranks
    settings = [
        setting
        for setting in host_runs.overrides(
            images,
            tmp_path / "unused",
            "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1",
            "config.CHECKPOINT.CHECKPOINT_ITER_FREQUENCY=3",
            f"config.DATA.TRAIN.DATA_LIMIT={4 * batch}",
            loss=method,
            processes=ranks,
            epochs=3,
        )
        if not setting.startswith("config.CHECKPOINT.DIR=")
    ]
    if method == "swav":
        # Being filled at the first end, full at the second.
        settings.append(f"config.LOSS.swav.queue_length={5 * batch}")
    codes, log = runs(tmp_path / "whole", tmp_path / "parts", settings)
    again = preemption.EXIT_CODE
    assert codes == [[0], [again, -9, -9, again, 0]], log[-3000:]
    resumed = re.findall(r"Resuming from (\S+):", log)
    assert list(dict.fromkeys(resumed)) == list(ENDS.values())
    whole, parts = (same_runs.steps(tmp_path / name) for name in ("whole", "parts"))
    assert whole == parts and sorted(whole) == list(range(1, 13))
    # Step 7 came again, no other.
    assert len(host_runs.lines(tmp_path / "parts")) == 13
    states = [same_runs.final(tmp_path / name) for name in ("whole", "parts")]
    same_runs.assert_same_state(*states)
    others = states[0]["loss"]["_extra_state"].get("other_ranks", [])
    assert len(others) == ranks - 1
