"""Knowledge neurons (Dai et al. 2022, arXiv:2104.08696): which neurons hold a fact, and does it hang on them?

Attribution is by integrated gradients along the straight path from silence to what the neurons of a layer really do. Neurons
that answer to one wording only are dropped, and what is left is put to the test by silencing and doubling it.

Must not know: editing, figures, reports.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.measurement import Measurement
from interp.mlp import memories
from interp.mlp.memories import require_one_mlp
from interp.mlp.recall import answer_probability, asked_at, last_logits, probability, require_known
from interp.mlp.subupdates import SubUpdates, scaled
from interp.models.hooked import Edit, Model
from interp.tasks.facts import Prompts

Neuron = tuple[int, int]
"""(layer, neuron)."""


@dataclass(frozen=True)
class Attributions:
    """What each neuron adds to the probability of the answer, by integrated gradients.

    values: Measurement(example, layer, neuron). residual: Measurement(example, layer), how far the sum over a layer's neurons
    is from the change it should explain, P(as it is) − P(layer silent): the error of the numerical integral.
    """

    values: Measurement
    residual: Measurement


def attribute(
    model: Model,
    prompts: Prompts,
    *,
    at: Int[Tensor, " example"] | None = None,
    layers: Sequence[int] | None = None,
    steps: int = 20,
    stack: str | None = None,
    **beside: Any,
) -> Attributions:
    """Attr(w) = w ∫₀¹ ∂P(answer | αw)/∂w dα for the activations w of each layer's neurons at one position of each prompt.

    One layer at a time, all its neurons together, by the midpoint rule at α = (i + ½)/steps (Dai et al. take the right ends,
    whose error is of first order). at: the positions whose neurons are asked; the last one of each prompt without it, and of
    what the decoder is given for an encoder–decoder's decoder. beside: what the model takes beside the prompts (`mlp.recall`).

    Raises ModelError for a model without MLPs or with mixtures of experts, and for facts it does not know; ConfigError for no
    steps.
    """
    if steps < 1:
        raise ConfigError(f"steps={steps}: the integral needs 1 or more")
    layers = memories.layers(model, stack) if layers is None else layers
    blocks = [require_one_mlp(model, layer, stack=stack) for layer in layers]
    require_known(model, prompts, **beside)
    last = asked_at(prompts, beside) if stack == "decoder" else prompts.last
    values, residuals = [], []
    for block in blocks:
        attribution, explained = _integrate(model, prompts, f"{block}.mlp.hook_post", last if at is None else at, steps, beside)
        values.append(attribution)
        residuals.append(attribution.sum(-1) - explained)
    coords: dict[str, Sequence[Any]] = {"layer": list(layers)}
    return Attributions(
        Measurement("attribution", torch.stack(values, 1).numpy(), ("example", "layer", "neuron"), coords, unit="probability"),
        Measurement("residual", torch.stack(residuals, 1).numpy(), ("example", "layer"), coords, unit="probability"),
    )


def refine(
    attributions: Measurement, facts: Sequence[int], *, threshold: float = 0.2, share: float = 0.7
) -> dict[int, list[Neuron]]:
    """The knowledge neurons of every fact: those found under at least a share of its wordings, strongest first.

    attributions: Measurement(example, layer, neuron). facts: which fact each example asks for. A neuron is found under a
    wording when its attribution is at least `threshold` times the largest there. (Dai et al., section 3.3)
    """
    layers = attributions.coords.get("layer", range(attributions.values.shape[1]))
    seen: dict[int, Counter[tuple[int, int]]] = {fact: Counter() for fact in facts}
    strength: dict[int, dict[Neuron, float]] = {fact: {} for fact in facts}
    for fact, row in zip(facts, attributions.values, strict=True):
        for place in zip(*(row >= threshold * row.max()).nonzero(), strict=True):
            neuron = (int(layers[place[0]]), int(place[1]))
            seen[fact][neuron] += 1
            strength[fact][neuron] = strength[fact].get(neuron, 0.0) + float(row[place])
    wordings = Counter(facts)
    return {
        fact: [neuron for neuron in sorted(found, key=lambda each: -found[each]) if seen[fact][neuron] >= share * wordings[fact]]
        for fact, found in strength.items()
    }


def read_back(updates: SubUpdates, prompts: Prompts, *, top: int | None = None) -> Int[Tensor, " example"]:
    """The answer that one layer holds for each prompt: the token that its `top` longest sub-updates at the last position
    promote most together (all of them without `top`). With one, it is what the most active neuron stands for.

    updates: of the prompts' tokens. Neither the answers nor what the model finally says is looked at.
    """
    rows = torch.arange(len(prompts))
    coefficient = updates.coefficient[rows, prompts.last]
    if top is not None:
        longest = (coefficient.abs() * updates.values.norm(dim=1)).topk(top, dim=1).indices
        coefficient = torch.zeros_like(coefficient).scatter(1, longest, coefficient.gather(1, longest))
    return (coefficient @ updates.values @ updates.unembedding).argmax(-1).cpu()


def relative_change(
    model: Model, prompts: Prompts, neurons: Sequence[Neuron], *, factor: float, stack: str | None = None, **beside: Any
) -> Measurement:
    """(P after − P before) / P before of every answer when some neurons are multiplied: 0 silences them, 2 doubles them."""
    before = probability(model, prompts, **beside)
    after = probability(model, prompts, edits=scaled(model, neurons, factor, stack=stack), **beside)
    return Measurement("relative_change", ((after - before) / before).double().numpy(), ("example",))


def _integrate(
    model: Model, prompts: Prompts, hook: str, position: Int[Tensor, " example"], steps: int, beside: Mapping[str, Any]
) -> tuple[Float[Tensor, "example neuron"], Float[Tensor, " example"]]:
    """Attributions to the neurons at one hook, and what they should sum to."""
    rows = torch.arange(len(prompts))
    whole = model.run(prompts.tokens, read=[hook], **beside).activations[hook][rows, position]

    def at(share: float, *, grad: bool) -> tuple[Tensor, Tensor]:
        activation = (share * whole).requires_grad_(grad)

        def put(post: Tensor) -> Tensor:
            post[rows, position] = activation.to(post.dtype)
            return post

        logits = last_logits(model, prompts, edits=[Edit(hook, put)], grad=grad, **beside)
        return activation, answer_probability(logits, prompts)

    slopes = torch.zeros_like(whole, dtype=torch.float64)
    for step in range(steps):
        activation, answered = at((step + 0.5) / steps, grad=True)
        slopes += torch.autograd.grad(answered.sum(), activation)[0] / steps
    explained = at(1.0, grad=False)[1].double() - at(0.0, grad=False)[1].double()
    return (whole.double() * slopes).cpu(), explained.cpu()
