"""Claims about experts taken away: an edit does what changing the weights by hand does, and effects are what it costs."""

from functools import partial

import numpy as np
import pytest
import torch
from mixture_cases import HUGGING, KINDS, model_of, module_of, tokens_of, wrapped
from mlp_cases import model_of as plain_model
from model_shapes import OWN
from torch.testing import assert_close

from interp.errors import ConfigError, ModelError
from interp.mlp.rerouting import averaged, effects, left_out, mean_contributions, sent, silenced, surprise
from interp.mlp.routing import decided
from interp.models.hooked import Edit, Model
from interp.models.mixtures import mixture
from interp.models.transformer import TransformerConfig, transformer

LAYER, LAST = "blocks.0.mlp", "blocks.1.mlp"


def zeroed(module, layer, expert):
    """The module with what an expert writes set to 0 in its weights."""
    with torch.no_grad():
        if hasattr(module, "model"):
            module.model.layers[layer].mlp.experts.down_proj[expert] = 0
        else:
            out = module.blocks[layer].mlp.experts[expert].out
            out.weight.zero_()
            out.bias.zero_()
    return module


def bereft(kind, layer, expert):
    """A Hugging Face model that never had the expert in one of its layers."""
    module = module_of(kind)
    block, kept = module.model.layers[layer].mlp, [each for each in range(4) if each != expert]
    block.gate.weight = torch.nn.Parameter(block.gate.weight[kept])
    block.gate.num_experts = block.experts.num_experts = 3
    block.gate.top_k = min(3, block.gate.top_k)
    for name in ("gate_up_proj", "down_proj"):
        setattr(block.experts, name, torch.nn.Parameter(getattr(block.experts, name)[kept]))
    return module


def busiest(model, layer):
    return int(decided(model, tokens_of()).chosen(f"blocks.{layer}.mlp").sum(0).argmax())


@pytest.mark.parametrize("kind", KINDS)
def test_silence_is_what_zeros_in_the_experts_weights_do(kind):
    model, tokens = model_of(kind), tokens_of()
    for layer in (0, 1):
        expert = busiest(model, layer)
        by_hand = wrapped(kind, zeroed(module_of(kind), layer, expert)).run(tokens).logits
        found = model.run(tokens, edits=silenced(model, f"blocks.{layer}.mlp", [expert])).logits
        assert_close(found, by_hand, atol=1e-5, rtol=0)
        assert not torch.allclose(found, model.run(tokens).logits, atol=1e-3)


@pytest.mark.parametrize("kind", HUGGING)
def test_left_out_is_what_a_model_without_the_expert_does(kind):
    model, tokens = model_of(kind), tokens_of()
    for layer in (0, 1):
        expert = busiest(model, layer)
        with torch.no_grad():
            by_hand = bereft(kind, layer, expert)(tokens).logits
        found = model.run(tokens, edits=left_out(model, f"blocks.{layer}.mlp", [expert])).logits
        assert_close(found, by_hand, atol=1e-5, rtol=0)
        assert not torch.allclose(found, model.run(tokens, edits=silenced(model, f"blocks.{layer}.mlp", [expert])).logits)


@pytest.mark.parametrize("kind", ["top-1", "top-2"])
def test_left_out_is_the_routers_logit_at_minus_infinity(kind):
    model, tokens = model_of(kind), tokens_of()

    def lowered(logits):
        logits[..., 3] = -torch.inf
        return logits

    by_hand = model.run(tokens, edits=[Edit(f"{LAYER}.hook_router_logits", lowered)]).logits
    assert_close(model.run(tokens, edits=left_out(model, LAYER, [3])).logits, by_hand, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_silences_of_all_experts_sum_to_what_the_layer_writes(kind):
    model, tokens = model_of(kind), tokens_of()
    out = mixture(model, LAYER).out

    def written(edits):
        return model.run(tokens, read=[out], edits=edits).activations[out]

    whole, none = written([]), written(silenced(model, LAYER, range(4)))
    parts = sum(whole - written(silenced(model, LAYER, [expert])) for expert in range(4))
    assert_close(parts + none, whole, atol=1e-5, rtol=1e-4)
    assert bool(none.any()) == kind.startswith("qwen2moe")  # what is left is the expert that all tokens share


@pytest.mark.parametrize("kind", KINDS)
def test_averaging_keeps_the_mean_and_takes_away_what_tells_tokens_apart(kind):
    model, tokens = model_of(kind), tokens_of()
    out, chosen = mixture(model, LAYER).out, decided(model, tokens).chosen(LAYER)[:, 1]
    means = mean_contributions(model, tokens, LAYER)

    def written(edits):
        return model.run(tokens, read=[out], edits=edits).activations[out].flatten(0, 1)

    whole, silent = written([]), written(silenced(model, LAYER, [1]))
    found = written(averaged(model, LAYER, [1], means=means))
    assert_close(found.mean(0), whole.mean(0), atol=1e-5, rtol=1e-4)
    assert_close(found - silent, chosen[:, None] * means[1], atol=1e-5, rtol=1e-4)
    assert means[1].abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_sent_to_one_expert_where_they_are_marked(kind):
    model, tokens = model_of(kind), tokens_of()
    place = mixture(model, LAYER)
    where = tokens % 2 == 0

    def weights(edits):
        return place.decided(model.run(tokens, read=place.reads, edits=edits).activations)[1].reshape(-1, 4)

    before, after = weights([]), weights(sent(model, LAYER, 2, where=where))
    assert_close(after[~where.flatten()], before[~where.flatten()])
    marked = after[where.flatten()]
    assert_close(marked[:, 2], before[where.flatten()].sum(1))
    assert not marked[:, [0, 1, 3]].any()
    assert torch.equal(weights(sent(model, LAYER, 2))[:, 2] > 0, torch.ones(27, dtype=torch.bool))


def test_an_expert_that_all_tokens_go_to_anyway_is_no_change():
    model, tokens = model_of("top-1"), tokens_of()
    own = decided(model, tokens).weights[LAYER].argmax(-1).view(tokens.shape)
    for expert in own.unique().tolist():
        logits = model.run(tokens, edits=sent(model, LAYER, expert, where=own == expert)).logits
        assert_close(logits, model.run(tokens).logits)


# ---- effects ----


@pytest.mark.parametrize("kind", ["mixtral", "top-1"])
def test_effects_are_losses_with_less_losses_without(kind):
    model, tokens = model_of(kind), tokens_of(4)
    for ablation in (silenced, left_out):
        found = effects(model, tokens, ablation=ablation, batch=3)
        assert found.every.dims == ("layer", "expert", "example") and found.every.values.shape == (2, 4, 4)
        losses = [surprise(model.run(tokens, edits=edits).logits, tokens) for edits in ([], ablation(model, LAST, [2]))]
        by_hand = (losses[1] - losses[0]).mean(1).double().numpy()
        np.testing.assert_allclose(found.every.sel(layer=LAST, expert=2).values, by_hand, atol=1e-6)


@pytest.mark.parametrize("kind", ["mixtral", "qwen2moe, 2 of 4", "top-1", "top-2"])
def test_in_the_last_layer_an_expert_does_nothing_to_tokens_that_it_never_saw(kind):
    model, tokens = model_of(kind), tokens_of(4)
    found = effects(model, tokens)
    others = {layer: np.nan_to_num(found.others.sel(layer=layer).values) for layer in (LAYER, LAST)}
    np.testing.assert_allclose(others[LAST], 0, atol=1e-6)
    assert np.abs(others[LAYER]).max() > 1e-4  # through the attention of the next layer
    share = decided(model, tokens).chosen(LAST).view(4, 9, 4)[:, :-1].double().mean(1).T.numpy()
    own = found.own.sel(layer=LAST).values
    assert (np.isnan(own) == (share == 0)).all()
    np.testing.assert_allclose(share * np.nan_to_num(own), found.every.sel(layer=LAST).values, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "reaches_others"), [("mixtral", False), ("top-2", False), ("top-1", True), ("qwen2moe, 2 of 4", True)]
)
def test_leaving_an_expert_out_reaches_all_tokens_where_weights_are_not_made_to_sum_to_one(kind, reaches_others):
    found = effects(model_of(kind), tokens_of(4), ablation=left_out).others.sel(layer=LAST).values
    assert (np.abs(np.nan_to_num(found)).max() > 1e-5) == reaches_others


def test_an_expert_that_nobody_goes_to_has_no_effect():
    model, tokens = wrapped("top-1"), tokens_of()
    with torch.no_grad():
        model.bridge.blocks[0].mlp.router.weight[:] = torch.eye(4, 16)[:, :1] * torch.tensor([[1.0], [-1], [0], [0]])
    idle = ~decided(model, tokens).chosen(LAYER).any(0)
    assert idle.any() and not idle.all()
    found = effects(model, tokens).every.sel(layer=LAYER).values
    assert (np.abs(found).max(1) > 0).tolist() == (~idle).tolist()


def test_any_metric_of_positions_can_be_asked():
    model, tokens = model_of("top-1"), tokens_of()
    found = effects(model, tokens, metric=lambda logits, rows: logits[:, :, 7], unit="logit")
    edits = silenced(model, LAYER, [0])
    by_hand = (model.run(tokens, edits=edits).logits - model.run(tokens).logits)[:, :, 7].mean(1)
    np.testing.assert_allclose(found.every.sel(layer=LAYER, expert=0).values, by_hand, atol=1e-6)
    assert found.every.unit == "logit"


# ---- bad input ----


def test_experts_layers_and_means_that_are_not_there_are_refused():
    model = model_of("mixtral")
    for edits in (silenced, left_out, partial(averaged, means=torch.zeros(4, 16))):
        with pytest.raises(ModelError, match=r"^no expert 4 in blocks.0.mlp of mixtral; experts are 0 to 3$"):
            edits(model, LAYER, [1, 4])
        with pytest.raises(ModelError, match=r"^no mixture of experts 'mlp.0' in mixtral; there are blocks.0.mlp, blocks.1.mlp$"):
            edits(model, "mlp.0", [1])
    with pytest.raises(ModelError, match=r"^no expert -1 in blocks.0.mlp of mixtral; experts are 0 to 3$"):
        sent(model, LAYER, -1)
    with pytest.raises(ModelError, match=r"^no expert of blocks.0.mlp is named of mixtral; experts are 0 to 3$"):
        silenced(model, LAYER, [])
    with pytest.raises(ModelError, match=r"^all 4 experts of blocks.0.mlp are left out; leave at least one in$"):
        left_out(model, LAYER, range(4))
    with pytest.raises(ModelError, match=r"^3 means for the 4 experts of blocks.0.mlp; give those of mean_contributions$"):
        averaged(model, LAYER, [0], means=torch.zeros(3, 16))
    with pytest.raises(ModelError, match=r"^gelu has no mixture of experts, so nothing is routed; give a model with experts$"):
        effects(plain_model("gelu"), tokens_of())


def test_marks_metrics_and_models_that_do_not_fit_are_refused():
    model, tokens = model_of("mixtral"), tokens_of()
    with pytest.raises(ModelError, match=r"^\[2, 9\] tokens are marked or not, but 27 come to blocks.0.mlp$"):
        model.run(tokens, edits=sent(model, LAYER, 0, where=torch.ones(2, 9, dtype=torch.bool)))
    with pytest.raises(
        ConfigError, match=r"^the metric gives \[3\] for rows of \[3, 9\] tokens; give a number for every position$"
    ):
        effects(model, tokens, metric=lambda logits, rows: logits.sum((1, 2)))
    config = TransformerConfig.of(OWN | {"kind": "encoder-decoder", "mlp": "experts"})
    with pytest.raises(
        ModelError, match=r"^two is an encoder-decoder, whose experts work on other tokens than it has logits for;"
    ):
        effects(Model.wrap(transformer(config, seed=0).eval(), name="two"), tokens)
