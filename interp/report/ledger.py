"""Where the marks of a claim's interval bar stand: value, interval, control and the accepted range on one axis.

Must not know: HTML, what the numbers mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from interp.report.claims import Claim

WIDTH = 200.0
_MARGIN = 8.0


@dataclass(frozen=True)
class Bar:
    """Horizontal places on an axis 200 wide. `arrow_low`, `arrow_high`: the interval goes on beyond that edge."""

    value: float
    low: float
    high: float
    accept_low: float
    accept_high: float
    edges: tuple[float, ...]
    control: float | None
    arrow_low: bool
    arrow_high: bool


def bar(claim: Claim) -> Bar | None:
    """The bar of a claim that was run; None for one that was not."""
    if claim.measured is None or claim.target is None:
        return None
    low, high = claim.measured.ends
    control = None if claim.control is None else claim.control.value
    shown = [claim.measured.value, low, high, claim.target.low, claim.target.high, *([] if control is None else [control])]
    shown = [place for place in shown if math.isfinite(place)]
    start, stop = min(shown), max(shown)
    pad = 0.15 * (stop - start) or 0.15 * abs(start) or 1.0
    start, stop = start - pad, stop + pad

    def place(number: float) -> float:
        share = (min(max(number, start), stop) - start) / (stop - start)
        return round(_MARGIN + share * (WIDTH - 2 * _MARGIN), 1)

    def accepted(number: float, edge: float) -> float:
        return place(number) if math.isfinite(number) else edge

    return Bar(
        value=place(claim.measured.value),
        low=place(low),
        high=place(high),
        accept_low=accepted(claim.target.low, 0.0),
        accept_high=accepted(claim.target.high, WIDTH),
        edges=tuple(place(end) for end in (claim.target.low, claim.target.high) if math.isfinite(end)),
        control=None if control is None else place(control),
        arrow_low=math.isinf(low),
        arrow_high=math.isinf(high),
    )
