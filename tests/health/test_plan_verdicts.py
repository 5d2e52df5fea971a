"""Every verdict: on one side of its threshold it is said, on the other it is not."""

import pytest
from plan_cases import THREADS, paper

from vissl_swav.health.plan_verdicts import ERROR, WARNING, verdicts


def names(plan):
    return [verdict.name for verdict in verdicts(plan)]


def test_nothing_is_wrong_with_the_paper():
    assert verdicts(paper()) == []
    # 4096 images a step: 4.8, half of the rule, is the authors' own rate.
    large = paper(
        world_size=64, learning_rate=4.8, queue_length=0, num_epochs=800, freeze=1.0
    )
    assert verdicts(large) == []


@pytest.mark.parametrize(
    ("level", "name", "bad", "good"),
    [
        (ERROR, "PROTOTYPES NEVER THAW", {"freeze": 200.0}, {"freeze": 40.0}),
        (ERROR, "QUEUE NEVER STARTS", {"queue_start": 200.0}, {"queue_start": 199.0}),
        (
            WARNING,
            "QUEUE NEVER FULL",
            {"queue_start": 199.999},
            {"queue_start": 199.99},
        ),
        (
            ERROR,
            "FEWER IMAGES THAN A BATCH",
            {"num_images": 255, "queue_length": 0},
            {"num_images": 256, "queue_length": 0},
        ),
        (
            ERROR,
            "MORE CLUSTERS THAN IMAGES",
            {"keeps_bank": True, "queue_length": 0, "num_images": 2999},
            {"keeps_bank": True, "queue_length": 0, "num_images": 3000},
        ),
        (WARNING, "LONG FREEZE", {"freeze": 40.1}, {"freeze": 40.0}),
        (
            WARNING,
            "LEARNING RATE OFF THE RULE",
            {"learning_rate": 1.21},
            {"learning_rate": 1.2},
        ),
        (
            WARNING,
            "LEARNING RATE OFF THE RULE",
            {"learning_rate": 0.29},
            {"learning_rate": 0.3},
        ),
        (
            WARNING,
            "QUEUE TOO LONG FOR THE DATA",
            {"num_images": 8191},
            {"num_images": 8192},
        ),
        (
            WARNING,
            "TOO MANY PROTOTYPES",
            {"num_prototypes": (40961,)},
            {"num_prototypes": (40960,)},
        ),
        (
            WARNING,
            "FEWER SAMPLES THAN PROTOTYPES",
            {"queue_length": 0, "num_prototypes": (257,)},
            {"queue_length": 0, "num_prototypes": (256,)},
        ),
        (
            WARNING,
            "CROPS SMALLER THAN THE STRIDE",
            {"crop_sizes": (224, 31)},
            {"crop_sizes": (224, 32)},
        ),
    ],
)
def test_both_sides_of_a_threshold(level, name, bad, good):
    found = {verdict.name: verdict for verdict in verdicts(paper(**bad))}
    assert name in found
    assert found[name].level == level
    assert found[name].text.endswith(".") and found[name].key
    assert name not in names(paper(**good))


@pytest.mark.parametrize(
    "harmless",
    [
        {"freeze": float("inf")},
        {"freeze": None, "queue_start": None, "num_images": None},
        {"optimizer": "adam", "uses_larc": False, "learning_rate": 0.001},
        {"uses_larc": False, "learning_rate": 6.0},
        {"learning_rate": None},
        {"queue_length": 0, "queue_start": 900.0},
        {"crop_sizes": (24,), "trunk_stride": 8},
        {"crop_sizes": (24,), "trunk_stride": None},
        {"num_images": None},
    ],
    ids=str,
)
def test_what_is_no_fault(harmless):
    found = names(paper(**harmless))
    allowed = {"TOO MANY PROTOTYPES", "FEWER SAMPLES THAN PROTOTYPES"}
    assert set(found) <= (allowed if harmless.get("queue_length") == 0 else set())


def test_errors_come_first_and_cures_are_numbers():
    found = verdicts(
        paper(freeze=300.0, learning_rate=9.0, queue_length=0, num_prototypes=(3000,))
    )
    levels = [verdict.level for verdict in found]
    assert levels == sorted(levels), "error before warning"
    texts = {verdict.name: verdict.text for verdict in found}
    assert "300 epochs (1501200 steps)" in texts["PROTOTYPES NEVER THAW"]
    assert "15.0 times above the 0.6" in texts["LEARNING RATE OFF THE RULE"]
    few = texts["FEWER SAMPLES THAN PROTOTYPES"]
    assert "ln(3000 / 256) = 2.46" in few and "queue_length to 2816 or more" in few


def test_the_advised_queue_mends_the_fault():
    mended = paper(queue_length=2816)
    assert mended.num_samples >= 3000
    assert names(mended) == []
    too_long = {v.name: v.text for v in verdicts(paper(num_images=5000))}
    assert "at most 2048." in too_long["QUEUE TOO LONG FOR THE DATA"]
    assert names(paper(num_images=5000, queue_length=2048)) == []


@pytest.mark.parametrize("thread", THREADS, ids=lambda number: f"swav#{number}")
def test_four_runs_of_users_are_caught_for_their_reason(thread):
    changes, wanted = THREADS[thread]
    assert set(names(paper(**changes))) == wanted


def test_the_numbers_that_the_users_are_told():
    texts = {
        thread: " ".join(map(str, verdicts(paper(**changes))))
        for thread, (changes, _) in THREADS.items()
    }
    assert "12.8 epochs (5005 steps), and the run has 5 epochs (1950" in texts[51]
    assert "starts after 15 epochs (5850 steps)" in texts[51]
    assert "250 epochs (5005 steps), 63% of the run" in texts[78]
    assert "0.6, 4.0 times above the 0.15" in texts[78]
    assert "3840 + 64 samples of 1300 images, 3.0 of each" in texts[78]
    assert "1500 prototypes share 16 samples" in texts[118]
    assert "ln(21 / 4) = 1.66" in texts[120]
