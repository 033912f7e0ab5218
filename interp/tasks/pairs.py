"""Source rows that turn into target rows, with the source tokens that every target token comes from.

Rows are padded at the end. A target ends with STOP; a decoder is given it one step late, led by START. The alignment is known,
so that what cross-attention shows can be held against it.

    AER = 1 − (|A∩S| + |A∩P|) / (|A| + |S|)        alignment error rate (Och & Ney 2003, "A Systematic Comparison", §5.1)

for guessed links A, sure links S and possible links P ⊇ S. Must not know: models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.tasks.contrast import Contrast

PAD, START, STOP = 0, 1, 2
FIRST = 3
"""The first id that is an ordinary token."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Sources, targets and their alignment.

    sure: links from a target token to the source tokens it stands for, [example target source]; none for STOP and padding.
    possible: sure links, and those to source tokens that only shape its form, as a noun does the ending of its adjective.
    """

    source: Int[Tensor, "example source"]
    target: Int[Tensor, "example target"]
    sure: Bool[Tensor, "example target source"]
    possible: Bool[Tensor, "example target source"]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: Tensor | slice) -> Pairs:
        """Some of the examples, by a mask, by indices or by a slice."""
        return Pairs(source=self.source[rows], target=self.target[rows], sure=self.sure[rows], possible=self.possible[rows])

    @property
    def decoder_input(self) -> Int[Tensor, "example target"]:
        """START, then the target without its last token: what the decoder has seen when it predicts `target`."""
        return torch.cat([torch.full_like(self.target[:, :1], START), self.target[:, :-1]], 1)

    @property
    def attention_mask(self) -> Int[Tensor, "example source"]:
        """1 for tokens of the source, 0 for padding."""
        return (self.source != PAD).long()

    @property
    def counted(self) -> Bool[Tensor, "example target"]:
        """Target tokens that are to be predicted: all but padding."""
        return self.target != PAD

    @property
    def beside(self) -> dict[str, Tensor]:
        """What a model takes beside the source."""
        return {"decoder_input": self.decoder_input, "attention_mask": self.attention_mask}

    def against(self, twins: Pairs, positions: Int[Tensor, " example"]) -> Contrast:
        """These pairs as the clean ones, `twins` as the corrupted, asked for the target token at `positions`.

        Both are given the clean target so far. Raises ConfigError unless clean and corrupted target agree before that
        position, for else the decoder's input would contradict the corrupted source, and differ there.
        """
        before = torch.arange(self.target.shape[1]) < positions[:, None]
        agree = ((self.target == twins.target) | ~before).all(1)
        rows = torch.arange(len(self))
        answers, wrong = self.target[rows, positions], twins.target[rows, positions]
        faulty = (~agree | (answers == wrong)).nonzero().flatten()
        if len(faulty):
            raise ConfigError(
                f"example {int(faulty[0])}: the targets of twins must be alike before position {int(positions[faulty[0]])} "
                "and differ there; give other twins or positions"
            )
        return Contrast(
            clean=self.source,
            corrupt=twins.source,
            answers=answers,
            wrong=wrong,
            positions=positions,
            beside=self.beside,
            beside_corrupt={**self.beside, "attention_mask": twins.attention_mask},
        )


def alignment_error(links: Bool[Tensor, "example target source"], pairs: Pairs) -> tuple[Tensor, Tensor]:
    """What the alignment error rate of guessed links is made of, per example: misses and links, AER = Σ misses / Σ links.

    misses = |A| + |S| − |A∩S| − |A∩P|, links = |A| + |S|. Links of STOP and padding do not count.
    """
    guessed = links & pairs.possible.any(-1, keepdim=True)
    found = (guessed & pairs.sure).sum((1, 2)) + (guessed & pairs.possible).sum((1, 2))
    links_ = guessed.sum((1, 2)) + pairs.sure.sum((1, 2))
    return links_ - found, links_
