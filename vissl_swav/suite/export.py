"""`vissl-swav export`: a checkpoint's weights for other software.

Tensors alone need the file alone. TorchScript and ONNX need a net: a ResNet is built
from its tensors (`weights.plain_resnet`) and, for a run of ours, held against the
run's own trunk; any other trunk of a run is the host's own.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from vissl_swav.host.errors import StartError
from vissl_swav.suite.export_arguments import TARGETS
from vissl_swav.suite.predictor import HostModel, build_plain, run_config
from vissl_swav.weights import graph_files, resnet_names, tensor_files
from vissl_swav.weights.errors import WeightsError
from vissl_swav.weights.loading import LoadedWeights, load_weights
from vissl_swav.weights.plain_resnet import torchvision_name
from vissl_swav.weights.resnet_shape import resnet_shape
from vissl_swav.weights.whole_file import check_free, whole_file

_ENDINGS = (".torch", ".pth", ".tar", ".pt", ".ckpt", ".bin", ".safetensors", ".pkl")
# Of features, in units of their largest value.
_SAME = 1e-4
_WRITERS = {
    "torchvision": tensor_files.write_torchvision,
    "timm": tensor_files.write_timm,
    "detectron2": tensor_files.write_detectron2,
    "safetensors": tensor_files.write_safetensors,
    "vissl": tensor_files.write_vissl,
}
_HINTS = {
    "torchvision": "model = torchvision.models.{name}(); model.fc = torch.nn.Identity()"
    '; model.load_state_dict(torch.load("{file}"))',
    "timm": 'timm.create_model("{name}", num_classes=0, checkpoint_path="{file}")',
    "detectron2": "MODEL.WEIGHTS {file}, RGB input (docs/detection.md)",
    "safetensors": 'safetensors.torch.load_file("{file}")',
    "torchscript": 'torch.jit.load("{file}")(images)',
    "onnx": 'onnxruntime.InferenceSession("{file}").run(None, {{"images": images}})',
    "vissl": "config.MODEL.WEIGHTS_INIT.PARAMS_FILE={file}",
}


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code (2 for bad input)."""
    try:
        _run(options)
    except (WeightsError, StartError, OSError) as error:
        print(f"vissl-swav export: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    from vissl_swav.suite.checkpoint_model import find_checkpoint

    given = Path(options.checkpoint).expanduser()
    source = find_checkpoint(given)
    target = _target(options, given)
    check_free(target, force=options.force)
    if target.exists() and target.samefile(source):
        raise WeightsError(f"{target} is the checkpoint itself; name another with -o.")
    if options.momentum and options.to in ("torchscript", "onnx"):
        raise WeightsError(
            f"--momentum and --to {options.to} do not go together: a graph is held "
            "against the run's own model. --to safetensors, torchvision and vissl "
            "write the encoder's tensors."
        )
    weights = load_weights(
        source,
        options.part,
        trunk_prefix=options.trunk_prefix,
        momentum=options.momentum,
    )
    print(weights)
    config = Path(options.config) if options.config else None
    checked = export_weights(weights, options.to, target, config=config)
    print(f"written: {target} ({target.stat().st_size:,} bytes{checked})")
    print(_how_to_load(weights, options.to, target))


def _how_to_load(weights: LoadedWeights, to: str, target: Path) -> str:
    """The last line printed: how to load what was written, or that nothing has it."""
    name = torchvision_name(weights.trunk)
    if name or "{name}" not in _HINTS[to]:
        return "to load: " + _HINTS[to].format(name=name, file=target)
    if not resnet_names.is_resnet(weights.trunk):
        return (
            "to load: timm.create_model of the transformer that was trained, with "
            f'num_classes=0, checkpoint_path="{target}"'
        )
    return (
        "note: no function of torchvision or timm builds this ResNet "
        f"({resnet_shape(weights.trunk) or 'with parts of its own'}); "
        f'vissl_swav.predictor("{target}") builds it from its tensors'
    )


def export_weights(
    weights: LoadedWeights, to: str, target: Path, *, config: Path | None = None
) -> str:
    """Writes the file, whole or not at all, over what is there.

    Args:
        weights: part "trunk" or "all".
        to: one of `export_arguments.TARGETS`.
        target: the file.
        config: of a run, where it is not beside the checkpoint.

    Returns:
        How a graph was checked, in words; empty for tensors.

    Raises:
        WeightsError: the target has no place for the weights, or they cannot be
            written.
        StartError: the run's config does not describe them.
    """
    with whole_file(target) as scratch:
        try:
            if to in _WRITERS:
                _WRITERS[to](weights, scratch)
                return ""
            model, example = _graph(weights, config)
            # The host's other trunks may hold positions of a fixed number of patches.
            any_size = not isinstance(model, HostModel)
            if to == "onnx":
                said = graph_files.write_onnx(
                    model, example, scratch, any_size=any_size
                )
                return f"; {said}"
            graph_files.write_torchscript(model, example, scratch, any_size=any_size)
            return "; run by torch"
        # torch's writer reports a full disk so, its exporters what they cannot express.
        except RuntimeError as error:
            said = " ".join(str(error).split())[:300]
            raise WeightsError(f"{target} could not be written: {said}.") from error


def _target(options: argparse.Namespace, given: Path) -> Path:
    if options.out:
        return Path(options.out).expanduser()
    stem = given.name
    while not given.is_dir() and Path(stem).suffix in _ENDINGS:
        stem = Path(stem).stem
    return Path(f"{stem or 'weights'}_{options.to}{TARGETS[options.to]}")


def _graph(weights: LoadedWeights, config: Path | None) -> tuple[nn.Module, Tensor]:
    """A net in eval mode, and images that it takes."""
    run = run_config(weights.path, config)
    has_head = weights.part == "all"
    reference = run and HostModel.of_run(weights.path, run, has_head=has_head)
    if resnet_names.is_resnet(weights.trunk):
        model, shape = build_plain(weights, has_head=has_head)
        size = 32 if shape.is_small else 64
        example = torch.randn(2, shape.channels, size, size)
        if reference:
            _compare(model, reference, example, weights.path)
        return model, example
    if not reference:
        raise WeightsError(
            f"{weights.path} holds no ResNet with torchvision's parts, and there is no "
            "train_config.yaml beside it that says how to build its trunk; name the "
            "run's with --config. --to safetensors needs no net."
        )
    size = reference.run.crop_size
    return reference, torch.randn(2, reference.run.channels, size, size)


@torch.no_grad()
def _compare(plain: nn.Module, own: nn.Module, example: Tensor, path: Path) -> None:
    """What leaves no trace in the tensors would go unseen (stride, BGR order)."""
    found, wanted = plain(example), own(example)
    found, wanted = (v[0] if isinstance(v, tuple) else v for v in (found, wanted))
    scale = max(1.0, float(wanted.abs().max()))
    if (
        found.shape != wanted.shape
        or float((found - wanted).abs().max()) > _SAME * scale
    ):
        raise WeightsError(
            f"the run of {path} builds a trunk that is not torchvision's (another "
            "stride, channel order or activation): the ResNet of its tensors gives "
            "other features, so no graph was written. --to safetensors, torchvision "
            "and vissl write the tensors."
        )
