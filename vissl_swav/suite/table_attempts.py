"""Every benchmark on a row: what fails becomes an outcome, and the rest goes on."""

from dataclasses import replace

from vissl_swav.suite import stage
from vissl_swav.suite.recipe import Benchmark
from vissl_swav.suite.table_display import Display
from vissl_swav.suite.table_jobs import NO_DATA, TOO_FEW, Job, Outcome, find_final
from vissl_swav.suite.table_plan import Order, identified, job_of, standing
from vissl_swav.suite.table_rows import Row
from vissl_swav.suite.table_subsets import TooFewImages


def run_row(
    order: Order, row: Row, display: Display, outcomes: dict[str, Outcome]
) -> None:
    """Every benchmark on a row; the row's own training first.

    Args:
        order: what to run.
        row: to run it on.
        display: of the progress.
        outcomes: by benchmark, filled as they come.
    """
    if row.training is not None:
        trained, row = _trained(order, row, row.training, display)
        if trained.state != "done":
            for entry in order.recipe.benchmarks:
                outcomes[entry.name] = replace(
                    trained, message=f"its training: {trained.message}"
                )
                display.advance()
            return
    jobs: dict[str, Job] = {}
    for entry in order.recipe.benchmarks:
        before = outcomes.get(entry.features or "")
        if before is not None and before.state != "done":
            outcomes[entry.name] = replace(
                before, message=f"its features: {before.message}"
            )
            display.advance()
            continue
        features = jobs.get(entry.features or "")
        outcomes[entry.name] = _attempt(order, row, entry, features, display, jobs)


def _trained(
    order: Order, row: Row, training: Benchmark, display: Display
) -> tuple[Outcome, Row]:
    """What became of the row's training, and the row with its weights.

    A finished one whose checkpoints were deleted is run again where a benchmark still
    wants them; else the row has no weights.
    """
    if training.data not in order.data:
        return _attempt(order, row, training, None, display), row
    job = job_of(order, row, training)
    is_lost = job.finished() is not None and find_final(job.folder) is None
    if is_lost and order.absent is None and "to do" in standing(order, row).values():
        job.forget()
    outcome = _attempt(order, row, training, None, display)
    weights = find_final(job.folder)
    if outcome.state == "done" and weights is None and not is_lost:
        outcome = replace(
            outcome,
            state="failed",
            message=f"{job.folder} holds no final checkpoint.",
        )
    return outcome, replace(identified(order, row), weights=weights)


def _attempt(
    order: Order,
    row: Row,
    entry: Benchmark,
    features: Job | None,
    display: Display,
    jobs: dict[str, Job] | None = None,
) -> Outcome:
    """Runs a benchmark; what fails becomes an outcome, and the rest goes on."""
    folder = order.place.out / "rows" / row.folder / entry.name
    if features is None and entry.data not in order.data:
        what = order.recipe.data.get(entry.data or "", "")
        display.advance()
        return Outcome(NO_DATA, folder, {}, 0.0, f"--data {entry.data}=PATH: {what}")
    with display.line(f"{row.name}: {entry.name}") as report:
        try:
            job = job_of(order, row, entry, features=features)
            if jobs is not None:
                jobs[entry.name] = job
            folder = job.folder
            if order.absent is not None:
                state, message = order.absent
                absent = Outcome(state, folder, {}, 0.0, message)
                return _complete(entry, job.finished() or absent)
            return _complete(entry, job.run(report))
        except TooFewImages as error:
            return Outcome(TOO_FEW, folder, {}, 0.0, str(error))
        # DataError, StartError and WeightsError are ValueErrors.
        except (stage.StageFailed, OSError, ValueError) as error:
            return Outcome("failed", folder, {}, 0.0, str(error))


def _complete(entry: Benchmark, outcome: Outcome) -> Outcome:
    """Failed, if a column has no figure; those that there are stay."""
    lacking = [c.metric for c in entry.columns if c.metric not in outcome.figures]
    if outcome.state != "done" or not lacking:
        return outcome
    return replace(
        outcome,
        state="failed",
        message=f"the recipe's columns want {', '.join(lacking)}; {entry.name} gives "
        f"{', '.join(outcome.figures)}.",
    )
