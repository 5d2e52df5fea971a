"""Names, words and numbers that the host would refuse, or misread, after the start.

A name that no registry has ends a run in a `KeyError` minutes later, a word such as
`cuda` for `gpu` trains on the CPU without a sound, and one list entry for each of 1e12
epochs fills the memory. Here each is one message, before anything is started.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from vissl_swav.host.config_values import value_at
from vissl_swav.host.errors import StartError
from vissl_swav.host.settings import LOSSES, nearest

_WORDS: dict[str, tuple[str, ...]] = {
    "config.MACHINE.DEVICE": ("cpu", "gpu"),
    "config.DISTRIBUTED.BACKEND": ("gloo", "nccl"),
    "config.DISTRIBUTED.INIT_METHOD": ("tcp", "env", "file"),
    "config.MULTI_PROCESSING_METHOD": ("forkserver", "spawn", "fork"),
    "config.MODEL.INPUT_TYPE": ("rgb", "bgr", "lab", "grey"),
    "config.MODEL.AMP_PARAMS.AMP_TYPE": ("pytorch", "apex"),
    "config.MODEL.SYNC_BN_CONFIG.SYNC_BN_TYPE": ("pytorch", "apex"),
    "config.OPTIMIZER.param_schedulers.lr.update_interval": ("step", "epoch"),
    "config.DATA.TRAIN.LABEL_TYPE": ("sample_index", "standard", "zero"),
    "config.DATA.TEST.LABEL_TYPE": ("sample_index", "standard", "zero"),
}
# What users of other software write: what is wanted, in words that are no typing error.
_MEANT = {"cuda": "gpu", "gray": "grey", "mp": "spawn"}
_WORD_LISTS = tuple(
    f"config.DATA.{split}.{name}"
    for split in ("TRAIN", "TEST")
    for name in ("DATA_SOURCES", "DATA_PATHS", "LABEL_SOURCES", "LABEL_PATHS")
)
_MOST_WORKERS = 1024
_MOST_EPOCHS = 1_000_000
_MOST_PROCESSES = 65536
# The least and the most; None: no end.
_RANGES: dict[str, tuple[int, int | None]] = {
    "config.SEED_VALUE": (0, None),
    "config.LOG_FREQUENCY": (1, None),
    "config.TEST_EVERY_NUM_EPOCH": (1, None),
    "config.OPTIMIZER.num_epochs": (1, _MOST_EPOCHS),
    "config.DATA.NUM_DATALOADER_WORKERS": (0, _MOST_WORKERS),
    "config.DATA.DDP_BUCKET_CAP_MB": (1, 2**20),
    "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA": (1, None),
    "config.DATA.TEST.BATCHSIZE_PER_REPLICA": (1, None),
    "config.DATA.TRAIN.DATA_LIMIT": (-1, None),
    "config.DATA.TEST.DATA_LIMIT": (-1, None),
    "config.DISTRIBUTED.NUM_NODES": (1, _MOST_PROCESSES),
    "config.DISTRIBUTED.NUM_PROC_PER_NODE": (1, _MOST_PROCESSES),
    "config.CHECKPOINT.CHECKPOINT_FREQUENCY": (1, None),
}
# numpy's seeds end here; the host seeds with (SEED_VALUE + rank) x num_epochs.
_MOST_SEED = 2**32 - 1


def check_choices(cfg: Mapping[str, Any]) -> None:
    """Every name is registered, every word is known, every count is possible.

    Args:
        cfg: the composed tree, whose values have the kinds that the host reads.

    Raises:
        StartError: names key, value, what is wanted and what was probably meant.
    """
    for key, valid in _WORDS.items():
        _check_word(cfg, key, valid)
    for key, find in _REGISTRIES.items():
        _check_word(cfg, key, find())
    for name in _meter_names(cfg):
        _check_name("config.METERS.names", name, _meters())
    _check_heads(cfg)
    for key in _WORD_LISTS:
        for name in value_at(cfg, key)[1]:
            if not isinstance(name, str):
                raise StartError(
                    f"{key} holds {name!r}; wanted text. (A name of digits only: "
                    f"{key}=['{name}'].)",
                    key=key,
                )
            if key.endswith("DATA_SOURCES"):
                _check_name(key, name, _sources())
    for key, (least, most) in _RANGES.items():
        there, value = value_at(cfg, key)
        if there and not least <= value <= (value if most is None else most):
            wanted = f">= {least}" if most is None else f"from {least} to {most}"
            raise StartError(
                f"{key} is {value}; wanted a whole number {wanted}.", key=key
            )
    _check_seed(cfg)
    _check_temperatures(cfg)


def _check_temperatures(cfg: Mapping[str, Any]) -> None:
    """Of the host's losses: it divides by them. Ours are checked with their others."""
    for name, section in value_at(cfg, "config.LOSS")[1].items():
        if name in LOSSES or not isinstance(section, Mapping):
            continue
        value = section.get("temperature", 1)
        if not isinstance(value, (int, float)) or not value > 0:
            key = f"config.LOSS.{name}.temperature"
            raise StartError(f"{key} is {value!r}; wanted a number > 0.", key=key)


def _check_word(cfg: Mapping[str, Any], key: str, valid: Collection[str]) -> None:
    there, value = value_at(cfg, key)
    if there:
        _check_name(key, value, valid)


def _check_name(key: str, value: Any, valid: Collection[str]) -> None:
    if isinstance(value, str) and value in valid:
        return
    meant = _MEANT.get(str(value))
    hint = f"; did you mean {meant}?" if meant in valid else nearest(str(value), valid)
    raise StartError(
        f"{key} is {value!r}, which is not known{hint or '.'} Known are "
        f"{', '.join(sorted(valid))}.",
        key=key,
    )


def _meter_names(cfg: Mapping[str, Any]) -> list[Any]:
    """Of the old key, `name`, and of the new one."""
    old = value_at(cfg, "config.METERS.name")[1]
    return [*([old] if old else []), *(value_at(cfg, "config.METERS.names")[1] or [])]


def _check_heads(cfg: Mapping[str, Any]) -> None:
    """Each head is [name, {arguments}], or a list of such modules."""
    key = "config.MODEL.HEAD.PARAMS"
    for head in value_at(cfg, key)[1]:
        is_chain = isinstance(head, list) and bool(head) and isinstance(head[0], list)
        for module in head if is_chain else [head]:
            if not _is_module(module):
                raise StartError(
                    f"{key} holds {module!r}; wanted [name, {{arguments}}] for each "
                    "head, or a list of them for one head of several modules.",
                    key=key,
                )


def _is_module(module: Any) -> bool:
    if not isinstance(module, list) or len(module) != 2:
        return False
    return isinstance(module[0], str) and isinstance(module[1], Mapping)


def _check_seed(cfg: Mapping[str, Any]) -> None:
    key = "config.SEED_VALUE"
    seed, epochs, nodes, local = (
        value_at(cfg, name)[1]
        for name in (
            key,
            "config.OPTIMIZER.num_epochs",
            "config.DISTRIBUTED.NUM_NODES",
            "config.DISTRIBUTED.NUM_PROC_PER_NODE",
        )
    )
    most = _MOST_SEED // epochs - nodes * local
    if seed > most:
        raise StartError(
            f"{key} is {seed}; wanted 0 to {most}: VISSL multiplies it by the "
            f"{epochs} epochs, and numpy's seeds end at {_MOST_SEED}.",
            key=key,
        )


def _trunks() -> Collection[str]:
    from vissl.models.trunks import MODEL_TRUNKS_REGISTRY

    return MODEL_TRUNKS_REGISTRY


def _train_steps() -> Collection[str]:
    from vissl.trainer.train_steps import TRAIN_STEP_REGISTRY

    return TRAIN_STEP_REGISTRY


def _optimizers() -> Collection[str]:
    import vissl.optimizers  # noqa: F401  # fills the registry
    from classy_vision.optim import OPTIMIZER_REGISTRY

    return OPTIMIZER_REGISTRY


def _collators() -> Collection[str]:
    from vissl.data.collators import COLLATOR_REGISTRY

    return {"default_collate", *COLLATOR_REGISTRY}


def _schedulers() -> Collection[str]:
    from classy_vision.optim.param_scheduler import PARAM_SCHEDULER_REGISTRY

    return PARAM_SCHEDULER_REGISTRY


def _meters() -> Collection[str]:
    from classy_vision.meters import METER_REGISTRY

    return METER_REGISTRY


def _sources() -> Collection[str]:
    from vissl.data import DATASET_SOURCE_MAP

    return DATASET_SOURCE_MAP


_REGISTRIES: dict[str, Callable[[], Collection[str]]] = {
    "config.MODEL.TRUNK.NAME": _trunks,
    "config.TRAINER.TRAIN_STEP_NAME": _train_steps,
    "config.OPTIMIZER.name": _optimizers,
    "config.OPTIMIZER.param_schedulers.lr.name": _schedulers,
    "config.DATA.TRAIN.COLLATE_FUNCTION": _collators,
    "config.DATA.TEST.COLLATE_FUNCTION": _collators,
}
