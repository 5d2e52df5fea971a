"""`--ours`: a pretraining config of VISSL's on our loss (`settings.hosts_losses`)."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from vissl_swav.host.settings.hosts_losses import FLAG, translate


def apply(overrides: Sequence[str], compose: Callable[[list[str]], Any]) -> list[str]:
    """The command line with the host's loss translated where the flag asks for it.

    Args:
        overrides: of the command line, the flag among them or not.
        compose: the host's composition of overrides, as plain data.

    Returns:
        Overrides without the flag.

    Raises:
        StartError: the host's loss has no counterpart of ours.
    """
    plain = [override for override in overrides if override != FLAG]
    if len(plain) == len(overrides):
        return plain
    found = translate(compose(plain))
    for sentence in found.said:
        logging.info(f"{FLAG}: {sentence}")
    mine = {_key(override) for override in found.overrides}
    kept = [override for override in plain if _key(override) not in mine]
    return [*kept, *found.overrides]


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
