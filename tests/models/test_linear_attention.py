"""Claims about linear attention: all forms of it agree, and its memory holds what theory says."""

import pytest
import torch
from torch.testing import assert_close

from interp.errors import ModelError
from interp.models.hooked import Edit, Model
from interp.models.linear_attention import (
    DeltaRule,
    EluPlusOne,
    Favor,
    LinearAttention,
    UnitRelu,
    delta_rule,
    fast_weights,
    linear_attention,
)
from interp.models.transformer import TransformerConfig, transformer

HEADS, WIDTH = 2, 4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def qkv():
    return torch.randn(3, 2, 9, HEADS, WIDTH, generator=generator(1), dtype=torch.float64).unbind()


def slow(phi_q, phi_k, v, causal, seen):
    """The equation of linear attention for one query of one head at a time."""
    out = torch.zeros(*phi_q.shape[:3], v.shape[-1], dtype=v.dtype)
    for b, i, h in torch.cartesian_prod(*(torch.arange(n) for n in phi_q.shape[:3])).tolist():
        keys = [j for j in range(phi_k.shape[1]) if (j <= i or not causal) and seen[b, j]]
        weights = torch.stack([phi_q[b, i, h] @ phi_k[b, j, h] for j in keys])
        out[b, i, h] = sum(weight * v[b, j, h] for weight, j in zip(weights, keys, strict=True)) / weights.sum()
    return out


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_linear_attention_is_that_of_its_equation(qkv, causal, padded):
    q, k, v = qkv
    seen = torch.ones(2, 9, dtype=torch.bool)
    seen[1, 6:] = not padded
    phi = EluPlusOne()
    found = LinearAttention(phi)(q, k, v, causal=causal, seen=seen if padded else None)
    assert_close(found, slow(phi(q), phi(k), v, causal, seen))


def slow_delta(phi_q, phi_k, v, beta):
    """The delta rule's equation for one token of one head at a time, and the memory at the end."""
    out, memory = torch.zeros_like(v), torch.zeros(len(v), HEADS, WIDTH, v.shape[-1], dtype=v.dtype)
    for b, h, i in torch.cartesian_prod(*(torch.arange(n) for n in (len(v), HEADS, v.shape[1]))).tolist():
        held = memory[b, h].T @ phi_k[b, i, h]
        memory[b, h] += beta[b, i, h] * torch.outer(phi_k[b, i, h], v[b, i, h] - held)
        out[b, i, h] = memory[b, h].T @ phi_q[b, i, h]
    return out, memory


@pytest.mark.parametrize("chunk", [1, 2, 4, 9, 20])
def test_a_memory_carried_along_gives_what_the_parallel_form_gives(qkv, chunk):
    q, k, v = qkv
    phi = EluPlusOne()
    found = linear_attention(phi(q), phi(k), v, chunk=chunk)
    assert_close(found, LinearAttention(phi)(q, k, v, causal=True, seen=None))
    _, memory = fast_weights(phi(q), phi(k), v, chunk=chunk)
    assert_close(memory, torch.einsum("bkhf,bkhd->bhfd", phi(k), v))


@pytest.mark.parametrize("chunk", [1, 2, 4, 9, 20])
def test_the_delta_rule_is_that_of_its_equation_in_parallel_and_carried_along(qkv, chunk):
    q, k, v = qkv
    rule, unit = DeltaRule(HEADS, WIDTH, UnitRelu(), generator=generator()).double(), UnitRelu()
    wanted, held = slow_delta(unit(q), unit(k), v, rule.rates(k).detach())
    found, memory = delta_rule(unit(q), unit(k), v, rule.rates(k), chunk=chunk)
    assert_close(found, wanted)
    assert_close(memory, held)
    assert_close(rule(q, k, v, causal=True, seen=None), wanted)


def test_chunks_agree_with_the_parallel_forms_to_1e_5_on_long_rows_in_single_precision():
    q, k, v = torch.randn(3, 1, 500, HEADS, 16, generator=generator(3)).unbind()
    rule, phi, unit = DeltaRule(HEADS, 16, UnitRelu(), generator=generator()), EluPlusOne(), UnitRelu()
    for parallel, carried in (
        (LinearAttention(phi), linear_attention(phi(q), phi(k), v)),
        (rule, delta_rule(unit(q), unit(k), v, rule.rates(k))[0]),
    ):
        assert_close(parallel(q, k, v, causal=True, seen=None), carried, atol=1e-5, rtol=0)


def test_padding_writes_nothing(qkv):
    q, k, v = qkv
    rule = DeltaRule(HEADS, WIDTH, UnitRelu(), generator=generator()).double()
    seen = torch.arange(9).expand(2, -1) != 3
    left_out = rule(*(each[:, seen[0]] for each in (q, k, v)), causal=True, seen=None)
    assert_close(rule(q, k, v, causal=True, seen=seen)[:, seen[0]], left_out)


def test_orthonormal_keys_are_read_exactly():
    keys = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator(), dtype=torch.float64))[0]
    k, v = keys[None, :, None], torch.randn(1, WIDTH, 1, 3, generator=generator(2), dtype=torch.float64)
    _, memory = fast_weights(k, k, v)
    assert_close(torch.einsum("bkhf,bhfd->bkhd", k, memory), v)


def test_the_delta_rule_overwrites_where_a_sum_piles_up():
    k = torch.nn.functional.normalize(torch.randn(1, 1, 1, WIDTH, generator=generator()), dim=-1).expand(1, 2, 1, WIDTH)
    v = torch.randn(1, 2, 1, 3, generator=generator(2))
    replaced, _ = delta_rule(k, k, v, torch.ones(1, 2, 1))
    piled, _ = fast_weights(k, k, v)
    assert_close(replaced[:, 1], v[:, 1])
    assert_close(piled[:, 1], v.sum(1))


@pytest.mark.parametrize("orthogonal", [False, True])
def test_random_features_give_the_softmax_kernel_in_the_mean(orthogonal):
    q, k = 0.5 * torch.randn(2, 5, WIDTH, generator=generator(1))
    phi = Favor(WIDTH, 200_000, orthogonal=orthogonal, generator=generator())
    assert_close(phi(q) @ phi(k).T, torch.exp(q @ k.T / WIDTH**0.5), rtol=0.02, atol=0)
    assert (phi(q) > 0).all()


def test_orthogonal_features_are_orthogonal_in_groups_as_wide_as_the_head():
    W = Favor(WIDTH, 10, orthogonal=True, generator=generator()).W
    for group in W.split(WIDTH):
        products = group @ group.T
        assert_close(products, products.diag().diag(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["linear", "favor", "delta"])
def test_in_a_transformer_every_hook_acts_and_no_later_token_is_seen(kind):
    sizes = TransformerConfig(kind="decoder", mixer=kind, d_model=8, n_heads=2, n_layers=2, d_mlp=8, d_vocab=20, n_ctx=9)
    model = Model.wrap(transformer(sizes, 0).eval())
    tokens = torch.randint(20, (2, 7), generator=generator())
    before = model.run(tokens).logits
    hooks = {"delta": ("phi_q", "phi_k", "beta", "written")}.get(kind, ("phi_q", "phi_k", "pattern"))
    for hook in hooks:
        after = model.run(tokens, edits=[Edit(f"blocks.1.attn.mixer.hook_{hook}", lambda value: value.flip(1) * 0.5)]).logits
        assert not torch.allclose(before, after), hook
    later = tokens.clone()
    later[:, 4:] = (later[:, 4:] + 1) % 20
    assert_close(model.run(later).logits[:, :4], before[:, :4])


def test_the_delta_rule_refuses_to_see_both_ways(qkv):
    with pytest.raises(ModelError, match=r"^the delta rule writes token after token .*; use a decoder$"):
        DeltaRule(HEADS, WIDTH, UnitRelu(), generator=generator()).double()(*qkv, causal=False, seen=None)


def test_sizes_below_one_are_refused(qkv):
    with pytest.raises(ModelError, match=r"^n_features=0: random features must be 1 or more$"):
        Favor(4, 0, orthogonal=True, generator=generator())
    with pytest.raises(ModelError, match=r"^chunk=0: at least one token is taken at a time$"):
        fast_weights(*qkv, chunk=0)
