"""Rollout and flow against hand-made graphs and a slow reference; influence against finite differences."""

import itertools

import numpy as np
import pytest
import torch
from model_shapes import case_of

from interp.errors import ConfigError
from interp.heads import flow


def random_patterns(examples=2, layers=2, heads=3, n=4, seed=0):
    raw = np.tril(np.random.default_rng(seed).random((examples, layers, heads, n, n)))
    return raw / raw.sum(-1, keepdims=True)


def test_heads_that_look_at_themselves_roll_out_to_the_identity():
    patterns = np.broadcast_to(np.eye(5), (1, 3, 2, 5, 5)).copy()
    assert flow.rollout(patterns).values[0] == pytest.approx(np.eye(5))
    assert flow.flow(patterns).values[0] == pytest.approx(np.eye(5))


def test_a_previous_token_layer_moves_half_of_each_token_one_on():
    back = np.eye(4, k=-1)
    back[0, 0] = 1
    patterns = np.stack([back, back])[None, :, None]
    assert flow.rollout(patterns).values[0, 3] == pytest.approx([0, 0.25, 0.5, 0.25])
    assert flow.flow(patterns).values[0, 3] == pytest.approx([0, 0.5, 1.0, 0.5]), "two ways to token 2, each of a half"


def test_later_layers_come_first():
    back, glance = np.eye(4), np.eye(4)
    back[3] = [0, 0, 1, 0]  # above, token 3 looks at 2
    glance[2] = [1, 0, 0, 0]  # below, token 2 looks at 0
    patterns = np.stack([glance, back])[None, :, None]
    assert flow.rollout(patterns).values[0, 3] == pytest.approx([0.25, 0, 0.25, 0.5])
    assert flow.flow(patterns).values[0, 3] == pytest.approx([0.5, 0, 0.5, 0.5])


def test_rows_of_a_rollout_sum_to_one():
    assert flow.rollout(random_patterns()).values.sum(-1) == pytest.approx(1)


def test_flow_equals_the_smallest_cut():
    patterns = random_patterns(examples=1, n=3)
    layers = flow.mixing(patterns)[0]
    found = flow.flow(patterns).values[0]
    for query, key in itertools.product(range(3), repeat=2):
        assert found[query, key] == pytest.approx(smallest_cut(layers, query, key), abs=1e-5)


def smallest_cut(layers, query, key):
    """Over all ways to part the nodes into a side of the query and a side of the key."""
    depth, n = layers.shape[:2]
    nodes = list(itertools.product(range(depth + 1), range(n)))
    free = [node for node in nodes if node not in ((depth, query), (0, key))]
    edges = [((top + 1, i), (top, j), layers[top, i, j]) for top in range(depth) for i in range(n) for j in range(n)]
    best = np.inf
    for chosen in itertools.product([False, True], repeat=len(free)):
        near = {node for node, here in zip(free, chosen, strict=True) if here} | {(depth, query)}
        best = min(best, sum(size for tail, head, size in edges if tail in near and head not in near))
    return best


def test_influence_equals_the_jacobian_by_finite_differences():
    case = case_of("native")
    tokens = case.tokens[:1, :3]
    first, last = "blocks.0.hook_resid_pre", "blocks.1.hook_resid_post"
    residual = case.model.run(tokens, read=[first]).activations[first]
    found = flow.influence(case.model, residual).values[0]

    def out(stream):
        return case.model.run_from(0, stream, read=[last]).activations[last][0]

    step = 1e-2
    for key in range(3):
        columns = []
        for component in range(residual.shape[-1]):
            nudge = torch.zeros_like(residual)
            nudge[0, key, component] = step
            columns.append((out(residual + nudge) - out(residual - nudge)) / (2 * step))
        slow = torch.stack(columns, -1).square().sum((1, 2)).sqrt()
        assert found[:, key] == pytest.approx(slow.numpy(), rel=2e-2, abs=1e-4)
    assert (np.triu(found, 1) == 0).all(), "a causal model's influence on earlier tokens is exactly 0"


def test_an_exchanged_token_changes_later_streams_alone():
    case = case_of("gated")
    others = (case.tokens + 1) % 50
    found = flow.exchange(case.model, case.tokens, others).values
    assert (found[:, np.triu_indices(7, 1)[0], np.triu_indices(7, 1)[1]] == 0).all()
    assert (np.diagonal(found, axis1=1, axis2=2) > 0).all()


def test_a_token_is_not_exchanged_for_itself():
    case = case_of("native")
    with pytest.raises(ConfigError, match="a token can only be exchanged for another"):
        flow.exchange(case.model, case.tokens, case.tokens)
