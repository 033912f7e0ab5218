"""RASP: programs over sequences that a transformer can run, and their interpreter (Weiss et al. 2021, arXiv:2106.06981).

A `Program` is a list of named steps. Each has one value per position, made from the values of earlier steps by name; "tokens" and
"indices" are there from the start, and the last step is the output::

    reverse = Program(
        length=Width(Select("indices", "indices", always)),
        opposite=Map(lambda length, i: length - 1 - i, "length", "indices"),
        reversed=Pick(Select("indices", "opposite", equal), "tokens"),
    )

Values are None where there are none: where nothing is selected, and at BOS, which stands before every input. A map of None is
None, a mean counts it as 0, and it is never selected. Means and shares are exact fractions.

Must not know: tensors, how programs become weights.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from interp.errors import ConfigError
from interp.names import did_you_mean

GIVEN = ("tokens", "indices")
Trace = Mapping[str, Sequence[Any]]
"""Values of every step, by name: at BOS, then at each word."""


def equal(key: Any, query: Any) -> bool:
    """Whether key and query are the same."""
    return key == query


def always(key: Any, query: Any) -> bool:
    """True: every position is selected."""
    return True


def up_to(key: Any, query: Any) -> bool:
    """Whether the key is the query or smaller."""
    return key <= query


def before(key: Any, query: Any) -> bool:
    """Whether the key is smaller than the query."""
    return key < query


@dataclass(frozen=True)
class Select:
    """For each query position, the key positions for which `predicate(key, query)` holds."""

    keys: str
    queries: str
    predicate: Callable[[Any, Any], bool]


@dataclass(frozen=True)
class Pick:
    """The value that is selected: None where nothing is. It must not select several that differ."""

    select: Select
    values: str


@dataclass(frozen=True)
class Mean:
    """The mean of the values selected, which are numbers: 0 where nothing is."""

    select: Select
    values: str


@dataclass(frozen=True)
class Share:
    """1/(1 + number of positions selected): the attention BOS gets when it is as welcome as they are."""

    select: Select


@dataclass(frozen=True)
class Width:
    """How many positions are selected. Becomes a Share, and a Map that inverts it."""

    select: Select


@dataclass(frozen=True, init=False)
class Map:
    """A function of the values at the same position, of one step or of several."""

    function: Callable[..., Any]
    inputs: tuple[str, ...]

    def __init__(self, function: Callable[..., Any], *inputs: str) -> None:
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "inputs", inputs)


@dataclass(frozen=True, init=False)
class Linear:
    """Σ weight · value over steps that are numbers (means, or linear themselves): `Linear(opens=1, closes=-1)`."""

    weights: Mapping[str, float]

    def __init__(self, **weights: float) -> None:
        object.__setattr__(self, "weights", weights)


Step = Pick | Mean | Share | Width | Map | Linear


@dataclass(frozen=True)
class Read:
    """One step's reading of another: `way` is "q", "k", "v" of an aggregate's head, or "" of a map."""

    reader: str
    way: str
    source: str


class Program:
    """Named steps in order; the last is the output.

    steps: the steps with every Width taken apart into "1/(1+name)" and its map.
    Raises ConfigError that lists all names unknown, used before their step or taken already, and all steps whose values go
    nowhere.
    """

    def __init__(self, **steps: Step) -> None:
        faults = _faults(steps)
        if faults:
            raise ConfigError("; ".join(faults))
        self.steps: dict[str, Step] = {}
        for name, step in steps.items():
            if isinstance(step, Width):
                self.steps[f"1/(1+{name})"] = Share(step.select)
                step = Map(_width, f"1/(1+{name})")
            self.steps[name] = step
        self.output = list(steps)[-1]

    @property
    def reads(self) -> tuple[Read, ...]:
        """Every reading of a step by another, in order."""
        return tuple(Read(name, way, source) for name, step in self.steps.items() for way, source in ways(step))


def ways(step: Step) -> list[tuple[str, str]]:
    """What a step reads, as (way, name of the step read)."""
    if isinstance(step, Map):
        return [("", each) for each in step.inputs]
    if isinstance(step, Linear):
        return [("", each) for each in step.weights]
    selected = [("q", step.select.queries), ("k", step.select.keys)]
    return selected if isinstance(step, Share | Width) else [*selected, ("v", step.values)]


def evaluate(
    program: Program,
    words: Sequence[Any],
    *,
    replaced: Mapping[Read, Sequence[Any]] | None = None,
    at_bos: Mapping[str, Any] | None = None,
) -> dict[str, list[Any]]:
    """The values of every step for these words, BOS first.

    replaced: what readings get in the place of this run's values. A reading of "bos" by keys stands for the resting place of a
    head: without it, a query that selects nothing is spread evenly over all positions, BOS too.
    at_bos: values that stand at BOS in the place of None.
    Raises ConfigError where a Pick selects several values that differ.
    """
    replaced = replaced or {}
    trace: dict[str, list[Any]] = {"tokens": [None, *words], "indices": [None, *range(len(words))]}
    for name, step in program.steps.items():
        read = {(way, source): replaced.get(Read(name, way, source), trace[source]) for way, source in ways(step)}
        if isinstance(step, Map):
            values = [None if None in row else step.function(*row) for row in zip(*read.values(), strict=True)]
        elif isinstance(step, Linear):
            weighted = [[weight * (x or 0) for x in read["", each]] for each, weight in step.weights.items()]
            values = [sum(row) for row in zip(*weighted, strict=True)]
        else:
            assert not isinstance(step, Width)
            values = _aggregated(name, step, read, replaced)
        trace[name] = [(at_bos or {}).get(name), *values[len(values) - len(words) :]]
    return trace


def _aggregated(
    name: str, step: Pick | Mean | Share, read: Mapping[tuple[str, str], Sequence[Any]], replaced: Collection[Read]
) -> list[Any]:
    """What every word gets of the positions it attends to."""
    select = step.select
    keys, queries = read["k", select.keys], read["q", select.queries]
    restless = Read(name, "k", "bos") in replaced
    everywhere = list(range(len(keys)))
    selected = [[j for j in everywhere if None not in (keys[j], i) and select.predicate(keys[j], i)] for i in queries[1:]]
    spread = [restless and not at for at in selected]
    if isinstance(step, Share):
        blind = Read(name, "v", "bos") in replaced
        return [_share(len(at), len(keys), restless, blind) for at in selected]
    values = read["v", step.values]
    attended = [everywhere if even else at for at, even in zip(selected, spread, strict=True)]
    if isinstance(step, Mean):
        return [sum((Fraction(values[j] or 0) for j in at), Fraction(0)) / max(len(at), 1) for at in attended]
    return [_only(name, [values[j] for j in at]) for at in attended]


def _share(selected: int, positions: int, restless: bool, blind: bool) -> Fraction:
    """What BOS gets of the attention: nothing beside others, when it is not welcome; what is read of it is 0 when blind."""
    if blind or (restless and selected):
        return Fraction(0)
    return Fraction(1, positions if restless else 1 + selected)


def _only(name: str, picked: list[Any]) -> Any:
    """The one value among those picked; None if there are none."""
    different = set(picked)
    if len(different) > 1:
        shown = " and ".join(map(repr, sorted(different, key=repr)))
        raise ConfigError(f"{name} picks {shown} at one position; select positions of one value, or use Mean")
    return picked[0] if picked else None


def _width(share: Fraction) -> int | None:
    """The number of positions that leave BOS this share; None for no share at all, which no number leaves it."""
    return int(1 / share) - 1 if share else None


def _faults(steps: Mapping[str, Step]) -> list[str]:
    if not steps:
        return ["a program without steps; give at least one"]
    faults, used = [], set()
    for place, (name, step) in enumerate(steps.items()):
        if name in GIVEN:
            faults.append(f"{name}: the name is taken by the input; choose another")
        known = [*GIVEN, *list(steps)[:place]]
        for _, source in ways(step):
            used.add(source)
            if source in known:
                continue
            later = source in steps
            why = "it comes later; move it up" if later else f"no step has that name{did_you_mean(source, known)}"
            faults.append(f"{name} reads {source!r}: {why}")
        if not ways(step):
            faults.append(f"{name} reads nothing; give it the names of steps")
    unused = [name for name in list(steps)[:-1] if name not in used]
    return [*faults, *(f"{name} is read by no step; drop it" for name in unused)]
