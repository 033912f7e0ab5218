"""Sub-updates: what each active memory adds to each token's logit at a position (Geva et al. 2022, arXiv:2203.14680), how a
layer's prediction comes of them, and what scaling some of them does.

With the final norm's scale σ as it was in that run, memory i adds mᵢ (vᵢ F)_w / σ to the logit of token w, where F folds the
norm into the unembedding (`models.norms`). The sum over memories and bias is what the MLP added, exactly. Logits are those
before a soft cap, where a model has one.

Must not know: figures, reports, corpora.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from interp.errors import ModelError
from interp.measurement import Measurement
from interp.mlp.memories import layers, memories, require_layer, require_neurons, require_one_mlp, source
from interp.mlp.readout import logits_of, readout, scale_of
from interp.mlp.values import value_logits
from interp.models.hooked import Edit, Model
from interp.models.norms import read_alone

CASES = ("residual", "agreement", "mlp", "composition")
"""Where the prediction after a layer comes from: see `composition`."""


@dataclass(frozen=True)
class SubUpdates:
    """What the memories of one layer add to the logits of some texts.

    coefficient: m of every memory. values, bias: of the layer. unembedding: F, the final norm folded in. scale: σ, 1 for models
    without norms.
    """

    coefficient: Float[Tensor, "batch pos neuron"]
    values: Float[Tensor, "neuron d_model"]
    bias: Float[Tensor, " d_model"]
    unembedding: Float[Tensor, "d_model d_vocab"]
    scale: Float[Tensor, "batch pos"]

    def logits(self, row: int, pos: int, neurons: Sequence[int] | Tensor) -> Float[Tensor, "chosen d_vocab"]:
        """What some memories add to every token's logit at one position."""
        chosen = torch.as_tensor(neurons, dtype=torch.long)
        written = self.coefficient[row, pos, chosen][:, None] * self.values[chosen]
        return written @ self.unembedding / self.scale[row, pos]

    def total(self, row: int, pos: int) -> Float[Tensor, " d_vocab"]:
        """What the whole MLP adds to every token's logit at one position: all memories and the bias."""
        return (self.coefficient[row, pos] @ self.values + self.bias) @ self.unembedding / self.scale[row, pos]

    def lengths(self, row: int, pos: int) -> Float[Tensor, " neuron"]:
        """|m|‖v‖ of every memory at one position: how much of the residual stream it writes."""
        return self.coefficient[row, pos].abs() * self.values.norm(dim=1)

    def ranked(self, row: int, pos: int) -> Int[Tensor, " neuron"]:
        """The memories by their `lengths`, largest first."""
        return self.lengths(row, pos).argsort(descending=True, stable=True)

    def table(self, row: int, pos: int, vocabulary: Sequence[str], *, memories: int = 10, tokens: int = 5) -> pd.DataFrame:
        """The memories that add most at one position, and the tokens they promote and suppress most there.

        Columns neuron, coefficient, length (|m|‖v‖), share (of the summed lengths), promoted, suppressed.
        """
        chosen = self.ranked(row, pos)[:memories]
        added, lengths = self.logits(row, pos, chosen), self.lengths(row, pos)
        rows = [
            {
                "neuron": int(neuron),
                "coefficient": float(self.coefficient[row, pos, neuron]),
                "length": float(lengths[neuron]),
                "share": float(lengths[neuron] / lengths.sum()),
                "promoted": _words(logits, vocabulary, tokens),
                "suppressed": _words(-logits, vocabulary, tokens),
            }
            for neuron, logits in zip(chosen, added, strict=True)
        ]
        return pd.DataFrame(rows)


def sub_updates(
    model: Model, tokens: Int[Tensor, "batch _"], layer: int, *, stack: str | None = None, **beside: Any
) -> SubUpdates:
    """Runs the model and takes one layer's contribution to the logits apart.

    beside: what the model takes beside the tokens; an encoder–decoder, whose decoder's positions these are, decoder_input.

    Raises ModelError for a layer without MLP, for logits that are more than final norm and unembedding, and for an MLP whose
    output is changed on its way into the residual stream (as by a norm behind it).
    """
    held, made = memories(model, layer, stack=stack), source(model, layer, stack=stack)
    added, read = f"{require_layer(model, layer, stack=stack)}.hook_mlp_out", readout(model, stack=stack)
    last = f"{require_layer(model, layers(model, stack)[-1], stack=stack)}.hook_resid_post"
    run = model.run(tokens, read=[made.hook, added, last], **beside)
    coefficient = made.activations(run.activations[made.hook]).float()
    bias = torch.zeros_like(held.values[0]) if held.bias is None else held.bias
    output = run.activations[added].float()
    if not torch.allclose(coefficient @ held.values + bias, output, rtol=1e-3, atol=1e-4 * float(output.abs().max())):
        raise ModelError(
            f"{model.name} changes what the MLP of layer {layer} writes before it is added; sub-updates do not sum up"
        )
    return SubUpdates(coefficient, held.values, bias, read.matrix, scale_of(model, read, run.activations[last]).float())


def composition(
    model: Model, tokens: Int[Tensor, "batch _"], where: Bool[Tensor, "batch pos"], *, stack: str | None = None, **beside: Any
) -> Measurement:
    """How each layer's prediction comes about (Geva et al. 2021, section 5): Measurement(property, layer, example), 0 or 1.

    An example is a position in `where`, row by row. With "prediction" for the first token that a part of the stream says
    through the final norm and the unembedding::

        saturated    the stream before the layer's MLP predicts what the model predicts in the end
        intersects   what the MLP writes predicts the first token of one of its active memories (m > 0)
        residual     the stream predicts the same after the MLP as before, and the MLP something else
        agreement    all three predict the same
        mlp          the stream after predicts what the MLP does, and did not before
        composition  the stream after predicts what neither said

    The last four exclude each other and cover all. `beside` as in `sub_updates`, and ModelError as there.
    """
    there, read = layers(model, stack), readout(model, stack=stack)
    sources = [source(model, layer, stack=stack) for layer in there]
    blocks = [require_layer(model, layer, stack=stack) for layer in there]
    points = [
        (each.hook, f"{block}.hook_mlp_out", f"{block}.hook_resid_post") for block, each in zip(blocks, sources, strict=True)
    ]
    run = model.run(tokens, read=[hook for each in points for hook in each], logits=True, **beside)
    final = run.logits[where].argmax(-1)
    values = np.empty((2 + len(CASES), len(there), len(final)))
    for layer, (made, names) in enumerate(zip(sources, points, strict=True)):
        seen, written, after = (run.activations[name][where] for name in names)
        firsts = value_logits(model, layer, stack=stack).argmax(-1)
        own = (read_alone(model, written) @ read.matrix.to(written)).argmax(-1)  # as `value_logits` reads values
        before, now = (logits_of(model, read, residual).argmax(-1) for residual in (after - written, after))
        intersects = ((firsts == own[:, None]) & (made.activations(seen) > 0)).any(-1)
        cases = [
            (now == before) & (now != own),
            (now == before) & (now == own),
            (now != before) & (now == own),
            (now != before) & (now != own),
        ]
        values[:, layer] = torch.stack([before == final, intersects, *cases]).cpu().numpy()
    names = ("saturated", "intersects", *CASES)
    return Measurement("composition", values, ("property", "layer", "example"), coords={"property": names})


def scaled(model: Model, neurons: Sequence[tuple[int, int]], factor: float, *, stack: str | None = None) -> list[Edit]:
    """Edits that multiply the coefficients of some neurons, (layer, neuron), at every position: 0 takes their values out.

    Raises ModelError for neurons that are not there, and for mixtures of experts, whose neurons have no hook of their own.
    """
    edits = []
    for layer in sorted({layer for layer, _ in neurons}):
        block, chosen = require_one_mlp(model, layer, stack=stack), [neuron for each, neuron in neurons if each == layer]
        require_neurons(model, layer, chosen, stack=stack)
        edits.append(Edit(f"{block}.mlp.hook_post", _multiplied(chosen, factor)))
    return edits


@dataclass(frozen=True)
class Steering:
    """What an intervention does where it should, and where it should not.

    effect: change of the target token's log probability, nats, at each of the places meant. side: KL(before ‖ after), nats, at
    each of all other places.
    """

    effect: Float[Tensor, " place"]
    side: Float[Tensor, " other"]


def steering(
    model: Model,
    tokens: Int[Tensor, "batch _"],
    edits: Sequence[Edit],
    *,
    target: int,
    meant: Bool[Tensor, "batch pos"],
    others: Bool[Tensor, "batch pos"],
    **beside: Any,
) -> Steering:
    """The effect of edits on one token at some positions of the logits, and the side effects at others."""
    before, after = (model.run(tokens, edits=each, **beside).logits.log_softmax(-1) for each in ((), edits))
    kl = F.kl_div(after[others], before[others], log_target=True, reduction="none").sum(-1)
    return Steering((after - before)[meant][:, target], kl)


def _multiplied(chosen: list[int], factor: float):
    def apply(values: Tensor) -> Tensor:
        values[..., chosen] *= factor
        return values

    return apply


def _words(logits: Float[Tensor, " d_vocab"], vocabulary: Sequence[str], n: int) -> str:
    return " ".join(f"{vocabulary[int(token)]!r}" for token in logits.topk(n).indices)
