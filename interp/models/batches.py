"""What a training step is given, and what it asks: next tokens, hidden tokens, target sequences, answers, a teacher's words.

Must not know: optimisers, hooks, analyses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import TrainingError
from interp.models.hooked import Model
from interp.tasks.answered import Answered
from interp.tasks.pairs import Pairs


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's examples.

    tokens: what the model is given, with `beside` (masks, decoder_input, …).
    targets: the token asked for at every position, [batch pos], or the probabilities of all, [batch pos d_vocab]. Where they are
    shorter than the rows, the last logits are not asked for anything.
    counted: the targets that count; all without it. told: those whose mean loss the curve tells; those that count without it.

    Raises TrainingError for targets of more rows or positions than the tokens, unless a decoder's input stands beside them, for
    marks of another shape than the targets, and where no target counts.
    """

    tokens: Int[Tensor, "batch _"]
    targets: Int[Tensor, "_ _"] | Float[Tensor, "_ _ d_vocab"]
    counted: Bool[Tensor, "_ _"] | None = None
    told: Bool[Tensor, "_ _"] | None = None
    beside: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = self.beside.get("decoder_input", self.tokens)
        wanted, given = list(self.targets.shape[:2]), list(rows.shape)
        if wanted[0] != given[0] or wanted[1] > given[1] or len(self.tokens) != given[0]:
            raise TrainingError(
                f"{wanted} targets for {given} tokens; give as many rows of both, and no more targets than tokens"
            )
        for name, marks in (("counted", self.counted), ("told", self.told)):
            if marks is not None and list(marks.shape) != wanted:
                raise TrainingError(f"{name} has shape {list(marks.shape)}, the targets {wanted}; mark every target")
            if marks is not None and not marks.any():
                raise TrainingError(f"{name} marks none of the {wanted} targets, so there is no mean loss; mark one at least")


def next_token(tokens: Int[Tensor, "batch pos"], *, told: Bool[Tensor, "batch pos"] | None = None) -> Batch:
    """Every token but the first is asked for one position earlier. `told` marks tokens, where they stand."""
    return Batch(tokens=tokens, targets=tokens[:, 1:], told=None if told is None else told[:, 1:])


def masked(
    tokens: Int[Tensor, "batch pos"],
    *,
    mask_id: int,
    share: float,
    generator: torch.Generator,
    special: Sequence[int] = (),
) -> Batch:
    """A `share` of the tokens, and one of each row at least, are hidden behind `mask_id` and asked for in their places.

    special: ids (padding, <cls>) that are never hidden. After Devlin et al. 2019 (arXiv:1810.04805, §3.1), without the share of
    hidden tokens that they leave or exchange. Raises TrainingError for a row of nothing but special tokens.
    """
    ordinary = ~torch.isin(tokens, torch.tensor(list(special), dtype=tokens.dtype))
    if not ordinary.any(1).all():
        row = int((~ordinary.any(1)).nonzero()[0])
        raise TrainingError(f"row {row} has nothing but special tokens, so there is nothing to hide; leave the row out")
    drawn = torch.rand(tokens.shape, generator=generator).masked_fill(~ordinary, 2.0)
    hidden = ((drawn < share) | (drawn == drawn.amin(1, keepdim=True))) & ordinary
    return Batch(tokens=tokens.masked_fill(hidden, mask_id), targets=tokens, counted=hidden)


def sequence_to_sequence(pairs: Pairs) -> Batch:
    """The target is asked for token by token, given the source and the target so far; padding is not."""
    return Batch(tokens=pairs.source, targets=pairs.target, counted=pairs.counted, beside=pairs.beside)


def answers(rows: Answered) -> Batch:
    """The answer is asked for at its position, and nothing else."""
    counted = torch.zeros_like(rows.tokens, dtype=torch.bool)
    counted[:, rows.position] = True
    return Batch(tokens=rows.tokens, targets=rows.answers[:, None].expand_as(rows.tokens), counted=counted)


def taught(teacher: Model, tokens: Int[Tensor, "batch pos"], *, beside: Mapping[str, Tensor] | None = None) -> Batch:
    """What a teacher model would say is asked for, as probabilities (Hinton et al. 2015, arXiv:1503.02531, temperature 1)."""
    beside = beside or {}
    probabilities = teacher.run(tokens, logits=True, **dict[str, Any](beside)).logits.softmax(-1)
    return Batch(tokens=tokens, targets=probabilities, beside=beside)
