"""The architectures by name: which activation and which objective make each, and where they start.

Must not know: training, models, text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import nn

from interp.errors import ConfigError
from interp.names import did_you_mean
from interp.sae.activation_functions import BatchTopK, Gated, JumpReLU, ReLU, TopK
from interp.sae.autoencoder import ENCODER_START, SparseAutoencoder
from interp.sae.objectives import GatedLasso, Jump, Lasso, Objective, Reconstruction

EARLY = 4
"""How many times the wanted number of latents a threshold lets through at the start."""

REFINEMENT = 0.25
"""The step of a refined encoder: the best that was published for the LISTA-Matryoshka autoencoder."""


@dataclass(frozen=True)
class _Plan:
    activation: nn.Module
    objective: Objective
    b_enc: float = 0.0
    refinement: float = 0.0


def build(
    name: str,
    d_in: int,
    d_sae: int,
    *,
    l0: float,
    d_out: int | None = None,
    skip: bool = False,
    parts: Mapping[str, int] | None = None,
    seed: int = 0,
) -> tuple[SparseAutoencoder, Objective]:
    """An untrained autoencoder and the objective that trains it to `l0` active latents per row in the mean.

    name: one of `ARCHITECTURES`. d_out, skip, parts, seed: as for `SparseAutoencoder`.

    Raises ConfigError for another name or an l0 that cannot be, TrainingError for shapes that do not fit.
    """
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ConfigError(f"no architecture is called {name!r}{did_you_mean(name, ARCHITECTURES)}; there are {known}")
    if not 1 <= l0 <= d_sae:
        raise ConfigError(f"l0={l0} active latents of d_sae={d_sae} cannot be; use an l0 from 1 to {d_sae}")
    plan = ARCHITECTURES[name](d_in, d_sae, l0)
    sae = SparseAutoencoder(
        d_in,
        d_sae,
        activation=plan.activation,
        d_out=d_out,
        skip=skip,
        parts=parts,
        refinement=plan.refinement,
        seed=seed,
    )
    nn.init.constant_(sae.b_enc, plan.b_enc)
    return sae, plan.objective


def _topk(d_in: int, d_sae: int, l0: float) -> _Plan:
    return _Plan(TopK(round(l0)), Reconstruction())


def _multi_topk(d_in: int, d_sae: int, l0: float) -> _Plan:
    return _Plan(TopK(round(l0)), Reconstruction(wider=4))


def _batch_topk(d_in: int, d_sae: int, l0: float) -> _Plan:
    return _Plan(BatchTopK(l0), Reconstruction())


def _matryoshka(d_in: int, d_sae: int, l0: float) -> _Plan:
    """Dense nesting: F1 .93 on features that hang together (docs/recovery.md), .91 with what suits the refined encoder below."""
    widths = _widths(d_sae, l0, (4, 8, 16, 32, 48, 64, 96))
    return _Plan(BatchTopK(l0), Reconstruction(widths=widths, inner=1.0, resort_every=100))


def _lista_matryoshka(d_in: int, d_sae: int, l0: float) -> _Plan:
    """Sparse nesting: F1 .93 on the same, .88 with what suits Matryoshka alone."""
    widths = _widths(d_sae, l0, (1, 4, 16, 32, 64))
    objective = Reconstruction(widths=widths, k_start=min(3 * l0, d_sae), resort_every=1000)
    return _Plan(BatchTopK(l0), objective, refinement=REFINEMENT)


def _relu(d_in: int, d_sae: int, l0: float) -> _Plan:
    return _Plan(ReLU(), Lasso(target_l0=l0), b_enc=-_start(d_in, d_sae, l0))


def _relu_weighted(d_in: int, d_sae: int, l0: float) -> _Plan:
    return _Plan(ReLU(), Lasso(target_l0=l0, unit_decoder=False), b_enc=-_start(d_in, d_sae, l0))


def _p_anneal(d_in: int, d_sae: int, l0: float) -> _Plan:
    return _Plan(ReLU(), Lasso(target_l0=l0, p_end=0.2), b_enc=-_start(d_in, d_sae, l0))


def _gated(d_in: int, d_sae: int, l0: float) -> _Plan:
    start = _start(d_in, d_sae, l0)
    return _Plan(Gated(torch.zeros(d_sae), torch.full((d_sae,), start)), GatedLasso(target_l0=l0), b_enc=-start)


def _jumprelu(d_in: int, d_sae: int, l0: float) -> _Plan:
    objective = Jump(target_l0=l0, sparsity=0.01 / l0)  # a code's square, which leaving it out costs, is about 1 / l0
    return _Plan(JumpReLU(torch.full((d_sae,), _start(d_in, d_sae, l0))), objective)


ARCHITECTURES: dict[str, Callable[[int, int, float], _Plan]] = {
    "topk": _topk,
    "multi-topk": _multi_topk,
    "batchtopk": _batch_topk,
    "matryoshka": _matryoshka,
    "lista-matryoshka": _lista_matryoshka,
    "relu": _relu,
    "relu-weighted": _relu_weighted,
    "p-anneal": _p_anneal,
    "gated": _gated,
    "jumprelu": _jumprelu,
}
"""Every architecture by name."""


def _widths(d_sae: int, l0: float, shares: tuple[int, ...]) -> tuple[int, ...]:
    """So many 128ths of the latents, where that is more than fire."""
    return tuple(width for share in shares if (width := d_sae * share // 128) > l0)


def _start(d_in: int, d_sae: int, l0: float) -> float:
    """What `EARLY · l0` pre-activations in the mean exceed at first, on inputs spread evenly over all directions.

    At least a tenth of their standard deviation, so that a threshold is positive.
    """
    spread = ENCODER_START / d_in**0.5
    return spread * max(0.1, NormalDist().inv_cdf(1 - min(0.5, EARLY * l0 / d_sae)))
