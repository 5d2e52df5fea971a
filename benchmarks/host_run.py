"""Pretraining through VISSL on the embedded data set: step time, loss, k-NN.

    python benchmarks/host_run.py --device cuda [--amp float16|bfloat16]
        [--crops workers|device|resident]

The quickstart's run on any device; on a GPU NCCL takes gloo's place. k-NN (k = 20) is
that of the features before and after. Crops are made by the workers, by the train step,
or by it with all images on the device.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
from pathlib import Path

from side_by_side import machine

from vissl_swav.data import embedded
from vissl_swav.suite import features, stage

LAYER = "res5avg"


def on_device(args: argparse.Namespace) -> list[str]:
    """Overrides that put a run on the device."""
    cuda = args.device == "cuda"
    return [
        f"config.MACHINE.DEVICE={'gpu' if cuda else 'cpu'}",
        f"config.DISTRIBUTED.BACKEND={'nccl' if cuda else 'gloo'}",
    ]


def crops(args: argparse.Namespace) -> list[str]:
    """Where the crops are made."""
    if args.crops == "workers":
        return []
    return [
        "config.TRAINER.TRAIN_STEP_NAME=multi_crop_train_step",
        f"config.DATA.TRAIN.IMAGES_ON_DEVICE={args.crops == 'resident'}",
    ]


def precision(args: argparse.Namespace) -> list[str]:
    if args.amp is None:
        return []
    return [
        "config.MODEL.AMP_PARAMS.USE_AMP=true",
        "config.MODEL.AMP_PARAMS.AMP_TYPE=pytorch",
        f"config.MODEL.AMP_PARAMS.AMP_DTYPE={args.amp}",
    ]


def accuracy(
    args: argparse.Namespace, data: Path, folder: Path, weights: Path | None
) -> float:
    """k-NN accuracy in percent of a checkpoint's features, or of a random trunk's."""
    overrides = [
        "config=benchmark/knn/small_images",
        "engine_name=extract_features",
        f"config.DATA.TRAIN.DATA_PATHS=[{data / 'train'}]",
        f"config.DATA.TEST.DATA_PATHS=[{data / 'test'}]",
        *on_device(args),
    ]
    if weights is not None:
        overrides.append(f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={weights}")
    stage.run("Feature extraction", overrides, folder)
    return features.knn_accuracy(folder, LAYER, num_neighbors=(20,))[20]


def measure(args: argparse.Namespace, out: Path) -> None:
    data = embedded.build(
        out / "data", num_train=args.images, num_test=max(5, args.images // 4)
    )
    run = out / "pretrain"
    stage.run(
        "Pretraining",
        [
            "config=pretrain/swav/quickstart",
            "+config/pretrain/swav/crops=embedded",
            f"config.DATA.TRAIN.DATA_PATHS=[{data / 'train'}]",
            f"config.OPTIMIZER.num_epochs={args.epochs}",
            *on_device(args),
            *precision(args),
            *crops(args),
        ],
        run,
    )
    before = accuracy(args, data, out / "random", None)
    after = accuracy(args, data, out / "swav", run / "checkpoint.torch")
    lines = stage.steps(run)
    times = [line["time"] for line in lines]
    step = statistics.median(b - a for a, b in itertools.pairwise(times))
    print(machine())
    waited = sum(line["waited"] for line in lines[1:])
    share = waited / (times[-1] - times[0])
    print(f"precision {args.amp or 'float32'}, crops: {args.crops}, {len(lines)} steps")
    print(f"median step {1e3 * step:.1f} ms, last loss {lines[-1]['loss']:.3f}")
    print(f"{share:.1%} of the time was spent waiting for data")
    print(f"k-NN (k=20) {after:.1f} %, random trunk {before:.1f} %")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--amp", choices=["float16", "bfloat16"])
    parser.add_argument(
        "--crops", choices=["workers", "device", "resident"], default="workers"
    )
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--images", type=int, default=4000)
    with tempfile.TemporaryDirectory() as out:
        try:
            measure(parser.parse_args(), Path(out))
        except stage.StageFailed as error:
            print(error, file=sys.stderr)
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
