"""Linear regression in context: pairs (x, y) of a linear function drawn anew for each row, and an x to answer.

    w ~ N(0, 1)^d,  x_i ~ U(−1, 1)^d,  y_i = w·x_i,     asked: w·x_query          (von Oswald et al. 2023, arXiv:2212.07677, §3)

Tokens are vectors (x, y), with 0 in the place of the asked y: rows of numbers, not ids. Must not know: models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError


@dataclass(frozen=True)
class Regressions:
    """x with the query last, y with the answer last, and the function behind them."""

    x: Float[Tensor, "example pos d"]
    y: Float[Tensor, "example pos"]
    w: Float[Tensor, "example d"]

    def __len__(self) -> int:
        return len(self.x)

    @property
    def tokens(self) -> Float[Tensor, "example pos width"]:
        """(x, y) at every position, d + 1 numbers, and (x, 0) at the last, which asks."""
        shown = self.y.clone()
        shown[:, -1] = 0
        return torch.cat([self.x, shown[:, :, None]], -1)

    @property
    def answers(self) -> Float[Tensor, " example"]:
        """w·x at the query."""
        return self.y[:, -1]

    def after_descent(self, rate: float) -> Float[Tensor, " example"]:
        """What one step of gradient descent on the shown pairs answers, from w = 0: x_query · rate Σ_i y_i x_i.

        The loss is ½ Σ (w·x_i − y_i)², and `rate` its step.
        """
        moved = rate * torch.einsum("epd,ep->ed", self.x[:, :-1], self.y[:, :-1])
        return torch.einsum("ed,ed->e", self.x[:, -1], moved)


def regressions(n: int, shown: int, d: int, *, generator: torch.Generator, scale: float = 1.0) -> Regressions:
    """`n` rows of `shown` pairs in `d` dimensions and a query, drawn from `generator` alone; x lies within ± `scale`.

    Raises ConfigError without a pair or a dimension.
    """
    if shown < 1 or d < 1:
        raise ConfigError(f"shown={shown} pairs in d={d} dimensions leave nothing to learn from; use 1 or more of both")
    w = torch.randn(n, d, generator=generator)
    x = scale * (2 * torch.rand(n, shown + 1, d, generator=generator) - 1)
    return Regressions(x, torch.einsum("epd,ed->ep", x, w), w)
