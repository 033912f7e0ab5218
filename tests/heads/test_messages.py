"""Attention on a graph: masked as a whole and gathered node by node are one thing; other attention is refused."""

import pytest
import torch
from model_shapes import NATIVE, case_of

from interp import stats
from interp.errors import ConfigError, ModelError
from interp.heads.messages import gathered, hops, masked
from interp.models.hooked import Model

LAST = "blocks.1.hook_resid_post"


def stream(model: Model, nodes: int = 6) -> torch.Tensor:
    return torch.randn(nodes, model.d_model, generator=stats.torch_generator(0, "stream")).to(model.W_E)


def random_graph(nodes: int = 6) -> torch.Tensor:
    return (torch.rand(nodes, nodes, generator=stats.torch_generator(0, "graph")) < 0.4) | torch.eye(nodes, dtype=torch.bool)


def through_the_mask(model: Model, nodes: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
    return model.run_from(0, nodes[None], read=[LAST], edits=masked(model, graph)).activations[LAST][0]


@pytest.mark.parametrize("shape", ["native", "attention-only", "gpt2"])
def test_masked_attention_is_gathering_from_neighbours(shape):
    model = case_of(shape).model
    nodes, graph = stream(model), random_graph()
    torch.testing.assert_close(through_the_mask(model, nodes, graph), gathered(model, nodes, graph), atol=1e-5, rtol=1e-5)
    other = graph.clone()
    other[0, 1] ^= True
    assert not torch.allclose(through_the_mask(model, nodes, graph), gathered(model, nodes, other), atol=1e-3)


def test_keys_that_several_queries_share_are_served():
    model = Model.native(NATIVE | {"n_key_value_heads": 1}, seed=0)
    nodes, graph = stream(model), random_graph()
    torch.testing.assert_close(through_the_mask(model, nodes, graph), gathered(model, nodes, graph), atol=1e-5, rtol=1e-5)


def test_its_own_mask_changes_nothing():
    model = case_of("native").model
    nodes, causal = stream(model), torch.ones(6, 6).tril() > 0
    plain = model.run_from(0, nodes[None], read=[LAST]).activations[LAST][0]
    torch.testing.assert_close(through_the_mask(model, nodes, causal), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("llama", "attends by more than softmax"),
        ("gated", "attends by more than softmax"),
        ("decoder-post", "attends by more than softmax"),
        ("vaswani-pre", "vaswani-pre has two streams; give a model of one, a decoder or an encoder"),
    ],
)
def test_other_attention_is_refused(shape, message):
    model = case_of(shape).model
    for refused in (lambda: masked(model, random_graph()), lambda: gathered(model, stream(model), random_graph())):
        with pytest.raises(ModelError, match=message):
            refused()


def test_hops_count_edges():
    ring = torch.eye(6, dtype=torch.bool) | torch.eye(6, dtype=torch.bool).roll(1, 1) | torch.eye(6, dtype=torch.bool).roll(-1, 1)
    assert hops(ring)[0].tolist() == [0, 1, 2, 3, 2, 1]
    ring[0, 3] = ring[3, 0] = True
    assert hops(ring)[0].tolist() == [0, 1, 2, 1, 2, 1]


def test_a_graph_in_pieces_is_refused():
    with pytest.raises(ConfigError, match="the graph falls apart: 6 of 9 pairs cannot reach each other; add edges"):
        hops(torch.eye(3) > 0)
