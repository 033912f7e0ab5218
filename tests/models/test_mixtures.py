"""Claims about mixtures behind one door: what is read is what the router says, what is changed is what the model then does."""

from typing import Any

import pytest
import torch
import transformers
from mixture_cases import HUGGING, KINDS, PER_TOKEN, model_of, module_of, tokens_of, wrapped
from mlp_cases import model_of as plain_model
from model_shapes import GROUPED
from torch.testing import assert_close

from interp.errors import ModelError
from interp.models.experts import expert_weights
from interp.models.hooked import Model
from interp.models.mixtures import mixture, mixtures


def decided(model, layer, tokens, **how):
    place = mixture(model, layer)
    both = place.decided(model.run(tokens, read=place.reads, **how).activations)
    return [each.reshape(-1, place.experts) for each in both]


def hugging(name, **sizes):
    """A tiny random model of another family."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(**GROUPED, **sizes)
        return Model.wrap(getattr(transformers, f"{name}ForCausalLM")(config).eval(), name=name)


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_is_found_with_its_experts(kind):
    found = mixtures(model_of(kind))
    assert {name: (each.experts, each.per_token) for name, each in found.items()} == {
        f"blocks.{layer}.mlp": (4, PER_TOKEN[kind]) for layer in range(2)
    }


@pytest.mark.parametrize("kind", HUGGING)
def test_logits_and_weights_are_those_that_hugging_face_gives_out(kind):
    module, tokens = module_of(kind), tokens_of()
    with torch.no_grad():
        theirs = module(tokens, output_router_logits=True).router_logits
    model = wrapped(kind, module)
    for layer, wanted in enumerate(theirs):
        logits, weights = decided(model, f"blocks.{layer}.mlp", tokens)
        assert_close(logits, wanted, atol=1e-5, rtol=0)
        renormalised = kind == "mixtral"
        assert_close(weights, expert_weights(wanted, top_k=PER_TOKEN[kind], renormalised=renormalised), atol=1e-5, rtol=0)


def test_weights_that_stand_in_order_of_rank_are_put_in_order_of_experts():
    model, tokens = model_of("qwen2moe"), tokens_of()
    hook = mixture(model, "blocks.0.mlp").weights
    raw = model.run(tokens, read=[hook]).activations[hook]
    assert (raw.diff(dim=-1) <= 0).all()  # the trap: the first column is the best expert, not expert 0
    logits, weights = decided(model, "blocks.0.mlp", tokens)
    assert_close(weights, logits.softmax(-1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_decision_that_the_model_takes_anyway_changes_nothing(kind):
    model, tokens = model_of(kind), tokens_of()
    logits = model.run(tokens).logits
    for name, place in mixtures(model).items():
        for change in (lambda logits, weights: weights, lambda logits, weights, place=place: place.weigh(logits)):
            assert_close(model.run(tokens, edits=place.rerouted(change)).logits, logits, atol=1e-6, rtol=0, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_decision_is_the_one_that_is_taken(kind):
    model, tokens = model_of(kind), tokens_of()
    place = mixture(model, "blocks.0.mlp")
    only_third = torch.tensor([0.0, 0, 0.7, 0])
    edits = place.rerouted(lambda logits, weights: only_third.expand_as(weights))
    assert_close(decided(model, "blocks.0.mlp", tokens, edits=edits)[1], only_third.expand(27, 4))
    assert not torch.allclose(model.run(tokens, edits=edits).logits, model.run(tokens).logits, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_rule_is_that_of_the_kind_on_any_logits(kind):
    logits = 3 * torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(0))
    found = mixture(model_of(kind), "blocks.1.mlp").weigh(logits)
    wanted = expert_weights(logits, top_k=PER_TOKEN[kind], renormalised=kind in ("mixtral", "top-2"))
    assert_close(found, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_edits_serve_run_after_run_and_follow_weights_that_are_changed(kind):
    model, first, second = wrapped(kind), tokens_of(), tokens_of(2, 5).flip(1)
    place = mixture(model, "blocks.1.mlp")

    def doubled():
        return place.rerouted(lambda logits, weights: weights * (1 + logits.sigmoid()))

    edits = doubled()
    runs = [model.run(tokens, edits=edits).logits for tokens in (first, second, first)]
    assert torch.equal(runs[0], runs[2]) and torch.equal(runs[1], model.run(second, edits=doubled()).logits)
    with torch.no_grad():
        for name, parameter in model.bridge.named_parameters():
            if "router" in name or "mlp.gate" in name:
                parameter.neg_()
    logits = decided(model, "blocks.1.mlp", first)[0]
    assert_close(place.weigh(logits), decided(model, "blocks.1.mlp", first)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_added_depends_on_the_weights_before_the_change(kind):
    model, tokens = model_of(kind), tokens_of()
    place = mixture(model, "blocks.1.mlp")
    directions = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    edits = place.rerouted(lambda logits, weights: weights, added=lambda weights: weights @ directions)
    before, after = (model.run(tokens, read=[place.out], edits=each).activations[place.out] for each in ([], edits))
    weights = decided(model, "blocks.1.mlp", tokens)[1]
    assert_close(after - before, (weights @ directions).view_as(before), atol=1e-5, rtol=0)


def test_gradients_reach_the_router_through_changed_decisions():
    model, tokens = model_of("mixtral"), tokens_of()
    place = mixture(model, "blocks.0.mlp")
    run = model.run(tokens, edits=place.rerouted(lambda logits, weights: place.weigh(logits)), grad=True)
    router = model.bridge.blocks[0].mlp.gate.original_component.weight
    (slope,) = torch.autograd.grad(run.logits.square().sum(), router)
    assert slope.abs().max() > 0


def test_models_without_experts_and_layers_that_are_none_are_refused():
    with pytest.raises(ModelError, match=r"^gelu has no mixture of experts, so nothing is routed; give a model with experts$"):
        mixtures(plain_model("gelu"))
    wanted = r"^no mixture of experts 'blocks.2.mlp' in mixtral; there are blocks.0.mlp, blocks.1.mlp$"
    with pytest.raises(ModelError, match=wanted):
        mixture(model_of("mixtral"), "blocks.2.mlp")


def test_routers_whose_hooks_lie_or_show_no_weights_are_refused():
    model = hugging("GraniteMoe", num_local_experts=4, num_experts_per_tok=2)
    with pytest.raises(
        ModelError, match=r"^the hooks of the router of blocks.0.mlp in GraniteMoe do not hold logits, weights and"
    ):
        mixtures(model)
    deep: dict[str, Any] = {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "n_group": 1,
        "topk_group": 1,
    }
    deep |= {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 4}
    model = hugging("DeepseekV3", **deep, first_k_dense_replace=1)
    with pytest.raises(ModelError, match=r"^DeepseekV3 has experts, but no hook_expert_weights to see their weights at"):
        mixtures(model)


@pytest.mark.parametrize("name", ["Olmoe", "Qwen3Moe", "GptOss"])
def test_other_families_come_in_by_the_same_door(name):
    sizes = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 4}
    model, tokens = hugging(name, **sizes), tokens_of()
    for place in mixtures(model).values():
        same = model.run(tokens, edits=place.rerouted(lambda logits, weights, place=place: place.weigh(logits))).logits
        assert_close(same, model.run(tokens).logits, atol=1e-6, rtol=0)
