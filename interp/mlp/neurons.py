"""Neurons as key–value memories (Geva et al. 2021, arXiv:2012.14913): what fires each one, how often, and what it writes.

Keys are read from a stream of activations in one pass, in memory of neurons × top whatever the length of the corpus.
Values are read from the weights alone.

Must not know: figures, reports, tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.batch import ActivationBatch
from interp.errors import ConfigError, ModelError
from interp.measurement import Measurement
from interp.models.hooked import Model
from interp.models.norms import folded, read_alone
from interp.streaming import Density, TopK


@dataclass(frozen=True)
class Triggers:
    """What fires the neurons of one hook: the `top` strongest examples of each, strongest first, and how often it fires.

    An example is a token, found again by its document and its index in it; the trigger is the text up to that token.
    density: share of tokens with an activation above 0. rows: tokens seen.
    """

    value: Float[Tensor, "top neuron"]
    token: Int[Tensor, "top neuron"]
    document: Int[Tensor, "top neuron"]
    position: Int[Tensor, "top neuron"]
    density: Float[Tensor, " neuron"]
    rows: int


class _Gathering:
    """The running state behind one hook's Triggers: TopK keeps row ids, `places` what those rows were."""

    def __init__(self, top: int) -> None:
        self.strongest, self.density, self.rows = TopK(top), Density(), 0
        self.places = torch.empty(0, 4, dtype=torch.long)  # id, token, document, position; ids ascending

    def update(self, activations: Float[Tensor, "row neuron"], batch: ActivationBatch) -> None:
        ids = torch.arange(self.rows, self.rows + len(batch))
        self.rows += len(batch)
        self.density.update(activations)
        kept = self.strongest.update(activations, ids.to(activations.device)).compute().ids.unique().cpu()
        fresh = torch.stack([ids, *(column.cpu().long() for column in (batch.tokens, batch.document, batch.position))], dim=1)
        known = torch.cat([self.places, fresh])
        self.places = known[torch.isin(known[:, 0], kept, assume_unique=True)]

    def finished(self) -> Triggers:
        top = self.strongest.compute()
        found = self.places[torch.searchsorted(self.places[:, 0].contiguous(), top.ids.cpu())]
        return Triggers(top.values.cpu(), *found[..., 1:].unbind(-1), density=self.density.compute().cpu(), rows=self.rows)


def triggers(batches: Iterable[ActivationBatch], *, top: int = 25) -> dict[str, Triggers]:
    """Top trigger examples and firing density of every neuron, in one pass: hook -> Triggers.

    batches: activations of `blocks.l.mlp.hook_post` (any hooks: a column is a neuron), from a harvest or a store.

    Raises ConfigError when there are none.
    """
    gathered: dict[str, _Gathering] = {}
    for batch in batches:
        for hook, activations in batch.activations.items():
            gathered.setdefault(hook, _Gathering(top)).update(activations, batch)
    if not gathered:
        raise ConfigError("triggers got no activations; give at least one batch")
    return {hook: state.finished() for hook, state in gathered.items()}


def value_logits(model: Model, layer: int) -> Float[Tensor, "neuron d_vocab"]:
    """What each value vector alone says about the next token: v through the final norm and the unembedding.

    v is normalised as if it stood alone in the residual stream, so readings of long and short values compare; biases are
    left out, since they are the same for every neuron, and the mean over the vocabulary too, since the softmax ignores it.
    """
    values = read_alone(model, _weight(model, layer, "W_out"))
    logits = values @ folded(model, "ln_final", model.W_U.detach().float())
    return logits - logits.mean(-1, keepdim=True)


def value_tokens(model: Model, layer: int, *, top: int = 10) -> tuple[Int[Tensor, "neuron top"], Int[Tensor, "neuron top"]]:
    """The tokens that each neuron of a layer promotes and suppresses most, strongest first, by `value_logits`."""
    logits = value_logits(model, layer)
    return logits.topk(top, dim=1).indices, (-logits).topk(top, dim=1).indices


def in_out_cosine(model: Model) -> Measurement:
    """cos(kᵢ, vᵢ) of every neuron: Measurement(layer, neuron).

    1 writes along what it reads, −1 erases it; unrelated directions have a standard deviation of 1/√d_model. The key kᵢ
    is the column of W_in with the gain of the norm before it folded in and, for layer norm, the mean taken out.
    """
    rows = []
    for layer in range(model.n_layers):
        keys = folded(model, f"blocks.{layer}.ln2", _weight(model, layer, "W_in")).T
        rows.append(torch.cosine_similarity(keys, _weight(model, layer, "W_out"), dim=1))
    return Measurement("in_out_cosine", torch.stack(rows).cpu().numpy(), ("layer", "neuron"))


def _weight(model: Model, layer: int, name: str) -> Tensor:
    if model.d_mlp is None or model.bridge.cfg.attn_only:
        raise ModelError(f"{model.name} has no MLPs, so no neurons to read; give a model with MLPs")
    return model.weight(f"blocks.{layer}.mlp.{name}").detach().float()
