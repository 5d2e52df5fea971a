"""The order of the images: every image once, the same for any number of ranks."""

import pickle

import pytest

from vissl_swav.host.keyed_sampler import KeyedIndex, KeyedSampler


def sampler(num_images=50, **settings):
    defaults = dict(batch_size=4, seed=3)
    return KeyedSampler(num_images, **(defaults | settings))


def global_batches(num_ranks, *, total_batch=12, epoch=0, **settings):
    """The set of images (with keys) of each step, over all ranks."""
    ranks = []
    for rank in range(num_ranks):
        one = sampler(
            batch_size=total_batch // num_ranks,
            rank=rank,
            num_replicas=num_ranks,
            **settings,
        )
        one.set_epoch(epoch)
        ranks.append(list(one))
    per_rank = total_batch // num_ranks
    steps = len(ranks[0]) // per_rank
    return [
        {pair for images in ranks for pair in images[step * per_rank :][:per_rank]}
        for step in range(steps)
    ]


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_a_steps_images_and_keys_do_not_depend_on_the_number_of_ranks(num_ranks):
    alone = global_batches(1, num_images=60)
    assert len(alone) == 5 and all(len(step) == 12 for step in alone)
    assert global_batches(num_ranks, num_images=60) == alone


def test_an_epoch_is_every_image_once_in_another_order():
    first, second = sampler(), sampler()
    second.set_epoch(1)
    orders = [[pair.index for pair in one] for one in (first, second)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])


def test_keys_change_with_image_epoch_and_seed_and_with_nothing_else():
    def keys(**settings):
        epoch = settings.pop("epoch", 0)
        one = sampler(**settings)
        one.set_epoch(epoch)
        return dict(one)

    first = keys()
    assert len(set(first.values())) == 50
    assert keys(batch_size=7) == first
    for other in (keys(epoch=1), keys(seed=4)):
        assert not set(other.values()) & set(first.values())


@pytest.mark.parametrize(("num_images", "num_ranks"), [(50, 3), (7, 3), (2, 3), (1, 4)])
def test_all_ranks_have_equally_many(num_images, num_ranks):
    def ranks(**settings):
        return [
            [
                pair.index
                for pair in sampler(
                    num_images, rank=rank, num_replicas=num_ranks, **settings
                )
            ]
            for rank in range(num_ranks)
        ]

    padded, dropped = ranks(), ranks(drop_last=True)
    assert {len(rank) for rank in padded} == {-(-num_images // num_ranks)}
    assert {i for rank in padded for i in rank} == set(range(num_images))
    assert {len(rank) for rank in dropped} == {num_images // num_ranks}
    together = [i for rank in dropped for i in rank]
    assert len(set(together)) == len(together), "an image twice"
    lengths = {len(sampler(num_images, num_replicas=num_ranks))}
    assert lengths == {len(padded[0])}


def test_it_resumes_in_mid_epoch():
    one = sampler()
    one.set_epoch(2)
    whole = list(one)
    one.set_start_iter(3)
    assert list(one) == whole[12:]
    assert len(one) == 50, "the host counts the epoch's steps by it"
    one.set_start_iter(0)
    assert list(one) == whole


def test_the_hosts_train_phase_decides_over_its_count_of_all_phases():
    with_tests, without = sampler(), sampler()
    with_tests.set_epoch(4)  # Train, test, train, test, train.
    with_tests.set_train_phase_idx(2)
    without.set_epoch(2)
    assert list(with_tests) == list(without)


def test_an_index_travels_to_a_worker():
    pair = pickle.loads(pickle.dumps(KeyedIndex(3, 2**61)))
    assert isinstance(pair, KeyedIndex) and pair == (3, 2**61)
