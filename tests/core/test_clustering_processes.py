"""The cycle of both methods over gloo processes with uneven shards equals one."""

import clustering_programs as programs
import gloo
import pytest
import torch

# Samples of each rank in a batch of 8; the last batch has 3, all of rank 0.
SHARES = {
    2: [("deepcluster_v2", (5, 3)), ("sela_v2", (5, 3)), ("sela_v2", (8, 0))],
    3: [
        ("deepcluster_v2", (5, 1, 2)),
        ("sela_v2", (5, 1, 2)),
        ("sela_v2", (5, 0, 3)),
    ],
}
# A rank that never sees an image has no row to cluster.
IDLE = {2: ("deepcluster_v2", (8, 0)), 3: ("deepcluster_v2", (5, 0, 3))}


@pytest.fixture(scope="module")
def alone():
    arguments = programs.toy()
    epochs = programs.epochs_of(arguments["pictures"].shape[1], 3)
    return {
        name: programs.train(programs.Training(name, **arguments, settings={}), epochs)
        for name in programs.METHODS
    }


@pytest.mark.parametrize("world_size", sorted(SHARES))
def test_processes_equal_one(alone, world_size):
    """Centroids, labels, losses, gradients and weights over three epochs.

    In the first step no sample of the ranks after the first has a label.
    """
    cases = [*SHARES[world_size], IDLE[world_size]]
    of_ranks = gloo.run(programs.cycles_of_shards, world_size, cases)
    said = {results[IDLE[world_size]] for results in of_ranks}
    assert len(said) == 1 and "every process needs at least one" in said.pop()
    for case in SHARES[world_size]:
        one, results = alone[case[0]], [of_rank[case] for of_rank in of_ranks]
        losses = torch.stack([result["losses"] for result in results])
        torch.testing.assert_close(losses.mean(dim=0), one["losses"])
        assert (losses[1:, 0] == 0).all() and losses[0, 0] > 0
        assert sum(result["rows"] for result in results) >= 43
        for result, share in zip(results, case[1], strict=True):
            assert (result["rows"] > 0) == (share > 0)
            for name in ("gradients", "encoder"):
                torch.testing.assert_close(result[name], one[name])
            for mine, expected in zip(result["labels"], one["labels"], strict=True):
                assert torch.equal(mine, expected)
            for mine, expected in zip(result["found"], one["found"], strict=True):
                assert_same_assignment(mine, expected)
    labels = alone["sela_v2"]["labels"]
    assert (labels[0] == -1).sum() == 3 * 3 and (labels[1] >= 0).all()


def assert_same_assignment(mine, expected):
    torch.testing.assert_close(mine.prototypes, expected.prototypes)
    for sizes, wanted in zip(mine.cluster_sizes, expected.cluster_sizes, strict=True):
        assert torch.equal(sizes, wanted)
    assert mine.objective == pytest.approx(expected.objective, abs=1e-9)
    assert mine.num_iterations == pytest.approx(expected.num_iterations, abs=1)
    assert mine.error == pytest.approx(expected.error, abs=1e-9)
