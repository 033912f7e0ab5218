"""Reading a crosscoder: whether a latent is shared between its parts (layers, or two models) or belongs to one of them.

A crosscoder is an autoencoder over several activations laid side by side: `SparseAutoencoder(1024, …, parts={"base": 512,
"tuned": 512})`.

Must not know: models, training.
"""

from __future__ import annotations

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import TrainingError
from interp.sae.autoencoder import SparseAutoencoder

SHARED = "shared"
"""What `belonging` calls a latent that writes to every part."""

MIXED = "mixed"
"""… and one that lies between."""


def relative_norms(sae: SparseAutoencoder) -> Float[Tensor, "d_sae part"]:
    """The share of each part in a latent's decoder lengths: n_jp / Σ_q n_jq (Lindsey et al. 2024, "Sparse crosscoders").

    Parts count in units of their own spread, that is, at the scales that training measured: ask before folding.

    Raises TrainingError where there is one part only.
    """
    if len(sae.parts) < 2:
        raise TrainingError("an autoencoder with one part has nothing to compare; build it with parts={name: size, …}")
    norms = sae.part_norms().detach()
    return norms / norms.sum(1, keepdim=True).clamp_min(1e-12)


def belonging(sae: SparseAutoencoder, *, margin: float = 0.1) -> pd.DataFrame:
    """One row per latent: its relative norm in each part, and `belongs`: the part that holds all of it but `margin`, "shared"
    where every part holds its even share give or take `margin`, else "mixed".

    The margin is that of Minder et al. 2025 (arXiv:2504.02922) for two models: .9 to 1 specific, .4 to .6 shared.
    """
    shares = relative_norms(sae)
    names = list(sae.parts)
    most, part = shares.max(1)
    even = (shares - 1 / len(names)).abs().amax(1) <= margin
    belongs = [
        SHARED if both else names[index] if share >= 1 - margin else MIXED
        for both, index, share in zip(even.tolist(), part.tolist(), most.tolist(), strict=True)
    ]
    table = pd.DataFrame(shares.cpu().numpy(), columns=names).assign(belongs=belongs)
    return table.rename_axis("latent").reset_index()


def split(sae: SparseAutoencoder, rows: Float[Tensor, "*batch d_out"]) -> dict[str, Float[Tensor, "*batch d_part"]]:
    """Inputs or reconstructions of a crosscoder, taken apart."""
    return dict(zip(sae.parts, torch.split(rows, list(sae.parts.values()), dim=-1), strict=True))
