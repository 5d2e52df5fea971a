"""What the gloo processes of the tests of mixed losses run."""

import torch

import vissl_swav.compat

BATCH, CROPS, PROTOTYPES, DIM = 6, 3, 5, 4


def unit_rows(count, seed, dim=DIM):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=1)


def rows_of(rank, world_size, tensor, crops):
    """This rank's samples of a crop-major tensor of all samples."""
    by_crop = tensor.reshape(crops, BATCH, -1)
    return by_crop[:, rank::world_size].flatten(0, 1)


def dino_config():
    return {
        "momentum": 0.9,
        "student_temp": 0.1,
        "teacher_temp_min": 0.04,
        "teacher_temp_max": 0.07,
        "teacher_temp_warmup_iters": 3,
        "crops_for_teacher": [1, 0],
        "num_iterations": 3,
        "num_crops": CROPS,
    }


def dino_scores():
    """The student's (V * B, K) and the teacher's (A * B, K) scores of all samples."""
    C = unit_rows(PROTOTYPES, seed=0)
    student, teacher = unit_rows(CROPS * BATCH, seed=1), unit_rows(2 * BATCH, seed=2)
    return student @ C.t(), teacher @ C.t()


def dino_step(rank, world_size):
    """Loss and gradient in the student's scores, of this rank's samples."""
    from vissl_swav.host.dino_sinkhorn_loss import DINOSinkhorn

    loss = DINOSinkhorn.from_config(dino_config())
    student, teacher = dino_scores()
    scores = rows_of(rank, world_size, student, CROPS).requires_grad_()
    loss.teacher_output = rows_of(rank, world_size, teacher, 2)
    loss.teacher_temp = 0.05
    value = loss([scores], None)
    value.backward()
    return value.detach(), scores.grad


def sum_config(world_size):
    """An inferred `LOSS.weighted_sum`, as the host's `build_loss` finds it."""
    from vissl.config import AttrDict

    buffers = {
        "embedding_dim": DIM,
        "world_size": world_size,
        "effective_batch_size": 2 * BATCH,
    }
    losses = {
        "swav": {
            "num_crops": CROPS,
            "num_prototypes": [PROTOTYPES],
            "embedding_dim": DIM,
            "queue_length_per_rank": 0,
        },
        "simclr_info_nce_loss": {"temperature": 0.2, "buffer_params": buffers},
    }
    terms = [
        {"name": "swav", "weight": 2.0},
        {"name": "simclr_info_nce_loss", "weight": 0.3, "output": 0, "crops": [0, 2]},
    ]
    return AttrDict({"terms": terms, "losses": losses, "num_crops": CROPS})


def sum_outputs():
    """Z (V * B, D) and prototypes C (K, D), all samples."""
    return unit_rows(CROPS * BATCH, seed=3), unit_rows(PROTOTYPES, seed=4)


def sum_step(rank, world_size):
    """Loss, gradient in the embeddings and the terms' means, of this rank's samples."""
    import vissl.losses  # noqa: F401  # fills the registry
    from classy_vision.generic import distributed_util

    from vissl_swav.host.weighted_sum_loss import WeightedSum

    # As the host's trainer says on the CPU.
    distributed_util.set_cpu_device()
    loss = WeightedSum.from_config(sum_config(world_size))
    features, prototypes = sum_outputs()
    Z = rows_of(rank, world_size, features, CROPS).requires_grad_()
    value = loss([Z, Z @ prototypes.t()], torch.zeros(len(Z)))
    value.backward()
    loss.take_means()
    return value.detach(), Z.grad, loss.mean_values


def steps(rank, world_size):
    """One spawn for all that is asked of several processes."""
    vissl_swav.compat.apply()
    return {"dino": dino_step(rank, world_size), "sum": sum_step(rank, world_size)}
