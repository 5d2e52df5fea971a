"""DeepCluster-v2 and SeLa-v2: their state, when labels are found, what is refused."""

import clustering_programs as programs
import pytest
import torch
import virtual_ranks

from vissl_swav.core.deepcluster_v2 import DeepClusterV2
from vissl_swav.core.offline_clustering import OfflineClustering
from vissl_swav.core.sela_v2 import SeLaV2

NAMES = sorted(programs.METHODS)


@pytest.mark.parametrize("name", NAMES)
def test_every_state_is_in_the_state_dict(name):
    training = programs.Training(name, **programs.toy(), settings={})
    assert set(training.method.state_dict()) == {
        "assigned_epoch",
        "started_epoch",
        "bank.features",
        "bank.index",
        "bank.stamp",
        "bank.num_rows",
        "bank.num_writes",
        "labels.labels",
    }
    assert training.method.assigned_epoch == -1
    assert not list(training.method.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_going_on_from_a_state_equals_no_interruption(name, world_size, dtype):
    """Stopped in mid-epoch; the resumed run has another history. To the last bit."""
    arguments = programs.toy(dtype=dtype)
    epochs = programs.epochs_of(43, 3)

    def program(collective):
        def new():
            return programs.Training(
                name, **arguments, settings={}, collective=collective
            )

        def run(training, first, last):
            losses, step = [], 0
            for epoch, batches in enumerate(epochs):
                for number, batch in enumerate(batches):
                    if first <= step < last:
                        if number == 0:
                            training.assign(epoch)
                        mine = batch[collective.rank :: world_size]
                        losses.append(training.step(mine)[0].item())
                    step += 1
            return losses

        whole, first, second = new(), new(), new()
        for training in (whole, first):
            training.fill(torch.arange(43)[collective.rank :: world_size])
        second.fill(torch.arange(20)[collective.rank :: world_size])
        second.assign(7)
        expected = run(whole, 0, 99)
        found = run(first, 0, 9)
        second.load(first.state())
        found += run(second, 9, 99)
        return found, expected, whole.state(), second.state()

    for found, expected, whole, resumed in virtual_ranks.run(program, world_size):
        assert len(expected) == 18 and found == expected
        assert all(torch.equal(whole[0][key], resumed[0][key]) for key in whole[0])
        assert all(map(torch.equal, whole[1], resumed[1]))


@pytest.mark.parametrize("first_epoch", [0, 3])
def test_labels_are_found_every_so_many_epochs_and_in_the_first(first_epoch):
    """The bank is settled in the others too; an epoch is started once."""
    arguments = programs.toy()

    def program(collective):
        training = programs.Training(
            "deepcluster_v2", **arguments, settings={}, collective=collective
        )
        method, assigned = training.method, []
        for epoch in range(first_epoch, 7):
            training.fill(torch.randperm(43)[: 30 + collective.rank])
            settings = {"epoch": epoch, "every": 2, "collective": collective}
            found = method.start_epoch(training.prototypes, **settings)
            rows, labels = len(method.bank), method.labels.labels.clone()
            if found is not None:
                assigned.append(epoch)
            assert method.assigned_epoch == assigned[-1]
            assert method.started_epoch == epoch
            training.fill(torch.arange(43))
            assert method.start_epoch(training.prototypes, **settings) is None
            assert len(method.bank) == 43  # Not settled again.
            assert torch.equal(method.labels.labels, labels)
            total = collective.all_reduce_sum(torch.tensor(rows))
            assert total == 43 or epoch == first_epoch
        return assigned

    expected = [first_epoch, *(e for e in (2, 4, 6) if e > first_epoch)]
    assert virtual_ranks.run(program, 2) == [expected, expected]


def test_seeds_differ_by_epoch_and_by_seed():
    training = programs.Training("deepcluster_v2", **programs.toy(), settings={})
    training.fill(torch.arange(43))
    method, prototypes = training.method, training.prototypes
    draws = [
        method.assign(prototypes, epoch=epoch, seed=seed).prototypes[0]
        for epoch, seed in ((0, 0), (1, 0), (0, 1), (0, 0))
    ]
    assert torch.equal(draws[0], draws[3])
    assert not torch.allclose(draws[0], draws[1])
    assert not torch.allclose(draws[0], draws[2])


@pytest.mark.parametrize("name", NAMES)
def test_before_the_first_assignment_the_loss_is_zero(name):
    training = programs.Training(name, **programs.toy(), settings={})
    loss, gradient = training.step(torch.arange(8))
    assert loss == 0 and not gradient.any()
    assert len(training.method.bank) == 8


@pytest.mark.parametrize("name", NAMES)
def test_samples_that_could_not_be_read_do_not_reach_the_bank(name):
    training = programs.Training(name, **programs.toy(), settings={})
    valid = torch.tensor([True, False, True])
    images = torch.tensor([4, 9, 6])
    training.method.remember(training.encode(images), images, valid)
    assert sorted(training.method.bank.images().tolist()) == [4, 6]


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_bank_is_an_error_on_assignment(name):
    training = programs.Training(name, **programs.toy(), settings={})
    with pytest.raises(ValueError, match="row"):
        training.assign(0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bank_dtype": "int8"}, "bank_dtype is 'int8'; wanted one of"),
        ({"num_crops": 0}, "num_crops is 0"),
        ({"crops_for_assign": (3,)}, r"crops_for_assign is \[3\]"),
        ({"num_images": 0}, "num_images is 0"),
        ({"temperature": 0}, "temperature is 0; wanted > 0"),
        ({"num_prototypes": []}, "at least one head"),
        ({"embedding_dim": 0}, "embedding_dim is 0"),
    ],
)
@pytest.mark.parametrize("method", [DeepClusterV2, SeLaV2])
def test_errors_of_both(method, settings, words):
    sizes = {"num_images": 9, "num_crops": 3, "num_prototypes": [4], "embedding_dim": 2}
    assert issubclass(method, OfflineClustering)
    with pytest.raises(ValueError, match=words):
        method(**{**sizes, **settings})


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("deepcluster_v2", {"num_iterations": -1}, "num_iterations is -1"),
        ("deepcluster_v2", {"tolerance": -1.0}, "tolerance is -1.0"),
        ("deepcluster_v2", {"seeding": "best"}, "seeding is 'best'"),
        ("deepcluster_v2", {"empty_clusters": "no"}, "empty_clusters is 'no'"),
        ("sela_v2", {"epsilon": 0}, "epsilon is 0"),
        ("sela_v2", {"max_iterations": 0}, "max_iterations 0"),
        ("sela_v2", {"num_labels": 5}, "number of prototypes, 4"),
    ],
)
def test_errors_of_each(name, settings, words):
    with pytest.raises(ValueError, match=words):
        programs.Training(name, **programs.toy(), settings=settings)
