"""Views a reader can browse: attention patterns of heads, values along the tokens of a text, and what each token of a text
brings to an output. Features have features.py.

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
MAX_ATTRIBUTIONS = 1_000_000

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
    """A grid of heads as thumbnails; one head large, with what each token attends to. Heads filter by class and sort by score.

    tokens: display strings, one per position. keys: those of the tokens attended to, where they are others (cross-attention).
    patterns: [layer head query key], attention from query to key, each ≥ 0; shown in steps of 1/255 of the largest.
    scores: per-head numbers [layer head] by name, shown as captions. classes: a word for every head, [layer head].
    """

    kind: ClassVar[str] = "attention"
    name: str = "attention"
    title: str = "Attention"
    tokens: Sequence[str]
    keys: Sequence[str] | None = None
    patterns: np.ndarray | Sequence
    scores: Mapping[str, np.ndarray | Sequence] = field(default_factory=dict)
    classes: Sequence[Sequence[str]] | None = None

    def payload(self) -> str:
        patterns = payload.finite(self.patterns, what="attention patterns")
        keys = self.tokens if self.keys is None else self.keys
        size = len(self.tokens), len(keys)
        if patterns.ndim != 4 or patterns.shape[2:] != size:
            raise ReportError(
                f"attention patterns have shape {patterns.shape}; expected [layer, head, {size[0]}, {size[1]}] "
                f"for {size[0]} tokens" + ("" if self.keys is None else f" and {size[1]} keys")
            )
        if patterns.size > MAX_PATTERN_VALUES:
            raise ReportError(
                f"{patterns.size:,} attention values, the limit is {MAX_PATTERN_VALUES:,}; show fewer tokens or heads"
            )
        if patterns.size == 0 or patterns.min() < 0:
            raise ReportError("attention patterns must be probabilities of at least one head and token, none below 0")
        scale = float(patterns.max()) or 1.0
        layers, heads = patterns.shape[:2]
        header = {
            "tokens": list(self.tokens),
            "keys": None if self.keys is None else list(keys),
            "layers": layers,
            "heads": heads,
            "scale": scale,
            "scores": {name: self._score(name, values, (layers, heads)) for name, values in self.scores.items()},
            "classes": self._classes((layers, heads)),
        }
        return payload.pack(header, {"patterns": payload.quantise(patterns, 0.0, scale)})

    @staticmethod
    def _score(name: str, values: Any, shape: tuple[int, ...]) -> list[float]:
        array = payload.finite(values, what=f"head scores {name!r}")
        if array.shape != shape:
            raise ReportError(f"head scores {name!r} have shape {array.shape}; expected [layer, head] = {shape}")
        return [payload.rounded(value) for value in array.ravel()]

    def _classes(self, shape: tuple[int, int]) -> list[str] | None:
        if self.classes is None:
            return None
        if len(self.classes) != shape[0] or any(len(row) != shape[1] for row in self.classes):
            raise ReportError(f"classes do not fit [layer, head] = {shape}; give one word per head")
        return [word for row in self.classes for word in row]


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


@dataclass(frozen=True, kw_only=True)
class AttributionView(View):
    """What each token of a text brings to an output, part by part: signed colours on the text, the parts beside it.

    targets: (position, what is asked there), such as (12, "logit of “ return”").
    groups: by name, such as "heads", the parts, and for each what it brings, [target token]: a part that does not look back
    brings everything from the target's own token. The parts of one group add up to something, which the view shows.
    """

    kind: ClassVar[str] = "attribution"
    name: str = "attribution"
    title: str = "What each token brings"
    tokens: Sequence[str]
    targets: Sequence[tuple[int, str]]
    groups: Mapping[str, Mapping[str, np.ndarray | Sequence]]
    unit: str = "nats"

    def payload(self) -> str:
        shape = len(self.targets), len(self.tokens)
        if not self.targets or not any(self.groups.values()):
            raise ReportError("AttributionView has nothing to show; give at least one target and one part")
        outside = [at for at, _ in self.targets if not 0 <= at < shape[1]]
        if outside:
            raise ReportError(f"target position {outside[0]} is not in the text; positions are 0 to {shape[1] - 1}")
        parts = [(group, name, values) for group, named in self.groups.items() for name, values in named.items()]
        if len(parts) * shape[0] * shape[1] > MAX_ATTRIBUTIONS:
            raise ReportError(
                f"{len(parts)} parts × {shape[0]} targets × {shape[1]} tokens are more than {MAX_ATTRIBUTIONS:,} values; "
                "give fewer targets, or a shorter text"
            )
        arrays = [payload.finite(values, what=f"attributions of {name!r}") for _, name, values in parts]
        for (_, name, _), array in zip(parts, arrays, strict=True):
            if array.shape != shape:
                raise ReportError(f"attributions of {name!r} have shape {array.shape}; expected [target, token] = {shape}")
        header = {
            "tokens": list(self.tokens),
            "targets": [[int(at), label] for at, label in self.targets],
            "parts": [[group, name] for group, name, _ in parts],
            "unit": self.unit,
        }
        return payload.pack(header, {"values": np.stack(arrays).astype(np.float32).ravel()})
