"""What experts do, asked by taking them away: edits of one layer's decisions, and what each costs every example.

    silenced      the expert writes nothing: its weight is 0 and those of the others stay
    left_out      the router cannot choose it: its logit is as low as a number can be, so the next one takes its place and the
                  model's own rule makes the weights
    averaged      what it adds is what it adds to its tokens in the mean
    sent          tokens go to one expert alone, with all the weight that their own experts had

Silence says what an expert adds; leaving it out says what the model loses when another must do the work.

Must not know: figures, reports, tokenizers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from interp.errors import ConfigError, ModelError
from interp.measurement import Measurement
from interp.models.hooked import Edit, Model
from interp.models.mixtures import Mixture, mixture, mixtures

Metric = Callable[[Tensor, Tensor], Tensor]
"""Logits [row pos d_vocab] and the examples of those rows to a number for every position, [row pos], or for the first of them."""
Ablation = Callable[[Model, str, Sequence[int]], list[Edit]]
"""Model, layer, experts → edits: `silenced`, `left_out`, or a partial of the others."""


def silenced(model: Model, layer: str, experts: Sequence[int]) -> list[Edit]:
    """Edits under which experts of a layer ("blocks.0.mlp") write nothing, and the others what they wrote.

    Raises ModelError for a layer without experts and for experts that it does not have; so do all edits here.
    """
    place = _place(model, layer, experts)
    return place.rerouted(lambda logits, weights: _without(weights, experts, 0.0))


def left_out(model: Model, layer: str, experts: Sequence[int]) -> list[Edit]:
    """Edits under which the router chooses among the other experts only.

    Where a model does not make the weights of the chosen sum to 1, those of all tokens grow a little: the softmax is over fewer
    experts. Raises ModelError also where none is left.
    """
    place = _place(model, layer, experts)
    if len({*experts}) >= place.experts:
        raise ModelError(f"all {place.experts} experts of {layer} are left out; leave at least one in")
    return place.rerouted(lambda logits, weights: place.weigh(_without(logits, experts, torch.finfo(logits.dtype).min)))


def averaged(model: Model, layer: str, experts: Sequence[int], *, means: Float[Tensor, "expert d_model"]) -> list[Edit]:
    """Edits under which experts add their mean (`mean_contributions`) wherever they are chosen."""
    place = _place(model, layer, experts)
    if len(means) != place.experts:
        raise ModelError(f"{len(means)} means for the {place.experts} experts of {layer}; give those of mean_contributions")
    kept = torch.zeros_like(means)
    kept[list(experts)] = means[list(experts)]

    def added(weights: Tensor) -> Tensor:
        return (weights > 0).to(weights) @ kept.to(weights)

    return place.rerouted(lambda logits, weights: _without(weights, experts, 0.0), added=added)


def sent(model: Model, layer: str, expert: int, *, where: Bool[Tensor, "batch pos"] | None = None) -> list[Edit]:
    """Edits under which the tokens marked in `where`, or all, go to one expert, with the sum of the weights that they had.

    `where` fits runs of those rows. Raises ModelError, when used, for marks that do not.
    """
    place = _place(model, layer, [expert])

    def change(logits: Tensor, weights: Tensor) -> Tensor:
        there = torch.zeros_like(weights)
        there[..., expert] = weights.sum(-1)
        if where is None:
            return there
        if where.numel() != weights[..., 0].numel():
            raise ModelError(f"{list(where.shape)} tokens are marked or not, but {weights[..., 0].numel()} come to {layer}")
        return there.where(where.to(weights.device).reshape(weights.shape[:-1])[..., None], weights)

    return place.rerouted(change)


def mean_contributions(
    model: Model, tokens: Shaped[Tensor, "example pos *d_model"], layer: str, **beside: Any
) -> Float[Tensor, "expert d_model"]:
    """What every expert adds to its own tokens, weight included, in the mean; 0 for one that has none.

    By what its silence takes away from what the layer writes.
    """
    place = mixture(model, layer)
    run = model.run(tokens, read=[*place.reads, place.out], **beside).activations
    chosen = (place.decided(run)[1] > 0).reshape(-1, place.experts)
    means = []
    for expert in range(place.experts):
        without = model.run(tokens, read=[place.out], edits=silenced(model, layer, [expert]), **beside).activations
        added = (run[place.out] - without[place.out]).flatten(0, -2)
        means.append(added.sum(0) / chosen[:, expert].sum().clamp_min(1))
    return torch.stack(means)


@dataclass(frozen=True)
class Effects:
    """Metric with an expert ablated less metric without, for every example: Measurements(layer, expert, example).

    every: mean over the positions that the metric knows. own, others: over the positions whose token had been routed to the
    expert, and over the rest; NaN for examples without such positions. The silence of an expert reaches what it never saw through
    attention in later layers only: in the last layer `others` is 0.
    """

    every: Measurement
    own: Measurement
    others: Measurement


def surprise(logits: Float[Tensor, "row pos d_vocab"], tokens: Shaped[Tensor, "row pos"]) -> Float[Tensor, "row _"]:
    """−ln p(next token) at every position but the last, nats."""
    target = tokens[:, 1:].to(logits.device)
    return torch.nn.functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), target, reduction="none")


def effects(
    model: Model,
    tokens: Shaped[Tensor, "example pos *d_model"],
    *,
    metric: Metric = surprise,
    ablation: Ablation = silenced,
    unit: str = "nats",
    batch: int = 32,
) -> Effects:
    """What taking away each expert of each layer does, one at a time: layers × experts passes.

    metric: of logits and examples, for every position: the loss of the next token without it. ablation: `silenced` or `left_out`.

    Raises ModelError for a model without experts or with two stacks, ConfigError for a metric that gives no number per position.
    """
    layers = mixtures(model)
    if model.kind == "encoder-decoder":
        raise ModelError(
            f"{model.name} is an encoder-decoder, whose experts work on other tokens than it has logits for; "
            "run it with the edits of silenced(…) and measure what you ask for"
        )
    parts = [_effects(model, rows, layers, metric, ablation) for rows in tokens.split(batch)]
    coords: dict[str, Sequence[Any]] = {"layer": list(layers)}
    every, own, others = (
        Measurement("expert effect", np.concatenate(each, -1), ("layer", "expert", "example"), coords, unit)
        for each in zip(*parts, strict=True)
    )
    return Effects(every, own, others)


def _effects(
    model: Model, rows: Tensor, layers: Mapping[str, Mixture], metric: Metric, ablation: Ablation
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every, of own and of other positions: [layer expert example] each; NaN also for experts that a layer has not."""
    run = model.run(rows, read=[hook for layer in layers.values() for hook in layer.reads], logits=True)
    before = _asked(metric, run.logits, rows)
    found = np.full((3, len(layers), max(layer.experts for layer in layers.values()), len(rows)), np.nan)
    for place, (name, layer) in enumerate(layers.items()):
        chosen = (layer.decided(run.activations)[1] > 0).reshape(*rows.shape[:2], -1)[:, : before.shape[1]].cpu()
        for expert in range(layer.experts):
            own = chosen[..., expert]
            change = _asked(metric, model.run(rows, edits=ablation(model, name, [expert])).logits, rows) - before
            for kind, counted in enumerate((torch.ones_like(own), own, ~own)):
                total, number = (change * counted).sum(1), counted.sum(1)
                found[kind, place, expert] = (total / number.where(number > 0, torch.nan)).numpy()
    return found[0], found[1], found[2]


def _asked(metric: Metric, logits: Tensor, rows: Tensor) -> Float[Tensor, "row pos"]:
    found = metric(logits, rows)
    if found.ndim != 2 or len(found) != len(rows) or not 1 <= found.shape[1] <= rows.shape[1]:
        raise ConfigError(
            f"the metric gives {list(found.shape)} for rows of {list(rows.shape[:2])} tokens; give a number for every position"
        )
    return found.double().cpu()


def _place(model: Model, layer: str, experts: Sequence[int]) -> Mixture:
    place = mixture(model, layer)
    wrong = [expert for expert in experts if not 0 <= expert < place.experts]
    if wrong or not len(experts):
        which = f"no expert {wrong[0]} in {layer}" if wrong else f"no expert of {layer} is named"
        raise ModelError(f"{which} of {model.name}; experts are 0 to {place.experts - 1}")
    return place


def _without(values: Float[Tensor, "*rows expert"], experts: Sequence[int], value: float) -> Float[Tensor, "*rows expert"]:
    changed = values.clone()
    changed[..., list(experts)] = value
    return changed
