"""Builds what VISSL's task builds of a config, the model without memory."""

import torch
from meta_device import meta_device

SIDE = 330  # Larger than any crop, square: what is only resized stays square.


def meta_model(config):
    """The model as `SelfSupervisionTask._build_model` makes it, on the meta device."""
    from vissl.models import build_model

    with meta_device():
        model = build_model(config.MODEL, config.OPTIMIZER)
    evaluation = config.MODEL.FEATURE_EVAL_SETTINGS
    if evaluation.EVAL_MODE_ON and evaluation.FREEZE_TRUNK_ONLY:
        model.freeze_trunk()
    elif evaluation.EVAL_MODE_ON and evaluation.FREEZE_TRUNK_AND_HEAD:
        model.freeze_head_and_trunk()
    return model


def optimizer_of(config, model):
    """With its parameter groups and the schedules of the config."""
    from classy_vision.optim import build_optimizer, build_optimizer_schedulers
    from vissl.optimizers import get_optimizer_param_groups

    schedulers = build_optimizer_schedulers(config.OPTIMIZER)
    optimizer = build_optimizer(config.OPTIMIZER)
    groups = get_optimizer_param_groups(
        model=model,
        model_config=config.MODEL,
        optimizer_config=config.OPTIMIZER,
        optimizer_schedulers=schedulers,
    )
    optimizer.set_param_groups(groups)
    return optimizer


def meters_of(config):
    """As `SelfSupervisionTask._build_meters`."""
    from vissl.trainer.train_task import SelfSupervisionTask

    task = SelfSupervisionTask.__new__(SelfSupervisionTask)
    task.config = config
    return task._build_meters()


def loss_of(config):
    from classy_vision.losses import build_loss

    name = config.LOSS.name
    return build_loss({**config.LOSS[name], "name": name})


def crops_of(split):
    """What the transforms of a split make of an image; none for no data."""
    from PIL import Image
    from vissl.data.ssl_transforms import get_transform

    if not split.DATA_SOURCES:
        return []
    sample = {"data": [Image.new("RGB", (SIDE, SIDE))], "label": [0]}
    return get_transform(split.TRANSFORMS)(sample)["data"]


def sources_of(config):
    """Every data source that the config names, of either split."""
    return {
        name for split in ("TRAIN", "TEST") for name in config.DATA[split].DATA_SOURCES
    }


def check_build(config):
    """Model, loss, optimizer, meters, hooks and transforms; the net takes the crop.

    Returns:
        The model, on the meta device.
    """
    from vissl.data import DATASET_SOURCE_MAP
    from vissl.hooks import default_hook_generator

    model = meta_model(config)
    optimizer = optimizer_of(config, model)
    held = [p for group in optimizer.optimizer.param_groups for p in group["params"]]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in trained} <= {id(p) for p in held}
    names = [type(hook).__name__ for hook in default_hook_generator(config)]
    assert any("Checkpoint" in name for name in names)
    assert sources_of(config) <= DATASET_SOURCE_MAP.keys()
    loss = loss_of(config)
    for split in ("TRAIN", "TEST"):
        for crop in crops_of(config.DATA[split]):
            assert crop.dtype == torch.float32 and crop.shape[0] == 3
            check_forward(config, model, loss, crop)
    return model


def check_forward(config, model, loss, crop):
    """Two crops through the net and, where there is a head, scores to loss and meters.

    The scores are drawn anew: loss and meters look at values, which meta has none of.
    """
    with torch.no_grad():
        outputs = model(torch.empty(2, *crop.shape, device="meta"))
    # SwAV's head gives a list: its embeddings first.
    outputs = [output[0] if isinstance(output, list) else output for output in outputs]
    assert outputs and all(output.shape[0] == 2 for output in outputs)
    meters = meters_of(config)
    if not meters:  # Features are extracted, nothing is trained.
        return
    generator = torch.Generator().manual_seed(0)
    scores = [torch.randn(output.shape, generator=generator) for output in outputs]
    multi_label = "bce" in config.LOSS.name
    shape = scores[0].shape if multi_label else (2,)
    target = torch.ones(shape, dtype=torch.int64)
    assert torch.isfinite(loss(scores, target))
    for meter in meters:
        meter.update(scores, target)
