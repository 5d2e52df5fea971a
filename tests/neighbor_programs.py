"""What the processes of the k-NN tests run; spawned children import it."""

from vissl_swav.backends.torch_collective import collective
from vissl_swav.core.nearest_neighbors import knn_predict
from vissl_swav.core.neighbor_search import nearest_neighbors


def search(rank, world_size, problems, settings):
    """Of each problem (shards, test rows): neighbours, predictions, and two errors.

    The errors: more neighbours than rows, and labels below -1 on process 0 alone.
    """
    results = []
    for shards, test in problems:
        features, labels = shards[rank]
        rows = features, labels, test
        neighbors = nearest_neighbors(
            *rows, num_neighbors=5, collective=collective(), **settings
        )
        predicted = knn_predict(
            *rows,
            num_neighbors=(1, 5),
            temperatures=(0.07, 1.0),
            collective=collective(),
            **settings,
        )
        wrong = features, labels - (1 if rank == 0 else 0), test
        errors = (_error(rows, 10_000), _error(wrong, 1))
        results.append((neighbors, predicted, errors))
    return results


def _error(rows, num_neighbors):
    try:
        nearest_neighbors(*rows, num_neighbors=num_neighbors, collective=collective())
    except ValueError as refused:
        return str(refused)
    return None
