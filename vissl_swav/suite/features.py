"""Features that the host's extraction engine wrote, and k-NN on them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vissl_swav.core.nearest_neighbors import knn_predict, top_accuracy


def load(folder: Path, split: str, layer: str) -> tuple[Tensor, Tensor]:
    """Unit features (N, D) and labels (N,) of a split, in the order of the data set."""
    from vissl.utils.extract_features_utils import ExtractedFeaturesLoader

    data = ExtractedFeaturesLoader.load_features(
        str(folder), split, layer, flatten_features=True
    )
    features = torch.from_numpy(data["features"]).float()
    labels = torch.from_numpy(data["targets"]).reshape(-1).long()
    return torch.nn.functional.normalize(features, dim=1), labels


def knn_accuracy(
    folder: Path,
    layer: str,
    *,
    num_neighbors: Sequence[int] = (20,),
    temperature: float = 0.1,
) -> dict[int, float]:
    """Top-1 accuracy in percent of the weighted k-NN vote, for each k.

    Cosine similarity, votes weighted by exp(similarity / temperature) (Wu et al., 2018,
    as VISSL's nearest-neighbour test).
    """
    train, train_labels = load(folder, "train", layer)
    test, test_labels = load(folder, "test", layer)
    num_classes = int(max(train_labels.max(), test_labels.max())) + 1
    wanted = [min(k, len(train)) for k in num_neighbors]
    predictions = knn_predict(
        train,
        train_labels,
        test,
        num_neighbors=wanted,
        temperature=temperature,
        num_classes=num_classes,
    )
    return {
        k: 100.0 * top_accuracy(predictions[used], test_labels, top=1)
        for k, used in zip(num_neighbors, wanted, strict=True)
    }
