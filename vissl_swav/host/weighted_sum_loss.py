"""Loss `weighted_sum`: one of our losses and some of the host's, each with a weight."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from classy_vision.losses import ClassyLoss, build_loss, register_loss
from torch import Tensor, nn

from vissl_swav.backends.torch_collective import collective
from vissl_swav.core.crops import CropLayout
from vissl_swav.host import settings


@dataclass(frozen=True)
class Term:
    """One loss of a sum.

    Attributes:
        name: of the loss.
        weight: factor of its value.
        output: the model's output that it takes; None for all of them, as ours do.
        layout: the crops whose rows and targets it takes; None for all.
    """

    name: str
    weight: float
    output: int | None = None
    layout: CropLayout | None = None

    def rows(self, tensor: Tensor) -> Tensor:
        """(V * B, ...) -> the rows of the term's crops, crop-major."""
        if self.layout is None:
            return tensor
        return self.layout.assignment_rows(tensor).flatten(0, 1)


@register_loss(settings.WEIGHTED_SUM)
class WeightedSum(ClassyLoss):
    """sum over terms of weight * loss.

    Attributes:
        losses: the terms' losses by name; their state is this loss's state.
        means: of the last step, value of each term before its weight, the mean over
            ranks; set by `TermsHook`.

    Args:
        terms: exactly one of them takes all outputs, the one that our hooks follow.
        losses: by name.
    """

    def __init__(self, terms: Sequence[Term], losses: Mapping[str, nn.Module]):
        super().__init__()
        self.terms = tuple(terms)
        self.losses = nn.ModuleDict(dict(losses))
        self.means: Tensor | None = None
        self._values: list[Tensor] = []

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "WeightedSum":
        """From an inferred `LOSS.weighted_sum` (see `settings.take_terms`)."""
        terms: list[Term] = []
        losses: dict[str, nn.Module] = {}
        for term in config["terms"]:
            name, crops = term["name"], term.get("crops")
            section = config["losses"][name]
            section["name"] = name
            losses[name] = build_loss(section)
            layout = CropLayout(config["num_crops"], crops) if crops else None
            terms.append(Term(name, term["weight"], term.get("output"), layout))
        return cls(terms, losses)

    @property
    def followed(self) -> Any:
        """The loss of ours, whose state the hooks keep."""
        return self.losses[self._followed.name]

    def forward(self, output: Sequence[Tensor], target: Tensor) -> Tensor:
        """The sum; each term's value is kept until the next step."""
        values: list[Tensor] = []
        for term in self.terms:
            loss = self.losses[term.name]
            if term.output is None:
                values.append(loss(output, target))
            else:
                rows = term.rows(output[term.output])
                values.append(loss(rows, term.rows(target)))
        self._values = [value.detach().float() for value in values]
        total = torch.zeros_like(values[0])
        for term, value in zip(self.terms, values, strict=True):
            total = total + term.weight * value
        return total

    def take_means(self) -> None:
        """The last step's values as means over ranks; every rank must call it."""
        ranks = collective()
        values = torch.stack(self._values)
        self.means = ranks.all_reduce_sum(values) / ranks.world_size

    @property
    def mean_values(self) -> dict[str, float]:
        """Value of each term, the mean over ranks; empty before the first step."""
        if self.means is None:
            return {}
        names = [term.name for term in self.terms]
        return dict(zip(names, self.means.tolist(), strict=True))

    @property
    def mean_followed(self) -> float:
        """Of our term."""
        return self.mean_values[self._followed.name]

    @property
    def _followed(self) -> Term:
        return next(term for term in self.terms if term.output is None)
