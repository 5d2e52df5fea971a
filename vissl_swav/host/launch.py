"""Composes a config as the host does, checks it, and starts the host's engine.

One process, N local processes, SLURM by the host's launcher, or one process of a
torchrun job.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from vissl_swav.host import (
    auto_scale,
    automatic,
    config_keys,
    endings,
    ours_flag,
    plan_facts,
    preflight,
    refused_overrides,
    settings,
)
from vissl_swav.host.data_override import expand_data_override, without_data
from vissl_swav.host.errors import StartError
from vissl_swav.host.hook_generator import RECORD_STEPS

# What the host's own checks and inferences raise over a config that cannot be.
_REFUSALS = (
    *(AssertionError, AttributeError, IndexError, KeyError),
    *(TypeError, ValueError, ZeroDivisionError),
)


def compose(overrides: Sequence[str]) -> tuple[Any, Any]:
    """The host's (arguments, config) for its command-line overrides, checked.

    `data=PATH` among them stands for the host's keys (`data_override`), and `--ours`
    for the translation of the host's loss (`ours_flag`).

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
    plain = without_data(overrides)
    try:
        overrides = ours_flag.apply(
            overrides,
            lambda lines: OmegaConf.to_container(
                compose_hydra_configuration(without_data(lines)).config
            ),
        )
        plain = without_data(overrides)
        composed = compose_hydra_configuration(plain)
        if len(plain) != len(overrides):
            labelled = settings.wants_labels(composed.config)
            test = settings.tests(composed.config)
            plain = expand_data_override(
                overrides,
                labelled=labelled,
                test=test,
                streams=settings.streams(composed.config),
            )
            composed = compose_hydra_configuration(plain)
    except (HydraException, OmegaConfBaseException) as error:
        raise StartError(refused_overrides.explain(error, plain)) from error
    overrides = plain
    config_keys.check_overrides_arrived(composed, overrides)
    tree: Any = OmegaConf.to_container(composed)
    config_keys.check_keys(tree, overrides)
    auto_scale.resolve(composed, overrides)
    try:
        return convert_to_attrdict(composed, dump_config=False)
    except StartError as error:
        raise config_keys.with_place(error, overrides) from error
    except _REFUSALS as error:
        kind = type(error).__name__
        first = (str(error).splitlines() or [""])[0]
        raise StartError(f"VISSL refuses the config ({kind}): {first}") from error


def start(overrides: Sequence[str]) -> None:
    """Checks, then runs the engine that the config names.

    Raises:
        StartError: the run is impossible; nothing was written.
    """
    arguments, config = compose(overrides)
    torchrun = _under_torchrun()
    if torchrun:
        _take_torchrun_shape(config)
    try:
        run = preflight.check(config, torchrun=torchrun)
        plan_facts.check(config, run)
        automatic.measure(config)
    except StartError as error:
        raise config_keys.with_place(error, overrides) from error

    from vissl.hooks import default_hook_generator
    from vissl.utils import distributed_launcher
    from vissl.utils.checkpoint import get_checkpoint_folder, is_training_finished

    folder = get_checkpoint_folder(config)
    if is_training_finished(config, checkpoint_folder=folder):
        # Before the host sets up its log, which would show no less.
        logging.warning(f"Training in {folder} has finished before: nothing to do.")
        return
    os.environ.setdefault(RECORD_STEPS, "1")
    if not torchrun or os.environ["RANK"] == "0":
        _save(config, Path(folder))
    endings.mend_last_words(distributed_launcher)
    with endings.recorded(Path(folder)):
        if torchrun:
            _run_this_process(arguments, config, folder)
        elif run.on_slurm:
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


def _save(config: Any, folder: Path) -> None:
    """`train_config.yaml`, in one step; an earlier one that differs is kept beside."""
    target = folder / "train_config.yaml"
    # Whatever reads it again may load plain data only: a tuple becomes a list.
    text = yaml.safe_dump(settings.storable(config).to_dict())
    if target.exists() and target.read_text(encoding="utf-8") != text:
        number = len(list(folder.glob("train_config.*.yaml"))) + 1
        os.replace(target, folder / f"train_config.{number}.yaml")
    scratch = folder / f".train_config-{os.getpid()}.yaml"
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, target)


def _under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and "LOCAL_WORLD_SIZE" in os.environ


def _take_torchrun_shape(config: Any) -> None:
    """The processes are started the processes: its numbers stand over the config's."""
    local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    run = settings.run_facts(config)
    if run.world_size != world:
        raise StartError(
            f"torchrun started {world} processes, but the config asks for "
            f"{run.num_nodes} x {run.processes_per_node}; "
            f"set config.DISTRIBUTED.NUM_NODES={world // local} "
            f"config.DISTRIBUTED.NUM_PROC_PER_NODE={local} (learning rate and queue "
            "follow from them).",
            key="config.DISTRIBUTED.NUM_PROC_PER_NODE",
        )
    settings.take_shape(config, num_nodes=world // local, processes_per_node=local)


def _run_this_process(arguments: Any, config: Any, folder: str) -> None:
    """What the host's launcher does in each process it spawns."""
    from vissl.engines import run_engine
    from vissl.hooks import default_hook_generator
    from vissl.utils.checkpoint import get_resume_checkpoint

    run: Any = run_engine
    run(
        arguments.engine_name,
        config,
        "torchrun",
        get_resume_checkpoint(config, checkpoint_folder=folder),
        folder,
        local_rank=int(os.environ["LOCAL_RANK"]),
        node_id=int(os.environ["RANK"]) // int(os.environ["LOCAL_WORLD_SIZE"]),
        hook_generator=default_hook_generator,
    )
