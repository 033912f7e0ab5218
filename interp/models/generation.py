"""What a model writes when it is left to itself: greedy decoding of targets, and continuations drawn from its probabilities.

Every token costs a whole pass: meant for small models. Must not know: tasks, analyses.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import ModelError
from interp.models.hooked import Model


def greedy(
    model: Model,
    source: Int[Tensor, "batch source"],
    *,
    start: int,
    stop: int,
    longest: int,
    attention_mask: Int[Tensor, "batch source"] | None = None,
) -> Int[Tensor, "batch target"]:
    """The likeliest target, token by token: without the START it is led by; STOP, and again STOP to the end of the row.

    Ends when all rows have stopped, or after `longest` tokens. Raises ModelError for a model that is no encoder–decoder.
    """
    if model.kind != "encoder-decoder":
        raise ModelError(f"{model.name} has no targets to decode: its kind is {model.kind}; use continued")
    beside: dict[str, Any] = {} if attention_mask is None else {"attention_mask": attention_mask}
    target = torch.full((len(source), 1), start)
    stopped = torch.zeros(len(source), dtype=torch.bool)
    while target.shape[1] <= longest and not stopped.all():
        following = model.run(source, decoder_input=target, **beside).logits[:, -1].argmax(-1).cpu()
        following = torch.where(stopped, stop, following)
        target, stopped = torch.cat([target, following[:, None]], 1), stopped | (following == stop)
    return target[:, 1:]


def continued(
    model: Model, tokens: Int[Tensor, "batch pos"], length: int, *, generator: torch.Generator
) -> Int[Tensor, "batch longer"]:
    """The rows continued by `length` tokens, drawn from the model's probabilities: data to teach another model with.

    Raises ModelError for a model that does not predict the next token.
    """
    if model.kind != "decoder":
        raise ModelError(f"{model.name} does not predict next tokens: its kind is {model.kind}")
    for _ in range(length):
        probabilities = model.run(tokens).logits[:, -1].float().softmax(-1).cpu()
        tokens = torch.cat([tokens, torch.multinomial(probabilities, 1, generator=generator)], 1)
    return tokens
