"""Plans for the tests: a run of the paper, and what four users had set."""

from vissl_swav.health.plan import Plan

IMAGENET = 1_281_167


def paper(**changes):
    """SwAV, batch 256 on 4 GPUs, 200 epochs (Table 3 and appendix A.6)."""
    settings = {
        "method": "swav",
        "batch_per_process": 64,
        "world_size": 4,
        "num_epochs": 200,
        "num_prototypes": (3000,),
        "embedding_dim": 128,
        "num_crops": 8,
        "num_assign_crops": 2,
        "num_images": IMAGENET,
        "crop_sizes": (224, 96),
        "trunk_stride": 32,
        "learning_rate": 0.6,
        "queue_length": 3840,
        "queue_start": 15.0,
        "freeze": 1.0,
    }
    return Plan(**{**settings, **changes})


# facebookresearch/swav#N -> (what was set, the names that must be said). What a thread
# does not tell is the authors' 256-image command.
THREADS = {
    # 5 epochs with the 8-GPU command. The thread does not say how many images: up to
    # 256 000 the 5005 frozen steps outlast the run.
    51: (
        {
            "batch_per_process": 32,
            "world_size": 8,
            "num_epochs": 5,
            "num_images": 100_000,
            "freeze": 5005 / 390,
        },
        {"PROTOTYPES NEVER THAW", "QUEUE NEVER STARTS"},
    ),
    # 1300 images, one GPU, batch 64, 400 epochs, rate 0.6.
    78: (
        {
            "world_size": 1,
            "num_epochs": 400,
            "num_images": 1300,
            "freeze": 5005 / 20,
        },
        {"LONG FREEZE", "LEARNING RATE OFF THE RULE", "QUEUE TOO LONG FOR THE DATA"},
    ),
    # Batch 16, 1500 prototypes for 150 classes, no queue for the first epochs.
    118: (
        {
            "batch_per_process": 16,
            "world_size": 1,
            "num_prototypes": (1500,),
            "queue_length": 0,
            "num_images": 15_000,
            "learning_rate": 0.0375,
        },
        {"TOO MANY PROTOTYPES", "FEWER SAMPLES THAN PROTOTYPES"},
    ),
    # Batch 4, 21 prototypes for 7 classes.
    120: (
        {
            "batch_per_process": 4,
            "world_size": 1,
            "num_prototypes": (21,),
            "queue_length": 0,
            "num_images": 1000,
            "learning_rate": 0.009375,
        },
        {"FEWER SAMPLES THAN PROTOTYPES"},
    ),
}
