"""Each run builds, and its net, head and loss fit together (on the meta device)."""

import pytest
import torch
from config_catalogue import CLUSTERING, OVERLAYS, PRETRAINING, RUNS

NETS = [file for file in OVERLAYS if "/architecture/" in file.name]
EVALUATIONS = [file for file in RUNS if file.name.startswith("benchmark/")]
BUILDS = [(file.override,) for file in PRETRAINING]
BUILDS += [("config=pretrain/swav/resnet50_400ep", file.override) for file in NETS]
BUILDS += [
    (f"config=pretrain/{method}/resnet50_400ep_2x160_4x96", file.override)
    for method in CLUSTERING
    for file in NETS
]
IMAGES = 7
# Image side, width of the features, classes.
PROBES = {"small_images": (32, 128, 10), "cifar": (32, 512, 10)}
FEATURES = ("knn", "svm", "low_shot")
CLASSES = {"imagenet": 1000, "places205": 205, "inaturalist18": 8142, "voc07": 20}


def evaluated(file):
    """Of an evaluation by its name; the paper's are of a ResNet-50."""
    name = file.name.rpartition("/")[2]
    return PROBES.get(name) or (224, 2048, CLASSES[name.partition("_")[0]])


def shown(build):
    return "+".join(override.replace("=", "/").rpartition("/")[2] for override in build)


def meta_model(config):
    from vissl.models import build_model

    with torch.device("meta"):
        return build_model(config.MODEL, config.OPTIMIZER)


def meta_crops(config):
    from vissl_swav.host.settings import multi_crop

    (transform,) = config.DATA.TRAIN.TRANSFORMS
    groups = multi_crop(transform).groups
    return [
        torch.empty(2, 3, group.size, group.size, device="meta")
        for group in groups
        for _ in range(group.count)
    ]


@pytest.mark.parametrize("build", BUILDS, ids=shown)
def test_model_loss_hooks_and_optimizer(build, complete, tmp_path):
    config = complete(*build)
    # Some hooks open their files when they are made.
    config.CHECKPOINT.DIR = str(tmp_path)
    model = meta_model(config)
    crops = meta_crops(config)
    ((embeddings, *scores),) = model(crops)
    settings = config.LOSS[config.LOSS.name]
    rows = 2 * settings.num_crops
    assert embeddings.shape == (rows, settings.embedding_dim)
    heads = [(rows, number) for number in settings.get("num_prototypes", [])]
    assert [head.shape for head in scores] == heads
    if config.LOSS.name in ("swav", "swav_momentum"):
        check_queue(config)
    elif config.LOSS.name in CLUSTERING:
        check_bank_and_labels(config)
    else:
        assert not any(map(torch.is_tensor, loss_of(config).state_dict().values()))
    check_hooks(config)
    check_optimizer(config, model)


def loss_of(config):
    """As the host builds it, from `LOSS[LOSS.name]`."""
    from classy_vision.losses import build_loss

    name = config.LOSS.name
    return build_loss({**config.LOSS[name], "name": name})


def check_queue(config):
    queue = loss_of(config).swav.queue
    settings = config.LOSS[config.LOSS.name]
    rows = settings.queue_length_per_rank
    assert (queue is None) == (rows == 0)
    if queue is not None:
        assert queue.features.shape[-2:] == (rows, settings.embedding_dim)


def check_bank_and_labels(config):
    from vissl_swav.host.settings import take_num_images

    take_num_images(config, IMAGES)
    settings, method = config.LOSS[config.LOSS.name], loss_of(config).method
    assert list(method.num_prototypes) == settings.num_prototypes
    assert method.labels.labels.shape == (len(settings.num_prototypes), IMAGES, 1)
    assert method.bank.num_images == IMAGES
    features = torch.ones(2, IMAGES, settings.embedding_dim)
    method.bank.write(features, torch.arange(IMAGES))
    assert method.bank.features.dtype == torch.float32


def check_hooks(config):
    from vissl.hooks import default_hook_generator

    names = [type(hook).__name__ for hook in default_hook_generator(config)]
    if config.LOSS.name == "simclr_multicrop":
        assert not {"QueueHook", "ClusteringHook", "PrototypesHook"} & set(names)
        return
    state, other = "QueueHook", "ClusteringHook"
    if config.LOSS.name in CLUSTERING:
        state, other = other, state
    assert other not in names
    ours = [names.index(name) for name in (state, "PrototypesHook")]
    (checkpoint,) = [i for i, name in enumerate(names) if "Checkpoint" in name]
    assert max(ours) < checkpoint, f"the checkpoint hook must see our state: {names}"


def check_optimizer(config, model):
    from classy_vision.optim import build_optimizer, build_optimizer_schedulers
    from vissl.optimizers import get_optimizer_param_groups

    schedulers = build_optimizer_schedulers(config.OPTIMIZER)
    groups = get_optimizer_param_groups(
        model=model,
        model_config=config.MODEL,
        optimizer_config=config.OPTIMIZER,
        optimizer_schedulers=schedulers,
    )
    optimizer = build_optimizer(config.OPTIMIZER)
    optimizer.set_param_groups(groups)
    held = sum(len(group["params"]) for group in optimizer.optimizer.param_groups)
    assert held == len(list(model.parameters()))
    if config.OPTIMIZER.use_larc:
        assert "Larc" in repr(optimizer.optimizer)


@pytest.mark.parametrize("file", EVALUATIONS, ids=lambda file: file.name)
def test_evaluation_builds_on_its_trunk(file, complete):
    """What leaves the net: features, or a figure for each class."""
    config = complete(file.override)
    side, width, classes = evaluated(file)
    image = torch.empty(2, 3, side, side, device="meta")
    output = meta_model(config)(image)
    frozen = file.name.split("/")[1] in FEATURES
    expected = (2, width) if frozen else (2, classes)
    assert output[0].flatten(1).shape == expected


SMALL = [file for file in EVALUATIONS if file.name.rpartition("/")[2] in PROBES]


@pytest.mark.parametrize("file", SMALL, ids=lambda file: file.name)
def test_evaluation_has_the_trunk_of_its_pretraining(file, complete):
    name = file.name.rpartition("/")[2]
    run = "quickstart" if name == "small_images" else "cifar_2x32"
    trained = complete(f"config=pretrain/swav/{run}").MODEL.TRUNK
    assert complete(file.override).MODEL.TRUNK.RESNET_SMALL == trained.RESNET_SMALL


@pytest.mark.parametrize("file", EVALUATIONS, ids=lambda file: file.name)
def test_transforms_of_the_evaluation_build(file, complete):
    from PIL import Image
    from vissl.data.ssl_transforms import get_transform

    config = complete(file.override)
    side, _, _ = evaluated(file)
    more = 60 if side == 224 else 0  # CIFAR is not resized.
    for split in (config.DATA.TRAIN, config.DATA.TEST):
        sample = {"data": [Image.new("RGB", (side + more, side))], "label": [0]}
        (pixels,) = get_transform(split.TRANSFORMS)(sample)["data"]
        assert pixels.shape == (3, side, side)
