"""The feature dashboard: what each direction, unit or neuron responds to, and what it writes.

It serves SAE features and MLP neurons alike (`noun="neuron"`). It takes plain numbers and display strings (see views.py).
What search and sort need of every feature is the index, and always in the page. The rest is read one feature at a time: it is in
the page up to `INLINE` features, and in files beside it, `SHARD` features each, above.

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

INLINE = 4096
"""Features whose examples fit in one page."""

SHARD = 256
"""Features in one file beside the page."""

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
class Rule:
    """When a feature fires, in words, and how well that holds on text it was not made on, beside a shuffled feature's rule."""

    text: str
    precision: SupportsFloat
    recall: SupportsFloat
    null_precision: SupportsFloat
    null_recall: SupportsFloat


@dataclass(frozen=True, kw_only=True)
class Feature:
    """All that is shown of one feature.

    density: share of the scanned tokens on which it is active.
    histogram: (counts, edges) of its non-zero activations, one more edge than counts.
    boosted, suppressed: (token id, change of logit), strongest first.
    neighbours: by measure ("decoder cosine", "co-activation"), (feature id, value), nearest first.
    labels: (label, score), best first; the dashboard says which score.
    attribution: (what, value) of its decoder direction, such as ("L1H3", 0.2); the dashboard says which measure.
    metrics: any further numbers, by name: shown, searched ("auroc>0.9") and sorted by.
    rule, explanation: when it fires, as a rule with its scores, and in a sentence without any.
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
    rule: Rule | None = None
    explanation: str | None = None


@dataclass(frozen=True, kw_only=True)
class FeatureDashboard(View):
    """Browse features one at a time.

    vocabulary: display string of every token id that occurs.
    noun: what one of them is called; also the permalink, `#feature=123`, unless `name` says otherwise.
    tokens_scanned, dead: the honest sampling line: how much text was read, how many features never fired on it.
    total: how many features there are, where only some are shown.
    label_score, attribution_score: the names of the numbers in `Feature.labels` and `Feature.attribution`, e.g. "AUROC".
    """

    kind: ClassVar[str] = "features"
    name: str = ""
    title: str = ""
    noun: str = "feature"
    features: Sequence[Feature]
    vocabulary: Sequence[str]
    tokens_scanned: int
    dead: int
    total: int | None = None
    label_score: str = "score"
    attribution_score: str = "decoder attribution"

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", check_slug(self.name or self.noun.lower().replace(" ", "-"), what="view"))
        object.__setattr__(self, "title", self.title or f"{self.noun.capitalize()}s")

    def payload(self) -> str:
        self._check()
        vocabulary = payload.Vocabulary(self.vocabulary)
        index = [self._index(feature, vocabulary) for feature in self.features]
        header, arrays = ({}, {}) if self._shards() else self._details(self.features, vocabulary)
        about = {
            "noun": self.noun,
            "tokensScanned": int(self.tokens_scanned),
            "dead": int(self.dead),
            "total": self.total,
            "labelScore": self.label_score,
            "attributionScore": self.attribution_score,
            "features": index,
            "shards": list(self._shards()),
            "shardSize": SHARD,
        }
        return payload.pack(about | {"vocabulary": vocabulary.used()} | header, arrays)

    def files(self) -> dict[str, str]:
        return {path: payload.script(self._packed(features)) for path, features in self._shards().items()}

    def _shards(self) -> dict[str, Sequence[Feature]]:
        """What is not in the page: the features of each file beside it."""
        if len(self.features) <= INLINE:
            return {}
        starts = range(0, len(self.features), SHARD)
        return {f"shards/{self.name}-{place:03d}.js": self.features[start : start + SHARD] for place, start in enumerate(starts)}

    def _packed(self, features: Sequence[Feature]) -> str:
        vocabulary = payload.Vocabulary(self.vocabulary)
        header, arrays = self._details(features, vocabulary)
        return payload.pack(header | {"vocabulary": vocabulary.used()}, arrays)

    def _check(self) -> None:
        if not self.features:
            raise ReportError(f"0 {self.noun}s in one dashboard; give at least one")
        ids = [int(feature.id) for feature in self.features]
        if len(set(ids)) < len(ids):
            twice = next(id for id in ids if ids.count(id) > 1)
            raise ReportError(f"{self.noun} {twice} is in the dashboard twice; give each {self.noun} once")

    def _index(self, feature: Feature, vocabulary: payload.Vocabulary) -> dict[str, Any]:
        """What search and sort need."""
        what = f"{self.noun} {feature.id}"
        peaks = [example.token_ids[focus] for example in feature.examples if (focus := _peak(example, what)) is not None]
        written = [token for token, _ in (*feature.boosted, *feature.suppressed)]
        return {
            "id": int(feature.id),
            "density": _number(feature.density, f"{what} density"),
            "high": payload.rounded(_range(feature, what)[1]),
            "words": list(dict.fromkeys(vocabulary.add([*peaks, *written], what=what))),
            "labels": _pairs(feature.labels, f"{what} labels"),
            "metrics": {name: _number(value, f"{what} {name}") for name, value in feature.metrics.items()},
            "rule": None if feature.rule is None else _rule(feature.rule, what),
            "explanation": feature.explanation,
        }

    def _details(
        self, features: Sequence[Feature], vocabulary: payload.Vocabulary
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What is read one feature at a time."""
        columns = _Columns()
        details = [self._detail(feature, vocabulary, columns) for feature in features]
        return {"details": details, "documents": list(columns.documents), "groups": list(columns.groups)}, columns.arrays()

    def _detail(self, feature: Feature, vocabulary: payload.Vocabulary, columns: _Columns) -> dict[str, Any]:
        what = f"{self.noun} {feature.id}"
        low, high = _range(feature, what)
        columns.add(feature.examples, vocabulary, low, high, what=what)
        return {
            "low": payload.rounded(low),
            "histogram": _histogram(feature.histogram, what),
            "boosted": _effects(feature.boosted, vocabulary, f"{what} boosted"),
            "suppressed": _effects(feature.suppressed, vocabulary, f"{what} suppressed"),
            "neighbours": {name: _pairs(pairs, f"{what} {name}") for name, pairs in feature.neighbours.items()},
            "attribution": _pairs(feature.attribution, f"{what} attribution"),
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

    def add(self, examples: Sequence[Example], vocabulary: payload.Vocabulary, low: float, high: float, *, what: str) -> None:
        """Adds one feature's examples, their activations quantised between its lowest and highest."""
        for example in examples:
            if int(example.position) < 0:
                raise ReportError(f"{what}: an example starts at position {example.position}; expected 0 or more")
            self._tokens += vocabulary.add(example.token_ids, what=f"{what} example")
            self._activations.append(payload.quantise(_activations(example, what), low, high))
            self._token_starts.append(len(self._tokens))
            document = self.documents.setdefault(example.document, len(self.documents))
            group = self.groups.setdefault(example.group, len(self.groups))
            self._rows.append((document, int(example.position), group, _focus(example, what)))
        self._feature_starts.append(len(self._rows))

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


def _activations(example: Example, what: str) -> np.ndarray:
    array = payload.finite(example.activations, what=f"{what} activations")
    if array.shape != (len(example.token_ids),):
        raise ReportError(f"{what}: an example has {len(example.token_ids)} tokens but activations {array.shape}")
    return array


def _range(feature: Feature, what: str) -> tuple[float, float]:
    """The lowest and highest activation among a feature's examples, and 0."""
    arrays = [_activations(example, what) for example in feature.examples]
    low = min((float(array.min(initial=0.0)) for array in arrays), default=0.0)
    return low, max((float(array.max(initial=0.0)) for array in arrays), default=0.0)


def _focus(example: Example, what: str) -> int:
    activations = _activations(example, what)
    if example.focus is None:
        return int(activations.argmax()) if activations.size else 0
    if not 0 <= example.focus < activations.size:
        raise ReportError(f"{what}: focus {example.focus} is none of an example's {activations.size} tokens")
    return example.focus


def _peak(example: Example, what: str) -> int | None:
    """The token an example was chosen for, if the feature is active there."""
    focus, activations = _focus(example, what), _activations(example, what)
    return focus if activations.size and activations[focus] > 0 else None


def _rule(rule: Rule, what: str) -> dict[str, Any]:
    numbers = ("precision", "recall", "null_precision", "null_recall")
    return {"text": rule.text} | {name: _number(getattr(rule, name), f"{what} rule {name}") for name in numbers}


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
