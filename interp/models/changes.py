"""What a change of weights is: two states of one model, matrix by matrix; some of the one in the other; and noise as large.

A model with adapters attached has no weights of its own to be read: merge first.

Must not know: how models are trained, activations.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp import stats
from interp.errors import ModelError
from interp.models.hooked import Model
from interp.models.lora import effective_rank, overlap, spectrum


def matrices(before: Model, after: Model, *, rank: int = 4) -> pd.DataFrame:
    """Every matrix of weights, by the bare module's names, those that changed most first. With Δ = W' − W [rows columns]:

    change          ‖Δ‖ / ‖W‖ (Frobenius); infinite for a matrix that was zero
    effective rank  of Δ (`interp.models.lora.effective_rank`); 0 for no change; of how many: "rank at most"
    top             the share of ‖Δ‖² in its `rank` largest singular values
    overlap         of Δ's leading `rank` left singular directions with W's: φ of Hu et al. 2021 (arXiv:2106.09685, §7.2)
    chance          … with random directions, in the mean: rank / rows

    Where rank is more than a matrix can have, all of it counts. Raises ModelError for models of another shape.
    """
    (own, theirs), rows = _states(before, after), []
    for name, weight in own.items():
        if weight.ndim != 2 or not weight.is_floating_point():
            continue
        change = (theirs[name] - weight).float()
        moved, most = bool(change.any()), min(weight.shape)
        squares = spectrum(change).square()
        row = {
            "matrix": name,
            "change": float(change.norm() / weight.float().norm()) if moved else 0.0,
            "effective rank": effective_rank(change) if moved else 0.0,
            "rank at most": most,
            "top": float(squares[:rank].sum() / squares.sum()) if moved else np.nan,
            "overlap": overlap(change, weight.float(), min(rank, most)) if moved else np.nan,
            "chance": min(rank, most) / weight.shape[0],
        }
        rows.append(row)
    return pd.DataFrame(rows).sort_values("change", ascending=False, kind="stable", ignore_index=True)


def graft(before: Model, after: Model, names: Iterable[str]) -> Model:
    """The model before with some of the weights of the model after, by the names of `matrices`. Raises ModelError for others."""
    (own, theirs), names = _states(before, after), list(names)
    unknown = [name for name in names if name not in own]
    if unknown:
        raise ModelError(f"{before.name} has no weight {unknown[0]!r}; it has {', '.join(list(own)[:4])}, …")
    state = own | {name: theirs[name] for name in names}
    return before.with_weights(state, name=f"{before.name} with {len(names)} weights of {after.name}")


def noised(before: Model, after: Model, *, seed: int) -> Model:
    """The control: the model before with normal noise of the norm of the whole change, spread evenly over all that changed.

    Raises ModelError for models without a difference, and as `matrices`.
    """
    own, theirs = _states(before, after)
    changes = {name: (theirs[name] - weight).float() for name, weight in own.items() if not torch.equal(theirs[name], weight)}
    if not changes:
        raise ModelError(f"{before.name} and {after.name} have the same weights, so there is no change to be as large as")
    norm = float(torch.stack([change.square().sum() for change in changes.values()]).sum().sqrt())
    scale = norm / sum(change.numel() for change in changes.values()) ** 0.5
    drawn = stats.torch_generator(seed, "weight noise")
    noise = {name: scale * torch.randn(change.shape, generator=drawn) for name, change in changes.items()}
    state = own | {name: own[name] + each.to(own[name]) for name, each in noise.items()}
    return before.with_weights(state, name=f"{before.name} with noise")


def _states(before: Model, after: Model) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of both, if they have the same names and shapes."""
    own, theirs = before.state(), after.state()
    other = [name for name in own | theirs if name not in own or name not in theirs or own[name].shape != theirs[name].shape]
    if other:
        raise ModelError(f"{before.name} and {after.name} differ in shape at {other[0]}; give two states of one model")
    return own, theirs
