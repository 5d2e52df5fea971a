"""The parts in autocast regions: the results of float32, fp16 and bfloat16 alike."""

import numpy as np
import pytest
import reference
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

V, B, K, D, L = 3, 10, 12, 16, 20


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return torch.device(request.param)


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def half(request):
    return request.param


def unit(*shape, seed=0):
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(rows, dim=-1)


def exact(tensor):
    """As the half numbers are, in float64 on the CPU."""
    return tensor.detach().cpu().double()


def close(found, expected, tolerance=1e-5):
    scale = expected.abs().max().item()
    difference = (exact(found) - expected).abs().max().item()
    assert difference <= tolerance * scale, (difference, scale)


def test_the_region_is_a_half_one(device, half):
    """What the other tests rest on."""
    rows = unit(4, D).to(device)
    with torch.autocast(device.type, half):
        assert (rows @ rows.t()).dtype == half


def test_swapped_prediction_of_half_features(device, half):
    """Features as autocast leaves them, prototypes and all behind them in float32."""
    prototypes = Prototypes(D, [K]).to(device)
    Z = unit(V * B, D).to(device, half).requires_grad_()
    queue = FeatureQueue(num_assign_crops=2, length=L, dim=D).to(device)
    with torch.autocast(device.type, half):
        queue.push(unit(2, L, D, seed=1).to(device, half))
        (S,) = prototypes(Z)
        of_queue = queue.score(prototypes.weights()[0])
        loss = swapped_prediction_loss(S, num_crops=V, queue_scores=of_queue)
    loss.backward()
    assert loss.dtype == S.dtype == of_queue.dtype == torch.float32
    assert Z.grad.dtype == half and Z.grad.isfinite().all()
    weight = prototypes.heads[0].weight
    assert weight.grad.dtype == torch.float32
    C = exact(weight).requires_grad_()
    Z64 = exact(Z).requires_grad_()
    rows = exact(unit(2, L, D, seed=1).to(half))
    expected = swapped_prediction_loss(
        Z64 @ C.t(), num_crops=V, queue_scores=rows @ C.detach().t()
    )
    expected.backward()
    close(of_queue, rows @ C.detach().t())
    close(loss, expected.detach())
    close(weight.grad, C.grad)
    close(Z.grad, Z64.grad, 2 * torch.finfo(half).eps)


def test_losses_and_codes_of_half_scores(device, half):
    """Scores of somebody else's half product: no further digit is lost."""
    S = (1.5 * unit(V * B, K)).to(device, half).requires_grad_()
    S64 = exact(S).requires_grad_()
    labels = torch.arange(B).remainder(K)[None].to(device)
    with torch.autocast(device.type, half):
        codes = sinkhorn(S)
        losses = [
            swapped_prediction_loss(S, num_crops=V),
            cluster_prediction_loss(S, labels, num_crops=V),
        ]
    expected = [
        swapped_prediction_loss(S64, num_crops=V),
        cluster_prediction_loss(S64, labels.cpu(), num_crops=V),
    ]
    close(codes, sinkhorn(S64))
    for loss, wanted in zip(losses, expected, strict=True):
        assert loss.dtype == torch.float32
        (gradient,) = torch.autograd.grad(loss, S, retain_graph=True)
        (of_wanted,) = torch.autograd.grad(wanted, S64, retain_graph=True)
        assert gradient.dtype == half and gradient.isfinite().all()
        close(loss, wanted.detach())
        close(gradient, of_wanted, 2 * torch.finfo(half).eps)


def test_kmeans_of_half_features(device, half):
    Z = unit(60, D).to(device, half)
    C = unit(5, D, seed=1).to(device)
    with torch.autocast(device.type, half):
        found = spherical_kmeans(
            Z,
            num_clusters=5,
            num_iterations=3,
            initial_centroids=C,
            empty_clusters="keep",
        )
    centroids, labels, objective = reference.spherical_kmeans(
        exact(Z).numpy(), exact(C).numpy(), 3
    )
    assert found.centroids.dtype == torch.float32
    assert np.array_equal(found.assignments.cpu().numpy(), labels)
    close(found.centroids, torch.from_numpy(centroids))
    close(found.objective, torch.from_numpy(objective))


@pytest.mark.parametrize("seeding", ["random", "k-means++"])
def test_clustering_in_the_region_is_the_one_outside_of_it(device, half, seeding):
    """Bit for bit, seeds included; and so are balanced labels."""
    Z, C = unit(80, D).to(device), unit(6, D, seed=2).to(device)

    def cluster():
        generator = torch.Generator().manual_seed(3)
        found = spherical_kmeans(
            Z, num_clusters=6, seeding=seeding, generator=generator
        )
        balanced = balanced_labels(Z, C, num_labels=2)
        parts = (found.centroids, found.assignments, found.objective)
        return *parts, balanced.labels, balanced.weights, balanced.log_scaling

    expected = cluster()
    with torch.autocast(device.type, half):
        assert all(map(torch.equal, cluster(), expected))


def test_bank_keeps_what_it_is_given(device, half):
    bank = MemoryBank(num_images=9, num_banks=2, dim=D).to(device)
    rows = unit(2, 4, D).to(device, half)
    with torch.autocast(device.type, half):
        bank.write(rows, torch.tensor([7, 2, 5, 0], device=device))
        bank.settle()
    assert bank.features.dtype == torch.float32
    for number in range(2):
        assert torch.equal(bank.rows(number), rows[number].float())


def test_unit_rows_in_the_region(device, half):
    prototypes = Prototypes(D, [K]).to(device)
    with torch.no_grad(), torch.autocast(device.type, half):
        prototypes.heads[0].weight.mul_(3)
        prototypes.normalize_()
    lengths = prototypes.weights()[0].double().norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=0, atol=1e-6)


def test_a_gradient_scaler_changes_no_gradient(device):
    """fp16: scaled before backward, unscaled before the step, which is taken."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, D)).to(device)
    prototypes = Prototypes(D, [K]).to(device)
    weights = [*encoder.parameters(), *prototypes.parameters()]
    optimizer = torch.optim.SGD(weights, lr=0.1)
    crops = torch.randn(V * B, 20).to(device)

    def loss_of():
        with torch.autocast(device.type, torch.float16):
            Z = functional.normalize(encoder(crops), dim=1)
            return swapped_prediction_loss(prototypes(Z), num_crops=V)

    loss_of().backward()
    plain = [weight.grad.clone() for weight in weights]
    optimizer.zero_grad()
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**12)
    scaler.scale(loss_of()).backward()
    scaler.unscale_(optimizer)
    for weight, expected in zip(weights, plain, strict=True):
        assert weight.grad.isfinite().all()
        close(weight.grad, exact(expected), 5e-3)
    before = prototypes.weights()[0].clone()
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(before, prototypes.weights()[0])
    assert scaler.get_scale() == 2.0**12
