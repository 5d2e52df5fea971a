"""The monitors against explicit loops in float64, and at their limits."""

import math

import pytest
import torch

from vissl_swav.health import monitors

unit = torch.nn.functional.normalize


def rows(count, dim, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return unit(torch.randn(count, dim, generator=generator), dim=1)


def spread_by_loops(Z):
    count, dim = Z.shape
    total = 0.0
    for d in range(dim):
        values = [float(Z[b, d]) for b in range(count)]
        mean = math.fsum(values) / count
        total += math.sqrt(math.fsum((v - mean) ** 2 for v in values) / count)
    return total / dim * math.sqrt(dim)


def test_spread_equals_loops():
    Z = rows(17, 5).double()
    found = monitors.feature_spread(monitors.sums_of_features(Z))
    assert float(found) == pytest.approx(spread_by_loops(Z), rel=1e-12)


def test_spread_is_one_on_the_sphere_and_nought_for_equal_features():
    spread = monitors.prototype_spread
    assert float(spread(rows(5000, 16))) == pytest.approx(1, abs=0.02)
    # A unit vector's square, in float32, leaves 1e-7 or so.
    assert float(spread(rows(1, 16).expand(64, 16))) < 1e-6
    line = torch.tensor([[1.0, 0, 0, 0], [-1, 0, 0, 0]])
    assert float(spread(line)) == pytest.approx(1 / 2)


def test_sums_of_shards_add_up_to_those_of_all():
    Z, Q = rows(23, 6), torch.softmax(rows(23, 9, seed=1), dim=1)
    for sums in (monitors.sums_of_features, monitors.sums_of_codes):
        X = Z if sums is monitors.sums_of_features else Q
        parts = sum(sums(part) for part in (X[:4], X[4:4], X[4:]))
        torch.testing.assert_close(parts, sums(X))


def test_code_entropies_equal_loops():
    Q = torch.softmax(3 * rows(11, 7), dim=1).double()
    of_code, of_mean = monitors.code_entropies(monitors.sums_of_codes(Q))
    each = [-sum(float(q) * math.log(float(q)) for q in row) for row in Q]
    mean = [float(Q[:, k].sum()) / 11 for k in range(7)]
    assert float(of_code) == pytest.approx(math.fsum(each) / 11)
    assert float(of_mean) == pytest.approx(-sum(q * math.log(q) for q in mean))


def test_uniform_codes_tell_nothing_and_one_hot_codes_everything():
    uniform = torch.full((6, 4), 0.25)
    hot = torch.eye(4).repeat(3, 1)
    for Q, wanted in ((uniform, (math.log(4), math.log(4))), (hot, (0, math.log(4)))):
        found = monitors.code_entropies(monitors.sums_of_codes(Q))
        assert [float(x) for x in found] == pytest.approx(wanted)


def test_progress():
    ceiling, floor = math.log(100), math.log(4)
    assert monitors.progress(ceiling, ceiling, floor) == 0
    assert monitors.progress(floor, ceiling, floor) == 1
    assert monitors.progress(ceiling + 1, ceiling, floor) < 0
    assert monitors.progress(0.0, 0.0, 0.0) == 0, "one prototype"


def test_norm_error_finds_the_worst_row():
    Z = rows(9, 5)
    assert float(monitors.norm_error(Z)) < 1e-6
    Z[4] *= 1.5
    assert float(monitors.norm_error(Z)) == pytest.approx(0.5, abs=1e-6)
    Z[2, 1] = math.nan
    assert float(monitors.norm_error(Z)) == math.inf
    Z[2] = math.inf
    assert float(monitors.norm_error(Z)) == math.inf


def test_count_largest():
    S = torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.0, 0.7, 0.2]])
    assert monitors.count_largest(S).tolist() == [1, 2, 0]


@pytest.mark.parametrize("rows_at_once", [1, 3, 7, 100])
def test_distinct_prototypes_equal_loops(rows_at_once):
    C = rows(14, 6)
    C[5] = 2 * C[1] + 0.01  # A near-copy, of another length.
    C[9] = C[5]
    C[13] = -C[0]  # The opposite is no copy.
    distinct = 0
    for i in range(14):
        earlier = [float(unit(C[i], dim=0) @ unit(C[j], dim=0)) for j in range(i)]
        distinct += all(cosine < 0.95 for cosine in earlier)
    assert monitors.num_distinct(C, rows_at_once=rows_at_once) == distinct == 12


def test_equal_prototypes_are_one():
    assert monitors.num_distinct(torch.ones(3000, 8)) == 1


def ring(rows, *, length, next_row):
    """`rows` in the order of arrival, laid out as the queue does."""
    features = torch.empty(length, rows.shape[1])
    for age, row in enumerate(reversed(rows[-length:])):
        features[(next_row - 1 - age) % length] = row
    return features


@pytest.mark.parametrize("next_row", [0, 3, 11])
def test_queue_drift_compares_newest_and_oldest(next_row):
    """Loops over the rows in their order of arrival."""
    history = rows(12, 5, seed=4)
    Z = history[-4:]
    queue = ring(history, length=12, next_row=next_row)
    found = monitors.queue_drift(queue, torch.tensor(next_row), Z, rows=3)

    def nearest(some):
        return sum(max(float(z @ row) for row in some) for z in Z) / len(Z)

    wanted = nearest(history[5:8]) - nearest(history[:3])
    assert float(found) == pytest.approx(wanted, abs=1e-6)


def test_queue_drift_is_nought_at_rest_and_grows_as_the_encoder_turns():
    generator = torch.Generator().manual_seed(0)
    images = rows(32, 16)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]

    def drift(share):
        """The same images again and again, seen by an encoder that turns."""
        batches = [
            unit(images + share * step / 8 * images @ turn, dim=1) for step in range(9)
        ]
        history = torch.cat(batches)
        queue = ring(history, length=32 * 8, next_row=0)
        return float(monitors.queue_drift(queue, torch.tensor(0), batches[-1], rows=32))

    assert drift(0.0) == pytest.approx(0, abs=1e-6)
    assert 0.01 < drift(0.5) < drift(2.0)
