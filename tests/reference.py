"""Oracles: float64, explicit loops, the equation number; nothing shared with `core`."""

import math

import numpy as np


def sinkhorn_codes(scores, epsilon, num_iterations):
    """Eq. 3 to 5 with samples as rows, log domain, one entry at a time where cheap."""
    S = np.asarray(scores, dtype=np.float64) / epsilon
    num_samples, num_prototypes = S.shape
    logs = S.copy()
    for _ in range(num_iterations):
        for k in range(num_prototypes):
            logs[:, k] -= log_sum_exp(logs[:, k]) + math.log(num_prototypes)
        for b in range(num_samples):
            logs[b] -= log_sum_exp(logs[b]) + math.log(num_samples)
    return np.exp(logs) * num_samples


def log_sum_exp(values):
    highest = values.max()
    return highest + math.log(sum(math.exp(v - highest) for v in values))


def log_softmax(row, temperature):
    scaled = np.asarray(row, dtype=np.float64) / temperature
    return scaled - log_sum_exp(scaled)


def swav_loss(scores, num_crops, crops_for_assign, temperature, codes):
    """Eq. 1, 2 and 6 by loops over pairs, samples and prototypes.

    `scores` (V * B, K) crop-major; `codes[i]` (B, K) of the i-th assignment crop.
    """
    num_samples = len(scores) // num_crops
    total = 0.0
    for code, i in zip(codes, crops_for_assign, strict=True):
        of_crop = 0.0
        for v in range(num_crops):
            if v == i:
                continue
            for b in range(num_samples):
                log_p = log_softmax(scores[v * num_samples + b], temperature)
                of_crop -= sum(q * p for q, p in zip(code[b], log_p, strict=True))
        total += of_crop / (num_samples * (num_crops - 1))
    return total / len(crops_for_assign)
