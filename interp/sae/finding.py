"""Which features to look at: those that a prompt wakes, and those that tell a label.

Features that a prompt's outcome depends on are `attribution.by_gradient(…).features.mean("example").top(n)`.

Must not know: reports, how autoencoders are trained.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from interp import association, stats
from interp.models.hooked import Model
from interp.sae import splicing
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.features import codes
from interp.sae.splicing import Site, Where


@torch.no_grad()
def most_active(model: Model, site: Site, tokens: Int[Tensor, "example pos"], *, where: Where, n: int = 10) -> pd.DataFrame:
    """The features with the highest code on these tokens, highest first.

    Gives latent, code (the highest), example and pos (where it is), mean (over the marked positions) and fires (share of them).
    """
    activation = model.run(tokens, read=[site.hook]).activations[site.hook]
    found = site.encode(activation, where)
    example, pos = splicing.positions(activation, where).to(found.device).T
    highest, row = found.max(0)
    chosen = highest.topk(min(n, int((highest > 0).sum()))).indices
    columns = {
        "latent": chosen, "code": highest[chosen], "example": example[row[chosen]], "pos": pos[row[chosen]],
        "mean": found.mean(0)[chosen], "fires": (found != 0).double().mean(0)[chosen],
    }  # fmt: skip
    return pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})


def for_labels(
    sae: SparseAutoencoder,
    activations: Float[Tensor, "row d_in"],
    labels: Mapping[str, np.ndarray],
    document: Int[np.ndarray, "row"],
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """For every label the feature that tells it best, chosen on half of the documents and scored on the other.

    Beside it the best of as many random directions, and of shuffled labels, as controls: the table of
    `association.best_columns` with the sources "columns", "random directions" and "shuffled". Raises ConfigError as that does.
    """
    random = sae.untrained(stats.torch_seed(seed, "random directions"))
    controls = {"random directions": codes(random, activations)}
    return association.best_columns(codes(sae, activations), labels, document, controls=controls, seed=seed)


def telling(codes: sparse.csc_array, best: pd.DataFrame, n: int, *, seed: int = 0) -> Int[np.ndarray, " latent"]:
    """Up to `n` features to look at, in ascending order: those that tell a label best, then others that fire, at random.

    best: rows of `association.best_columns` for the features themselves.
    """
    others = np.setdiff1d(np.flatnonzero(np.diff(codes.indptr)), best.column)
    drawn = stats.generator(seed, "features shown").permutation(others)
    return np.sort(np.concatenate([best.column.unique(), drawn])[:n])
