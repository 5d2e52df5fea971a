"""What k-means refuses, in words; the same over processes: test_kmeans_processes."""

import pytest
import torch
from torch.nn import functional

from vissl_swav.core.kmeans import spherical_kmeans, spherical_kmeans_of_heads

ROWS = functional.normalize(
    torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), dim=1
)


def with_value(value):
    rows = ROWS.clone()
    rows[7, 2] = value
    return rows


@pytest.mark.parametrize(
    ("features", "changes", "message"),
    [
        (ROWS, {"num_clusters": 21}, "num_clusters is 21, but there are 20 rows"),
        (ROWS, {"num_clusters": 0}, "num_clusters is 0; wanted one number >= 1"),
        (ROWS[:0], {}, "features have 0 rows; every process needs at least one"),
        (ROWS[0], {}, r"features have -1 columns .*wanted \(N, D\)"),
        (ROWS[None], {}, r"features have -1 columns .*wanted \(N, D\)"),
        (ROWS.long(), {}, "not a floating-point matrix"),
        (with_value(float("nan")), {}, r"rank\(s\) \[0\] hold NaN or infinity"),
        (with_value(float("inf")), {}, r"rank\(s\) \[0\] hold NaN or infinity"),
        (with_value(-float("inf")).half(), {}, "hold NaN or infinity"),
        (ROWS, {"initial_centroids": with_value(float("nan"))[5:8]}, "hold NaN"),
        (ROWS, {"initial_centroids": ROWS[:2]}, r"2 rows and 4 columns.*\(3, 4\)"),
        (ROWS, {"initial_centroids": ROWS[:3, :2]}, r"3 rows and 2 columns"),
        (ROWS, {"initial_centroids": ROWS[0]}, "-1 rows and -1 columns"),
        (ROWS, {"initial_centroids": ROWS[:0]}, "0 rows and 4 columns"),
        (ROWS, {"row_ids": torch.arange(19)}, "row_ids have 19 numbers"),
        (ROWS, {"num_iterations": -1}, "num_iterations is -1; wanted >= 0"),
        (ROWS, {"tolerance": -0.1}, "tolerance is -0.1"),
        (ROWS, {"tolerance": float("nan")}, "tolerance is nan"),
        (ROWS, {"seeding": "best"}, r"'best'; wanted one of \['k-means\+\+', 'random'"),
        (ROWS, {"empty_clusters": "drop"}, r"'drop'; wanted one of \['error', 'keep'"),
    ],
)
def test_errors_say_what_was_got_and_what_was_wanted(features, changes, message):
    with pytest.raises(ValueError, match=message):
        spherical_kmeans(features, **{"num_clusters": 3, **changes})


def test_errors_of_several_heads_name_the_head():
    with pytest.raises(ValueError, match="0 feature tensors for 1 numbers"):
        spherical_kmeans_of_heads([], num_clusters=[3])
    with pytest.raises(ValueError, match="2 feature tensors for 1 numbers"):
        spherical_kmeans_of_heads([ROWS, ROWS], num_clusters=[3])
    with pytest.raises(ValueError, match=r"num_clusters \(clustering 1\) is 30"):
        spherical_kmeans_of_heads([ROWS, ROWS], num_clusters=[3, 30])
    with pytest.raises(ValueError, match=r"\(clustering 1\) have 10 rows, others"):
        spherical_kmeans_of_heads([ROWS, ROWS[:10]], num_clusters=[3, 3])
    with pytest.raises(ValueError, match="1 initial centroids for 2 clusterings"):
        spherical_kmeans_of_heads(
            [ROWS, ROWS], num_clusters=[3, 3], initial_centroids=[ROWS[:3]]
        )


def test_nothing_given_is_changed():
    rows, ids, start = ROWS.clone(), torch.arange(20), ROWS[:3] * 2
    before = start.clone()
    spherical_kmeans(rows, num_clusters=3, row_ids=ids, initial_centroids=start)
    assert torch.equal(rows, ROWS) and torch.equal(ids, torch.arange(20))
    assert torch.equal(start, before)
