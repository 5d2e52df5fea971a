"""Bounds of a loss of pairs of images, its plan and its verdicts."""

import math

import pytest
import torch
from plan_cases import paper

from vissl_swav.core.simclr_multicrop import simclr_multicrop_loss
from vissl_swav.health.plan import Contrast
from vissl_swav.health.plan_memory import similarity_bytes
from vissl_swav.health.plan_table import rows, shapes_of
from vissl_swav.health.plan_verdicts import ERROR, NO_NEGATIVES, verdicts
from vissl_swav.health.verdicts import LN_NEGATIVES, Judge, Signals, Verdict

B, V = 6, 3
CONTRAST = Contrast(B, V, 0.1, 2**24)


def simclr(contrast=CONTRAST, **changes):
    settings = {
        "method": "simclr_multicrop",
        "num_prototypes": (),
        "queue_length": 0,
        "soft_codes": False,
        "freeze": float("inf"),
        "batch_per_process": contrast.num_images // 2,
        "world_size": 2,
        "num_crops": contrast.num_crops,
        "learning_rate": 0.6 * contrast.num_images / 256,
        "contrast": contrast,
    }
    return paper(**{**settings, **changes})


def corners():
    """The corners of a regular simplex about the origin, unit rows (B, B)."""
    centred = torch.eye(B, dtype=torch.float64) - 1 / B
    return torch.nn.functional.normalize(centred, dim=1)


def test_bounds_are_those_of_the_loss():
    equal = torch.ones(V * B, 4, dtype=torch.float64) / 2
    loss = simclr_multicrop_loss(equal, num_crops=V).item()
    assert loss == pytest.approx(CONTRAST.ceiling) == pytest.approx(math.log(16))
    best = simclr_multicrop_loss(corners().repeat(V, 1), num_crops=V).item()
    assert best == pytest.approx(CONTRAST.floor)
    generator = torch.Generator().manual_seed(0)
    for temperature in (0.1, 1.0):
        floor = Contrast(B, V, temperature, 1).floor
        Z = corners().repeat(V, 1)
        Z = Z + 0.01 * torch.randn(Z.shape, generator=generator, dtype=Z.dtype)
        unit = torch.nn.functional.normalize(Z, dim=1)
        near = simclr_multicrop_loss(unit, num_crops=V, temperature=temperature)
        assert near.item() > floor


def test_the_plan_of_the_papers_run():
    found = dict(rows(simclr(Contrast(4096, 6, 0.1, 2**24), batch_per_process=2048)))
    assert found["negatives of a crop"] == "(4096 - 1) images x 6 crops = 24570"
    assert found["ceiling of the loss"] == "ln(1 + negatives) = 10.1093"
    assert found["floor of the loss"].startswith("0.7480 ")
    assert not [name for name in found if "prototypes" in name or "Sinkhorn" in name]


def test_memory_of_similarities_is_bounded_by_the_setting():
    """Twice the own rows x all rows, and all features."""
    shapes = shapes_of(simclr())
    everything = 4 * (2 * 9 * 18 + 18 * 128)
    assert similarity_bytes(shapes, B, 2**24) == everything
    assert similarity_bytes(shapes, B, 40) == 4 * (2 * 2 * 18 + 18 * 128)


def test_only_a_lone_image_is_objected_to():
    assert verdicts(simclr()) == []
    alone = simclr(Contrast(1, V, 0.1, 1), batch_per_process=1, world_size=1)
    (found,) = verdicts(alone)
    assert (found.level, found.name) == (ERROR, NO_NEGATIVES)


def judged(curve, spread, *, steps=600):
    """(verdict, why) of each finding on `loss = curve(step)`."""
    judge, found = Judge(50), []
    bounds = CONTRAST.ceiling, CONTRAST.floor
    for step in range(1, steps + 1):
        judge.add(curve(step))
        if step % 10 == 0:
            signals = Signals(step, *bounds, spread, None, ceiling_name=LN_NEGATIVES)
            finding = judge.judge(signals)
            if finding is not None:
                found.append((finding.verdict, finding.why))
    return found


def test_verdicts():
    """A net may start above the ceiling: positives of an untrained one lie anywhere."""
    fine = judged(lambda step: 5 * math.exp(-step / 100) + 0.3, 0.9)
    assert fine == []
    ((verdict, why),) = judged(lambda _: CONTRAST.ceiling, 0.001)
    assert verdict is Verdict.COLLAPSED and "ln(1 + negatives) = 2.7726" in why
    ((verdict, why),) = judged(lambda _: CONTRAST.ceiling + 0.5, 0.9)
    assert verdict is Verdict.NOT_LEARNING_YET and "no collapse" in why
