"""What k-means is given: every process tells, then all go on or all raise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vissl_swav.core.collective import Collective
from vissl_swav.core.empty_clusters import EMPTY_RULES
from vissl_swav.core.seeding import SEEDINGS
from vissl_swav.core.setting_checks import check_whole

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NAMES = ("float16", "bfloat16", "float32", "float64")
_FACTS_OF_HEAD = 8
_NO_CENTROIDS = (-2, -2, 0)


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
    if initial_centroids is not None and len(initial_centroids) != len(features):
        raise ValueError(
            f"got {len(initial_centroids)} initial centroids for {len(features)} "
            "clusterings; wanted one (K, D) of each, or None."
        )
    device = generator.device if generator is not None else torch.device("cpu")
    seed = torch.randint(1 << 62, (1,), generator=generator, device=device)
    facts = [int(seed), features[0].shape[0] if features[0].ndim else 0]
    for index, (Z, K) in enumerate(zip(features, num_clusters, strict=True)):
        is_matrix = Z.ndim == 2 and Z.dtype in _DTYPES
        C = None if initial_centroids is None else initial_centroids[index]
        facts += [
            Z.shape[1] if is_matrix else -1,
            Z.shape[0] if is_matrix else -1,
            K,
            _DTYPES.index(Z.dtype) if is_matrix else -1,
            *(_NO_CENTROIDS if C is None else _centroid_facts(C)),
            int(_is_finite(Z) and (C is None or _is_finite(C))),
        ]
    facts.append(-1 if row_ids is None else row_ids.numel())
    mine = torch.tensor(facts, dtype=torch.int64, device=features[0].device)
    told: list[list[int]] = collective.all_gather(mine).tolist()  # pyright: ignore
    for problem in _problems(told):
        raise ValueError(problem)
    return told[0][0], sum(facts[1] for facts in told[: collective.rank])


def _problems(told: list[list[int]]) -> list[str]:
    """What is wrong with what the processes told, in words; the same list on all."""
    found: list[str] = []
    rows = [facts[1] for facts in told]
    ids = [facts[-1] for facts in told]
    num_heads = (len(told[0]) - 3) // _FACTS_OF_HEAD
    for head in range(num_heads):
        of_head = slice(2 + _FACTS_OF_HEAD * head, 2 + _FACTS_OF_HEAD * (head + 1))
        by_rank = [facts[of_head] for facts in told]
        D, N, K, dtypes, K0, D0, bits, finite = map(list, zip(*by_rank, strict=True))
        here = f" (clustering {head})" if num_heads > 1 else ""
        if min(D) < 1 or len(set(D)) > 1:
            found.append(
                f"features{here} have {_by_rank(D)} columns (-1: not a floating-point "
                "matrix); wanted (N, D), the same D on every process."
            )
        elif len(set(K)) > 1 or K[0] < 1:
            found.append(
                f"num_clusters{here} is {_by_rank(K)}; wanted one number >= 1."
            )
        elif len(set(dtypes)) > 1:
            names: list[str] = [_NAMES[number] for number in dtypes]
            found.append(f"features{here} are {names} by rank; wanted one type.")
        elif min(N) < 1:
            found.append(
                f"features{here} have {_by_rank(N)} rows; every process needs at least "
                "one. Give the idle ones rows of others, or leave them out."
            )
        elif N != rows:
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
        elif set(zip(K0, D0, strict=True)) not in ({(K[0], D[0])}, {(-2, -2)}):
            found.append(
                f"initial_centroids{here} have {_by_rank(K0)} rows and {_by_rank(D0)} "
                f"columns (-1: not a matrix, -2: none given); wanted ({K[0]}, {D[0]})."
            )
        elif len(set(bits)) > 1:
            found.append(
                f"initial_centroids{here} differ between processes; give all the same, "
                "those of rank 0 for instance."
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


def _centroid_facts(centroids: Tensor) -> tuple[int, int, int]:
    """Rows, columns and a checksum that tells unequal values from equal ones."""
    if centroids.ndim != 2:
        return -1, -1, 0
    num_rows, num_columns = centroids.shape
    bits = centroids.detach().double().contiguous().view(torch.int64)
    places = torch.arange(1, bits.numel() + 1, device=bits.device)
    return num_rows, num_columns, int((bits.flatten() * places).sum().item())


def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite; a NaN or infinity is the least or the largest."""
    if tensor.numel() == 0:
        return True
    ends = torch.stack(torch.aminmax(tensor.detach()))
    return bool(torch.isfinite(ends).all())


def check_settings(
    num_iterations: int, tolerance: float | None, seeding: str, empty_clusters: str
) -> None:
    """The settings that need no other process.

    Raises:
        ValueError: names the setting, its value and what is wanted.
    """
    check_whole("num_iterations", num_iterations, least=0, usual="the paper: 10")
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}; wanted None or a number >= 0.")
    for name, value, valid in (
        ("seeding", seeding, SEEDINGS),
        ("empty_clusters", empty_clusters, EMPTY_RULES),
    ):
        if value not in valid:
            raise ValueError(f"{name} is {value!r}; wanted one of {sorted(valid)}.")
