"""Loss `dino_sinkhorn`: its value, its settings, its teacher, and runs."""

import copy
import json
from types import SimpleNamespace

import host_runs
import mixing_programs as programs
import numpy as np
import pytest
import reference
import same_runs
import torch
from host_methods import arguments

from vissl_swav.host import preemption

SINKHORN = "+config/pretrain/dino=sinkhorn"


@pytest.fixture(scope="module")
def inferred(host, images, tmp_path_factory):
    """The config of a small run of DINO with Sinkhorn."""
    from vissl_swav.host.launch import compose

    return compose(
        arguments(
            "dino_deits16",
            f"data={images}",
            tmp_path_factory.mktemp("run"),
            SINKHORN,
            "config.LOSS.dino_sinkhorn.num_iterations=5",
        )
    )[1]


def test_loss_is_the_cross_entropy_with_the_teachers_balanced_codes(host):
    """Eq. 5.3 of the thesis by loops; codes by loops from each teacher crop alone."""
    student, teacher = programs.dino_scores()
    config = programs.dino_config()
    codes = [
        reference.sinkhorn_codes(scores, epsilon=0.05, num_iterations=3)
        for scores in teacher.reshape(2, programs.BATCH, -1).numpy()
    ]
    expected = reference.swav_loss(
        student.numpy(),
        programs.CROPS,
        config["crops_for_teacher"],
        config["student_temp"],
        codes,
    )
    value, gradient = programs.dino_step(0, 1)
    assert float(value) == pytest.approx(expected, rel=1e-12)
    assert gradient.abs().max() > 0
    # The teacher's crops come in the order that the hook ran them in.
    turned = reference.swav_loss(
        student.numpy(), programs.CROPS, [0, 1], config["student_temp"], codes
    )
    assert abs(turned - expected) > 1e-3


def test_settings_are_dinos_and_ours(inferred):
    config = copy.deepcopy(inferred)
    loss = config.LOSS.dino_sinkhorn
    assert (loss.num_iterations, loss.num_crops) == (5, 10)
    for key in ("momentum", "student_temp", "teacher_temp_min", "teacher_temp_max"):
        assert loss[key] == config.LOSS.dino_loss[key]
    assert list(loss.crops_for_teacher) == [0, 1]
    again = copy.deepcopy(config)
    from vissl_swav.host import settings

    assert settings.infer(again) == config, "a config may be inferred twice"


TWO_HEADS = [["swav_head", {"dims": [16, 8], "num_clusters": [32, 16]}]]


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("dino_sinkhorn", "num_iteration", 3, "did you mean num_iterations"),
        ("dino_sinkhorn", "num_iterations", 0, "wanted a whole number >= 1"),
        ("dino_sinkhorn", "momentum", 0.5, "config.LOSS.dino_loss.momentum says"),
        ("dino_sinkhorn", "num_crops", 4, "TRANSFORMS says 10"),
        ("dino_loss", "teacher_temp_min", 0, "teacher_temp_min is 0; wanted > 0"),
        ("dino_loss", "crops_for_teacher", [0, 10], r"distinct crops of 0\.\.9"),
        ("dino_loss", "crops_for_teacher", [[0], [1]], r"distinct crops of 0\.\.9"),
        ("dino_loss", "momentum", 2.0, "momentum is 2.0; wanted 0 .* to 1"),
        ("dino_loss", "teacher_temp_warmup_iters", -5, "is -5; wanted a number of"),
        ("HEAD", "PARAMS", TWO_HEADS, "one number in num_clusters"),
    ],
)
def test_mistakes_are_told(inferred, section, key, value, message):
    from vissl_swav.host import settings
    from vissl_swav.host.errors import StartError

    config = copy.deepcopy(inferred)
    config.LOSS.dino_sinkhorn.clear()
    place = config.MODEL if section == "HEAD" else config.LOSS
    place[section][key] = value
    with pytest.raises(StartError, match=message):
        settings.infer(config)


def test_the_hosts_hook_is_there_and_ours_that_resume(inferred):
    from vissl.hooks import default_hook_generator

    names = [type(hook).__name__ for hook in default_hook_generator(inferred)]
    assert names.count("DINOHook") == 1
    (checkpoint,) = [i for i, name in enumerate(names) if "Checkpoint" in name]
    assert max(map(names.index, ("DINOHook", "StepSeedsHook"))) < checkpoint
    assert "QueueHook" not in names and "HealthHook" not in names


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_the_teacher_comes_back_from_a_checkpoint(inferred):
    """The state is loaded first, the teacher made in the first step."""
    from vissl.hooks.dino_hooks import DINOHook

    from vissl_swav.host.dino_sinkhorn_loss import DINOSinkhorn

    config = copy.deepcopy(inferred)

    def task():
        from vissl.models import build_model

        loss = DINOSinkhorn.from_config(config.LOSS.dino_sinkhorn)
        model = build_model(config.MODEL, config.OPTIMIZER)
        device = torch.device("cpu")
        return SimpleNamespace(config=config, loss=loss, model=model, device=device)

    first = task()
    DINOHook()._build_momentum_network(first)
    with torch.no_grad():
        for weight in first.loss.momentum_teacher.parameters():
            weight.add_(1.0)
    saved = copy.deepcopy(first.loss.state_dict())
    weights = [key for key in saved if key != "_extra_state"]
    assert weights and all(key.startswith("momentum_teacher.") for key in weights)
    second = task()
    second.loss.load_state_dict(saved)
    waiting = second.loss.state_dict()
    assert waiting.keys() == saved.keys(), "a checkpoint before the first step"
    DINOHook()._build_momentum_network(second)
    for key, value in second.loss.state_dict().items():
        assert key == "_extra_state" or torch.equal(value, saved[key]), key
    assert second.loss.checkpoint is None, "two copies of the teacher"


def test_it_trains(images, tmp_path):
    """Three steps; the teacher is in the checkpoint and has moved less."""
    given = arguments("dino_deits16", f"data={images}", tmp_path, SINKHORN)
    host_runs.train(*given)
    losses = host_runs.losses(tmp_path)
    assert len(losses) == 3 and np.isfinite(losses).all() and len(set(losses)) == 3
    state = torch.load(tmp_path / "checkpoint.torch", weights_only=False)
    assert any(key.startswith("momentum_teacher.trunk") for key in state["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_goes_on_where_it_was_ended(images, tmp_path, processes):
    """Bit for bit, the teacher and the two schedules included."""
    settings = arguments(
        "dino_deits16",
        f"data={images}",
        tmp_path / "unused",
        SINKHORN,
        "config.OPTIMIZER.num_epochs=2",
        "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1",
        "config.LOSS.dino_loss.teacher_temp_warmup_iters=4",
        processes=processes,
    )
    settings = [s for s in settings if not s.startswith("config.CHECKPOINT.DIR=")]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = host_runs.python(
        *("tests/interrupted_runs.py", whole, "", parts, "TERM:step:1,KILL:phase:1"),
        *("--", *settings),
        env={"VISSL_SWAV_ALLOW_OVERSUBSCRIPTION": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    codes = json.loads(done.stdout.splitlines()[-1])
    log = parts.with_name("parts.log").read_text(errors="replace")
    assert codes == [[0], [preemption.EXIT_CODE, -9, 0]], log[-3000:]
    steps = same_runs.steps(whole)
    assert steps == same_runs.steps(parts) and sorted(steps) == list(range(1, 7))
    same_runs.assert_same_state(same_runs.final(whole), same_runs.final(parts))
