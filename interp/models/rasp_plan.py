"""Where everything of a RASP program goes in a transformer, and what is to mend in a program that fits none.

Every step has a stretch of the residual stream to itself: a dimension per value, of which one is 1, or for numbers (means,
shares, linear) one dimension that holds the number. Picks, means and shares are heads, maps and linear steps are neurons, each as
early as what it reads allows (after tracr, Lindner et al. 2023, arXiv:2301.05062, section 3).

Must not know: tensors, weights, which edges matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import prod
from typing import Any

from interp.errors import ConfigError
from interp.models.compiled import Spans
from interp.models.rasp import GIVEN, Linear, Map, Mean, Pick, Program, Select, Share, ways

MOST_VALUES = 1000
"""Values of one step, or combinations one map reads, above which a program is refused."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where everything of a program goes.

    values: what each step can be, in the order of its dimensions; for numbers, all that can come up.
    nodes: the component that writes each step, by the edge names of `interp.heads.graph`.
    spans: the dimensions of "bos", "tokens", "indices" and each step.
    """

    program: Program
    vocabulary: tuple[Any, ...]
    length: int
    values: Mapping[str, list[Any]]
    nodes: Mapping[str, str]
    spans: Spans

    def is_number(self, name: str) -> bool:
        """Whether a step is one dimension that holds a number."""
        return _is_number(self.program, name)

    @property
    def labels(self) -> tuple[str, ...]:
        """Of every dimension of the residual stream: "bos", "tokens='a'", or the name of a number."""
        labels = ["bos"]
        for name, values in self.values.items():
            labels += [name] if self.is_number(name) else [f"{name}={value!r}" for value in values]
        return tuple(labels)


def plan(program: Program, vocabulary: Sequence[Any], length: int) -> Plan:
    """Lays out a program for inputs of up to `length` words of the vocabulary.

    Raises ConfigError that lists everything to mend: predicates that are not yes or no, functions that fail on a value, numbers
    where values are needed and the other way round, steps of too many values.
    """
    faults: list[str] = []
    if length < 1 or not vocabulary or len(set(vocabulary)) < len(vocabulary):
        faults.append(f"length={length}, vocabulary={tuple(vocabulary)!r}: give a length of 1 or more and words that all differ")
    values: dict[str, list[Any]] = {"tokens": list(vocabulary), "indices": list(range(length))}
    for name in program.steps:
        if faults and any(source not in values for _, source in ways(program.steps[name])):
            continue  # what it reads is at fault, and said so
        found = _values_of(program, name, values, length)
        faults += found[1]
        if not found[1]:
            values[name] = found[0]
    if faults:
        raise ConfigError("; ".join(faults))
    sizes = {name: 1 if _is_number(program, name) else len(each) for name, each in values.items()}
    return Plan(
        program=program,
        vocabulary=tuple(vocabulary),
        length=length,
        values=values,
        nodes=_nodes(program),
        spans=Spans({"bos": 1} | sizes),
    )


def _is_number(program: Program, name: str) -> bool:
    return isinstance(program.steps.get(name), Mean | Share | Linear)


def _values_of(program: Program, name: str, values: Mapping[str, list[Any]], length: int) -> tuple[list[Any], list[str]]:
    """All values a step can have, and what is wrong with it."""
    step = program.steps[name]
    faults = _wrong_kinds(program, name, values)
    if isinstance(step, Pick | Mean | Share):
        faults += _wrong_predicate(name, step.select, values)
    if faults:
        return [], faults
    found: list[Any] = []
    if isinstance(step, Map):
        found, faults = _image(name, step, values)
    elif isinstance(step, Linear):
        sums = product(*([weight * value for value in values[each]] for each, weight in step.weights.items()))
        found = sorted({Fraction(sum(each)) for each in sums})
    elif isinstance(step, Share):
        found = sorted(Fraction(1, 1 + n) for n in range(length + 1))
    elif isinstance(step, Mean):
        found = _means(values[step.values], length)
    elif isinstance(step, Pick):
        found = values[step.values]
    if len(found) > MOST_VALUES:
        faults.append(f"{name} can have {len(found)} values, more than {MOST_VALUES}; use fewer words or a shorter input")
    return found, faults


def _wrong_kinds(program: Program, name: str, values: Mapping[str, list[Any]]) -> list[str]:
    """Numbers where one of several values is needed, and the other way round."""
    step, faults = program.steps[name], []
    for way, source in ways(step):
        number = _is_number(program, source)
        if isinstance(step, Linear):
            wrong = None if number else "adds {} up, which is not a mean or linear; take a Mean of it first"
        elif isinstance(step, Map):
            wrong = "maps {} with other steps, and it is a number; give it a Map of its own first" if number else None
            wrong = wrong if len(step.inputs) > 1 else None
        elif isinstance(step, Mean) and way == "v":
            strange = [value for value in values[source] if not isinstance(value, int | float | Fraction)]
            wrong = f"averages {{}}, which can be {strange[0]!r}; give it numbers, True or False" if strange else None
        else:
            role = {"q": "selects by", "k": "selects by", "v": "picks"}[way]
            wrong = f"{role} {{}}, which is a number; turn it into values with a Map first" if number else None
        faults += [f"{name} {wrong.format(source)}"] if wrong else []
    return faults


def _wrong_predicate(name: str, select: Select, values: Mapping[str, list[Any]]) -> list[str]:
    """The first pair on which a predicate fails or says something other than yes or no."""
    for key, query in product(values[select.keys], values[select.queries]):
        try:
            answer = select.predicate(key, query)
        except Exception as error:
            return [f"{name}: the predicate fails for key {key!r} and query {query!r}: {type(error).__name__}: {error}"]
        if not isinstance(answer, bool):
            return [f"{name}: the predicate gives {answer!r} for key {key!r} and query {query!r}; return True or False"]
    return []


def _image(name: str, step: Map, values: Mapping[str, list[Any]]) -> tuple[list[Any], list[str]]:
    columns = [values[each] for each in step.inputs]
    combinations = prod(len(each) for each in columns)
    if combinations > MOST_VALUES:
        return [], [f"{name} reads {combinations} combinations of values, more than {MOST_VALUES}; map fewer steps at a time"]
    found: dict[Any, None] = {}
    for row in product(*columns):
        try:
            found[step.function(*row)] = None
        except Exception as error:
            return [], [f"{name}: the function fails for {', '.join(map(repr, row))}: {type(error).__name__}: {error}"]
    found.pop(None, None)
    return list(found), [] if found else [f"{name} is None whatever it reads; let it give a value"]


def _means(values: Sequence[Any], length: int) -> list[Fraction]:
    """Every mean of up to `length` of the values, or of None, which counts as 0."""
    sums, found = {Fraction(0)}, {Fraction(0)}
    for n in range(1, length + 1):
        sums = {total + Fraction(value) for total in sums for value in [0, *values]}
        found |= {total / n for total in sums}
    return sorted(found)


def _nodes(program: Program) -> dict[str, str]:
    """The component of each step: as early as what it reads allows, heads before the MLP of their layer."""
    when: dict[str, int] = dict.fromkeys(GIVEN, -1)
    heads: dict[int, int] = {}
    nodes: dict[str, str] = dict.fromkeys(("bos", *GIVEN), "input")
    for name, step in program.steps.items():
        ready = max(when[source] for _, source in ways(step)) + 1
        if isinstance(step, Map | Linear):
            when[name] = ready if ready % 2 else ready + 1
            nodes[name] = f"m{when[name] // 2}"
        else:
            when[name] = ready if ready % 2 == 0 else ready + 1
            layer = when[name] // 2
            nodes[name] = f"a{layer}.h{heads.get(layer, 0)}"
            heads[layer] = heads.get(layer, 0) + 1
    return nodes


def place(node: str) -> tuple[int, int]:
    """Layer and head of "a1.h0"; the layer of "m1" and 0."""
    layer, _, head = node[1:].partition(".h")
    return int(layer), int(head or 0)


def component_order(node: str) -> int:
    """When a component computes: those with a smaller number before those with a larger."""
    return -1 if node == "input" else 2 * place(node)[0] + node.startswith("m")
