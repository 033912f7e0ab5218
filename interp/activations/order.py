"""The order in which a store is read: a keyed shuffle computed from the row's place in the stream, so that one integer is all
the state there is.

Rows are taken in buckets of 16 neighbours. A first keyed permutation shuffles the buckets over the whole store; then every
window of 16,384 buckets (262,144 rows) has its rows shuffled by a second one. A batch of 4,096 rows so draws on about 3,600
sequences of a large store (4,087 would be perfect), while it reads neighbours from the disk together. A store of up to one
window is shuffled perfectly.

Must not know: files, tensors.
"""

from __future__ import annotations

import hashlib

import numpy as np

BUCKET = 16
WINDOW = 16_384 * BUCKET
_ROUNDS = 6


def shuffled(places: np.ndarray, *, rows: int, seed: int, epoch: int = 0) -> np.ndarray:
    """The rows that stand at the given places (0 … rows − 1) of the shuffled stream. Over all places, every row comes exactly
    once."""
    result = np.empty(len(places), dtype=np.int64)
    for window in np.unique(places // WINDOW):
        start = int(window) * WINDOW
        inside = places // WINDOW == window
        offsets = permute(places[inside] - start, size=min(WINDOW, rows - start), key=(seed, epoch, "window", int(window)))
        buckets = _buckets(start // BUCKET + offsets // BUCKET, full=rows // BUCKET, seed=seed, epoch=epoch)
        result[inside] = buckets * BUCKET + offsets % BUCKET
    return result


def _buckets(slots: np.ndarray, *, full: int, seed: int, epoch: int) -> np.ndarray:
    """Which bucket stands in each slot. A short bucket at the end of the store keeps the last slot."""
    result = slots.copy()
    movable = slots < full
    result[movable] = permute(slots[movable], size=full, key=(seed, epoch, "buckets"))
    return result


def permute(values: np.ndarray, *, size: int, key: tuple[object, ...]) -> np.ndarray:
    """A keyed permutation of 0 … size − 1, applied to some of these numbers: a Feistel network with cycle walking (Black &
    Rogaway 2002, §3 and §5)."""
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    keys = np.frombuffer(hashlib.sha512(repr(key).encode()).digest(), dtype="<u8")[:_ROUNDS]
    result = _feistel(values.astype(np.uint64), half, keys)
    outside = np.flatnonzero(result >= size)
    while outside.size:
        result[outside] = _feistel(result[outside], half, keys)
        outside = outside[result[outside] >= size]
    return result.astype(np.int64)


def _feistel(values: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << shift) | right


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
