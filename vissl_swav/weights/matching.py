"""`load_into`: weights of any known layout into a model, counted."""

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vissl_swav.weights import layouts
from vissl_swav.weights.errors import WeightsError
from vissl_swav.weights.layouts import PARTS
from vissl_swav.weights.loading import LoadedWeights, load_weights

# Below this share of the tensors of model and file together nothing is loaded.
LEAST_SHARE = 0.95
_COUNTER = ".num_batches_tracked"
_MAX_NAMED = 5


@dataclass(frozen=True)
class LoadReport:
    """What was loaded into a model.

    Attributes:
        path: the file.
        layout: whose file it is, in words.
        part: what was asked for.
        matched: names, in the model, of what was loaded.
        missing: names, in the model, of what the file lacks.
        unexpected: canonical names of what the model lacks.
        mismatched: name in the model -> the two shapes, in words.
        ignored: part -> tensors of the file that were not asked for.
    """

    path: Path
    layout: str
    part: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: Mapping[str, str]
    ignored: Mapping[str, int]

    @property
    def wanted(self) -> int:
        """Tensors of the part that the model has."""
        return len(self.matched) + len(self.missing) + len(self.mismatched)

    @property
    def share(self) -> float:
        """Matched, of all tensors that model or file have of the part."""
        return len(self.matched) / max(1, self.wanted + len(self.unexpected))

    def __str__(self) -> str:
        what = "" if self.part == "all" else f"{self.part} "
        text = f"{len(self.matched)}/{self.wanted} {what}tensors"
        if any(self.ignored.values()):
            names = ", ".join(name for name, count in self.ignored.items() if count)
            text += f", {sum(self.ignored.values())} ignored ({names})"
        return f"{text} from {self.path} ({self.layout})"

    def faults(self) -> str:
        """What does not fit, by name; empty where all does."""
        mismatched = [f"{name} ({why})" for name, why in self.mismatched.items()]
        said = [
            _named("not in the file", self.missing),
            _named("not in the model", self.unexpected),
            _named("of another shape", mismatched),
        ]
        return "; ".join(filter(None, said))


@torch.no_grad()
def load_into(
    model: nn.Module,
    path: str | os.PathLike[str] | LoadedWeights,
    part: str | None = None,
    *,
    allow_partial: bool = False,
    trunk_prefix: str | None = None,
    report: Callable[[str], object] | None = print,
) -> LoadReport:
    """Loads a file into a model of torchvision, timm, lightly, VISSL or ours.

    The model's own names are understood as those of a file are: a bare trunk, a whole
    model of VISSL's, one inside DistributedDataParallel. Counters of BatchNorm
    (`num_batches_tracked`) count only where both sides have them.

    Args:
        model: changed in place, and only if enough fits.
        path: a file, or what `load_weights` made of one.
        part: "trunk", "head", "prototypes" or "all"; None is the trunk of a file, and
            the part that was loaded of a `LoadedWeights`.
        allow_partial: load what fits, however little.
        trunk_prefix: as for `load_weights`, of the file.
        report: called with one line such as "318/318 trunk tensors, 10 ignored (head,
            prototypes)"; None is silent.

    Raises:
        WeightsError: as `load_weights`; `part` is not what a `LoadedWeights` holds; or
            less than 95 % of the tensors of model and file together match, and
            `allow_partial` is not given.

    Warns:
        UserWarning: something was left as it was.
    """
    loaded = path
    if not isinstance(loaded, LoadedWeights):
        loaded = load_weights(loaded, part or "trunk", trunk_prefix=trunk_prefix)
    elif part not in (None, loaded.part):
        raise WeightsError(
            f"part is {part!r}, but what was loaded of {loaded.path} is "
            f"{loaded.part!r}. Give the file itself, or leave part out."
        )
    own = model.state_dict()
    found = _compare(own, loaded)
    if found.share < LEAST_SHARE and not allow_partial:
        raise WeightsError(
            f"{found}: less than {LEAST_SHARE:.0%} of the tensors of model and file "
            f"together ({found.share:.0%}), so nothing was loaded. {found.faults()}. "
            "Take the model that the file was trained with; allow_partial=True loads "
            "what fits."
        )
    where = layouts.places(own)
    for name in found.matched:
        own[name].copy_(loaded.tensors[where[name].name])
    if report is not None:
        report(str(found))
    if found.faults():
        warnings.warn(
            f"{found.path} into {type(model).__name__}: left as they were, or left "
            f"out: {found.faults()}.",
            stacklevel=2,
        )
    return found


def _compare(own: Mapping[str, Tensor], loaded: LoadedWeights) -> LoadReport:
    parts = PARTS if loaded.part == "all" else (loaded.part,)
    wanted = {
        place.name: name
        for name, place in layouts.places(own).items()
        if place.part in parts
    }
    given = loaded.tensors
    missing, mismatched, matched = [], {}, []
    for new, name in wanted.items():
        if new not in given:
            if not new.endswith(_COUNTER):
                missing.append(name)
        elif given[new].shape != own[name].shape:
            shapes = tuple(given[new].shape), tuple(own[name].shape)
            mismatched[name] = "{} in the file, {} in the model".format(*shapes)
        else:
            matched.append(name)
    unexpected = [n for n in given if n not in wanted and not n.endswith(_COUNTER)]
    ignored = {p: count for p, count in loaded.counts.items() if p not in parts}
    ignored["no part"] = len(loaded.ignored)
    return LoadReport(
        path=loaded.path,
        layout=loaded.layout,
        part=loaded.part,
        matched=tuple(matched),
        missing=tuple(missing),
        unexpected=tuple(unexpected),
        mismatched=mismatched,
        ignored=ignored,
    )


def _named(what: str, names: "list[str] | tuple[str, ...]") -> str:
    if not names:
        return ""
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"{what}: {', '.join(names[:_MAX_NAMED])}{more}"
