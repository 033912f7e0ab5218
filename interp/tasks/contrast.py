"""Pairs of inputs that differ in what a question turns on: the ground on which every intervention and attribution stands.

A `Contrast` holds clean inputs, their corrupted twins, and what is asked of the logits. What is asked is a number per example, a
*metric*: a function of (contrast, logits), where the contrast is the part of the examples that ran. The methods here that take
logits are the usual ones; any other function of that form serves as well.

Must not know: models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Clean inputs and corrupted twins, row by row.

    clean, corrupt: tokens, [example pos].
    answers, wrong: the token asked for, and the one it is held against, [example].
    positions: where the logits are looked at, one per example or one for all.
    beside: further inputs, row by row: attention_mask, decoder_input; `beside_corrupt` where the twins' differ.
    reference: logits at `positions` that `divergence` compares with, [example d_vocab].

    Raises ConfigError, with every fault, for parts that do not fit together.
    """

    clean: Int[Tensor, "_ _"]
    corrupt: Int[Tensor, "_ _"]
    answers: Int[Tensor, "_"]
    wrong: Int[Tensor, "_"] | None = None
    positions: Int[Tensor, "_"] | int = -1
    beside: Mapping[str, Tensor] = field(default_factory=dict)
    beside_corrupt: Mapping[str, Tensor] | None = None
    reference: Float[Tensor, "_ _"] | None = None

    def __post_init__(self) -> None:
        faults = list(self._faults())
        if faults:
            raise ConfigError("; ".join(faults))

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, rows: Tensor | slice) -> Contrast:
        """Some of the examples, by a mask, by indices or by a slice."""

        def part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor[rows] for name, tensor in tensors.items()}

        return replace(
            self,
            clean=self.clean[rows],
            corrupt=self.corrupt[rows],
            answers=self.answers[rows],
            wrong=None if self.wrong is None else self.wrong[rows],
            positions=self.positions if isinstance(self.positions, int) else self.positions[rows],
            beside=part(self.beside),
            beside_corrupt=None if self.beside_corrupt is None else part(self.beside_corrupt),
            reference=None if self.reference is None else self.reference[rows],
        )

    def swapped(self) -> Contrast:
        """Corrupted inputs in the place of clean ones and the other way round, with the same question."""
        other = self.beside if self.beside_corrupt is None else self.beside_corrupt
        corrupt = None if self.beside_corrupt is None else self.beside
        return replace(self, clean=self.corrupt, corrupt=self.clean, beside=other, beside_corrupt=corrupt)

    # ---- metrics ----

    def at_positions(self, values: Float[Tensor, "example pos *rest"]) -> Float[Tensor, "example *rest"]:
        """Logits, or anything else along positions, where the question is asked."""
        rows = torch.arange(len(values), device=values.device)
        places = self.positions if isinstance(self.positions, int) else self.positions.to(values.device)
        return values[rows, places]

    def answer_logit(self, logits: Float[Tensor, "example pos d_vocab"]) -> Float[Tensor, " example"]:
        """The answer's logit."""
        return self._of(self.at_positions(logits), self.answers)

    def logit_difference(self, logits: Float[Tensor, "example pos d_vocab"]) -> Float[Tensor, " example"]:
        """The answer's logit less that of the wrong answer. Raises ConfigError without wrong answers."""
        if self.wrong is None:
            raise ConfigError("a logit difference needs wrong answers; give wrong=, or ask for answer_logit or log_probability")
        own = self.at_positions(logits)
        return self._of(own, self.answers) - self._of(own, self.wrong)

    def log_probability(self, logits: Float[Tensor, "example pos d_vocab"]) -> Float[Tensor, " example"]:
        """ln p(answer), in nats."""
        return self._of(self.at_positions(logits).log_softmax(-1), self.answers)

    def divergence(self, logits: Float[Tensor, "example pos d_vocab"]) -> Float[Tensor, " example"]:
        """KL(reference ‖ logits) = Σ p ln(p/q) at the positions asked about, in nats. Raises ConfigError without a reference."""
        if self.reference is None:
            raise ConfigError("a divergence needs logits to compare with; give reference=contrast.at_positions(clean logits)")
        log_p = self.reference.to(logits).log_softmax(-1)
        return (log_p.exp() * (log_p - self.at_positions(logits).log_softmax(-1))).sum(-1)

    @staticmethod
    def _of(values: Float[Tensor, "example d_vocab"], ids: Int[Tensor, " example"]) -> Float[Tensor, " example"]:
        return values.gather(1, ids.to(values.device)[:, None])[:, 0]

    def _faults(self) -> Iterator[str]:
        examples = len(self.clean)
        if self.clean.shape != self.corrupt.shape:
            yield (
                f"clean tokens are {list(self.clean.shape)} and corrupted ones {list(self.corrupt.shape)}; "
                "give twins of equal length, so that positions match"
            )
        columns = {"answers": self.answers, "wrong": self.wrong, "positions": self.positions}
        for name, ids in columns.items():
            if isinstance(ids, Tensor) and ids.shape != (examples,):
                yield f"{name} has shape {list(ids.shape)} for {examples} examples; give one per example"
        for name, tensor in [*self.beside.items(), *(self.beside_corrupt or {}).items()]:
            if len(tensor) != examples:
                yield f"{name} has {len(tensor)} rows for {examples} examples; give one row per example"


Metric = Callable[[Contrast, Float[Tensor, "example pos d_vocab"]], Float[Tensor, " example"]]
"""What is asked of the logits of some examples: one number each."""
