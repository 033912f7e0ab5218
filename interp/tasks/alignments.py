"""How well scores of source tokens agree with the alignment that is known, and pairs to compare with.

Scores are numbers [example target source]: attention, or what each source token brings to each target token. Only target tokens
with a sure link count. Must not know: models, where scores come from.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.tasks.contrast import Contrast
from interp.tasks.pairs import Pairs, alignment_error


def on_links(pattern: Float[Tensor, "example target source"], pairs: Pairs) -> Float[Tensor, " example"]:
    """The part of a pattern that lies on sure links, averaged over the target tokens that have any."""
    rows = _rows(pairs)
    return ((pattern * pairs.sure).sum(-1) * rows).sum(1).double() / rows.sum(1)


def hits(scores: Float[Tensor, "example target source"], pairs: Pairs) -> Float[Tensor, " example"]:
    """Share of target tokens whose highest-scored source token has a sure link to them."""
    rows = _rows(pairs)
    right = pairs.sure.gather(2, scores.argmax(-1, keepdim=True))[:, :, 0]
    return (right & rows).sum(1).double() / rows.sum(1)


def errors(scores: Float[Tensor, "example target source"], pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Misses and links of each example (`alignment_error`), every target token linked to its highest-scored source token."""
    return alignment_error(F.one_hot(scores.argmax(-1), scores.shape[-1]).bool(), pairs)


def shuffled(pairs: Pairs, *, generator: torch.Generator) -> Pairs:
    """The same pairs, each with the links of another to the same target tokens: a null for any score against an alignment."""
    other = torch.randperm(len(pairs), generator=generator)
    rows = _rows(pairs)[:, :, None]
    return replace(pairs, sure=pairs.sure[other] & rows, possible=pairs.possible[other] & rows)


def twins(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """Pairs, and beside each another one with the very same alignment, so that every token has a counterpart.

    Of the first, only links of target tokens that differ from their twin's are kept. A pair with no other like it is left out.
    """
    group = pairs.sure.flatten(1).unique(dim=0, return_inverse=True)[1]
    order = group.argsort(stable=True)
    following = order.roll(-1)
    alike = (group[order] == group[following]) & (order != following)
    own, other = pairs[order[alike]], pairs[following[alike]]
    return only(own, own.target != other.target), other


def questions(own: Pairs, other: Pairs) -> tuple[Contrast, tuple[Int[Tensor, " question"], Int[Tensor, " question"]]]:
    """Every target token with a sure link, asked for by itself against its twin's; and where it stands, (example, target)."""
    row, place = own.sure.any(-1).nonzero(as_tuple=True)
    answers, wrong = own.target[row, place], other.target[row, place]
    given = {name: value[row] for name, value in own.beside.items()}
    source, twin = own.source[row], other.source[row]
    return Contrast(clean=source, corrupt=twin, answers=answers, wrong=wrong, positions=place, beside=given), (row, place)


def only(pairs: Pairs, kept: Bool[Tensor, "example target"]) -> Pairs:
    """The pairs with no links but those of some target tokens."""
    return replace(pairs, sure=pairs.sure & kept[:, :, None], possible=pairs.possible & kept[:, :, None])


def _rows(pairs: Pairs) -> Bool[Tensor, "example target"]:
    rows = pairs.sure.any(-1)
    if not rows.any(1).all():
        empty = int((~rows.any(1)).nonzero()[0])
        raise ConfigError(f"example {empty} has no sure link, so there is nothing to agree with; leave it out")
    return rows
