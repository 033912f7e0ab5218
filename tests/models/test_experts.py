"""Claims about mixtures of experts: they route as Hugging Face's do, and every hook of theirs acts."""

import pytest
import torch
from model_shapes import hf_module
from torch.testing import assert_close
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from interp.errors import ModelError
from interp.models.experts import Experts, Gated, balance_loss, expert_weights, router_logits
from interp.models.hooked import Edit, Model
from interp.models.lens import HookedRootModule
from interp.models.parts import Mlp
from interp.models.transformer import TransformerConfig, transformer

WIDTH, COUNT = 16, 4


def mixture(top_k=2, *, renormalised=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    experts = [Gated(WIDTH, 32, act_fn="silu", generator=generator) for _ in range(COUNT)]
    return Experts(WIDTH, experts, top_k=top_k, renormalised=renormalised, generator=generator)


class Alone(HookedRootModule):
    """A mixture as a model of its own."""

    def __init__(self, mlp):
        super().__init__()
        self.mlp = mlp
        self.setup()

    def forward(self, x):
        return self.mlp(x)


@pytest.fixture
def x():
    return torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(1))


def test_routing_and_output_are_those_of_mixtral_with_the_same_weights(x):
    theirs = hf_module("mixtral").model.layers[0].mlp
    ours = mixture()
    with torch.no_grad():
        ours.router.weight.copy_(theirs.gate.weight)
        for number, expert in enumerate(ours.experts):
            gate, up = theirs.experts.gate_up_proj[number].chunk(2)
            for part, weight in (("gate", gate), ("in", up), ("out", theirs.experts.down_proj[number])):
                getattr(expert, part).weight.copy_(weight)
        logits, weights, chosen = theirs.gate(x)
        assert_close(ours(x), theirs(x), atol=1e-5, rtol=0)
        found = expert_weights(ours.router(x).flatten(0, 1), top_k=2, renormalised=True)
        assert_close(found.gather(1, chosen), weights, atol=1e-5, rtol=0)
        assert (found > 0).sum() == weights.numel()
        hugging = load_balancing_loss_func((logits,), COUNT, 2)
        assert_close(balance_loss(ours.router(x), top_k=2), hugging / 2)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_every_token_has_as_many_experts_as_asked_and_the_likeliest(x, top_k):
    logits = mixture().router(x)
    weights = expert_weights(logits, top_k=top_k, renormalised=False)
    assert ((weights > 0).sum(-1) == top_k).all()
    assert_close(weights.sum(-1), logits.softmax(-1).sort(-1, descending=True).values[..., :top_k].sum(-1))
    assert_close(expert_weights(logits, top_k=top_k, renormalised=True).sum(-1), torch.ones(3, 5))


def test_a_mixture_of_equal_experts_is_one_of_them(x):
    one = Gated(WIDTH, 32, act_fn="silu", generator=torch.Generator().manual_seed(3))
    both = Experts(WIDTH, [one, one, one], top_k=2, renormalised=True, generator=torch.Generator().manual_seed(4))
    assert_close(both(x), one(x))


def test_every_hook_of_a_mixture_acts(x):
    model = Model.wrap(Alone(mixture(top_k=1, renormalised=False)).eval())
    before = model.run(x).logits
    names = [name for name in model.hooks if not name.endswith(("hook_in", "mlp.hook_out"))]
    assert {"mlp.hook_router_logits", "mlp.hook_expert_weights", "mlp.experts.2.hook_out", "mlp.experts.3.out.hook_in"} <= {
        *model.hooks
    }
    for name in names:
        after = model.run(x, edits=[Edit(name, lambda value: value.flip(0) * 2 + 1)]).logits
        assert not torch.allclose(before, after), name


def test_weights_can_send_a_token_to_an_expert_that_the_router_left_out(x):
    mlp = mixture(top_k=1, renormalised=False)

    def send(weights):
        return torch.nn.functional.one_hot(torch.full(weights.shape[:-1], 3), COUNT).to(weights)

    run = Model.wrap(Alone(mlp).eval()).run(x, edits=[Edit("mlp.hook_expert_weights", send)])
    assert_close(run.logits, mlp.experts[3](x).detach())


def test_silencing_an_expert_leaves_the_tokens_of_others_as_they_were(x):
    model = Model.wrap(Alone(mixture(top_k=1, renormalised=False)).eval())
    run = model.run(x, read=["mlp.hook_expert_weights"], logits=True)
    after = model.run(x, edits=[Edit("mlp.experts.0.hook_out", torch.zeros_like)]).logits
    its_own = run.activations["mlp.hook_expert_weights"].argmax(-1) == 0
    assert its_own.any() and not its_own.all()
    assert_close(after[~its_own], run.logits[~its_own])
    assert not after[its_own].any()


def test_the_balance_loss_is_one_where_experts_share_evenly_and_their_number_where_one_has_all():
    even = torch.eye(COUNT).repeat(6, 1) * 5
    assert_close(balance_loss(even, top_k=1), torch.tensor(1.0))
    assert_close(balance_loss(torch.tensor([100.0, 0, 0, 0]).expand(8, -1), top_k=1), torch.tensor(float(COUNT)))
    assert_close(balance_loss(torch.randn(50, COUNT, generator=torch.Generator().manual_seed(0)), top_k=COUNT), torch.tensor(1.0))


def test_the_balance_loss_pulls_probability_from_the_busiest_expert():
    logits = torch.tensor([[2.0, 0, 0, 0]] * 3 + [[0, 2.0, 0, 0]], requires_grad=True)
    balance_loss(logits, top_k=1).backward()
    assert logits.grad is not None and logits.grad.sum(0).argmax() == 0


def test_router_logits_are_collected_with_their_gradient_and_only_within_the_block(x):
    mlp = mixture()
    with router_logits(in_a_stack(mlp)) as found:
        mlp(x)
    mlp(x)
    assert len(found) == 1
    assert_close(found[0], mlp.router(x))
    found[0].sum().backward()
    assert mlp.router.weight.grad is not None


def in_a_stack(mlp):
    return torch.nn.Sequential(Mlp(WIDTH, 8, act_fn="relu", generator=torch.Generator()), mlp)


def test_more_experts_per_token_than_experts_are_refused():
    with pytest.raises(ModelError, match=r"^top_k=5 of 4 experts: each token can have 1 to 4$"):
        mixture(top_k=5)
    with pytest.raises(ModelError, match=r"^top_k=0 of 3 experts: each token can have 1 to 3$"):
        expert_weights(torch.zeros(2, 3), top_k=0, renormalised=True)


def test_a_mixture_takes_the_place_of_the_mlp_in_a_transformer():
    sizes = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_mlp": 8, "d_vocab": 20, "n_ctx": 9}
    config = TransformerConfig.of({"kind": "decoder", "mlp": "experts", "n_experts": COUNT, "experts_per_token": 2} | sizes)
    model = Model.wrap(transformer(config, 0).eval())
    tokens = torch.randint(20, (2, 7), generator=torch.Generator().manual_seed(0))
    weights = "blocks.1.mlp.hook_expert_weights"
    run = model.run(tokens, read=[weights], logits=True)
    assert run.activations[weights].shape == (2, 7, COUNT)
    busiest = f"blocks.1.mlp.experts.{int(run.activations[weights].sum((0, 1)).argmax())}"
    for hook in (weights, "blocks.0.mlp.hook_router_logits", f"{busiest}.hook_post", "blocks.1.hook_mlp_out"):
        assert not torch.allclose(model.run(tokens, edits=[Edit(hook, lambda value: value.flip(-1) + 1)]).logits, run.logits)
