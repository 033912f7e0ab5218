"""Temperature: laws of the softmax on patterns, heads heated in every kind of model, what heating costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_shapes import case_of

from interp.errors import ConfigError, ModelError
from interp.heads import ablation, patterns
from interp.heads import temperature as heat
from interp.models.hooked import Edit, Model

MASK = torch.ones(5, 9, dtype=torch.bool).tril(4)


def drawn(scale: float = 1.5) -> torch.Tensor:
    """Scores [row key] of which some keys are masked."""
    scores = scale * torch.randn(5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return scores.masked_fill(~MASK, -torch.inf)


def built(scale: float) -> Model:
    """A model whose queries and keys have weights of this size; a fresh one would attend almost evenly."""
    config = {"d_model": 16, "d_head": 4, "n_heads": 2, "n_layers": 2, "n_ctx": 12, "d_vocab": 12, "d_mlp": 16}
    made = Model.native(config | {"act_fn": "gelu", "normalization_type": "LN"}, seed=0)
    generator = torch.Generator().manual_seed(0)
    for layer in range(2):
        for name in ("W_Q", "W_K", "b_Q", "b_K"):
            weight = made.weight(f"blocks.{layer}.attn.{name}")
            weight.copy_(scale * torch.randn(weight.shape, generator=generator))
    return made


@pytest.fixture(scope="module")
def model() -> Model:
    return built(0.7)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(12, (3, 10), generator=torch.Generator().manual_seed(0))


# ---- of a pattern ----


@pytest.mark.parametrize("temperature", [0.3, 1.0, 7.0])
def test_a_tempered_pattern_is_the_softmax_of_the_divided_scores(temperature: float) -> None:
    expected = (drawn() / temperature).softmax(-1)
    torch.testing.assert_close(heat.tempered(drawn().softmax(-1), temperature), expected)


def test_heating_twice_is_heating_by_the_product() -> None:
    pattern = drawn().softmax(-1)
    torch.testing.assert_close(heat.tempered(heat.tempered(pattern, 2.5), 0.8), heat.tempered(pattern, 2.0))


def test_hot_attention_is_even_over_the_visible_keys_and_cold_attention_has_one() -> None:
    hot, cold = (heat.tempered(drawn().softmax(-1), temperature) for temperature in (1e9, 1e-3))
    torch.testing.assert_close(hot, MASK.double() / MASK.sum(-1, keepdim=True))
    assert torch.equal(cold.argmax(-1), drawn().argmax(-1))
    torch.testing.assert_close(cold.amax(-1), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_entropy_grows_at_the_variance_over_the_cube_of_temperature(temperature: float) -> None:
    at = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    rows = [scores[seen] for scores, seen in zip(drawn(), MASK, strict=True)]
    rates = [torch.autograd.grad(heat.entropy((scores / at).softmax(-1)), at)[0] for scores in rows]
    pattern = heat.tempered(drawn().softmax(-1), temperature)
    # Var_p(s / T) = v / T², so T dH/dT = v / T² is the variance of the scores that this softmax sees
    torch.testing.assert_close(torch.stack(rates) * temperature, heat.score_variance(pattern))
    inverse = torch.tensor(1 / temperature, dtype=torch.float64, requires_grad=True)
    by_inverse = [torch.autograd.grad(heat.entropy((scores * inverse).softmax(-1)), inverse)[0] for scores in rows]
    mean = (pattern * drawn().masked_fill(~MASK, 0)).sum(-1, keepdim=True)
    variance = (pattern * (drawn().masked_fill(~MASK, 0) - mean).square()).sum(-1)
    torch.testing.assert_close(torch.stack(by_inverse), -variance / temperature)


def test_the_spread_is_that_of_the_scores_and_falls_as_one_over_temperature() -> None:
    pattern = drawn().softmax(-1)
    expected = torch.stack([scores[seen].std(correction=0) for scores, seen in zip(drawn(), MASK, strict=True)])
    torch.testing.assert_close(heat.score_spread(pattern, MASK), expected)
    torch.testing.assert_close(heat.score_spread(heat.tempered(pattern, 4.0), MASK), expected / 4)


def test_a_weight_rounded_to_nothing_still_spreads_the_scores() -> None:
    pattern = torch.tensor([1.0, 0.0])
    assert float(heat.score_spread(pattern, torch.tensor([True, True]))) > 40
    assert float(heat.score_spread(pattern, torch.tensor([True, False]))) == 0
    assert heat.tempered(pattern, 10.0).tolist() == [1.0, 0.0], "what is rounded away is lost"


def test_the_jacobian_norm_is_that_of_the_explicit_matrix() -> None:
    scores = 2 * torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = heat.jacobian_norm(scores.softmax(-1))
    for row, norm in zip(scores, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda s: s.softmax(0), row)
        torch.testing.assert_close(norm, torch.as_tensor(jacobian).norm())


# ---- of the heads of a model ----


def test_sharpness_is_the_mean_over_queries_that_have_a_choice(model: Model, tokens: torch.Tensor) -> None:
    found = heat.sharpness(model, tokens, batch=2)
    pattern = model.run(tokens, read=["blocks.1.attn.hook_pattern"]).activations["blocks.1.attn.hook_pattern"].double()
    rows = [pattern[1, 0, query, : query + 1] for query in range(1, 10)]
    slow = {
        "keys": [float(torch.distributions.Categorical(row).entropy().exp()) for row in rows],
        "evenness": [float(torch.distributions.Categorical(row).entropy()) / np.log(len(row)) for row in rows],
        "spread": [float(row.log().std(correction=0)) for row in rows],
        "jacobian": [float((row.diag() - row.outer(row)).norm()) for row in rows],
    }
    assert set(found) == set(slow)
    for name, values in slow.items():
        assert found[name].dims == ("layer", "head", "example") and found[name].values.shape == (2, 2, 3)
        assert found[name].sel(layer=1, head=0, example=1).values == pytest.approx(np.mean(values), rel=1e-6)


def test_even_attention_has_evenness_one_and_no_spread(tokens: torch.Tensor) -> None:
    found = heat.sharpness(built(0.0), tokens)
    np.testing.assert_allclose(found["evenness"].values, 1, atol=1e-6)
    np.testing.assert_allclose(found["spread"].values, 0, atol=1e-6)
    np.testing.assert_allclose(found["keys"].values, np.arange(2, 11).mean(), rtol=1e-6)


def test_padding_is_no_key_that_is_seen() -> None:
    case = case_of("bert")
    padded = torch.cat([case.tokens, case.tokens[:, :3]], 1)
    mask = torch.ones_like(padded)
    mask[:, 7:] = 0
    pattern = case.model.run(padded, attention_mask=mask, read=["blocks.0.attn.hook_pattern"]).activations
    expected = torch.special.entr(pattern["blocks.0.attn.hook_pattern"].double()).sum(-1).mean(-1) / np.log(7)
    found = heat.sharpness(case.model, padded, attention_mask=mask)["evenness"].sel(layer=0).values
    np.testing.assert_allclose(found, expected.T, rtol=1e-5)


def test_entropies_at_one_are_those_of_the_patterns_and_heating_one_head_gives_the_one_foretold(
    model: Model, tokens: torch.Tensor
) -> None:
    found = heat.entropies(model, tokens, [1.0, 3.0], batch=2)
    assert found.dims == ("temperature", "layer", "head", "example") and found.unit == "nats"
    np.testing.assert_allclose(found.sel(temperature=1.0).values, patterns.entropy(model, tokens).values, rtol=1e-5)
    hook = "blocks.1.attn.hook_pattern"
    after = model.run(tokens, read=[hook], edits=heat.heated(model, 3.0, [(1, 0)])).activations[hook].double()
    expected = heat.entropy(after).mean(-1).T
    np.testing.assert_allclose(found.sel(temperature=3.0, layer=1, head=0).values, expected[0], rtol=1e-5)
    np.testing.assert_allclose(found.sel(temperature=1.0, layer=1, head=1).values, expected[1], rtol=1e-5)


# ---- heating ----


def test_heating_is_dividing_the_queries_of_the_heads_named_and_of_no_other(model: Model, tokens: torch.Tensor) -> None:
    def divided(q: torch.Tensor) -> torch.Tensor:
        q[:, :, 1] /= 2.5
        return q

    by_hand = model.run(tokens, edits=[Edit("blocks.0.attn.hook_q", divided)]).logits
    torch.testing.assert_close(model.run(tokens, edits=heat.heated(model, 2.5, [(0, 1)])).logits, by_hand)
    assert not torch.allclose(model.run(tokens).logits, by_hand, atol=1e-3)


@pytest.mark.parametrize("shape", ["llama", "bert", "t5", "decoder"])
def test_heating_a_pattern_is_dividing_its_scores_on_every_attention(shape: str) -> None:
    case = case_of(shape)
    for name, looked in patterns.attentions(case.model).items():
        same = case.run(edits=heat.heated(case.model, 1.0, attention=name)).logits
        torch.testing.assert_close(same, case.run().logits, rtol=1e-5, atol=1e-5)
        assert not torch.equal(case.run(edits=heat.heated(case.model, 0.01, attention=name)).logits, same)
        path = looked.paths[0]
        scores = [Edit(f"{path}.hook_attn_scores", lambda s: torch.where(s > -1e30, s / 3, s))]
        edits = heat.heated(case.model, 3.0, [(0, head) for head in range(case.model.n_heads)], attention=name)
        torch.testing.assert_close(case.run(edits=edits).logits, case.run(edits=scores).logits, rtol=1e-4, atol=1e-5)


def test_costs_and_sweeps_are_what_runs_by_hand_give(model: Model, tokens: torch.Tensor) -> None:
    def loss(edits):
        return ablation.loss(model, tokens, edits=edits)

    costs = heat.costs(model, loss, temperature=3.0)
    assert costs.dims == ("layer", "head", "example") and costs.unit == "nats"
    by_hand = loss(heat.heated(model, 3.0, [(1, 0)])).values - loss([]).values
    np.testing.assert_array_equal(costs.sel(layer=1, head=0).values, by_hand)
    assert np.abs(costs.values).min() > 0
    curve = heat.sweep(model, loss, [1.0, 3.0], iter([(1, 0)]))
    assert curve.name == "loss" and curve.dims == ("temperature", "example")
    np.testing.assert_allclose(curve.sel(temperature=3.0).values - curve.sel(temperature=1.0).values, by_hand, atol=1e-6)
    everything = heat.sweep(model, loss, [3.0]).values
    assert np.abs(everything - curve.sel(temperature=3.0).values).min() > 0, "all heads, where none are named"


# ---- bad input ----


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_divides_nothing_is_refused(model: Model, temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"temperature .* divides no score; give finite ones above 0, such as 2.0"):
        heat.heated(model, temperature)
    with pytest.raises(ConfigError, match="divides no score"):
        heat.tempered(torch.ones(2) / 2, temperature)


def test_heads_and_attentions_that_are_not_there_are_named(model: Model, tokens: torch.Tensor) -> None:
    text = r"native has no head \(0, 2\), \(5, 0\) in its self attention; it has layers 0–1 of heads 0–1"
    with pytest.raises(ModelError, match=text):
        heat.heated(model, 2.0, [(5, 0), (0, 1), (0, 2)])
    with pytest.raises(ConfigError, match="native has no attention 'cross'; it has self"):
        heat.heated(model, 2.0, attention="cross")
    with pytest.raises(ConfigError, match="no temperature; give one or more above 0"):
        heat.entropies(model, tokens, [])


def test_rows_of_one_token_have_no_sharpness(model: Model) -> None:
    with pytest.raises(ModelError, match="an example has no query that sees two keys, so nothing to be sharp about"):
        heat.sharpness(model, torch.zeros(2, 1, dtype=torch.long))
