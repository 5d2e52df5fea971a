"""Our evaluations over the host's files: what they change, and what they build."""

import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.usefixtures("host")
FILES = (
    "benchmark/knn/imagenet",
    "benchmark/svm/voc07",
    "benchmark/low_shot/voc07_svm",
)
CPU = "+config/benchmark/device=cpu"


def composed(*overrides):
    from vissl_swav.host import launch

    weights = "config.MODEL.WEIGHTS_INIT.PARAMS_FILE=weights.torch"
    return launch.compose([*overrides, weights])[1]


@pytest.fixture(scope="module", params=FILES)
def config(request, host):
    return composed(f"config={request.param}", CPU)


def test_the_layer_is_the_averaged_one_of_a_resnet50(config):
    from vissl.models import build_model

    from vissl_swav.host.settings import frozen_features

    assert frozen_features.feature_layers(config) == ["res5avg"]
    frozen_features.extraction_checks(config)
    with torch.device("meta"):
        model = build_model(config.MODEL, config.OPTIMIZER)
        (features,) = model(torch.empty(2, 3, 224, 224))
    assert features.flatten(1).shape == (2, 2048)


def test_views_are_the_papers(config):
    from vissl.data.ssl_transforms import get_transform

    for split in (config.DATA.TRAIN, config.DATA.TEST):
        picture = Image.new("RGB", (512, 300))
        picture.paste((255, 255, 255), (0, 0, 60, 300))  # Left of the centre crop.
        sample = {"data": [picture], "label": [0]}
        (pixels,) = get_transform(split.TRANSFORMS)(sample)["data"]
        assert pixels.shape == (3, 224, 224)
        assert torch.equal(pixels, pixels[:, :1, :1].expand_as(pixels))


def test_the_device_overlay(config):
    assert config.MACHINE.DEVICE == "cpu" and config.DISTRIBUTED.BACKEND == "gloo"
    assert config.DISTRIBUTED.NUM_PROC_PER_NODE == 1


def test_numbers_are_the_papers_and_vissls():
    from vissl_swav.host.settings.frozen_features import feature_settings
    from vissl_swav.suite import low_shot_svm, svm

    knn = feature_settings(composed("config=benchmark/knn/imagenet"))
    assert knn.num_neighbors == (20, 200) and knn.temperatures == (0.07, 0.1)
    assert knn.unit_length
    # Our functions' defaults are the host's protocol, and our files keep it.
    for name in (
        "config=benchmark/linear_image_classification/voc07/"
        "eval_resnet_8gpu_transfer_voc07_svm",
        "config=benchmark/svm/voc07",
    ):
        found = feature_settings(composed(name))
        assert found.costs == svm.COSTS and found.folds == 3 and found.normalize
    for name in (
        "config=benchmark/low_shot_transfer/voc07/"
        "eval_resnet_8gpu_transfer_voc07_low_shot_svm",
        "config=benchmark/low_shot/voc07_svm",
    ):
        found = feature_settings(composed(name))
        assert found.costs == svm.COSTS and found.k_values == low_shot_svm.K_VALUES
        assert found.sample_numbers == (1, 2, 3, 4, 5)
