"""Mixed precision: native autocast in place of apex, bfloat16, no deprecated calls.

Symptoms: ``RuntimeError: Apex is not available. Can't use mixed precision`` for
    ``AMP_TYPE: apex``; ``FutureWarning: torch.cuda.amp.autocast(args...) is
    deprecated`` at each step for ``AMP_TYPE: pytorch``; ``AssertionError: Mixed
    precision is only available on CUDA devices for now``; the scale of pytorch AMP is
    in no checkpoint; a checkpoint with AMP resumed without it dies with
    ``'NoneType' object has no attribute 'load_state_dict'``.
Host lines: `vissl/trainer/train_task.py:147-195,596-606` and
    `vissl/trainer/train_steps/standard_train_step.py:131`.
Remedy: ``AMP_TYPE: apex`` with opt_level O1 becomes torch's autocast (O2 and O3 too,
    with a warning; O0 is float32). The new key
    ``MODEL.AMP_PARAMS.AMP_DTYPE`` is ``float16`` (the default; with a GradScaler) or
    ``bfloat16`` (no scaler; on the CPU too). With a real apex and float16 the host's
    path stays.
Delete it when: VISSL has a data type for AMP and no apex.
"""

from __future__ import annotations

import contextvars
import functools
import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from vissl_swav.compat.apex_identity import is_nvidia_apex
from vissl_swav.compat.import_hook import after_import
from vissl_swav.compat.module_proxy import ModuleProxy, overlay
from vissl_swav.compat.wrapping import wrap

NAME = "amp"
DTYPES = ("float16", "bfloat16")
TRAIN_STEP = "standard_train_step"
# The task whose train step runs: the host calls autocast() with no argument.
_running_task: contextvars.ContextVar[Any] = contextvars.ContextVar("running_task")


def needed() -> bool:
    """Always: bfloat16 and the CPU are in no version of the host."""
    return True


def apply() -> None:
    """Arm the task, the train step and the command line."""
    after_import("vissl.trainer.train_task", choose_precision_ourselves)
    after_import(
        f"vissl.trainer.train_steps.{TRAIN_STEP}", autocast_with_the_tasks_type
    )
    after_import("vissl.utils.hydra_config", accept_the_new_key)


def autocast_context(task: Any) -> Any:
    """Return the autocast that the task's settings ask for."""
    import torch

    name = getattr(task, "amp_dtype", "float16")
    return torch.autocast(task.device.type, dtype=getattr(torch, name))


def accept_the_new_key(module: ModuleType) -> None:
    """Let ``config.MODEL.AMP_PARAMS.AMP_DTYPE=...`` be given without plus signs."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def compose_hydra_configuration(overrides: list[str]) -> Any:
            key = "config.MODEL.AMP_PARAMS.AMP_DTYPE="
            return original([f"++{o}" if o.startswith(key) else o for o in overrides])

        return compose_hydra_configuration

    wrap(module, "compose_hydra_configuration", around, shim=NAME)


def autocast_with_the_tasks_type(module: ModuleType) -> None:
    """Let the host's train step see an `autocast()` that knows the running task."""
    import torch

    def autocast() -> Any:
        return autocast_context(_running_task.get())

    amp = ModuleProxy(torch.cuda.amp, autocast=autocast)
    overlay(module, "torch", cuda=ModuleProxy(torch.cuda, amp=amp))

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def standard_train_step(task: Any) -> Any:
            token = _running_task.set(task)
            try:
                return original(task)
            finally:
                _running_task.reset(token)

        return standard_train_step

    wrap(module, TRAIN_STEP, around, shim=NAME)
    registry = sys.modules["vissl.trainer.train_steps"].TRAIN_STEP_REGISTRY
    registry[TRAIN_STEP] = getattr(module, TRAIN_STEP)


def choose_precision_ourselves(module: ModuleType) -> None:
    """Replace the task's choice of precision, and check the state it resumes."""
    import torch

    module.__dict__["TorchGradScaler"] = functools.partial(torch.amp.GradScaler, "cuda")

    def around_choice(original: Callable[..., Any]) -> Callable[..., Any]:
        def set_amp_args(self: Any) -> None:
            set_precision(self, module.AmpType, original)

        return set_amp_args

    def around_resume(original: Callable[..., Any]) -> Callable[..., Any]:
        def _set_classy_state(self: Any, state: dict[str, Any]) -> None:
            original(self, with_usable_amp_state(self, state, module.AmpType))

        return _set_classy_state

    task_class = module.SelfSupervisionTask
    wrap(task_class, "set_amp_args", around_choice, shim=NAME)
    wrap(task_class, "_set_classy_state", around_resume, shim=NAME)


def set_precision(task: Any, amp_types: Any, original: Callable[[Any], None]) -> None:
    """Set `amp_type`, `amp_args`, `amp_dtype` and the scaler of a task.

    Raises:
        ValueError: a data type, a device or an apex level that cannot be.
    """
    settings = task.config.MODEL.AMP_PARAMS
    if not settings.USE_AMP:
        original(task)
        return
    dtype, device = settings.get("AMP_DTYPE", "float16"), task.device.type
    _check_dtype(dtype, device)
    # An unknown name fails here, as it does in the host.
    asked = amp_types[settings.AMP_TYPE.upper()]
    if asked == amp_types.APEX and is_nvidia_apex() and dtype == "float16":
        original(task)
        return
    if asked == amp_types.APEX and not _apex_level_is_autocast(task, settings):
        return
    task.amp_type, task.amp_dtype = amp_types.PYTORCH, dtype
    # Not None: with None the host leaves the scaler out of its checkpoints.
    task.amp_args = {"amp_type": "pytorch", "dtype": dtype}
    if dtype == "float16":
        task._init_pytorch_grad_scaler()
    else:
        import torch

        # Switched off it hands loss and step through; the host calls it either way.
        task.amp_grad_scaler = torch.amp.GradScaler(device, enabled=False)
    instead = "" if asked == amp_types.PYTORCH else " in place of apex"
    scaler = "with a GradScaler" if dtype == "float16" else "no loss scaling"
    logging.info(f"AMP: torch.autocast({device!r}, {dtype}), {scaler}{instead}")


def _check_dtype(dtype: str, device: str) -> None:
    if dtype not in DTYPES:
        raise ValueError(
            f"MODEL.AMP_PARAMS.AMP_DTYPE is {dtype!r}; it must be one of {DTYPES}"
        )
    if device != "cuda" and dtype == "float16":
        raise ValueError(
            "MODEL.AMP_PARAMS asks for float16 on the CPU, where its matrix products "
            "are slower than float32 and unscaled. Set "
            "config.MODEL.AMP_PARAMS.AMP_DTYPE=bfloat16, or USE_AMP=false."
        )


def _apex_level_is_autocast(task: Any, settings: Any) -> bool:
    """Say whether to use autocast; O0 is apex's word for float32."""
    level = (settings.get("AMP_ARGS") or {}).get("opt_level", "O1")
    if level == "O0":
        task.amp_type, task.amp_args = None, None
        logging.info("AMP: apex O0 is float32: no mixed precision")
        return False
    if level not in ("O1", "O2", "O3"):
        raise ValueError(
            f"MODEL.AMP_PARAMS.AMP_ARGS.opt_level is {level!r}; apex's levels are O0, "
            "O1, O2 and O3 (a letter O, not a zero)"
        )
    if level != "O1":
        logging.warning(
            f"AMP: apex {level} keeps the weights in half precision; without apex they "
            "stay float32 and torch's autocast, as for O1, takes its place"
        )
    return True


def with_usable_amp_state(
    task: Any, state: dict[str, Any], amp_types: Any
) -> dict[str, Any]:
    """Return the state with an "amp" entry that the task can load, or without one.

    The precision may have changed since the checkpoint was written, and a checkpoint
    of a run with apex holds apex's own entry, of which the scale is kept.
    """
    if "amp" not in state or task.amp_type == amp_types.APEX:
        return state
    others = {key: value for key, value in state.items() if key != "amp"}
    scaler, saved = task.amp_grad_scaler, state["amp"]
    if scaler is None or not scaler.is_enabled() or not saved:
        logging.info("AMP: the checkpoint's loss scale is not used by this run")
        return others
    if "loss_scaler0" in saved:
        scale = float(saved["loss_scaler0"]["loss_scale"])
        logging.info(f"AMP: loss scale {scale:g} taken over from apex's state")
        saved = {**scaler.state_dict(), "scale": scale}
    return {**others, "amp": saved}
