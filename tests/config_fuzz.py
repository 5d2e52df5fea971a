"""Mutations of the overrides of a small run: wrong kinds, and plausible wrong values.

What a user does: a word for a number, a list too short, a key of the neighbour's, a
percentage, a section where a value belongs, a value of the other device.
"""

import functools
import random

import cluster_runs
import yaml

# Keys that a user of ours sets.
KEYS = (
    *("SEED_VALUE", "LOG_FREQUENCY", "TEST_MODEL", "TEST_ONLY", "AUTO_SCALE"),
    *("MULTI_PROCESSING_METHOD", "TEST_EVERY_NUM_EPOCH", "HEALTH.ENABLED"),
    *("HEALTH.ON_COLLAPSE", "HEALTH", "HOOKS.PERF_STATS.ROLLING_BTIME_FREQ"),
    *("HOOKS.PERF_STATS.MONITOR_PERF_STATS", "METERS.name", "TRAINER.TRAIN_STEP_NAME"),
    "DATA.NUM_DATALOADER_WORKERS",
    *("DATA.PIN_MEMORY", "DATA.ENABLE_ASYNC_GPU_COPY", "DATA.DDP_BUCKET_CAP_MB"),
    *("DATA.TRAIN.BATCHSIZE_PER_REPLICA", "DATA.TRAIN.DATA_PATHS"),
    *("DATA.TRAIN.DATA_SOURCES", "DATA.TRAIN.LABEL_SOURCES", "DATA.TRAIN.LABEL_TYPE"),
    *("DATA.TRAIN.DATASET_NAMES", "DATA.TRAIN.LABEL_PATHS", "DATA.TRAIN.DATA_LIMIT"),
    *("DATA.TRAIN.DROP_LAST", "DATA.TRAIN.TRANSFORMS", "DATA.TRAIN.TRANSFORMS"),
    *("DATA.TRAIN.COLLATE_FUNCTION", "DATA.TRAIN.COLLATE_FUNCTION_PARAMS"),
    *("DATA.TRAIN.MAX_UNREADABLE_SHARE", "DATA.TRAIN.IMAGES_ON_DEVICE", "DATA.TRAIN"),
    *("DATA.TRAIN.DEFAULT_GRAY_IMG_SIZE", "DATA.TRAIN.USE_DEBUGGING_SAMPLER"),
    *("DATA.TRAIN.USE_STATEFUL_DISTRIBUTED_SAMPLER", "DATA.TRAIN.INPUT_KEY_NAMES"),
    *("DATA.TRAIN.TARGET_KEY_NAMES", "DATA.TRAIN.COPY_TO_LOCAL_DISK"),
    *("MODEL.TRUNK.NAME", "MODEL.TRUNK.RESNET_SMALL.DEPTH", "MODEL.INPUT_TYPE"),
    *("MODEL.TRUNK.RESNET_SMALL.WIDTH", "MODEL.HEAD.PARAMS", "MODEL.HEAD.PARAMS"),
    *("MODEL.AMP_PARAMS.USE_AMP", "MODEL.AMP_PARAMS.AMP_DTYPE"),
    *("MODEL.AMP_PARAMS.AMP_TYPE", "MODEL.WEIGHTS_INIT.PARAMS_FILE"),
    *("MODEL.SYNC_BN_CONFIG.CONVERT_BN_TO_SYNC_BN", "MODEL.HEAD", "MODEL.TRUNK"),
    *("MODEL.SYNC_BN_CONFIG.SYNC_BN_TYPE", "MODEL.SYNC_BN_CONFIG.GROUP_SIZE"),
    *("LOSS.name", "LOSS", "OPTIMIZER.name", "OPTIMIZER.num_epochs", "OPTIMIZER"),
    *("OPTIMIZER.momentum", "OPTIMIZER.nesterov", "OPTIMIZER.weight_decay"),
    *("OPTIMIZER.use_larc", "OPTIMIZER.larc_config", "OPTIMIZER.regularize_bn"),
    *("OPTIMIZER.regularize_bias", "OPTIMIZER.betas", "OPTIMIZER.larc_config.eps"),
    *("OPTIMIZER.larc_config.clip", "OPTIMIZER.larc_config.trust_coefficient"),
    *("OPTIMIZER.param_schedulers.lr", "OPTIMIZER.param_schedulers.lr.name"),
    "OPTIMIZER.param_schedulers.lr.start_value",
    "OPTIMIZER.param_schedulers.lr.end_value",
    "OPTIMIZER.param_schedulers.lr.value",
    "OPTIMIZER.param_schedulers.lr.values",
    "OPTIMIZER.param_schedulers.lr.update_interval",
    "OPTIMIZER.param_schedulers.lr.auto_lr_scaling.auto_scale",
    *("DISTRIBUTED.NUM_NODES", "DISTRIBUTED.NUM_PROC_PER_NODE", "MACHINE.DEVICE"),
    *("DISTRIBUTED.BACKEND", "DISTRIBUTED.INIT_METHOD", "DISTRIBUTED.RUN_ID"),
    *("CHECKPOINT.CHECKPOINT_FREQUENCY", "CHECKPOINT.CHECKPOINT_ITER_FREQUENCY"),
    *("CHECKPOINT.AUTO_RESUME", "CHECKPOINT.DIR"),
)
LOSS_KEYS = {
    "swav": (
        *("epsilon", "num_iterations", "temperature", "crops_for_assign"),
        *("queue_length", "queue_start_step", "queue_start_epoch", "hard_codes"),
        *("hard_codes_steps", "freeze_prototypes_steps", "trainable_prototypes"),
        *("freeze_prototypes_epochs", "num_crops", "num_prototypes", "embedding_dim"),
    ),
    "deepcluster_v2": (
        *("temperature", "crops_for_assign", "num_iterations", "assign_every_epochs"),
        *("bank_dtype", "nearest", "num_crops", "empty_clusters"),
    ),
    "sela_v2": (
        *("temperature", "crops_for_assign", "epsilon", "assign_every_epochs"),
        *("bank_dtype", "tolerance", "max_iterations", "num_labels"),
    ),
}
# As typed; hydra reads them.
NUMBERS = (
    *("0", "1", "-1", "2", "3", "16", "17", "0.5", "-0.1", "1.0", "0.999", "1e-9"),
    *("nan", "inf", "-inf", "1e9", "1e30", "1e400", "1e-400", "1000000", "-1000000"),
    *("99999999999999999999", "1000000007", "2147483648", "0x10", "1_000"),
    *("'1'", "'0.5'", "'-3'", "' 3'", "'1e-3'", "three", "'1,5'", "50%", "4k", "16 "),
)
LISTS = (
    *("[]", "[0]", "[0,1]", "[1,0]", "[0,0]", "[-1]", "[7]", "[1.5]", "[a]", "[[]]"),
    *("[null]", "[true]", "['0']", "[0,1,2,3]", "[1e30]", "[nan]", "[{a:1}]"),
)
OTHERS = (
    *("null", "true", "false", "''", "' '", "'a b'", "{}", "{a:1}", "{name:sgd}", "x"),
    *("~", "'null'", "'True'", "yes", "off", "../x", "/no/such", "'é'", "None", "auto"),
)
NAMES = (
    *("images", "resnet", "resnet_smal", "Resnet_Small", "adam", "sgd", "sgdd", "lars"),
    *("cpu", "cuda", "gpu", "gloo", "nccl", "mpi", "glooo", "grey", "gray", "rgb"),
    *("[disk_folder]", "[images]", "[imagess]", "[disk_filelist]", "[synthetic]"),
    *(
        "default_collate",
        "multi_crop_collator",
        "simclr_collator",
        "multi_crop_colator",
    ),
    *("constant", "cosine", "cosin", "multistep", "linear", "composite", "torch"),
    *("float16", "bfloat16", "float32", "fp16", "swav", "swav_loss", "SwAV", "sela_v2"),
    *("deepcluster_v2", "standard_train_step", "multi_crop_train_step", "efficientnet"),
    *("spawn", "fork", "forkserver", "tcp", "env", "file", "apex", "pytorch", "step"),
    *("epoch", "stop", "warn", "halt", "[]", "[accuracy_list_meter]", "env:1", "a:b"),
)
VALUES = NUMBERS + LISTS + OTHERS + NAMES
MULTI_CROP = {
    "name": "MultiCrop",
    "size_crops": [24, 16],
    "num_crops": [2, 1],
    "crop_scales": [[0.3, 1.0], [0.1, 0.3]],
}
MORE_OF_CROPS = (
    *("crop_ratios", "flip_probability", "jitter", "jitter_probability", "mean", "std"),
    *("grayscale_probability", "blur_probability", "blur_radius", "channels", "output"),
    *("solarize_probability", "solarize_threshold", "total_num_crops", "backend"),
    *("on_device", "max_side", "transform_type", "indices"),
)
HEAD = {"dims": [16, 16, 8], "use_bn": True, "num_clusters": [12]}
MORE_OF_HEADS = (
    *("activation_name", "use_bias", "return_embeddings", "skip_last_bn", "use_relu"),
    *("normalize_feats", "use_weight_norm_prototypes", "num_cluster"),
)
PARTS = (
    *(None, True, False, 0, 1, -1, 2, 3, 0.5, -0.5, 1.5, 10**9, 10**20, 1e30),
    *(float("nan"), float("inf"), "", "x", "3", "auto", "uint8", "pillow", "opencv"),
    *([], {}, {"a": 1}, [0], [2], [24], [16, 8], [2, 6, 1], [0, 1], [1, 0], [-1, 2]),
    *([0.5], [0.3, 1.0], [1.0, 0.3], [[0.3, 1.0]], [[0.3], [1.0]], [[1.0, 0.3]] * 2),
    *([[0.0, 1.0]] * 2, [[0.3, 1.5]] * 2, [["a", "b"]], [None], ["2"], [[]], [10**6]),
    *([0.5] * 3, [0.0] * 3, [0.5] * 4, [[0.5] * 4] * 2, [1e9] * 4),
)
TRANSFORMS = (
    *("[]", "x", "[x]", "[{size_crops:[24]}]", "[{name:NoSuch}]", "[{name:MultiCrop}]"),
    *("{name:MultiCrop}", "[{name:null}]", "[[MultiCrop]]", "[{name:ToTensor}]"),
    "[{name:ImgPilToMultiCrop,total_num_crops:3,size_crops:[24,16],num_crops:[2,1],"
    "crop_scales:[[0.3,1.0],[0.1,0.3]]},{name:ToTensor}]",
    "[{name:ImgPilToMultiCrop,total_num_crops:5,size_crops:[24],num_crops:[2],"
    "crop_scales:[[0.3,1.0]]},{name:ToTensor}]",
    "[{name:ImgReplicatePil,num_times:2},{name:RandomResizedCrop,size:24},"
    "{name:ToTensor}]",
)
CHAINS = (
    *("[]", "[[]]", "x", "[[swav_head]]", "[[swav_head,{}]]", "[[swav_head,x]]"),
    *("[[mlp,{dims:[16,8]}]]", "[[nope,{dims:[16,8]}]]", "[[swav_head,{},{}]]", "{}"),
    "[[[mlp,{dims:[16,16]}],[swav_head,{dims:[16,8],use_bn:true,num_clusters:[3]}]]]",
    "[[[mlp,{dims:[16,9]}],[swav_head,{dims:[16,8],use_bn:true,num_clusters:[3]}]]]",
    "[[[mlp,{dims:16}],[swav_head,{dims:[16,8],use_bn:true,num_clusters:[3]}]]]",
    "[[[mlp],[swav_head,{dims:[16,8],use_bn:true,num_clusters:[3]}]]]",
    "[[[nope,{}],[swav_head,{dims:[16,8],use_bn:true,num_clusters:[3]}]]]",
    "[[swav_head,{dims:[16,8],use_bn:true,num_clusters:[3]}],[mlp,{dims:[16,8]}]]",
)


def mutated(images, folder, seed):
    """The overrides of the small run, and one or two mutations at their end."""
    rng = random.Random(seed)
    loss = rng.choice(("swav", "swav", "deepcluster_v2", "sela_v2"))
    changes = [_change(rng, loss) for _ in range(rng.choice((1, 1, 1, 1, 2)))]
    overrides = cluster_runs.overrides(images, folder, loss=loss)
    if rng.random() < 0.06:
        overrides = _swapped(rng, overrides)
    return overrides + changes


def _change(rng, loss):
    if rng.random() < 0.35:
        other = rng.choice(list(LOSS_KEYS)) if rng.random() < 0.1 else loss
        key = f"config.LOSS.{other}.{rng.choice(LOSS_KEYS[loss])}"
    else:
        key = f"config.{rng.choice(KEYS)}"
    kind = rng.random()
    if kind < 0.05:
        return f"~{key}"
    if kind < 0.1:
        key = _misspelt(rng, key)
    if key.endswith(".TRANSFORMS"):
        return f"{key}={_transforms(rng)}"
    if key.endswith("HEAD.PARAMS"):
        return f"{key}={_head(rng)}"
    if rng.random() < 0.3:
        return f"{key}={rng.choice(VALUES)}"
    return f"{key}={rng.choice(_plausible(key, loss))}"


def _plausible(key, loss):
    """Values of the kind that the key has in the small run, good and bad."""
    from vissl_swav.host.config_values import value_at

    value = value_at(_composed(loss), key)[1]
    if isinstance(value, bool):
        return ("true", "false", "true", "false", "1", "yes")
    if isinstance(value, (int, float)):
        return NUMBERS
    if isinstance(value, list):
        return LISTS
    return NAMES if isinstance(value, str) else VALUES


@functools.cache
def _composed(loss):
    from vissl_swav.host import launch, settings

    overrides = cluster_runs.overrides("images", "run", loss=loss)
    return {"config": settings.storable(launch.compose(overrides)[1])}


def _misspelt(rng, key):
    place = rng.randrange(len("config."), len(key))
    return key[:place] + rng.choice(("", "x", ".")) + key[place + 1 :]


def _swapped(rng, overrides):
    """Two keys with each other's values; the first override names the config."""
    first, second = rng.sample(range(1, len(overrides)), 2)
    (a, _, one), (b, _, other) = (overrides[n].partition("=") for n in (first, second))
    overrides[first], overrides[second] = f"{a}={other}", f"{b}={one}"
    return overrides


def _transforms(rng):
    if rng.random() < 0.3:
        return rng.choice(TRANSFORMS)
    return f"[{_typed(_one_changed(rng, MULTI_CROP, MORE_OF_CROPS))}]"


def _head(rng):
    if rng.random() < 0.3:
        return rng.choice(CHAINS)
    return f"[[swav_head,{_typed(_one_changed(rng, HEAD, MORE_OF_HEADS))}]]"


def _one_changed(rng, good, more):
    """One entry lost, replaced, given another's value, or one of `more` added."""
    tree, kind = dict(good), rng.random()
    name = rng.choice(list(tree))
    if kind < 0.1:
        del tree[name]
    elif kind < 0.2:
        tree[name] = tree[rng.choice(list(tree))]
    else:
        tree[name if kind < 0.6 else rng.choice(more)] = rng.choice(PARTS)
    return tree


def _typed(tree):
    """A mapping as one types it: YAML's one-line form, which hydra reads too."""
    line = yaml.safe_dump(tree, default_flow_style=True, width=10**6).strip()
    return line.replace(".nan", "nan").replace(".inf", "inf").replace(": ", ":")
