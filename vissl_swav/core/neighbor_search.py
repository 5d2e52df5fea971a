"""The k training rows most similar to each test row, chunk by chunk and over processes.

Similarity is the inner product, the cosine for unit rows, in float32 or better. The
N x M matrix never stands in memory: for one chunk of training rows after the other the
best k are merged into the best k so far. Among equal similarities the lower row number
comes first, so the result depends on neither the chunks nor the number of processes, up
to the rounding of the similarities (whose last bit may differ with a chunk's shape).

Symbols: N training rows over all processes, M test rows, D dimension, k neighbours.
Samples are rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vissl_swav.core.collective import LOCAL, Collective
from vissl_swav.core.precision import exact_dtype

UNLABELLED = -1


class Rows(Protocol):
    """A matrix of which slices are taken: a tensor, or rows that lie in files."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""
        ...

    def __getitem__(self, rows: slice, /) -> Tensor:
        """Consecutive rows (n, D), on the device of the search."""
        ...


class Neighbors(NamedTuple):
    """The neighbours of each test row, nearest first; all three are (M, k).

    Attributes:
        similarity: inner products.
        label: of the training rows.
        row: the training rows' numbers; those of process 0 come first.
    """

    similarity: Tensor
    label: Tensor
    row: Tensor


@torch.no_grad()
def nearest_neighbors(
    train_features: Rows,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    num_neighbors: int,
    chunk_size: int = 1024,
    train_chunk_size: int = 16384,
    collective: Collective = LOCAL,
    report: Callable[[int, int], object] | None = None,
) -> Neighbors:
    """Return the `num_neighbors` nearest labelled training rows of each test row.

    Memory: ``chunk_size x train_chunk_size`` similarities, one chunk of training rows
    and M x k neighbours, whatever N is.

    Args:
        train_features: this process's part of the training rows, (n, D); n may differ
            from process to process and be 0.
        train_labels: (n,) or (n, 1) classes from 0; rows of -1 are left out.
        test_features: (M, D), the same on all processes.
        num_neighbors: k, at most the number of labelled rows of all processes.
        chunk_size: test rows compared at once.
        train_chunk_size: training rows compared at once.
        collective: the processes, each with a part of the training rows.
        report: called with (training rows done, n) after each chunk of them.

    Returns:
        The same on all processes.

    Raises:
        ValueError: shapes that do not fit, fewer labelled rows than neighbours, or a
            feature that is not finite.
    """
    _check_shapes(train_features, train_labels, test_features)
    _check_sizes(num_neighbors, chunk_size, train_chunk_size)
    labels = train_labels.reshape(-1)
    first = _agree(labels, num_neighbors, collective)
    best = _nothing(test_features, num_neighbors)
    dtype, num_rows = best.similarity.dtype, labels.numel()
    for start in range(0, num_rows, train_chunk_size):
        stop = min(start + train_chunk_size, num_rows)
        rows = train_features[start:stop].to(dtype)
        chunk = _labelled(rows, labels[start:stop], first + start)
        for offset in range(0, test_features.shape[0], chunk_size):
            part = slice(offset, offset + chunk_size)
            new = _nearest_of_chunk(chunk, test_features[part].to(dtype), num_neighbors)
            merged = _merge(_part(best, part), new)
            for column, values in zip(best, merged, strict=True):
                column[part] = values
        if report is not None:
            report(stop, num_rows)
    if collective.world_size > 1:
        best = _merge_processes(best, chunk_size, collective)
    if not bool(torch.isfinite(best.similarity).all()):
        raise ValueError(
            "a similarity is not finite: the training or test features hold NaN or "
            "infinity; look for them with torch.isfinite(features).all(dim=1)"
        )
    return best


class _Chunk(NamedTuple):
    """Labelled training rows (n, D), with their labels and numbers (n,)."""

    rows: Tensor
    label: Tensor
    number: Tensor


def _labelled(rows: Tensor, labels: Tensor, first: int) -> _Chunk:
    number = torch.arange(first, first + labels.numel(), device=labels.device)
    kept = labels != UNLABELLED
    if not bool(kept.all()):
        rows, labels, number = rows[kept], labels[kept], number[kept]
    return _Chunk(rows, labels.long(), number)


def _nearest_of_chunk(chunk: _Chunk, test: Tensor, count: int) -> Neighbors:
    with torch.autocast(test.device.type, enabled=False):
        similarity, column = _top(test @ chunk.rows.T, count)
    return Neighbors(similarity, chunk.label[column], chunk.number[column])


def _nothing(test_features: Tensor, num_neighbors: int) -> Neighbors:
    """Neighbours before any was found: farther and of a higher number than any."""
    size = (test_features.shape[0], num_neighbors)
    dtype = exact_dtype(test_features.dtype)
    similarity = test_features.new_full(size, -torch.inf, dtype=dtype)
    label = test_features.new_full(size, UNLABELLED, dtype=torch.int64)
    return Neighbors(similarity, label, torch.full_like(label, 1 << 62))


def _top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest of each row and their columns, equal ones in the order of columns.

    `topk` may leave out any of several equal scores; where the last one kept equals the
    first one left out, a stable sort of the row decides.
    """
    count = min(count, scores.shape[1])
    more = min(count + 1, scores.shape[1])
    values, columns = scores.topk(more, dim=1)
    if more > count:
        doubtful = (values[:, count] == values[:, count - 1]).nonzero().flatten()
        values, columns = values[:, :count], columns[:, :count]
        if doubtful.numel():
            ordered = scores[doubtful].sort(dim=1, descending=True, stable=True)
            values[doubtful] = ordered.values[:, :count]
            columns[doubtful] = ordered.indices[:, :count]
    return values, columns


def _merge(one: Neighbors, other: Neighbors) -> Neighbors:
    """The nearest of both, as many as `one` has, equal ones by their number."""
    pairs = zip(one, other, strict=True)
    similarity, label, number = (torch.cat(pair, dim=1) for pair in pairs)
    by_number = number.argsort(dim=1, stable=True)
    similarity = similarity.gather(1, by_number)
    order = similarity.argsort(dim=1, descending=True, stable=True)
    order = order[:, : one.row.shape[1]]
    place = by_number.gather(1, order)
    return Neighbors(
        similarity.gather(1, order), label.gather(1, place), number.gather(1, place)
    )


def _merge_processes(
    mine: Neighbors, chunk_size: int, collective: Collective
) -> Neighbors:
    """The nearest of all processes' rows; every process calls it equally often."""
    parts: list[Neighbors] = []
    for offset in range(0, mine.row.shape[0], chunk_size):
        part = _part(mine, slice(offset, offset + chunk_size))
        gathered = Neighbors(*(collective.all_gather(column) for column in part))
        best = Neighbors(*(column[0] for column in gathered))
        for rank in range(1, collective.world_size):
            best = _merge(best, Neighbors(*(column[rank] for column in gathered)))
        parts.append(best)
    if not parts:
        return mine
    return Neighbors(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _part(neighbors: Neighbors, rows: slice) -> Neighbors:
    return Neighbors(*(column[rows] for column in neighbors))


def _agree(labels: Tensor, num_neighbors: int, collective: Collective) -> int:
    """The number of this process's first row among those of all.

    Every process tells what it holds before any of them may raise.
    """
    facts = [labels.numel(), int((labels >= 0).sum()), int((labels < UNLABELLED).sum())]
    mine = torch.tensor(facts, device=labels.device)
    told: list[list[int]] = collective.all_gather(mine).tolist()  # pyright: ignore
    total, labelled, wrong = (sum(column) for column in zip(*told, strict=True))
    if wrong:
        raise ValueError(
            f"{wrong} training labels are below -1; wanted classes from 0, and -1 for "
            "an image without one"
        )
    if num_neighbors > labelled:
        raise ValueError(
            f"num_neighbors is {num_neighbors}; each must be between 1 and the number "
            f"of training rows, {labelled} with a label ({total - labelled} without "
            "one are left out)"
        )
    return sum(rows for rows, *_ in told[: collective.rank])


def _check_sizes(num_neighbors: int, chunk_size: int, train_chunk_size: int) -> None:
    if min(num_neighbors, chunk_size, train_chunk_size) < 1:
        raise ValueError(
            f"num_neighbors is {num_neighbors}, chunk_size {chunk_size} and "
            f"train_chunk_size {train_chunk_size}; each must be at least 1"
        )


def _check_shapes(train: Rows, labels: Tensor, test: Tensor) -> None:
    shape = tuple(train.shape)
    if len(shape) != 2 or test.ndim != 2 or test.shape[1] != shape[1]:
        raise ValueError(
            f"train_features {shape} and test_features {tuple(test.shape)} must be "
            "(N, D) and (M, D)"
        )
    is_column = tuple(labels.shape) in ((shape[0],), (shape[0], 1))
    if not is_column or labels.is_floating_point():
        raise ValueError(
            f"train_labels is {labels.dtype} of shape {tuple(labels.shape)}; wanted "
            f"one whole number for each of the {shape[0]} training rows"
        )
