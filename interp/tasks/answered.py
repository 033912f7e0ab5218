"""Rows of tokens with one answer each, asked for at one position: the form of tasks that classify or compute.

Must not know: models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import ConfigError
from interp.tasks.contrast import Contrast


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Rows, the token that answers each, and the position whose logits are asked for it."""

    tokens: Int[Tensor, "example pos"]
    answers: Int[Tensor, " example"]
    position: int

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Tensor | slice) -> Answered:
        """Some of the examples, by a mask, by indices or by a slice."""
        return Answered(tokens=self.tokens[rows], answers=self.answers[rows], position=self.position)

    def against(self, twins: Answered) -> Contrast:
        """These rows as the clean ones, `twins` as the corrupted; what a twin answers is the wrong answer.

        Raises ConfigError where a row and its twin answer alike, for then nothing is asked.
        """
        alike = (self.answers == twins.answers).nonzero().flatten()
        if len(alike):
            raise ConfigError(f"example {int(alike[0])} and its twin have the same answer; give twins that answer otherwise")
        positions = torch.full((len(self),), self.position)
        return Contrast(clean=self.tokens, corrupt=twins.tokens, answers=self.answers, wrong=twins.answers, positions=positions)
