"""Circuits in tokens from thin factors, against the vocabulary-sized matrices they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_shapes import case_of

from interp.errors import ModelError
from interp.heads import composition, qkov
from interp.models import zoo
from interp.models.hooked import Model
from interp.models.norms import folded

SHAPES = ["native", "gated", "llama", "gpt2", "attention-only", "encoder"]


def dense(model: Model, circuit: str, layer: int, head: int) -> torch.Tensor:
    """W_E W_OV W_U or W_E W_QK W_Eᵀ / √d_head as one explicit matrix."""

    def weight(name: str) -> torch.Tensor:
        every = model.weight(f"blocks.{layer}.attn.W_{name}").double()
        own = every[head * len(every) // model.n_heads]
        return own if name == "O" else folded(model, f"blocks.{layer}.ln1", own)

    embedding = model.W_E.double()
    if circuit == "OV":
        return embedding @ weight("V") @ weight("O") @ folded(model, "ln_final", model.W_U.double())
    return embedding @ weight("Q") @ weight("K").T @ embedding.T / model.d_head**0.5


def one(model: Model, circuit: qkov.Circuit, head: qkov.Head) -> composition.Factors:
    return qkov.ov(model, head) if circuit == "OV" else qkov.qk(model, head)


@pytest.mark.parametrize("circuit", ["OV", "QK"])
@pytest.mark.parametrize("shape", SHAPES)
def test_readings_equal_those_of_the_dense_matrix(shape, circuit):
    model = case_of(shape).model
    reading = qkov.Reading(model, circuit)
    for head in range(model.n_heads):
        matrix = dense(model, circuit, 1, head)
        eigenvalues = torch.linalg.eigvals(matrix)
        sign = eigenvalues.real.sum() / eigenvalues.abs().sum()
        values = torch.linalg.svdvals(matrix - matrix.mean(1, keepdim=True))
        rank = values.square().sum() ** 2 / values.pow(4).sum()
        factors = one(model, circuit, (1, head))
        assert float(reading.sign(factors)) == pytest.approx(float(sign), abs=1e-6)
        assert float(reading.rank(factors)) == pytest.approx(float(rank), rel=1e-6)
        torch.testing.assert_close(reading.spectrum(factors).values, values[: model.d_head], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(reading.layer(1).left[head], factors.left[0])


@pytest.mark.parametrize("circuit", ["OV", "QK"])
def test_a_spectrum_adds_up_to_the_circuit_and_its_directions_are_unit_vectors(circuit):
    model = case_of("llama").model
    spectrum = qkov.Reading(model, circuit).spectrum(one(model, circuit, (0, 3)))
    matrix = dense(model, circuit, 0, 3)
    rebuilt = torch.einsum("i,ir,iw->rw", spectrum.values, spectrum.read, spectrum.write)
    torch.testing.assert_close(rebuilt, matrix - matrix.mean(1, keepdim=True))
    for side in (spectrum.read, spectrum.write):
        torch.testing.assert_close(side @ side.T, torch.eye(len(side), dtype=torch.float64))
    assert float(spectrum.shares.sum()) == pytest.approx(1)


def test_what_is_taken_out_changes_no_probability():
    matrix = dense(case_of("native").model, "OV", 0, 0)
    torch.testing.assert_close(matrix.softmax(1), (matrix - matrix.mean(1, keepdim=True)).softmax(1))


def test_both_ends_of_a_direction_are_named_by_what_is_read_and_written():
    spectrum = qkov.Spectrum(torch.tensor([2.0]), torch.tensor([[0.9, -0.4, 0.0]]), torch.tensor([[-0.1, 0.5, -0.8]]))
    assert spectrum.ends(0, 1) == {"+": ([0], [1]), "−": ([1], [2])}


def test_a_chain_of_heads_is_the_product_of_their_matrices():
    model = case_of("llama").model
    parts = [composition.ov_circuit(model, layer) for layer in (0, 1)]
    product = (parts[0].left[2] @ parts[0].right[2]) @ (parts[1].left[1] @ parts[1].right[1])
    chain = qkov.ov(model, (0, 2), (1, 1))
    torch.testing.assert_close((chain.left @ chain.right)[0], product)
    scores = composition.qk_circuit(model, 1)
    through = qkov.qk(model, (1, 3), query_from=[(0, 0)], key_from=[(0, 2)])
    written = [parts[0].left[head] @ parts[0].right[head] for head in (0, 2)]
    expected = written[0] @ scores.left[3] @ scores.right[3] @ written[1].T
    torch.testing.assert_close((through.left @ through.right)[0], expected)


def test_random_heads_are_centred_on_no_sign_and_nearly_full_rank():
    reading = qkov.Reading(case_of("native").model, "OV")
    drawn = qkov.random_heads(case_of("native").model, 400, seed=1)
    assert abs(float(reading.sign(drawn).mean())) < 0.06
    assert 2 < float(reading.rank(drawn).mean()) < 8
    torch.testing.assert_close(drawn.left, qkov.random_heads(case_of("native").model, 400, seed=1).left)


def test_copying_is_the_sign_of_the_ov_circuit_and_matching_that_of_the_qk_circuit():
    model = case_of("gated").model
    readings = qkov.Reading(model, "OV"), qkov.Reading(model, "QK")
    for reading, scores in zip(readings, (composition.copying_scores(model), composition.matching_scores(model)), strict=True):
        np.testing.assert_allclose(scores.values[1], reading.sign(reading.layer(1)).numpy(), atol=1e-9)


def test_through_a_previous_token_head_the_keys_of_a_trained_induction_head_match():
    model = zoo.trained("induction-2l").model
    reading = qkov.Reading(model, "QK")

    def best(one: Model) -> float:
        pairs = [(early, late) for early in range(one.n_heads) for late in range(one.n_heads)]
        found = [float(qkov.Reading(one, "QK").sign(qkov.qk(one, (1, late), key_from=[(0, early)]))) for early, late in pairs]
        return max(found)

    assert best(model) > 0.9
    assert best(model.untrained(0)) < 0.5
    assert float(reading.sign(qkov.qk(model, (1, 0)))) < 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: qkov.ov(model), r"a chain of no heads writes nothing; give at least one \(layer, head\)"),
        (
            lambda model: qkov.ov(model, (1, 0), (0, 1)),
            "heads 1.0 → 0.1 do not follow one another: each must be in a later layer",
        ),
        (lambda model: qkov.qk(model, (0, 0), key_from=[(0, 1)]), "heads 0.1 → 0.0 do not follow one another"),
        (lambda model: qkov.ov(model, (2, 0)), r"native has no head \(2, 0\); it has layers 0–1 of heads 0–1"),
    ],
)
def test_heads_that_make_no_chain_are_refused(call, message):
    with pytest.raises(ModelError, match=message):
        call(case_of("native").model)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ("bert", "norms its residual stream after every write"),
        ("decoder-post", "norms its residual stream after every write"),
        ("t5", "is an encoder-decoder model: tokens come in through one stack and logits go out of the other"),
    ],
)
def test_models_whose_weights_make_no_circuits_are_refused_with_the_reason(shape, reason):
    with pytest.raises(ModelError, match=f"{shape} {reason}.*its weights do not multiply into circuits"):
        qkov.Reading(case_of(shape).model, "OV")
    with pytest.raises(ModelError, match=reason):
        composition.copying_scores(case_of(shape).model)
