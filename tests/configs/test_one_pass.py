"""`one_pass`: the paper's ImageNet settings, in steps of a run of a billion images."""

import pytest

STEPS = 1_000_000_000 // 4096
IMAGENET_STEPS = 1_281_167 // 4096


@pytest.fixture(scope="module")
def config(complete):
    return complete("config=pretrain/swav/one_pass")


def test_it_is_one_epoch_of_a_billion_images(config):
    from vissl_swav.host import settings

    stream = settings.stream_settings(config)
    assert (stream.num_images, stream.num_epochs) == (1_000_000_000, 1)
    assert stream.batch_size * settings.world_size(config) == 4096
    assert STEPS == 244_140
    frequency = settings.checkpoint_step_frequency(config)
    assert 0.01 * STEPS < frequency < 0.05 * STEPS


def test_epochs_of_the_paper_are_steps_here(config):
    """Warm-up 10 epochs, freeze one: as many steps as they have on ImageNet."""
    from classy_vision.optim.param_scheduler import build_param_scheduler
    from vissl.optimizers import optimizer_helper  # noqa: F401  (fills the registries)

    from vissl_swav.host.settings import schedule

    assert schedule(config).freeze_steps(STEPS) == IMAGENET_STEPS == 312
    rate = build_param_scheduler(
        {**config.OPTIMIZER.param_schedulers.lr, "num_epochs": 1}
    )
    assert rate(0.0) == pytest.approx(0.3)
    assert rate(10 * IMAGENET_STEPS / STEPS) == pytest.approx(4.8, rel=1e-3)
    assert rate(1 - 1e-9) == pytest.approx(0.0048, rel=1e-3)
    assert config.OPTIMIZER.param_schedulers.lr.update_interval == "step"


def test_all_else_is_the_run_on_imagenet(config, complete):
    usual = complete("config=pretrain/swav/resnet50_400ep")
    assert config.MODEL == usual.MODEL
    assert config.DATA.TRAIN.TRANSFORMS == usual.DATA.TRAIN.TRANSFORMS
    ours, theirs = dict(config.LOSS.swav), dict(usual.LOSS.swav)
    different = {key for key in ours if ours[key] != theirs[key]}
    assert different == {"freeze_prototypes_epochs", "freeze_prototypes_steps"}


def test_health_has_windows_of_imagenets_epoch(config):
    from vissl_swav.host.settings import health

    assert health.window_steps(config, STEPS) == IMAGENET_STEPS + 1
    assert health.window_steps(config, 100) == 100
    facts = health.remedy_facts(config, steps_per_epoch=STEPS)
    assert facts["steps"] == IMAGENET_STEPS + 1
    assert 0.99 < facts["freeze_epochs"] < 1
    assert health.remedy_facts(config, steps_per_epoch=100)["steps"] is None
