"""A misspelt key: the one that was meant, where it was typed, and what to type."""

import pytest

from vissl_swav.host.key_hints import hint, suggestion

VALID = {
    *("config", "config.HEALTH", "config.HEALTH.ENABLED", "config.HEALTH.ON_COLLAPSE"),
    *("config.LOSS", "config.LOSS.swav", "config.LOSS.swav.temperature"),
    *("config.LOSS.swav.queue_length", "config.LOSS.moco_loss.temperature"),
    *("config.AUTO_SCALE", "config.DATA.TRAIN.IMAGES_ON_DEVICE"),
    *("config.DATA.TRAIN.MMAP_MODE", "config.HOOKS.CHECK_NAN", "config.SVM"),
}


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("config.LOSS.swav.temprature", "config.LOSS.swav.temperature"),
        ("config.LOSS.sawv.queue_lenght", "config.LOSS.swav.queue_length"),
        ("config.loss.SWAV.temperature", "config.LOSS.swav.temperature"),
        ("config.HELTH.ON_COLAPSE", "config.HEALTH.ON_COLLAPSE"),
        ("config.HOOKS.health.ON_COLAPSE", "config.HEALTH.ON_COLLAPSE"),
        ("config.AUTOSCALE", "config.AUTO_SCALE"),
        ("config.DATA.TRAIN.IMAGES_ON_DEVCE", "config.DATA.TRAIN.IMAGES_ON_DEVICE"),
        ("LOSS.swav.queue_length", "config.LOSS.swav.queue_length"),
        ("config.temperature", "config.LOSS.swav.temperature"),
        ("config.LOSS.moco_los.temperature", "config.LOSS.moco_loss.temperature"),
        ("config.colour", None),
        ("", None),
    ],
)
def test_what_was_meant(key, meant):
    assert suggestion(key, VALID, prefer="config.LOSS.swav.") == meant
    said = hint(key, VALID, prefer="config.LOSS.swav.")
    assert said == (f"; did you mean {meant}?" if meant else "")


@pytest.fixture
def refused(host):
    """`refused(override)` -> our words for what hydra says of it."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from vissl.utils.hydra_config import compose_hydra_configuration

    from vissl_swav.host.refused_overrides import explain

    def words(*overrides):
        overrides = ["config=pretrain/swav/quickstart", *overrides]
        with pytest.raises((HydraException, OmegaConfBaseException)) as caught:
            compose_hydra_configuration(overrides)
        return explain(caught.value, overrides)

    return words


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("config.HEALTH.ON_COLAPSE=stop", ["did you mean config.HEALTH.ON_COLLAPSE?"]),
        ("config.HELTH.ENABLED=true", ["did you mean config.HEALTH.ENABLED?"]),
        ("config.AUTOSCALE=true", ["did you mean config.AUTO_SCALE?"]),
        ("config.LOSS.sawv.epsilon=1", ["did you mean config.LOSS.swav.epsilon?"]),
        ("config.LOSS.temperature=1", ["did you mean config.LOSS.swav.temperature?"]),
        ("config.OPTIMIZER.num_epoch=1", ["did you mean config.OPTIMIZER.num_epochs?"]),
        ("config.DATA.TRAIN=[]", ["is a section", "config.DATA.TRAIN.KEY=VALUE"]),
        ("config.LOSS.swav.epsilon=0,05", ["comma outside brackets", "(0.05)"]),
        ("config.LOSS.swav.epsilon 0.05", ["wanted KEY=VALUE"]),
        ("config.SEED_VALUE=~", ["goes into quotes"]),
        ("~config.AUTO_SCALE", ["Leave the override out"]),
    ],
)
def test_overrides_that_hydra_refuses(refused, override, words):
    message = refused(override)
    assert "\n" not in message and override.lstrip("~") in message
    for word in words:
        assert word in message


def test_a_misspelt_key_of_a_loss_of_ours(refused):
    from vissl_swav.host.errors import StartError

    with pytest.raises(StartError, match="temprature .* did you mean temperature"):
        refused("config.LOSS.swav.temprature=1")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("config.SEED_VALUE=-1", ["SEED_VALUE is -1", ">= 0"]),
        ("config.SEED_VALUE=4294967295", ["numpy's seeds end", "2 epochs"]),
        ("config.OPTIMIZER.num_epochs=99999999999", ["from 1 to 1000000"]),
        ("config.OPTIMIZER.weight_decay=nan", ["is nan", "finite"]),
        ("config.LOSS.swav.temperature=inf", ["is inf", "finite"]),
        ("config.LOSS.swav.temperature=99999999999999999999", ["at most 19 digits"]),
        ("config.MACHINE.DEVICE=cuda", ["'cuda'", "did you mean gpu?"]),
        ("config.MODEL.INPUT_TYPE=gray", ["'gray'", "did you mean grey?"]),
        ("config.DISTRIBUTED.BACKEND=glo", ["did you mean gloo?"]),
        ("config.DISTRIBUTED.INIT_METHOD=tpc", ["did you mean tcp?"]),
        ("config.MULTI_PROCESSING_METHOD=x", ["forkserver, spawn"]),
        ("config.OPTIMIZER.name=sgdd", ["did you mean sgd?"]),
        ("config.OPTIMIZER.param_schedulers.lr.name=cosin", ["did you mean cosine?"]),
        ("config.DATA.TRAIN.COLLATE_FUNCTION=multi_crop_colator", ["multi_crop_coll"]),
        ("config.DATA.TRAIN.DATA_SOURCES=[imges]", ["did you mean images?"]),
        ("config.DATA.TRAIN.DATA_PATHS=[0]", ["holds 0", "['0']"]),
        ("config.DATA.NUM_DATALOADER_WORKERS=100000", ["from 0 to 1024"]),
        ("config.CHECKPOINT.CHECKPOINT_FREQUENCY=0", ["wanted a whole number >= 1"]),
        ("config.LOSS.swav.queue_length=many", ["wanted a whole number"]),
        ("config.LOSS.swav.hard_codes=1", ["wanted true or false"]),
        ("config.LOSS.swav.crops_for_assign=[]", ["a list of whole numbers"]),
        ("config.METERS.name=acuracy", ["'acuracy'", "accuracy_list_meter"]),
        ("config.OPTIMIZER.param_schedulers.lr.end_value=-1", ["end_value is -1"]),
        ("config.OPTIMIZER.param_schedulers.lr.end_value='1e-3'", ["a number"]),
        ("config.OPTIMIZER.param_schedulers.lr.update_interval=x", ["epoch, step"]),
        ("config.MODEL.HEAD.PARAMS=[{a:1}]", ["wanted [name, {arguments}]"]),
        ("config.MODEL.HEAD.PARAMS=[[swav_head]]", ["holds ['swav_head']"]),
        ("config.LOSS.name=rgb", ["Ours are swav, "]),
        ("config.OPTIMIZER=3", ["config.OPTIMIZER=3 stands for the whole section"]),
    ],
)
def test_values_that_cannot_be(compose, override, words):
    from vissl_swav.host.errors import StartError

    with pytest.raises(StartError) as caught:
        compose(override)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert "Traceback" not in message and "\n" not in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("config.DATA.TRAIN.INPUT_KEY_NAMES=[a]", ["'a', which no batch holds"]),
        ("config.OPTIMIZER.betas=[2.0,0.9]", ["config.OPTIMIZER", "beta"]),
        (
            "config.MODEL.HEAD.PARAMS=[[[mlp,{dims:[16,9]}],[swav_head,"
            "{dims:[16,8],use_bn:true,num_clusters:[12]}]]]",
            ["takes 16 numbers gets 9"],
        ),
        (
            "config.MODEL.HEAD.PARAMS=[[swav_head,{dims:[16,8],num_clusters:[12]}]]",
            ["use_bn wants true or false"],
        ),
        ("config.TEST_MODEL=true", ["TEST.", "where config.TEST_MODEL is true"]),
        ("config.DATA.TRAIN.DATASET_NAMES=[]", ["DATASET_NAMES has 0 entries"]),
        ("config.DATA.TRAIN.DATA_SOURCES=[]", ["DATA_SOURCES is empty"]),
        ("config.DISTRIBUTED.RUN_ID=here", ["'here'", "HOST:PORT"]),
    ],
)
def test_parts_that_cannot_be_made(compose, override, words):
    from vissl_swav.host import preflight
    from vissl_swav.host.errors import StartError

    with pytest.raises(StartError) as caught:
        preflight.check(compose(override))
    for word in words:
        assert word in str(caught.value)
