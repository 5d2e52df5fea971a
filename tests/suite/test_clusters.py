"""Numbers about clusters: against loops, limits and scikit-learn."""

import math

import pytest
import torch

from vissl_swav.suite import clusters


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(*shape, generator=generator)
    return torch.nn.functional.normalize(rows, dim=1)


def pair(seed, num_clusters=7, num_labels=4, count=200):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_labels, (count,), generator=generator)
    noise = torch.randint(num_clusters, (count,), generator=generator)
    keep = torch.rand(count, generator=generator) < 0.5
    return torch.where(keep, labels, noise), labels


@pytest.mark.parametrize("seed", range(4))
def test_mutual_information_and_purity(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    cluster, labels = pair(seed)
    wanted = metrics.normalized_mutual_info_score(labels, cluster)
    found = clusters.normalized_mutual_information(cluster, labels)
    assert found == pytest.approx(wanted, abs=1e-9)
    hits = 0
    for number in set(cluster.tolist()):
        members = labels[cluster == number].tolist()
        hits += max(members.count(label) for label in set(members))
    assert clusters.purity(cluster, labels) == pytest.approx(hits / len(labels))


def test_limits_of_mutual_information():
    nmi = clusters.normalized_mutual_information
    labels = torch.arange(60) % 3
    assert nmi(5 - labels, labels) == pytest.approx(1)
    assert nmi(torch.zeros(60), labels) == 0
    assert nmi(torch.zeros(60), torch.ones(60)) == 1
    halves = torch.arange(60) // 30
    assert nmi(halves, labels) == pytest.approx(0, abs=1e-12), "independent"


def test_duplicates_name_the_nearest_earlier_prototype(monkeypatch):
    C = unit(6, 32)
    C[3] = C[1]
    C[5] = torch.nn.functional.normalize(C[0] + 0.02 * C[2], dim=0)
    wanted = [(3, 1, 1.0), (5, 0, pytest.approx(float(C[5] @ C[0])))]
    assert clusters.duplicates(C) == wanted
    monkeypatch.setattr(clusters, "_MAX_BYTES", 2 * 6 * 4)
    assert clusters.duplicates(C) == wanted, "in chunks of two rows"
    assert clusters.duplicates(C, cosine=1.1) == []
    assert clusters.duplicates(C[:1]) == []


def test_chunks_do_not_matter(monkeypatch):
    Z, C = unit(50, 8), unit(6, 8, seed=1)
    settings = {"mode": "sinkhorn", "temperature": 0.1, "epsilon": 0.05}
    whole = clusters.assign(Z, C, **settings)
    monkeypatch.setattr(clusters, "_MAX_BYTES", 7 * 6 * 4)
    parts = clusters.assign(Z, C, **settings)
    assert torch.equal(whole.cluster, parts.cluster)
    torch.testing.assert_close(whole.score, parts.score)
    assert whole.error is not None and whole.error <= 1e-3


def test_softmax_and_argmax_agree_on_the_cluster():
    Z, C = unit(50, 8), unit(6, 8, seed=1)
    both = [
        clusters.assign(Z, C, mode=mode, temperature=0.1, epsilon=0.05)
        for mode in ("argmax", "softmax")
    ]
    assert torch.equal(both[0].cluster, both[1].cluster)
    assert (both[1].score >= 1 / 6).all()


def test_a_head_of_one_prototype():
    found = clusters.assign(
        unit(5, 8), unit(1, 8), mode="argmax", temperature=0.1, epsilon=0.05
    )
    assert found.cluster.tolist() == [0] * 5 and found.margin.tolist() == [0.0] * 5


def test_balance():
    assert clusters.balance(torch.tensor([5, 5, 5])) == pytest.approx(1)
    assert clusters.balance(torch.tensor([15, 0, 0])) == 0
    wanted = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(3)
    assert clusters.balance(torch.tensor([3, 1, 0])) == pytest.approx(wanted)


def test_top_images_are_the_best_of_the_cluster():
    found = clusters.Assignment(
        torch.tensor([0, 1, 0, 0]), torch.tensor([0.1, 0.9, 0.5, 0.5]), torch.zeros(4)
    )
    assert clusters.top_images(found, 0, 2) == [2, 3]
    assert clusters.top_images(found, 1, 5) == [1]


def test_refusals():
    for rows, mode, said in ((5, "max", "wanted one of"), (0, "argmax", "no image")):
        with pytest.raises(ValueError, match=said):
            clusters.assign(
                unit(rows, 8), unit(2, 8), mode=mode, temperature=0.1, epsilon=0.05
            )
