"""Compiled programs with their circuits, which follow from the program and are not looked for in the weights.

An edge carries what some steps read of others. What becomes of the output when these readings get the corrupted twin's values,
or nothing at all, the program itself says (`evaluate` with `replaced`). Besides what its steps read, every head reads BOS as its
resting place, and a map of a number that would have a result at BOS reads that it stands there.

Must not know: analyses, reports, weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import product
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import stats
from interp.errors import ConfigError
from interp.models.compiled import BOS, Ablation, Compiled
from interp.models.rasp import Linear, Map, Mean, Program, Read, Share, Trace, evaluate
from interp.models.rasp_compiler import BOS_SHARE, build, gated
from interp.models.rasp_plan import Plan, component_order, plan
from interp.models.rasp_programs import TASKS
from interp.names import did_you_mean
from interp.tasks.contrast import Contrast

PAIRS = 64
"""Inputs and twins on which the program is asked which edges matter."""
TRIES = 300
"""Inputs drawn for the first pair before giving up on a program whose output hardly changes; for every further one a tenth."""

Words = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class CompiledProgram:
    """A program, its model and its circuits.

    carried: the readings that every edge in use carries; a source "bos" is the resting place of heads, or what silences maps.
    """

    plan: Plan
    compiled: Compiled
    carried: dict[str, tuple[Read, ...]]

    def encode(self, inputs: Sequence[Words]) -> Int[Tensor, "example pos"]:
        """Tokens of inputs of equal length: BOS, then the words. Raises ConfigError for words that are not in the vocabulary."""
        return _encode(self.plan, inputs)

    def expected(self, inputs: Sequence[Words]) -> Float[Tensor, "example word value"]:
        """The logits that the program itself gives at every word: 1 for the output's value, or the number."""
        return _expected(self.plan, inputs)

    def error(self, inputs: Sequence[Words]) -> float:
        """The largest difference between the model's logits and the program's, at every word."""
        logits = self.compiled.model.run(self.encode(inputs)).logits[:, 1:]
        return float((logits - self.expected(inputs)).abs().max())

    def inputs(self, length: int | None = None) -> list[Words]:
        """Every input of a length (without one: of the longest)."""
        return list(product(self.plan.vocabulary, repeat=self.plan.length if length is None else length))


def compile_program(program: Program, vocabulary: Sequence[Any], length: int, *, name: str, description: str) -> CompiledProgram:
    """A program as a model for inputs of up to `length` words, with its circuit for every ablation; for "mean" only where no map
    turns means into values, for there it depends on the twins drawn.

    Raises ConfigError that lists what is to mend in the program (`interp.models.rasp_compiler.plan`), and for a program whose
    output is the same for all inputs, which has no circuit to find.
    """
    planned = plan(program, vocabulary, length)
    carried = _carried(planned)
    pairs = list(_pairs(planned, PAIRS, stats.torch_generator(0, "pairs", name)))

    def which(instead: Callable[[_Pair, Sequence[Read]], dict[Read, Sequence[Any]]]) -> frozenset[str]:
        tried = {edge: any(_matters(planned, pair, instead(pair, reads)) for pair in pairs) for edge, reads in carried.items()}
        return frozenset(edge for edge, matters in tried.items() if matters)

    seen = which(_corrupted)
    circuits: dict[Ablation, frozenset[str]] = {"corrupt": seen, "zero": which(partial(_nothing, planned))}
    if not _is_compared(planned):
        circuits["mean"] = seen
    compiled = Compiled(
        model=build(planned, name=name),
        labels=planned.labels,
        circuits=circuits,
        decoys=_decoys(planned) - circuits["zero"],
        draw=lambda n, generator: _contrast(planned, n, generator),
        description=description,
    )
    return CompiledProgram(plan=planned, compiled=compiled, carried=carried)


def compiled_task(name: str) -> CompiledProgram:
    """One of `interp.models.rasp_programs.TASKS`, compiled. Raises ConfigError, with near names, for another name."""
    if name not in TASKS:
        raise ConfigError(f"no program {name!r}{did_you_mean(name, TASKS)}; there are {', '.join(TASKS)}")
    task = TASKS[name]
    return compile_program(task.program, task.vocabulary, task.length, name=name, description=task.description)


# ---- the circuit ----


@dataclass(frozen=True)
class _Pair:
    """An input and a twin, their traces, and the positions at which their outputs differ."""

    words: Words
    twin: Words
    own: Trace
    other: Trace
    differ: tuple[int, ...]


def _carried(planned: Plan) -> dict[str, tuple[Read, ...]]:
    carried: dict[str, list[Read]] = {}
    for read in [*planned.program.reads, *_of_bos(planned)]:
        source, target = planned.nodes[read.source], planned.nodes[read.reader]
        carried.setdefault(f"{source}->{target}" + (f"<{read.way}>" if read.way else ""), []).append(read)
    output = planned.program.output
    carried[f"{planned.nodes[output]}->logits"] = [Read("logits", "", output)]
    return {edge: tuple(reads) for edge, reads in carried.items()}


def _decoys(planned: Plan) -> frozenset[str]:
    """All edges between components in use."""
    when = {node: component_order(node) for node in planned.nodes.values()}
    edges = [f"{source}->logits" for source in when]
    for source, target in product(when, when):
        if when[source] < when[target]:
            edges += [f"{source}->{target}<{way}>" for way in "qkv"] if target.startswith("a") else [f"{source}->{target}"]
    return frozenset(edges)


def _of_bos(planned: Plan) -> Iterator[Read]:
    for name, step in planned.program.steps.items():
        if planned.nodes[name].startswith("a"):
            yield Read(name, "k", "bos")
        if isinstance(step, Share):
            yield Read(name, "v", "bos")
        if gated(planned, name):
            yield Read(name, "", "bos")


def _corrupted(pair: _Pair, reads: Sequence[Read]) -> dict[Read, Sequence[Any]]:
    return {read: pair.other[read.source] for read in reads if read.source != "bos"}


def _nothing(planned: Plan, pair: _Pair, reads: Sequence[Read]) -> dict[Read, Sequence[Any]]:
    """No value at any position; a number that is not there is 0."""

    def absent(read: Read) -> Any:
        return Fraction(0) if read.source != "bos" and planned.is_number(read.source) else None

    return {read: [absent(read)] * (len(pair.words) + 1) for read in reads}


def _matters(planned: Plan, pair: _Pair, replaced: dict[Read, Sequence[Any]]) -> bool:
    """Whether the output changes where that of the pair differs."""
    program = planned.program
    if any(read.reader == "logits" for read in replaced):
        return True
    at_bos = {read.reader: _result_at_bos(program, read.reader) for read in replaced if read.way == "" and read.source == "bos"}
    try:
        after = evaluate(program, pair.words, replaced=replaced, at_bos=at_bos)[program.output]
    except ConfigError:  # several values at once: whatever comes of it, it is not the output
        return True
    return any(after[at] != pair.own[program.output][at] for at in pair.differ)


def _result_at_bos(program: Program, name: str) -> Any:
    """What a map of a number gives at BOS when nothing tells it that it stands there."""
    step = program.steps[name]
    assert isinstance(step, Map)
    return step.function(BOS_SHARE if isinstance(program.steps[step.inputs[0]], Share) else Fraction(0))


def _is_compared(planned: Plan) -> bool:
    """Whether a map turns means into values: then what their mean over twins does depends on which twins were drawn."""
    steps = planned.program.steps
    return any(
        isinstance(steps.get(source), Mean | Linear) for step in steps.values() if isinstance(step, Map) for source in step.inputs
    )


# ---- contrasts ----


def _pairs(planned: Plan, n: int, generator: torch.Generator) -> Iterator[_Pair]:
    """Inputs of the full length drawn evenly, each with another whose output differs somewhere."""
    output, found = planned.program.output, 0
    for _ in range(TRIES + TRIES // 10 * n):
        own, other = (_draw(planned, generator) for _ in range(2))
        traces = evaluate(planned.program, own), evaluate(planned.program, other)
        ours, theirs = traces[0][output], traces[1][output]
        differ = tuple(i for i in range(1, len(ours)) if ours[i] != theirs[i] and None not in (ours[i], theirs[i]))
        if differ:
            yield _Pair(own, other, *traces, differ)
            found += 1
        if found == n:
            return
    raise ConfigError(f"the output {output!r} is the same for nearly all inputs; there is no circuit to find")


def _draw(planned: Plan, generator: torch.Generator) -> Words:
    picks = torch.randint(len(planned.vocabulary), (planned.length,), generator=generator).tolist()
    return tuple(planned.vocabulary[i] for i in picks)


def _contrast(planned: Plan, n: int, generator: torch.Generator) -> Contrast:
    """Asked at a position where the outputs differ; of numbers, logit 0 is held against another, which is always 0."""
    pairs = list(_pairs(planned, n, generator))
    output = planned.program.output
    at = [pair.differ[int(torch.randint(len(pair.differ), (1,), generator=generator))] for pair in pairs]
    answers, wrong = [0] * n, [1] * n
    if not planned.is_number(output):
        values = planned.values[output]
        answers = [values.index(pair.own[output][i]) for pair, i in zip(pairs, at, strict=True)]
        wrong = [values.index(pair.other[output][i]) for pair, i in zip(pairs, at, strict=True)]
    return Contrast(
        clean=_encode(planned, [pair.words for pair in pairs]),
        corrupt=_encode(planned, [pair.twin for pair in pairs]),
        answers=torch.tensor(answers),
        wrong=torch.tensor(wrong),
        positions=torch.tensor(at),
    )


def _encode(planned: Plan, inputs: Sequence[Words]) -> Int[Tensor, "example pos"]:
    strange = sorted({word for words in inputs for word in words if word not in planned.vocabulary}, key=repr)
    if strange:
        raise ConfigError(f"no word {strange[0]!r}; the words are {', '.join(map(repr, planned.vocabulary))}")
    return torch.tensor([[BOS, *(planned.vocabulary.index(word) + 1 for word in words)] for words in inputs])


def _expected(planned: Plan, inputs: Sequence[Words]) -> Float[Tensor, "example word value"]:
    output = planned.program.output
    logits = torch.zeros(len(inputs), len(inputs[0]), _d_vocab(planned))
    for example, words in enumerate(inputs):
        for i, value in enumerate(evaluate(planned.program, words)[output][1:]):
            if planned.is_number(output):
                logits[example, i, 0] = float(value)
            elif value is not None:
                logits[example, i, planned.values[output].index(value)] = 1.0
    return logits


def _d_vocab(planned: Plan) -> int:
    return max(len(planned.vocabulary) + 1, planned.spans.size(planned.program.output))
