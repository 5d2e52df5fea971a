"""State of one number of processes for another."""

import pytest
import torch

from vissl_swav.core.collective import LOCAL
from vissl_swav.core.feature_queue import FeatureQueue
from vissl_swav.core.memory_bank import MemoryBank
from vissl_swav.core.resharding import bank_shard, queue_shard, shards_of_all


def banks(num_ranks, num_images=23, seed=0):
    """Banks in mid-epoch, images seen by several ranks; and the latest rows by image.

    A step's rows differ from rank to rank; of the ranks that saw an image in the same
    step, the last one's row is the latest.
    """
    generator = torch.Generator().manual_seed(seed)
    shards = [
        MemoryBank(num_images=num_images, num_banks=2, dim=3) for _ in range(num_ranks)
    ]
    latest = {}
    for _ in range(4):
        for bank in shards:
            images = torch.randperm(num_images, generator=generator)[:5]
            Z = torch.randn(2, 5, 3, generator=generator)
            bank.write(Z, images)
            latest.update({int(i): Z[:, n] for n, i in enumerate(images)})
    return shards, latest


@pytest.mark.parametrize("before", [1, 2, 3])
@pytest.mark.parametrize("after", [1, 2, 5])
def test_no_image_is_lost_and_the_latest_row_stays(before, after):
    shards, latest = banks(before)
    states = [bank.state_dict() for bank in shards]
    found = {}
    sizes = []
    for rank in range(after):
        bank = MemoryBank(num_images=23, num_banks=2, dim=3)
        bank.load_state_dict(bank_shard(states, rank, after))
        sizes.append(len(bank))
        for row, image in enumerate(bank.images().tolist()):
            assert image not in found
            found[image] = bank.features[:, row]
    assert found.keys() == latest.keys()
    for image, row in found.items():
        torch.testing.assert_close(row, latest[image])
    assert max(sizes) - min(sizes) <= 1


def test_a_bank_goes_on_after_it_was_dealt_out():
    shards, _ = banks(2)
    bank = MemoryBank(num_images=23, num_banks=2, dim=3)
    bank.load_state_dict(bank_shard([b.state_dict() for b in shards], 0, 1))
    before = len(bank)
    bank.write(torch.ones(2, 1, 3), bank.images()[:1].clone())
    bank.settle()
    assert len(bank) == before
    assert torch.equal(bank.features[:, 0], torch.ones(2, 3))


def queues(num_ranks, length, num_pushed):
    """Each rank pushes a row a step: the step's number, with the rank as decimals."""
    found = []
    for rank in range(num_ranks):
        queue = FeatureQueue(num_assign_crops=1, length=length, dim=1)
        for step in range(num_pushed):
            queue.push(torch.full((1, 1, 1), step + rank / 10))
        found.append(queue.state_dict())
    return found


@pytest.mark.parametrize("num_pushed", [3, 6, 8])
def test_a_queue_keeps_its_rows_by_age(num_pushed):
    states = queues(2, 6, num_pushed)
    rows = []
    for rank in range(3):
        queue = FeatureQueue(num_assign_crops=1, length=4, dim=1)
        queue.load_state_dict(queue_shard(states, rank, 3))
        assert queue.is_full == (num_pushed >= 6)
        filled = int(queue.num_filled)
        rows.append(queue.features[0, :filled, 0].clone())
        # The next push goes over the oldest row, or behind the last one.
        queue.push(torch.full((1, 1, 1), 99.0))
        place = 0 if filled == 4 else filled
        assert queue.features[0, place, 0] == 99
        assert (rows[-1].diff() > 0).all()
    steps = range(max(0, num_pushed - 6), num_pushed)
    wanted = sorted(step + rank / 10 for step in steps for rank in range(2))
    assert torch.cat(rows).sort().values.tolist() == pytest.approx(wanted)


def test_a_queue_that_does_not_divide_is_none():
    assert queue_shard(queues(1, 5, 5), 0, 2) is None


def test_one_process_gets_its_own_state():
    state = {"a": torch.arange(6).view(2, 3), "b": torch.tensor(1.5).half()}
    (found,) = shards_of_all(state, LOCAL, keep=True)
    for name, value in state.items():
        assert torch.equal(found[name], value) and found[name].dtype == value.dtype
    assert shards_of_all(state, LOCAL, keep=False) == []


def test_an_empty_tensor_travels():
    (found,) = shards_of_all({"a": torch.zeros(0, 3)}, LOCAL, keep=True)
    assert found["a"].shape == (0, 3)
