"""The sentences of the health hook."""

from collections.abc import Mapping, Sequence

from vissl_swav.health.verdicts import LN_K, Finding, Verdict

MAX_NORM_ERROR = 0.02
"""Of the length of a feature: half precision alone leaves less."""


def line_of(
    step: int,
    figures: Mapping[str, float],
    num_prototypes: int,
    ceiling_name: str = LN_K,
) -> str:
    """The log line of a reading; what was not measured is left out."""
    f = figures
    parts = [
        f"loss {f['loss']:.4f} ({ceiling_name} {f['ceiling']:.4f}, floor "
        f"{f['floor']:.4f}, progress {f['progress']:.1%})"
    ]
    if "code_entropy" in f:
        parts.append(
            f"entropy of codes {f['code_entropy']:.2f}, of their mean "
            f"{f['mean_code_entropy']:.2f}"
        )
    if "label_entropy" in f:
        parts.append(f"entropy of labels {f['label_entropy']:.2f}")
    if "prototypes_used" in f:
        parts.append(f"{f['prototypes_used']:.0f} of {num_prototypes} prototypes used")
    spread = f"spread of features {f['feature_spread']:.2f}"
    if "prototype_spread" in f:
        spread += f", of prototypes {f['prototype_spread']:.2f}"
    parts.append(spread)
    if f["norm_error"] > MAX_NORM_ERROR:
        parts.append(f"feature lengths off by {f['norm_error']:.3g}")
    if "queue_age" in f:
        drift = f", drift {f['queue_drift']:.3f}" if "queue_drift" in f else ""
        parts.append(f"queue of {f['queue_age']:.0f} steps{drift}")
    if "waiting_share" in f:
        parts.append(f"waiting for data {f['waiting_share']:.0%}")
    return f"Health at step {step}: {'; '.join(parts)}"


def lengths_message(step: int, error: float) -> str:
    """Features that are not of unit length, said once."""
    return (
        f"vissl_swav: at step {step} features reach the prototypes with lengths off 1 "
        f"by {error:.3g} (wanted under {MAX_NORM_ERROR}). Scores are cosines only of "
        "unit features: the codes of others tend to one prototype, and overflow where "
        "they are plain exponentials. A head must normalise its embeddings, as "
        "swav_head does with normalize_feats: true."
    )


def message_of(step: int, finding: Finding, remedies: Sequence[str]) -> str:
    """A verdict with its reason and its remedies."""
    if finding.verdict is Verdict.HEALTHY:
        return f"vissl_swav: HEALTHY again at step {step}: {finding.why}."
    message = f"vissl_swav: {finding.verdict.value} at step {step}: {finding.why}."
    if remedies:
        numbered = (f"({i}) {remedy}" for i, remedy in enumerate(remedies, start=1))
        message += f" Remedies, in order: {'; '.join(numbered)}."
    return message
