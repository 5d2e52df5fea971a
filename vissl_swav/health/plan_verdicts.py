"""What is wrong with a plan, by name: errors stop a run, warnings are said.

Crop lists of unequal length are not here: the transform itself refuses them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from vissl_swav.health.plan import (
    RULE_BATCH,
    RULE_RATE,
    Plan,
    usual_epoch_steps,
)

ERROR, WARNING = "error", "warning"
# The checks of the images refuse these two as well, before a plan is made.
TOO_FEW_IMAGES = "FEWER IMAGES THAN A BATCH"
MORE_CLUSTERS = "MORE CLUSTERS THAN IMAGES"
NO_NEGATIVES = "NO NEGATIVES"

MOST_RATE_RATIO = 2.0
MOST_PROTOTYPES_A_SAMPLE = 10
MOST_SHARE_OF_DATA = 0.5
LEAST_CROP, COARSE_STRIDE = 32, 32
MOST_SHARE_FROZEN = 0.2
# Rates are decimal numbers: exactly a factor of two must not count as more.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Verdict:
    """One finding.

    Attributes:
        level: `ERROR` or `WARNING`.
        name: short, in capitals; what a test or a search looks for.
        text: what was got, why it matters, and the cure.
        key: the config key at fault, below `config.`, with `LOSS.*` for the loss's own.
    """

    level: str
    name: str
    text: str
    key: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


def verdicts(plan: Plan) -> list[Verdict]:
    """Everything that is wrong with a plan, errors first.

    Where the images do not fill one batch nothing else can be said.
    """
    if plan.steps_per_epoch == 0:
        assert plan.num_images is not None
        found = too_few_images(plan.num_images, plan.batch_per_process, plan.world_size)
        return [found]
    found = [verdict for check in _CHECKS for verdict in check(plan)]
    return sorted(found, key=lambda verdict: verdict.level != ERROR)


def too_few_images(num_images: int, batch_per_process: int, world_size: int) -> Verdict:
    """The images do not fill one batch of all processes, and the rest is dropped."""
    most = num_images // world_size
    cure = f"set it to at most {most}" if most else "take fewer processes"
    return Verdict(
        ERROR,
        TOO_FEW_IMAGES,
        f"there are {num_images} images, fewer than one global batch of "
        f"{batch_per_process * world_size} ({batch_per_process} x {world_size} "
        f"processes), and an incomplete batch is dropped. The batch of a process: "
        f"{cure}; or add images.",
        "DATA.TRAIN.BATCHSIZE_PER_REPLICA",
    )


def more_clusters(num_prototypes: int, num_images: int) -> Verdict:
    """More clusters than images to make them of."""
    return Verdict(
        ERROR,
        MORE_CLUSTERS,
        f"num_clusters asks for {num_prototypes} prototypes, and there are {num_images}"
        f" images to label. Lower num_clusters to {num_images} or less, a tenth of it "
        "better.",
        "MODEL.HEAD.PARAMS",
    )


def _clusters(plan: Plan) -> list[Verdict]:
    N, K = plan.num_images, plan.most_prototypes
    if not plan.keeps_bank or N is None or K <= N:
        return []
    return [more_clusters(K, N)]


def _freeze(plan: Plan) -> list[Verdict]:
    frozen = plan.freeze
    if frozen is None or frozen == float("inf"):  # Fixed prototypes are a method.
        return []
    key = "LOSS.*.freeze_prototypes_epochs"
    if frozen >= plan.num_epochs:
        return [
            Verdict(
                ERROR,
                "PROTOTYPES NEVER THAW",
                f"prototypes are frozen for {_span(plan, frozen)}, and the run has "
                f"{_span(plan, plan.num_epochs)}: they would never be trained. Set "
                f"{_shorter_freeze(plan)}, or train longer; prototypes that are meant "
                "to stay as they are have trainable_prototypes=false.",
                key,
            )
        ]
    share = frozen / plan.num_epochs
    if share <= MOST_SHARE_FROZEN:
        return []
    return [
        Verdict(
            WARNING,
            "LONG FREEZE",
            f"prototypes are frozen for {_span(plan, frozen)}, {share:.0%} of the run; "
            "the paper freezes for one epoch of ImageNet: "
            f"{_shorter_freeze(plan)}.",
            key,
        )
    ]


def _queue(plan: Plan) -> list[Verdict]:
    start, fill = plan.queue_start, plan.queue_fill
    if not plan.queue_length or start is None:
        return []
    key = "LOSS.*.queue_start_epoch"
    earlier = " (queue_start_step=N counts steps)" if plan.num_epochs == 1 else ""
    cure = f"Start it earlier{earlier}, make it shorter, or set queue_length=0."
    if start >= plan.num_epochs:
        return [
            Verdict(
                ERROR,
                "QUEUE NEVER STARTS",
                f"the queue starts after {_span(plan, start)}, and the run has "
                f"{_span(plan, plan.num_epochs)}. {cure}",
                key,
            )
        ]
    if fill is not None and start + fill >= plan.num_epochs:
        return [
            Verdict(
                # A run may be the first part of a longer one.
                WARNING,
                "QUEUE NEVER FULL",
                f"the queue starts after {_span(plan, start)} and takes "
                f"{_span(plan, fill)} to fill; it is used once it is full, and the "
                f"run has {_span(plan, plan.num_epochs)}. {cure}",
                key,
            )
        ]
    return []


def _rate(plan: Plan) -> list[Verdict]:
    given, wanted = plan.learning_rate, plan.rule_rate
    if not plan.rule_applies or not given:
        return []
    ratio = max(given / wanted, wanted / given)
    if ratio <= MOST_RATE_RATIO * (1 + _ROUNDING):
        return []
    word = "above" if given > wanted else "below"
    return [
        Verdict(
            WARNING,
            "LEARNING RATE OFF THE RULE",
            f"the highest learning rate is {given:g}, {ratio:.1f} times {word} the "
            f"{wanted:g} of the linear rule for a batch of {plan.batch} ({RULE_RATE:g} "
            f"at {RULE_BATCH}, SGD with LARC). Scale the rates by hand, or set "
            "config.AUTO_SCALE=true, which scales those of the config file with the "
            "batch.",
            "OPTIMIZER.param_schedulers.lr",
        )
    ]


def _data(plan: Plan) -> list[Verdict]:
    samples = plan.batch + plan.queue_length
    if plan.num_images is None or not plan.queue_length:
        return []
    if samples <= MOST_SHARE_OF_DATA * plan.num_images:
        return []
    most = max(0, int(MOST_SHARE_OF_DATA * plan.num_images) - plan.batch)
    return [
        Verdict(
            WARNING,
            "QUEUE TOO LONG FOR THE DATA",
            f"queue and batch hold {plan.queue_length} + {plan.batch} samples of "
            f"{plan.num_images} images, {samples / plan.num_images:.1f} of each on "
            "average: images meet stale copies of themselves. Set queue_length to at "
            f"most {most - most % plan.batch}.",
            "LOSS.*.queue_length",
        )
    ]


def _samples(plan: Plan) -> list[Verdict]:
    N, K = plan.num_samples, plan.most_prototypes
    if N is None or plan.keeps_bank or not plan.num_prototypes:
        return []
    found: list[Verdict] = []
    if K > MOST_PROTOTYPES_A_SAMPLE * N:
        found.append(
            Verdict(
                WARNING,
                "TOO MANY PROTOTYPES",
                f"{K} prototypes share {N} samples (batch {plan.batch}, queue "
                f"{plan.queue_length}), {K / N:.0f} for each, so that codes say little "
                f"and the loss ends at {plan.floor(N):.2f} of {plan.ceiling:.2f} at "
                f"best. Take at most {N} prototypes, or more samples: a larger batch, "
                "a queue. Gradient accumulation does not add samples.",
                "MODEL.HEAD.PARAMS",
            )
        )
    if N < K and not plan.queue_length:
        found.append(
            Verdict(
                WARNING,
                "FEWER SAMPLES THAN PROTOTYPES",
                f"a batch of {N} has no sample for each of {K} prototypes, and there "
                f"is no queue: the loss cannot go below ln({K} / {N}) = "
                f"{plan.floor(N):.2f}. Set queue_length to {_queue_for(plan, K)} or "
                f"more, or take at most {N} prototypes.",
                "LOSS.*.queue_length",
            )
        )
    return found


def _negatives(plan: Plan) -> list[Verdict]:
    if plan.contrast is None or plan.contrast.num_negatives:
        return []
    return [
        Verdict(
            ERROR,
            NO_NEGATIVES,
            "a step has a single image, whose crops have no others to differ from: the "
            "loss is 0 from the start. Take two images or more, some hundred better: "
            "negatives are all that this loss learns from.",
            "DATA.TRAIN.BATCHSIZE_PER_REPLICA",
        )
    ]


def _crops(plan: Plan) -> list[Verdict]:
    small = [size for size in plan.crop_sizes if size < LEAST_CROP]
    if not small or plan.trunk_stride is None or plan.trunk_stride < COARSE_STRIDE:
        return []
    return [
        Verdict(
            WARNING,
            "CROPS SMALLER THAN THE STRIDE",
            f"crops of {', '.join(map(str, small))} pixels come to a single feature in "
            f"a trunk of stride {plan.trunk_stride}; take crops of {LEAST_CROP} pixels "
            "or more, or a trunk for small images (resnet_small).",
            "DATA.TRAIN.TRANSFORMS",
        )
    ]


_CHECKS: tuple[Callable[[Plan], list[Verdict]], ...] = (
    _clusters,
    _freeze,
    _queue,
    _rate,
    _data,
    _samples,
    _negatives,
    _crops,
)


def _shorter_freeze(plan: Plan) -> str:
    """The paper's epoch of freeze, where the run has several; else in steps."""
    if plan.num_epochs > 1:
        return "freeze_prototypes_epochs=1"
    if not plan.num_steps:
        return "freeze_prototypes_epochs=0"
    steps = min(usual_epoch_steps(plan.batch), plan.num_steps // 10)
    return f"freeze_prototypes_steps={steps} freeze_prototypes_epochs=null"


def _queue_for(plan: Plan, K: int) -> int:
    """The shortest queue of whole batches with which N reaches K."""
    return -(-(K - plan.batch) // plan.batch) * plan.batch


def _span(plan: Plan, epochs: float) -> str:
    """Epochs in words, with their steps where these are known."""
    words = f"{epochs:.3g} epoch{'' if epochs == 1 else 's'}"
    if epochs >= 1000:
        words = f"{epochs:.0f} epochs"
    steps = plan.steps_per_epoch
    return words if steps is None else f"{words} ({round(epochs * steps)} steps)"
