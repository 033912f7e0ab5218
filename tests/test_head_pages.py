"""Heads as reports show them: views that add up, tables that say what the weights do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_shapes import case_of

from interp import head_pages
from interp.errors import ModelError
from interp.heads import patterns
from interp.models import zoo
from interp.models.hooked import Edit, Model
from interp.report.views import AttributionView


def view(shape: str) -> tuple[AttributionView, torch.Tensor]:
    case = case_of(shape)
    tokens = case.tokens[:1]
    logits = case.model.run(tokens).logits[0, [2, 5]].double()
    asked = logits.gather(1, tokens[0, [3, 6], None])[:, 0]
    return head_pages.attribution_view(case.model, tokens, list("abcdefg"), places=[2, 5]), asked


@pytest.mark.parametrize("shape", ["native", "attention-only", "llama", "mixtral"])
def test_components_add_up_to_the_logits_and_heads_to_attention_without_its_biases(shape):
    shown, logits = view(shape)
    components = {name: np.asarray(values) for name, values in shown.groups["components"].items()}
    np.testing.assert_allclose(sum(values.sum(1) for values in components.values()), logits.detach().numpy(), atol=1e-5)
    for values in components.values():
        assert values[0, 3:] == pytest.approx(0), "nothing comes from tokens after the place"
    by_head = sum(np.asarray(values) for values in shown.groups["heads"].values())
    away = components["0.attn"] + components["1.attn"] - by_head
    away[[0, 1], [2, 5]] = 0
    assert away == pytest.approx(0, abs=1e-9), "what attention brings from elsewhere, its heads bring"
    assert [label for _, label in shown.targets] == ["logit of “d”", "logit of “g”"]


def test_a_model_whose_logits_are_no_sum_has_no_such_view():
    with pytest.raises(ModelError, match="no sum of what its parts write"):
        view("bert")


def test_attention_across_is_shown_with_the_tokens_of_both_sides():
    case = case_of("t5")
    shown = head_pages.attention_view(
        case.model,
        case.tokens[:1],
        list("vwxyz"),
        attention="cross",
        keys=list("abcdefg"),
        decoder_input=case.beside["decoder_input"][:1],
    )
    assert np.shape(shown.patterns) == (2, 2, 5, 7)
    assert shown.name == "attention-cross"
    shown.payload()


@pytest.mark.parametrize(("shape", "name"), [("native", "self"), ("t5", "cross")])
def test_costs_are_what_the_mean_in_a_head_s_place_does_to_the_prediction(shape, name):
    case = case_of(shape)
    looked = patterns.attentions(case.model)[name]
    found = head_pages.costs(case.model, looked, case.tokens, seed=0, **case.beside)
    assert found.values.shape == (2, 2, 2)
    hook = f"{looked.paths[0]}.hook_z"

    def averaged(z):
        z[:, :, 1] = z[:, :, 1].mean((0, 1))
        return z

    whole, without = (case.run(edits=edits).logits.double().log_softmax(-1) for edits in ([], [Edit(hook, averaged)]))
    everywhere = (whole.exp() * (whole - without)).sum(-1)  # [example pos]
    last_quarter = everywhere[:, 3 * everywhere.shape[1] // 4 :]
    gaps = np.abs(last_quarter.numpy() - found.values[0, 1][:, None]).min(1)
    assert gaps == pytest.approx(0, abs=1e-6) and found.values[0, 1].max() > 1e-7


def test_an_induction_head_s_partner_is_the_previous_token_head():
    model = zoo.trained("induction-2l").model
    table = head_pages.partners(model, draws=50)
    profile = patterns.scores(model, torch.randint(1, model.d_vocab, (4, 24), generator=torch.Generator().manual_seed(0)))
    previous = int(profile["previous_token"].values[0].mean(1).argmax())
    best = table.sort_values("matching").iloc[-1]
    assert best.partner == f"L0H{previous}" and best.matching > best.chance
    circuits = head_pages.circuits(model, draws=50)
    assert len(circuits) == model.n_layers * model.n_heads
    assert circuits["copying p"].between(0, 1).all()
    untrained = head_pages.circuits(model.untrained(0), draws=50)
    assert (untrained[["copying p", "matching p"]] > 0.01).to_numpy().all()


def test_directions_are_told_in_tokens_at_both_ends():
    model = case_of("native").model
    table = head_pages.directions(model, [(1, 0)], [f"t{i}" for i in range(50)], strongest=2, tokens=3)
    assert set(table["head"]) == {"L1H0"}
    assert (len(table), set(table.circuit), set(table.end)) == (8, {"OV", "QK"}, {"+", "−"})
    assert all(len(said.split()) == 3 for said in table.reads)


def test_a_model_of_one_layer_has_no_partners():
    one = Model.native(case_of("native").model.config | {"n_layers": 1}, seed=0)
    with pytest.raises(ModelError, match="has 1 layer; a head's partner is in an earlier one"):
        head_pages.partners(one)
