"""Slow and plain: what the fast functions must agree with, one row at a time, as one would read it in the papers."""
import warnings

import numpy as np
import torch
from sklearn.cluster import DBSCAN, KMeans
from torch.nn.functional import normalize


def unit_rows(features):
    x = np.asarray(features, np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def nearest(features, k):
    "Indices of the k nearest rows by cosine, each row its own first, ties by index."
    x = unit_rows(features)
    similarity = x @ x.T
    np.fill_diagonal(similarity, np.inf)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


def dense_jaccard(features, k1=30, k2=6, rank=None):
    "Jaccard distance (Zhong et al. 2017) as a dense float64 matrix; `rank` replaces the neighbour lists."
    x = unit_rows(features)
    n = len(x)
    rank = nearest(x, k1) if rank is None else rank
    half = int(np.around(k1 / 2)) + 1

    def reciprocal(i, k): return [j for j in rank[i, :k] if i in rank[j, :k]]

    weights = np.zeros((n, n))
    for i in range(n):
        own = reciprocal(i, k1)
        members = set(own)
        for j in own:
            friends = reciprocal(j, half)
            if 3 * len(set(friends) & set(own)) > 2 * len(friends): members |= set(friends)
        members = sorted(members)
        away = -np.sum((x[i] - x[members]) ** 2, axis=1)
        weights[i, members] = np.exp(away) / np.exp(away).sum()
    weights = np.stack([weights[rank[i, :k2]].mean(0) for i in range(n)])
    users = [np.flatnonzero(column) for column in weights.T]              # who gives weight to j
    distance = np.empty((n, n))
    for i in range(n):
        shared = np.zeros(n)
        for j in np.flatnonzero(weights[i]): shared[users[j]] += np.minimum(weights[i, j], weights[users[j], j])
        distance[i] = 1 - shared / (2 - shared)
    return np.maximum(distance, 0)


def as_dense(distance):
    "Full matrix of a sparse distance: what is not stored is 1."
    full = np.ones(distance.shape)
    for i in range(len(full)):
        for at in range(distance.indptr[i], distance.indptr[i + 1]): full[i, distance.indices[at]] = distance.data[at]
    return full


def dbscan(distance, eps, min_samples=4):
    "scikit-learn's labels on a dense distance."
    full = np.array(distance, np.float32)
    np.fill_diagonal(full, 0)
    return DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(full)


def secondary_centers(features, labels, n_sub=9, shrink=0.9, random_state=0):
    "mu_c and s_ck of every cluster (HIL section 3.2), one scikit-learn k-means at a time -> [C, 1 + n_sub, D]."
    features, banks = np.asarray(features), []
    for c in range(max(labels) + 1):
        x = features[labels == c]
        mu = x.mean(0)
        bank = [mu] * (1 + n_sub)
        if len(x) > n_sub > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")                       # fewer distinct points than n_sub
                sub = KMeans(n_sub, n_init=10, random_state=random_state).fit_predict(x)
            if len(set(sub)) == n_sub:
                bank = [mu] + [shrink * mu + (1 - shrink) * x[sub == k].mean(0) for k in range(n_sub)]
        banks.append(np.stack(bank))
    return np.stack(banks)


def inertia(x, sub):
    "Sum of squared distances of the rows to the mean of their sub-cluster."
    x = np.asarray(x, np.float64)
    return sum(((x[sub == k] - x[sub == k].mean(0)) ** 2).sum() for k in np.unique(sub))


def label_transfer(features, labels, prototypes, threshold=0.5):
    "BRST (HIL section 3.4), one sample at a time."
    def cosine(a, b): return np.float32(a @ b) / np.float32(np.linalg.norm(a) * np.linalg.norm(b))

    cosines = [[cosine(x, p) for p in prototypes] for x in features]
    best_fan, new = np.max(cosines, axis=0), []
    for similarity, label in zip(cosines, labels):
        target = int(np.argmax(similarity))
        new.append(target if label != -1 and similarity[target] >= threshold * best_fan[target] else -1)
    return np.array(new)


def neighbor_loss(features, queries, memories, temp=0.05, ratio=0.9):
    "Neighbour consistency as the release writes it: dense masks, every similarity twice, autograd through all."
    near = {level: queries[level] @ memories[level].T for level in queries}                       # [B, N]
    mask = torch.stack([s > ratio * s.amax(1, keepdim=True) for s in near.values()]).all(0)
    losses = {}
    for level, f in features.items():
        p = torch.softmax(normalize(f, dim=1) @ memories[level].T / temp, dim=1).clamp_min(1e-8)
        losses[level] = (-(p.log() * mask).sum(1) / (mask.sum(1) + 1)).mean()
    return losses


def mccl_loss(features, banks):
    "Multi-centre contrast (HIL, MCCL) with all distances written out and autograd through everything."
    inverse, chosen = {}, {}
    for level, f in features.items():
        distance = torch.cdist(normalize(f, dim=1), banks[level].flatten(0, 1)).unflatten(1, banks[level].shape[:2])
        nearest = distance.min(2).values
        n = nearest.min(1).indices
        own = torch.zeros_like(nearest, dtype=torch.bool).scatter(1, n[:, None], True)
        pos = (1 / distance[own]).mean(1)
        neg = (1 / nearest)[~own].view(len(f), -1).mean(1)
        inverse[level], chosen[level] = -torch.log(pos / (pos + neg)), n
    agree = torch.stack([n == chosen["deep"] for n in chosen.values()]).all(0)
    return {level: loss[agree].mean() for level, loss in inverse.items()}


def move_in_place(memory, features, labels, momentum):
    "Memory rows after the samples, one after the other: `M_y <- unit(m M_y + (1 - m) f)`."
    for f, y in zip(features, labels.tolist()): memory[y] = normalize(momentum * memory[y] + (1 - momentum) * f, dim=0)
    return memory
