"""`harvest`: model + token batches → batches of activations at one or many hooks, in one pass, with memory for one batch.

An encoder–decoder has two kinds of rows: hooks of its encoder, and keys and values of cross-attention, have one per source
token, all others one per target token. Which is which is seen on a run whose source and target differ in length (`side`), so it
is sure even where they are equally long.

Must not know: the store, and what is done with the activations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations.batch import ActivationBatch
from interp.activations.pairs import TokenPairs
from interp.errors import HookError, ModelError
from interp.text.packing import TokenBatch

_PATTERNS = ("hook_pattern", "hook_attn_scores")
"""Hooks of shape [batch head query key], which a context of as many tokens as there are heads would disguise."""


@runtime_checkable
class Runnable(Protocol):
    """What a harvest asks of a model; `models.Model` is one."""

    name: str

    @property
    def kind(self) -> str: ...

    def resolve(self, names: Sequence[str]) -> Any:
        """Raises HookError for a name that is not there."""

    def run(self, tokens: Tensor, *, read: Sequence[str], **inputs: Any) -> Any:
        """A run whose `activations` map each name in `read` to its tensor."""

    def probe_inputs(self) -> tuple[Tensor, dict[str, Any]]:
        """A short input, and what goes with it; asked of encoder–decoders."""
        ...


def harvest(model: Runnable, batches: Iterable[TokenBatch | TokenPairs], hooks: Sequence[str]) -> Iterator[ActivationBatch]:
    """One ActivationBatch per token batch, with the rows where there is text: BOS and padding are left out.

    An activation of shape [batch pos …] gives rows of all its trailing axes laid side by side, so a head hook [batch pos head
    d_head] gives rows of head · d_head numbers; `ActivationBatch.shapes` keeps the trailing shape. Rows stay on the model's
    device, in the model's dtype.

    batches: of an encoder–decoder TokenPairs, or for rows of the source alone TokenBatches, since no target changes these.

    Raises HookError before anything is harvested for names the model does not have and for hooks of both sides of an
    encoder–decoder, and while iterating for hooks that are not per token, such as attention patterns; ModelError for a target
    that is missing, and for one that the model does not read.
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
    rows_are = side(model, hooks)
    return (_rows(model, batch, hooks, rows_are) for batch in batches)


def side(model: Runnable, hooks: Sequence[str]) -> Literal["source", "target"]:
    """Whose tokens the hooks have a row for. All but encoder–decoders have one side, the source.

    Raises HookError for hooks of both sides, whose rows are no pairs, and for an encoder–decoder's hooks without a row per token.
    """
    if model.kind != "encoder-decoder":
        return "source"
    tokens, beside = model.probe_inputs()
    seen = model.run(tokens, read=hooks, **beside).activations
    shapes = {tokens.shape: "source", beside["decoder_input"].shape: "target"}
    assert len(shapes) == 2
    sides: dict[str, str] = {}
    for hook in hooks:
        if (shape := seen[hook].shape)[:2] not in shapes:
            raise HookError(_rowless(hook, shape, [list(known) for known in shapes]))
        sides.setdefault(shapes[shape[:2]], hook)
    if len(sides) == 2:
        raise HookError(
            f"{sides['source']} has a row for each token of the source, {sides['target']} for each of the target; "
            "harvest them one after the other"
        )
    return "source" if "source" in sides else "target"


def _rows(
    model: Runnable, batch: TokenBatch | TokenPairs, hooks: tuple[str, ...], rows_are: Literal["source", "target"]
) -> ActivationBatch:
    tokens, inputs = _inputs(model, batch, hooks, rows_are)
    own = batch if isinstance(batch, TokenBatch) else getattr(batch, rows_are)
    run = model.run(tokens, read=hooks, **inputs)
    return ActivationBatch(
        activations={hook: _text_rows(hook, run.activations[hook], own.is_text) for hook in hooks},
        tokens=own.tokens[own.is_text],
        document=own.document[own.is_text],
        position=own.position[own.is_text],
        shapes={hook: tuple(run.activations[hook].shape[2:]) for hook in hooks},
    )


def _inputs(
    model: Runnable, batch: TokenBatch | TokenPairs, hooks: tuple[str, ...], rows_are: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """What the model is given for a batch: tokens, and what goes beside them."""
    if model.kind != "encoder-decoder":
        if isinstance(batch, TokenPairs):
            raise ModelError(f"{model.name} is no encoder-decoder and reads no targets; give TokenBatch, not TokenPairs")
        # Padding comes after all text, so causal attention never sees it; other models must be told.
        return batch.tokens, {} if model.kind == "decoder" else _mask("attention_mask", batch)
    if isinstance(batch, TokenPairs):
        masks = _mask("attention_mask", batch.source) | _mask("decoder_attention_mask", batch.target)
        return batch.source.tokens, {"decoder_input": batch.target.tokens, **masks}
    if rows_are == "target":
        raise ModelError(
            f"{hooks[0]} has rows for the target's tokens, and there are only sources; give TokenPairs of sources and targets"
        )
    return batch.tokens, {"decoder_input": batch.tokens[:, :1], **_mask("attention_mask", batch)}


def _mask(name: str, batch: TokenBatch) -> dict[str, Tensor]:
    return {name: batch.attention_mask} if bool(batch.is_padding.any()) else {}


def _text_rows(hook: str, activation: Float[Tensor, ...], is_text: Bool[Tensor, "batch pos"]) -> Float[Tensor, "row d"]:
    if activation.ndim < 3 or activation.shape[:2] != is_text.shape:
        raise HookError(_rowless(hook, activation.shape, [list(is_text.shape)]))
    return activation.flatten(2)[is_text.to(activation.device)]


def _rowless(hook: str, shape: Sequence[int], expected: Sequence[Sequence[int]]) -> str:
    wanted = " or ".join(f"[{batch} {pos} …]" for batch, pos in expected)
    return f"{hook} gives shape {list(shape)}, not {wanted}: it has no row per token; harvest another hook"
