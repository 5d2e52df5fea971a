"""Mutations of the overrides of a small run, and how far such a run gets."""

import random

import cluster_runs

# Keys that a user of ours sets, by loss where they are a loss's.
KEYS = {
    None: [
        "config.SEED_VALUE",
        "config.DATA.NUM_DATALOADER_WORKERS",
        "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA",
        "config.DATA.TRAIN.DATA_PATHS",
        "config.DATA.TRAIN.DATA_SOURCES",
        "config.DATA.TRAIN.LABEL_SOURCES",
        "config.DATA.TRAIN.DATA_LIMIT",
        "config.DATA.TRAIN.DROP_LAST",
        "config.DATA.TRAIN.TRANSFORMS",
        "config.DATA.TRAIN.COLLATE_FUNCTION",
        "config.DATA.TRAIN.MAX_UNREADABLE_SHARE",
        "config.MODEL.TRUNK.NAME",
        "config.MODEL.TRUNK.RESNET_SMALL.DEPTH",
        "config.MODEL.TRUNK.RESNET_SMALL.WIDTH",
        "config.MODEL.HEAD.PARAMS",
        "config.MODEL.INPUT_TYPE",
        "config.MODEL.AMP_PARAMS.USE_AMP",
        "config.MODEL.AMP_PARAMS.AMP_DTYPE",
        "config.MODEL.WEIGHTS_INIT.PARAMS_FILE",
        "config.MODEL.SYNC_BN_CONFIG.CONVERT_BN_TO_SYNC_BN",
        "config.LOSS.name",
        "config.OPTIMIZER.name",
        "config.OPTIMIZER.num_epochs",
        "config.OPTIMIZER.weight_decay",
        "config.OPTIMIZER.use_larc",
        "config.OPTIMIZER.param_schedulers.lr.name",
        "config.OPTIMIZER.param_schedulers.lr.start_value",
        "config.DISTRIBUTED.NUM_NODES",
        "config.DISTRIBUTED.NUM_PROC_PER_NODE",
        "config.DISTRIBUTED.BACKEND",
        "config.MACHINE.DEVICE",
        "config.CHECKPOINT.CHECKPOINT_FREQUENCY",
        "config.CHECKPOINT.CHECKPOINT_ITER_FREQUENCY",
        "config.TRAINER.TRAIN_STEP_NAME",
    ],
    "swav": [
        *("epsilon", "num_iterations", "temperature", "crops_for_assign"),
        *("queue_length", "queue_start_step", "queue_start_epoch", "hard_codes"),
        *("hard_codes_steps", "freeze_prototypes_steps", "trainable_prototypes"),
        *("freeze_prototypes_epochs", "num_crops", "num_prototypes", "embedding_dim"),
    ],
    "deepcluster_v2": [
        *("temperature", "crops_for_assign", "num_iterations", "assign_every_epochs"),
        *("bank_dtype", "nearest", "num_crops", "empty_clusters"),
    ],
    "sela_v2": [
        *("temperature", "crops_for_assign", "epsilon", "assign_every_epochs"),
        *("bank_dtype", "tolerance", "max_iterations", "num_labels"),
    ],
}
VALUES = [
    *("0", "1", "-1", "2", "3", "16", "17", "1e9", "0.5", "-0.1", "nan", "inf", "1e-9"),
    *("null", "true", "false", "''", "x", "[]", "[0]", "[0,1]", "[-1]", "[1.5]", "[a]"),
    *("{}", "{a:1}", "[[]]", "'1'", "[null]", "99999999999999999999", "float16"),
    *("images", "resnet", "adam", "sgd", "cpu", "cuda", "gloo", "nccl", "grey", "rgb"),
    *("[disk_folder]", "[images]", "default_collate", "constant", "cosine", "torch"),
]
TRANSFORMS = [
    "[]",
    "[{name:MultiCrop}]",
    "[{name:MultiCrop,size_crops:[24],num_crops:[2],crop_scales:[[1.0,0.3]]}]",
    "[{name:MultiCrop,size_crops:[0],num_crops:[2],crop_scales:[[0.3,1.0]]}]",
    "[{name:MultiCrop,size_crops:[24],num_crops:[1],crop_scales:[[0.3,1.0]]}]",
    "[{name:MultiCrop,size_crops:x,num_crops:[2],crop_scales:[[0.3,1.0]]}]",
    "[{name:MultiCrop,size_crops:[24],num_crops:[2],crop_scales:null}]",
    "[{name:MultiCrop,size_crops:[24],num_crops:[2],crop_scales:[[0.3,1.0]],mean:[1]}]",
    "[{size_crops:[24]}]",
    "[{name:NoSuch}]",
    "[x]",
    "x",
    "[{name:ToTensor},{name:MultiCrop,size_crops:[24],num_crops:[2],"
    "crop_scales:[[0.3,1.0]]}]",
]
HEADS = [
    "[]",
    "[[]]",
    "x",
    "[[swav_head]]",
    "[[swav_head,{}]]",
    "[[swav_head,x]]",
    "[[mlp,{dims:[16,8]}]]",
    "[[swav_head,{dims:[16,8],use_bn:true,num_clusters:[0]}]]",
    "[[swav_head,{dims:[16],use_bn:true,num_clusters:[3]}]]",
    "[[swav_head,{dims:[],use_bn:true,num_clusters:[3]}]]",
    "[[swav_head,{dims:[8,8],use_bn:true,num_clusters:[3]}]]",
    "[[swav_head,{dims:[16,8],use_bn:3,num_clusters:[3]}]]",
    "[[swav_head,{dims:[16,8],num_clusters:[3]}]]",
    "[[swav_head,{dims:[16,8],use_bn:true,num_clusters:[3],activation_name:x}]]",
    "[[[mlp,{dims:[16,16]}],[swav_head,{dims:[16,8],use_bn:true,num_clusters:[3]}]]]",
    "[[nope,{dims:[16,8]}]]",
]


def mutated(images, folder, seed):
    """The overrides of the small run, and one to three mutations at their end."""
    rng = random.Random(seed)
    loss = rng.choice(("swav", "swav", "deepcluster_v2", "sela_v2"))
    changes = [_change(rng, loss) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    return cluster_runs.overrides(images, folder, *changes, loss=loss)


def _change(rng, loss):
    if rng.random() < 0.4:
        key = f"config.LOSS.{loss}.{rng.choice(KEYS[loss])}"
    else:
        key = rng.choice(KEYS[None])
    kind = rng.random()
    if kind < 0.06:
        return f"~{key}"
    if kind < 0.1:
        key = _misspelt(rng, key)
    if key.endswith(".TRANSFORMS"):
        return f"{key}={rng.choice(TRANSFORMS)}"
    if key.endswith("HEAD.PARAMS"):
        return f"{key}={rng.choice(HEADS)}"
    return f"{key}={rng.choice(VALUES)}"


def _misspelt(rng, key):
    place = rng.randrange(len("config."), len(key))
    return key[:place] + rng.choice(("", "x", ".")) + key[place + 1 :]


def attempt(overrides, with_a_step):
    """As a start: config, checks, model, loss, hooks; perhaps a batch through them."""
    import torch
    from classy_vision.losses import build_loss
    from vissl.hooks import default_hook_generator
    from vissl.models import build_model

    from vissl_swav.host import automatic, launch, preflight, settings

    _, cfg = launch.compose(overrides)
    run = preflight.check(cfg)
    automatic.measure(cfg)
    model = build_model(cfg.MODEL, cfg.OPTIMIZER)
    settings.take_num_images(cfg, 16)
    name = cfg.LOSS.name
    loss = build_loss({**cfg.LOSS[name], "name": name})
    default_hook_generator(cfg)
    if not with_a_step or not settings.is_ours(cfg):
        return run
    (transform,) = cfg.DATA.TRAIN.TRANSFORMS
    made = settings.multi_crop(transform)
    crops = [
        torch.rand(4, made.channels, group.size, group.size)
        for group in made.groups
        for _ in range(group.count)
    ]
    (output,) = model(crops)
    if settings.clusters(cfg):
        return run
    value = loss(output, torch.zeros(4))
    value.backward()
    assert torch.isfinite(value)
    return run
