"""Which tensor of a step is the first that is not finite, and a file to look at it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

MAX_IMAGES = 8
MAX_BYTES = 4_000_000
"""Of the crops in a reproduction file: two images of the paper's eight crops."""


def describe(tensor: Tensor) -> str | None:
    """`3 of 64 values are NaN, 1 infinite`; None where all are finite."""
    values = tensor.detach()
    if not values.is_floating_point() or bool(torch.isfinite(values).all()):
        return None
    nan, infinite = int(values.isnan().sum()), int(values.isinf().sum())
    return f"{nan} of {values.numel()} values are NaN, {infinite} infinite"


def first_bad(named: Iterable[tuple[str, Tensor]]) -> tuple[str, str] | None:
    """Name and description of the first tensor that is not finite.

    Args:
        named: in the order of computation; drawn from only as far as needed.
    """
    for name, tensor in named:
        what = describe(tensor)
        if what is not None:
            return name, what
    return None


def gradient_norms(gradients: Sequence[Tensor]) -> Tensor:
    """Length of each, one tensor on their device: -> (n,) float32.

    Of float32 gradients the length is infinite from about 1e19 on, too: no step can use
    those either. The largest absolute value would be exact, and costs 18 times as much
    on the CPU.
    """
    norms = torch._foreach_norm(list(gradients), 2)  # pyright: ignore
    return torch.stack([norm.float() for norm in norms])


def rows_to_keep(embeddings: Tensor, num_crops: int, bytes_per_image: int) -> Tensor:
    """The images to put into a file: those with a bad embedding first, then others.

    Args:
        embeddings: (V * B, D), crop-major.
        num_crops: V.
        bytes_per_image: of all its crops.

    Returns:
        At most `MAX_IMAGES` image numbers of the batch, and of at most `MAX_BYTES`.
    """
    by_image = embeddings.detach().reshape(num_crops, -1, embeddings.shape[1])
    is_bad = ~torch.isfinite(by_image).all(2).all(0)
    order = torch.argsort(is_bad.to(torch.uint8), descending=True, stable=True)
    count = max(1, min(MAX_IMAGES, MAX_BYTES // max(1, bytes_per_image)))
    return order[:count]


def reproduction(
    crops: Sequence[Tensor],
    outputs: Sequence[Tensor],
    *,
    num_crops: int,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Tensors and facts of a step, small; loads with weights_only=True.

    Args:
        crops: (v * B, ...) each, crop-major; the v of all tensors add up to V.
        outputs: embeddings and scores, (V * B, ...) each.
        num_crops: V.
        facts: numbers, strings and lists of them.

    Returns:
        `images` (their places in the batch), `crops`, `embeddings`, `scores` of these
        images, crop-major again, and `facts`.
    """
    batch = outputs[0].shape[0] // num_crops
    size = sum(c[0].numel() * c.element_size() * (c.shape[0] // batch) for c in crops)
    images = rows_to_keep(outputs[0], num_crops, size).cpu()

    def keep(rows: Tensor) -> Tensor:
        by_crop = rows.detach().cpu().reshape(-1, batch, *rows.shape[1:])
        return by_crop[:, images].flatten(0, 1).contiguous()

    embeddings, *scores = (keep(rows) for rows in outputs)
    return {
        "images": images,
        "crops": [keep(rows) for rows in crops],
        "embeddings": embeddings,
        "scores": scores,
        "facts": dict(facts),
    }
