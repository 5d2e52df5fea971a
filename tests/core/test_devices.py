"""The same checks on the CPU and, with `make test-gpu`, on a CUDA device."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from vissl_swav.core.deepcluster_v2 import DeepClusterV2
from vissl_swav.core.prototypes import Prototypes
from vissl_swav.core.sela_v2 import SeLaV2
from vissl_swav.core.sinkhorn import sinkhorn
from vissl_swav.core.swapped_prediction import swapped_prediction_loss
from vissl_swav.core.swav import SwAV


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return torch.device(request.param)


def cosines(rows, K, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, K, generator=generator, dtype=torch.float64) * 1.6 - 0.8


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float64, 1e-10),
        (torch.float32, 1e-5),
        (torch.float16, 2e-2),
        (torch.bfloat16, 6e-2),
    ],
)
@pytest.mark.parametrize("length", [0, 40])
def test_loss_and_gradient_equal_float64_on_the_cpu(device, dtype, tolerance, length):
    V, B, K = 4, 24, 50
    exact = cosines(V * B, K).requires_grad_()
    queue = cosines(2 * length, K, seed=1).reshape(2, length, K) if length else None
    expected = swapped_prediction_loss(exact, num_crops=V, queue_scores=queue)
    expected.backward()
    scores = exact.detach().to(device, dtype).requires_grad_()
    queue = None if queue is None else queue.to(device, dtype)
    loss = swapped_prediction_loss(scores, num_crops=V, queue_scores=queue)
    loss.backward()
    assert loss.device.type == scores.grad.device.type == device.type
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    difference = (scores.grad.cpu().double() - exact.grad).abs().max()
    assert difference <= tolerance * exact.grad.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_codes_are_exact_at_a_small_epsilon_and_finite_at_1e4(device, dtype):
    """An epsilon of 0.005, more prototypes than samples, then scores of 1e4."""
    scores = cosines(30, 80, seed=2).to(device, dtype)
    codes = sinkhorn(scores, epsilon=0.005)
    assert codes.dtype == torch.float32
    exact = sinkhorn(scores.cpu().double(), epsilon=0.005)
    torch.testing.assert_close(codes.cpu().double(), exact, rtol=0, atol=1e-4)
    sums = sinkhorn(scores * 1e4, epsilon=0.005).sum(dim=1)
    torch.testing.assert_close(sums, torch.ones(30, device=device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_step_loop_learns_in_every_precision(device, dtype):
    """Encoder, prototypes, queue and loss under autocast, fp16 with a GradScaler."""
    torch.manual_seed(0)
    V, B, K, D = 2, 32, 12, 8
    encoder = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, D)).to(device)
    prototypes = Prototypes(D, [K]).to(device)
    swav = SwAV(num_crops=V, num_prototypes=[K], embedding_dim=D, queue_length=64)
    swav.to(device)
    weights = [*encoder.parameters(), *prototypes.parameters()]
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    kinds = torch.randn(6, 20)
    losses = []
    for _ in range(150):
        rows = kinds[torch.randint(6, (B,))]
        crops = torch.cat([rows + 0.3 * torch.randn(B, 20) for _ in range(V)])
        prototypes.normalize_()
        mixed = dtype != torch.float32
        with torch.autocast(device.type, dtype if mixed else None, enabled=mixed):
            Z = functional.normalize(encoder(crops.to(device)), dim=1)
            S = prototypes(Z)
            queue = swav.score_queue([head.weight for head in prototypes.heads])
            loss = swav(S, queue_scores=queue)
        swav.finish_step(Z)
        assert loss.dtype == torch.float32
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    ceiling = torch.tensor(float(K)).log().item()
    assert swav.queue.is_full
    assert sum(losses[-20:]) / 20 < ceiling - 0.3


def clustering_cycle(method_class, device, *, bank_dtype="float32", mixed=False):
    """Two epochs of random features; the labels, objective, prototypes and losses."""
    unit = functional.normalize
    generator = torch.Generator().manual_seed(3)
    method = method_class(
        num_images=60,
        num_crops=3,
        num_prototypes=[7, 4],
        embedding_dim=8,
        bank_dtype=bank_dtype,
    ).to(device)
    prototypes = [
        unit(torch.randn(K, 8, generator=generator), dim=1).to(device) for K in (7, 4)
    ]
    centers = torch.randn(7, 8, generator=generator)
    losses, found = [], None
    for epoch in range(2):
        for images in torch.randperm(60, generator=generator).split(16):
            views = [
                centers[images % 7]
                + 0.4 * torch.randn(len(images), 8, generator=generator)
                for _ in range(3)
            ]
            Z = unit(torch.cat(views), dim=1).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                scores = [(Z @ C.t()).requires_grad_() for C in prototypes]
                loss = method(scores, images.to(device))
            loss.backward()
            assert all(S.grad is not None for S in scores)
            losses.append(loss.item())
            method.remember(Z.bfloat16() if mixed else Z, images.to(device))
        found = method.start_epoch(prototypes, epoch=epoch, seed=1)
        prototypes = found.prototypes
    return method.labels.labels.cpu(), found, losses


@pytest.mark.parametrize("method_class", [DeepClusterV2, SeLaV2])
def test_the_clustering_cycle_equals_the_cpus(device, method_class):
    labels, found, losses = clustering_cycle(method_class, device)
    expected = clustering_cycle(method_class, torch.device("cpu"))
    assert (labels == expected[0]).float().mean() > 0.98, "labels equal up to ties"
    assert found.objective == pytest.approx(expected[1].objective, abs=1e-3)
    assert losses == pytest.approx(expected[2], rel=1e-2)
    assert all(C.device.type == device.type for C in found.prototypes)


@pytest.mark.parametrize("method_class", [DeepClusterV2, SeLaV2])
@pytest.mark.parametrize("bank_dtype", ["float16", "bfloat16"])
def test_the_clustering_cycle_in_half_precision(device, method_class, bank_dtype):
    """Half features under autocast, a half bank: nearly the objective of float32."""
    _, found, losses = clustering_cycle(
        method_class, device, bank_dtype=bank_dtype, mixed=True
    )
    expected = clustering_cycle(method_class, torch.device("cpu"))
    assert found.objective == pytest.approx(expected[1].objective, abs=0.03)
    assert all(torch.isfinite(torch.tensor(losses)))
    for C in found.prototypes:
        assert C.dtype == torch.float32
        torch.testing.assert_close(C.norm(dim=1), torch.ones(len(C), device=device))
