"""A map of items: rows of a descriptor laid out on a plane so that alike items lie together. NumPy alone."""

import numpy as np
from numpy.typing import NDArray

_CURVE = (1.577, 0.895)
"""How closeness falls with the distance on the map (McInnes et al. 2018, for a least distance of 0.1)."""
_STEP = 4.0


def project(rows: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """The ``width`` main directions of the rows (principal components), signs fixed; shape ``(n, width)``."""
    centred = rows - rows.mean(axis=0)
    values, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    chosen = axes[:, np.argsort(-values)[:width]]
    chosen *= np.sign(chosen[np.abs(chosen).argmax(axis=0), np.arange(chosen.shape[1])])
    out = np.zeros((len(rows), width), np.float32)
    out[:, : chosen.shape[1]] = centred @ chosen
    return out


def lay_out(
    rows: NDArray[np.float32], *, neighbours: int = 15, epochs: int = 150, seed: int = 0
) -> NDArray[np.float32]:
    """Places on a plane, shape ``(n, 2)``, each axis in 0..1; the same rows and seed give the same map.

    Principal components first; then neighbours pull and random others push, as in UMAP, all items at once.

    Source: McInnes, Healy and Melville 2018, "UMAP: uniform manifold approximation and projection"; own implementation
    with equal weights of the neighbours.
    """
    if len(rows) < 3:
        return np.tile(np.linspace(0, 1, len(rows), dtype=np.float32)[:, None], (1, 2))
    small = project(rows, min(32, rows.shape[1]))
    head, tail = _edges(small, min(neighbours, len(rows) - 1))
    place = small[:, :2] if small.shape[1] > 1 else np.repeat(small[:, :1], 2, axis=1)
    place = (10 * place / np.maximum(np.abs(place).max(), 1e-9)).astype(np.float32)
    rng = np.random.default_rng(seed)
    place = place + rng.normal(0, 1e-3, place.shape).astype(np.float32)
    a, b = _CURVE
    n = len(rows)
    degree = np.maximum(np.bincount(head, minlength=n), 1)[:, None]
    for epoch in range(epochs):
        rate = np.float32(1 - epoch / epochs)
        apart = place[head] - place[tail]
        square = (apart * apart).sum(axis=1)
        pull = -2 * a * b * square ** (b - 1) / (1 + a * square**b)
        force = np.clip(np.where(square > 0, pull, 0)[:, None] * apart, -_STEP, _STEP)
        move = np.stack([np.bincount(head, force[:, axis], minlength=n) for axis in (0, 1)], axis=1) / degree
        for _ in range(5):
            other = rng.integers(0, n, n)
            apart = place - place[other]
            square = (apart * apart).sum(axis=1)
            push = 2 * b / ((0.001 + square) * (1 + a * square**b))
            move += np.clip(push[:, None] * apart, -_STEP, _STEP) / 5
        place = (place + rate * move).astype(np.float32)
    low, high = place.min(axis=0), place.max(axis=0)
    found: NDArray[np.float32] = ((place - low) / np.maximum(high - low, 1e-9)).astype(np.float32)
    return found


def _edges(rows: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The nearest ``k`` of each row as pairs, both ways."""
    length = (rows * rows).sum(axis=1)
    near = np.empty((len(rows), k), np.int64)
    for at in range(0, len(rows), 1024):
        part = rows[at : at + 1024]
        apart = length - 2 * part @ rows.T
        apart[np.arange(len(part)), np.arange(at, at + len(part))] = np.inf
        near[at : at + 1024] = np.argpartition(apart, k - 1, axis=1)[:, :k]
    head = np.repeat(np.arange(len(rows)), k)
    code = np.unique(np.concatenate([head * len(rows) + near.ravel(), near.ravel() * len(rows) + head]))
    return code // len(rows), code % len(rows)
