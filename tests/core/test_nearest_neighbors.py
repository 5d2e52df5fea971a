import math

import gloo
import neighbor_programs
import pytest
import torch

from vissl_swav.core.nearest_neighbors import (
    knn_predict,
    neighbor_classes,
    neighbor_votes,
    top_accuracy,
)
from vissl_swav.core.neighbor_search import Neighbors, nearest_neighbors


def _nearest_by_loops(train, labels, row, k):
    """Pairs (similarity, number) in float64, the lower number first among equals."""
    pairs = [
        (-sum(a * b for a, b in zip(row, other, strict=True)), number)
        for number, (other, label) in enumerate(zip(train, labels, strict=True))
        if label >= 0
    ]
    return [(-negative, number) for negative, number in sorted(pairs)[:k]]


def _votes_by_loops(train, labels, test, k, temperature, num_classes):
    """Wu et al. 2018, section 3.4, in float64, one pair of rows at a time."""
    votes = []
    for row in test.double().tolist():
        sums = [0.0] * num_classes
        for similarity, number in _nearest_by_loops(train.tolist(), labels, row, k):
            sums[labels[number]] += math.exp(similarity / temperature)
        votes.append([value / sum(sums) for value in sums])
    return torch.tensor(votes, dtype=torch.float64)


@pytest.fixture
def problem():
    """50 training rows with one label in ten missing, 10 test rows."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 8, generator=generator)
    features = torch.nn.functional.normalize(features, dim=1)
    labels = torch.randint(0, 7, (50,), generator=generator)
    labels[::10] = -1
    labels[1] = 6
    return features[:50], labels, features[50:]


@pytest.fixture
def ties():
    """Small whole numbers, so that similarities are exact and often equal."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randint(-1, 2, (70, 4), generator=generator).float()
    labels = torch.randint(-1, 3, (60,), generator=generator)
    return features[:60], labels, features[60:]


def _sizes(**sizes):
    return {"chunk_size": 1024, "train_chunk_size": 16384, **sizes}


@pytest.mark.parametrize(
    "sizes", [_sizes(), _sizes(chunk_size=3), _sizes(train_chunk_size=7)]
)
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_votes_agree_with_the_formula(problem, temperature, sizes):
    train, labels, test = problem
    neighbors = nearest_neighbors(train, labels, test, num_neighbors=45, **sizes)
    for k in (1, 5, 45):
        votes = neighbor_votes(
            neighbors, num_neighbors=k, temperature=temperature, num_classes=7
        )
        oracle = _votes_by_loops(train, labels.tolist(), test, k, temperature, 7)
        torch.testing.assert_close(votes.double(), oracle, atol=1e-5, rtol=1e-5)
        classes = neighbor_classes(
            neighbors, num_neighbors=k, temperature=temperature, num_classes=7
        )
        clear = oracle.sort(dim=1).values.diff(dim=1)[:, -1] > 1e-4
        assert torch.equal(classes[clear, 0], oracle.argmax(dim=1)[clear])


@pytest.mark.parametrize("chunk_size", [1, 4, 100])
@pytest.mark.parametrize("train_chunk_size", [1, 7, 33, 100])
@pytest.mark.parametrize("k", [1, 6, 40])
def test_equal_similarities_come_by_number_whatever_the_chunks(
    ties, chunk_size, train_chunk_size, k
):
    train, labels, test = ties
    found = nearest_neighbors(
        train,
        labels,
        test,
        num_neighbors=k,
        chunk_size=chunk_size,
        train_chunk_size=train_chunk_size,
    )
    for point, number, similarity in zip(
        test, found.row, found.similarity, strict=True
    ):
        wanted = _nearest_by_loops(train.tolist(), labels.tolist(), point.tolist(), k)
        assert number.tolist() == [row for _, row in wanted]
        assert similarity.tolist() == [value for value, _ in wanted]
    assert torch.equal(found.label, labels[found.row])


@pytest.mark.parametrize("world_size", [2, 3])
def test_shards_of_any_size_equal_one_process(ties, problem, world_size):
    problems, alone = [], []
    for train, labels, test in (ties, problem):
        half = len(train) - 17
        sizes = [half, 17] if world_size == 2 else [2, half - 2, 17]
        shards = list(zip(train.split(sizes), labels.split(sizes), strict=True))
        problems.append((shards, test))
        alone += neighbor_programs.search(0, 1, [([(train, labels)], test)], {})
    settings = {"chunk_size": 4, "train_chunk_size": 16}
    results = gloo.run(neighbor_programs.search, world_size, problems, settings)
    for result in results:
        for mine, wanted in zip(result, alone, strict=True):
            (neighbors, classes, errors), (expected, predicted, _) = mine, wanted
            assert torch.equal(neighbors.row, expected.row)
            assert torch.equal(neighbors.label, expected.label)
            torch.testing.assert_close(neighbors.similarity, expected.similarity)
            assert classes.keys() == predicted.keys()
            for combination, best in classes.items():
                assert torch.equal(best, predicted[combination])
            assert "num_neighbors is 10000" in errors[0]
            assert "training labels are below -1" in errors[1]
    labelled = int((ties[1] >= 0).sum())
    for result in results:  # All are told the same, of all rows together.
        assert f"training rows, {labelled} with a label" in result[0][2][0]
        assert f"({60 - labelled} without" in result[0][2][0]


def test_one_neighbor_gives_its_label(problem):
    train, labels, test = problem
    labels = labels.clamp(min=0)
    nearest = (test @ train.T).argmax(dim=1)
    best = knn_predict(train, labels, test, num_neighbors=[1], temperatures=[0.1])
    assert torch.equal(best[1, 0.1][:, 0], labels[nearest])


def test_unlabelled_rows_and_the_hosts_column_of_labels(problem):
    train, labels, test = problem
    kept = labels >= 0
    settings = {"num_neighbors": [3, 20], "temperatures": [0.07, 0.5]}
    whole = knn_predict(train, labels[:, None], test, **settings)
    without = knn_predict(train[kept], labels[kept], test, **settings)
    assert list(whole) == [(3, 0.07), (3, 0.5), (20, 0.07), (20, 0.5)]
    for combination, best in whole.items():
        assert torch.equal(best, without[combination])


def _neighbors(similarities, labels):
    similarity = torch.tensor([similarities])
    label = torch.tensor([labels])
    return Neighbors(similarity, label, torch.arange(len(labels)).view(1, -1))


def test_a_huge_temperature_counts_heads():
    votes = neighbor_votes(
        _neighbors([0.9, 0.1, -0.8], [2, 0, 0]),
        num_neighbors=3,
        temperature=1e9,
        num_classes=4,
    )
    torch.testing.assert_close(votes, torch.tensor([[2 / 3, 0, 1 / 3, 0]]))


def test_a_tiny_temperature_is_finite_and_follows_the_nearest():
    neighbors = _neighbors([0.9, 0.8, 0.8], [2, 0, 0])
    votes = neighbor_votes(neighbors, num_neighbors=3, temperature=1e-6, num_classes=3)
    assert torch.equal(votes, torch.tensor([[0.0, 0.0, 1.0]]))


def test_equal_votes_come_in_the_order_of_the_class():
    neighbors = _neighbors([0.5, 0.5], [3, 1])
    best = neighbor_classes(
        neighbors, num_neighbors=2, temperature=0.1, num_classes=5, num_predictions=3
    )
    assert best.tolist() == [[1, 3, 0]]


def test_half_precision_features_and_fewer_classes_than_predictions():
    train = torch.eye(3, dtype=torch.float16)
    best = knn_predict(
        train, torch.arange(3), train, num_neighbors=[3], temperatures=[0.1]
    )[3, 0.1]
    assert best.shape == (3, 3)
    assert torch.equal(best[:, 0], torch.arange(3))
    assert top_accuracy(best, torch.arange(3), top=5) == 1.0


def test_rows_are_read_once_in_order_and_progress_is_told(problem):
    class Recorded:
        shape = problem[0].shape

        def __init__(self):
            self.read = []

        def __getitem__(self, rows):
            self.read.append((rows.start, rows.stop))
            return problem[0][rows]

    rows, told = Recorded(), []
    nearest_neighbors(
        rows,
        *problem[1:],
        num_neighbors=2,
        chunk_size=3,
        train_chunk_size=20,
        report=lambda done, total: told.append((done, total)),
    )
    assert rows.read == [(0, 20), (20, 40), (40, 50)]
    assert told == [(20, 50), (40, 50), (50, 50)]


def test_top_accuracy_counts_labelled_rows():
    predictions = torch.tensor([[0, 1], [2, 1], [1, 0], [0, 1]])
    labels = torch.tensor([0, 1, 2, -1])
    assert top_accuracy(predictions, labels, top=1) == pytest.approx(1 / 3)
    assert top_accuracy(predictions, labels[:, None], top=2) == pytest.approx(2 / 3)
    assert math.isnan(top_accuracy(predictions, torch.full((4,), -1), top=1))


def test_no_test_rows(problem):
    train, labels, test = problem
    best = knn_predict(train, labels, test[:0], num_neighbors=[2], temperatures=[0.1])
    assert best[2, 0.1].shape == (0, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_neighbors": [46]}, "training rows, 45 with a label .5 without"),
        ({"num_neighbors": []}, "one or more of each"),
        ({"num_neighbors": [0, 5]}, "wanted 1 or more"),
        ({"temperatures": [0.1, 0.0]}, "above 0"),
        ({"temperatures": []}, "one or more of each"),
        ({"chunk_size": 0}, "at least 1"),
        ({"num_classes": 3}, r"labels lie in \[0, num_classes\)"),
    ],
)
def test_numbers_out_of_range_are_refused(problem, change, message):
    settings = {"num_neighbors": [5], "temperatures": [0.1], **change}
    with pytest.raises(ValueError, match=message):
        knn_predict(*problem, **settings)


def test_what_does_not_fit_is_refused(problem):
    train, labels, test = problem
    with pytest.raises(ValueError, match="for each of the 50"):
        nearest_neighbors(train, torch.zeros(50, 2).long(), test, num_neighbors=5)
    with pytest.raises(ValueError, match="float32"):
        nearest_neighbors(train, labels.float(), test, num_neighbors=5)
    with pytest.raises(ValueError, match=r"must be \(N, D\) and \(M, D\)"):
        nearest_neighbors(train, labels, test[:, :4], num_neighbors=5)
    with pytest.raises(ValueError, match="5 training labels are below -1"):
        nearest_neighbors(train, labels.where(labels >= 0, -2), test, num_neighbors=5)


@pytest.mark.parametrize("where", ["train", "test"])
def test_features_that_are_not_finite_are_refused(problem, where):
    train, labels, test = problem
    (train if where == "train" else test)[3] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        nearest_neighbors(train, labels, test, num_neighbors=5)


@pytest.mark.gpu
def test_a_gpu_finds_the_same(ties, problem):
    for case in (ties, problem):
        here = nearest_neighbors(*case, num_neighbors=9)
        there = nearest_neighbors(
            *(tensor.cuda() for tensor in case), num_neighbors=9, train_chunk_size=16
        )
        assert torch.equal(there.row.cpu(), here.row)
        torch.testing.assert_close(there.similarity.cpu(), here.similarity)
