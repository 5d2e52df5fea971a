import inspect

import pytest

from vissl_swav.core.swav import SwAV
from vissl_swav.host.errors import StartError


def test_empty_settings_get_the_core_defaults_and_show_them(compose):
    settings = compose("++config.LOSS.swav={}").LOSS.swav
    for name, parameter in inspect.signature(SwAV).parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            default = parameter.default
            default = list(default) if isinstance(default, tuple) else default
            assert settings[name] == default, name
    assert settings.freeze_prototypes_epochs == 1
    assert settings.num_crops == 3
    assert settings.num_prototypes == [12]
    assert settings.embedding_dim == 8


def test_an_inferred_config_is_accepted_again(compose):
    from vissl_swav.host import settings

    config = compose("config.LOSS.swav.queue_start_epoch=2")
    before = dict(config.LOSS.swav)
    assert dict(settings.infer(config).LOSS.swav) == before
    assert before["queue_start_step"] is None


def test_the_queue_is_a_multiple_of_the_global_batch(compose):
    settings = compose("config.LOSS.swav.queue_length=50", processes=2).LOSS.swav
    assert (settings.queue_length, settings.queue_length_per_rank) == (48, 24)


def test_the_collator_follows(compose):
    config = compose("config.DATA.TRAIN.COLLATE_FUNCTION=default_collate")
    assert config.DATA.TRAIN.COLLATE_FUNCTION == "multi_crop_collator"


def test_a_folder_given_by_path_holds_its_labels(compose, images):
    config = compose()
    assert config.DATA.TRAIN.LABEL_PATHS == [str(images)]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("++config.LOSS.swav.temperture=0.1", ["did you mean temperature", "command"]),
        ("config.LOSS.swav.temperature=warm", ["'warm'", "wanted a number"]),
        ("config.LOSS.swav.temperature=0", ["wanted > 0"]),
        ("config.LOSS.swav.num_iterations=0", ["num_iterations is 0"]),
        ("config.LOSS.swav.crops_for_assign=[0,3]", ["each in 0..2"]),
        ("config.LOSS.swav.queue_length=5", ["less than one global batch of 16"]),
        ("config.LOSS.swav.num_crops=7", ["the rest of the config says 3"]),
        (
            "++config.LOSS.swav={queue_start_step:3,queue_start_epoch:1}",
            ["give one and set the other to null"],
        ),
        (
            "config.MODEL.HEAD.PARAMS=[[mlp,{dims:[16,8]}]]",
            ["wanted one head that ends in [swav_head"],
        ),
        (
            "config.DATA.TRAIN.TRANSFORMS=[{name:ToTensor}]",
            ["start the list with `- name: MultiCrop`"],
        ),
    ],
)
def test_what_cannot_be_is_named(compose, override, words):
    with pytest.raises(StartError) as caught:
        compose(override)
    for word in words:
        assert word in str(caught.value)


def test_the_schedule_counts_in_steps(compose):
    from vissl_swav.host import settings

    plan = settings.schedule(compose("config.LOSS.swav.queue_start_epoch=3"))
    assert (plan.queue_start(10), plan.freeze_steps(10)) == (30, 10)
    plan = settings.schedule(compose("config.LOSS.swav.freeze_prototypes_steps=7"))
    assert (plan.queue_start(10), plan.freeze_steps(10)) == (0, 7)
    plan = settings.schedule(compose("config.LOSS.swav.trainable_prototypes=false"))
    assert plan.freeze_steps(10) == float("inf")


def test_the_momentum_loss_takes_the_same_run(compose):
    """And its floor and schedule are SwAV's with its own keys beside them."""
    from vissl_swav.host import settings

    config = compose(
        "config.LOSS.name=swav_momentum", "config.LOSS.swav_momentum.queue_length=50"
    )
    loss, plan = config.LOSS.swav_momentum, settings.schedule(config)
    assert (loss.momentum, loss.momentum_end) == (0.996, 1.0)
    assert (loss.queue_length, loss.queue_dtype) == (48, "float32")
    assert plan.momentum_of(0, 10) == 0.996 and plan.momentum_of(10, 10) == 1.0
    assert settings.loss_bounds(config)[1] == 0.0
    assert plan.freeze_steps(7) == 7 and settings.follows_by_momentum(config)
    with pytest.raises(StartError, match="sharded by FSDP"):
        compose(
            "config.LOSS.name=swav_momentum",
            "config.MODEL.FSDP_CONFIG.AUTO_SETUP_FSDP=true",
        )


@pytest.mark.parametrize("name", ["deepcluster_v2", "sela_v2"])
def test_the_clustering_losses_take_the_same_run(compose, name):
    """Over a run of swav, the name alone: the rest is inferred, and shown."""
    settings = compose(f"config.LOSS.name={name}").LOSS[name]
    assert settings.num_crops == 3 and settings.num_prototypes == [12]
    assert settings.embedding_dim == 8 and settings.crops_for_assign == [0, 1]
    assert settings.temperature == 0.1 and settings.assign_every_epochs == 1


def test_one_crop_is_enough_for_a_clustering_loss(compose):
    one = (
        "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[24],num_crops:[1],"
        "crop_scales:[[0.3,1.0]]}]"
    )
    config = compose("config.LOSS.name=sela_v2", one)
    assert config.LOSS.sela_v2.crops_for_assign == [0]
    with pytest.raises(StartError, match="num_crops 1; wanted >= 2"):
        compose(one)


@pytest.mark.parametrize(
    ("name", "override", "words"),
    [
        ("swav_momentum", "momentm=0.9", ["did you mean momentum"]),
        ("swav_momentum", "momentum=1.5", ["momentum is 1.5", "0 to 1"]),
        ("swav_momentum", "momentum_end=-0.1", ["momentum_end is -0.1"]),
        ("swav_momentum", "momentum_prototypes=1", ["wanted true or false"]),
        ("swav_momentum", "queue_dtype=int8", ["'int8'", "bfloat16"]),
        ("swav_momentum", "queue_length=5", ["swav_momentum.queue_length is 5"]),
        ("deepcluster_v2", "tolerence=0.1", ["did you mean tolerance"]),
        ("deepcluster_v2", "epsilon=0.05", ["is no key of vissl_swav"]),
        ("deepcluster_v2", "freeze_prototypes_epochs=1", ["is no key of vissl_swav"]),
        ("deepcluster_v2", "seeding=best", ["'best'", "k-means++", "random"]),
        ("deepcluster_v2", "empty_clusters=drop", ["'drop'", "split"]),
        ("deepcluster_v2", "nearest=scann", ["'scann'", "faiss"]),
        ("deepcluster_v2", "bank_dtype=int8", ["'int8'", "float16"]),
        ("deepcluster_v2", "num_iterations=0", ["num_iterations is 0"]),
        ("deepcluster_v2", "assign_every_epochs=0", ["assign_every_epochs is 0"]),
        ("sela_v2", "num_labels=13", ["num_labels is 13", "prototypes, 12"]),
        ("sela_v2", "epsilon=0", ["epsilon is 0; wanted > 0"]),
        ("sela_v2", "max_iterations=0", ["max_iterations 0"]),
        ("sela_v2", "tolerance=null", ["tolerance is None"]),
    ],
)
def test_what_a_loss_cannot_have(compose, name, override, words):
    with pytest.raises(StartError) as caught:
        compose(f"config.LOSS.name={name}", f"++config.LOSS.{name}.{override}")
    for word in words:
        assert word in str(caught.value)
