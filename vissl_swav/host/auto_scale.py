"""`AUTO_SCALE=true`: looks up the batch that the config file's rates are for."""

from collections.abc import Sequence
from typing import Any

from vissl_swav.host.settings import auto_scale


def resolve(composed: Any, overrides: Sequence[str]) -> None:
    """Replaces `true` by the batch of the files alone, in a composed config, in place.

    The files are what the command line names as `config=FILE` and `config/GROUP=FILE`;
    what it sets key by key is the user's.
    """
    if not auto_scale.wants_reference_batch(composed.config):
        return
    from omegaconf import OmegaConf
    from vissl.utils.hydra_config import compose_hydra_configuration

    files = [override for override in overrides if _names_a_file(override)]
    reference = auto_scale.global_batch(compose_hydra_configuration(files).config)
    OmegaConf.update(composed, auto_scale.KEY, reference, force_add=True)


def _names_a_file(override: str) -> bool:
    key = override.partition("=")[0].lstrip("+~")
    return key == "config" or key.startswith("config/")
