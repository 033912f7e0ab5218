"""RASP programs: what the language means, what its faults are called, and that weights and circuits follow from the program."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from functools import cache

import edges_by_hand as by_hand
import pytest
import torch

from interp.errors import ConfigError
from interp.models.rasp import (
    Linear,
    Map,
    Mean,
    Pick,
    Program,
    Read,
    Select,
    Width,
    always,
    before,
    equal,
    evaluate,
)
from interp.models.rasp_circuits import CompiledProgram, compile_program, compiled_task
from interp.models.rasp_plan import plan
from interp.models.rasp_programs import TASKS

EVERYWHERE = Select("indices", "indices", always)


def output(name: str, words: str) -> list:
    program = TASKS[name].program
    return evaluate(program, tuple(words))[program.output][1:]


def balanced(words: str) -> bool:
    height = 0
    for word in words:
        height += 1 if word == "(" else -1
        if height < 0:
            return False
    return height == 0


def by_frequency(words: str) -> list[str]:
    counts = Counter(words)
    order = sorted(counts, key=lambda word: (-counts[word], words.index(word)))
    return order + ["-"] * (len(words) - len(order))


OBVIOUS = {
    "hist": lambda words: [words.count(word) for word in words],
    "reverse": lambda words: list(words[::-1]),
    "sort": sorted,
    "frac_prevs": lambda words: [Fraction(words[: i + 1].count("x"), i + 1) for i in range(len(words))],
    "most_freq": by_frequency,
    "brackets": lambda words: [balanced(words)] * len(words),
}


compiled = cache(compiled_task)


@pytest.fixture(params=TASKS)
def case(request) -> tuple[str, CompiledProgram]:
    return request.param, compiled(request.param)


# ---- the language ----


def test_every_program_computes_what_plain_python_does(case):
    name, program = case
    for length in (1, 2, program.plan.length):
        for words in program.inputs(length):
            assert output(name, "".join(words)) == OBVIOUS[name]("".join(words))


def test_nothing_selected_is_none_for_a_pick_and_zero_for_a_mean():
    nothing = Select("tokens", "tokens", lambda key, query: False)
    assert evaluate(Program(mean=Mean(nothing, "indices")), "ab")["mean"][1:] == [0, 0]
    assert evaluate(Program(picked=Pick(nothing, "tokens"), out=Map(str.upper, "picked")), "ab")["out"][1:] == [None, None]


def test_a_share_is_what_bos_keeps_and_a_width_inverts_it():
    program = Program(count=Width(EVERYWHERE))
    trace = evaluate(program, "abc")
    assert trace["1/(1+count)"][1:] == [Fraction(1, 4)] * 3
    assert trace["count"] == [None, 3, 3, 3]


def test_a_pick_of_several_different_values_says_so():
    program = Program(out=Pick(EVERYWHERE, "tokens"))
    assert evaluate(program, "aa")["out"][1:] == ["a", "a"]
    with pytest.raises(ConfigError, match=r"out picks 'a' and 'b' at one position; select positions of one value, or use Mean"):
        evaluate(program, "ab")


def test_replaced_readings_change_one_reader_and_no_other():
    program = Program(
        left=Map(str.upper, "tokens"), right=Map(str.upper, "tokens"), both=Map(lambda a, b: a + b, "left", "right")
    )
    trace = evaluate(program, "ab", replaced={Read("left", "", "tokens"): [None, "x", "y"]})
    assert trace["both"][1:] == ["XA", "YB"]


def test_all_faults_of_a_program_are_listed_at_once():
    with pytest.raises(ConfigError) as caught:
        Program(
            tokens=Map(str.upper, "indices"),
            unused=Map(str.upper, "tokens"),
            early=Map(str.upper, "late"),
            late=Map(str.upper, "tokenz"),
            out=Linear(),
        )
    text = str(caught.value)
    assert "tokens: the name is taken by the input; choose another" in text
    assert "early reads 'late': it comes later; move it up" in text
    assert "late reads 'tokenz': no step has that name (did you mean tokens?)" in text
    assert "unused is read by no step; drop it" in text
    assert "out reads nothing; give it the names of steps" in text
    with pytest.raises(ConfigError, match="a program without steps; give at least one"):
        Program()


# ---- what the compiler refuses ----


def test_all_faults_of_a_plan_are_listed_at_once():
    program = Program(
        share=Mean(EVERYWHERE, "tokens"),
        sized=Pick(Select("indices", "indices", lambda key, query: key - query), "tokens"),
        mapped=Map(lambda token: 1 / 0, "tokens"),
        compared=Pick(Select("tokens", "indices", before), "tokens"),
        out=Map(lambda *values: 0, "share", "sized", "mapped", "compared"),
    )
    with pytest.raises(ConfigError) as caught:
        plan(program, "ab", 3)
    text = str(caught.value)
    assert "share averages tokens, which can be 'a'; give it numbers, True or False" in text
    assert "sized: the predicate gives 0 for key 0 and query 0; return True or False" in text
    assert "mapped: the function fails for 'a': ZeroDivisionError: division by zero" in text
    assert "compared: the predicate fails for key 'a' and query 0: TypeError" in text
    assert "out" not in text.replace("without", "")  # what it reads is at fault, not it


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            Program(count=Width(EVERYWHERE), out=Linear(count=1)),
            "out adds count up, which is not a mean or linear; take a Mean of it first",
        ),
        (
            Program(half=Mean(EVERYWHERE, "indices"), out=Map(lambda a, b: a, "half", "indices")),
            "out maps half with other steps, and it is a number; give it a Map of its own first",
        ),
        (
            Program(half=Mean(EVERYWHERE, "indices"), out=Pick(Select("half", "half", equal), "tokens")),
            "out selects by half, which is a number; turn it into values with a Map first",
        ),
        (
            Program(half=Mean(EVERYWHERE, "indices"), out=Pick(EVERYWHERE, "half")),
            "out picks half, which is a number; turn it into values with a Map first",
        ),
        (Program(out=Map(lambda token: None, "tokens")), "out is None whatever it reads; let it give a value"),
        (
            Program(out=Map(lambda *values: 0, *["indices"] * 7)),
            "out reads 2187 combinations of values, more than 1000; map fewer steps at a time",
        ),
    ],
)
def test_a_step_that_no_component_can_be_says_how_to_mend_it(program, message):
    with pytest.raises(ConfigError) as caught:
        plan(program, "ab", 3)
    assert message in str(caught.value)


def test_a_program_with_one_output_for_all_inputs_has_no_circuit():
    with pytest.raises(ConfigError, match="the output 'length' is the same for nearly all inputs; there is no circuit to find"):
        compile_program(Program(length=Width(EVERYWHERE)), "ab", 3, name="length", description="")


def test_unknown_programs_words_and_bad_vocabularies_are_refused():
    with pytest.raises(ConfigError, match=r"no program 'histo' \(did you mean hist\?\); there are hist, reverse"):
        compiled_task("histo")
    with pytest.raises(ConfigError, match="no word 'z'; the words are 'a', 'b', 'c'"):
        compiled("hist").encode([("a", "z")])
    with pytest.raises(ConfigError, match="give a length of 1 or more and words that all differ"):
        plan(TASKS["hist"].program, "aa", 3)


# ---- weights ----


def test_the_model_gives_the_program_s_output_on_every_input_of_every_length(case):
    _, program = case
    for length in range(1, program.plan.length + 1):
        assert program.error(program.inputs(length)) < 1e-4


def test_another_program_s_output_is_not_the_model_s():
    reverse, sort = compiled("reverse"), compiled("sort")
    inputs = reverse.inputs()
    logits = reverse.compiled.model.run(reverse.encode(inputs)).logits[:, 1:]
    assert float((logits - sort.expected(inputs)).abs().max()) > 0.9


def test_every_dimension_holds_what_its_label_says(case):
    _, program = case
    planned, model = program.plan, program.compiled.model
    words = program.inputs()[-2]
    written = by_hand.writes(model, program.encode([words]))
    stream = torch.stack(list(written.values())).sum(0)[0] + model.b_O.sum(0)
    trace = evaluate(planned.program, words)
    for name, values in planned.values.items():
        held = stream[:, planned.spans[name]]
        for position, value in enumerate(trace[name][1:], 1):
            if planned.is_number(name):
                assert float(held[position, 0]) == pytest.approx(float(value), abs=1e-4)
            else:
                expected = torch.tensor([float(value is not None and value == each) for each in values])
                torch.testing.assert_close(held[position], expected, atol=1e-4, rtol=0)
    assert len(program.compiled.labels) == model.d_model
    assert program.compiled.labels[:2] == ("bos", f"tokens={planned.vocabulary[0]!r}")


# ---- circuits ----


def test_exactly_the_edges_that_follow_from_the_program_matter(case):
    name, program = case
    truth = program.compiled
    contrast = truth.contrast(64, seed=1)
    for ablation, circuit in truth.circuits.items():
        within = by_hand.effects(truth.model, contrast, ablation, circuit)
        assert min(float(effect.abs().max()) for effect in within.values()) > 0.1, ablation
        others = [edge for edge in by_hand.edges(truth.model) if edge not in circuit]
        beside = by_hand.effects(truth.model, contrast[:16], ablation, others[:: 6 if name == "brackets" else 1])
        assert max(float(effect.abs().max()) for effect in beside.values()) < 1e-4, ablation


def test_reversal_has_two_edges_by_resampling_and_nine_by_zero():
    """Two, as published for tracr's (Conmy et al. 2023, arXiv:2304.14997). By zero ten there, nine here: keys that are all
    selected attend as evenly as keys, and BOS, that are all zero."""
    circuits = compiled("reverse").compiled.circuits
    assert circuits["corrupt"] == {"input->a2.h0<v>", "a2.h0->logits"}
    assert len(circuits["zero"]) == 9 and "input->a0.h0<k>" not in circuits["zero"]


def test_no_circuit_for_means_is_declared_where_means_are_compared():
    declared = {name: "mean" in compiled(name).compiled.circuits for name in ("hist", "frac_prevs", "brackets")}
    assert declared == {"hist": True, "frac_prevs": True, "brackets": False}


def test_contrasts_are_asked_where_the_outputs_differ(case):
    truth = case[1].compiled
    contrast, model = truth.contrast(20, seed=2), truth.model
    clean = contrast.logit_difference(model.run(contrast.clean).logits)
    twin = contrast.logit_difference(model.run(contrast.corrupt).logits)
    assert torch.all((clean - twin).abs() > 0.01)
    assert torch.equal(contrast.clean, truth.contrast(20, seed=2).clean)
