"""`harvest`: model + token batches → batches of activations at one or many hooks, in one pass, with memory for one batch.

Must not know: the store, and what is done with the activations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations.batch import ActivationBatch
from interp.errors import HookError
from interp.text.packing import TokenBatch

_PATTERNS = ("hook_pattern", "hook_attn_scores")
"""Hooks of shape [batch head query key], which a context of as many tokens as there are heads would disguise."""


@runtime_checkable
class Runnable(Protocol):
    """What a harvest asks of a model; `models.Model` is one."""

    @property
    def kind(self) -> str: ...

    def resolve(self, names: Sequence[str]) -> Any:
        """Raises HookError for a name that is not there."""

    def run(self, tokens: Tensor, *, read: Sequence[str], **inputs: Any) -> Any:
        """A run whose `activations` map each name in `read` to its tensor."""


def harvest(model: Runnable, batches: Iterable[TokenBatch], hooks: Sequence[str]) -> Iterator[ActivationBatch]:
    """One ActivationBatch per token batch, with the rows where there is text: BOS and padding are left out.

    An activation of shape [batch pos …] gives rows of all its trailing axes laid side by side, so a head hook [batch pos head
    d_head] gives rows of head · d_head numbers; `ActivationBatch.shapes` keeps the trailing shape. Rows stay on the model's
    device, in the model's dtype.

    Raises HookError before anything runs for names the model does not have, and while iterating for hooks that are not per
    token, such as attention patterns.
    """
    hooks = tuple(hooks)
    if not hooks or len(set(hooks)) != len(hooks):
        raise HookError(f"a harvest needs one or more different hooks, got {list(hooks)}")
    if patterns := [hook for hook in hooks if hook.endswith(_PATTERNS)]:
        raise HookError(
            f"{patterns[0]} has an axis for the query and one for the key, not one row per token; "
            "harvest the head's hook_z, or read it with model.run"
        )
    model.resolve(hooks)
    return (_rows(model, batch, hooks) for batch in batches)


def _rows(model: Runnable, batch: TokenBatch, hooks: tuple[str, ...]) -> ActivationBatch:
    # Padding comes after all text, so causal attention never sees it; other models must be told.
    inputs = {"attention_mask": batch.attention_mask} if model.kind != "decoder" and bool(batch.is_padding.any()) else {}
    run = model.run(batch.tokens, read=hooks, **inputs)
    activations = {hook: _text_rows(hook, run.activations[hook], batch.is_text) for hook in hooks}
    return ActivationBatch(
        activations=activations,
        tokens=batch.tokens[batch.is_text],
        document=batch.document[batch.is_text],
        position=batch.position[batch.is_text],
        shapes={hook: tuple(run.activations[hook].shape[2:]) for hook in hooks},
    )


def _text_rows(hook: str, activation: Float[Tensor, ...], is_text: Bool[Tensor, "batch pos"]) -> Float[Tensor, "row d"]:
    if activation.ndim < 3 or activation.shape[:2] != is_text.shape:
        expected = f"[{is_text.shape[0]} {is_text.shape[1]} …]"
        raise HookError(
            f"{hook} gives shape {list(activation.shape)}, not {expected}: it has no row per token; harvest another hook"
        )
    return activation.flatten(2)[is_text.to(activation.device)]
