"""The arithmetic of a plan, against loops and numbers of the paper's own runs."""

import math

import pytest
import torch
from plan_cases import IMAGENET, paper

from vissl_swav.core.sinkhorn import sinkhorn
from vissl_swav.health.plan import loss_floor, steps_per_epoch


def test_the_numbers_of_a_run_of_the_paper():
    plan = paper()
    assert plan.batch == 256
    assert plan.steps_per_epoch == 5004
    assert plan.num_steps == 1_000_800
    assert plan.num_samples == 4096
    assert plan.ceiling == pytest.approx(8.0064, abs=1e-4)
    assert plan.floor(plan.num_samples) == 0
    assert plan.floor(256) == pytest.approx(math.log(3000 / 256))
    assert plan.queue_fill == pytest.approx(15 / 5004)
    assert plan.rule_applies and plan.rule_rate == pytest.approx(0.6)
    assert paper(world_size=64).rule_rate == pytest.approx(9.6)


@pytest.mark.parametrize("drops_last", [True, False])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_images", [1, 7, 8, 21, 100])
def test_steps_are_those_of_the_sampler(num_images, world_size, drops_last):
    from vissl_swav.host.keyed_sampler import KeyedSampler

    lengths = []
    for rank in range(world_size):
        sampler = KeyedSampler(
            num_images,
            batch_size=4,
            seed=0,
            rank=rank,
            num_replicas=world_size,
            drop_last=drops_last,
        )
        batches = torch.utils.data.BatchSampler(sampler, 4, drops_last)
        lengths.append(len(list(batches)))
    counted = steps_per_epoch(
        num_images, batch_per_process=4, world_size=world_size, drops_last=drops_last
    )
    assert lengths == [counted] * world_size


def test_unknown_images_leave_steps_unknown():
    plan = paper(num_images=None)
    assert plan.steps_per_epoch is None and plan.num_steps is None
    assert plan.queue_fill is None
    assert plan.num_samples == 4096
    assert paper(keeps_bank=True, num_images=None).num_samples is None


def test_a_bank_labels_all_images_and_hard_codes_have_no_floor():
    assert paper(keeps_bank=True).num_samples == IMAGENET
    assert paper(keeps_bank=True).floor(10) == 0
    assert paper(soft_codes=False).floor(10) == 0


@pytest.mark.parametrize(("samples", "prototypes"), [(4, 21), (8, 50), (16, 12)])
def test_no_codes_have_less_entropy_than_the_floor(samples, prototypes):
    """Sinkhorn run to its end on scores as sharp as they come: the floor is met."""
    generator = torch.Generator().manual_seed(0)
    Z, C = (
        torch.nn.functional.normalize(
            torch.randn(rows, 16, generator=generator, dtype=torch.float64), dim=1
        )
        for rows in (samples, prototypes)
    )
    Q = sinkhorn(Z @ C.t(), epsilon=0.005, num_iterations=5000)
    entropy = -(Q * Q.clamp_min(1e-300).log()).sum(dim=1).mean()
    floor = loss_floor([prototypes], samples)
    assert floor == max(0.0, math.log(prototypes / samples))
    assert float(entropy) >= floor - 1e-6
    if samples < prototypes:
        assert float(entropy) < floor + 0.35, "the floor is not merely a lower bound"


def test_memory_of_a_momentum_encoder_and_a_long_queue():
    """MoCo's queue on one process has 786 MB of scores a crop; never all at once."""
    from vissl_swav.health.plan_table import rows

    queue = {"world_size": 1, "queue_length": 65_536}
    long = paper(method="swav_momentum", **queue, bytes_per_queue_value=2)
    told = dict(rows(long, num_parameters=1_000_000))
    assert told["memory of the momentum encoder"] == "3.8 MiB"
    assert told["memory of the queue"] == "32.0 MiB"
    of_batch = 2 * 64 * 8 * 3000 * 4 / 2**20
    assert told["memory of scores"] == f"{of_batch + 3 * 128:.1f} MiB"
    short = dict(rows(paper(queue_length=4096), num_parameters=1_000_000))
    of_queue = 2 * 2 * 1024 * 3000 * 4 / 2**20
    assert short["memory of scores"] == f"{of_batch + of_queue:.1f} MiB"
    assert short["memory of the queue"] == "1.0 MiB"
    assert "memory of the momentum encoder" not in short


def test_the_floor_of_heads_is_their_mean():
    assert loss_floor([20, 40], 10) == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert loss_floor([20, 5], 10) == pytest.approx(math.log(2) / 2)
