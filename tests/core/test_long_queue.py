"""The queue of 65 536 rows at its size: scored in chunks it is the whole.

pytest -m slow tests/core/test_long_queue.py
"""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from vissl_swav.core.scored_rows import SCORES_AT_ONCE, ScoredRows
from vissl_swav.core.swapped_prediction import swapped_prediction_loss
from vissl_swav.core.swav import SwAV

# As few prototypes as make the scores of a crop, 157 MB, too many to be formed at once.
L, K, D, V, B = 65_536, 600, 32, 3, 64
SMALL = 8 * 2**20

pytestmark = pytest.mark.slow


def unit(*shape, seed):
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=-1)


def measured(loss_of, S):
    """Loss, gradient, and bytes that were in use at once beyond those before."""
    scores = S.clone().requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
        loss = loss_of(scores)
        loss.backward()
    in_use = peak = 0
    for event in log.profiler.kineto_results.events():
        if event.name() == "[memory]":
            in_use += event.nbytes()
            peak = max(peak, in_use)
    return loss.detach(), scores.grad, peak


def test_in_chunks_it_is_the_whole_and_memory_follows_the_chunk():
    swav = SwAV(num_crops=V, num_prototypes=[K], embedding_dim=D, queue_length=L)
    C, step = unit(K, D, seed=0), L // 8
    for seed in range(8):
        assert swav.score_queue([C]) is None
        swav.finish_step(unit(2 * step, D, seed=seed + 1), of_assignment_crops=True)
    S = unit(V * B, D, seed=9) @ C.t()
    whole, gradient, most = measured(
        lambda S: swav([S], queue_scores=[swav.queue.score(C)]), S
    )
    without = swapped_prediction_loss(S, num_crops=V)
    assert abs(whole - without) > 1e-3 * without, "the queue says something"
    small = [ScoredRows(Z, C, bytes_at_once=SMALL) for Z in swav.queue.features]
    assert small[0].rows_at_once * 4 * K <= SMALL < 4 * L * K / 10
    of_bounds = {
        SCORES_AT_ONCE: lambda S: swav([S], queue_scores=swav.score_queue([C])),
        SMALL: lambda S: swapped_prediction_loss(S, num_crops=V, queue_scores=[small]),
    }
    (rows,) = swav.score_queue([C])
    assert [len(list(of_crop.chunks())) for of_crop in rows] == [2, 2]
    batch = 20 * S.numel() * S.element_size()
    for bound, loss_of in of_bounds.items():
        loss, slope, peak = measured(loss_of, S)
        torch.testing.assert_close(loss, whole, rtol=1e-5, atol=0)
        largest = float(gradient.abs().max())
        torch.testing.assert_close(slope, gradient, rtol=0, atol=1e-4 * largest)
        assert peak < 3.2 * bound + batch
        assert peak < most / 2
