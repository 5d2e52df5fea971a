import host_runs


def test_names_are_registered_and_arming_again_changes_nothing(compose):
    from classy_vision.dataset.transforms import TRANSFORM_REGISTRY
    from classy_vision.losses import LOSS_REGISTRY
    from vissl.data.collators import COLLATOR_REGISTRY
    from vissl.data.ssl_transforms import ssl_transforms_wrapper as wrapper
    from vissl.models.trunks import MODEL_TRUNKS_REGISTRY

    from vissl_swav.host import registration

    for _ in range(2):
        registration.arm()
        assert "swav" in LOSS_REGISTRY
        assert "MultiCrop" in TRANSFORM_REGISTRY
        assert "multi_crop_collator" in COLLATOR_REGISTRY
        assert "resnet_small" in MODEL_TRUNKS_REGISTRY
        assert wrapper._TRANSFORMS_WITH_COPIES.count("MultiCrop") == 1


def test_our_hooks_come_once_and_before_the_hosts(compose):
    from vissl.hooks import default_hook_generator

    names = [type(hook).__name__ for hook in default_hook_generator(compose())]
    for ours in ("QueueHook", "PrototypesHook", "MetricsHook"):
        assert names.count(ours) == 1
        assert names.index(ours) < names.index("LogLossMetricsCheckpointHook")
    theirs = default_hook_generator(
        compose(
            "config.DATA.TRAIN.COLLATE_FUNCTION=multicrop_collator", loss="swav_loss"
        )
    )
    assert "PrototypesHook" not in [type(hook).__name__ for hook in theirs]


def test_the_trunk_names_its_features(compose):
    import torch
    from vissl.models.trunks import get_model_trunk

    config = compose()
    trunk = get_model_trunk("resnet_small")(config.MODEL, "resnet_small").eval()
    images = torch.randn(2, 3, 32, 32)
    shapes = {
        name: tuple(trunk(images, [name])[0].shape)
        for name in ("conv1", "res2", "res3", "res4", "res5", "res5avg", "flatten")
    }
    assert shapes["conv1"] == (2, 2, 32, 32)
    assert shapes["res5"] == (2, 16, 4, 4)
    assert shapes["res5avg"] == (2, 16, 1, 1)
    assert shapes["flatten"] == (2, 16)
    assert trunk(images)[0].shape == (2, 16)


def test_a_user_script_that_imports_vissl_knows_our_parts(host):
    """The hook of `vissl_swav.pth`: no word of vissl_swav in the program."""
    program = (
        "from vissl.utils.hydra_config import compose_hydra_configuration as c\n"
        "from vissl.utils.hydra_config import convert_to_attrdict as a\n"
        "cfg = a(c(['config=pretrain/swav/quickstart']), dump_config=False)[1]\n"
        "from classy_vision.losses import build_loss\n"
        "loss = build_loss({**cfg.LOSS.swav, 'name': 'swav'})\n"
        "from vissl.models.trunks import get_model_trunk\n"
        "get_model_trunk('resnet_small')(cfg.MODEL, '')\n"
        "print(type(loss).__name__)\n"
    )
    done = host_runs.python("-c", program, cwd="/")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == "SwAVSwappedPrediction"
    switched_off = host_runs.python(
        "-c", "import vissl.losses", cwd="/", env={"VISSL_SWAV_AUTO": "0"}
    )
    assert switched_off.returncode != 0
