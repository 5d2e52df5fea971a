"""One run of the comparison: pretraining in VISSL, then its frozen trunk, judged."""

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comparison_plan as plan
import numpy as np
import torch
from comparison_plan import Cell, Size
from PIL import Image
from torch import Tensor, nn

from vissl_swav.data import folders, subsets
from vissl_swav.host.quoting import quoted
from vissl_swav.suite import knn, stage
from vissl_swav.suite.features import FeatureSet
from vissl_swav.suite.table_jobs import FINAL, final_checkpoint, write_whole
from vissl_swav.suite.table_runs import Machine
from vissl_swav.weights.loading import load_weights
from vissl_swav.weights.plain_resnet import PlainResNet

RESULT = "result.json"
NEIGHBORS, VOTE_TEMPERATURE = 20, 0.1
LINEAR_DECAY, LINEAR_STEPS = 1e-3, 300
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SPLITS = ("train", "test")


@dataclass(frozen=True)
class Labelled:
    """Images (N, 3, 32, 32) uint8 and labels (N,) int64."""

    images: Tensor
    labels: Tensor


class Data:
    """The images of a size, as folders for the host and as tensors for the judge.

    Args:
        source: an image folder of CIFAR-10, with train/ and test/.
        out: where the parts of it are linked.
        size: how many of a class.
    """

    def __init__(self, source: Path, out: Path, size: Size):
        self.folders = {}
        wanted = (size.train_per_class, size.test_per_class)
        for split, per_class in zip(_SPLITS, wanted, strict=True):
            self.folders[split] = source / split
            if per_class is not None:
                target = out / "data" / f"{split}-{per_class}"
                if not target.exists():
                    subsets.subsample_folder(
                        source / split, target, per_class=per_class, seed=0
                    )
                self.folders[split] = target
        self.train, self.test = (_read(self.folders[split]) for split in _SPLITS)


def _read(folder: Path) -> Labelled:
    images, labels = [], []
    for label, files in enumerate(folders.list_images(folder).values()):
        for file in files:
            with Image.open(file) as image:
                images.append(np.asarray(image.convert("RGB")))
            labels.append(label)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Labelled(pixels, torch.tensor(labels))


@dataclass(frozen=True)
class Place:
    """Where runs run and lie.

    Attributes:
        out: the folder of all runs.
        size: of the comparison.
        machine: for the host.
        data: the images.
    """

    out: Path
    size: Size
    machine: Machine
    data: Data

    @property
    def device(self) -> torch.device:
        """For the judge."""
        return torch.device("cuda" if self.machine.device == "gpu" else "cpu")


def kept(cell: Cell, out: Path, size: Size) -> dict[str, Any] | None:
    """What the finished run left, or None."""
    file = out / "runs" / plan.folder_name(cell, size) / RESULT
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return found if {"linear", "knn"} <= set(found["figures"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def run(cell: Cell, place: Place, report: stage.Report) -> dict[str, Any]:
    """Trains and judges; does nothing where that has been done.

    Raises:
        StageFailed: the host's run failed.
    """
    found = kept(cell, place.out, place.size)
    if found is not None:
        return found
    folder = place.out / "runs" / plan.folder_name(cell, place.size)
    started = time.perf_counter()
    weights = _weights(cell, place, folder, report)
    trained = time.perf_counter()
    train, test = (
        embed(weights, split, place.device)
        for split in (place.data.train, place.data.test)
    )
    steps = stage.steps(folder)
    content = {
        "cell": dataclasses.asdict(cell),
        "figures": judge(train, test),
        "steps": len(steps),
        "last_loss": steps[-1]["loss"] if steps else None,
        "seconds": {
            "pretraining": round(trained - started, 1),
            "judging": round(time.perf_counter() - trained, 1),
        },
        "date": time.strftime("%Y-%m-%d"),
    }
    write_whole(folder / RESULT, json.dumps(content, indent=2))
    return content


def _weights(cell: Cell, place: Place, folder: Path, report: stage.Report) -> Path:
    if cell.method == plan.RANDOM:
        return _random_trunk(cell, place, folder)
    if not list(folder.glob(FINAL)):
        stage.run(cell.name, command(cell, place), folder, report)
    return final_checkpoint(folder)


def command(cell: Cell, place: Place) -> list[str]:
    """The host's command line, the folder excepted."""
    return [
        *plan.overrides(cell, place.size),
        *place.machine.overrides(),
        "config.DATA.TRAIN.DATA_SOURCES=[images]",
        "config.DATA.TRAIN.DATASET_NAMES=[images]",
        f"config.DATA.TRAIN.DATA_PATHS=[{quoted(place.data.folders['train'])}]",
    ]


def _random_trunk(cell: Cell, place: Place, folder: Path) -> Path:
    """A checkpoint of a trunk as the host makes it before the first step."""
    from vissl_swav.host import launch, registration

    registration.arm()
    from vissl.models import build_model

    like = dataclasses.replace(cell, method="swav")
    _, config = launch.compose(command(like, place))
    torch.manual_seed(cell.seed)
    model = build_model(config.MODEL, config.OPTIMIZER)
    file = folder / "model_final_checkpoint_phase0.torch"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"classy_state_dict": {"base_model": model.get_classy_state()}}, file)
    return file


@torch.inference_mode()
def embed(weights: Path, split: Labelled, device: torch.device) -> FeatureSet:
    """Features (N, D) of whole images, by the trunk in eval mode, on the CPU."""
    trunk = PlainResNet(load_weights(weights, "trunk").trunk).to(device)
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (_MEAN, _STD))
    rows = [
        trunk((batch.to(device).float() / 255 - mean) / std).cpu()
        for batch in split.images.split(512)
    ]
    return FeatureSet(torch.cat(rows), split.labels)


def judge(train: FeatureSet, test: FeatureSet) -> dict[str, float]:
    """Top-1 accuracy in %: linear, k-NN, and k-NN within the training images.

    In the last, half of the training images vote on the other half: the search goes by
    it, and so sees no test image.
    """
    half = [FeatureSet(train.features[s::2], train.labels[s::2]) for s in (0, 1)]
    return {
        "linear": linear_accuracy(train, test),
        "knn": _knn_accuracy(train, test),
        "knn_within_training": _knn_accuracy(*half),
    }


def _knn_accuracy(train: FeatureSet, test: FeatureSet) -> float:
    (result,) = knn.evaluate(
        train,
        test,
        num_neighbors=(NEIGHBORS,),
        temperatures=(VOTE_TEMPERATURE,),
        device="cpu",
    )
    return result.top1


def linear_accuracy(train: FeatureSet, test: FeatureSet) -> float:
    """A linear layer on the frozen features, in %.

    Logistic regression on features of zero mean and unit variance over the training
    images, to the optimum (L-BFGS), with L2 weight decay. The paper's linear layer is
    trained by SGD on random crops; this one has no rate to choose.
    """
    Z, mean, std = _standardised(train.features[:])
    classifier = nn.Linear(Z.shape[1], int(train.labels.max()) + 1)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    search = torch.optim.LBFGS(
        classifier.parameters(), max_iter=LINEAR_STEPS, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        search.zero_grad()
        cost = nn.functional.cross_entropy(classifier(Z), train.labels)
        cost = cost + LINEAR_DECAY / 2 * classifier.weight.square().sum()
        cost.backward()
        return cost.item()

    search.step(loss)
    with torch.inference_mode():
        found = classifier((test.features[:] - mean) / std).argmax(dim=1)
    return 100 * float((found == test.labels).float().mean())


def _standardised(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean, std = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)
    return (features - mean) / std, mean, std


def seconds(results: Sequence[dict[str, Any]]) -> float:
    """That all runs took together."""
    return sum(sum(result["seconds"].values()) for result in results)
