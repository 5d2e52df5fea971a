"""The learning rates that a config names: which keys of which scheduler hold them.

A scheduler's section keeps keys of others (the host's defaults are of a multistep one),
so a value is a rate only where its scheduler reads it.
"""

from dataclasses import dataclass
from typing import Any

from vissl_swav.host.errors import StartError

KEY = "config.OPTIMIZER.param_schedulers.lr"
# Scheduler -> its keys that hold rates; the rest are shapes and lengths.
_RATES: dict[str, tuple[str, ...]] = {
    "constant": ("value",),
    "cosine": ("start_value", "end_value"),
    "cosine_warm_restart": ("start_value", "end_value"),
    "inverse_sqrt": ("start_value",),
    "linear": ("start_value", "end_value"),
    "multistep": ("values",),
    "polynomial": ("base_value",),
    "step": ("values",),
    "step_with_fixed_gamma": ("base_value",),
}


def highest_rate(cfg: Any) -> float | None:
    """The highest rate of an inferred config; None where a scheduler is not known."""
    try:
        places = _places(cfg.OPTIMIZER.param_schedulers.lr, KEY)
    except StartError:
        return None
    return max((rate for place in places for rate in place.rates), default=None)


def check_rates(cfg: Any) -> None:
    """Every rate of a scheduler that is known is a number >= 0.

    Raises:
        StartError: one is not.
    """
    if cfg.OPTIMIZER.param_schedulers.lr.get("name") not in _RATES:
        return
    for place in _places(cfg.OPTIMIZER.param_schedulers.lr, KEY):
        for rate in place.rates:
            if rate < 0:
                raise StartError(
                    f"{place.where} is {rate:g}; wanted a learning rate >= 0.",
                    key=place.where,
                )


def scale_rates(cfg: Any, factor: float) -> list[str]:
    """Multiplies every rate of a config, in place; says what it changed.

    Raises:
        StartError: a scheduler whose rates are not known, or a value that is no number;
            nothing was changed.
    """
    schedulers = cfg.OPTIMIZER.param_schedulers
    heads = cfg.OPTIMIZER.head_optimizer_params.use_different_lr
    places = [
        place
        for name in (("lr", "lr_head") if heads else ("lr",))
        for place in _places(
            schedulers[name], f"config.OPTIMIZER.param_schedulers.{name}"
        )
    ]
    changed: list[str] = []
    for place in places:
        scaled = [rate * factor for rate in place.rates]
        changed += [
            f"{place.where} {old:g} -> {new:g}"
            for old, new in zip(place.rates, scaled, strict=True)
        ]
        place.section[place.key] = scaled if place.is_list else scaled[0]
    return changed


@dataclass(frozen=True)
class _Place:
    """Where rates stand: `section[key]`, one or a list."""

    section: Any
    key: str
    where: str

    @property
    def is_list(self) -> bool:
        return isinstance(self.section.get(self.key), list)

    @property
    def rates(self) -> list[float]:
        value = self.section.get(self.key)
        return [float(v) for v in (value if self.is_list else [value])]


def _places(scheduler: Any, where: str) -> list[_Place]:
    """Every place of rates of a scheduler and of those that it is composed of.

    Raises:
        StartError: a scheduler that is not known, or a value that is no number.
    """
    name = scheduler.get("name")
    if name == "composite":
        return [
            place
            for index, part in enumerate(scheduler["schedulers"])
            for place in _places(part, f"{where}.schedulers[{index}]")
        ]
    if name not in _RATES:
        raise StartError(
            f"{where} has a scheduler {name!r}, whose learning rates vissl_swav does "
            f"not know; it knows {', '.join(sorted(_RATES))}, and composite.",
            key=KEY,
        )
    places = [_Place(scheduler, key, f"{where}.{key}") for key in _RATES[name]]
    for place in places:
        value = scheduler.get(place.key)
        for rate in value if place.is_list else [value]:
            if not isinstance(rate, (int, float)) or isinstance(rate, bool):
                raise StartError(
                    f"{place.where} is {value!r}; wanted a learning rate, a number.",
                    key=place.where,
                )
    return places
