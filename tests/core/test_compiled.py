"""The parts under `torch.compile`: no break in the loss, no compilation a step."""

import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional

from vissl_swav.core.balanced_labels import balanced_labels
from vissl_swav.core.cluster_prediction import cluster_prediction_loss
from vissl_swav.core.feature_queue import FeatureQueue
from vissl_swav.core.kmeans import spherical_kmeans
from vissl_swav.core.memory_bank import MemoryBank
from vissl_swav.core.prototypes import Prototypes
from vissl_swav.core.sinkhorn import sinkhorn
from vissl_swav.core.swapped_prediction import swapped_prediction_loss
from vissl_swav.core.swav import SwAV

V, B, K, D, L = 3, 6, 9, 5, 12
# torch's own, from its compiler.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Counting:
    """A backend that runs graphs as they are, and counts them."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, example_inputs):
        self.graphs += 1
        return graph.forward


def cosines(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=dtype) * 1.6 - 0.8


def unit(*shape, seed=0):
    return functional.normalize(cosines(*shape, seed=seed, dtype=torch.float32), dim=-1)


def one_head(S, queue=None):
    return swapped_prediction_loss(S, num_crops=V, queue_scores=queue)


def two_heads(S, queue=None):
    heads = [S, 0.7 * S[:, : K - 2]]
    queues = None if queue is None else [queue, 0.5 * queue[..., : K - 2]]
    return swapped_prediction_loss(
        heads, num_crops=V, crops_for_assign=[1, 2], queue_scores=queues
    )


def hard_codes(S, queue=None):
    return swapped_prediction_loss(
        S, num_crops=V, queue_scores=queue, hard_codes=True, num_iterations=1
    )


def both(function, S, *others, backend="eager", factor=3.0):
    """Value and gradient, eager and compiled with no break."""
    results = []
    for call in (function, torch.compile(function, backend=backend, fullgraph=True)):
        scores = S.clone().requires_grad_()
        loss = call(scores, *others)
        (factor * loss).backward()
        results.append((loss.detach(), scores.grad))
    return results


@pytest.mark.parametrize(
    ("function", "has_queue", "backend"),
    [
        (one_head, False, "eager"),
        (two_heads, True, "aot_eager"),
        (hard_codes, True, "eager"),
    ],
)
def test_loss_and_gradient_are_the_eager_ones(function, has_queue, backend):
    queue = cosines(2, L, K, seed=1) if has_queue else None
    eager, compiled = both(function, cosines(V * B, K), queue, backend=backend)
    torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_loss_of_half_precision(dtype):
    eager, compiled = both(one_head, cosines(V * B, K).to(dtype))
    assert compiled[0].dtype == torch.float32 and compiled[1].dtype == dtype
    torch.testing.assert_close(compiled[0], eager[0], rtol=1e-5, atol=0)
    rounding = 1e-6 + torch.finfo(dtype).eps
    torch.testing.assert_close(compiled[1], eager[1], rtol=2 * rounding, atol=1e-6)


@pytest.mark.slow  # As above, through code generation: half a minute.
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler")
@pytest.mark.parametrize("function", [one_head, two_heads])
def test_loss_of_inductor(function):
    S = cosines(V * B, K, dtype=torch.float32)
    queue = cosines(2, L, K, seed=1, dtype=torch.float32)
    eager, compiled = both(function, S, queue, backend="inductor")
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("function", [one_head, two_heads])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_of_inductor_on_a_gpu(function, dtype):
    S = cosines(V * B, K, dtype=torch.float32).to("cuda", dtype)
    queue = cosines(2, L, K, seed=1, dtype=torch.float32).cuda()
    eager, compiled = both(function, S, queue, backend="inductor")
    torch.testing.assert_close(compiled[0], eager[0], rtol=1e-4, atol=1e-6)
    rounding = 1e-4 + 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(compiled[1], eager[1], rtol=rounding, atol=1e-5)


@pytest.mark.parametrize("hard", [False, True])
def test_codes_are_the_eager_ones(hard):
    def codes(S):
        return sinkhorn(S, hard=hard, epsilon=0.02)

    S = cosines(B, K)
    compiled = torch.compile(codes, backend="eager", fullgraph=True)(S)
    torch.testing.assert_close(compiled, codes(S), rtol=1e-10, atol=1e-12)


def test_codes_of_extreme_scores_are_safe():
    """What eager code looks at, to take the safe way, compiled code cannot see."""
    S = cosines(B, K, dtype=torch.float32)
    compiled = torch.compile(sinkhorn, backend="eager", fullgraph=True)
    for scores in (S * 1e4, torch.cat([S, S[:1] + 1e4])):
        exact = sinkhorn(scores.double())
        torch.testing.assert_close(compiled(scores).double(), exact, rtol=0, atol=1e-4)


def test_one_graph_and_no_break_where_no_gradient_is_asked_for():
    """Which torch traces in another way."""
    found = torch._dynamo.explain(one_head)(cosines(V * B, K), cosines(2, L, K))
    assert found.graph_count == 1 and found.graph_break_count == 0


def test_a_tolerance_breaks_the_graph_and_changes_nothing():
    def codes(S):
        return sinkhorn(S, num_iterations=50, tolerance=1e-6)

    S = cosines(B, K)
    compiled = torch.compile(codes, backend="eager")(S)
    torch.testing.assert_close(compiled, codes(S), rtol=1e-10, atol=1e-12)


def test_cluster_prediction_without_a_break():
    labels = torch.tensor([[0, 3, -1, 8, 2, 2]])

    def loss(S):
        return cluster_prediction_loss(S, labels, num_crops=V)

    eager, compiled = both(loss, cosines(V * B, K))
    torch.testing.assert_close(compiled, eager, rtol=1e-10, atol=1e-12)


def test_prototypes_without_a_break():
    prototypes = Prototypes(D, [K, 4])

    def scores(Z):
        prototypes.normalize_()
        return prototypes(Z)[1].square().sum() + prototypes(Z)[0].sum()

    eager, compiled = both(scores, unit(B, D))
    torch.testing.assert_close(compiled, eager)


def step_of(swav, prototypes):
    def step(Z):
        S = prototypes(Z)
        loss = swav(S, queue_scores=swav.score_queue(prototypes.weights()))
        swav.finish_step(Z)
        return loss

    return step


def test_a_step_is_compiled_as_often_as_it_changes():
    """Hard codes, soft codes, a full queue: three graphs for a run of any length."""
    torch.manual_seed(0)
    prototypes = Prototypes(D, [K])
    settings = {"num_crops": V, "num_prototypes": [K], "embedding_dim": D}
    settings |= {"queue_length": 5 * B, "queue_start_step": 4, "hard_codes_steps": 3}
    eager, inside = SwAV(**settings), SwAV(**settings)
    counting = Counting()
    step = torch.compile(step_of(inside, prototypes), backend=counting)
    expected, found = [], []
    for seed in range(14):
        Z = unit(V * B, D, seed=seed)
        expected.append(step_of(eager, prototypes)(Z).detach())
        found.append(step(Z).detach())
    torch.testing.assert_close(found, expected)
    assert counting.graphs == 3
    assert inside.queue.is_full and int(inside.num_steps) == 14
    for name, value in eager.state_dict().items():
        assert torch.equal(value, inside.state_dict()[name]), name


def test_loss_with_a_full_queue_has_no_break_and_is_compiled_once():
    """All but `finish_step`, which is run as it is."""
    prototypes = Prototypes(D, [K])
    swav = SwAV(num_crops=V, num_prototypes=[K], embedding_dim=D, queue_length=2 * B)

    def loss(Z):
        S = prototypes(Z)
        return swav(S, queue_scores=swav.score_queue(prototypes.weights()))

    for seed in (1, 2):
        swav.finish_step(unit(V * B, D, seed=seed))
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in range(4):
            Z = unit(V * B, D, seed=seed)
            torch.testing.assert_close(compiled(Z), loss(Z))
            swav.finish_step(Z)


def test_state_is_kept_out_of_graphs():
    """Queue, bank, k-means and balanced labels from compiled code: nothing to build."""
    queue = FeatureQueue(num_assign_crops=2, length=10, dim=D)
    bank = MemoryBank(num_images=40, num_banks=2, dim=D)
    oracles = [
        FeatureQueue(num_assign_crops=2, length=10, dim=D),
        MemoryBank(num_images=40, num_banks=2, dim=D),
    ]
    counting = Counting()

    @torch.compile(backend=counting)
    def keep(rows, images):
        rows = 2 * rows
        queue.push(rows)
        bank.write(rows, images)
        bank.settle()

    for seed in range(12):
        rows = unit(2, 4, D, seed=seed)
        images = torch.randperm(40)[:4]
        keep(rows, images)
        oracles[0].push(2 * rows)
        oracles[1].write(2 * rows, images)
    assert counting.graphs == 1, "2 * rows, once"
    for part, oracle in zip((queue, bank), oracles, strict=True):
        assert all(map(torch.equal, part.buffers(), oracle.buffers()))
    Z, C = unit(30, D), unit(4, D, seed=1)

    @torch.compile(backend=counting)
    def cluster(Z):
        found = spherical_kmeans(Z, num_clusters=4, initial_centroids=C)
        return found.assignments, balanced_labels(Z, C).labels

    assignments, labels = cluster(Z)
    expected = spherical_kmeans(Z, num_clusters=4, initial_centroids=C)
    assert torch.equal(assignments, expected.assignments)
    assert torch.equal(labels, balanced_labels(Z, C).labels)
    assert counting.graphs == 1


def test_a_compiled_encoder_trains_with_them():
    """The plain use: the model is compiled, the loss is too, the rest is not."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, D))
    prototypes = Prototypes(D, [K])
    loss_of = torch.compile(swapped_prediction_loss, backend="eager", fullgraph=True)
    compiled = torch.compile(encoder, backend="eager", fullgraph=True)
    weights = [*encoder.parameters(), *prototypes.parameters()]
    optimizer = torch.optim.SGD(weights, lr=0.05)
    kinds, losses = torch.randn(4, 12), []
    for _ in range(40):
        rows = kinds[torch.randint(4, (B,))]
        crops = torch.cat([rows + 0.2 * torch.randn(B, 12) for _ in range(V)])
        Z = functional.normalize(compiled(crops), dim=1)
        loss = loss_of(prototypes(Z), num_crops=V)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        prototypes.normalize_()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
