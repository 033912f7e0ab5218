"""What dropout does on average, exactly: sums over every mask that it can draw of a few numbers.

Dropout makes 2ⁿ models of one, each with some of n numbers at 0 and the others divided by 1 − q (Srivastava et al. 2014, §10).

Must not know: modules, how models are trained.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ModelError

MOST = 16
"""Numbers whose masks are tried: 65,536 of them."""


def every_mask(n: int, q: float) -> tuple[Float[Tensor, "mask n"], Float[Tensor, " mask"]]:
    """All masks of `n` numbers, 0 or 1/(1 − q), and the chance of each when every number is dropped with probability q.

    In float64. Raises ModelError for more than 16 numbers, and for q outside 0 … 1.
    """
    if not 0 <= q < 1 or not 1 <= n <= MOST:
        raise ModelError(f"n={n}, q={q}: all masks are tried for 1 to {MOST} numbers, dropped with 0 ≤ q < 1")
    kept = ((torch.arange(2**n)[:, None] >> torch.arange(n)) & 1).double()
    return kept / (1 - q), (kept * (1 - q) + (1 - kept) * q).prod(1)


def geometric_mean(
    logits: Callable[[Float[Tensor, "mask n"]], Float[Tensor, "mask d_vocab"]], x: Float[Tensor, " n"], q: float
) -> Float[Tensor, " d_vocab"]:
    """What all models that dropout of x makes say together: ∏ p_m^(chance of m), made to sum to 1 (Hinton et al. 2012,
    arXiv:1207.0580). One softmax layer says it without dropout; for deeper ones that is near, and not exact."""
    masks, chance = every_mask(len(x), q)
    return (chance[:, None] * logits(masks * x.double()).log_softmax(-1)).sum(0).softmax(-1)


def squared_error(w: Float[Tensor, " n"], x: Float[Tensor, " n"], y: float, q: float) -> float:
    """Mean of (w·(m x) − y)² over masks m: (w·x − y)² + q/(1 − q) Σ w_i² x_i², which is what dropout adds to least squares
    (Srivastava et al. 2014, §9.1)."""
    masks, chance = every_mask(len(x), q)
    return float((chance * ((masks * x.double()) @ w.double() - y).square()).sum())
