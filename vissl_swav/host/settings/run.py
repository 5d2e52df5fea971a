"""What the checks before a run, and its launch, need to know of its config."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vissl_swav.host.settings.loss import clusters, loss_settings, world_size
from vissl_swav.host.settings.same_run import identity, plain, resumes_to
from vissl_swav.host.settings.stream import stream_settings, streams
from vissl_swav.host.settings.sums import followed_loss


@dataclass(frozen=True)
class SplitFacts:
    """Where the images of a split lie; `limit` is -1 for all of them.

    `streamed` is the number of images of an epoch where they come from a stream;
    `prefixes` are what the host takes from the paths of a list, and puts there.
    """

    name: str
    sources: list[str]
    names: list[str]
    paths: list[str]
    batch: int
    limit: int
    drops_last: bool
    copied_to_local_disk: bool
    labelled: bool
    streamed: int | None = None
    prefixes: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class RunFacts:
    """What the checks before a run need to know."""

    device: str
    backend: str
    # Where the processes meet.
    init_method: str
    run_id: str
    on_slurm: bool
    num_nodes: int
    processes_per_node: int
    world_size: int
    splits: list[SplitFacts]
    half_precision: str | None
    initial_weights: str
    # The loss that our hooks follow.
    loss: str
    num_prototypes: list[int]
    embedding_dim: int
    batch_per_process: int
    num_crops: int
    queue_rows: int
    num_assign_crops: int
    keeps_bank: bool
    bytes_per_bank_value: int
    bytes_per_queue_value: int
    checkpoint_folder: str
    # Training phases up to which it goes on from a checkpoint; None: it starts anew.
    resumes_to: int | None
    identity: dict[str, Any]
    config: dict[str, Any]
    # Of the training data, once they are counted; None where only the host can tell.
    num_images: int | None = None


def run_facts(cfg: Any) -> RunFacts:
    """From an inferred config; loss facts are 0 where the loss is not ours."""
    loss = loss_settings(cfg)
    names = [] if cfg.TEST_ONLY else ["TRAIN"]
    names += ["TEST"] if cfg.TEST_MODEL else []
    amp = cfg.MODEL.AMP_PARAMS
    return RunFacts(
        device=cfg.MACHINE.DEVICE,
        backend=cfg.DISTRIBUTED.BACKEND,
        init_method=cfg.DISTRIBUTED.INIT_METHOD,
        run_id=str(cfg.DISTRIBUTED.RUN_ID),
        on_slurm=cfg.SLURM.USE_SLURM,
        num_nodes=cfg.DISTRIBUTED.NUM_NODES,
        processes_per_node=cfg.DISTRIBUTED.NUM_PROC_PER_NODE,
        world_size=world_size(cfg),
        splits=[_split_facts(cfg, name) for name in names],
        half_precision=amp.get("AMP_DTYPE", "float16") if amp.USE_AMP else None,
        initial_weights=cfg.MODEL.WEIGHTS_INIT.PARAMS_FILE,
        loss=followed_loss(cfg),
        num_prototypes=list(loss.get("num_prototypes", [])),
        embedding_dim=loss.get("embedding_dim", 0),
        batch_per_process=batch_of_one_process(cfg),
        num_crops=loss.get("num_crops", 0),
        queue_rows=loss.get("queue_length_per_rank", 0),
        num_assign_crops=len(loss.get("crops_for_assign", [])),
        keeps_bank=clusters(cfg),
        bytes_per_bank_value=4 if loss.get("bank_dtype") == "float32" else 2,
        bytes_per_queue_value=4 if loss.get("queue_dtype") == "float32" else 2,
        checkpoint_folder=cfg.CHECKPOINT.DIR,
        resumes_to=resumes_to(cfg),
        identity=identity(cfg),
        config=plain(cfg),
    )


def batch_of_one_process(cfg: Mapping[str, Any]) -> int:
    """Images in a training step of one process."""
    return cfg["DATA"]["TRAIN"]["BATCHSIZE_PER_REPLICA"]


def num_epochs(cfg: Mapping[str, Any]) -> int:
    """Training epochs of the run."""
    return cfg["OPTIMIZER"]["num_epochs"]


def processes_per_node(cfg: Any) -> int:
    """Ranks on a machine."""
    return cfg.DISTRIBUTED.NUM_PROC_PER_NODE


def seed(cfg: Mapping[str, Any]) -> int:
    """The run's seed."""
    return cfg["SEED_VALUE"]


def checkpoint_step_frequency(cfg: Mapping[str, Any]) -> int:
    """Steps between the host's checkpoints within an epoch; <= 0 for none."""
    return cfg["CHECKPOINT"]["CHECKPOINT_ITER_FREQUENCY"]


def checkpoint_phase_frequency(cfg: Mapping[str, Any]) -> int:
    """Epochs between the host's checkpoints."""
    return cfg["CHECKPOINT"]["CHECKPOINT_FREQUENCY"]


def take_shape(cfg: Any, *, num_nodes: int, processes_per_node: int) -> None:
    """Lets processes that somebody else started be those of the run, in place."""
    cfg.DISTRIBUTED.NUM_NODES = num_nodes
    cfg.DISTRIBUTED.NUM_PROC_PER_NODE = processes_per_node
    cfg.DISTRIBUTED.INIT_METHOD = "env"
    cfg.DISTRIBUTED.RUN_ID = "torchrun"


def storable(cfg: Any) -> Any:
    """A copy for a YAML file: as it was before the host made a dtype of a string."""
    plain = copy.deepcopy(cfg)
    dtype = plain.MODEL.FSDP_CONFIG.compute_dtype
    plain.MODEL.FSDP_CONFIG.compute_dtype = str(dtype).removeprefix("torch.")
    return plain


def _split_facts(cfg: Any, name: str) -> SplitFacts:
    data = cfg.DATA[name]
    return SplitFacts(
        name=name,
        sources=list(data.DATA_SOURCES),
        names=list(data.DATASET_NAMES),
        paths=[str(path) for path in data.DATA_PATHS],
        batch=data.BATCHSIZE_PER_REPLICA,
        limit=data.DATA_LIMIT,
        drops_last=data.DROP_LAST,
        copied_to_local_disk=data.COPY_TO_LOCAL_DISK,
        labelled=bool(data.LABEL_SOURCES),
        streamed=stream_settings(cfg).images_per_epoch
        if name == "TRAIN" and streams(cfg)
        else None,
        prefixes=(data.REMOVE_IMG_PATH_PREFIX or "", data.NEW_IMG_PATH_PREFIX or ""),
    )
