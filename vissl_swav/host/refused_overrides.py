"""Overrides that hydra refuses, in words that say what to type instead."""

from collections.abc import Mapping, Sequence
from typing import Any

from vissl_swav.host import config_keys, settings
from vissl_swav.host.config_values import value_at
from vissl_swav.host.key_hints import hint

_SHOWN = 12


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """One message for an error of hydra's.

    Raises:
        StartError: it is a key of a loss of ours, which has better words.
    """
    cause = error.__cause__
    key = getattr(cause, "full_key", None) if cause is not None else None
    if key:
        config_keys.check_our_loss_keys(overrides)
        return _no_key(str(key), overrides)
    message = str(error).strip()
    first = message.splitlines()[0] if message else type(error).__name__
    if "Could not delete" in first:
        return f"{first} Leave the override out: there is nothing to delete."
    if "Ambiguous value" in first:
        return (
            f"{first}: a comma outside brackets. A number has a point (0.05), a list "
            "brackets (KEY=[1,2]), a text with commas quotes (\"KEY='a,b'\")."
        )
    if "LexerNoViableAlt" in first or "mismatched input" in first:
        return (
            f"hydra cannot read an override ({first}); wanted KEY=VALUE. A value with "
            "spaces or signs goes into quotes: \"KEY='my value'\"; a list into "
            "brackets: KEY=[1,2]."
        )
    return message


def _no_key(key: str, overrides: Sequence[str]) -> str:
    """`key` is as far as hydra came with an override's."""
    typed = [o for o in overrides if _key_of(o) == key]
    typed += [o for o in overrides if _key_of(o).startswith(f"{key}.")]
    override = typed[0] if typed else key
    composed = _composed(overrides)
    valid = config_keys.our_keys() | set(config_keys.key_paths(composed))
    there, section = value_at(composed, key)
    if there and isinstance(section, Mapping):
        names = list(map(str, section))
        more = ", ..." if len(names) > _SHOWN else ""
        return (
            f"{key} is a section, and the command line ({override}) gives one value "
            f"for it; wanted values for its keys, {key}.KEY=VALUE: "
            f"{', '.join(names[:_SHOWN])}{more}."
        )
    if there and key == _key_of(override):
        return (
            f"{key} is {section!r} in the config's files, and the command line "
            f"({override}) gives a value of another kind; give one of that kind."
        )
    loss = value_at(composed, "config.LOSS.name")[1]
    prefer = f"config.LOSS.{loss}." if loss in settings.LOSSES else "config.LOSS."
    full = _key_of(override)
    return (
        f"{full}, on the command line ({override}), is no key of the config"
        f"{hint(full, valid, prefer=prefer) or '.'}"
    )


def _composed(overrides: Sequence[str]) -> Any:
    """The config of the files alone, whose keys are valid."""
    from omegaconf import OmegaConf
    from vissl.utils.hydra_config import compose_hydra_configuration

    named = [o for o in overrides if config_keys.is_group(_key_of(o))]
    return OmegaConf.to_container(compose_hydra_configuration(named))


def _key_of(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]
