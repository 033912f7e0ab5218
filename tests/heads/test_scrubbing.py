"""Causal scrubbing keeps what a true hypothesis says, and loses what a false one leaves out."""

import pytest
import torch
from model_shapes import case_of

from interp.errors import ConfigError, ModelError
from interp.heads import scrubbing
from interp.heads.graph import Graph
from interp.models import compiled
from interp.tasks.contrast import Contrast

METRIC = Contrast.logit_difference


@pytest.fixture(scope="module")
def built():
    return compiled.induction()


@pytest.fixture(scope="module")
def contrast(built):
    return built.contrast(1500, seed=0)


def last(contrast):
    return contrast.clean[:, -1]


def match(contrast):
    """The last token, and where it stood before; −1 if nowhere."""
    seen = contrast.clean[:, :-1] == contrast.clean[:, -1:]
    return torch.stack([last(contrast), torch.where(seen.any(1), seen.int().argmax(1), -1)], 1)


def answer(contrast):
    return contrast.answers


TRUE = {
    "a1.h0->logits": answer,
    "input->a1.h0<q>": last,
    "a0.h0->a1.h0<k>": match,
    "input->a0.h0<v>": match,
    "input->a1.h0<v>": lambda contrast: torch.stack([match(contrast)[:, 1], answer(contrast)], 1),
}


def recovered(built, contrast, hypothesis):
    return scrubbing.scrub(built.model, contrast, METRIC, hypothesis).recovered()


def test_a_true_hypothesis_recovers_all(built, contrast):
    assert recovered(built, contrast, TRUE).value == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "false",
    [
        {"a0.h0->a1.h0<k>": last},  # where the token stood does not matter
        {"input->a1.h0<v>": last},  # what followed does not matter
        {"a1.h0->logits": lambda contrast: contrast.clean[:, 1]},  # the answer does not matter
    ],
)
def test_a_false_hypothesis_does_not(false, built, contrast):
    found = recovered(built, contrast, TRUE | false)
    assert found.high < 0.3


def test_a_decoy_in_the_place_of_the_head_recovers_little(built, contrast):
    swapped = {name.replace("a0.h0", "a0.h1"): label for name, label in TRUE.items()}
    assert recovered(built, contrast, swapped).high < 0.3


def test_a_hypothesis_that_names_nothing_is_as_good_as_another_input(built, contrast):
    assert abs(recovered(built, contrast, {}).value) < 0.1


@pytest.mark.parametrize("shape", ["native", "gated", "neox"])
def test_with_one_input_to_draw_from_nothing_changes(shape):
    case = case_of(shape)
    one = Contrast(clean=case.tokens[:1], corrupt=case.tokens[1:], answers=torch.tensor([3]))
    edges = [edge for edge in Graph.of(case.model).edges if edge.source == "input" or edge.target == "logits"]
    hypothesis: scrubbing.Hypothesis = {edge: lambda contrast: contrast.clean for edge in edges}
    found = scrubbing.scrub(case.model, one, Contrast.answer_logit, hypothesis)
    assert found.scrubbed == pytest.approx(found.model, abs=1e-4)


@pytest.mark.parametrize(
    ("shape", "hypothesis", "error", "fault"),
    [
        ("native", {"a7.h0->logits": last}, ModelError, "no edge 'a7.h0->logits'"),
        ("native", {"input->a0.h0<q>": last}, ModelError, "names input->a0.h0<q>, but no edge out of a0.h0; name"),
        ("native", {"m1->logits": lambda c: c.clean[:1]}, ConfigError, "the label of m1->logits is not one row of numbers per"),
        ("bert", {"m1->logits": last}, ModelError, "has several streams, or norms between sublayers"),
        ("t5", {"dec.m1->logits": last}, ModelError, "has several streams, or norms between sublayers"),
    ],
)  # fmt: skip
def test_what_cannot_be_scrubbed_is_refused(shape, hypothesis, error, fault):
    case = case_of(shape)
    both = Contrast(clean=case.tokens, corrupt=case.tokens.flip(1), answers=torch.tensor([3, 4]), beside=case.beside)
    with pytest.raises(error, match=fault):
        scrubbing.scrub(case.model, both, Contrast.answer_logit, hypothesis)
