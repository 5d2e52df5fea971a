"""Composes a config as the host does, checks it, and starts the host's engine.

One process, N local processes, SLURM by the host's launcher, or one process of a
torchrun job.
"""

import copy
import logging
import os
from collections.abc import Sequence
from typing import Any

from vissl_swav.host import config_keys, preflight
from vissl_swav.host.errors import StartError
from vissl_swav.host.hook_generator import RECORD_STEPS


def compose(overrides: Sequence[str]) -> tuple[Any, Any]:
    """The host's (arguments, config) for its command-line overrides, checked.

    Raises:
        StartError: hydra refuses an override, one does not arrive, or a key is unknown.
    """
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from vissl.utils.hydra_config import (
        compose_hydra_configuration,
        convert_to_attrdict,
    )

    if not any(override.startswith("config=") for override in overrides):
        raise StartError("no config named; wanted config=pretrain/swav/..., say.")
    try:
        composed = compose_hydra_configuration(list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise StartError(_explain(error, overrides)) from error
    config_keys.check_overrides_arrived(composed, overrides)
    tree: Any = OmegaConf.to_container(composed)
    config_keys.check_keys(tree, overrides)
    try:
        return convert_to_attrdict(composed, dump_config=False)
    except AssertionError as error:
        raise StartError(f"VISSL refuses the config: {error}") from error
    except StartError as error:
        if error.key is None:
            raise
        place = config_keys.place_of(error.key, overrides)
        raise StartError(f"{error} (It stands in {place}.)", key=error.key) from error


def start(overrides: Sequence[str]) -> None:
    """Checks, then runs the engine that the config names.

    Raises:
        StartError: the run is impossible; nothing was written.
    """
    arguments, config = compose(overrides)
    torchrun = _under_torchrun()
    if torchrun:
        _take_torchrun_shape(config)
    preflight.check(config)

    from vissl.hooks import default_hook_generator
    from vissl.utils import distributed_launcher

    os.environ.setdefault(RECORD_STEPS, "1")
    if not torchrun or os.environ["RANK"] == "0":
        _save(config)
    if torchrun:
        _run_this_process(arguments, config)
    elif config.SLURM.USE_SLURM:
        distributed_launcher.launch_distributed_on_slurm(
            engine_name=arguments.engine_name, cfg=config
        )
    else:
        distributed_launcher.launch_distributed(
            cfg=config,
            node_id=arguments.node_id,
            engine_name=arguments.engine_name,
            hook_generator=default_hook_generator,
        )


def _save(config: Any) -> None:
    """`train_config.yaml`, as the host writes it: before it made dtypes of strings."""
    from vissl.utils.hydra_config import save_attrdict_to_disk

    plain = copy.deepcopy(config)
    dtype = plain.MODEL.FSDP_CONFIG.compute_dtype
    plain.MODEL.FSDP_CONFIG.compute_dtype = str(dtype).removeprefix("torch.")
    save_attrdict_to_disk(plain)


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """The words of hydra, and the nearest key where it does not know one."""
    message = str(error).strip()
    cause = error.__cause__
    key = getattr(cause, "full_key", None) if cause is not None else None
    if not key:
        return message
    from vissl.utils.hydra_config import compose_hydra_configuration

    first = next(o for o in overrides if o.startswith("config="))
    valid = list(config_keys.key_paths(compose_hydra_configuration([first])))
    parent = key.rpartition(".")[0]
    siblings = [k for k in valid if k.rpartition(".")[0] == parent]
    near = config_keys.nearest(key, siblings or valid)
    return f"{key}, on the command line, is no key of the config{near}"


def _under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and "LOCAL_WORLD_SIZE" in os.environ


def _take_torchrun_shape(config: Any) -> None:
    """The processes are started the processes: its numbers stand over the config's."""
    local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    shape = {
        "NUM_NODES": world // local,
        "NUM_PROC_PER_NODE": local,
        "INIT_METHOD": "env",
        "RUN_ID": "torchrun",
    }
    if config.DISTRIBUTED.NUM_NODES * config.DISTRIBUTED.NUM_PROC_PER_NODE != world:
        raise StartError(
            f"torchrun started {world} processes, but the config asks for "
            f"{config.DISTRIBUTED.NUM_NODES} x {config.DISTRIBUTED.NUM_PROC_PER_NODE}; "
            f"set config.DISTRIBUTED.NUM_NODES={world // local} "
            f"config.DISTRIBUTED.NUM_PROC_PER_NODE={local} (learning rate and queue "
            "follow from them).",
            key="config.DISTRIBUTED.NUM_PROC_PER_NODE",
        )
    for key, value in shape.items():
        config.DISTRIBUTED[key] = value


def _run_this_process(arguments: Any, config: Any) -> None:
    """What the host's launcher does in each process it spawns."""
    from vissl.engines import run_engine
    from vissl.hooks import default_hook_generator
    from vissl.utils.checkpoint import (
        get_checkpoint_folder,
        get_resume_checkpoint,
        is_training_finished,
    )

    folder = get_checkpoint_folder(config)
    if is_training_finished(config, checkpoint_folder=folder):
        logging.info("Training has finished before: nothing to do.")
        return
    run: Any = run_engine
    run(
        arguments.engine_name,
        config,
        config.DISTRIBUTED.RUN_ID,
        get_resume_checkpoint(config, checkpoint_folder=folder),
        folder,
        local_rank=int(os.environ["LOCAL_RANK"]),
        node_id=int(os.environ["RANK"]) // int(os.environ["LOCAL_WORLD_SIZE"]),
        hook_generator=default_hook_generator,
    )
