"""Verdicts on made-up curves; those of real runs are in benchmarks/health_runs.py."""

import json
import math

import pytest

from vissl_swav.health.remedies import RunFacts, remedies
from vissl_swav.health.verdicts import Judge, Signals, Verdict

K, N = 100, 32
CEILING, FLOOR = math.log(K), math.log(K / N)
HEALTHY = {
    "feature_spread": 0.8,
    "prototype_spread": 1.0,
    "code_entropy": 3.4,
    "mean_code_entropy": 4.59,
}
FACTS = {
    "section": "config.LOSS.swav",
    "freeze_epochs": 0.0,
    "epsilon": 0.05,
    "queue_length": 0,
    "hard_codes": False,
    "batch": 32,
    "num_crops": 2,
    "num_prototypes": K,
    "learning_rate": 0.1,
}


def noise(step):
    return 0.05 * math.sin(1.7 * step) + 0.03 * math.cos(0.9 * step)


def verdicts(curve, *, steps=1000, epoch=50, floor=FLOOR, every=10, **figures):
    """(step, verdict) of each finding on `loss = curve(step)`."""
    judge, found = Judge(epoch), []
    for step in range(1, steps + 1):
        judge.add(curve(step))
        if step % every == 0:
            now = {
                name: value(step) if callable(value) else value
                for name, value in {**HEALTHY, **figures}.items()
            }
            finding = judge.judge(Signals(step, CEILING, floor, **now))
            if finding is not None:
                assert finding.why
                found.append((step, finding.verdict))
    return found


def falling(step):
    """From a little above the ceiling down by 1.5 nats."""
    return CEILING + 0.1 - 1.6 * (1 - math.exp(-step / 150)) + noise(step)


def test_a_healthy_curve_says_nothing():
    assert verdicts(falling) == []


def test_an_early_run_at_the_ceiling_with_spread_features_is_no_collapse():
    found = verdicts(lambda step: CEILING + noise(step) / 10, steps=390)
    assert found == []
    found = verdicts(lambda step: CEILING + noise(step) / 10)
    assert found == [(400, Verdict.NOT_LEARNING_YET)], "once, not at every reading"


@pytest.mark.parametrize(
    "figures",
    [
        {"feature_spread": 0.01, "code_entropy": 4.6, "mean_code_entropy": 4.6},
        {"prototype_spread": 0.01},
        {"code_entropy": 4.605, "mean_code_entropy": 4.6051},
        {"code_entropy": None, "mean_code_entropy": None, "feature_spread": 0.0},
    ],
    ids=["features", "prototypes", "codes", "labels in place of codes"],
)
@pytest.mark.parametrize("above", [0.0, 0.3], ids=["at ln K", "above ln K"])
def test_collapse_needs_the_ceiling_and_a_second_signal(figures, above):
    stuck = verdicts(lambda step: CEILING + above, **figures)
    assert stuck == [(200, Verdict.COLLAPSED)]
    assert verdicts(falling, **figures) == [], "the second signal alone is none"


def told(nats):
    """Codes that tell so many nats of their image; a constant or a function of step."""
    tells = nats if callable(nats) else lambda step: nats
    return {
        "code_entropy": lambda step: 4.59 - tells(step),
        "mean_code_entropy": 4.59,
    }


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_codes_that_have_lost_what_they_told_are_a_collapse(scale):
    """In units of the run's own most; spread features and prototypes do not save it."""

    def fall(share):
        return told(lambda step: scale * max(share, 1 - step / 100))

    def stuck(step):
        return CEILING + 0.01

    lost = verdicts(stuck, **fall(0.08))
    assert lost == [(200, Verdict.COLLAPSED)]
    kept = verdicts(stuck, **fall(0.12))
    assert kept == [(400, Verdict.NOT_LEARNING_YET)]
    assert verdicts(falling, **fall(0.08)) == [], "the second signal alone is none"
    # Little from the start on is how some nets begin.
    assert verdicts(stuck, steps=390, **told(0.08 * scale)) == []


def test_lost_information_is_said_once():
    """Not at each crossing of the line; twice as much ends it."""

    def wavering(step):
        return 1.0 if step < 100 else (0.08, 0.15)[step // 10 % 2]

    found = verdicts(lambda step: CEILING, steps=390, **told(wavering))
    assert [verdict for _, verdict in found] == [Verdict.COLLAPSED]

    def back(step):
        return 1.0 if step < 100 else 0.25 if step > 300 else 0.08

    found = verdicts(lambda step: CEILING, steps=390, **told(back))
    assert found == [(200, Verdict.COLLAPSED), (310, Verdict.HEALTHY)]


def test_the_most_that_codes_told_outlives_a_resume():
    def resumed(forget):
        judge = Judge(50)
        for step in range(1, 251):
            judge.add(CEILING)
            now = {**HEALTHY, "code_entropy": 3.0 if step < 100 else 4.5}
            finding = judge.judge(Signals(step, CEILING, FLOOR, **now))
            if finding is not None:
                return finding
            if step == 150:
                state = json.loads(json.dumps(judge.state()))
                if forget:
                    del state["most_told"]
                judge = Judge(50)
                judge.restore(state)
        return None

    finding = resumed(forget=False)
    assert finding is not None and finding.verdict is Verdict.COLLAPSED
    assert "0.090 nats" in finding.why and "1.590" in finding.why
    assert resumed(forget=True) is None, "an older checkpoint: begins anew"


def test_a_run_that_collapses_after_it_has_learned():
    def curve(step):
        return falling(step) if step < 500 else CEILING + 1e-4

    def spread(step):
        return 0.8 if step < 500 else 0.001

    found = dict((v, s) for s, v in verdicts(curve, feature_spread=spread))
    assert 690 <= found[Verdict.COLLAPSED] <= 700


def test_labels_that_are_all_one_are_a_collapse_at_any_loss():
    figures = {"code_entropy": None, "mean_code_entropy": None, "label_entropy": 0.0}
    found = verdicts(lambda step: 0.01, feature_spread=0.001, floor=0.0, **figures)
    assert found == [(200, Verdict.COLLAPSED)]


def test_equal_features_learn_no_more_than_how_frequent_each_label_is():
    """Where labels are not balanced the loss of a collapse is far under ln K."""
    figures = {"code_entropy": None, "mean_code_entropy": None, "label_entropy": 2.0}

    def down_to(least):
        return lambda step: least + (CEILING - least) * math.exp(-step / 50)

    equal = {**figures, "feature_spread": 0.001}
    for least in (2.3, 1.9):
        found = verdicts(down_to(least), steps=300, floor=0.0, **equal)
        assert found == [(200, Verdict.COLLAPSED)]
    assert verdicts(down_to(1.5), steps=300, floor=0.0, **equal) == [], "knows more"
    spread = {**figures, "feature_spread": 0.3}
    assert verdicts(down_to(2.3), steps=300, floor=0.0, **spread) == []


def test_diverging_after_an_epoch_of_a_real_rise():
    def curve(step):
        return falling(min(step, 500)) + max(0.0, (min(step, 700) - 500) / 200)

    ((step, verdict),) = verdicts(curve, steps=1200)
    assert verdict is Verdict.DIVERGING and 750 <= step <= 850
    # An epoch of 400 steps must pass before it is said.
    ((later, _),) = verdicts(curve, steps=1200, epoch=400)
    assert later == step + 200


def test_a_rise_that_comes_back_or_is_small_is_none():
    def bump(step):
        return falling(step) + (0.8 if 500 < step < 600 else 0.0)

    assert verdicts(bump) == []
    assert verdicts(lambda step: falling(step) + 0.1 * (step > 500)) == []


def test_recovery_is_said_once():
    def curve(step):
        return falling(step) + (0.8 if 500 < step < 800 else 0.0)

    found = [verdict for _, verdict in verdicts(curve, steps=1200)]
    assert found == [Verdict.DIVERGING, Verdict.HEALTHY]


def test_a_rise_right_after_the_queue_started_is_blamed_on_it():
    def curve(step):
        return falling(step) + 0.8 * (step > 520)

    def after(start):
        return lambda step: step >= start

    ((_, verdict),) = verdicts(curve, queue_in_use=after(500))
    assert verdict is Verdict.QUEUE_HURTS
    ((_, verdict),) = verdicts(curve, queue_in_use=after(100))
    assert verdict is Verdict.DIVERGING, "the queue has been in use for long"


def test_at_floor_needs_codes_at_their_floor():
    def curve(step):
        return FLOOR + 3 * math.exp(-step / 50) + 0.02

    found = verdicts(curve, code_entropy=FLOOR + 0.01)
    assert [verdict for _, verdict in found] == [Verdict.AT_FLOOR]
    assert verdicts(curve, code_entropy=FLOOR + 1) == []
    assert verdicts(lambda step: 3 * math.exp(-step / 50), floor=0.0) == []


def test_remedies_are_in_order_and_leave_out_what_is_done():
    found = remedies(Verdict.COLLAPSED, RunFacts(**FACTS))
    words = ["freeze", "epsilon=0.03", "learning rate", "crops", "hard_codes"]
    assert [any(word in remedy for remedy in found) for word in words] == [True] * 5
    places = [next(i for i, r in enumerate(found) if word in r) for word in words]
    assert places == sorted(places)
    done = {"freeze_epochs": 1.0, "epsilon": 0.03, "hard_codes": True}
    left = remedies(Verdict.COLLAPSED, RunFacts(**{**FACTS, **done}))
    assert "learning rate" in left[0]
    assert not any("freeze" in r or "epsilon" in r or "hard" in r for r in left)
    queue = remedies(Verdict.COLLAPSED, RunFacts(**{**FACTS, "queue_length": 64}))
    assert any("queue_length=0" in remedy for remedy in queue)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_but_healthy_has_remedies(verdict):
    found = remedies(verdict, RunFacts(**FACTS))
    assert bool(found) == (verdict is not Verdict.HEALTHY)


def test_a_judge_goes_on_from_its_state():
    """Stopped at every reading in turn, through JSON and back: the same findings."""

    def curve(step):
        return falling(step) + (0.8 if 520 < step < 800 else 0.0)

    def run(stop):
        judge, found = Judge(50), []
        for step in range(1, 1001):
            judge.add(curve(step))
            if step % 10 == 0:
                now = Signals(step, CEILING, FLOOR, queue_in_use=step > 500, **HEALTHY)
                finding = judge.judge(now)
                if finding is not None:
                    found.append((step, finding))
            if step == stop:
                state = json.loads(json.dumps(judge.state()))
                judge = Judge(50)
                judge.restore(state)
        return found

    whole = run(stop=0)
    kinds = [finding.verdict for _, finding in whole]
    assert kinds == [Verdict.QUEUE_HURTS, Verdict.HEALTHY]
    for stop in (15, 199, 505, 600, 730, 790):
        assert run(stop) == whole


def test_alarms():
    alarms = {verdict for verdict in Verdict if verdict.is_alarm}
    assert alarms == {Verdict.COLLAPSED, Verdict.QUEUE_HURTS, Verdict.DIVERGING}
