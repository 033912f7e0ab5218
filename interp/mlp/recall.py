"""What a model answers to prompts that ask for one token: how probable it finds the answer, and whether it is its first choice.

Must not know: how facts are stored, figures, reports.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import ModelError
from interp.models.hooked import Edit, Model
from interp.tasks.facts import Prompts


def last_logits(
    model: Model, prompts: Prompts, *, edits: Sequence[Edit] = (), grad: bool = False
) -> Float[Tensor, "example d_vocab"]:
    """The logits from which each answer is read, all prompts in one pass."""
    logits = model.run(prompts.tokens, edits=edits, logits=True, grad=grad).logits
    return logits[torch.arange(len(prompts)), prompts.last].float()


def answer_probability(logits: Float[Tensor, "example d_vocab"], prompts: Prompts) -> Float[Tensor, " example"]:
    """The share of probability that the answers get."""
    return logits.softmax(-1).gather(1, prompts.answer[:, None].to(logits.device))[:, 0]


def probability(model: Model, prompts: Prompts, *, edits: Sequence[Edit] = ()) -> Float[Tensor, " example"]:
    """Probability of each answer."""
    return answer_probability(last_logits(model, prompts, edits=edits), prompts).cpu()


def is_first(model: Model, prompts: Prompts, *, edits: Sequence[Edit] = ()) -> Bool[Tensor, " example"]:
    """Whether each answer is the model's first choice."""
    return last_logits(model, prompts, edits=edits).argmax(-1).cpu() == prompts.answer


def require_known(model: Model, prompts: Prompts) -> None:
    """Raises ModelError unless every answer is the model's first choice."""
    logits = last_logits(model, prompts).cpu()
    unknown = (logits.argmax(-1) != prompts.answer).nonzero().flatten().tolist()
    if unknown:
        first = unknown[0]
        chance = float(answer_probability(logits, prompts)[first])
        raise ModelError(
            f"{model.name} does not know {len(unknown)} of {len(prompts)} facts (prompt {first}: the answer has probability "
            f"{chance:.2g} and is not its first choice); keep those it knows: prompts[is_first(model, prompts)]"
        )
