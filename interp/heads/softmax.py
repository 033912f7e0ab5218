"""The QK fix of AtP* (Kramár et al. 2024, arXiv:2403.00745, section 3.1): queries and keys through the exact softmax.

A softmax that is saturated has no gradient, so a linear estimate gives nothing to the query or key that would move it. Here
the pattern under the changed query or key is the model's own, and only what the pattern does later is linear:

    query i:  Σⱼ (p'ᵢⱼ − pᵢⱼ) ∂m/∂pᵢⱼ         key j:  Σᵢ (1 − 1/Zᵢⱼ) (∂m/∂pᵢⱼ − Σₖ pᵢₖ ∂m/∂pᵢₖ),   Zᵢⱼ = 1 + pᵢⱼ (e^Δsᵢⱼ − 1)

The second follows from the change Δs of one score in each row. One run with all queries changed, its patterns then put back as
they were, gives p' in every layer. Two runs with every other key changed give Z: the keys left alone tell how the softmax's
denominator grew. Nothing is supposed of how scores are made, so rotations, biases and grouped queries are all served.

Must not know: figures, reports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ModelError
from interp.heads.ablation import Values
from interp.heads.nodes import Site
from interp.models.hooked import Edit, Model
from interp.tasks.contrast import Contrast

Pattern: TypeAlias = Float[Tensor, "example head query key"]
Estimate = Callable[[Values], Float[Tensor, "node example pos"]]
"""From gradients at hooks to the effects of the nodes of one site."""

_MOVED = 1e-6
"""A change of attention that counts, beside rounding."""


def fixed(model: Model, contrast: Contrast, nodes: Sequence[Site], clean: Values, twins: Values) -> dict[str, Estimate]:
    """For the hook of every query and key among `nodes`, the estimate of what the twins' do there.

    clean, twins: activations at those hooks and at their patterns. Estimates read the gradients at the patterns.
    Raises ModelError where attention is so saturated that the run's precision does not tell what a key leaves behind.
    """
    estimates: dict[str, Estimate] = {}
    queries, keys = ([site for site in nodes if site.part == part] for part in ("q", "k"))
    if queries:
        changed = _patterns(model, contrast, queries, clean, {site.hook: twins[site.hook] for site in queries})
        estimates |= {site.hook: partial(_query_effects, site, clean[site.pattern], changed[site.pattern]) for site in queries}
    if keys:
        patterns = [_patterns(model, contrast, keys, clean, _every_other(keys, clean, twins, parity)) for parity in (0, 1)]
        for site in keys:
            z = _denominators(site.pattern, clean[site.pattern], *(each[site.pattern] for each in patterns))
            estimates[site.hook] = partial(_key_effects, site, clean[site.pattern], z)
    return estimates


def _patterns(model: Model, contrast: Contrast, nodes: Sequence[Site], clean: Values, put: Values) -> Values:
    """The pattern of every site when `put` stands at its hook and nothing before the attention is changed."""
    seen: dict[str, Tensor] = {}

    def keep(pattern: Tensor, *, hook: str) -> Tensor:
        seen[hook] = pattern
        return clean[hook]

    edits = [Edit(hook, lambda _, value=value: value) for hook, value in put.items()]
    edits += [Edit(site.pattern, partial(keep, hook=site.pattern)) for site in nodes]
    beside: dict[str, Any] = dict(contrast.beside)
    model.run(contrast.clean, read=[site.pattern for site in nodes], edits=edits, **beside)
    return seen


def _every_other(nodes: Sequence[Site], clean: Values, twins: Values, parity: int) -> Values:
    """The keys at even (0) or odd (1) positions from the twins, the others clean."""
    mixed = {site.hook: clean[site.hook].clone() for site in nodes}
    for hook, value in mixed.items():
        value[:, parity::2] = twins[hook][:, parity::2]
    return mixed


def _denominators(hook: str, pattern: Pattern, even: Pattern, odd: Pattern) -> Float[Tensor, "example head query key"]:
    """Zᵢⱼ: how the softmax's denominator of query i grows when key j alone is changed, from runs in which half of them are."""
    alone, *halves = (_in_full(each) for each in (pattern, even, odd))
    z = 1 - alone
    for parity, half in enumerate(halves):
        left, now = (each[..., 1 - parity :: 2].sum(-1, keepdim=True) for each in (alone, half))
        before, after = (each[..., parity::2] for each in (alone, half))
        lost = (left == 0) | (now == 0)
        if bool((lost & ((after - before).abs() > _MOVED)).any()):
            raise ModelError(
                f"attention at {hook} leaves exactly 0 to half of the keys, so what one key does cannot be told; "
                "use a model in float64, or leave qk_fix off"
            )
        z[..., parity::2] = torch.where(lost, 1.0, z[..., parity::2] + after * left / now)
    return z


def _in_full(pattern: Pattern) -> Pattern:
    """The pattern in float64 with rows that sum to 1: a weight near 1 gets back the digits that rounding took from 1 − p."""
    return pattern.double() / pattern.double().sum(-1, keepdim=True)


def _query_effects(site: Site, pattern: Pattern, changed: Pattern, gradients: Values) -> Float[Tensor, "node example pos"]:
    return ((changed - pattern).double() * gradients[site.pattern].double()).sum(-1).transpose(0, 1)


def _key_effects(
    site: Site, pattern: Pattern, z: Float[Tensor, "example head query key"], gradients: Values
) -> Float[Tensor, "node example pos"]:
    slope, p = gradients[site.pattern].double(), _in_full(pattern)
    effects = ((1 - 1 / z) * (slope - (p * slope).sum(-1, keepdim=True))).sum(-2)
    return effects.unflatten(1, (len(site.names), -1)).sum(2).transpose(0, 1)
