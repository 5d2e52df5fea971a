"""VISSL's own methods with our overlays, as small runs on the CPU."""

from dataclasses import dataclass

BATCH = 8
STEPS = 3
MLP = "config.MODEL.HEAD.PARAMS=[[mlp,{dims:[16,8]}]]"
PROTOTYPES = (
    "config.MODEL.HEAD.PARAMS=[[swav_head,{use_weight_norm_prototypes:true,"
    "dims:[16,16,8],use_bn:false,return_embeddings:false,activation_name:GELU,"
    "num_clusters:[32]}]]"
)
VIT = (
    "config.MODEL.TRUNK.NAME=vision_transformer",
    "config.MODEL.TRUNK.VISION_TRANSFORMERS={IMAGE_SIZE:224,PATCH_SIZE:32,"
    "NUM_LAYERS:1,NUM_HEADS:2,HIDDEN_DIM:16,MLP_DIM:32,CLASSIFIER:token,"
    "DROPOUT_RATE:0,ATTENTION_DROPOUT_RATE:0,QKV_BIAS:true,DROP_PATH_RATE:0}",
)
# Patches of 16 pixels are the only ones with a stem of VISSL's beside those of 8.
XCIT = (
    "config.MODEL.TRUNK.NAME=xcit",
    "config.MODEL.TRUNK.XCIT={IMAGE_SIZE:224,PATCH_SIZE:16,HIDDEN_DIM:16,NUM_LAYERS:1,"
    "NUM_HEADS:2,DROPOUT_RATE:0,ATTENTION_DROPOUT_RATE:0,DROP_PATH_RATE:0,ETA:1,"
    "TOKENS_NORM:true,QKV_BIAS:true,QK_SCALE:false}",
)


@dataclass(frozen=True)
class Method:
    """A run of the host's, with its overlays, and what makes its loss small."""

    run: str
    small: tuple[str, ...] = ()
    overlays: tuple[str, ...] = ()
    head: str = MLP
    trunk: tuple[str, ...] = VIT


def dimension_of(loss, key="embedding_dim"):
    return (f"config.LOSS.{loss}.{key}=8",)


# Overlay to the run that it is for.
METHODS = {
    "simclr": Method(
        "simclr/simclr_8node_resnet",
        dimension_of("simclr_info_nce_loss.buffer_params"),
    ),
    "simclr_2x160_4x96": Method(
        "simclr/simclr_8node_resnet",
        dimension_of("multicrop_simclr_info_nce_loss.buffer_params"),
        ("+config/pretrain/simclr/transforms=multicrop_2x160_4x96",),
    ),
    "moco": Method(
        "moco/moco_1node_resnet",
        (
            *dimension_of("moco_loss"),
            "config.LOSS.moco_loss.queue_size=32",
            # Its steps of the rate are those of 200 epochs.
            "config.OPTIMIZER.param_schedulers.lr.values=[0.03]",
            "config.OPTIMIZER.param_schedulers.lr.milestones=[]",
            "config.HOOKS.TENSORBOARD_SETUP.USE_TENSORBOARD=false",
        ),
    ),
    "barlow_twins": Method(
        "barlow_twins/barlow_twins_4node_resnet", dimension_of("barlow_twins_loss")
    ),
    "dino_deits16": Method("dino/dino_16gpus_deits16", head=PROTOTYPES),
    "dino_deits8": Method("dino/dino_64gpus_deits8", head=PROTOTYPES),
    "dino_xcit": Method(
        "dino/dino_16gpus_xcit_small_12_p16", head=PROTOTYPES, trunk=XCIT
    ),
}


def arguments(name, data, folder, *extra, processes=1, overlaid=True):
    """The run, with its overlay or without, 3 steps of a small net on the CPU.

    All but XCiT have a ViT: it takes crops of every size. VISSL's ResNet begins at 50
    layers.
    """
    method = METHODS[name]
    return [
        f"config=pretrain/{method.run}",
        *method.overlays,
        *([f"+config/pretrain/multi_crop={name}"] if overlaid else []),
        data,
        *method.trunk,
        method.head,
        *method.small,
        f"config.DATA.TRAIN.BATCHSIZE_PER_REPLICA={BATCH // processes}",
        f"config.DATA.TRAIN.DATA_LIMIT={STEPS * BATCH}",
        "config.DATA.NUM_DATALOADER_WORKERS=0",
        "config.OPTIMIZER.num_epochs=1",
        "config.MODEL.AMP_PARAMS.USE_AMP=false",
        "config.MODEL.SYNC_BN_CONFIG.CONVERT_BN_TO_SYNC_BN=false",
        "config.MACHINE.DEVICE=cpu",
        "config.DISTRIBUTED.BACKEND=gloo",
        "config.DISTRIBUTED.NUM_NODES=1",
        f"config.DISTRIBUTED.NUM_PROC_PER_NODE={processes}",
        "config.DISTRIBUTED.RUN_ID=auto",
        f"config.CHECKPOINT.DIR={folder}",
        *extra,
    ]
