"""What went wrong in the step that is running: the words, and a file to look at."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vissl_swav.backends.torch_collective import collective
from vissl_swav.health import nonfinite
from vissl_swav.host.loss_view import LossView
from vissl_swav.host.task_view import TaskView

_STAGES = (
    *("crops", "parameters", "trunk", "head", "embeddings", "scores", "codes", "loss"),
)
_REMEDIES = {
    "crops": "the data is at fault: vissl-swav data-check PATH, and your transforms",
    "parameters": "a step before has put it there: a lower learning rate, gradient "
    "clipping (config.MODEL.GRAD_CLIP), or resume from the last checkpoint",
    "codes": "scores of features that are not of unit length, or another rank's scores",
}
_OTHERWISE = (
    "a lower learning rate; config.MODEL.AMP_PARAMS.AMP_DTYPE=bfloat16 or "
    "USE_AMP=false where it is float16"
)


def explain(view: TaskView) -> str:
    """What is not finite, where, and the name of the file that shows it.

    All ranks must call it together, with a step whose loss is not finite.
    """
    ranks = collective()
    stage, message = _first(view)
    mine = torch.tensor([stage], device=view.device)
    stages: list[int] = ranks.all_gather(mine).flatten().tolist()
    first = min(range(len(stages)), key=lambda rank: stages[rank])
    if first != ranks.rank and stages[first] < stage:
        message = (
            f"rank {first} has the first bad tensor (in its {_STAGES[stages[first]]}; "
            f"its message names it); on this rank {message}"
        )
    remedy = _REMEDIES.get(_STAGES[stages[first]], _OTHERWISE)
    path = _write(view, message)
    return (
        f"the loss is not finite: {message}{where(view, view.step)}. Crops and scores "
        f"of the step are in {path} (torch.load reads it with weights_only=True). "
        f"Remedies in order: {remedy}."
    )


def where(view: TaskView, step: int) -> str:
    """`; rank 0, step 7, learning rate 0.1[, loss scale 65536]`."""
    scale = "" if view.scaler is None else f", loss scale {view.scaler.get_scale():g}"
    rate = f"learning rate {view.learning_rate:.4g}"
    return f"; rank {collective().rank}, step {step + 1}, {rate}{scale}"


def _first(view: TaskView) -> tuple[int, str]:
    """Number of the stage, and the tensor; every rank does the same work."""
    module = _first_bad_module(view)
    codes = LossView(view).codes(collective())
    before = nonfinite.first_bad(_before_the_model(view))
    if before is not None:
        stage = "parameters" if before[0].startswith("weight") else "crops"
        return _STAGES.index(stage), _named(*before)
    if module is not None and ".prototypes" not in module:
        stage = "trunk" if module.startswith("trunk") else "head"
        what = "an output that is not finite, its input and weights are finite"
        return _STAGES.index(stage), f"the first bad tensor is that of {module}: {what}"
    after = nonfinite.first_bad(_after_the_model(view, codes))
    if after is not None:
        return _STAGES.index(after[0].split()[0]), _named(*after)
    return len(_STAGES) - 1, "the loss itself; every tensor it is made of is finite"


def _first_bad_module(view: TaskView) -> str | None:
    """Runs the step's crops again; the first module whose output is not finite.

    With synchronised batch norm every rank must call it.
    """
    found: list[str] = []
    handles = [
        module.register_forward_hook(_finder(name, found))
        for name, module in view.modules
        if name and not list(module.children())
    ]
    try:
        view.run_again()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _finder(name: str, found: list[str]) -> Any:
    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        tensors = [output] if isinstance(output, Tensor) else []
        if isinstance(output, (list, tuple)):
            tensors = [item for item in output if isinstance(item, Tensor)]
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
            found.append(name)

    return look


def _named(name: str, what: str) -> str:
    return f"the first bad tensor is {name}: {what}"


def _before_the_model(view: TaskView) -> Iterator[tuple[str, Tensor]]:
    for crops in view.crops:
        yield f"crops of {crops.shape[-2]} x {crops.shape[-1]} pixels", crops
    for name, weight in view.parameters:
        yield f"weight {name}", weight


def _after_the_model(
    view: TaskView, codes: Tensor | None
) -> Iterator[tuple[str, Tensor]]:
    embeddings, *scores = view.outputs
    yield "embeddings", embeddings
    for head, S in enumerate(scores):
        yield f"scores of prototype head {head}", S
    for what, tensor in zip(
        ("embeddings", "scores"), LossView(view).code_output, strict=False
    ):
        yield f"{what} of the momentum encoder", tensor
    if codes is not None:
        yield "codes", codes


def _write(view: TaskView, message: str) -> Path:
    """`nonfinite_step<step>_rank<rank>.pt` in the run's folder, in one step."""
    rank = collective().rank
    layout = LossView(view).layout
    facts = {
        "message": message,
        "rank": rank,
        "world_size": collective().world_size,
        "step": view.step + 1,
        "learning_rate": float(view.learning_rate),
        "loss": view.last_loss,
        "loss_scale": None if view.scaler is None else view.scaler.get_scale(),
        "num_crops": layout.num_crops,
        "crops_for_assign": list(layout.crops_for_assign),
    }
    found = nonfinite.reproduction(
        view.crops, view.outputs, num_crops=layout.num_crops, facts=facts
    )
    path = Path(view.checkpoint_folder) / f"nonfinite_step{view.step + 1}_rank{rank}.pt"
    scratch = path.with_suffix(".tmp")
    torch.save(found, scratch)
    os.replace(scratch, path)
    return path
