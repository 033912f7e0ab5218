"""RASP programs as transformer weights (after tracr, Lindner et al. 2023, arXiv:2301.05062, section 3).

A head's query stands for one value per dimension, its key for the values that are selected; it rests on BOS, whose score is half
that of what is selected. A map has a neuron per combination of values; a map of a number has a ramp between two neighbouring
numbers wherever the result changes. Attention looks both ways, there are no norms.

Must not know: analyses, reports, which edges matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, product
from typing import Any

import torch

from interp.models.compiled import BOS, blank_module, head_weights
from interp.models.hooked import Model
from interp.models.rasp import Linear, Map, Mean, Pick, Share
from interp.models.rasp_plan import Plan, place

SHARPNESS = 50.0
"""Attention score of what is selected; what is not scores 0. Both are exact to exp(−25)."""
BOS_SHARE = Fraction(1)
"""What BOS, which sees only itself, gets of its own attention."""


def build(planned: Plan, *, name: str) -> Model:
    """The model of a plan. Token 0 is BOS, token i + 1 word i; logit i of a position is 1 for value i of the output and 0 for the
    others, or logit 0 is the number. Inputs are BOS and up to `length` words."""
    neurons = [_neurons(planned, layer) for layer in range(_layers(planned))]
    module = blank_module(_shape(planned, max(len(each) for each in neurons)))
    spans, output = planned.spans, planned.program.output
    with torch.no_grad():
        module.tok_embed.weight[BOS, spans["bos"]] = 1
        module.tok_embed.weight[1 : len(planned.vocabulary) + 1, spans["tokens"]] = torch.eye(len(planned.vocabulary))
        module.pos.weight[1:, spans["indices"]] = torch.eye(planned.length)
        for step in planned.program.steps:
            if planned.nodes[step].startswith("a"):
                _write_head(module, planned, step)
        for layer, each in enumerate(neurons):
            _write_neurons(module.layers[layer].mlp, each)
        width = spans.size(output)
        module.head.weight[:width, spans[output]] = torch.eye(width)
    return Model.wrap(module.eval(), name=name)


def _layers(planned: Plan) -> int:
    return 1 + max(place(planned.nodes[step])[0] for step in planned.program.steps)


def _shape(planned: Plan, d_mlp: int) -> dict[str, Any]:
    heads = [step for step in planned.program.steps if planned.nodes[step].startswith("a")]
    sizes = [planned.spans.size(step) for step in heads]
    for step in heads:
        select = getattr(planned.program.steps[step], "select")  # noqa: B009
        sizes.append(planned.spans.size(select.queries) + 1)
    return {
        "n_layers": _layers(planned),
        "n_heads": 1 + max((place(planned.nodes[step])[1] for step in heads), default=0),
        "d_model": planned.spans.width,
        "d_head": max(sizes, default=1),
        "d_mlp": max(d_mlp, 1),
        "n_ctx": planned.length + 1,
        "d_vocab": max(len(planned.vocabulary) + 1, planned.spans.size(planned.program.output)),
        "attention_dir": "bidirectional",
    }


# ---- the weights ----


def _write_head(module: Any, planned: Plan, name: str) -> None:
    """One head: query dimension i stands for value i of the queries, the last one for every position's wish to rest on BOS."""
    step, spans = planned.program.steps[name], planned.spans
    assert isinstance(step, Pick | Mean | Share)
    layer, head = place(planned.nodes[name])
    attn = module.layers[layer].attn
    weights = head_weights(attn, head)
    keys, queries = planned.values[step.select.keys], planned.values[step.select.queries]
    rest = len(queries)
    weights.q[:rest, spans[step.select.queries]] = SHARPNESS * attn.scale * torch.eye(rest)
    attn.q.bias[head * attn.d_head + rest] = SHARPNESS * attn.scale
    chosen = [[float(step.select.predicate(key, query)) for key in keys] for query in queries]
    weights.k[:rest, spans[step.select.keys]] = torch.tensor(chosen)
    weights.k[rest, spans["bos"]] = 1.0 if isinstance(step, Share) else 0.5
    if isinstance(step, Pick):
        size = spans.size(step.values)
        weights.v[:size, spans[step.values]] = torch.eye(size)
        weights.o[spans[name], :size] = torch.eye(size)
        return
    read = "bos" if isinstance(step, Share) else step.values
    amounts = [1.0] if read == "bos" or planned.is_number(read) else [float(value) for value in planned.values[read]]
    weights.v[0, spans[read]] = torch.tensor(amounts)
    weights.o[spans[name], 0] = 1.0


@dataclass(frozen=True)
class _Neuron:
    """relu(Σ reads + bias) times what it writes, by residual dimension."""

    reads: Mapping[int, float]
    bias: float
    writes: Mapping[int, float]


def _write_neurons(mlp: Any, neurons: Sequence[_Neuron]) -> None:
    for i, neuron in enumerate(neurons):
        mlp.fc_in.bias[i] = neuron.bias
        for dimension, weight in neuron.reads.items():
            mlp.fc_in.weight[i, dimension] = weight
        for dimension, weight in neuron.writes.items():
            mlp.fc_out.weight[dimension, i] = weight


def _neurons(planned: Plan, layer: int) -> list[_Neuron]:
    """All neurons of one layer, step by step."""
    neurons: list[_Neuron] = []
    for name, step in planned.program.steps.items():
        if planned.nodes[name] != f"m{layer}":
            continue
        if isinstance(step, Linear):
            neurons += _linear(planned, name, step)
        elif isinstance(step, Map):
            number = planned.is_number(step.inputs[0])
            neurons += _ramps(planned, name, step) if number else _combinations(planned, name, step)
    return neurons


def _linear(planned: Plan, name: str, step: Linear) -> list[_Neuron]:
    """x = relu(x) − relu(−x)."""
    target = planned.spans[name].start
    return [
        _Neuron({planned.spans[each].start: sign * weight for each, weight in step.weights.items()}, 0.0, {target: sign})
        for sign in (1.0, -1.0)
    ]


def _combinations(planned: Plan, name: str, step: Map) -> list[_Neuron]:
    """A neuron per combination of values: relu(2 Σ x − 2k + 1) is 1 where all k are there, and 0 where one is missing."""
    neurons = []
    for row in product(*(range(len(planned.values[each])) for each in step.inputs)):
        value = step.function(*(planned.values[each][i] for each, i in zip(step.inputs, row, strict=True)))
        if value is not None:
            reads = {planned.spans[each].start + i: 2.0 for each, i in zip(step.inputs, row, strict=True)}
            neurons.append(_Neuron(reads, 1.0 - 2 * len(row), {_target(planned, name, value): 1.0}))
    return neurons


def _ramps(planned: Plan, name: str, step: Map) -> list[_Neuron]:
    """A function of a number x as a staircase: a constant, and between neighbours where the result changes, a ramp from 0 to 1.

    At BOS the result must be nothing. Where x says that it is BOS the staircase does; where not, BOS silences the neurons.
    """
    source, bos = planned.spans[step.inputs[0]].start, planned.spans["bos"].start
    stairs = staircase(planned, name)
    silenced = gated(planned, name)
    writes = {} if stairs[0][1] is None else {_target(planned, name, stairs[0][1]): 1.0}
    neurons = [_Neuron({bos: -1.0} if silenced else {}, 1.0, writes)]
    for (left, old), (right, new) in pairwise(stairs):
        if old == new:
            continue
        slope = 2 / float(right - left)
        middle = float(left + right) / 2
        change = {} if new is None else {_target(planned, name, new): 1.0}
        change |= {} if old is None else {_target(planned, name, old): -1.0}
        for half, sign in ((0.5, 1.0), (-0.5, -1.0)):
            bias = half - slope * middle
            highest = slope * float(stairs[-1][0]) + bias
            reads = {source: slope} | ({bos: -highest - 1} if silenced else {})
            neurons.append(_Neuron(reads, bias, {at: sign * weight for at, weight in change.items()}))
    return neurons


def staircase(planned: Plan, name: str) -> list[tuple[Fraction, Any]]:
    """A map of a number as (number, result) in order.

    With two numbers that no word has: what BOS has, whose result is None unless words have it too, and 0, the absence of any.
    """
    step = planned.program.steps[name]
    assert isinstance(step, Map)
    results = {value: step.function(value) for value in [Fraction(0), *planned.values[step.inputs[0]]]}
    return sorted(({_at_bos(planned, step): None} | results).items())


def gated(planned: Plan, name: str) -> bool:
    """Whether a step is a map of a number that gives BOS a result unless BOS silences its neurons."""
    step = planned.program.steps[name]
    if not isinstance(step, Map) or not planned.is_number(step.inputs[0]):
        return False
    return dict(staircase(planned, name))[_at_bos(planned, step)] is not None


def _at_bos(planned: Plan, step: Map) -> Fraction:
    return BOS_SHARE if isinstance(planned.program.steps[step.inputs[0]], Share) else Fraction(0)


def _target(planned: Plan, name: str, value: Any) -> int:
    return planned.spans[name].start + planned.values[name].index(value)
