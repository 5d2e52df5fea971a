"""Runs the host without the shims and prints, as JSON, what goes wrong for each.

`test_still_needed.py` starts it once, in an interpreter of its own, with
VISSL_SWAV_AUTO=0. What only stops the import of the host is put right on the way, by
the shims that do so, when its symptom has been written down.
"""

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


def without_apex():
    import torch
    from classy_vision.optim.sgd import SGD
    from vissl.config import AttrDict
    from vissl.models.model_helpers import convert_sync_bn
    from vissl.trainer.train_task import SelfSupervisionTask

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


def on_the_cpu():
    import torch
    from tools import nearest_neighbor_test, train_svm_low_shot
    from vissl.trainer.trainer_main import SelfSupervisionTrainer
    from vissl.utils import collect_env

    trainer = SelfSupervisionTrainer.__new__(SelfSupervisionTrainer)
    trainer.task = SimpleNamespace(device=torch.device("cpu"))
    symptom("cpu_extraction", lambda: trainer.extract("."))
    code = nearest_neighbor_test.nearest_neighbor_test.__code__
    SYMPTOMS["cpu_tools"] = "cuda" if "cuda" in code.co_names else None
    arguments = "voc", None, [1], [1], ".", "layer"
    symptom(
        "low_shot", lambda: train_svm_low_shot.generate_low_shot_samples(*arguments)
    )
    names = [name for name, _ in collect_env.collect_dep_env([])]
    SYMPTOMS["environment_report"] = None if "vissl_swav" in names else "not named"


if __name__ == "__main__":
    before_the_host()
    for part in (numpy_and_collections, checkpoints, without_apex, on_the_cpu):
        part()
    print(json.dumps(SYMPTOMS))
