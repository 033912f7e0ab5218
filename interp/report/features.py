"""The feature dashboard: what each direction, unit or neuron responds to, and what it writes.

It serves SAE features and MLP neurons alike (`noun="neuron"`). It takes plain numbers and display strings (see views.py).

Must not know: models, tensors, autoencoders, HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, SupportsFloat, SupportsInt

import numpy as np

from interp.errors import ReportError
from interp.report import payload
from interp.report.claims import check_slug
from interp.report.views import Numbers, View

MAX_FEATURES = 4096

Numbered = Sequence[tuple[SupportsInt, SupportsFloat]]  # (token or feature id, value)
Named = Sequence[tuple[str, SupportsFloat]]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A stretch of text with one activation per token.

    document, position: where it comes from: the document's name and the index in it of the first token shown.
    focus: index of the token it was chosen for; by default the one with the largest activation.
    group: how it was chosen, as a heading: "Top activations", "Quantile 2 of 4", "Random negatives"; they keep their first order.
    """

    token_ids: Sequence[SupportsInt] | np.ndarray
    activations: Numbers
    document: str = ""
    position: SupportsInt = 0
    focus: int | None = None
    group: str = "Top activations"


@dataclass(frozen=True, kw_only=True)
class Feature:
    """All that is shown of one feature.

    density: share of the scanned tokens on which it is active.
    histogram: (counts, edges) of its non-zero activations, one more edge than counts.
    boosted, suppressed: (token id, change of logit), strongest first.
    neighbours: by measure ("decoder cosine", "co-activation"), (feature id, value), nearest first.
    labels: (label, score), best first; the dashboard says which score.
    attribution: (what, share) of its decoder direction, such as ("L1H3", 0.2).
    metrics: any further numbers, by name: shown, searched ("auroc>0.9") and sorted by.
    """

    id: SupportsInt
    density: SupportsFloat
    examples: Sequence[Example] = ()
    histogram: tuple[Numbers, Numbers] | None = None
    boosted: Numbered = ()
    suppressed: Numbered = ()
    neighbours: Mapping[str, Numbered] = field(default_factory=dict)
    labels: Named = ()
    attribution: Named = ()
    metrics: Mapping[str, SupportsFloat] = field(default_factory=dict)
    explanation: str | None = None


@dataclass(frozen=True, kw_only=True)
class FeatureDashboard(View):
    """Browse features one at a time; at most 4096 in one page.

    vocabulary: display string of every token id that occurs.
    noun: what one of them is called; also the permalink, `#feature=123`, unless `name` says otherwise.
    tokens_scanned, dead: the honest sampling line: how much text was read, how many features never fired on it.
    label_score: the name of the score in `Feature.labels`, e.g. "AUROC".
    """

    kind: ClassVar[str] = "features"
    name: str = ""
    title: str = ""
    noun: str = "feature"
    features: Sequence[Feature]
    vocabulary: Sequence[str]
    tokens_scanned: int
    dead: int
    label_score: str = "score"

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", check_slug(self.name or self.noun.lower().replace(" ", "-"), what="view"))
        object.__setattr__(self, "title", self.title or f"{self.noun.capitalize()}s")

    def payload(self) -> str:
        self._check()
        vocabulary, columns = payload.Vocabulary(self.vocabulary), _Columns()
        features = [self._feature(feature, vocabulary, columns) for feature in self.features]
        header = {
            "noun": self.noun,
            "tokensScanned": int(self.tokens_scanned),
            "dead": int(self.dead),
            "labelScore": self.label_score,
            "features": features,
            "vocabulary": vocabulary.used(),
            "documents": list(columns.documents),
            "groups": list(columns.groups),
        }
        return payload.pack(header, columns.arrays())

    def _check(self) -> None:
        if not 0 < len(self.features) <= MAX_FEATURES:
            found = f"{len(self.features)} {self.noun}s"
            raise ReportError(f"{found} in one dashboard; it shows 1 to {MAX_FEATURES}: choose some, or make several dashboards")
        ids = [int(feature.id) for feature in self.features]
        if len(set(ids)) < len(ids):
            twice = next(id for id in ids if ids.count(id) > 1)
            raise ReportError(f"{self.noun} {twice} is in the dashboard twice; give each {self.noun} once")

    def _feature(self, feature: Feature, vocabulary: payload.Vocabulary, columns: _Columns) -> dict[str, Any]:
        what = f"{self.noun} {feature.id}"
        low, high = columns.add(feature.examples, vocabulary, what=what)
        metrics = {name: _number(value, f"{what} {name}") for name, value in feature.metrics.items()}
        return {
            "id": int(feature.id),
            "density": _number(feature.density, f"{what} density"),
            "low": low,
            "high": high,
            "histogram": _histogram(feature.histogram, what),
            "boosted": _effects(feature.boosted, vocabulary, f"{what} boosted"),
            "suppressed": _effects(feature.suppressed, vocabulary, f"{what} suppressed"),
            "neighbours": {name: _pairs(pairs, f"{what} {name}") for name, pairs in feature.neighbours.items()},
            "labels": _pairs(feature.labels, f"{what} labels"),
            "attribution": _pairs(feature.attribution, f"{what} attribution"),
            "metrics": metrics,
            "explanation": feature.explanation,
        }


class _Columns:
    """The examples of all features as flat columns. Filled feature by feature, then read once."""

    def __init__(self) -> None:
        self.documents: dict[str, int] = {}
        self.groups: dict[str, int] = {}
        self._tokens: list[int] = []
        self._activations: list[np.ndarray] = []
        self._token_starts, self._feature_starts = [0], [0]
        self._rows: list[tuple[int, int, int, int]] = []

    def add(self, examples: Sequence[Example], vocabulary: payload.Vocabulary, *, what: str) -> tuple[float, float]:
        """Adds one feature's examples; returns the lowest and highest activation, between which its column is quantised."""
        arrays = [payload.finite(example.activations, what=f"{what} activations") for example in examples]
        low = min((float(array.min(initial=0.0)) for array in arrays), default=0.0)
        high = max((float(array.max(initial=0.0)) for array in arrays), default=0.0)
        for example, array in zip(examples, arrays, strict=True):
            if array.shape != (len(example.token_ids),):
                raise ReportError(f"{what}: an example has {len(example.token_ids)} tokens but activations {array.shape}")
            if int(example.position) < 0:
                raise ReportError(f"{what}: an example starts at position {example.position}; expected 0 or more")
            self._tokens += vocabulary.add(example.token_ids, what=f"{what} example")
            self._activations.append(payload.quantise(array, low, high))
            self._token_starts.append(len(self._tokens))
            document = self.documents.setdefault(example.document, len(self.documents))
            group = self.groups.setdefault(example.group, len(self.groups))
            self._rows.append((document, int(example.position), group, _focus(example, array, what)))
        self._feature_starts.append(len(self._rows))
        return payload.rounded(low), payload.rounded(high)

    def arrays(self) -> dict[str, np.ndarray]:
        rows = np.asarray(self._rows, np.uint32).reshape(-1, 4)
        small = max(self._tokens, default=0) < 2**16
        return {
            "tokens": np.asarray(self._tokens, np.uint16 if small else np.uint32),
            "activations": np.concatenate([np.empty(0, np.uint8), *self._activations]),
            "tokenStarts": np.asarray(self._token_starts, np.uint32),
            "featureStarts": np.asarray(self._feature_starts, np.uint32),
            "documents": rows[:, 0],
            "positions": rows[:, 1],
            "groups": rows[:, 2],
            "focuses": rows[:, 3],
        }


def _focus(example: Example, activations: np.ndarray, what: str) -> int:
    if example.focus is None:
        return int(activations.argmax()) if activations.size else 0
    if not 0 <= example.focus < activations.size:
        raise ReportError(f"{what}: focus {example.focus} is none of an example's {activations.size} tokens")
    return example.focus


def _number(value: SupportsFloat, what: str) -> float:
    return payload.rounded(float(payload.finite(value, what=what)))


def _pairs(pairs: Numbered | Named, what: str) -> list[list[Any]]:
    return [[name if isinstance(name, str) else int(name), _number(value, what)] for name, value in pairs]


def _effects(pairs: Numbered, vocabulary: payload.Vocabulary, what: str) -> list[list[Any]]:
    indices = vocabulary.add((token for token, _ in pairs), what=what)
    return [[index, _number(value, what)] for index, (_, value) in zip(indices, pairs, strict=True)]


def _histogram(histogram: tuple[Numbers, Numbers] | None, what: str) -> dict[str, list[float]] | None:
    if histogram is None:
        return None
    counts, edges = (payload.finite(part, what=f"{what} histogram") for part in histogram)
    if counts.ndim != 1 or edges.shape != (len(counts) + 1,):
        raise ReportError(f"{what}: histogram of {counts.shape} counts and {edges.shape} edges; give one edge more than counts")
    return {"counts": [payload.rounded(count) for count in counts], "edges": [payload.rounded(edge) for edge in edges]}
