"""What a report takes from a run's config: a summary, the plan, the probe."""

from vissl_swav.health.plan import Plan
from vissl_swav.health.plan_table import rows
from vissl_swav.health.plan_verdicts import ERROR, verdicts
from vissl_swav.host import plan_facts, settings
from vissl_swav.host.settings.plan import plan_facts as facts_of
from vissl_swav.host.settings.summary import Tree, probe_overrides, summary
from vissl_swav.host.settings.summary import (
    lacks_prototypes as summary_lacks_prototypes,
)
from vissl_swav.suite import report_page as html
from vissl_swav.suite.report_page import BAD, GOOD, NOTE, Said
from vissl_swav.suite.run_folder import RunFolder

_IMAGES = "images"
# What of the summary the plan's own rows say already.
_IN_SUMMARY = ("loss", "batch", "epochs")


def summary_rows(run: RunFolder) -> list[tuple[str, str]]:
    """What the run is; empty without its config."""
    return [] if run.config is None else summary(Tree(run.config))


def trunk_probe(run: RunFolder) -> list[str]:
    """Overrides of a linear probe of its trunk; empty where that is not known."""
    return [] if run.config is None else probe_overrides(Tree(run.config))


def lacks_prototypes(run: RunFolder) -> bool:
    """Whether the run is known to have no prototypes, and so no clusters."""
    return run.config is not None and summary_lacks_prototypes(Tree(run.config))


def plan_section(run: RunFolder) -> str:
    """The plan's table and verdicts, as HTML; why there is none, where there is none.

    No image is counted: the steps that were written down say how many an epoch took.
    """
    if run.config is None:
        return ""
    cfg = Tree(run.config)
    try:
        plan = _plan(cfg, run)
        if plan is None:
            return html.paragraph("The loss is VISSL's own: a plan is for ours.")
        shown = rows(plan, momentum=facts_of(cfg).momentum)
        said = [
            Said(
                BAD if verdict.level == ERROR else NOTE,
                verdict.name,
                f"{verdict.text} ({plan_facts.config_key(verdict, plan.method)})",
            )
            for verdict in verdicts(plan)
        ]
    except Exception as error:  # A config of another version, or cut short.
        return html.paragraph(
            f"No plan can be made of this config ({type(error).__name__}: {error})."
        )
    kept = [(name, _told(name, text)) for name, text in shown]
    kept = [(name, text) for name, text in kept if name not in _IN_SUMMARY]
    nothing = Said(GOOD, "FINE", "the plan has nothing to object to")
    return html.definitions(kept) + html.sayings(said or [nothing])


def _plan(cfg: Tree, run: RunFolder) -> Plan | None:
    if not settings.is_ours(cfg):
        return None
    facts = settings.run_facts(cfg)
    plan = plan_facts.plan_of(cfg, facts, None)
    total = run.steps[-1].get("max_step") if run.steps else None
    if not isinstance(total, int) or plan.num_epochs < 1:
        return plan
    images = total // plan.num_epochs * plan.batch
    return plan_facts.plan_of(cfg, facts, images or None)


def _told(name: str, text: str) -> str:
    known = name == _IMAGES and text.isdecimal()
    return f"{text} in whole batches of an epoch" if known else text
