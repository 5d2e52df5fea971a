"""VISSL's own SwAV-family pretraining configs on our losses: the flag `--ours`."""

import pytest

from vissl_swav.host.errors import StartError
from vissl_swav.host.settings.hosts_losses import translate

CONFIGS = {
    "pretrain/swav/swav_8node_resnet": "swav",
    "pretrain/deepcluster_v2/deepclusterv2_2crops_resnet": "deepcluster_v2",
    "pretrain/vision_transformer/swav/deit_b_2nodes": "swav",
    "pretrain/vision_transformer/swav/convit_s_2nodes": "swav",
    "pretrain/vision_transformer/swav/convit_b_2nodes": "swav",
    "test/integration_test/quick_swav_momentum": "swav_momentum",
}
SWAV = "config=pretrain/swav/swav_8node_resnet"
OVERLAYS = [
    f"+config/pretrain/swav/models={name}"
    for name in (
        *("resnet50_w2", "resnet50_w4", "resnet50_w5", "resnext50", "resnext101"),
        *("efficientnet_B0", "efficientnet_B1", "efficientnet_B2"),
        *("regnet400mf", "regnet16Gf", "regnet128Gf", "regnet256Gf_1"),
    )
]
OVERLAYS += [
    f"+config/pretrain/swav/{group}={name}"
    for group, name in (
        ("transforms", "multicrop_2x224"),
        ("transforms", "multicrop_6crop_2x160_4x96"),
        ("optimization", "bs64_4gpu"),
        ("optimization", "bs32_16nodes"),
    )
]


@pytest.fixture
def composed(host):
    from vissl_swav.host import launch

    def compose(*overrides):
        _, config = launch.compose([*overrides, "config.DATA.TRAIN.DATA_PATHS=[x]"])
        return config

    return compose


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_of_the_host(composed, name):
    config = composed(f"config={name}", "--ours")
    assert config.LOSS.name == CONFIGS[name]
    settings = config.LOSS[config.LOSS.name]
    assert settings.temperature == 0.1 and settings.num_crops in (2, 4, 6, 8)
    assert settings.embedding_dim == 128


def test_swav_in_full(composed):
    config = composed(SWAV, "--ours", "config.LOSS.swav_loss.queue.queue_length=8192")
    ours = config.LOSS.swav
    assert (ours.epsilon, ours.num_iterations, ours.queue_length) == (0.05, 3, 8192)
    assert ours.freeze_prototypes_steps == 313 and list(ours.num_prototypes) == [3000]
    (transform,) = config.DATA.TRAIN.TRANSFORMS
    assert transform["name"] == "MultiCrop"
    assert transform["size_crops"] == [224, 96] and transform["num_crops"] == [2, 6]
    assert config.DATA.TRAIN.COLLATE_FUNCTION == "multi_crop_collator"
    frozen = [key for key, _ in config.MODEL.TEMP_FROZEN_PARAMS_ITER_MAP]
    assert not frozen or all("prototypes" in key for key in frozen)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_with_the_hosts_overlays(composed, overlay):
    config = composed(SWAV, overlay, "--ours")
    assert config.LOSS.name == "swav"
    expected = config.MODEL.HEAD.PARAMS[0][1]["num_clusters"]
    assert list(config.LOSS.swav.num_prototypes) == list(expected)


def test_swav_momentum_in_full(composed, caplog):
    caplog.set_level("INFO")
    queue = "config.LOSS.swav_momentum_loss.queue.queue_length=64"
    config = composed(f"config={list(CONFIGS)[-1]}", queue, "--ours")
    ours = config.LOSS.swav_momentum
    assert (ours.momentum, ours.momentum_end, ours.queue_length) == (0.99, 0.99, 64)
    assert (ours.temperature, ours.epsilon, ours.num_crops) == (0.1, 0.05, 6)
    assert ours.freeze_prototypes_steps == 313 and ours.momentum_prototypes is True
    assert "momentum_eval_mode_iter_start: not taken" in caplog.text


def test_deepcluster_v2_in_full(composed):
    config = composed(f"config={list(CONFIGS)[1]}", "--ours")
    ours = config.LOSS.deepcluster_v2
    assert list(ours.crops_for_assign) == [0, 1] and ours.num_iterations == 10
    assert list(ours.num_prototypes) == [3000] * 3
    ((name, head),) = config.MODEL.HEAD.PARAMS
    assert name == "swav_head" and list(head["dims"]) == [2048, 2048, 128]
    assert head["use_bn"] is False


def test_transforms_that_ours_does_not_do_stay(composed):
    config = composed("config=pretrain/vision_transformer/swav/deit_b_2nodes", "--ours")
    assert config.DATA.TRAIN.TRANSFORMS[0]["name"] == "ImgPilToMultiCrop"
    assert config.DATA.TRAIN.COLLATE_FUNCTION == "cutmixup_collator"


def test_what_is_translated_is_said(composed, caplog):
    caplog.set_level("INFO")
    composed(SWAV, "--ours")
    assert "loss swav_loss -> swav" in caplog.text
    assert "LOSS.swav_loss.num_iters -> LOSS.swav.num_iterations = 3" in caplog.text
    assert "6 transforms -> one MultiCrop" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["config=pretrain/simclr/simclr_8node_resnet"], "simclr_info_nce_loss"),
        (["config=pretrain/swav/resnet50_400ep"], "loss is swav"),
        ([SWAV, "config.LOSS.swav_loss.normalize_last_layer=false"], "unit rows"),
    ],
)
def test_what_cannot_be_translated(composed, overrides, words):
    with pytest.raises(StartError, match=words):
        composed(*overrides, "--ours")


def test_a_list_with_another_step_is_not_ours():
    cfg = {
        "LOSS": {
            "name": "deepclusterv2_loss",
            "deepclusterv2_loss": {
                "temperature": 0.1,
                "kmeans_iters": 2,
                "num_clusters": [4],
                "memory_params": {"crops_for_mb": [0]},
            },
        },
        "MODEL": {"HEAD": {"PARAMS": [["mlp", {"dims": [4, 2]}]]}},
        "DATA": {
            "TRAIN": {
                "TRANSFORMS": [{"name": "ImgPilToMultiCrop"}, {"name": "ToTensor"}],
                "COLLATE_FUNCTION": "multicrop_collator",
            }
        },
    }
    found = translate(cfg)
    assert not any("TRANSFORMS" in line for line in found.overrides)
    assert any("stay the host's" in line for line in found.said)
