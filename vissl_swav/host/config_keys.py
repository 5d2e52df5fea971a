"""Which config keys exist, which file a key stands in, and whether overrides arrived.

hydra accepts any key in a YAML file of the user's, and earlier versions of it dropped
overrides without a word. Here an unknown key is an error, and so is an override that
the composed config does not show.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from vissl_swav.host.config_choices import check_choices
from vissl_swav.host.config_values import check_kinds
from vissl_swav.host.errors import StartError
from vissl_swav.host.key_hints import hint
from vissl_swav.host.settings import LOSSES, check_loss_key, loss_keys, nearest

# Keys of ours that the host's defaults do not know.
_OURS = {
    "config.AUTO_SCALE",
    "config.HEALTH",
    "config.HEALTH.ENABLED",
    "config.HEALTH.ON_COLLAPSE",
    "config.MODEL.TRUNK.RESNET_SMALL",
    "config.MODEL.TRUNK.RESNET_SMALL.DEPTH",
    "config.MODEL.TRUNK.RESNET_SMALL.WIDTH",
    "config.MODEL.AMP_PARAMS.AMP_DTYPE",
    "config.DATA.TRAIN.IMAGES_ON_DEVICE",
    "config.DATA.TRAIN.MAX_UNREADABLE_SHARE",
    "config.DATA.TRAIN.STREAM",
    "config.DATA.TRAIN.STREAM.NUM_IMAGES",
    "config.DATA.TRAIN.STREAM.SHUFFLE_BUFFER",
}
# Our k-NN takes lists where the host's takes a number.
_ALSO_LISTS: Any = {
    "config": {"NEAREST_NEIGHBOR": {"TOPK": [20, 200], "SIGMA": [0.07, 0.1]}}
}
# Below these any key may stand: `settings` checks its own, the others are arguments.
_FREE = ("config.LOSS.", "config.METERS.", "config.SLURM.ADDITIONAL_PARAMETERS.")
_OVERRIDE = re.compile(r"^(?P<mark>\+\+|\+|~)?(?P<key>[^=]+?)(=(?P<value>.*))?$", re.S)


def our_keys() -> set[str]:
    """Dotted keys of ours: of the losses, with their sections, and the others."""
    keys = {
        f"config.LOSS.{loss}.{key}"
        for loss, keys in loss_keys().items()
        for key in keys
    }
    return _OURS | keys | {f"config.LOSS.{loss}" for loss in loss_keys()}


def admit_our_keys(overrides: Sequence[str]) -> list[str]:
    """Lets `config.LOSS.<ours>.KEY=value` and our other keys do without `++`.

    hydra wants the mark on keys that the host's defaults lack.
    """
    ours = our_keys()
    admitted: list[str] = []
    for override in overrides:
        match = _OVERRIDE.match(override)
        unmarked = match is not None and not match["mark"] and match["key"] in ours
        admitted.append(f"++{override}" if unmarked else override)
    return admitted


def check_our_loss_keys(overrides: Sequence[str]) -> None:
    """Overrides below `config.LOSS.<a loss of ours>` name valid keys.

    Raises:
        StartError: names the nearest valid key.
    """
    for override in overrides:
        match = _OVERRIDE.match(override)
        path = match["key"] if match else ""
        loss, _, key = path.removeprefix("config.LOSS.").partition(".")
        if path.startswith("config.LOSS.") and loss in loss_keys() and key:
            check_loss_key(loss, key)


def key_paths(tree: Any, prefix: str = "") -> Iterator[str]:
    """Dotted paths of every key of nested mappings, inner ones too."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            path = f"{prefix}.{key}" if prefix else str(key)
            yield path
            yield from key_paths(value, path)


def config_roots() -> list[Path]:
    """Folders whose `config/` holds the configs: the host's, then ours."""
    return [Path(str(files("configs"))), Path(str(files("vissl_swav.conf")))]


def find_yaml(group: str, name: str) -> Path | None:
    """The file that `GROUP=NAME` names."""
    for root in config_roots():
        path = root / group / f"{name}.yaml"
        if path.is_file():
            return path
    return None


def files_of(overrides: Sequence[str]) -> list[Path]:
    """YAML files that the group overrides name, with those their `defaults` name."""
    found: list[Path] = []
    for override in overrides:
        match = _OVERRIDE.match(override)
        key = match["key"].split("@")[0] if match else ""
        if match and is_group(key):
            path = find_yaml(key, match["value"] or "")
            if path is not None:
                found.extend(_with_defaults(path))
    return found


def place_of(key: str, overrides: Sequence[str]) -> str:
    """The file, or the command line, where the dotted key stands."""
    for override in reversed(overrides):  # The last one of a key is the one that holds.
        match = _OVERRIDE.match(override)
        if not match or is_group(match["key"]):
            continue
        if f"{key}.".startswith(f"{match['key']}.") or match["key"].startswith(
            f"{key}."
        ):
            return f"the command line ({override})"
    for path in files_of(overrides):
        if key in set(key_paths(_load(path))):
            return str(path)
    return "the composed config"


def with_place(error: StartError, overrides: Sequence[str]) -> StartError:
    """The error with the file, or the command line, where its key stands."""
    if error.key is None:
        return error
    place = place_of(error.key, overrides)
    return StartError(f"{error} (It stands in {place}.)", key=error.key)


def check_keys(cfg: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Every key is one that the host or we read.

    Known are the host's defaults, every key that a YAML of its wheel uses, and ours.

    Raises:
        StartError: names key, file and nearest valid key; or a value of a wrong kind.
    """
    defaults = _load(_defaults_file())
    known = _OURS | set(key_paths(defaults))
    only = "config"
    shapes = chain([_ALSO_LISTS], _hosts_trees())
    try:
        check_kinds({only: cfg[only]}, {only: defaults[only]}, shapes)
    except StartError as error:
        raise with_place(error, overrides) from error
    _check_loss_sections(cfg, known, overrides)
    _check_unknown(cfg, known, overrides)
    try:
        check_choices(cfg)
    except StartError as error:
        raise with_place(error, overrides) from error


def _check_unknown(
    cfg: Mapping[str, Any], known: set[str], overrides: Sequence[str]
) -> None:
    closed = _hosts_losses(known)
    unknown = [k for k in key_paths(cfg) if k not in known and not _is_free(k, closed)]
    if not unknown:
        return
    for tree in _hosts_trees():
        known |= set(key_paths(tree))
    for key in unknown:
        if key not in known and not _below_an_argument(key, known):
            raise StartError(
                f"{key}, in {place_of(key, overrides)}, is no key of VISSL's or "
                f"vissl_swav's{hint(key, known) or '.'}",
                key=key,
            )


def _check_loss_sections(
    cfg: Mapping[str, Any], known: set[str], overrides: Sequence[str]
) -> None:
    """Each section below LOSS is a registered loss; what is in it is the loss's."""
    import vissl.losses  # noqa: F401  # fills the registry
    from classy_vision.losses import LOSS_REGISTRY

    valid = {*LOSSES, *LOSS_REGISTRY}
    for key in key_paths(cfg):
        section, _, name = key.rpartition(".")
        if section == "config.LOSS" and key not in known and name not in valid:
            raise StartError(
                f"{key}, in {place_of(key, overrides)}, is no loss of VISSL's or "
                f"vissl_swav's{nearest(name, valid) or '.'}",
                key=key,
            )


def check_overrides_arrived(cfg: Any, overrides: Sequence[str]) -> None:
    """Every `key=value` of the command line shows in the composed config.

    Raises:
        StartError: names the override and what the config holds instead.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    wanted: dict[str, tuple[str, Any]] = {}
    given = OverridesParser.create().parse_overrides(list(overrides))
    for override in given:
        key = override.key_or_group
        if "/" in key or key == "config" or override.is_sweep_override():
            continue
        if override.is_delete():
            wanted.pop(key, None)
            continue
        wanted[key] = (override.input_line or key, override.value())
    for key, (line, value) in wanted.items():
        got = OmegaConf.select(cfg, key, default=None)
        got = OmegaConf.to_container(got) if OmegaConf.is_config(got) else got
        if got != value and not _same_tree(got, value):
            over = [o for k, (o, _) in wanted.items() if key.startswith(f"{k}.")]
            cause = (
                f"{over[-1]} stands for the whole section; give its keys one by one"
                if over
                else "check for a later override of the same key, and its type"
            )
            raise StartError(
                f"the override {line} did not arrive: the composed config holds "
                f"{got!r}; {cause}.",
                key=key,
            )


def is_group(key: str) -> bool:
    """`config=FILE` or `config/GROUP=FILE`: names a file, not a key."""
    return key == "config" or key.startswith("config/")


def _same_tree(got: Any, wanted: Any) -> bool:
    """Equal up to the merge of mappings and to strings of numbers."""
    if isinstance(wanted, Mapping) and isinstance(got, Mapping):
        return all(k in got and _same_tree(got[k], v) for k, v in wanted.items())
    if isinstance(wanted, list) and isinstance(got, list):
        return len(got) == len(wanted) and all(map(_same_tree, got, wanted))
    return got == wanted or str(got) == str(wanted)


def _with_defaults(path: Path) -> Iterator[Path]:
    yield path
    for entry in (_load(path) or {}).get("defaults", []):
        for key, name in entry.items() if isinstance(entry, dict) else ((entry, ""),):
            target = "/".join(filter(None, (str(key).split("@")[0], str(name))))
            group, _, stem = target.lstrip("/").rpartition("/")
            nested = find_yaml(group, stem) or find_yaml(
                str(path.parent.relative_to(_root_of(path))), target
            )
            if target != "_self_" and nested is not None:
                yield from _with_defaults(nested)


def _root_of(path: Path) -> Path:
    return next(root for root in config_roots() if root in path.parents)


def _hosts_trees() -> Iterator[Any]:
    """Of every YAML file of the host's wheel, as they are asked for."""
    return map(_load, config_roots()[0].rglob("*.yaml"))


def _load(path: Path) -> Any:
    # libyaml's reader where there is one: ten times as fast, and as safe.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), loader)


def _defaults_file() -> Path:
    return Path(str(files("vissl.config"))) / "defaults.yaml"


def _hosts_losses(known: set[str]) -> tuple[str, ...]:
    """Sections of the host's losses, whose keys its defaults list.

    A loss of torch's is none of them: its section is its arguments.
    """
    from classy_vision.losses import LOSS_REGISTRY

    names = {key.split(".")[2] for key in known if key.startswith("config.LOSS.")}
    return tuple(f"config.LOSS.{name}." for name in sorted(names & set(LOSS_REGISTRY)))


def _is_free(key: str, closed: tuple[str, ...]) -> bool:
    """Below `closed` only `name`, which the host puts there itself."""
    is_closed = key.startswith(closed) and not key.endswith(".name")
    return key.startswith(_FREE) and not is_closed


def _below_an_argument(key: str, known: set[str]) -> bool:
    """Below a mapping that the host's YAML files use as arguments of a class."""
    parent = key.rpartition(".")[0]
    has_known_children = any(k.startswith(parent + ".") for k in known)
    return bool(parent) and not has_known_children and parent in known
