import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from vissl_swav.backends import flash_nearest
from vissl_swav.backends.flash_nearest import FlashNearest, nearest_by
from vissl_swav.core.kmeans import spherical_kmeans
from vissl_swav.core.nearest_centroid import TorchNearest

ROOT = Path(__file__).resolve().parents[2]
TF32 = 2e-3


def unit_rows(N, D, *, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(N, D, generator=generator), dim=1).to(dtype)


def kernel(x, centroids):
    """What flash-kmeans asks of its arguments and returns, by torch."""
    assert x.dtype == centroids.dtype == torch.float32
    assert x.is_contiguous() and centroids.is_contiguous()
    assert x.shape[0] == centroids.shape[0] == 1 and x.shape[2] == centroids.shape[2]
    return torch.bmm(x, centroids.transpose(1, 2)).argmax(dim=2).int()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_kernel_that_gives_labels_alone(dtype, monkeypatch):
    monkeypatch.setattr(flash_nearest, "_ROWS", 64)
    rows = unit_rows(150, 24, dtype=dtype)[:, ::2]
    C = unit_rows(9, 24, seed=1)[:, 1::2].to(torch.promote_types(dtype, torch.float32))
    indices, similarities = nearest_by(kernel, rows, C)
    expected, best = TorchNearest()(rows, C)
    assert torch.equal(indices, expected) and indices.dtype == torch.long
    torch.testing.assert_close(similarities, best, rtol=0, atol=1e-6)


def test_absence_is_said(monkeypatch):
    monkeypatch.setattr(flash_nearest, "find_spec", lambda name: None)
    assert not flash_nearest.has_flash_kmeans()
    with pytest.raises(ImportError, match="pip install flash-kmeans.*TorchNearest"):
        FlashNearest()


def test_features_on_the_cpu_are_refused_in_words(monkeypatch):
    monkeypatch.setattr(flash_nearest, "find_spec", lambda name: object())
    with pytest.raises(RuntimeError, match="lie on cpu.*CUDA.*TorchNearest"):
        FlashNearest()(unit_rows(5, 4), unit_rows(2, 4))


def test_it_is_imported_when_it_is_used_and_not_before():
    program = (
        "import sys\n"
        "for name in ('flash_kmeans', 'triton', 'faiss'):\n"
        "    sys.modules[name] = None\n"
        "import vissl_swav.backends.flash_nearest, vissl_swav.backends.faiss_nearest\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=120)
    assert done.returncode == 0


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("N", "D", "K"), [(1, 16, 1), (5000, 128, 300), (3001, 100, 77), (600, 1024, 50)]
)
def test_labels_as_torch_up_to_ties(dtype, N, D, K):
    """Ties to TF32's precision; dimensions that are no power of two."""
    if importlib.util.find_spec("flash_kmeans") is None:
        pytest.skip("flash-kmeans is not installed")
    rows, C = unit_rows(N, D, dtype=dtype).cuda(), unit_rows(K, D, seed=1).cuda()
    indices, similarities = FlashNearest()(rows, C)
    expected, best = TorchNearest()(rows, C)
    assert indices.dtype == torch.long and indices.is_cuda
    torch.testing.assert_close(similarities, best, rtol=0, atol=TF32)
    chosen = (rows.float() * C[indices]).sum(dim=1)
    torch.testing.assert_close(chosen, similarities, rtol=0, atol=1e-6)
    assert (indices == expected).double().mean() > 0.98


@pytest.mark.gpu
def test_a_clustering_is_as_good_as_that_of_torch():
    if importlib.util.find_spec("flash_kmeans") is None:
        pytest.skip("flash-kmeans is not installed")
    rows = unit_rows(20_000, 64).cuda()
    of_flash, of_torch = (
        spherical_kmeans(
            rows,
            num_clusters=100,
            nearest=nearest,
            generator=torch.Generator().manual_seed(0),
        ).objective[-1]
        for nearest in (FlashNearest(), TorchNearest())
    )
    assert abs(of_flash - of_torch) < TF32
