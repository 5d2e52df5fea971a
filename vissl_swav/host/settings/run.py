"""What the checks before a run need to know of its config."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vissl_swav.host.settings.swav import LOSS_NAME, TRANSFORM_NAME, is_ours, world_size


@dataclass(frozen=True)
class SplitFacts:
    """Where the images of a split lie; `limit` is -1 for all of them."""

    name: str
    sources: list[str]
    paths: list[str]
    batch: int
    limit: int


@dataclass(frozen=True)
class RunFacts:
    """What the checks before a run need to know."""

    device: str
    backend: str
    processes_per_node: int
    world_size: int
    splits: list[SplitFacts]
    multi_crops: list[dict[str, Any]]
    num_prototypes: list[int]
    embedding_dim: int
    rows_per_process: int
    queue_rows: int
    num_assign_crops: int
    checkpoint_folder: str
    identity: dict[str, Any]


def run_facts(cfg: Any) -> RunFacts:
    """From an inferred config; loss facts are 0 where the loss is not ours."""
    loss = cfg.LOSS[LOSS_NAME] if is_ours(cfg) else {}
    of_wrapper = ("name", "indices", "transform_type")
    names = [] if cfg.TEST_ONLY else ["TRAIN"]
    names += ["TEST"] if cfg.TEST_MODEL else []
    return RunFacts(
        device=cfg.MACHINE.DEVICE,
        backend=cfg.DISTRIBUTED.BACKEND,
        processes_per_node=cfg.DISTRIBUTED.NUM_PROC_PER_NODE,
        world_size=world_size(cfg),
        splits=[_split_facts(cfg, name) for name in names],
        multi_crops=[
            {k: v for k, v in transform.items() if k not in of_wrapper}
            for transform in cfg.DATA.TRAIN.TRANSFORMS
            if transform["name"] == TRANSFORM_NAME
        ],
        num_prototypes=list(loss.get("num_prototypes", [])),
        embedding_dim=loss.get("embedding_dim", 0),
        rows_per_process=loss.get("num_crops", 0)
        * cfg.DATA.TRAIN.BATCHSIZE_PER_REPLICA,
        queue_rows=loss.get("queue_length_per_rank", 0),
        num_assign_crops=len(loss.get("crops_for_assign", [])),
        checkpoint_folder=cfg.CHECKPOINT.DIR,
        identity=identity(cfg),
    )


def identity(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a checkpoint this run's: state that would not fit or mean another."""
    loss = cfg["LOSS"]["name"]
    trunk = cfg["MODEL"]["TRUNK"]
    settings = cfg["LOSS"].get(LOSS_NAME) or {}
    return {
        "LOSS.name": loss,
        "MODEL.TRUNK.NAME": trunk["NAME"],
        "MODEL.TRUNK.RESNETS": trunk.get("RESNETS"),
        "MODEL.TRUNK.RESNET_SMALL": trunk.get("RESNET_SMALL"),
        "MODEL.HEAD.PARAMS": cfg["MODEL"]["HEAD"]["PARAMS"],
        "crops_for_assign": settings.get("crops_for_assign")
        if loss == LOSS_NAME
        else None,
    }


def _split_facts(cfg: Any, name: str) -> SplitFacts:
    data = cfg.DATA[name]
    return SplitFacts(
        name=name,
        sources=list(data.DATA_SOURCES),
        paths=[str(path) for path in data.DATA_PATHS],
        batch=data.BATCHSIZE_PER_REPLICA,
        limit=data.DATA_LIMIT,
    )
