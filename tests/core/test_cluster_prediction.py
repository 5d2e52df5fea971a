"""Eq. 8 against explicit loops: value and gradient."""

import math

import pytest
import reference
import torch
import virtual_ranks
from torch.nn import functional

from vissl_swav.core.cluster_prediction import cluster_prediction_loss

WIDTHS = (5, 9, 3)


def case(*, num_crops, B=6, L=1, widths=WIDTHS, dtype=torch.float64, seed=0):
    """Scores of each head, labels (H, B, L) and weights; some samples have none."""
    generator = torch.Generator().manual_seed(seed)
    heads = [
        torch.rand(num_crops * B, K, generator=generator, dtype=torch.float64) * 2 - 1
        for K in widths
    ]
    labels = torch.stack(
        [
            torch.rand(B, K, generator=generator).topk(L, dim=1).indices  # Distinct.
            for K in widths
        ]
    )
    weights = torch.rand(labels.shape, generator=generator, dtype=torch.float64)
    weights /= weights.sum(dim=2, keepdim=True)
    weights[:, 1::3] = 0
    weights[0, 3:4] = 0  # Another number of labelled samples for this head.
    return [head.to(dtype).requires_grad_() for head in heads], labels, weights


def assert_equals_the_oracle(heads, labels, weights, loss, *, num_crops, rtol=1e-10):
    scores = [head.detach().double().numpy() for head in heads]
    arguments = (scores, labels.numpy(), weights.double().numpy(), num_crops, 0.1)
    expected, gradients = reference.cluster_prediction(*arguments)
    assert loss.item() == pytest.approx(expected, rel=rtol)
    loss.backward()
    for head, gradient in zip(heads, gradients, strict=True):
        found, wanted = head.grad.double(), torch.from_numpy(gradient)
        assert wanted.abs().max() > 1e-3
        assert (found - wanted).abs().max() <= rtol * wanted.abs().max()


@pytest.mark.parametrize("num_crops", [1, 2, 5])
@pytest.mark.parametrize("L", [1, 3])
def test_equals_the_loop_oracle(num_crops, L):
    """Heads of different K; hard and soft labels; samples without a label."""
    heads, labels, weights = case(num_crops=num_crops, L=L)
    loss = cluster_prediction_loss(heads, labels, weights, num_crops=num_crops)
    assert_equals_the_oracle(heads, labels, weights, loss, num_crops=num_crops)


@pytest.mark.parametrize("num_crops", [1, 3])
def test_a_negative_label_means_none(num_crops):
    heads, labels, weights = case(num_crops=num_crops)
    known = weights.sum(dim=2) > 0
    hard = torch.where(known, labels[:, :, 0], -1)
    loss = cluster_prediction_loss(heads, hard, num_crops=num_crops)
    ones = known.double().unsqueeze(2)
    assert_equals_the_oracle(heads, labels, ones, loss, num_crops=num_crops)


def test_a_negative_label_has_no_weight():
    heads, labels, _ = case(num_crops=2)
    labels[:, 4] = -1
    loss = cluster_prediction_loss(heads, labels, torch.ones(3, 6, 1), num_crops=2)
    expected = cluster_prediction_loss(heads, labels, num_crops=2)
    assert loss.item() == expected.item()


def test_hard_labels_are_torchs_cross_entropy():
    heads, labels, _ = case(num_crops=4)
    hard = labels[:, :, 0]
    hard[:, 2] = -100
    loss = cluster_prediction_loss(heads, hard, num_crops=4)
    expected = sum(
        functional.cross_entropy(head / 0.1, y.repeat(4), ignore_index=-100)
        for head, y in zip(heads, hard, strict=True)
    )
    torch.testing.assert_close(loss, expected / 3)


def test_one_tensor_is_one_head():
    heads, labels, weights = case(num_crops=2, widths=(7,))
    alone = cluster_prediction_loss(heads[0], labels, weights, num_crops=2)
    assert alone.item() == cluster_prediction_loss(
        heads, labels[:, :, 0], weights[:, :, 0], num_crops=2
    )


@pytest.mark.parametrize("B", [0, 4])
def test_without_a_label_loss_and_gradient_are_zero(B):
    heads, labels, _ = case(num_crops=2, B=B, dtype=torch.float32)
    loss = cluster_prediction_loss(heads, labels.fill_(-1), num_crops=2)
    loss.backward()
    assert loss.item() == 0.0
    for head in heads:
        assert head.grad is not None and not head.grad.any()


def test_what_a_sample_without_a_label_scores_is_of_no_account():
    heads, labels, weights = case(num_crops=2)
    others = [head.detach().clone() for head in heads]
    for head in others:
        head.view(2, 6, -1)[:, 1] = 1e4
    assert weights[:, 1].sum() == 0
    first = cluster_prediction_loss(heads, labels, weights, num_crops=2)
    second = cluster_prediction_loss(others, labels, weights, num_crops=2)
    assert first.item() == second.item()


def test_gradcheck():
    heads, labels, weights = case(num_crops=2, B=3, L=2)

    def loss(*heads):
        return cluster_prediction_loss(heads, labels, weights, num_crops=2)

    assert torch.autograd.gradcheck(loss, heads)


@pytest.mark.parametrize("score", [0.3, -1e4, 1e4])
def test_equal_scores_give_ln_k(score):
    scores = torch.full((12, 3000), score)
    labels = torch.arange(4).unsqueeze(0)
    loss = cluster_prediction_loss(scores, labels, num_crops=3)
    assert loss.item() == pytest.approx(math.log(3000), abs=1e-4)


@pytest.mark.parametrize("temperature", [1e-3, 0.1, 1e6])
def test_limits_of_the_temperature(temperature):
    """Towards 0 only the largest score counts; towards infinity none does."""
    scores = torch.eye(4) * 0.5
    labels = torch.arange(4).unsqueeze(0)
    loss = cluster_prediction_loss(
        scores, labels, num_crops=1, temperature=temperature
    ).item()
    expected = math.log1p(3 * math.exp(-0.5 / temperature))
    assert loss == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_computed_in_float32(dtype):
    heads, labels, weights = case(num_crops=3, dtype=dtype)
    loss = cluster_prediction_loss(heads, labels, weights, num_crops=3)
    assert loss.dtype == torch.float32
    assert_equals_the_oracle(heads, labels, weights, loss, num_crops=3, rtol=1e-2)
    full = [head.detach().float() for head in heads]
    torch.testing.assert_close(
        loss, cluster_prediction_loss(full, labels, weights, num_crops=3)
    )


def test_autocast_does_not_reach_into_the_loss():
    generator = torch.Generator().manual_seed(0)
    Z = torch.randn(8, 16, generator=generator)
    C = torch.randn(32, 16, generator=generator, requires_grad=True)
    labels = torch.arange(4).unsqueeze(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = Z @ C.t()
        loss = cluster_prediction_loss(scores, labels, num_crops=2)
    assert scores.dtype == torch.bfloat16 and loss.dtype == torch.float32
    outside = cluster_prediction_loss(scores.detach(), labels, num_crops=2)
    assert loss.item() == outside.item()
    loss.backward()
    assert C.grad.dtype == torch.float32 and C.grad.abs().sum() > 0


@pytest.mark.parametrize("sizes", [(5, 2, 1), (7, 0, 1), (2, 6), (8, 8)])
def test_ranks_equal_one_process(sizes):
    """Uneven shards; the last rank has samples but no label; loss and gradient."""
    B, V, world_size = sum(sizes), 3, len(sizes)
    heads, labels, weights = case(num_crops=V, B=B, L=2)
    weights[:, B - sizes[-1] :] = 0
    whole = cluster_prediction_loss(heads, labels, weights, num_crops=V)
    whole.backward()
    starts = [sum(sizes[:rank]) for rank in range(world_size)]

    def program(collective):
        start = starts[collective.rank]
        mine = slice(start, start + sizes[collective.rank])
        shards = [
            head.detach().view(V, B, -1)[:, mine].reshape(-1, head.shape[1])
            for head in heads
        ]
        shards = [shard.requires_grad_() for shard in shards]
        loss = cluster_prediction_loss(
            shards,
            labels[:, mine],
            weights[:, mine],
            num_crops=V,
            collective=collective,
        )
        loss.backward()
        return loss.detach(), [shard.grad for shard in shards]

    results = virtual_ranks.run(program, world_size)
    mean = torch.stack([loss for loss, _ in results]).mean()
    torch.testing.assert_close(mean, whole.detach())
    assert results[-1][0] == 0
    for h, head in enumerate(heads):
        parts = [grads[h].view(V, -1, head.shape[1]) for _, grads in results]
        gathered = torch.cat(parts, dim=1).view_as(head) / world_size
        torch.testing.assert_close(gathered, head.grad)


@pytest.mark.parametrize(
    ("scores", "labels", "settings", "words"),
    [
        (torch.zeros(7, 3), (1, 3), {}, "got 7 rows for 2 crops"),
        (torch.zeros(8, 3), (1, 4), {"temperature": 0}, "temperature is 0"),
        (torch.zeros(8, 3), (1, 4), {"num_crops": 0}, "num_crops is 0"),
        (torch.zeros(8), (1, 4), {}, r"wanted \(V \* B, K\)"),
        ([], (1, 4), {}, r"scores have shapes \[\]"),
        (torch.zeros(8, 3), (2, 4), {}, r"labels have shape \(2, 4, 1\)"),
        (torch.zeros(8, 3), (1, 5), {}, r"wanted \(1, 4, L\)"),
        (torch.zeros(8, 3), (4,), {}, r"labels have shape \(4,\)"),
        ([torch.zeros(8, 3), torch.zeros(4, 3)], (2, 4), {}, "heads, samples"),
        (torch.zeros(8, 3), (1, 4), {"weights": torch.ones(4, 1)}, r"\(4, 1, 1\)"),
        (torch.zeros(8, 3), (1, 4), {"weights": torch.ones(1, 3)}, r"\(1, 3, 1\)"),
        (torch.zeros(8, 3), (1, 4), {"weights": torch.ones(1, 4, 2)}, r"\(1, 4, 2\)"),
    ],
)
def test_errors_say_what_was_wanted(scores, labels, settings, words):
    labels = torch.zeros(labels, dtype=torch.long)
    with pytest.raises(ValueError, match=words):
        cluster_prediction_loss(scores, labels, **{"num_crops": 2, **settings})


@pytest.mark.parametrize(
    ("scores", "labels", "weights", "words"),
    [
        (torch.zeros(4, 3), torch.zeros(1, 4), None, "labels are torch.float32"),
        (torch.zeros(4, 3), torch.tensor([[0, 3, 1, -1]]), None, "head 0 reach 3;"),
        (
            [torch.zeros(4, 3), torch.zeros(4, 2)],
            torch.tensor([[0, 1, 2, 2], [0, 1, 2, 0]]),
            None,
            "head 1 reach 2; wanted below the number of its prototypes, 2",
        ),
        (
            torch.zeros(4, 3),
            torch.zeros(1, 4).long(),
            torch.tensor([[1.0, -0.5, 0, 1]]),
            "weights reach -0.5; wanted >= 0",
        ),
        (torch.zeros(4, 3).int(), torch.zeros(1, 4).long(), None, "scores are torch.i"),
    ],
)
def test_values_that_cannot_be(scores, labels, weights, words):
    with pytest.raises(ValueError, match=words):
        cluster_prediction_loss(scores, labels, weights, num_crops=1)


def test_weights_get_no_gradient():
    """They say which label holds; a network that makes them is not trained by it."""
    heads, labels, weights = case(num_crops=2, B=4, L=2)
    expected = cluster_prediction_loss(heads, labels, weights, num_crops=2)
    weights = weights.clone().requires_grad_()
    loss = cluster_prediction_loss(heads, labels, weights, num_crops=2)
    loss.backward()
    assert torch.equal(loss, expected) and weights.grad is None


def test_several_labels_need_weights():
    with pytest.raises(ValueError, match="need the weight of each"):
        cluster_prediction_loss(
            torch.zeros(4, 3), torch.zeros(1, 4, 2, dtype=torch.long), num_crops=1
        )
