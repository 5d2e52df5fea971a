"""The bank against a dict, over random epochs, on one rank and on three."""

import pytest
import torch
import virtual_ranks

from vissl_swav.core.memory_bank import MemoryBank

M, D = 2, 3
HALF_TYPES = [torch.float16, torch.bfloat16]


def new_bank(num_images, **settings):
    return MemoryBank(num_images=num_images, num_banks=M, dim=D, **settings)


def contents(bank):
    """`{image: its features, (M, D) as nested lists}`; each image may stand there once.

    Also holds the bank to its own index.
    """
    images = bank.images().tolist()
    assert len(set(images)) == len(images) == len(bank)
    for b in range(M):
        assert bank.rows(b).shape == (len(bank), D)
    assert len(bank) <= bank.features.shape[1] <= bank.num_images
    rows = torch.stack([bank.rows(b) for b in range(M)], dim=1).tolist()
    return dict(zip(images, rows, strict=True))


def sampler(num_images, world_size, generator, *, drop_last=False, batch=4):
    """Batches `[step][rank]` of image numbers: a global shuffle, padded by repeats."""
    order = torch.randperm(num_images, generator=generator)
    order = torch.cat([order, order[: -num_images % world_size]])
    shards = [order[rank::world_size] for rank in range(world_size)]
    if drop_last:
        shards = [shard[: len(shard) // batch * batch] for shard in shards]
    return list(zip(*(shard.split(batch) for shard in shards), strict=True))


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("num_images", [1, 7, 37, 64])
def test_holds_what_a_dict_holds(num_images, drop_last):
    generator = torch.Generator().manual_seed(num_images)
    bank, oracle = new_bank(num_images), {}
    for _ in range(6):
        # The last image is never seen, where there are several.
        seen = max(num_images - 1, 1)
        for (images,) in sampler(seen, 1, generator, drop_last=drop_last, batch=5):
            features = torch.randn(M, len(images), D, generator=generator)
            valid = torch.rand(len(images), generator=generator) > 0.2
            bank.write(features, images, valid)
            for b, image in enumerate(images.tolist()):
                if valid[b]:
                    oracle[image] = features[:, b].tolist()
            assert contents(bank) == oracle
        bank.settle()
        assert contents(bank) == oracle
    if num_images > 1:
        assert num_images - 1 not in oracle and len(oracle) > num_images // 2


def test_of_an_image_twice_in_a_batch_the_last_valid_sample_stays():
    bank = new_bank(9)
    features = torch.arange(6.0).reshape(1, 6, 1).expand(M, 6, D)
    images = torch.tensor([4, 2, 4, 8, 2, 4])
    bank.write(features, images)
    assert contents(bank) == {i: [[v] * D] * M for i, v in ((4, 5), (2, 4), (8, 3))}
    valid = torch.tensor([True, True, True, False, False, False])
    bank.write(features + 10, images, valid)
    assert contents(bank) == {i: [[v] * D] * M for i, v in ((4, 12), (2, 11), (8, 3))}


def test_an_empty_batch_and_one_without_a_valid_sample_change_nothing():
    bank = new_bank(5)
    bank.write(torch.ones(M, 2, D), torch.tensor([3, 0]))
    before = contents(bank)
    bank.write(torch.ones(M, 0, D), torch.empty(0, dtype=torch.long))
    bank.write(torch.zeros(M, 2, D), torch.tensor([3, 1]), torch.zeros(2))
    assert contents(bank) == before and sorted(before) == [0, 3]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("num_images", "world_size"), [(41, 3), (20, 2), (2, 3)])
def test_settling_leaves_each_image_with_the_rank_that_saw_it_last(
    num_images, world_size, drop_last
):
    num_epochs, batch = 7, 4
    generator = torch.Generator().manual_seed(num_images)
    epochs = [
        sampler(num_images, world_size, generator, drop_last=drop_last and epoch > 0)
        for epoch in range(num_epochs)
    ]
    owner, feature, write, expected = {}, {}, {}, []
    value, number = 0.0, 0
    for epoch in epochs:
        for step in epoch:
            for rank, images in enumerate(step):
                for image in images.tolist():
                    value += 1
                    owner[image], feature[image], write[image] = rank, value, number
            number += 1
        expected.append((dict(owner), dict(feature), dict(write)))

    def program(collective):
        bank, value, found, capacity = new_bank(num_images), 0.0, [], []
        for epoch in epochs:
            for step in epoch:
                for rank, images in enumerate(step):
                    values = value + 1 + torch.arange(len(images))
                    value += len(images)
                    if rank == collective.rank:
                        bank.write(values[:, None].expand(M, -1, D), images)
                contents(bank)  # Holds it to its index and its bounds.
            capacity.append(bank.features.shape[1])
            bank.settle(collective)
            stamps = zip(bank.images().tolist(), bank.stamp.tolist(), strict=False)
            found.append((contents(bank), dict(stamps)))
        return found, capacity

    results = virtual_ranks.run(program, world_size)
    for epoch, (owners, features, writes) in enumerate(expected):
        of_ranks = [found[epoch] for found, _ in results]
        held = [image for found, _ in of_ranks for image in found]
        assert sorted(held) == list(range(num_images))
        for rank, (found, stamps) in enumerate(of_ranks):
            assert set(found) == {i for i, r in owners.items() if r == rank}
            for image, rows in found.items():
                assert rows == [[features[image]] * D] * M
                assert stamps[image] == writes[image]
    if not drop_last:
        # Its own images and those of one epoch, and a quarter of room more.
        share = -(-num_images // world_size)
        for _, capacity in results:
            assert max(capacity) <= max(2 * share * 1.25, batch)


def test_of_two_ranks_in_the_same_step_the_last_one_keeps_the_image():
    def program(collective):
        bank = new_bank(4)
        images = torch.tensor([collective.rank, 3])
        bank.write(torch.full((M, 2, D), float(collective.rank)), images)
        bank.settle(collective)
        return contents(bank)

    one, two, three = virtual_ranks.run(program, 3)
    assert (set(one), set(two), set(three)) == ({0}, {1}, {2, 3})
    assert three[3] == [[2.0] * D] * M


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_half_types_round_the_features(dtype):
    bank = new_bank(6, dtype=dtype)
    features = torch.randn(M, 4, D, requires_grad=True)
    bank.write(features, torch.tensor([5, 0, 2, 1]))
    assert bank.features.dtype == dtype and not bank.features.requires_grad
    for b in range(M):
        assert torch.equal(bank.rows(b), features[b].detach().to(dtype))
    copy = new_bank(6, dtype=dtype)
    copy.load_state_dict(bank.state_dict())
    assert contents(copy) == contents(bank)


@pytest.mark.parametrize("held_before", [0, 3, 40])
def test_going_on_from_a_state_equals_no_interruption(held_before):
    """In mid-epoch, on two ranks, into banks that hold fewer rows or more."""
    num_images, world_size = 40, 2
    generator = torch.Generator().manual_seed(2)
    epochs = [sampler(num_images, world_size, generator) for _ in range(3)]
    steps = [step for epoch in epochs for step in epoch]
    features = torch.randn(len(steps), world_size, M, 4, D, generator=generator)
    stop = len(epochs[0]) + 2

    def program(collective):
        def train(bank, numbers):
            for number in numbers:
                images = steps[number][collective.rank]
                batch = features[number, collective.rank, :, : len(images)]
                bank.write(batch, images)
                if number + 1 in (len(epochs[0]), len(epochs[0]) + len(epochs[1])):
                    bank.settle(collective)

        bank, resumed = new_bank(num_images), new_bank(num_images)
        train(bank, range(stop))
        order = torch.randperm(num_images)[:held_before]
        resumed.write(torch.ones(M, held_before, D), order)
        saved = {key: value.clone() for key, value in bank.state_dict().items()}
        resumed.load_state_dict(saved)
        assert contents(resumed) == contents(bank)
        train(bank, range(stop, len(steps)))
        train(resumed, range(stop, len(steps)))
        bank.settle(collective)
        resumed.settle(collective)
        assert saved["num_writes"] == stop  # Going on has not written into it.
        return bank.state_dict(), resumed.state_dict()

    held = 0
    for state, resumed in virtual_ranks.run(program, world_size):
        assert set(state) == {"features", "index", "stamp", "num_rows", "num_writes"}
        assert all(torch.equal(state[key], resumed[key]) for key in state)
        held += int(state["num_rows"])
    assert held == num_images


def test_rows_are_views_of_the_bank():
    bank = new_bank(8)
    bank.write(torch.randn(M, 8, D), torch.arange(8))
    assert bank.rows(1).data_ptr() == bank.features[1].data_ptr()
    assert bank.num_banks == M and len(bank) == 8


@pytest.mark.parametrize(
    ("features", "images", "words"),
    [
        (torch.zeros(1, 2, D), [0, 1], r"shape \(1, 2, 3\).*wanted \(2, B, 3\)"),
        (torch.zeros(M, 2, D + 1), [0, 1], r"shape \(2, 2, 4\)"),
        (torch.zeros(M, 3, D), [0, 1], r"index \(2,\)"),
        (torch.zeros(M, 2, D), [[0, 1]], r"index \(1, 2\)"),
        (torch.zeros(M, 2, D), [0, 5], r"\[0, 5\]; wanted .* in \[0, 5\)"),
        (torch.zeros(M, 2, D), [-1, 4], r"\[-1, 4\]"),
    ],
)
def test_errors_of_a_write_leave_the_bank_as_it_is(features, images, words):
    bank = new_bank(5)
    bank.write(torch.ones(M, 1, D), torch.tensor([2]))
    with pytest.raises(ValueError, match=words):
        bank.write(features, torch.tensor(images))
    assert contents(bank) == {2: [[1.0] * D] * M}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_images": 0}, "num_images is 0"),
        ({"num_banks": 0}, "num_banks is 0"),
        ({"dim": -1}, "dim is -1"),
        ({"dtype": torch.int8}, "dtype is torch.int8; wanted a floating-point type"),
    ],
)
def test_errors_of_the_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        MemoryBank(**{"num_images": 4, "num_banks": 1, "dim": 2, **settings})


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"num_banks": 1}, "size mismatch for features"),
        ({"dim": D + 1}, "size mismatch for features"),
        ({"num_images": 5}, r"num_images is 5, but the state has image 7"),
    ],
)
def test_a_state_of_another_bank_is_an_error(other, words):
    bank = new_bank(8)
    bank.write(torch.ones(M, 2, D), torch.tensor([7, 0]))
    settings = {"num_images": 8, "num_banks": M, "dim": D, **other}
    with pytest.raises(RuntimeError, match=words):
        MemoryBank(**settings).load_state_dict(bank.state_dict())


def test_the_state_in_use_is_all_that_is_needed():
    bank = MemoryBank(num_images=20, num_banks=1, dim=2)
    for first in (0, 4, 8):
        bank.write(torch.full((1, 4, 2), float(first)), torch.arange(first, first + 4))
    assert bank.features.shape[1] >= 12
    state = bank.in_use()
    assert state.keys() == bank.state_dict().keys()
    assert (
        state["features"].shape[1] == len(state["index"]) == len(state["stamp"]) == 12
    )
    copy = MemoryBank(num_images=20, num_banks=1, dim=2)
    copy.load_state_dict(state)
    assert torch.equal(bank.rows(0), copy.rows(0))
    for one in (bank, copy):
        one.write(torch.full((1, 2, 2), -1.0), torch.tensor([3, 15]))
    assert torch.equal(bank.rows(0), copy.rows(0)) and len(copy) == 13
