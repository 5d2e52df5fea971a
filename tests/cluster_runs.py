"""A run's folder for the tests of clusters: config and checkpoint, without training."""

import argparse
from pathlib import Path

import host_runs
import torch
import yaml


def overrides(images, folder, *extra, loss="swav", clusters=(12,)):
    """The tiny run with heads of so many prototypes."""
    counts = ",".join(map(str, clusters))
    return host_runs.overrides(
        images,
        folder,
        "config.MODEL.HEAD.PARAMS=[[swav_head,{dims:[16,16,8],use_bn:true,"
        f"num_clusters:[{counts}]}}]]",
        *extra,
        loss=loss,
        epochs=1,
    )


def untrained(images, folder, *extra, loss="swav", clusters=(12,)):
    """What a run leaves: `train_config.yaml` and `checkpoint.torch`."""
    from vissl.models import build_model

    from vissl_swav.host import launch, settings

    _, cfg = launch.compose(
        overrides(images, folder, *extra, loss=loss, clusters=clusters)
    )
    model = build_model(cfg.MODEL, cfg.OPTIMIZER)
    folder = Path(folder)
    folder.mkdir(parents=True)
    tree = settings.storable(cfg).to_dict()
    (folder / "train_config.yaml").write_text(yaml.dump(tree))
    base = {"model": model.get_classy_state()["model"], "meta": {}}
    state = {"classy_state_dict": {"base_model": base}, "phase_idx": 0}
    torch.save(state, folder / "checkpoint.torch")
    return folder


def command(*arguments):
    """`vissl-swav ARGUMENTS`; the exit code."""
    from importlib import import_module

    from vissl_swav.suite import cluster_arguments

    parser = argparse.ArgumentParser()
    cluster_arguments.add_commands(parser.add_subparsers(dest="command"))
    options = parser.parse_args(list(map(str, arguments)))
    return import_module(f"vissl_swav.suite.{options.command}").main(options)
