"""The cycle of DeepCluster-v2 and SeLa-v2 against one in plain loops."""

import clustering_programs as programs
import numpy as np
import pytest
import reference
import torch

from vissl_swav.core.kmeans import spherical_kmeans_of_heads

NAMES = sorted(programs.METHODS)
WIDTHS = (5, 4, 6)


def numpy_unit(U):
    return U / np.linalg.norm(U, axis=-1, keepdims=True)


class ExplicitTraining:
    """The cycle with dicts and loops, the gradients by hand, in float64."""

    def __init__(self, name, *, pictures, encoder, prototypes, banks):
        self.name, self.banks = name, banks
        self.X, self.W = pictures.numpy(), encoder.numpy().copy()
        self.C = [C.numpy().copy() for C in prototypes]
        self.bank, self.labels = {}, {}

    def remember(self, images):
        for image in images.tolist():
            self.bank[image] = numpy_unit(self.X[:, image] @ self.W.T)[self.banks]

    def assign(self, epoch):
        images = sorted(self.bank)
        rows = np.array([self.bank[image] for image in images])
        of_heads = [rows[:, h % len(self.banks)] for h in range(len(self.C))]
        if self.name == "deepcluster_v2":
            # Only the draw of the seeds is the library's.
            seeds = spherical_kmeans_of_heads(
                [torch.from_numpy(np.ascontiguousarray(Z)) for Z in of_heads],
                num_clusters=[len(C) for C in self.C],
                num_iterations=0,
                row_ids=torch.tensor(images),
                generator=torch.Generator().manual_seed(
                    programs.SEED * 1_000_003 + epoch
                ),
            )
            seeds = [seed.centroids.numpy() for seed in seeds]
            found = [
                reference.spherical_kmeans(Z, C, 10)[:2]
                for Z, C in zip(of_heads, seeds, strict=True)
            ]
            self.C = [C for C, _ in found]
            labels = [y for _, y in found]
        else:
            labels = [
                reference.balanced_partition(Z @ C.T, 0.05).argmax(axis=1)
                for Z, C in zip(of_heads, self.C, strict=True)
            ]
        self.labels = dict(zip(images, zip(*labels, strict=True), strict=True))

    def step(self, images, lr=0.5):
        num_crops, B = self.X.shape[0], len(images)
        X = self.X[:, images].reshape(num_crops * B, -1)
        U = X @ self.W.T
        Z = numpy_unit(U)
        none = (0,) * len(self.C)
        labels = [self.labels.get(image, none) for image in images.tolist()]
        weights = [float(image in self.labels) for image in images.tolist()]
        loss, of_scores = reference.cluster_prediction(
            [Z @ C.T for C in self.C],
            np.array(labels).T[:, :, None],
            np.array([weights] * len(self.C))[:, :, None],
            num_crops,
            0.1,
        )
        self.remember(images)
        dZ = sum(G @ C for G, C in zip(of_scores, self.C, strict=True))
        dU = dZ - (dZ * Z).sum(axis=1, keepdims=True) * Z
        self.W -= lr * (dU / np.linalg.norm(U, axis=1, keepdims=True)).T @ X
        if self.name == "sela_v2":
            pairs = zip(self.C, of_scores, strict=True)
            self.C = [numpy_unit(C - lr * G.T @ Z) for C, G in pairs]
        return loss


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("num_crops", "crops_for_assign"), [(1, None), (3, None), (3, (2, 0, 1)), (2, (1,))]
)
def test_training_equals_the_cycle_in_plain_loops(name, num_crops, crops_for_assign):
    """Labels, losses and weights over four epochs; head j is assigned by bank j mod M.

    Images that the filling pass has left out have no label in the first epoch.
    """
    arguments = programs.toy(num_crops=num_crops)
    settings = {"crops_for_assign": crops_for_assign}
    if name == "sela_v2":
        settings["tolerance"] = 1e-6
    training = programs.Training(name, **arguments, settings=settings)
    banks = list(crops_for_assign or range(min(num_crops, 2)))
    oracle = ExplicitTraining(name, **arguments, banks=banks)
    num_images = arguments["pictures"].shape[1]
    epochs = programs.epochs_of(num_images, 4)
    left_out = programs.without_label(epochs).tolist()
    filled = torch.tensor([i for i in range(num_images) if i not in left_out])
    training.fill(filled)
    oracle.remember(filled)
    for epoch, batches in enumerate(epochs):
        found = training.assign(epoch)
        oracle.assign(epoch)
        assert training.method.assigned_epoch == epoch
        assert len(oracle.labels) == (num_images if epoch else len(filled))
        labels = training.method.labels.labels[:, :, 0].numpy()
        for image in range(num_images):
            expected = oracle.labels.get(image, (-1,) * len(WIDTHS))
            assert labels[:, image].tolist() == list(expected)
        for C, K, mine, sizes in zip(
            oracle.C, WIDTHS, found.prototypes, found.cluster_sizes, strict=True
        ):
            np.testing.assert_allclose(mine.numpy(), C, atol=1e-9)
            assert sizes.shape == (K,) and sizes.sum() == len(oracle.labels)
        for batch in batches:
            loss, _ = training.step(batch)
            assert loss.item() == pytest.approx(oracle.step(batch), rel=1e-8)
    np.testing.assert_allclose(training.encoder.detach(), oracle.W, rtol=1e-7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bank_dtype", ["float32", "float16", "bfloat16"])
def test_what_an_assignment_reports(name, bank_dtype):
    arguments = programs.toy(dtype=torch.float32)
    settings = {"bank_dtype": bank_dtype}
    training = programs.Training(name, **arguments, settings=settings)
    images = torch.randperm(43)
    training.fill(images)
    found = training.assign(0)
    bank, labels = training.method.bank, training.method.labels
    assert str(bank.features.dtype) == f"torch.{bank_dtype}"
    of_images, weights = labels.of(bank.images())
    assert (weights == 1).all()
    for head, (C, sizes) in enumerate(
        zip(found.prototypes, found.cluster_sizes, strict=True)
    ):
        scores = bank.rows(head % 2).float() @ C.t()
        y = of_images[head]
        assert torch.equal(sizes, torch.bincount(y[:, 0], minlength=len(C)))
        mean = scores.gather(1, y).mean().item()
        assert found.objective[head] == pytest.approx(-mean, abs=1e-5)
        if name == "deepcluster_v2":
            assert torch.equal(scores.argmax(dim=1), y[:, 0])
            torch.testing.assert_close(C.norm(dim=1), torch.ones(len(C)))
        else:
            assert torch.equal(C, arguments["prototypes"][head])
            # 43 images in equal parts, up to the rounding of the codes.
            assert sizes.max() <= 1.7 * 43 / len(C)
        assert not C.requires_grad
    assert (found.error is None) == (name == "deepcluster_v2")


def test_soft_labels_of_sela():
    """The largest entries of the code; the loss weighs them."""
    arguments = programs.toy(num_crops=2)
    settings = {"num_labels": 3, "tolerance": 1e-8}
    training = programs.Training("sela_v2", **arguments, settings=settings)
    images = torch.arange(43)
    training.fill(images)
    training.assign(0)
    Z = training.encode(images)
    Z_of_heads = [Z[43 * (h % 2) : 43 * (h % 2) + 43].detach() for h in range(3)]
    y, w = training.method.labels.of(images)
    for head, C in enumerate(arguments["prototypes"]):
        scores = (Z_of_heads[head] @ C.t()).numpy()
        Q = torch.from_numpy(reference.balanced_partition(scores, 0.05))
        largest, labels = Q.topk(3, dim=1)
        assert torch.equal(y[head], labels)
        expected = largest / largest.sum(dim=1, keepdim=True)
        torch.testing.assert_close(w[head], expected, rtol=1e-5, atol=1e-6)
    scores = [(Z @ C.t()).detach() for C in arguments["prototypes"]]
    expected, _ = reference.cluster_prediction(
        [S.numpy() for S in scores], y.numpy(), w.numpy(), 2, 0.1
    )
    loss = training.method(scores, images)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
