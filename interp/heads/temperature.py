"""How sharp attention is, and what a head loses when it is heated.

A pattern is a softmax of scores, p = softmax(s). At temperature T it is

    p_T = softmax(s / T) ∝ p^(1/T)

so the pattern itself tells all that follows, whatever made the scores: their scale, positions, a mask (a weight of 0 stays 0).
Edits act on the pattern too, which every attention with a softmax has. With β = 1/T, H = −Σ p ln p and v = Var_p(s),

    dH/dβ = −β v,   dH/dT = v / T³          entropy never falls with temperature
    ∂p/∂s = (diag(p) − p pᵀ) / T            what reaches queries and keys when a model learns

T → 0 takes the best key, T → ∞ all keys alike. What floating point rounds to a weight of 0 (in float32, scores more than about
100 below the best) is lost: heating does not bring it back.

Must not know: figures, reports, where tokens come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError, ModelError
from interp.heads.ablation import Head
from interp.heads.patterns import Attention, attention_of
from interp.heads.targets import Sight
from interp.measurement import Measurement
from interp.models.hooked import Edit, Model

Ask = Callable[[Sequence[Edit]], Measurement]
"""What a model does under some edits, one number per example: `lambda edits: ablation.loss(model, tokens, edits=edits)`."""

DIMS = ("layer", "head", "example")


# ---- of a pattern ----


def tempered(pattern: Float[Tensor, "*rows key"], temperature: float) -> Float[Tensor, "*rows key"]:
    """p^(1/T) / Σ p^(1/T): the pattern of the same scores divided by T.

    Raises ConfigError unless the temperature is above 0 and finite.
    """
    _require_positive([temperature])
    return (pattern.double().log() / temperature).softmax(-1).to(pattern.dtype)


def entropy(pattern: Float[Tensor, "*rows key"]) -> Float[Tensor, "*rows"]:
    """H = −Σ p ln p, in nats."""
    return torch.special.entr(pattern).sum(-1)


def score_variance(pattern: Float[Tensor, "*rows key"]) -> Float[Tensor, "*rows"]:
    """Var_p(s), the variance of the scores under their own softmax: how fast entropy grows with ln T, at T = 1."""
    surprise = torch.where(pattern > 0, pattern.log(), 0.0)
    return (pattern * (surprise + entropy(pattern)[..., None]).square()).sum(-1)


def score_spread(pattern: Float[Tensor, "*rows key"], visible: Bool[Tensor, "*#rows key"]) -> Float[Tensor, "*rows"]:
    """Standard deviation of the scores over the visible keys, each counted once. Its inverse is the effective temperature:
    the T at which scores of standard deviation 1 would be as sharp."""
    scores = pattern.clamp_min(torch.finfo(pattern.dtype).tiny).log()
    n = visible.sum(-1, keepdim=True)
    mean = torch.where(visible, scores, 0.0).sum(-1, keepdim=True) / n
    return (torch.where(visible, scores - mean, 0.0).square().sum(-1) / n[..., 0]).sqrt()


def jacobian_norm(pattern: Float[Tensor, "*rows key"]) -> Float[Tensor, "*rows"]:
    """‖diag(p) − p pᵀ‖_F = √(Σp² − 2Σp³ + (Σp²)²), the Frobenius norm of ∂p/∂s; near 0 the softmax is saturated."""
    squares = pattern.square().sum(-1)
    return (squares - 2 * pattern.pow(3).sum(-1) + squares.square()).clamp_min(0).sqrt()


# ---- of the heads of a model ----


def sharpness(
    model: Model, tokens: Int[Tensor, "example pos"], *, attention: str = "self", batch: int = 32, **beside: Any
) -> dict[str, Measurement]:
    """How sharp every head is, averaged over queries that see two keys or more: measure -> Measurement(layer, head, example).

    keys        e^H, as many keys as evenly spread attention of this entropy has
    evenness    H / ln n over n visible keys: 0 one key, 1 all alike
    spread      of the scores in nats, as `score_spread`
    jacobian    as `jacobian_norm`: 0 saturated, ½ at the most

    attention, batch, beside: as `patterns.scores`. Raises ModelError for tokens of which no query sees two keys.
    """
    looked = attention_of(model, attention)
    found: dict[str, list[list[Tensor]]] = {name: [] for name in _MEASURES}
    for layers, sight in _patterns(model, tokens, looked, batch, beside):
        for name, (measure, _) in _MEASURES.items():
            found[name].append([_over_queries(measure, pattern, sight.visible) for pattern in layers])
    return {name: _measured(name, found[name], looked, unit) for name, (_, unit) in _MEASURES.items()}


def entropies(
    model: Model,
    tokens: Int[Tensor, "example pos"],
    temperatures: Sequence[float],
    *,
    attention: str = "self",
    batch: int = 32,
    **beside: Any,
) -> Measurement:
    """Entropy of every head were it alone heated: Measurement(temperature, layer, head, example), nats, mean over queries.

    Found from one run, since what one head reads does not depend on its own temperature. Raises as `tempered`.
    """
    _require_positive(temperatures)
    looked = attention_of(model, attention)
    rows = [
        [[entropy(tempered(pattern, heat)).mean(-1) for pattern in layers] for heat in temperatures]
        for layers, _ in _patterns(model, tokens, looked, batch, beside)
    ]
    each = [_measured("entropy", [part[place] for part in rows], looked, "nats") for place in range(len(temperatures))]
    coords: dict[str, Sequence[Any]] = {"temperature": list(temperatures), **each[0].coords}
    return Measurement("entropy", np.stack([one.values for one in each]), ("temperature", *DIMS), coords, "nats")


# ---- heating ----


def heated(model: Model, temperature: float, heads: Iterable[Head] | None = None, *, attention: str = "self") -> list[Edit]:
    """Edits that give heads (layer, head) a temperature; all heads of the attention without `heads`. 1 changes nothing.

    Raises ConfigError unless the temperature is above 0 and finite, ModelError for a head that the model does not have and for
    a model that shows no pattern.
    """
    _require_positive([temperature])
    looked = attention_of(model, attention)
    chosen = sorted(set(_every(model, looked) if heads is None else heads))
    _require_heads(model, looked, chosen)
    by_layer = {layer: [head for at, head in chosen if at == layer] for layer, _ in chosen}
    return [
        Edit(f"{looked.paths[layer]}.hook_pattern", partial(_heat, heads=which, temperature=temperature))
        for layer, which in by_layer.items()
    ]


def sweep(
    model: Model,
    ask: Ask,
    temperatures: Sequence[float],
    heads: Iterable[Head] | None = None,
    *,
    attention: str = "self",
) -> Measurement:
    """What `ask` gives when the heads have each temperature: Measurement(temperature, example). Raises as `heated`."""
    _require_positive(temperatures)
    chosen = None if heads is None else list(heads)
    found = [ask(heated(model, heat, chosen, attention=attention)) for heat in temperatures]
    values = np.stack([each.values for each in found])
    return Measurement(found[0].name, values, ("temperature", "example"), {"temperature": list(temperatures)}, found[0].unit)


def costs(model: Model, ask: Ask, *, temperature: float = 2.0, attention: str = "self") -> Measurement:
    """What heating each head alone adds to what `ask` gives: Measurement(layer, head, example). Raises as `heated`.

    With a loss, the heads that need to be sharp stand out. One run of `ask` for every head.
    """
    looked, plain = attention_of(model, attention), ask([])
    added = [ask(heated(model, temperature, [head], attention=attention)).values - plain.values for head in _every(model, looked)]
    values = np.stack(added).reshape(len(looked.paths), model.n_heads, -1)
    return Measurement("cost", values, DIMS, {"layer": list(looked.paths)}, plain.unit)


def _heat(pattern: Float[Tensor, "batch head query key"], *, heads: list[int], temperature: float) -> Tensor:
    pattern[:, heads] = tempered(pattern[:, heads], temperature)
    return pattern


def _every(model: Model, looked: Attention) -> list[Head]:
    return [(layer, head) for layer in looked.paths for head in range(model.n_heads)]


def _evenness(pattern: Float[Tensor, "*rows key"], visible: Bool[Tensor, "*#rows key"]) -> Float[Tensor, "*rows"]:
    return entropy(pattern) / visible.sum(-1).log()


_Of = Callable[[Tensor, Tensor], Tensor]  # (pattern [batch head query key], visible [batch 1 query key]) -> [batch head query]
_MEASURES: dict[str, tuple[_Of, str]] = {
    "keys": (lambda pattern, _: entropy(pattern).exp(), "keys"),
    "evenness": (_evenness, ""),
    "spread": (score_spread, "nats"),
    "jacobian": (lambda pattern, _: jacobian_norm(pattern), ""),
}


def _over_queries(
    measure: _Of, pattern: Float[Tensor, "batch head query key"], visible: Bool[Tensor, "query key"]
) -> Float[Tensor, "batch head"]:
    """The mean over queries that see two keys or more. A key that nobody gives any weight is padding."""
    seen = visible & (pattern > 0).any(2, keepdim=True).any(1, keepdim=True)
    choosing = seen.sum(-1) > 1
    if not choosing.any(-1).all():
        raise ModelError("an example has no query that sees two keys, so nothing to be sharp about; give longer rows")
    return torch.where(choosing, measure(pattern, seen), 0.0).sum(-1) / choosing.sum(-1)


def _patterns(
    model: Model, tokens: Int[Tensor, "example pos"], looked: Attention, batch: int, beside: dict[str, Any]
) -> Iterator[tuple[list[Tensor], Sight]]:
    """Patterns of every layer in double precision, one batch of examples at a time, and who sees whom."""
    hooks = [f"{path}.hook_pattern" for path in looked.paths.values()]
    for rows in torch.arange(len(tokens)).split(batch):
        part = {name: value[rows] for name, value in beside.items()}
        run = model.run(tokens[rows], read=hooks, **part)
        yield [run.activations[hook].double() for hook in hooks], looked.sight(tokens[rows].to(model.device), part)


def _measured(name: str, rows: list[list[Tensor]], looked: Attention, unit: str) -> Measurement:
    values = torch.cat([torch.stack(layers) for layers in rows], 1).transpose(1, 2).cpu().numpy()
    return Measurement(name, values, DIMS, {"layer": list(looked.paths)}, unit)


def _require_positive(temperatures: Sequence[float]) -> None:
    if not len(temperatures):
        raise ConfigError("no temperature; give one or more above 0, such as 2.0")
    wrong = [f"{heat:g}" for heat in temperatures if not 0 < heat < float("inf")]
    if wrong:
        raise ConfigError(f"temperature {', '.join(wrong)} divides no score; give finite ones above 0, such as 2.0")


def _require_heads(model: Model, looked: Attention, heads: Sequence[Head]) -> None:
    missing = [head for head in heads if head[0] not in looked.paths or not 0 <= head[1] < model.n_heads]
    if missing:
        layers = f"layers {min(looked.paths)}–{max(looked.paths)} of heads 0–{model.n_heads - 1}"
        raise ModelError(
            f"{model.name} has no head {', '.join(map(str, missing))} in its {looked.name} attention; it has {layers}"
        )
