"""Classical dictionary learning: codes by matching pursuit, dictionaries by k-SVD, and the baselines that autoencoders must beat.

    x ≈ Σ_j f_j D_j with at most k non-zero f_j ≥ 0, as the codes of an autoencoder are

Must not know: how autoencoders are trained, models, text.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from interp.errors import TrainingError
from interp.sae.kernels import Support, decode
from interp.stats import torch_generator

CHUNK = 1024
"""Rows coded at once: bounds memory at CHUNK · (m + k · d) numbers."""

RIDGE = 1e-4
"""Added to the diagonal of a row's Gram matrix, so that near-duplicate atoms do not get huge opposite codes."""

MIN_USES = 3
"""Uses in a block below which k-SVD leaves an atom as it is, too few to estimate it from."""


@torch.no_grad()
def matching_pursuit(
    rows: Float[Tensor, "row d"], dictionary: Float[Tensor, "m d"], k: int, *, rounds: int | None = None
) -> Support:
    """Codes of exactly k atoms per row by orthogonal matching pursuit (Pati et al. 1993), for all rows at once.

    Each round takes the atoms that point most along what is left of a row, ⌈k / rounds⌉ of them, and fits all codes of the
    row again by least squares. A code that comes out negative becomes 0. dictionary: unit rows.

    rounds: None for k of them, one atom each; fewer cost less and choose less carefully.

    Raises TrainingError for k above m or d.
    """
    m, d = dictionary.shape
    if not 1 <= k <= min(m, d):
        raise TrainingError(f"k={k} atoms per row cannot be taken from {m} in {d} dimensions; use 1 to {min(m, d)}")
    at_once = 1 if rounds is None else -(-k // rounds)
    parts = [_pursue(chunk, dictionary, k, at_once) for chunk in rows.split(CHUNK)]
    values, chosen = (torch.cat(side).flatten() for side in zip(*parts, strict=True))
    pointers = torch.arange(0, len(values) + 1, k, device=rows.device)
    return Support(pointers, chosen, values, m)


def _pursue(rows: Tensor, dictionary: Tensor, k: int, at_once: int) -> tuple[Tensor, Tensor]:
    residual, chosen = rows, torch.empty((len(rows), 0), dtype=torch.long, device=rows.device)
    ridge = RIDGE * torch.eye(k, device=rows.device, dtype=rows.dtype)
    while True:
        along = (residual @ dictionary.T).scatter_(1, chosen, -torch.inf)
        chosen = torch.cat([chosen, along.topk(min(at_once, k - chosen.shape[1])).indices], 1)
        atoms, size = dictionary[chosen], chosen.shape[1]
        root = torch.linalg.cholesky_ex(atoms @ atoms.mT + ridge[:size, :size]).L
        values = torch.cholesky_solve(atoms @ rows[..., None], root)
        if size == k:
            return values.squeeze(-1).clamp_min(0), chosen
        residual = rows - (values.mT @ atoms).squeeze(1)


def random_dictionary(m: int, d: int, *, seed: int = 0) -> Float[Tensor, "m d"]:
    """Random unit directions: what every other dictionary must beat."""
    generator = torch_generator(seed, "random dictionary")
    return F.normalize(torch.randn(m, d, generator=generator), dim=1)


@torch.no_grad()
def ksvd(rows: Float[Tensor, "row d"], m: int, k: int, *, block: int = 1024, seed: int = 0) -> Float[Tensor, "m d"]:
    """k-SVD, one power iteration per atom (Aharon et al. 2006; Rubinstein et al. 2008), on one block of rows after another.

    Atoms are updated in turn, each against what the others leave of its rows, and its codes with it. An atom that codes no row
    of a block starts again from the residual of a row that is coded badly.
    """
    dictionary = random_dictionary(m, rows.shape[1], seed=seed).to(rows)
    for part in rows.split(block):
        support = matching_pursuit(part, dictionary, k)
        codes = support.values
        left = part - decode(codes, support, dictionary)
        worst = iter(left.norm(dim=1).argsort(descending=True).tolist())
        order = support.latents.argsort(stable=True)
        ends = support.latents.bincount(minlength=m).cumsum(0).tolist()
        for atom, (first, last) in enumerate(zip([0, *ends], ends, strict=False)):
            entries = order[first:last]
            if last == first and (row := next(worst, None)) is not None:
                dictionary[atom] = F.normalize(left[row], dim=0)
            elif last - first >= MIN_USES:
                at = support.rows[entries]
                own = left[at] + codes[entries, None] * dictionary[atom]
                dictionary[atom] = F.normalize(codes[entries] @ own, dim=0)
                codes[entries] = (own @ dictionary[atom]).clamp_min(0)
                left[at] = own - codes[entries, None] * dictionary[atom]
    return dictionary


def pca(rows: Float[Tensor, "row d"], m: int) -> Float[Tensor, "m d"]:
    """Principal directions of the rows, and their opposites: at most 2d of them, the widest first."""
    _, _, directions = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    return _both_ways(directions, m)


def ica(rows: Float[Tensor, "row d"], m: int, *, seed: int = 0) -> Float[Tensor, "m d"]:
    """Mixing directions of FastICA (Hyvärinen & Oja 2000), and their opposites: at most 2d of them."""
    from sklearn.decomposition import FastICA  # scikit-learn takes a second to import

    learner = FastICA(min(rows.shape[1], -(-m // 2)), whiten="unit-variance", max_iter=100, tol=1e-3, random_state=seed)
    mixing = np.asarray(learner.fit(rows.double().cpu().numpy()).mixing_)
    return _both_ways(torch.from_numpy(mixing).T.to(rows), m)


def online_lasso(rows: Float[Tensor, "row d"], m: int, *, penalty: float = 0.25, seed: int = 0) -> Float[Tensor, "m d"]:
    """Online dictionary learning (Mairal et al. 2010), as scikit-learn's MiniBatchDictionaryLearning has it, with codes ≥ 0.

    penalty: weight of the L1 norm of the codes, in units of the root mean squared norm of the rows.
    """
    from sklearn.decomposition import MiniBatchDictionaryLearning
    from sklearn.exceptions import ConvergenceWarning

    alpha = penalty * float(rows.square().sum(1).mean().sqrt())
    learner = MiniBatchDictionaryLearning(
        m,
        alpha=alpha,  # pyright: ignore[reportArgumentType]
        batch_size=1024,
        max_iter=1,
        fit_algorithm="cd",
        positive_code=True,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # one pass per batch is the method; the next goes on from there
        for part in rows.split(1024):
            learner.partial_fit(part.double().cpu().numpy())
    return F.normalize(torch.from_numpy(np.asarray(learner.components_)).to(rows), dim=1)


def _both_ways(directions: Float[Tensor, "n d"], m: int) -> Float[Tensor, "m d"]:
    unit = F.normalize(directions, dim=1)
    return torch.stack([unit, -unit], dim=1).flatten(0, 1)[:m]
