"""What a benchmark of a recipe is on the host's command line."""

import json
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vissl_swav.host.errors import StartError
from vissl_swav.host.quoting import quoted
from vissl_swav.host.settings.saved_trunk import SavedTrunk
from vissl_swav.suite.recipe import Benchmark
from vissl_swav.suite.table_data import DataSet
from vissl_swav.suite.table_rows import Row

# Below this side, images are taken as they are: nothing is cut off at their edges.
SMALL = 64
LEAST_SIDE = 32
# The field's usual share of the shorter side that a centre crop of 224 pixels leaves.
MARGIN = 256 / 224


@dataclass(frozen=True)
class Machine:
    """Where the runs run.

    Attributes:
        device: cpu or gpu, as the host says it.
        processes: of a run, on this machine.
        workers: of each loader.
    """

    device: str
    processes: int
    workers: int

    def overrides(self) -> list[str]:
        """For the host's command line, whatever its config says of machines."""
        lines = [
            f"config.MACHINE.DEVICE={self.device}",
            f"config.DISTRIBUTED.BACKEND={'nccl' if self.device == 'gpu' else 'gloo'}",
            "config.DISTRIBUTED.NUM_NODES=1",
            f"config.DISTRIBUTED.NUM_PROC_PER_NODE={self.processes}",
            "config.DISTRIBUTED.RUN_ID=auto",
            f"config.DATA.NUM_DATALOADER_WORKERS={self.workers}",
        ]
        if self.device == "gpu":
            return lines
        return [
            *lines,
            "config.MODEL.SYNC_BN_CONFIG.CONVERT_BN_TO_SYNC_BN=false",
            "config.MODEL.AMP_PARAMS.USE_AMP=false",
            "config.HOOKS.LOG_GPU_STATS=false",
            "config.HOOKS.MEMORY_SUMMARY.PRINT_MEMORY_SUMMARY=false",
            "config.DATA.PIN_MEMORY=false",
            "config.DATA.ENABLE_ASYNC_GPU_COPY=false",
        ]


def host_overrides(
    entry: Benchmark, row: Row, data: DataSet, machine: Machine, seed: int
) -> list[str]:
    """The whole command line of a benchmark's run, the checkpoint folder excepted.

    Raises:
        StartError: the recipe names a value that we do not have.
    """
    assert entry.config is not None
    lines = [
        f"config={entry.config}",
        *data.overrides(test=entry.kind != "cost"),
        *_model_overrides(row),
        f"config.SEED_VALUE={seed}",
        "config.CHECKPOINT.AUTO_RESUME=true",
        "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1",
        *machine.overrides(),
    ]
    batch = entry.batch and _batch(entry.batch, data, machine)
    if batch:
        lines.append(f"config.DATA.TRAIN.BATCHSIZE_PER_REPLICA={batch}")
    if entry.epochs:
        total = (batch or 1) * machine.processes
        lines.append(f"config.OPTIMIZER.num_epochs={_epochs(entry, data, total)}")
    values = substitutions(row.saved, data)
    return [
        *lines,
        *(_filled(text, values, f"{entry.name}.overrides") for text in entry.overrides),
        *(_filled(text, values, f"settings.{row.name}") for text in row.overrides),
    ]


def _model_overrides(row: Row) -> list[str]:
    """The checkpoint in place of the config's; none for a way to pretrain."""
    if row.saved is None:
        return []
    weights = quoted(row.weights) if row.weights is not None else "''"
    return [
        *trunk_overrides(row.saved),
        f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={weights}",
        "config.MODEL.WEIGHTS_INIT.STATE_DICT_KEY_NAME=classy_state_dict",
    ]


def trunk_overrides(trunk: SavedTrunk) -> list[str]:
    """The trunk of the checkpoint in place of the config's."""
    return [
        f"config.MODEL.TRUNK.NAME={trunk.name}",
        *(
            f"++config.MODEL.TRUNK.{key}={value_text(value)}"
            for key, value in trunk.settings.items()
        ),
    ]


def value_text(value: Any) -> str:
    """A value from a YAML file, in hydra's grammar."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{','.join(map(value_text, value))}]"
    if isinstance(value, dict):
        inner = ",".join(f"{key}:{value_text(entry)}" for key, entry in value.items())
        return f"{{{inner}}}"
    return json.dumps(value)


def _batch(wanted: int, data: DataSet, machine: Machine) -> int:
    """Images of a process in a step: no more than there are, no tiny last batch.

    Batch norm refuses a batch of one, and learns nonsense of a few: where the last one
    would be small, all batches of an epoch are made about equal.
    """
    share = -(-data.train.num_images // machine.processes)
    batch = max(1, min(wanted // machine.processes, share))
    if 0 < share % batch < max(2, batch // 8):
        batch = -(-share // -(-share // batch))
        batch += share % batch == 1 and batch < share
    return batch


def _epochs(entry: Benchmark, data: DataSet, batch: int) -> int:
    """The recipe's epochs, more where few images make few steps."""
    steps_per_epoch = -(-data.train.num_images // batch)
    return max(entry.epochs or 1, -(-entry.least_steps // steps_per_epoch))


def substitutions(trunk: SavedTrunk | None, data: DataSet) -> dict[str, str]:
    """What a recipe's `$name` stands for."""
    of_data = {
        "num_classes": str(data.num_classes),
        "num_train": str(data.train.num_images),
    }
    return of_data if trunk is None else {**of_data, **_of_trunk(trunk)}


def _of_trunk(trunk: SavedTrunk) -> dict[str, str]:
    side = eval_size(trunk)
    resized = side if side < SMALL else round(side * MARGIN)
    grey = ["{name:Grayscale,num_output_channels:1}"] if trunk.channels == 1 else []
    end = [
        *grey,
        "{name:ToTensor}",
        f"{{name:Normalize,mean:{value_text(list(trunk.mean))},"
        f"std:{value_text(list(trunk.std))}}}",
    ]
    centre = [f"{{name:Resize,size:{resized}}}", f"{{name:CenterCrop,size:{side}}}"]
    scale = [0.25, 1.0] if side < SMALL else [0.08, 1.0]
    crop = [
        f"{{name:RandomResizedCrop,size:{side},scale:{scale}}}",
        "{name:RandomHorizontalFlip}",
    ]
    return {
        "feature_dim": str(trunk.feature_dim),
        "layer": trunk.layer,
        "eval_transforms": f"[{','.join([*centre, *end])}]",
        "train_transforms": f"[{','.join([*crop, *end])}]",
    }


def eval_size(trunk: SavedTrunk) -> int:
    """Side of the images that a trunk is evaluated on, in pixels."""
    return max(trunk.crop_size, LEAST_SIDE)


def _filled(text: str, values: dict[str, str], place: str) -> str:
    try:
        return string.Template(text).substitute(values)
    except (KeyError, ValueError) as error:
        raise StartError(
            f"{place} has {text!r}, with a $ that stands for nothing "
            f"({error}); there are {', '.join('$' + name for name in values)}, and $$ "
            "for a dollar."
        ) from error


def accuracies(lines: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Figures of the last test phase in the host's `metrics.json`, in per cent.

    Returns:
        `top_1` and the like, the best of the model's outputs; `top_1_0`, `top_1_1` of
        each output, where there are several.
    """
    tests = [m for m in lines if "test_accuracy_list_meter" in m]
    if not tests:
        return {}
    found: dict[str, float] = {}
    for name, outputs in tests[-1]["test_accuracy_list_meter"].items():
        if not isinstance(outputs, dict):
            continue
        values = [float(value) for value in outputs.values()]
        found[name] = max(values)
        if len(values) > 1:
            found |= {f"{name}_{i}": value for i, value in enumerate(values)}
    return found
