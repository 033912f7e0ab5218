"""Claims about score functions: they are what their equations say, and their ranks what the theorem says."""

import pytest
import torch
from torch.testing import assert_close

from interp.errors import ModelError
from interp.models.scores import Additive, Bilinear, Dot, ScaledDot

HEADS, WIDTH = 3, 4


def make(kind):
    generator = torch.Generator().manual_seed(0)
    return {
        "dot": Dot,
        "scaled dot": ScaledDot,
        "bilinear": lambda: Bilinear(HEADS, WIDTH, generator=generator),
        "additive": lambda: Additive(HEADS, WIDTH, hidden=32, generator=generator),
    }[kind]()


def one_by_one(kind, score, q, k):
    """The equation of a score function for one query and one key of one head."""
    return {
        "dot": lambda h: q @ k,
        "scaled dot": lambda h: q @ k / WIDTH**0.5,
        "bilinear": lambda h: q @ score.W[h] @ k,
        "additive": lambda h: torch.tanh(q @ score.W[h] + k @ score.U[h]) @ score.v[h],
    }[kind]


@pytest.fixture
def queries():
    return torch.randn(2, 5, HEADS, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def keys():
    return torch.randn(2, 7, HEADS, WIDTH, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", ["dot", "scaled dot", "bilinear", "additive"])
def test_every_score_is_that_of_its_equation(kind, queries, keys):
    score = make(kind)
    found = score(queries, keys)
    assert found.shape == (2, HEADS, 5, 7)
    for b, h, i, j in torch.cartesian_prod(*(torch.arange(n) for n in found.shape)).tolist():
        assert_close(found[b, h, i, j], one_by_one(kind, score, queries[b, i, h], keys[b, j, h])(h))


def test_scaled_dot_products_are_those_of_torch(queries, keys):
    q, k = queries.transpose(1, 2), keys.transpose(1, 2)
    identity = torch.eye(7).expand(2, HEADS, 7, 7)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, identity)
    assert_close(ScaledDot()(queries, keys).softmax(-1), expected)


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("kind", ["dot", "scaled dot", "bilinear"])
def test_log_attention_of_linear_scores_has_rank_one_more_than_the_head_is_wide(kind, width):
    generator = torch.Generator().manual_seed(width)
    q, k = torch.randn(2, 1, 12, 1, width, generator=generator, dtype=torch.float64)
    score = (
        Bilinear(1, width, generator=generator).double() if kind == "bilinear" else {"dot": Dot, "scaled dot": ScaledDot}[kind]()
    )
    assert int(torch.linalg.matrix_rank(score(q, k).log_softmax(-1)[0, 0])) == width + 1


def test_additive_scores_have_full_rank_in_a_head_of_width_one():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 8, 1, 1, generator=generator, dtype=torch.float64)
    score = Additive(1, 1, hidden=32, generator=generator).double()
    assert int(torch.linalg.matrix_rank(score(q, k).log_softmax(-1)[0, 0])) == 8


def test_the_hidden_layer_of_additive_scores_can_be_edited(queries, keys):
    score = make("additive")
    handle = score.hook_hidden.add_hook(lambda value, *, hook: torch.zeros_like(value))
    assert not score(queries, keys).any()
    handle.hook.remove()
    assert score(queries, keys).any()


def test_weights_come_from_the_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert torch.equal(make("additive").W, make("additive").W)
    assert torch.equal(make("bilinear").W, make("bilinear").W)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_size_below_one_is_refused():
    with pytest.raises(ModelError, match=r"^hidden=0: a score function needs sizes of 1 or more$"):
        Additive(2, 4, hidden=0, generator=torch.Generator())
    with pytest.raises(ModelError, match=r"^n_heads=0, d_head=-1: a score function needs sizes of 1 or more$"):
        Bilinear(0, -1, generator=torch.Generator())
