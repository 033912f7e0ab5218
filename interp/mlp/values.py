"""Values: what each neuron writes, read off the weights through the model's own final norm and unembedding (Geva et al. 2021,
arXiv:2012.14913, section 4), and whether that is what follows the neuron's triggers.

Must not know: figures, reports, tokenizers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.mlp.keys import Triggers
from interp.mlp.memories import memories
from interp.mlp.readout import readout
from interp.models.hooked import Model
from interp.models.norms import read_alone
from interp.text.labelled import LabelledText


def value_logits(model: Model, layer: int, *, stack: str | None = None) -> Float[Tensor, "neuron d_vocab"]:
    """What each value vector alone says about the next token: v through the final norm and the unembedding.

    v is normalised as if it stood alone in the residual stream, so readings of long and short values compare; biases are
    left out, since they are the same for every neuron, and the mean over the vocabulary too, since the softmax ignores it.

    Raises ModelError for a layer without MLP, for models whose logits are more than final norm and unembedding, and for the
    encoder of an encoder–decoder, which writes none.
    """
    values = read_alone(model, memories(model, layer, stack=stack).values)
    logits = values @ readout(model, stack=stack).matrix
    return logits - logits.mean(-1, keepdim=True)


def value_tokens(
    model: Model, layer: int, *, top: int = 10, stack: str | None = None
) -> tuple[Int[Tensor, "neuron top"], Int[Tensor, "neuron top"]]:
    """The tokens that each neuron of a layer promotes and suppresses most, strongest first, by `value_logits`."""
    logits = value_logits(model, layer, stack=stack)
    return logits.topk(top, dim=1).indices, (-logits).topk(top, dim=1).indices


@dataclass(frozen=True)
class Readings:
    """How pointed the values of a layer are, by p = softmax(value_logits).

    confidence: the largest p. entropy: of p, in nats; ln d_vocab for a value that says nothing. kurtosis: of the logits over the
    vocabulary, 3 for a Gaussian; far above it where a few tokens stand out.
    """

    confidence: Float[Tensor, " neuron"]
    entropy: Float[Tensor, " neuron"]
    kurtosis: Float[Tensor, " neuron"]


def readings(logits: Float[Tensor, "neuron d_vocab"]) -> Readings:
    """How pointed values are, from their `value_logits`."""
    log_p = logits.log_softmax(-1)
    p, centred = log_p.exp(), logits - logits.mean(-1, keepdim=True)
    moments = centred.pow(4).mean(-1) / centred.square().mean(-1).square()
    return Readings(p.amax(-1), -(p * log_p).sum(-1), moments)


def agreement(logits: Float[Tensor, "neuron d_vocab"], found: Triggers, text: LabelledText) -> pd.DataFrame:
    """Whether each value says what follows the neuron's triggers (Geva et al. 2021, section 4).

    Gives one row per neuron that fires at all, with columns
        neuron
        next        token that follows the top trigger, -1 at the end of a document
        rank        of that token in the value, 0 the first; -1 likewise
        max_rank    the best rank that a next token of any of the triggers has in the value
        agrees      1 when rank is 0
        chance      the share of the layer's neurons whose top triggers would make it 1: the mean over all shuffles
        share       of all triggers, those followed by the value's first token
        confidence  softmax probability of that token
    """
    following = _following(found, text)
    neurons = torch.from_numpy(np.flatnonzero((found.value[0] > 0).numpy()))
    following, logits = following[:, neurons], logits[neurons]
    ranks = _ranks(logits, following)
    first, known = logits.argmax(-1), following >= 0
    agrees = ranks[0] == 0
    frequency = torch.bincount(following[0].clamp_min(0), weights=known[0].double(), minlength=logits.shape[1])
    columns = {
        "neuron": neurons,
        "next": following[0],
        "rank": ranks[0],
        "max_rank": torch.where(known, ranks, logits.shape[1]).amin(0),
        "agrees": agrees.double(),
        "chance": frequency[first] / max(1, len(neurons)),
        "share": ((following == first) & known).double().mean(0),
        "confidence": readings(logits).confidence,
    }
    return pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})


def calibration(table: pd.DataFrame, *, bins: int = 10) -> pd.DataFrame:
    """How often values agree with what follows their top trigger, by how confident they are (rows of `agreement`).

    Bins hold as many neurons each. Gives confidence (mean of the bin), agrees, chance, neurons. A calibrated value would agree as
    often as it is confident. Raises ConfigError for fewer neurons than bins.
    """
    if len(table) < bins:
        raise ConfigError(f"{len(table)} neurons cannot fill {bins} bins; use fewer bins")
    ranked = table.sort_values("confidence", kind="stable")[["confidence", "agrees", "chance"]]
    parts = [ranked.iloc[rows] for rows in np.array_split(np.arange(len(ranked)), bins)]
    return pd.DataFrame([part.mean().to_dict() | {"neurons": len(part)} for part in parts])


def _following(found: Triggers, text: LabelledText) -> Int[Tensor, "top neuron"]:
    """The token after each trigger, -1 for none and for a trigger that is not above 0."""
    document = found.document.numpy()
    row = text.first[document] + found.position.numpy() + 1
    there: Bool[np.ndarray, "top neuron"] = (row < text.first[document + 1]) & (found.value > 0).numpy()
    return torch.from_numpy(np.where(there, text.tokens[np.minimum(row, len(text.tokens) - 1)], -1).astype(np.int64))


def _ranks(logits: Float[Tensor, "neuron d_vocab"], tokens: Int[Tensor, "top neuron"]) -> Int[Tensor, "top neuron"]:
    """The place of each token in each neuron's order of logits, 0 the highest; -1 where the token is -1."""
    wanted = logits.T.gather(0, tokens.clamp_min(0))
    ranks = torch.stack([(logits > one[:, None]).sum(-1) for one in wanted])
    return torch.where(tokens >= 0, ranks, -1)
