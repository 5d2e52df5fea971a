import math

import pytest
import torch

from vissl_swav.core.nearest_neighbors import knn_predict, knn_votes, top_accuracy


def _votes_by_loops(train, labels, test, k, temperature, num_classes):
    """Wu et al. 2018, section 3.4, in float64, one pair of rows at a time."""
    votes = []
    for row in test.double():
        pairs = sorted(
            ((float(row @ other), i) for i, other in enumerate(train.double())),
            reverse=True,
        )[:k]
        sums = [0.0] * num_classes
        for similarity, i in pairs:
            sums[int(labels[i])] += math.exp(similarity / temperature)
        votes.append([value / sum(sums) for value in sums])
    return torch.tensor(votes, dtype=torch.float64)


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 8, generator=generator)
    features = torch.nn.functional.normalize(features, dim=1)
    labels = torch.randint(0, 7, (50,), generator=generator)
    labels[0] = 6
    return features[:50], labels, features[50:]


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_votes_agree_with_the_formula(problem, temperature, chunk_size):
    train, labels, test = problem
    votes = knn_votes(
        train,
        labels,
        test,
        num_neighbors=[1, 5, 50],
        temperature=temperature,
        chunk_size=chunk_size,
    )
    for k, share in votes.items():
        oracle = _votes_by_loops(train, labels, test, k, temperature, 7)
        torch.testing.assert_close(share.double(), oracle, atol=1e-5, rtol=1e-5)


def test_one_neighbor_gives_its_label(problem):
    train, labels, test = problem
    nearest = (test @ train.T).argmax(dim=1)
    best = knn_predict(train, labels, test, num_neighbors=[1], temperature=0.1)[1]
    assert torch.equal(best[:, 0], labels[nearest])


def test_a_huge_temperature_counts_heads(problem):
    train, labels, test = problem
    votes = knn_votes(train, labels, test, num_neighbors=[50], temperature=1e9)[50]
    share = torch.bincount(labels, minlength=7) / 50
    torch.testing.assert_close(votes, share.expand(len(test), 7))


def test_a_tiny_temperature_is_finite_and_follows_the_nearest(problem):
    train, labels, test = problem
    votes = knn_votes(train, labels, test, num_neighbors=[9], temperature=1e-4)[9]
    assert torch.isfinite(votes).all()
    nearest = labels[(test @ train.T).argmax(dim=1)]
    assert torch.equal(votes.argmax(dim=1), nearest)


def test_half_precision_features_and_fewer_classes_than_predictions():
    train = torch.eye(3, dtype=torch.float16)
    best = knn_predict(
        train, torch.arange(3), train, num_neighbors=[3], temperature=0.1
    )[3]
    assert best.shape == (3, 3)
    assert torch.equal(best[:, 0], torch.arange(3))
    assert top_accuracy(best, torch.arange(3), top=5) == 1.0


def test_top_accuracy_counts_rows():
    predictions = torch.tensor([[0, 1], [2, 1], [1, 0]])
    labels = torch.tensor([0, 1, 2])
    assert top_accuracy(predictions, labels, top=1) == pytest.approx(1 / 3)
    assert top_accuracy(predictions, labels, top=2) == pytest.approx(2 / 3)


def test_no_test_rows(problem):
    train, labels, test = problem
    best = knn_predict(train, labels, test[:0], num_neighbors=[2], temperature=0.1)
    assert best[2].shape == (0, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_neighbors": [51]}, "between 1 and the number of training rows, 50"),
        ({"num_neighbors": []}, "between 1"),
        ({"temperature": 0.0}, "above 0"),
        ({"chunk_size": 0}, "at least 1"),
        ({"num_classes": 3}, r"labels lie in \[0, num_classes\)"),
    ],
)
def test_numbers_out_of_range_are_refused(problem, change, message):
    settings = {"num_neighbors": [5], "temperature": 0.1, **change}
    with pytest.raises(ValueError, match=message):
        knn_votes(*problem, **settings)


def test_shapes_that_do_not_fit_are_refused(problem):
    train, labels, test = problem
    settings = {"num_neighbors": [5], "temperature": 0.1}
    with pytest.raises(ValueError, match="one label for each of the 50"):
        knn_votes(train, labels.view(-1, 1), test, **settings)
    with pytest.raises(ValueError, match=r"must be \(N, D\) and \(M, D\)"):
        knn_votes(train, labels, test[:, :4], **settings)
