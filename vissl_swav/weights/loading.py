"""`load_weights`: a file of any known layout, in one naming."""

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vissl_swav.weights import files, layouts
from vissl_swav.weights.errors import WeightsError
from vissl_swav.weights.layouts import PARTS


@dataclass(frozen=True)
class LoadedWeights:
    """Tensors of a file by canonical name, and what else it holds.

    Attributes:
        parts: those asked for, each name -> tensor. A ResNet's trunk has torchvision's
            names, the head `projection_head.N.*` (a classifier its own, `fc.*`), the
            prototypes of head n `prototypesN.weight`.
        layout: whose file it is, in words.
        path: the file.
        part: what was asked for.
        counts: tensors of each part in the file, asked for or not.
        ignored: names, as in the file, of tensors that belong to no part.
    """

    parts: dict[str, dict[str, Tensor]]
    layout: str
    path: Path
    part: str
    counts: dict[str, int]
    ignored: tuple[str, ...]

    @property
    def trunk(self) -> dict[str, Tensor]:
        """The trunk; empty if it was not asked for."""
        return self.parts.get("trunk", {})

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All parts asked for, in one dictionary."""
        return {n: t for tensors in self.parts.values() for n, t in tensors.items()}

    def __str__(self) -> str:
        wanted = PARTS if self.part == "all" else (self.part,)
        taken = [f"{self.counts[p]} {p}" for p in wanted if self.counts[p]]
        left = [f"{n} {p}" for p, n in self.counts.items() if n and p not in wanted]
        if self.ignored:
            left.append(f"{len(self.ignored)} of no part")
        ignored = f"; ignored: {', '.join(left)}" if left else ""
        return f"{self.path} ({self.layout}): {', '.join(taken)} tensors{ignored}"


def load_weights(
    path: str | os.PathLike[str],
    part: str = "all",
    *,
    trunk_prefix: str | None = None,
    momentum: bool = False,
) -> LoadedWeights:
    """Reads a file of weights, whoever wrote it, and names its tensors in one way.

    Known are SwAV's authors, VISSL, ours, torchvision, timm, solo-learn, lightly. A
    file is read as data: one that needs more is refused, and the message says how to go
    on. Weight-normalised prototypes come out multiplied out.

    Args:
        path: a checkpoint or a file of weights, `.safetensors` included; of a VISSL
            model in shards or slices, the file that lists them.
        part: "trunk", "head", "prototypes" or "all".
        trunk_prefix: what the names of the trunk begin with (after `module.`), for a
            file whose layout is not known.
        momentum: the momentum encoder of a run of `swav_momentum`, in place of the
            model that was trained.

    Raises:
        WeightsError: no such file or part, a broken or hostile file, weights that are
            not finite.
    """
    if part not in (*PARTS, "all"):
        raise WeightsError(
            f"part is {part!r}; wanted one of {', '.join((*PARTS, 'all'))}."
        )
    if "://" in os.fspath(path):
        raise WeightsError(
            f"{os.fspath(path)} is an address; download the file, and name that."
        )
    place = Path(path).expanduser()
    try:
        content = layouts.sort(
            files.read(place), trunk_prefix=trunk_prefix, momentum=momentum
        )
    except WeightsError as error:
        said = str(error)
        raise WeightsError(
            said if str(place) in said else f"{place}: {said}"
        ) from error
    parts = {p: content.tensors[p] for p in (PARTS if part == "all" else (part,))}
    counts = {p: len(content.tensors[p]) for p in PARTS}
    found = LoadedWeights(parts, content.layout, place, part, counts, content.ignored)
    if not any(parts.values()):
        raise WeightsError(_nothing(found))
    return found


def _nothing(found: LoadedWeights) -> str:
    parts = ", ".join(f"{n} {p}" for p, n in found.counts.items() if n) or "none"
    named = ", ".join(found.ignored[:3])
    others = f" and {len(found.ignored)} of no part ({named}, ...)" if named else ""
    return (
        f"{found.path} holds no {found.part} (tensors: {parts}{others}; layout: "
        f"{found.layout}). If its trunk has a prefix of its own, name it: "
        'trunk_prefix="...", --trunk-prefix on the command line.'
    )
