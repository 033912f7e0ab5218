"""Claims: a sentence, our number, the target it must reach, and the verdict that follows. Nothing else decides a verdict.

Must not know: how numbers were made, HTML, files.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal, SupportsFloat

from interp.errors import ReportError
from interp.report.text import number
from interp.stats import Estimate

Verdict = Literal["PASS", "FAIL", "NOT RUN"]
VERDICTS: tuple[Verdict, ...] = ("PASS", "FAIL", "NOT RUN")
_SLUG = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Target:
    """The range a claim's whole interval must lie in; an open side is infinite. `text` says it as a reader would: "≥ 0.80"."""

    low: float
    high: float
    text: str

    @classmethod
    def parse(
        cls,
        *,
        at_least: SupportsFloat | None = None,
        at_most: SupportsFloat | None = None,
        between: tuple[SupportsFloat, SupportsFloat] | None = None,
        equals: SupportsFloat | None = None,
        tolerance: SupportsFloat | None = None,
    ) -> Target:
        """The target from exactly one of the four kinds; `equals` without `tolerance` means exactly equal.

        Raises ReportError for none or several kinds, a stray tolerance, an empty range or a non-finite number.
        """
        given = {"at_least": at_least, "at_most": at_most, "between": between, "equals": equals}
        kinds = [kind for kind, value in given.items() if value is not None]
        if len(kinds) != 1:
            raise ReportError(f"{' and '.join(kinds) or 'no target'} given; give one of at_least, at_most, between, equals")
        if tolerance is not None and equals is None:
            raise ReportError(f"tolerance={tolerance} goes with equals, not with {kinds[0]}; drop it or move the bound")
        if at_least is not None:
            low = _finite(at_least, "at_least")
            return cls(low=low, high=math.inf, text=f"≥ {number(low)}")
        if at_most is not None:
            high = _finite(at_most, "at_most")
            return cls(low=-math.inf, high=high, text=f"≤ {number(high)}")
        if between is not None:
            low, high = (_finite(end, "between") for end in between)
            if low > high:
                raise ReportError(f"between=({low:g}, {high:g}) is empty; give the lower end first")
            return cls(low=low, high=high, text=f"between {number(low)} and {number(high)}")
        centre, slack = _finite(equals, "equals"), _finite(0.0 if tolerance is None else tolerance, "tolerance")
        if slack < 0:
            raise ReportError(f"tolerance={slack:g} is negative; give a size, such as {-slack:g}")
        text = f"= {number(centre)}" + (f" ± {number(slack)}" if slack else "")
        return cls(low=centre - slack, high=centre + slack, text=text)

    def holds(self, low: float, high: float) -> bool:
        """Whether the interval [low, high] lies inside the target, ends included."""
        return self.low <= low and high <= self.high


@dataclass(frozen=True)
class Value:
    """A number with the ends of its interval, None where there is no interval (then the number stands for itself)."""

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, estimate: Estimate | SupportsFloat, *, what: str) -> Value:
        """From an Estimate or a plain number; ends may be infinite (one example has no interval), nothing may be NaN."""
        if not isinstance(estimate, Estimate):
            return cls(_finite(estimate, what))
        if math.isnan(estimate.low) or math.isnan(estimate.high):
            raise ReportError(f"{what} has the interval [{estimate.low}, {estimate.high}]; expected numbers")
        return cls(_finite(estimate.value, what), float(estimate.low), float(estimate.high))

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of the interval; the value itself, twice, without one."""
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)

    @property
    def bounded(self) -> bool:
        """Whether both ends are finite."""
        return all(math.isfinite(end) for end in self.ends)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return number(self.value)
        return f"{number(self.value)} [{number(self.low)}, {number(self.high)}]"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One line of the ledger. `measured` and `target` are None for a claim that was not run, and `reason` says why."""

    id: str
    text: str
    measured: Value | None = None
    target: Target | None = None
    unit: str = ""
    source: str = ""
    control: Value | None = None
    control_text: str = ""
    reason: str = ""

    @property
    def verdict(self) -> Verdict:
        """PASS when the whole interval reaches the target: its lower end for at_least, its upper for at_most, else both."""
        if self.measured is None or self.target is None:
            return "NOT RUN"
        return "PASS" if self.target.holds(*self.measured.ends) else "FAIL"

    @property
    def note(self) -> str:
        """What a reader must know beside the numbers: why a claim was not run, or that its interval has no end."""
        if self.measured is not None and not self.measured.bounded:
            return "interval without an end: too few independent examples"
        return self.reason

    def record(self) -> dict[str, Any]:
        """The claim as an entry of `result.json`: plain strings, finite numbers and None."""
        measured = self.measured
        record: dict[str, Any] = {
            "id": self.id,
            "text": self.text,
            "value": None if measured is None else measured.value,
            "low": None if measured is None else _json(measured.low),
            "high": None if measured is None else _json(measured.high),
            "target": "" if self.target is None else self.target.text,
            "unit": self.unit,
            "source": self.source,
            "verdict": self.verdict,
        }
        if self.control is not None:
            record["control"] = self.control.value
        if self.control_text:
            record["control_text"] = self.control_text
        if self.note:
            record["note"] = self.note
        return record


def overall(verdicts: list[Verdict]) -> Verdict:
    """The verdict of a run: FAIL if any claim fails, PASS if all pass, NOT RUN otherwise (or without claims)."""
    if "FAIL" in verdicts:
        return "FAIL"
    return "PASS" if verdicts and set(verdicts) == {"PASS"} else "NOT RUN"


def check_slug(slug: str, *, what: str) -> str:
    """The slug itself, or ReportError: slugs become ids, file names and links, so they are plain lower-case words."""
    if not _SLUG.fullmatch(slug):
        raise ReportError(f"{what} name {slug!r} is no slug; use lower-case letters, digits, - and _, such as 'prefix-score'")
    return slug


def _finite(value: Any, what: str) -> float:
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise ReportError(f"{what} is {value!r}; expected a number") from None
    if not math.isfinite(result):
        raise ReportError(f"{what} is {result}; expected a finite number")
    return result


def _json(end: float | None) -> float | None:
    return end if end is not None and math.isfinite(end) else None
