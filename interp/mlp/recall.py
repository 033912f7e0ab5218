"""What a model answers to prompts that ask for one token: how probable it finds the answer, and whether it is its first choice.

An encoder–decoder reads the prompt as its source, and answers with the token that follows `decoder_input`, given beside the
prompts row by row, as masks are.

Must not know: how facts are stored, figures, reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ModelError
from interp.models.hooked import Edit, Model
from interp.tasks.facts import Prompts


def last_logits(
    model: Model, prompts: Prompts, *, edits: Sequence[Edit] = (), grad: bool = False, **beside: Any
) -> Float[Tensor, "example d_vocab"]:
    """The logits from which each answer is read, all prompts in one pass."""
    logits = model.run(prompts.tokens, edits=edits, logits=True, grad=grad, **beside).logits
    return logits[torch.arange(len(prompts)), asked_at(prompts, beside)].float()


def asked_at(prompts: Prompts, beside: Mapping[str, Any]) -> Int[Tensor, " example"]:
    """The position whose next token is the answer: of the prompt, or of the decoder's input where there is one."""
    target, mask = beside.get("decoder_input"), beside.get("decoder_attention_mask")
    if target is None:
        return prompts.last
    position = torch.arange(target.shape[1]).expand_as(target)
    return (position if mask is None else position * mask).amax(1)


def answer_probability(logits: Float[Tensor, "example d_vocab"], prompts: Prompts) -> Float[Tensor, " example"]:
    """The share of probability that the answers get."""
    return logits.softmax(-1).gather(1, prompts.answer[:, None].to(logits.device))[:, 0]


def probability(model: Model, prompts: Prompts, *, edits: Sequence[Edit] = (), **beside: Any) -> Float[Tensor, " example"]:
    """Probability of each answer."""
    return answer_probability(last_logits(model, prompts, edits=edits, **beside), prompts).cpu()


def is_first(model: Model, prompts: Prompts, *, edits: Sequence[Edit] = (), **beside: Any) -> Bool[Tensor, " example"]:
    """Whether each answer is the model's first choice."""
    return last_logits(model, prompts, edits=edits, **beside).argmax(-1).cpu() == prompts.answer


def require_known(model: Model, prompts: Prompts, **beside: Any) -> None:
    """Raises ModelError unless every answer is the model's first choice."""
    logits = last_logits(model, prompts, **beside).cpu()
    unknown = (logits.argmax(-1) != prompts.answer).nonzero().flatten().tolist()
    if unknown:
        first = unknown[0]
        chance = float(answer_probability(logits, prompts)[first])
        raise ModelError(
            f"{model.name} does not know {len(unknown)} of {len(prompts)} facts (prompt {first}: the answer has probability "
            f"{chance:.2g} and is not its first choice); keep those it knows: prompts[is_first(model, prompts)]"
        )
