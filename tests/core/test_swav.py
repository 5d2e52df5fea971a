"""What `SwAV` refuses when it is made, and what scores it takes."""

import math
import pickle

import numpy as np
import pytest
import torch

from vissl_swav.core.setting_checks import SettingError
from vissl_swav.core.swav import SwAV

SHAPES = {"num_crops": 2, "num_prototypes": [3], "embedding_dim": 4}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("num_crops", 1, "num_crops is 1; a swapped prediction needs two crops"),
        ("num_crops", 2.0, "num_crops is 2.0; wanted a whole number >= 1"),
        ("num_prototypes", [], "at least one head"),
        ("num_prototypes", [3, 0], r"\[3, 0\]; wanted a list of whole numbers >= 1"),
        ("num_prototypes", 3, "num_prototypes is 3; wanted a list"),
        ("embedding_dim", 0, "embedding_dim is 0; wanted >= 1"),
        ("crops_for_assign", [0, 2], "crops_for_assign is .* each in 0..1"),
        ("temperature", -1, "temperature is -1; wanted > 0 .the paper: 0.1"),
        ("temperature", math.nan, "temperature is nan"),
        ("epsilon", 0, "epsilon is 0; wanted > 0 .the paper: 0.05"),
        ("num_iterations", 0, "num_iterations is 0; wanted >= 1 .the paper: 3"),
        ("num_iterations", 2.5, "num_iterations is 2.5; wanted a whole number"),
        ("hard_codes_steps", -1, "hard_codes_steps is -1; wanted >= 0"),
        ("queue_length", -4, "queue_length is -4; wanted >= 0"),
        ("queue_length", 0.5, "queue_length is 0.5; wanted a whole number"),
        ("queue_start_step", -3, "queue_start_step is -3; wanted >= 0"),
        ("queue_dtype", "int8", "queue_dtype is 'int8'; wanted one of"),
    ],
)
def test_what_it_cannot_have_is_refused_when_it_is_made(name, value, words):
    with pytest.raises(SettingError, match=words) as caught:
        SwAV(**{**SHAPES, name: value})
    assert caught.value.name == name
    # As an error of a spawned process comes back.
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.name) == (str(caught.value), name)


def test_numbers_of_numpy_are_numbers():
    swav = SwAV(
        num_crops=np.int64(2),
        num_prototypes=np.array([3]),
        embedding_dim=np.int32(4),
        queue_length=np.int64(2),
    )
    assert torch.isfinite(swav([torch.rand(4, 3)])) and swav.queue.length == 2


@pytest.mark.parametrize("widths", [[5], [3, 3], [], [4, 3]])
def test_scores_of_other_heads_are_refused(widths):
    """Of [3] prototypes: 5 columns, a second head, none at all."""
    with pytest.raises(ValueError, match=r"wanted \(V \* B, K\) of each head.*\[3\]"):
        SwAV(**SHAPES)([torch.zeros(4, K) for K in widths])


def test_one_head_may_stand_alone():
    scores = torch.rand(4, 3)
    swav = SwAV(**SHAPES)
    assert torch.equal(swav(scores), swav([scores]))
    with pytest.raises(ValueError, match=r"shapes \[\(4, 5\)\]"):
        swav(torch.rand(4, 5))
