"""A model as a program: TorchScript and ONNX, for any batch size, and image size.

ONNX by torch's newer exporter from torch 2.9 on, where it is the default; by the one
that traces before that. Either wants the extra: pip install 'vissl_swav[onnx]'. After
it is written the file is run and held against the model; ONNX, where onnxruntime is
installed.
"""

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vissl_swav.weights.errors import WeightsError

INPUT = "images"
TOLERANCE = 1e-4
_OPSET = 18
_OLD_OPSET = 17
_LARGEST_ONNX = 2 * 2**30  # of a protocol buffer, in bytes


def write_torchscript(
    model: nn.Module, example: Tensor, path: Path, *, any_size: bool = True
) -> None:
    """A traced module, for `torch.jit.load`.

    Args:
        model: images to a tensor or a tuple of them, in eval mode.
        example: images (B, C, H, W) of a size that it takes.
        path: to write.
        any_size: whether the model takes images of other sizes than the example's.

    Raises:
        WeightsError: the module written gives other values than the model.
    """
    with _quiet(), torch.inference_mode(False), torch.no_grad():
        torch.jit.save(torch.jit.trace(model, example), path)
        back = torch.jit.load(path)
        check = _other_batch(example, any_size)
        _compare(_tuple(back(check)), _tuple(model(check)))


def write_onnx(
    model: nn.Module, example: Tensor, path: Path, *, any_size: bool = True
) -> str:
    """An ONNX graph with one input, `images`, and outputs `features`, `scores0`, ...

    Args:
        model: as for `write_torchscript`.
        example: as for `write_torchscript`.
        path: to write.
        any_size: as for `write_torchscript`.

    Returns:
        How it was checked, in words.

    Raises:
        WeightsError: a package is missing, the model is too large for one file, or the
            graph gives other values than the model.
    """
    newer = _has_newer_exporter()
    missing = [
        name
        for name in (("onnx", "onnxscript") if newer else ("onnx",))
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise WeightsError(
            f"--to onnx wants {' and '.join(missing)}, not installed here: pip install "
            "'vissl_swav[onnx]' (onnx, onnxscript, onnxruntime)."
        )
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if size > _LARGEST_ONNX:
        raise WeightsError(
            f"the model has {size:,} bytes, more than one ONNX file takes "
            f"({_LARGEST_ONNX:,}); take --to torchscript."
        )
    with _quiet(), torch.no_grad():
        outputs = _names(len(_tuple(model(example))))
        free = {0: "batch", 2: "height", 3: "width"} if any_size else {0: "batch"}
        torch.onnx.export(
            model,
            (example,),
            str(path),
            input_names=[INPUT],
            output_names=outputs,
            **(_newer if newer else _older)(outputs, free),
        )
        return _checked(model, _other_batch(example, any_size), path)


def _has_newer_exporter() -> bool:
    major, minor = (int(number) for number in torch.__version__.split(".")[:2])
    return (major, minor) >= (2, 9)


def _newer(outputs: list[str], free: dict[int, str]) -> dict[str, Any]:
    return {
        "opset_version": _OPSET,
        "dynamo": True,
        "external_data": False,
        "dynamic_shapes": ({axis: torch.export.Dim.DYNAMIC for axis in free},),
        "verbose": False,
    }


def _older(outputs: list[str], free: dict[int, str]) -> dict[str, Any]:
    more: dict[str, Any] = {"dynamo": False} if _has_newer_exporter() else {}
    return {
        "opset_version": _OLD_OPSET,
        "dynamic_axes": {INPUT: free, **{name: {0: "batch"} for name in outputs}},
        **more,
    }


def _names(count: int) -> list[str]:
    return ["features", *(f"scores{number}" for number in range(count - 1))]


def _checked(model: nn.Module, images: Tensor, path: Path) -> str:
    if importlib.util.find_spec("onnxruntime") is None:
        return "not run, since onnxruntime is not installed"
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    found = [
        torch.from_numpy(out) for out in session.run(None, {INPUT: images.numpy()})
    ]
    _compare(found, _tuple(model(images)))
    return "run by onnxruntime"


def _compare(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    if len(found) != len(wanted):
        raise WeightsError(
            f"what was written has {len(found)} outputs, not {len(wanted)}. Nothing "
            "was kept."
        )
    for one, other in zip(found, wanted, strict=True):
        scale = max(1.0, float(other.abs().max()))
        if one.shape != other.shape or not torch.allclose(
            one, other, rtol=0, atol=TOLERANCE * scale
        ):
            raise WeightsError(
                f"what was written does not give the model's values (shape "
                f"{tuple(one.shape)}, wanted {tuple(other.shape)}, to {TOLERANCE} of "
                "the largest value). Nothing was kept."
            )


def _other_batch(example: Tensor, any_size: bool) -> Tensor:
    """Other images, another number of them, of another size where that may be."""
    generator = torch.Generator().manual_seed(1)
    channels, height, width = example.shape[1:]
    if any_size:
        height, width = height + 32, width + 16
    return torch.randn((3, channels, height, width), generator=generator)


def _tuple(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters' own warnings of deprecation and their progress: not the user's."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
