"""`dino_sinkhorn` and `weighted_sum` on two processes are as on one."""

import gloo
import mixing_programs as programs
import pytest
import torch


@pytest.fixture(scope="module")
def of_ranks(host):
    return gloo.run(programs.steps, 2)


@pytest.mark.parametrize(
    ("loss", "alone"), [("dino", programs.dino_step), ("sum", programs.sum_step)]
)
def test_loss_and_gradient(of_ranks, monkeypatch, loss, alone):
    """Each rank's loss is a mean over half of the samples; DDP takes the mean."""
    from classy_vision.generic import distributed_util

    monkeypatch.setattr(distributed_util, "_cuda_device_index", -1)
    whole, gradient, *_ = alone(0, 1)
    found = [of_rank[loss] for of_rank in of_ranks]
    mean = sum(value for value, *_ in found) / 2
    torch.testing.assert_close(mean, whole, rtol=1e-6, atol=0)
    for rank, (_, of_rank, *_) in enumerate(found):
        mine = programs.rows_of(rank, 2, gradient, programs.CROPS)
        torch.testing.assert_close(of_rank / 2, mine, rtol=1e-5, atol=1e-8)


def test_means_of_the_terms_are_known_on_every_rank(of_ranks):
    first, second = (of_rank["sum"] for of_rank in of_ranks)
    assert first[2] == second[2] and set(first[2]) == {"swav", "simclr_info_nce_loss"}
    values = first[2]["swav"] * 2.0 + first[2]["simclr_info_nce_loss"] * 0.3
    assert values == pytest.approx(float(first[0] + second[0]) / 2, rel=1e-6)
    # Of one rank's samples alone the values are others.
    assert float(first[0]) != pytest.approx(values, rel=1e-3)
