"""What the routers of a mixture of experts decide: which experts every token goes to, how surely, and how evenly in all.

`decisions` gives them batch after batch; `usage` sums them up in one pass, with memory for sums by document, and tables are made
of the sums. What looks at single tokens (`specialists`) takes the decisions of a whole text, `joined`.

Must not know: figures, reports, tokenizers, how decisions are changed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Shaped
from scipy import sparse
from torch import Tensor

from interp import stats
from interp.errors import ConfigError, ModelError
from interp.models.hooked import Model
from interp.models.mixtures import mixtures
from interp.text.packing import TokenBatch


@dataclass(frozen=True)
class Decisions:
    """What every router of a model says of every token; row i of every tensor belongs to the same token.

    logits, weights: layer ("blocks.0.mlp") → what the router says, and the weights that the experts get: 0 for those not chosen.
    tokens: ids, -1 where the model is given vectors. document: index of the document, or of the row of a batch. position: of the
    token in it.
    """

    logits: dict[str, Float[Tensor, "row expert"]]
    weights: dict[str, Float[Tensor, "row expert"]]
    tokens: Int[Tensor, " row"]
    document: Int[Tensor, " row"]
    position: Int[Tensor, " row"]

    def __len__(self) -> int:
        return len(self.tokens)

    def chosen(self, layer: str) -> Bool[Tensor, "row expert"]:
        """Which experts work for each token."""
        return self.weights[layer] > 0

    def probabilities(self, layer: str) -> Float[Tensor, "row expert"]:
        """softmax(logits): the router's probabilities."""
        return self.logits[layer].softmax(-1)


def decided(model: Model, tokens: Shaped[Tensor, "batch pos *d_model"], **beside: Any) -> Decisions:
    """The decisions on some rows of tokens, each row a document. `beside` as `Model.run` takes it.

    Raises ModelError for a model without experts, and for an encoder–decoder, whose two stacks route different tokens.
    """
    rows, positions = torch.meshgrid(*(torch.arange(n) for n in tokens.shape[:2]), indexing="ij")
    ids = tokens if tokens.ndim == 2 else torch.full(tokens.shape[:2], -1)
    everywhere = torch.ones(tokens.shape[:2], dtype=torch.bool)
    return _decisions(model, tokens, beside, TokenBatch(ids, rows, positions, positions, positions, everywhere, ~everywhere))


def decisions(model: Model, batches: Iterable[TokenBatch]) -> Iterator[Decisions]:
    """The decisions on a text, batch by batch; BOS and padding are left out. Raises ModelError as `decided`."""
    for batch in batches:
        padded = model.kind != "decoder" and bool(batch.is_padding.any())
        yield _decisions(model, batch.tokens, {"attention_mask": batch.attention_mask} if padded else {}, batch)


def joined(parts: Iterable[Decisions]) -> Decisions:
    """The decisions of several batches as one: 8 bytes for every token, layer and expert.

    Raises ConfigError where there are none.
    """
    every = list(parts)
    if not every:
        raise ConfigError("there are no decisions to look at; give at least one batch")
    logits, weights = (
        {layer: torch.cat([getattr(part, name)[layer] for part in every]) for layer in every[0].logits}
        for name in ("logits", "weights")
    )
    places = (torch.cat([getattr(part, name) for part in every]) for name in ("tokens", "document", "position"))
    return Decisions(logits, weights, *places)


@dataclass(frozen=True)
class Usage:
    """Sums of decisions by document: what intervals need, and what shards can `merge`.

    document: which they are. rows: tokens of each. Of every layer: chosen (tokens that go to an expert), weight (of theirs),
    probability (of the router), entropy (of its probabilities, nats), margin (see `sureness`).
    """

    document: Int[np.ndarray, " document"]
    rows: Float[np.ndarray, " document"]
    chosen: dict[str, Float[np.ndarray, "document expert"]]
    weight: dict[str, Float[np.ndarray, "document expert"]]
    probability: dict[str, Float[np.ndarray, "document expert"]]
    entropy: dict[str, Float[np.ndarray, " document"]]
    margin: dict[str, Float[np.ndarray, " document"]]

    def merge(self, other: Usage) -> Usage:
        """The sums over both."""
        document, index = np.unique(np.concatenate([self.document, other.document]), return_inverse=True)

        def added(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
            return by_document(index, np.concatenate([mine, theirs]))

        layers = (
            {layer: added(values, getattr(other, name)[layer]) for layer, values in getattr(self, name).items()}
            for name in ("chosen", "weight", "probability", "entropy", "margin")
        )
        return Usage(document, added(self.rows, other.rows), *layers)


def usage(parts: Iterable[Decisions]) -> Usage:
    """Decisions summed up, in one pass. Raises ConfigError where there are none."""
    sums = (_sums(part) for part in parts)
    if (first := next(sums, None)) is None:
        raise ConfigError("there are no decisions to look at; give at least one batch")
    return reduce(Usage.merge, sums, first)


def load(found: Usage, *, seed: int = 0) -> pd.DataFrame:
    """How much every expert works, one row for each: columns

    layer, expert
    share, share_low, share_high   of the tokens, those that go to it; interval over documents
    load            its part of all choices, in units of an even part: 1 where all experts have as much
    weight          mean weight over its own tokens, NaN where it has none
    probability     mean of the router's over all tokens
    """
    parts = []
    for layer, chosen in found.chosen.items():
        share, low, high = interval(chosen, found.rows, seed=seed)
        tokens = chosen.sum(0)
        columns = {"layer": layer, "expert": np.arange(len(share)), "share": share, "share_low": low, "share_high": high}
        with np.errstate(invalid="ignore"):
            weight = found.weight[layer].sum(0) / tokens
        probability = found.probability[layer].sum(0) / found.rows.sum()
        parts.append(columns | {"load": tokens / tokens.mean(), "weight": weight, "probability": probability})
    return pd.concat([pd.DataFrame(part) for part in parts], ignore_index=True)


def sureness(found: Usage, *, seed: int = 0) -> pd.DataFrame:
    """How sure the router of every layer is, and how even: columns layer,

    entropy, entropy_low, entropy_high   of its probabilities, nats: ln(experts) where it cannot tell; mean over tokens
    margin, margin_low, margin_high      logit of the last expert chosen less that of the first left out, NaN if none is
    balance         n Σ_e f_e P_e, 1 for an even load (Fedus et al. 2021, arXiv:2101.03961, eq. 4; `experts.balance_loss`)
    """
    rows = []
    for layer, chosen in found.chosen.items():
        row: dict[str, Any] = {"layer": layer}
        for name, sums in (("entropy", found.entropy[layer]), ("margin", found.margin[layer])):
            value, low, high = (float(each[0]) for each in interval(sums[:, None], found.rows, seed=seed))
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        shares, probability = chosen.sum(0) / chosen.sum(), found.probability[layer].sum(0) / found.rows.sum()
        rows.append(row | {"balance": float(chosen.shape[1] * (shares * probability).sum())})
    return pd.DataFrame(rows)


def by_document(
    index: Int[np.ndarray, " row"], values: Float[np.ndarray, "row *column"]
) -> Float[np.ndarray, "document *column"]:
    """Sums of rows that belong to the same document, by its number from 0."""
    summing = sparse.csr_array((np.ones(len(index)), (index, np.arange(len(index)))))
    return summing @ values.astype(np.float64)


def interval(
    above: Float[np.ndarray, "document column"],
    below: Float[np.ndarray, "document #column"] | Float[np.ndarray, " document"],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Float[np.ndarray, " column"], Float[np.ndarray, " column"], Float[np.ndarray, " column"]]:
    """Σ above / Σ below of every column, with the ends of its 95 % interval: `stats.ratio` of many columns, whose documents are
    resampled together."""
    below = below[:, None] if below.ndim == 1 else below
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, about a column that has no number at all
        value = above.sum(0) / below.sum(0)
        if len(above) == 1:
            return value, np.full_like(value, -np.inf), np.full_like(value, np.inf)
        rng = stats.generator(seed, "documents")
        often = (np.bincount(rng.integers(len(above), size=len(above)), minlength=len(above)) for _ in range(resamples))
        draws = np.stack([(times @ above) / (times @ below) for times in (each.astype(np.float64) for each in often)])
        ends = np.nanquantile(draws, [0.025, 0.975], axis=0).reshape(2, -1)
    return value, ends[0], ends[1]


def _decisions(model: Model, inputs: Tensor, beside: dict[str, Any], places: TokenBatch) -> Decisions:
    layers = mixtures(model)
    if model.kind == "encoder-decoder":
        raise ModelError(
            f"{model.name} is an encoder-decoder, whose stacks route different tokens; read the hooks of mixtures(model) instead"
        )
    run = model.run(inputs, read=[hook for layer in layers.values() for hook in layer.reads], **beside)
    kept = places.is_text.flatten()
    logits, weights = {}, {}
    for name, layer in layers.items():
        both = (each.float().cpu().reshape(-1, layer.experts)[kept] for each in layer.decided(run.activations))
        logits[name], weights[name] = both
    return Decisions(logits, weights, *(each.flatten()[kept] for each in (places.tokens, places.document, places.position)))


def _sums(part: Decisions) -> Usage:
    document, index = np.unique(part.document.numpy(), return_inverse=True)

    def summed(values: Tensor) -> np.ndarray:
        return by_document(index, values.double().numpy())

    sums: dict[str, dict[str, np.ndarray]] = {name: {} for name in ("chosen", "weight", "probability", "entropy", "margin")}
    for layer, logits in part.logits.items():
        chosen, probability = part.chosen(layer), part.probabilities(layer)
        left_out = logits.masked_fill(chosen, -torch.inf).amax(-1)
        margin = logits.masked_fill(~chosen, torch.inf).amin(-1) - left_out
        of_each = {
            "chosen": chosen,
            "weight": part.weights[layer],
            "probability": probability,
            "entropy": -(probability * logits.log_softmax(-1)).sum(-1),
            "margin": margin.where(margin.isfinite(), torch.nan),
        }
        for name, values in of_each.items():
            sums[name][layer] = summed(values)
    return Usage(document, by_document(index, np.ones(len(index))), **sums)
