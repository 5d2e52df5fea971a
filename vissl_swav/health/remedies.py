"""What helps against each verdict, in the order in which to try it.

The order is that of `docs/health.md`; a remedy that a run has taken already is left
out.
"""

from dataclasses import dataclass

from vissl_swav.health.verdicts import Verdict

_LOW_EPSILON = 0.03


@dataclass(frozen=True)
class RunFacts:
    """What decides which remedies are open to a run.

    Attributes:
        section: where the keys of the loss stand.
        freeze_epochs: epochs without a gradient to the prototypes; infinite where they
            are never trained.
        epsilon: of the codes; None where labels take their place.
        queue_length: rows over all processes.
        hard_codes: None where the loss has no such key.
        batch: images in a step of one process.
        num_crops: of an image.
        num_prototypes: of the largest head.
        learning_rate: of the step at which the verdict fell.
        steps: to freeze for, where an epoch of the run is much longer than the paper's
            (one pass over a large set, say); None where epochs will do.
    """

    section: str
    freeze_epochs: float
    epsilon: float | None
    queue_length: int
    hard_codes: bool | None
    batch: int
    num_crops: int
    num_prototypes: int
    learning_rate: float
    steps: int | None = None


def remedies(verdict: Verdict, facts: RunFacts) -> list[str]:
    """The remedies for a verdict; none for a healthy run."""
    if verdict is Verdict.COLLAPSED:
        return _against_collapse(facts)
    if verdict is Verdict.NOT_LEARNING_YET:
        wait = "wait: a healthy run can sit near ln K through its first epochs"
        return [wait, *_against_collapse(facts)]
    if verdict is Verdict.DIVERGING:
        return [_lower_rate(facts), *_freeze(facts), *_epsilon(facts), *_queue(facts)]
    if verdict is Verdict.QUEUE_HURTS:
        key = "queue_start_epoch" if facts.steps is None else "queue_start_step"
        later = f"start the queue later ({facts.section}.{key})"
        return [later, *_shorter_queue(facts), *_queue(facts), _lower_rate(facts)]
    if verdict is Verdict.AT_FLOOR:
        return [
            f"a larger batch (config.DATA.TRAIN.BATCHSIZE_PER_REPLICA, {facts.batch})",
            f"a longer queue ({facts.section}.queue_length, {facts.queue_length})",
            f"fewer prototypes (num_clusters of the head, {facts.num_prototypes})",
        ]
    return []


def _against_collapse(facts: RunFacts) -> list[str]:
    fewer = f"fewer or milder crops (config.DATA.TRAIN.TRANSFORMS, {facts.num_crops})"
    check = "vissl-swav data-check: are the images what you think they are"
    hard = f"{facts.section}.hard_codes=true"
    return [
        *_freeze(facts),
        *_epsilon(facts),
        _lower_rate(facts),
        *_queue(facts),
        fewer,
        *([hard] if facts.hard_codes is False else []),
        check,
    ]


def _freeze(facts: RunFacts) -> list[str]:
    if facts.freeze_epochs >= 1:
        return []
    if facts.steps is not None:
        return [
            f"freeze the prototypes for {facts.steps} steps or more ({facts.section}."
            f"freeze_prototypes_steps={facts.steps}; it is "
            f"{facts.freeze_epochs * facts.steps:.0f})"
        ]
    return [
        f"freeze the prototypes for an epoch or more "
        f"({facts.section}.freeze_prototypes_epochs=1; it is {facts.freeze_epochs:.2g})"
    ]


def _epsilon(facts: RunFacts) -> list[str]:
    if facts.epsilon is None or facts.epsilon <= _LOW_EPSILON:
        return []
    return [f"{facts.section}.epsilon={_LOW_EPSILON} (it is {facts.epsilon:g})"]


def _lower_rate(facts: RunFacts) -> str:
    return (
        f"a lower learning rate (it is {facts.learning_rate:.3g}; the rule for SGD "
        "with LARC is 0.6 at 256 images, linear in the batch)"
    )


def _queue(facts: RunFacts) -> list[str]:
    return [f"no queue ({facts.section}.queue_length=0)"] if facts.queue_length else []


def _shorter_queue(facts: RunFacts) -> list[str]:
    return [f"a shorter queue (it holds {facts.queue_length} rows)"]
