"""Views a reader can browse: attention patterns of heads, and values along the tokens of a text. Features have features.py.

A view takes plain lists and numpy arrays. Tokens are *display strings*, already decoded: a token that is only part of a character
cannot be shown, so the caller passes what shall stand for it (the merged glyph, or bytes such as "‹e2 80›"), never a raw "Ġ".

Must not know: models, tensors, HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, SupportsFloat

import numpy as np

from interp.errors import ReportError
from interp.report import payload
from interp.report.claims import check_slug

MAX_PATTERN_VALUES = 8_000_000

Numbers = Sequence[SupportsFloat] | np.ndarray


@dataclass(frozen=True, kw_only=True)
class View:
    """What all views share. `name` is the slug of its place in the page and of its permalink: `#feature=123`."""

    name: str
    title: str
    caption: str = ""
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        check_slug(self.name, what="view")

    def payload(self) -> str:
        """All the view shows, packed for the browser; raises ReportError for data that do not fit together."""
        raise NotImplementedError

    def files(self) -> dict[str, str]:
        """What the view reads from beside the page, by path; nothing for most."""
        return {}

    def _repr_html_(self) -> str:
        """For Jupyter: the same view, alone in a sandboxed frame."""
        from interp.report import html  # imported late: html draws views, and views must not need it

        return html.frame(self)


@dataclass(frozen=True, kw_only=True)
class AttentionView(View):
    """A grid of heads as thumbnails; one head large, with what each token attends to.

    tokens: display strings, one per position.
    patterns: [layer head query key], attention from query to key, each ≥ 0; shown in steps of 1/255 of the largest.
    scores: per-head numbers [layer head] by name, shown as captions.
    """

    kind: ClassVar[str] = "attention"
    name: str = "attention"
    title: str = "Attention"
    tokens: Sequence[str]
    patterns: np.ndarray | Sequence
    scores: Mapping[str, np.ndarray | Sequence] = field(default_factory=dict)

    def payload(self) -> str:
        patterns = payload.finite(self.patterns, what="attention patterns")
        n = len(self.tokens)
        if patterns.ndim != 4 or patterns.shape[2:] != (n, n):
            raise ReportError(f"attention patterns have shape {patterns.shape}; expected [layer, head, {n}, {n}] for {n} tokens")
        if patterns.size > MAX_PATTERN_VALUES:
            raise ReportError(
                f"{patterns.size:,} attention values, the limit is {MAX_PATTERN_VALUES:,}; show fewer tokens or heads"
            )
        if patterns.size == 0 or patterns.min() < 0:
            raise ReportError("attention patterns must be probabilities of at least one head and token, none below 0")
        scale = float(patterns.max()) or 1.0
        scores = {name: self._score(name, values, patterns.shape[:2]) for name, values in self.scores.items()}
        layers, heads = patterns.shape[:2]
        header = {"tokens": list(self.tokens), "layers": layers, "heads": heads, "scale": scale, "scores": scores}
        return payload.pack(header, {"patterns": payload.quantise(patterns, 0.0, scale)})

    @staticmethod
    def _score(name: str, values: Any, shape: tuple[int, ...]) -> list[float]:
        array = payload.finite(values, what=f"head scores {name!r}")
        if array.shape != shape:
            raise ReportError(f"head scores {name!r} have shape {array.shape}; expected [layer, head] = {shape}")
        return [payload.rounded(value) for value in array.ravel()]


@dataclass(frozen=True, kw_only=True)
class TokenView(View):
    """A text, each token coloured by one of several values: loss, a label (0 or 1), an activation.

    values: numbers by name, one per token; units: by name, where there is one.
    """

    kind: ClassVar[str] = "tokens"
    name: str = "tokens"
    title: str = "Values along a text"
    tokens: Sequence[str]
    values: Mapping[str, Numbers]
    units: Mapping[str, str] = field(default_factory=dict)

    def payload(self) -> str:
        if not self.values:
            raise ReportError("TokenView has no values; give at least one number per token, such as values={'loss': losses}")
        ranges, arrays = {}, {}
        for index, (name, given) in enumerate(self.values.items()):
            array = payload.finite(given, what=f"token values {name!r}")
            if array.shape != (len(self.tokens),):
                raise ReportError(
                    f"token values {name!r} have shape {array.shape}; expected one per token, ({len(self.tokens)},)"
                )
            low, high = min(0.0, float(array.min(initial=0.0))), max(0.0, float(array.max(initial=0.0)))
            ranges[name] = [payload.rounded(low), payload.rounded(high), self.units.get(name, "")]
            arrays[f"values{index}"] = array.astype(np.float32)
        return payload.pack({"tokens": list(self.tokens), "values": ranges}, arrays)
