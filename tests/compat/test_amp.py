import warnings
from types import SimpleNamespace

import pytest
import torch

from vissl_swav.compat import amp

pytestmark = pytest.mark.usefixtures("host")


def _task(device="cpu", **settings):
    from vissl.config import AttrDict
    from vissl.trainer.train_task import SelfSupervisionTask

    defaults = {"USE_AMP": True, "AMP_TYPE": "apex", "AMP_ARGS": {"opt_level": "O1"}}
    config = {
        "MODEL": {"AMP_PARAMS": {**defaults, **settings}},
        "OPTIMIZER": {"name": "sgd"},
    }
    task = SelfSupervisionTask.__new__(SelfSupervisionTask)
    task.config, task.device = AttrDict(config), torch.device(device)
    task.amp_grad_scaler = None
    with warnings.catch_warnings():
        # GradScaler on a machine without CUDA says that it is off.
        warnings.filterwarnings("ignore", message=".*CUDA is not available")
        task.set_amp_args()
    return task


def test_apex_o1_becomes_autocast_in_bfloat16_on_the_cpu(caplog):
    with caplog.at_level("INFO"):
        task = _task(AMP_DTYPE="bfloat16")
    assert task.amp_type.name == "PYTORCH"
    assert not task.amp_grad_scaler.is_enabled()
    with amp.autocast_context(task):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert "torch.autocast('cpu', bfloat16)" in caplog.text
    assert "in place of apex" in caplog.text


def test_float16_is_the_default_and_has_a_scaler():
    task = _task("cuda")
    assert task.amp_dtype == "float16"
    assert isinstance(task.amp_grad_scaler, torch.amp.GradScaler)
    # Not None, or the host leaves the scale out of its checkpoints.
    assert task.amp_args is not None


@pytest.mark.parametrize("amp_type", ["apex", "pytorch"])
def test_no_deprecated_call_is_made(amp_type):
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        warnings.simplefilter("error", DeprecationWarning)
        _task("cuda", AMP_TYPE=amp_type)


def test_float16_on_the_cpu_is_refused_with_the_cure():
    with pytest.raises(ValueError, match="AMP_DTYPE=bfloat16"):
        _task("cpu")


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="must be one of"):
        _task("cuda", AMP_DTYPE="float8")
    with pytest.raises(KeyError):
        _task("cuda", AMP_TYPE="magic")


def test_apex_levels(caplog):
    assert _task("cuda", AMP_ARGS={"opt_level": "O0"}).amp_type is None
    with caplog.at_level("WARNING"):
        assert _task("cuda", AMP_ARGS={"opt_level": "O3"}).amp_type.name == "PYTORCH"
    assert "apex O3 keeps the weights in half precision" in caplog.text
    with pytest.raises(ValueError, match="a letter O, not a zero"):
        _task("cuda", AMP_ARGS={"opt_level": "01"})


def test_without_amp_nothing_changes():
    task = _task(USE_AMP=False)
    assert task.amp_type is None and task.amp_grad_scaler is None


def _resumed(saved, scaler, amp_type="PYTORCH"):
    from classy_vision.tasks.classification_task import AmpType

    task = SimpleNamespace(
        amp_type=getattr(AmpType, amp_type) if amp_type else None,
        amp_grad_scaler=scaler,
    )
    return amp.with_usable_amp_state(task, {"a": 1, "amp": saved}, AmpType)


def test_the_scale_round_trips():
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    state = _resumed(scaler.state_dict(), torch.amp.GradScaler("cpu"))
    other = torch.amp.GradScaler("cpu")
    other.load_state_dict(state["amp"])
    assert other.get_scale() == 8.0


def test_apexs_scale_is_taken_over():
    saved = {"loss_scaler0": {"loss_scale": 32.0, "unskipped": 3}}
    scaler = torch.amp.GradScaler("cpu")
    scaler.load_state_dict(_resumed(saved, scaler)["amp"])
    assert scaler.get_scale() == 32.0


@pytest.mark.parametrize(
    "scaler", [None, torch.amp.GradScaler("cpu", enabled=False)], ids=["none", "off"]
)
def test_a_run_without_scaling_leaves_the_saved_scale(scaler):
    state = _resumed(
        {"scale": 2.0}, scaler, amp_type=None if scaler is None else "PYTORCH"
    )
    assert state == {"a": 1}


def test_a_scale_is_not_loaded_from_a_bfloat16_run():
    assert _resumed({}, torch.amp.GradScaler("cpu")) == {"a": 1}


def test_the_hosts_train_step_runs_in_the_tasks_type():
    """The registered function, with its own `torch.cuda.amp.autocast()` call."""
    from vissl.trainer import train_steps

    seen = []
    task = SimpleNamespace(device=torch.device("cpu"), amp_dtype="bfloat16")
    module = train_steps.standard_train_step
    token = amp._running_task.set(task)
    try:
        with module.torch.cuda.amp.autocast():
            seen.append((torch.ones(1, 1) @ torch.ones(1, 1)).dtype)
    finally:
        amp._running_task.reset(token)
    assert seen == [torch.bfloat16]
    assert module.torch.cuda.amp.autocast is not torch.cuda.amp.autocast
    step = train_steps.get_train_step("standard_train_step")
    assert step is module.standard_train_step
    with pytest.raises(AssertionError, match="not instance of ClassyTask"):
        step(task)
    assert amp._running_task.get(None) is None


def test_the_new_key_needs_no_plus_sign():
    from vissl.utils.hydra_config import compose_hydra_configuration

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = compose_hydra_configuration(
            [
                "config=test/integration_test/quick_swav",
                "config.MODEL.AMP_PARAMS.AMP_DTYPE=bfloat16",
            ]
        )
    assert config.config.MODEL.AMP_PARAMS.AMP_DTYPE == "bfloat16"
