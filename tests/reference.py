"""Oracles: float64, explicit loops, the equation number; nothing shared with `core`."""

import heapq
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


def momentum_average(target, source, momentum):
    """Thesis, section 5.2: theta_t <- m theta_t + (1 - m) theta_s, entry by entry."""
    T, S = (np.asarray(array, dtype=np.float64) for array in (target, source))
    average = np.empty_like(T)
    for place in np.ndindex(T.shape):
        average[place] = momentum * T[place] + (1 - momentum) * S[place]
    return average


def unit_rows(rows):
    """Each row over its length."""
    rows = np.asarray(rows, dtype=np.float64)
    lengths = [math.sqrt(sum(value * value for value in row)) for row in rows]
    return np.array([row / n for row, n in zip(rows, lengths, strict=True)])


def momentum_swav_loss(
    student, teacher, images, queues, *, num_crops, crops_for_assign, of_student=False
):
    """A step of SwAV with a momentum encoder, both linear: (weight, prototypes).

    `images` (V * B, ...) crop-major; `queues` a list of rows for each assignment crop,
    to which the teacher's features of this step are added at the end. Codes with the
    teacher's prototypes, or the student's.
    """
    B = len(images) // num_crops
    scores = unit_rows(np.asarray(images) @ student[0].T) @ student[1].T
    prototypes = student[1] if of_student else teacher[1]
    codes, fresh = [], []
    for queue, crop in zip(queues, crops_for_assign, strict=True):
        Z = unit_rows(np.asarray(images)[crop * B : (crop + 1) * B] @ teacher[0].T)
        full = queue.maxlen == len(queue)
        rows = np.array([*Z, *(queue if full else [])])
        codes.append(sinkhorn_codes(rows @ prototypes.T, 0.05, 3)[:B])
        fresh.append(Z)
    for queue, Z in zip(queues, fresh, strict=True):
        queue.extend(Z)
    return swav_loss(scores, num_crops, crops_for_assign, 0.1, codes)


def spherical_kmeans(features, centroids, num_iterations):
    """Eq. 11 by loops; an empty cluster keeps its centroid.

    Returns centroids (K, D), labels (N,), the objective before and after each update.
    """
    Z = [[float(value) for value in row] for row in features]
    C = [[float(value) for value in row] for row in centroids]
    objective = []
    for iteration in range(num_iterations + 1):
        labels, total = [], 0.0
        for row in Z:
            cosines = [sum(a * b for a, b in zip(row, c, strict=True)) for c in C]
            best = max(range(len(C)), key=cosines.__getitem__)
            labels.append(best)
            total += cosines[best]
        objective.append(-total / len(Z))
        if iteration == num_iterations:
            break
        for k in range(len(C)):
            members = [row for row, label in zip(Z, labels, strict=True) if label == k]
            sums = [sum(column) for column in zip(*members, strict=True)]
            length = math.sqrt(sum(value * value for value in sums))
            if length > 0:
                C[k] = [value / length for value in sums]
    return np.array(C), np.array(labels), np.array(objective)


def parts_of_a_split(counts, num_parts):
    """One part more, `num_parts` times, for the cluster whose parts are the largest."""
    heap = [(-n, k) for k, n in enumerate(counts)]
    parts = [1] * len(counts)
    for _ in range(num_parts):
        heapq.heapify(heap)
        _, k = heapq.heappop(heap)
        parts[k] += 1
        heap.append((-counts[k] / parts[k], k))
    return parts


def cluster_prediction(heads, labels, weights, num_crops, temperature):
    """Eq. 8 over heads, crops and labelled samples: the loss and its gradients.

    `heads[h]` (V * B, K_h) crop-major; `labels`, `weights` (H, B, L), weight 0 for no
    label. The gradient of -sum_l w_l log p[y_l] in s_k is (sum w p_k - w_k) / tau.
    """
    loss, gradients = 0.0, []
    for S, y, w in zip(heads, labels, weights, strict=True):
        gradient = np.zeros(np.shape(S))
        num_samples = len(S) // num_crops
        labelled = [b for b in range(num_samples) if sum(w[b]) > 0]
        for v in range(num_crops):
            for b in labelled:
                row = v * num_samples + b
                share = 1 / (len(heads) * num_crops * len(labelled))
                log_p = log_softmax(S[row], temperature)
                for label, weight in zip(y[b], w[b], strict=True):
                    loss -= share * weight * log_p[label]
                    for k, value in enumerate(log_p):
                        gradient[row, k] += share * weight * math.exp(value)
                    gradient[row, label] -= share * weight
        gradients.append(gradient / temperature)
    return loss, gradients


def balanced_partition(scores, epsilon, tolerance=1e-13, max_iterations=200_000):
    """Eq. 12 to convergence on the whole matrix: Q (N, K) with both marginals.

    Rows sum to 1, columns to N / K up to `tolerance`, relatively.
    """
    logs = np.asarray(scores, dtype=np.float64) / epsilon
    num_samples, num_prototypes = logs.shape
    share = num_samples / num_prototypes
    for _ in range(max_iterations):
        logs = logs - np.logaddexp.reduce(logs, axis=0, keepdims=True) + math.log(share)
        logs = logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)
        if abs(np.exp(logs).sum(axis=0) / share - 1).max() <= tolerance:
            return np.exp(logs)
    raise AssertionError(f"no convergence in {max_iterations} iterations")


def extended_box(variance):
    """Weights of a box blur with fractional ends, of exactly this variance, sum 1.

    2 n + 1 weights of 1 between two of 0 <= a < 1 (Gwosdek, Grewenig, Bruhn and
    Weickert 2011, eq. 8): n is the largest with whole boxes of at most this variance.
    """
    n = 0
    while (n + 1) * (n + 2) / 3 <= variance:
        n += 1
    # a solves: sum of squares of the places, weighted, is variance times the sum.
    inner = sum(place * place for place in range(-n, n + 1))
    a = (variance * (2 * n + 1) - inner) / (2 * ((n + 1) ** 2 - variance))
    weights = [a, *[1.0] * (2 * n + 1), a]
    return np.array(weights) / sum(weights)


def simclr_multicrop(features, num_crops, temperature):
    """SwAV's eq. 7 by loops over anchors and their positives; value and gradient.

    `features` (V * B, D) crop-major.
    """
    Z = np.asarray(features, dtype=np.float64)
    N, B = len(Z), len(Z) // num_crops
    total, gradient = 0.0, np.zeros_like(Z)
    for i in range(N):
        negatives = [j for j in range(N) if j % B != i % B]
        for v in range(num_crops):
            p = v * B + i % B
            if p == i:
                continue
            others = [p, *negatives]
            s = np.array([Z[i] @ Z[j] / temperature for j in others])
            log_total = log_sum_exp(s)
            total -= s[0] - log_total
            for place, j in enumerate(others):
                slope = math.exp(s[place] - log_total) - (place == 0)
                gradient[i] += slope * Z[j] / temperature
                gradient[j] += slope * Z[i] / temperature
    pairs = N * (num_crops - 1)
    return total / pairs, gradient / pairs
