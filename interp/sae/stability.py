"""Do two autoencoders, trained from other seeds or on other data, find the same features?

Latents are paired one to one so that the decoder directions of the pairs agree as well as they can (Hungarian; Paulo & Belrose
2025, arXiv:2501.16615, who count a feature as found again at a cosine above 0.7).

Must not know: models, text, how the autoencoders were trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from interp import stats
from interp.errors import TrainingError
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.batches import Batches, Hook, rows_of

SHARED = 0.7
"""Cosine above which a feature counts as found again."""


@dataclass(frozen=True)
class Stability:
    """Two autoencoders over the pairs of their latents. Intervals: bootstrap over pairs.

    cosine: mean cosine of the decoder directions of a pair. shared: share of pairs above `SHARED`.
    correlation: mean Pearson correlation of the codes of a pair; 0 for a pair of which one never changes.
    chance: the cosine when random directions stand in for the second autoencoder. pairs: [pair 2], the latents of each.
    """

    cosine: stats.Estimate
    shared: stats.Estimate
    correlation: stats.Estimate
    chance: stats.Estimate
    pairs: Int[np.ndarray, "pair 2"]


@torch.no_grad()
def stability(
    first: SparseAutoencoder, second: SparseAutoencoder, batches: Batches, *, hook: Hook = None, seed: int = 0
) -> Stability:
    """Pairs the latents of two autoencoders of one hook by their directions, and compares their codes on a stream.

    Raises TrainingError for autoencoders of different activations and for an empty stream.
    """
    if first.W_dec.shape[1] != second.W_dec.shape[1]:
        sizes = first.W_dec.shape[1], second.W_dec.shape[1]
        raise TrainingError(f"autoencoders of {sizes[0]} and {sizes[1]} dimensions cannot be paired; give two of the same hook")
    cosine, pairs = _paired(first.W_dec, second.W_dec)
    chance, _ = _paired(first.W_dec, second.untrained(stats.torch_seed(seed, "chance pairs") % 2**31).W_dec)
    return Stability(
        cosine=stats.bootstrap(cosine, seed=seed),
        shared=stats.bootstrap(cosine > SHARED, seed=seed),
        correlation=stats.bootstrap(_correlations(first, second, pairs, batches, hook), seed=seed),
        chance=stats.bootstrap(chance, seed=seed),
        pairs=pairs,
    )


def _paired(one: Tensor, other: Tensor) -> tuple[Float[np.ndarray, "pair"], Int[np.ndarray, "pair 2"]]:
    cosine = (F.normalize(one, dim=1) @ F.normalize(other, dim=1).T).cpu().numpy()
    pairs = linear_sum_assignment(cosine, maximize=True)
    return cosine[pairs], np.stack(pairs, axis=1)


def _correlations(
    first: SparseAutoencoder, second: SparseAutoencoder, pairs: np.ndarray, batches: Batches, hook: Hook
) -> Float[np.ndarray, "pair"]:
    left, right = torch.from_numpy(pairs).unbind(1)
    n, sums = 0, torch.zeros(5, len(pairs), dtype=torch.float64)  # a, b, a², b², ab
    for batch in batches:
        rows = rows_of(batch, hook)
        a, b = first.encode(rows)[:, left].double().cpu(), second.encode(rows)[:, right].double().cpu()
        sums += torch.stack([part.sum(0) for part in (a, b, a * a, b * b, a * b)])
        n += len(rows)
    if n == 0:
        raise TrainingError("there are no activations to compare codes on; check the corpus and the hook")
    a, b, aa, bb, ab = sums / n
    spread = ((aa - a * a).clamp(min=0) * (bb - b * b).clamp(min=0)).sqrt()
    return torch.where(spread > 1e-12, (ab - a * b) / spread, 0.0).numpy()
