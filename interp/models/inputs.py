"""What a model can be given: checks on tokens and on what goes with them, before anything runs.

Must not know: TransformerLens, hooks.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from interp.errors import ModelError

ACCEPTED = ("attention_mask", "decoder_input", "decoder_attention_mask", "token_type_ids", "position_ids")
"""Inputs that may stand beside the tokens, by TransformerLens's names."""


def check_tokens(tokens: object, *, d_vocab: int, n_ctx: int | None, name: str = "tokens") -> None:
    """Raises ModelError unless `tokens` is int64 [batch pos], not empty, within the vocabulary and the context."""
    if not isinstance(tokens, Tensor):
        raise ModelError(f"{name} is a {type(tokens).__name__}; give a tensor of token ids, int64 [batch pos]")
    if tokens.dtype != torch.int64:
        raise ModelError(f"{name} has dtype {str(tokens.dtype).removeprefix('torch.')}; token ids are int64: use .long()")
    if tokens.ndim != 2:
        mend = "; for one sequence use tokens[None]" if tokens.ndim == 1 else ""
        raise ModelError(f"{name} has shape {list(tokens.shape)}, expected [batch pos]{mend}")
    if tokens.numel() == 0:
        raise ModelError(f"{name} is empty, with shape {list(tokens.shape)}; give at least one sequence of one token")
    if n_ctx is not None and tokens.shape[1] > n_ctx:
        raise ModelError(f"{name} has {tokens.shape[1]} positions, but the model's context is {n_ctx}; cut the sequences")
    low, high = (int(bound) for bound in tokens.aminmax())
    if low < 0 or high >= d_vocab:
        wrong = low if low < 0 else high
        raise ModelError(
            f"{name} holds the id {wrong}, but the model's vocabulary is 0 to {d_vocab - 1}; was it made with another tokenizer?"
        )


def check_beside(inputs: Mapping[str, object], tokens: Tensor, *, takes: frozenset[str], encoder_decoder: bool) -> None:
    """Raises ModelError for inputs the model does not take, masks of another shape or of more than 0 and 1, and a decoder
    without input."""
    known = [name for name in ACCEPTED if name in takes]
    unknown = [name for name in inputs if name not in known]
    if unknown:
        raise ModelError(f"this model takes no {', '.join(unknown)}; beside tokens it takes {', '.join(known) or 'nothing'}")
    if encoder_decoder and "decoder_input" not in inputs:
        raise ModelError("an encoder-decoder needs the decoder's tokens too: run(tokens, decoder_input=…)")
    for name, value in inputs.items():
        if not isinstance(value, Tensor):
            raise ModelError(f"{name} is a {type(value).__name__}; give a tensor [batch pos]")
        beside = inputs["decoder_input"] if name.startswith("decoder_") and encoder_decoder else tokens
        if name != "decoder_input" and value.shape != beside.shape:  # type: ignore[union-attr]
            raise ModelError(f"{name} has shape {list(value.shape)}, the tokens beside it {list(beside.shape)}")  # type: ignore[union-attr]
        if value.shape[0] != tokens.shape[0]:
            raise ModelError(f"{name} has {value.shape[0]} sequences, tokens has {tokens.shape[0]}")
        if name.endswith("mask") and (wrong := value[(value != 0) & (value != 1)]).numel():
            raise ModelError(f"{name} holds {wrong.flatten()[0].item():g}; a mask is 1 for tokens and 0 for padding")
