"""What k-means is given: every process tells, then all go on or all raise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vissl_swav.core.collective import Collective
from vissl_swav.core.empty_clusters import EMPTY_RULES
from vissl_swav.core.seeding import SEEDINGS


def agree(
    features: Sequence[Tensor],
    num_clusters: Sequence[int],
    initial_centroids: Sequence[Tensor] | None,
    row_ids: Tensor | None,
    generator: torch.Generator | None,
    collective: Collective,
) -> tuple[int, int]:
    """The seed that all use and the first row's number; or one error on all processes.

    Every process tells what it holds before any of them may raise.
    """
    if not features or len(features) != len(num_clusters):
        raise ValueError(
            f"got {len(features)} feature tensors for {len(num_clusters)} numbers of "
            "clusters; wanted one of each a clustering."
        )
    device = generator.device if generator is not None else torch.device("cpu")
    seed = torch.randint(1 << 62, (1,), generator=generator, device=device)
    facts = [int(seed), features[0].shape[0] if features[0].ndim else 0]
    for index, (Z, K) in enumerate(zip(features, num_clusters, strict=True)):
        is_matrix = Z.ndim == 2 and Z.is_floating_point()
        C = None if initial_centroids is None else initial_centroids[index]
        facts += [
            Z.shape[1] if is_matrix else -1,
            Z.shape[0] if is_matrix else -1,
            K,
            0 if C is None else C.shape[0] if C.ndim == 2 else -1,
            0 if C is None else C.shape[-1] if C.ndim == 2 else -1,
            int(bool(torch.isfinite(Z).all()) and (C is None or _is_finite(C))),
        ]
    facts.append(-1 if row_ids is None else row_ids.numel())
    mine = torch.tensor(facts, device=features[0].device)
    told: list[list[int]] = collective.all_gather(mine).tolist()  # pyright: ignore
    for problem in _problems(told):
        raise ValueError(problem)
    return told[0][0], sum(facts[1] for facts in told[: collective.rank])


def _problems(told: list[list[int]]) -> list[str]:
    """What is wrong with what the processes told, in words; the same list on all."""
    found: list[str] = []
    rows = [facts[1] for facts in told]
    ids = [facts[-1] for facts in told]
    for head in range((len(told[0]) - 3) // 6):
        D, N, K, K0, D0, finite = zip(
            *(facts[2 + 6 * head : 8 + 6 * head] for facts in told), strict=True
        )
        here = f" (clustering {head})" if len(told[0]) > 9 else ""
        if min(D) < 1 or len(set(D)) > 1:
            found.append(
                f"features{here} have {_by_rank(D)} columns (-1: not a floating-point "
                "matrix); wanted (N, D), the same D on every process."
            )
        elif len(set(K)) > 1 or K[0] < 1:
            found.append(
                f"num_clusters{here} is {_by_rank(K)}; wanted one number >= 1."
            )
        elif min(N) < 1:
            found.append(
                f"features{here} have {_by_rank(N)} rows; every process needs at least "
                "one. Give the idle ones rows of others, or leave them out."
            )
        elif tuple(N) != tuple(rows):
            found.append(f"features{here} have {_by_rank(N)} rows, others {rows}.")
        elif sum(N) < K[0]:
            found.append(
                f"num_clusters{here} is {K[0]}, but there are {sum(N)} rows; ask for "
                "at most as many clusters as rows."
            )
        elif not all(finite):
            bad = [rank for rank, ok in enumerate(finite) if not ok]
            found.append(
                f"features or initial centroids{here} of rank(s) {bad} hold NaN or "
                "infinity; look for the step that made them."
            )
        elif any(K0) and (set(K0) != {K[0]} or set(D0) != {D[0]}):
            found.append(
                f"initial_centroids{here} have {_by_rank(K0)} rows and {_by_rank(D0)} "
                f"columns; wanted ({K[0]}, {D[0]})."
            )
    if len({n < 0 for n in ids}) > 1 or (ids[0] >= 0 and ids != rows):
        found.append(
            f"row_ids have {_by_rank(ids)} numbers (-1: none given) for {rows} rows; "
            "wanted one a row, on every process or on none."
        )
    return found


def _by_rank(values: Sequence[int]) -> str:
    """One number where all agree, else the list by rank."""
    same = len(set(values)) == 1
    return str(values[0]) if same else f"{list(values)} by rank"


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def check_settings(
    num_iterations: int, tolerance: float | None, seeding: str, empty_clusters: str
) -> None:
    """The settings that need no other process.

    Raises:
        ValueError: names the setting, its value and what is wanted.
    """
    if num_iterations < 0:
        raise ValueError(f"num_iterations is {num_iterations}; wanted >= 0 (paper: 10)")
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}; wanted None or a number >= 0.")
    for name, value, valid in (
        ("seeding", seeding, SEEDINGS),
        ("empty_clusters", empty_clusters, EMPTY_RULES),
    ):
        if value not in valid:
            raise ValueError(f"{name} is {value!r}; wanted one of {sorted(valid)}.")
