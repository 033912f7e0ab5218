"""Mixtures of experts as any model shows them: where a router's logits and weights are seen, and how to change what it decides.

    logits → (the model's own rule) → weights,   out = Σ_e weights[e] expert_e(x)

The rule (how many experts, whether their weights are made to sum to 1) is never written down here. A bridged router is run with
a weight that hands logits through, so what it makes of them is what it would make of them in the model; and that is checked.

Logits cannot be edited in a bridged model: when they are seen, the router has chosen. So an edit of what the router reads keeps
the logits of the run, and an edit of the weights replaces what the router made of them.

Must not know: text, analyses, model families.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from interp.errors import ModelError
from interp.models import weights
from interp.models.experts import Experts, expert_weights
from interp.models.hooked import Edit, Model

Change = Callable[[Tensor, Tensor], Tensor]
"""Logits and weights, [*rows expert] each, to the weights that are used instead."""


@dataclass(frozen=True)
class Mixture:
    """One layer of experts.

    name: of its part, "blocks.0.mlp". experts: how many. per_token: how many work for a token.
    logits, weights, out: hooks of what the router says, of the experts' weights and of all that the layer writes.
    order: the hook of the experts chosen, where the weights may stand in that order; None where they never do.
    before: the hook of what a run shows before it decides, and `judged` the logits that the router makes of that.
    weigh: the model's own rule, from logits to the weight of every expert: 0 for those not chosen.
    """

    name: str
    experts: int
    per_token: int
    logits: str
    weights: str
    out: str
    order: str | None
    before: str
    judged: Callable[[Tensor], Tensor]
    weigh: Callable[[Tensor], Tensor]

    @property
    def reads(self) -> list[str]:
        """The hooks that `decided` needs."""
        return [self.logits, self.weights, *([] if self.order is None else [self.order])]

    def decided(self, activations: Mapping[str, Tensor]) -> tuple[Float[Tensor, "*rows expert"], Float[Tensor, "*rows expert"]]:
        """Logits and weights of a run that read `reads`, both in the order of the experts."""
        logits = activations[self.logits]
        return logits, self._by_expert(activations[self.weights], None if self.order is None else activations[self.order])

    def rerouted(self, change: Change, *, added: Callable[[Tensor], Tensor] | None = None) -> list[Edit]:
        """Edits under which tokens have the weights that `change` makes of their logits and weights.

        added: what is added to what the layer writes, made of the weights before the change, [*rows expert] → [*rows d_model].
        At most `per_token` weights of a token can differ from 0. The edits are one whole: use them together.
        """
        run = _Passing(self, change)
        edits = [Edit(self.before, run.see), Edit(self.weights, run.put)]
        if added is not None:
            edits.append(Edit(self.out, lambda out: out + added(run.weights).reshape(out.shape)))
        return edits

    def _by_expert(self, found: Float[Tensor, "*rows _"], order: Tensor | None) -> Float[Tensor, "*rows expert"]:
        if order is None or found.shape != order.shape:
            return found
        return torch.zeros_like(found).scatter(-1, order.long(), found)  # every expert is chosen: they stand in order of rank


class _Passing:
    """What one run after the other decides: the logits, which are seen first, then the weights, which are replaced."""

    def __init__(self, mixture: Mixture, change: Change) -> None:
        self._mixture, self._change = mixture, change
        self._logits = self.weights = torch.empty(0)

    def see(self, value: Tensor) -> Tensor:
        self._logits = self._mixture.judged(value)
        return value

    def put(self, value: Tensor) -> Tensor:
        ranked = value.shape[-1] == self._mixture.per_token and self._mixture.order is not None
        order = self._logits.argsort(-1, descending=True) if ranked else None
        self.weights = self._mixture._by_expert(value, order)
        changed = self._change(self._logits, self.weights)
        return changed if order is None else changed.gather(-1, order)


_known: WeakKeyDictionary[Model, dict[str, Mixture]] = WeakKeyDictionary()


def mixtures(model: Model) -> Mapping[str, Mixture]:
    """The mixtures of a model by name, in the order in which they compute; looked for once per model.

    Raises ModelError for a model without any, and for routers that do not choose by their logits alone.
    """
    if model not in _known:
        found = _found(model)
        if not found:
            hidden = any("expert" in name for name, _ in model.bridge.named_modules())
            raise ModelError(
                f"{model.name} has experts, but no hook_expert_weights to see their weights at; read its routers' hook_out"
                if hidden
                else f"{model.name} has no mixture of experts, so nothing is routed; give a model with experts"
            )
        _known[model] = found
    return _known[model]


def mixture(model: Model, layer: str) -> Mixture:
    """One of the `mixtures`, by name. Raises ModelError for a layer that is none."""
    found = mixtures(model)
    if layer not in found:
        raise ModelError(f"no mixture of experts {layer!r} in {model.name}; there are {', '.join(found)}")
    return found[layer]


def _found(model: Model) -> dict[str, Mixture]:
    found = {}
    for hook in model.hooks:
        part, _, leaf = hook.rpartition(".")
        if leaf == "hook_expert_weights":
            module = weights.part(model.bridge, part)
            if isinstance(module, Experts):
                found[part] = _ours(part, module)
            elif isinstance(getattr(getattr(module, "original_component", None), "weight", None), Tensor):
                found[part.rpartition(".")[0]] = _bridged(model, part, cast(nn.Module, module.original_component))
    return found


def _ours(part: str, module: Experts) -> Mixture:
    logits = f"{part}.hook_router_logits"
    return Mixture(
        name=part,
        experts=len(module.experts),
        per_token=module.top_k,
        logits=logits,
        weights=f"{part}.hook_expert_weights",
        out=f"{part}.hook_out",
        order=None,
        before=logits,
        judged=lambda value: value,
        weigh=partial(expert_weights, top_k=module.top_k, renormalised=module.renormalised),
    )


def _bridged(model: Model, router: str, module: nn.Module) -> Mixture:
    """A mixture whose router gives logits, weights and numbers of the chosen, as Hugging Face's do."""
    name = router.rpartition(".")[0]
    seen, order = f"{router}.hook_in", f"{router}.hook_expert_indices"
    tokens, beside = model.probe_inputs()
    hooks = [seen, f"{router}.hook_out", f"{router}.hook_expert_weights", order]
    run = model.run(tokens, read=hooks, **beside).activations
    found = Mixture(
        name=name,
        experts=run[f"{router}.hook_out"].shape[-1],
        per_token=run[order].shape[-1],
        logits=f"{router}.hook_out",
        weights=f"{router}.hook_expert_weights",
        out=f"{name}.hook_out",
        order=order,
        before=seen,
        judged=lambda value: module(value)[0],
        weigh=partial(_own_rule, module),
    )
    try:
        logits, shown = found.decided(run)
        same = torch.allclose(found.judged(run[seen]), logits) and torch.allclose(found.weigh(logits), shown, atol=1e-5)
    except (RuntimeError, ValueError, TypeError):  # not even their shapes fit
        same = False
    if not same:
        raise ModelError(
            f"the hooks of the router of {name} in {model.name} do not hold logits, weights and the experts chosen by them "
            "alone; its decisions cannot be read by expert"
        )
    return found


def _own_rule(router: Any, logits: Float[Tensor, "*rows expert"]) -> Float[Tensor, "*rows expert"]:
    """The weights that a router gives for these logits: its own code, with a weight that hands them through and no bias."""
    count, width = router.weight.shape
    flat = logits.reshape(-1, count)
    padded = F.pad(flat, (0, width - count))
    handing = {name: torch.zeros_like(value) for name, value in router.named_parameters()}
    handing["weight"] = torch.eye(count, width).to(flat)
    _, given, chosen = functional_call(router, handing, (padded,))
    return torch.zeros_like(flat).scatter(-1, chosen, given.to(flat)).view(logits.shape)
