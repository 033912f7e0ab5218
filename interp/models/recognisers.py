"""Transformers of two layers, written by hand, that decide PARITY and FIRST at every length.

After Chiang & Cholak 2022 (arXiv:2202.12172).

A row is <cls> and then bits, n tokens in all; the stream at <cls> ends in a number that is positive for "yes"::

    PARITY   layer 1: uniform attention gives k/n, the share of ones, and 1/n; an MLP marks position k,
             I[i = k]/n = relu((k−i−1)/n) − 2 relu((k−i)/n) + relu((k−i+1)/n)
             layer 2: one head leans to odd positions, one to even ones; their difference says which kind k is
    FIRST    layer 1: an MLP marks position 1, with the sign of its bit; layer 2: a head leans to position 1

Both are always right, and ever less sure: the number is O(1/n²) and O(1/n), since one token's weight is (Hahn 2020,
arXiv:1906.06755). Two remedies are theirs too: a last layer norm with ε = 0 over (x, −x) makes ±1 of any x ≠ 0, and
scores times log n keep a token's weight from shrinking. Positions are i/n, (−1)^i and I[i = 1], as in the paper.

Must not know: analyses, training.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.models.multihead import Attention
from interp.models.parts import Mlp
from interp.models.scores import ScaledDot
from interp.tasks.bits import CLS, ONE

FEATURES = ("one", "cls", "i/n", "(-1)^i", "i=1", "k/n", "1/n", "mark", "answer")
"""What the dimensions of the stream hold; the first five come in with the tokens."""
LEAN = 3.0
"""By how much heads prefer the positions that they lean to, in their scores."""


class LogLength(nn.Module):
    """Scaled dot products times the logarithm of the number of keys."""

    def __init__(self) -> None:
        super().__init__()
        self.scaled = ScaledDot()

    def forward(
        self, q: Float[Tensor, "batch query head d_head"], k: Float[Tensor, "batch key head d_head"]
    ) -> Float[Tensor, "batch head query key"]:
        return self.scaled(q, k) * math.log(k.shape[1])


class Recogniser(nn.Module):
    """An MLP and two attentions beside a stream of `FEATURES`. Made by `parity` and `first`; in double precision."""

    def __init__(self, *, mark: int, heads: int, score: nn.Module) -> None:
        super().__init__()
        width, generator = len(FEATURES), torch.Generator().manual_seed(0)  # all weights are overwritten
        self.attn1 = _attention(width, 1, 2, ScaledDot(), generator)
        self.mlp1 = Mlp(width, mark, act_fn="relu", generator=generator)
        self.attn2 = _attention(width, heads, 1, score, generator)
        for parameter in self.parameters():
            parameter.data.zero_()
        self.double().eval().requires_grad_(False)

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, " batch"]:
        """A number for every row, positive for "yes"."""
        x = features(tokens)
        for part in (self.attn1, self.mlp1, self.attn2):
            x = x + part(x)
        return x[:, 0, FEATURES.index("answer")]


def features(tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos feature"]:
    """The stream that goes in: what token stands here and where, and zeros."""
    n = tokens.shape[1]
    i = torch.arange(n, dtype=torch.float64)
    places = torch.stack([i / n, 1 - 2 * (i % 2), (i == 1).double()], -1).expand(len(tokens), -1, -1)
    x = torch.cat([(tokens == ONE).double()[..., None], (tokens == CLS).double()[..., None], places], -1)
    return F.pad(x, (0, len(FEATURES) - x.shape[-1]))


def parity() -> Recogniser:
    """Positive where the number of ones is odd."""
    made = Recogniser(mark=3, heads=2, score=ScaledDot())
    state = made.state_dict()
    for row, (source, target) in enumerate((("one", "k/n"), ("cls", "1/n"))):
        state["attn1.v.weight"][row, _at(source)] = state["attn1.o.weight"][_at(target), row] = 1
    for row, (offset, weight) in enumerate(((-1, 1), (0, -2), (1, 1))):
        state["mlp1.in.weight"][row, [_at("k/n"), _at("i/n"), _at("1/n")]] = torch.tensor([1.0, -1.0, offset]).double()
        state["mlp1.out.weight"][_at("mark"), row] = weight
    for head, odd in enumerate((1, -1)):
        state["attn2.k.weight"][head, _at("(-1)^i")] = -odd
        state["attn2.v.weight"][head, _at("mark")] = 1
        state["attn2.o.weight"][_at("answer"), head] = odd
    state["attn2.q.bias"][:] = LEAN
    return made


def first(*, log_length: bool) -> Recogniser:
    """Positive where the first bit is a one. log_length: scores times log n, with which sureness does not depend on n."""
    made = Recogniser(mark=1, heads=1, score=LogLength() if log_length else ScaledDot())
    state = made.state_dict()
    # relu(one + [i = 1] − 1) is 1 at a one in the first place; half of [i = 1] is taken off as it is read.
    state["mlp1.in.weight"][0, [_at("one"), _at("i=1")]] = 1
    state["mlp1.in.bias"][0] = -1
    state["mlp1.out.weight"][_at("mark"), 0] = 1
    state["attn2.q.bias"][:] = 1 if log_length else LEAN
    state["attn2.k.weight"][0, _at("i=1")] = 1
    state["attn2.v.weight"][0, [_at("mark"), _at("i=1")]] = torch.tensor([1.0, -0.5]).double()
    state["attn2.o.weight"][_at("answer"), 0] = 1
    return made


def normed(answer: Float[Tensor, " batch"], *, eps: float) -> Float[Tensor, " batch"]:
    """What layer norm makes of x in (x, −x): x / √(x² + ε)."""
    return answer / (answer.square() + eps).sqrt()


def _attention(width: int, heads: int, d_head: int, score: nn.Module, generator: torch.Generator) -> Attention:
    return Attention(width, heads, heads, d_head, causal=False, rotary=False, score=score, mixer=None, generator=generator)


def _at(feature: str) -> int:
    return FEATURES.index(feature)
