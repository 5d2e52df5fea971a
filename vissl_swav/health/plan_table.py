"""A plan in words: the rows of its table."""

from collections.abc import Iterator

from vissl_swav.health.plan import RULE_BATCH, RULE_RATE, Contrast, Plan
from vissl_swav.health.plan_memory import (
    Shapes,
    bank_bytes,
    encoder_bytes,
    kmeans_bytes,
    model_bytes,
    queue_bytes,
    score_bytes,
    similarity_bytes,
)
from vissl_swav.health.verdicts import LN_NEGATIVES

Row = tuple[str, str]
_UNKNOWN = "not known"


def rows(
    plan: Plan, *, num_parameters: int | None = None, momentum: float = 0.9
) -> list[Row]:
    """(name, text) of everything that a plan says.

    Args:
        plan: the plan.
        num_parameters: of trunk, head and prototypes; None where they were not counted.
        momentum: of SGD, which keeps a tensor for it.
    """
    return [
        ("loss", plan.method),
        *_data_rows(plan),
        *_problem_rows(plan),
        *_schedule_rows(plan),
        *_rate_rows(plan),
        *_memory_rows(plan, num_parameters, momentum),
    ]


def _data_rows(plan: Plan) -> Iterator[Row]:
    yield (
        "batch",
        f"{plan.batch_per_process} images x {plan.world_size} process"
        f"{'' if plan.world_size == 1 else 'es'} = {plan.batch}",
    )
    yield "images", _UNKNOWN if plan.num_images is None else str(plan.num_images)
    steps, total = plan.steps_per_epoch, plan.num_steps
    counted = _UNKNOWN if steps is None else f"{steps} an epoch, {total} in all"
    yield "epochs", str(plan.num_epochs)
    yield "steps", counted
    if total:
        yield "time", f"{total / 3600:.1f} h at 1 s a step"


def _contrast_rows(plan: Plan, contrast: Contrast) -> Iterator[Row]:
    images, crops = contrast.num_images, contrast.num_crops
    yield "embedding", f"of dimension {plan.embedding_dim}"
    yield "positives of a crop", f"{crops - 1}"
    yield (
        "negatives of a crop",
        f"({images} - 1) images x {crops} crops = {contrast.num_negatives}",
    )
    yield "ceiling of the loss", f"{LN_NEGATIVES} = {contrast.ceiling:.4f}"
    yield "floor of the loss", f"{contrast.floor:.4f} (images at equal distances)"


def _problem_rows(plan: Plan) -> Iterator[Row]:
    if plan.contrast is not None:
        yield from _contrast_rows(plan, plan.contrast)
        return
    heads = " + ".join(map(str, plan.num_prototypes))
    yield "prototypes K", f"{heads} of dimension {plan.embedding_dim}"
    if plan.keeps_bank:
        N = _UNKNOWN if plan.num_images is None else f"{plan.num_images} (all images)"
        yield "samples labelled at once N", N
    elif plan.queue_length:
        yield (
            "samples of the Sinkhorn problem N",
            f"{plan.batch}; with the queue {plan.batch + plan.queue_length}",
        )
    else:
        yield "samples of the Sinkhorn problem N", str(plan.batch)
    yield "ceiling of the loss", f"ln K = {plan.ceiling:.4f}"
    yield "floor of the loss", _floor(plan)


def _floor(plan: Plan) -> str:
    if not plan.soft_codes or plan.keeps_bank:
        return "0 (codes are single prototypes)"
    full = plan.batch + plan.queue_length
    if not plan.queue_length:
        return _floor_at(plan, full)
    return f"{_floor_at(plan, plan.batch)}; with the queue {_floor_at(plan, full)}"


def _floor_at(plan: Plan, samples: int) -> str:
    floor = plan.floor(samples)
    return f"ln(K/N) = {floor:.4f}" if floor > 0 else "0"


def _schedule_rows(plan: Plan) -> Iterator[Row]:
    if plan.num_prototypes and (not plan.keeps_bank or plan.freeze):
        yield "prototypes frozen", _frozen(plan)
    if not plan.queue_length:
        return
    start, fill = plan.queue_start, plan.queue_fill
    started = _UNKNOWN if start is None else _moment(plan, start)
    yield "queue", f"{plan.queue_length} features"
    yield "queue starts to fill", started
    both = None if start is None or fill is None else start + fill
    yield "queue in use from", _UNKNOWN if both is None else _moment(plan, both)
    if plan.num_images:
        share = (plan.batch + plan.queue_length) / plan.num_images
        yield "queue + batch", f"{share:.1%} of the images"


def _frozen(plan: Plan) -> str:
    if plan.freeze is None:
        return _UNKNOWN
    if plan.freeze == float("inf"):
        return "always (they are not trained)"
    share = plan.freeze / plan.num_epochs if plan.num_epochs else 0.0
    return f"until {_moment(plan, plan.freeze)}, {share:.1%} of the run"


def _moment(plan: Plan, epochs: float) -> str:
    steps = plan.steps_per_epoch
    words = f"epoch {epochs:.4g}"
    return words if steps is None else f"{words} (step {round(epochs * steps)})"


def _rate_rows(plan: Plan) -> Iterator[Row]:
    given = plan.learning_rate
    yield "highest learning rate", _UNKNOWN if given is None else f"{given:g}"
    rule = f"{RULE_RATE:g} at {RULE_BATCH}, linear"
    if plan.rule_applies:
        yield "learning rate by the rule", f"{plan.rule_rate:g} ({rule})"
    else:
        name = plan.optimizer + (" with LARC" if plan.uses_larc else " without LARC")
        yield "learning rate by the rule", f"none: {rule}, is for SGD with LARC, {name}"


def _memory_rows(
    plan: Plan, num_parameters: int | None, momentum: float
) -> Iterator[Row]:
    shapes = shapes_of(plan)
    if num_parameters is not None:
        size = model_bytes(num_parameters, plan.optimizer, momentum)
        yield "parameters", f"{num_parameters:,}"
        yield "memory of weights, gradients, optimizer", in_words(size)
        if plan.method == "swav_momentum":
            of_encoder = in_words(encoder_bytes(num_parameters))
            yield "memory of the momentum encoder", of_encoder
    if plan.contrast is None:
        yield "memory of scores", in_words(score_bytes(shapes))
    else:
        size = similarity_bytes(
            shapes, plan.contrast.num_images, plan.contrast.max_similarities
        )
        yield "memory of similarities", in_words(size)
    if plan.queue_length:
        yield "memory of the queue", in_words(queue_bytes(shapes))
    if plan.keeps_bank and plan.num_images:
        yield "memory of the bank", in_words(bank_bytes(shapes))
        if plan.method == "deepcluster_v2":
            yield "memory of k-means", in_words(kmeans_bytes(shapes))
    yield "", "a process; what the trunk keeps for its backward pass comes on top"


def shapes_of(plan: Plan) -> Shapes:
    """Sizes on one process."""
    return Shapes(
        num_prototypes=plan.num_prototypes,
        embedding_dim=plan.embedding_dim,
        batch_per_process=plan.batch_per_process,
        num_crops=plan.num_crops,
        num_assign_crops=plan.num_assign_crops,
        queue_rows=plan.queue_length // plan.world_size,
        num_images=(plan.num_images or 0) if plan.keeps_bank else 0,
        world_size=plan.world_size,
        bytes_per_bank_value=plan.bytes_per_bank_value,
        bytes_per_queue_value=plan.bytes_per_queue_value,
    )


def in_words(size: int) -> str:
    """Bytes in the largest unit that leaves 1 or more."""
    amount, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:.0f} {units[0]}" if units[0] == "B" else f"{amount:.1f} {units[0]}"
