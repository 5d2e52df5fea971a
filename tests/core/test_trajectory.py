"""The authors' loop on a linear encoder: 24 SGD steps against the goldens."""

import json

import numpy as np
import pytest
import torch

from vissl_swav.core.crops import CropLayout
from vissl_swav.core.feature_queue import FeatureQueue
from vissl_swav.core.prototypes import normalize_rows_
from vissl_swav.core.swapped_prediction import swapped_prediction_loss


@pytest.mark.parametrize("case", range(3))
def test_losses_and_final_weights(shared, case):
    golden = np.load(shared / "golden" / "swav_trajectory.npz")
    config = json.loads(str(golden[f"traj_{case}_config"]))
    X = torch.from_numpy(golden[f"traj_{case}_X"]).double()
    W = torch.from_numpy(golden[f"traj_{case}_W0"]).double().requires_grad_()
    P = torch.from_numpy(golden[f"traj_{case}_P0"]).double().requires_grad_()
    layout = CropLayout(config["num_crops"], config["crops_for_assign"])
    optimizer = torch.optim.SGD(
        [W, P],
        lr=config["lr"],
        momentum=config["momentum"],
        weight_decay=config["weight_decay"],
    )
    queue = None
    if config["queue_length"]:
        num_assign = len(layout.crops_for_assign)
        queue = FeatureQueue(
            num_assign_crops=num_assign, length=config["queue_length"], dim=W.shape[0]
        ).double()
    losses = []
    for step, x in enumerate(X):
        normalize_rows_(P)
        Z = torch.nn.functional.normalize(x @ W.t(), dim=1)
        loss = swapped_prediction_loss(
            Z @ P.t(),
            num_crops=layout.num_crops,
            crops_for_assign=layout.crops_for_assign,
            temperature=config["temperature"],
            epsilon=config["epsilon"],
            num_iterations=config["num_iters"],
            queue_scores=queue.score(P)
            if queue is not None and queue.is_full
            else None,
        )
        if queue is not None and step >= config["queue_start_step"]:
            queue.push(layout.assignment_rows(Z))
        optimizer.zero_grad()
        loss.backward()
        if step < config["freeze_prototypes_steps"]:
            P.grad = None
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, golden[f"traj_{case}_losses"], rtol=1e-6)
    np.testing.assert_allclose(W.detach(), golden[f"traj_{case}_W"], rtol=1e-5)
    np.testing.assert_allclose(P.detach(), golden[f"traj_{case}_P"], rtol=1e-5)
