"""Steering by neurons that write a token: what scaling them does where the token would come, and elsewhere (Geva et al. 2022).

Must not know: figures, reports.
"""

from __future__ import annotations

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp import stats
from interp.mlp import subupdates
from interp.mlp.values import value_logits
from interp.models.hooked import Model


def writes(logits: Float[Tensor, "neuron d_vocab"], token: int) -> Float[Tensor, " neuron"]:
    """The logit of a token in each value alone, in standard deviations of that value's logits."""
    return logits[:, token] / logits.std(dim=1)


def steered(
    model: Model,
    tokens: Int[Tensor, "row pos"],
    is_text: Bool[Tensor, "row pos"],
    layer: int,
    *,
    targets: int,
    neurons: int,
    factor: float,
    seed: int = 0,
) -> pd.DataFrame:
    """The most common next tokens steered towards, one by one: two rows for each.

    neurons: "writing it" are those of `layer` that write the target most, "at random" as many others. effect: change of the
    target's log probability at the `places` where it comes next. side: KL from the untouched prediction at all other places.
    """
    logits = value_logits(model, layer)
    follows, counts = torch.full_like(tokens, -1), torch.bincount(tokens[:, 1:][is_text[:, 1:]])
    follows[:, :-1] = torch.where(is_text[:, 1:], tokens[:, 1:], -1)
    rows = []
    for target in counts.argsort(descending=True, stable=True)[:targets].tolist():
        writing = writes(logits, target).topk(neurons).indices.tolist()
        random = stats.generator(seed, "other neurons", target).choice(len(logits), neurons, replace=False).tolist()
        meant = follows == target
        for kind, chosen in (("writing it", writing), ("at random", random)):
            edits = subupdates.scaled(model, [(layer, neuron) for neuron in chosen], factor)
            done = subupdates.steering(model, tokens, edits, target=target, meant=meant, others=is_text & ~meant)
            effect = {"effect": float(done.effect.mean()), "side": float(done.side.mean()), "places": int(meant.sum())}
            rows.append({"target": target, "neurons": kind} | effect)
    return pd.DataFrame(rows)
