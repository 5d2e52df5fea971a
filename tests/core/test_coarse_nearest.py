"""Two passes give the labels of one, wherever rounding could have hidden the best."""

import pytest
import torch

from vissl_swav.core.coarse_nearest import CoarseCentroids, multiplies_bfloat16
from vissl_swav.core.nearest_centroid import TorchNearest


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(*shape, generator=generator)
    return torch.nn.functional.normalize(rows, dim=1)


def in_one_direction(*shape, spread, seed=0):
    """Rows around one direction: all cosines near 1, as after a collapse."""
    return torch.nn.functional.normalize(
        unit(1, shape[1], seed=seed) + spread * unit(*shape, seed=seed + 1), dim=1
    )


CASES = {
    "random": (unit(3000, 64), unit(500, 64, seed=1)),
    "not a multiple of the groups": (unit(300, 32), unit(257, 32, seed=1)),
    "fewer than the groups": (unit(300, 32), unit(7, 32, seed=1)),
    "one centroid": (unit(50, 8), unit(1, 8, seed=1)),
    "rows are centroids": (unit(400, 16)[:300], unit(400, 16)),
    "few dimensions": (unit(2000, 2), unit(400, 2, seed=1)),
    "collapsed": (
        in_one_direction(500, 32, spread=0.05),
        in_one_direction(400, 32, spread=0.05, seed=3),
    ),
    "all opposite": (unit(1, 16).repeat(20, 1), -unit(1, 16).repeat(300, 1)),
    "not of unit length": (5 * unit(300, 16), 0.1 * unit(300, 16, seed=1)),
    "tiny": (1e-21 * unit(300, 16), unit(300, 16, seed=1)),
    "tinier": (1e-30 * unit(300, 16), 1e-6 * unit(300, 16, seed=1)),
    "many dimensions": (unit(200, 2048), unit(400, 2048, seed=1)),
    "no rows": (unit(5, 8)[:0], unit(300, 8)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("max_bytes", [20_000, 2**27])
def test_labels_are_those_of_a_float64_search(name, max_bytes):
    """Up to ties: the cosine of the label is the largest, to float32's rounding."""
    Z, C = CASES[name]
    labels, similarities = TorchNearest(max_bytes, coarse=True)(Z, C)
    assert labels.shape == similarities.shape == (len(Z),)
    if len(Z):
        S = Z.double() @ C.double().t()
        largest = S.max(dim=1).values
        scale = float(largest.abs().max())
        found = S.gather(1, labels[:, None])[:, 0]
        assert (largest - found).max() <= 1e-6 * scale
        torch.testing.assert_close(
            similarities.double(), largest, rtol=0, atol=1e-6 * scale
        )


def test_the_coarse_pass_alone_would_be_wrong():
    """Centroids closer than bfloat16 can tell: some labels must come from the second.

    And it is the second pass that found them, not the fallback.
    """
    Z = unit(2000, 64)
    base = unit(300, 64, seed=1)
    C = torch.cat([base, base + 1e-4 * unit(300, 64, seed=2)])
    by_rounding = (Z.bfloat16() @ C.bfloat16().t()).argmax(dim=1)
    centroids = CoarseCentroids(C)
    room = torch.empty(len(Z), centroids.columns, dtype=torch.bfloat16)
    found = centroids.nearest(Z, room)
    assert found is not None
    exact = (Z.double() @ C.double().t()).argmax(dim=1)
    assert (by_rounding != exact).float().mean() > 0.2
    assert (found[0] != exact).float().mean() < 1e-3


def test_where_it_does_not_pay_it_says_so():
    """Too many close centroids, or best scores that are not positive."""
    for name in ("collapsed", "all opposite"):
        Z, C = CASES[name]
        centroids = CoarseCentroids(C)
        room = torch.empty(len(Z), centroids.columns, dtype=torch.bfloat16)
        assert centroids.nearest(Z, room) is None, name


def test_it_is_for_float32_on_processors_that_have_it():
    assert not multiplies_bfloat16(torch.device("meta"))
    Z, C = unit(10, 4).double(), unit(300, 4).double()
    labels, similarities = TorchNearest(coarse=True)(Z, C)
    assert similarities.dtype == torch.float64
    assert torch.equal(labels, (Z @ C.t()).argmax(dim=1))
