"""Runs the host without the shims and prints, as JSON, what goes wrong for each.

`test_still_needed.py` starts it once, in an interpreter of its own, with
VISSL_SWAV_AUTO=0. What only stops the import of the host is put right on the way, by
the shims that do so, when its symptom has been written down.
"""

import inspect
import io
import json
import sys
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

SYMPTOMS = {}


def symptom(shim, function):
    try:
        function()
    except BaseException as error:
        SYMPTOMS[shim] = f"{type(error).__name__}: {error}"
    else:
        SYMPTOMS[shim] = None


def import_kinetics():
    from torchvision.datasets.kinetics import Kinetics400  # noqa: F401


def before_the_host():
    warnings.simplefilter("ignore")
    from vissl_swav.compat import kinetics400, package_resources, torchvision_ops

    symptom("torch_six", lambda: __import__("torch._six"))
    symptom("pkg_resources", lambda: __import__("pkg_resources"))
    SYMPTOMS["pair_matches"] = not torchvision_ops.operators_are_missing()
    symptom("torchvision_ops", lambda: __import__("torchvision"))
    if SYMPTOMS["torchvision_ops"] is not None:
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        torchvision_ops.apply()
    symptom("kinetics400", import_kinetics)
    kinetics400.apply()
    package_resources.apply()


def numpy_and_collections():
    import numpy as np
    from vissl.utils import misc
    from vissl.utils.svm_utils import evaluate

    symptom("removed_names", lambda: misc.flatten_dict({"a": {"b": 1}}))
    evaluate.np = SimpleNamespace(**{**vars(np), "float": float})
    labels = np.array([1, -1, 1, -1])
    scores = np.array([0.9, 0.2, 0.4, 0.5])

    def store():
        np.zeros((1, 1))[0][0] = evaluate.get_precision_recall(labels, scores)[3]

    symptom("numpy_scalars", store)


def checkpoints():
    import torch
    from vissl.config import AttrDict
    from vissl.utils import checkpoint

    buffer = io.BytesIO()
    torch.save({"config": AttrDict({"a": {"b": 1}})}, buffer)
    buffer.seek(0)
    symptom(
        "checkpoint_loading",
        lambda: checkpoint.torch.load(buffer, weights_only=True),
    )
    folder = tempfile.mkdtemp()
    for name in ("checkpoint.torch", "model_final_checkpoint_phase0.torch"):
        (Path(folder) / name).touch()
    section = {
        "OVERWRITE_EXISTING": True,
        "AUTO_RESUME": True,
        "LATEST_CHECKPOINT_RESUME_FILE_NUM": 1,
        "CHECKPOINT_ITER_FREQUENCY": -1,
    }
    cfg = AttrDict({"CHECKPOINT": section})
    SYMPTOMS["resume"] = checkpoint.get_resume_checkpoint(cfg, folder)


class Unpicklable:
    def __reduce__(self):
        raise ValueError("in the middle of a checkpoint")


def interrupted_runs():
    import torch
    from classy_vision.optim.sgd import SGD
    from vissl.trainer.train_task import SelfSupervisionTask
    from vissl.trainer.trainer_main import SelfSupervisionTrainer
    from vissl.utils import checkpoint

    folder = tempfile.mkdtemp()
    content = {"weights": torch.ones(9), "rest": Unpicklable()}
    name = "model_phase0.torch"
    symptom("write", lambda: checkpoint.save_checkpoint(folder, content, name))
    torn = "in the middle" in SYMPTOMS.pop("write") and (Path(folder) / name).exists()
    SYMPTOMS["checkpoint_writing"] = "half a file has the name" if torn else None

    # Half of the second of two epochs is done, which had 4 steps and now have 8.
    task = SelfSupervisionTask.__new__(SelfSupervisionTask)
    task.checkpoint = {"iteration": 6, "train_phase_idx": 0}
    task.dataloaders = {"train": range(8)}
    start = task._compute_start_iter_from_checkpoint("train")
    SYMPTOMS["position"] = f"starts at step {start}" if start != 4 else None

    asked = []
    task = SimpleNamespace(
        **{"meters": [], "losses": [], "phase_idx": -1, "train_phase_idx": -1},
        phases=[{"train": True}, {"train": True}],
        checkpoint=None,
        recreate_data_iterator=lambda *_, **__: None,
        model=torch.nn.Identity(),
        optimizer=SimpleNamespace(on_epoch=asked.append),
        where=0.25,
    )
    SelfSupervisionTrainer._advance_phase(SimpleNamespace(), task)
    SYMPTOMS["schedule"] = f"epoch 0 at {asked[-1]}" if asked[-1] else None

    taken = inspect.getsource(SelfSupervisionTask._set_classy_state)
    SYMPTOMS["hooks"] = "no hook gets its state" if "hooks" not in taken else None

    old, new = SGD(weight_decay=0.5), SGD(weight_decay=0.0)
    for optimizer in (old, new):
        optimizer.prepare([torch.nn.Parameter(torch.ones(1))])
    new.set_classy_state(old.get_classy_state())
    decay = new.optimizer.param_groups[0]["weight_decay"]
    SYMPTOMS["options"] = f"weight decay {decay}" if decay else None


def losses_with_a_teacher():
    import torch
    from vissl.config import AttrDict
    from vissl.losses.dino_loss import DINOLoss

    loss = DINOLoss(AttrDict({"output_dim": 2}))
    loss.load_state_dict({"center": torch.ones(1, 2), "momentum_teacher.bias": 1})
    lost = "momentum_teacher.bias" not in loss.state_dict()
    SYMPTOMS["waiting_state"] = "the teacher is lost" if lost else None


def without_apex():
    import torch
    from classy_vision.optim.sgd import SGD
    from vissl.config import AttrDict
    from vissl.models.model_helpers import convert_sync_bn
    from vissl.trainer import train_task
    from vissl.trainer.train_task import SelfSupervisionTask

    imports = "import apex" in inspect.getsource(train_task)
    SYMPTOMS["apex_identity"] = "imports apex" if imports else None
    weights = [torch.nn.Parameter(torch.ones(1))]
    symptom("larc", lambda: SGD(use_larc=True, larc_config={}).prepare(weights))
    sync_bn = {"SYNC_BN_TYPE": "apex", "GROUP_SIZE": 0}
    config = {
        "MODEL": {
            "SYNC_BN_CONFIG": sync_bn,
            "AMP_PARAMS": {"USE_AMP": True, "AMP_TYPE": "apex", "AMP_ARGS": {}},
        },
        "DISTRIBUTED": {"NUM_PROC_PER_NODE": 1, "NUM_NODES": 1},
    }
    config = AttrDict(config)
    symptom("sync_bn", lambda: convert_sync_bn(config, torch.nn.BatchNorm2d(1)))
    task = SelfSupervisionTask.__new__(SelfSupervisionTask)
    task.config, task.device = config, torch.device("cuda")
    symptom("amp", task.set_amp_args)


def batch_norm_on_the_cpu():
    import torch
    import torch.distributed as dist
    from vissl.models.trunks.xcit import conv3x3

    pixels = torch.ones(2, 3, 4, 4)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    symptom("cpu_batch_norm", lambda: conv3x3(3, 2)(pixels))
    dist.destroy_process_group()


def on_the_cpu():
    import torch
    from tools import (
        instance_retrieval_test,
        nearest_neighbor_test,
        train_svm_low_shot,
    )
    from vissl.trainer.trainer_main import SelfSupervisionTrainer
    from vissl.utils import collect_env
    from vissl.utils import io as io_of_the_host

    trainer = SelfSupervisionTrainer.__new__(SelfSupervisionTrainer)
    trainer.task = SimpleNamespace(device=torch.device("cpu"))
    symptom("cpu_extraction", lambda: trainer.extract("."))
    code = nearest_neighbor_test.nearest_neighbor_test.__code__
    SYMPTOMS["cpu_tools"] = "cuda" if "cuda" in code.co_names else None
    arguments = "voc", None, [1], [1], ".", "layer"
    symptom(
        "low_shot", lambda: train_svm_low_shot.generate_low_shot_samples(*arguments)
    )
    # It asserts a GPU and has one here or not: the code tells.
    code = instance_retrieval_test.instance_retrieval_test.__code__
    SYMPTOMS["cpu_retrieval"] = "cuda" if "cuda" in code.co_names else None
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "copies" / "train").mkdir(parents=True)
        (Path(folder) / "copies" / "train" / "copy_complete").touch()
        (Path(folder) / "train").mkdir()
        symptom(
            "local_copies",
            lambda: io_of_the_host.copy_data(
                f"{folder}/train", f"{folder}/copies", 1, None
            ),
        )
    names = [name for name, _ in collect_env.collect_dep_env([])]
    SYMPTOMS["environment_report"] = None if "vissl_swav" in names else "not named"


if __name__ == "__main__":
    before_the_host()
    parts = numpy_and_collections, checkpoints, interrupted_runs, losses_with_a_teacher
    for part in (*parts, without_apex, batch_norm_on_the_cpu, on_the_cpu):
        part()
    print(json.dumps(SYMPTOMS))
