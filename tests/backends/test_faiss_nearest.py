import importlib.util

import pytest
import torch
from torch.nn import functional

from vissl_swav.backends import faiss_nearest
from vissl_swav.backends.faiss_nearest import FaissNearest
from vissl_swav.core.kmeans import spherical_kmeans
from vissl_swav.core.nearest_centroid import TorchNearest


@pytest.fixture
def faiss():
    if importlib.util.find_spec("faiss") is None:
        pytest.skip("faiss is not installed")


def unit_rows(N, D, *, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(N, D, generator=generator), dim=1).to(dtype)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16]
)
@pytest.mark.parametrize(("N", "K"), [(1, 1), (500, 40), (70_000, 3)])
def test_labels_as_torch_up_to_ties(faiss, dtype, N, K):
    """70 000 rows are more than are handed to faiss at a time."""
    rows = unit_rows(N, 24, dtype=dtype)
    C = unit_rows(K, 24, seed=1).to(torch.promote_types(dtype, torch.float32))
    indices, similarities = FaissNearest()(rows, C)
    expected, best = TorchNearest()(rows, C)
    assert indices.dtype == torch.long and similarities.dtype == C.dtype
    torch.testing.assert_close(similarities, best, rtol=0, atol=1e-5)
    chosen = (rows.to(C.dtype) * C[indices]).sum(dim=1)
    torch.testing.assert_close(chosen, best, rtol=0, atol=1e-5)
    assert (indices == expected).double().mean() > 0.999


def test_rows_and_centroids_with_gaps_in_memory(faiss):
    rows, C = unit_rows(60, 20)[::2, 1::2], unit_rows(20, 10, seed=1).t()[:, ::2].t()
    assert not rows.is_contiguous()
    assert torch.equal(FaissNearest()(rows, C)[0], (rows @ C.t()).argmax(dim=1))


@pytest.mark.parametrize("seeding", ["random", "k-means++"])
def test_a_clustering_is_that_of_torch(faiss, seeding):
    results = [
        spherical_kmeans(
            unit_rows(2000, 16),
            num_clusters=50,
            num_iterations=5,
            seeding=seeding,
            nearest=nearest,
            generator=torch.Generator().manual_seed(0),
        )
        for nearest in (FaissNearest(), TorchNearest())
    ]
    of_faiss, of_torch = results
    torch.testing.assert_close(of_faiss.centroids, of_torch.centroids)
    assert (of_faiss.assignments == of_torch.assignments).double().mean() > 0.999
    torch.testing.assert_close(of_faiss.objective, of_torch.objective)


def test_absence_is_said(monkeypatch):
    monkeypatch.setattr(faiss_nearest, "find_spec", lambda name: None)
    assert not faiss_nearest.has_faiss()
    with pytest.raises(ImportError, match="pip install faiss-cpu.*TorchNearest"):
        FaissNearest()


@pytest.mark.gpu
def test_on_a_gpu(faiss):
    """faiss built for GPUs answers as torch does, faiss-cpu with what to install."""
    import faiss as module

    rows, C = unit_rows(5000, 32).cuda(), unit_rows(100, 32, seed=1).cuda()
    if not hasattr(module, "StandardGpuResources"):
        with pytest.raises(RuntimeError, match="install faiss-gpu"):
            FaissNearest()(rows, C)
        return
    indices, similarities = FaissNearest()(rows, C)
    expected, best = TorchNearest()(rows, C)
    assert indices.is_cuda
    torch.testing.assert_close(similarities, best, rtol=0, atol=1e-3)
    assert (indices == expected).double().mean() > 0.99
