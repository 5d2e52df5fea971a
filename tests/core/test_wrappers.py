"""DDP, both FSDPs and torch.compile on two processes: all equal one process."""

import gloo
import parallel_programs
import pytest
import torch
from torch.distributed import fsdp

import vissl_swav

HAS_FSDP2 = hasattr(fsdp, "fully_shard")
SHARDED = ["fsdp1", "fsdp2"]


@pytest.fixture(scope="module")
def found():
    """What both processes found, by case."""
    return gloo.run(parallel_programs.everything, 2, HAS_FSDP2, timeout=200)


@pytest.fixture(scope="module")
def alone():
    """One process, no process group, all samples."""
    model = parallel_programs.make_model()
    swav, batches = parallel_programs.make_swav(), parallel_programs.crops_of(0, 1)
    return parallel_programs.result(model, model.prototypes, swav, batches)


def case_of(found, name):
    if name not in found[0]:
        pytest.skip("this torch has no torch.distributed.fsdp.fully_shard")
    return [of_rank[name] for of_rank in found]


def test_alone_the_collective_is_local():
    assert vissl_swav.collective() is vissl_swav.LOCAL


@pytest.mark.parametrize("wrapper", ["ddp", *SHARDED])
def test_training_equals_one_process(found, alone, wrapper):
    """Losses, and all weights after four steps, with a queue from the third on."""
    ranks = case_of(found, wrapper)
    mean = (ranks[0]["losses"] + ranks[1]["losses"]) / 2
    torch.testing.assert_close(mean, alone["losses"], rtol=1e-5, atol=1e-6)
    for of_rank in ranks:
        torch.testing.assert_close(
            of_rank["weights"], alone["weights"], rtol=1e-4, atol=2e-6
        )
    assert not torch.equal(ranks[0]["queue"], ranks[1]["queue"])
    # Both queues together hold the rows of the one queue of one process.
    together = torch.cat([of_rank["queue"] for of_rank in ranks], dim=1)
    for rows, expected in zip(together, alone["queue"], strict=True):
        assert nearest_distances(rows, expected).max() < 1e-5
        assert nearest_distances(expected, rows).max() < 1e-5


def nearest_distances(rows, others):
    """Of each row, to the closest of the others."""
    return (rows[:, None] - others[None]).norm(dim=2).amin(dim=1)


@pytest.mark.parametrize("wrapper", SHARDED)
def test_prototypes_stay_float32_beside_bfloat16(found, alone, wrapper):
    for of_rank in case_of(found, f"{wrapper} bfloat16"):
        assert of_rank["dtypes"] == {torch.float32}
        ones = torch.ones_like(of_rank["lengths"])
        torch.testing.assert_close(of_rank["lengths"], ones, rtol=0, atol=1e-6)
    mean = sum(of_rank[f"{wrapper} bfloat16"]["losses"] for of_rank in found) / 2
    torch.testing.assert_close(mean, alone["losses"], rtol=1e-2, atol=0)
    assert not torch.equal(mean, found[0][wrapper]["losses"]), "bfloat16 was used"


def test_buffers_inside_of_ddp_are_overwritten_by_rank_0(found):
    """Why queue and bank stay outside; or broadcast_buffers=False keeps them."""
    assert [of_rank["buffers broadcast"] for of_rank in found] == [(1.0, 1.0)] * 2
    assert [of_rank["buffers kept"] for of_rank in found] == [(1.0, 1.0), (2.0, 2.0)]


@pytest.mark.parametrize("case", ["compiled", "compiled contrast"])
def test_compiled_with_the_exchanges_inside_the_graph(found, case):
    for of_rank in found:
        eager, compiled = of_rank[case]
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)


def test_flattened_prototypes_are_refused():
    with pytest.raises(ValueError, match="outside of it"):
        vissl_swav.normalize_rows_(torch.ones(12))
