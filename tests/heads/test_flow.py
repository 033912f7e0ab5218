"""Rollout and flow against hand-made graphs and a slow reference; influence against finite differences."""

import itertools

import numpy as np
import pytest
import torch
from model_shapes import case_of

from interp.errors import ConfigError, ModelError
from interp.heads import flow
from interp.models.hooked import Edit


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


def joint(case):
    """Case of an encoder–decoder: 7 source tokens, then 5 of the target."""
    return flow.patterns_of(case.model, case.tokens, **case.beside)


@pytest.mark.parametrize("shape", ["t5", "bart", "vaswani"])
def test_source_and_target_make_one_graph_of_encoder_decoder_and_cross_attention(shape):
    case = case_of(shape)
    found, (source, target) = joint(case), (slice(7), slice(7, 12))
    assert found.shape[1] == 2 + 2 * 2 and found.sum(-1) == pytest.approx(1, abs=1e-5)
    own = {"encoder_blocks.1.attn": 1, "decoder_blocks.0.self_attn": 2, "decoder_blocks.1.cross_attn": 5}
    seen = case.run(read=[f"{path}.hook_pattern" for path in own]).activations
    blocks = {"attn": (source, source), "self_attn": (target, target), "cross_attn": (target, source)}
    for path, layer in own.items():
        queries, keys = blocks[path.rpartition(".")[2]]
        assert found[:, layer][:, :, queries, keys] == pytest.approx(seen[f"{path}.hook_pattern"].numpy(), abs=1e-6)
        rest = found[:, layer].copy()
        rest[:, :, queries] = 0
        still = np.eye(12)
        still[queries] = 0
        assert (rest == still).all(), "all other positions stay where they are"


@pytest.mark.parametrize("how", [flow.rollout, flow.flow])
def test_the_source_reaches_the_target_and_not_the_other_way_round(how):
    found = how(joint(case_of("vaswani-pre"))).values
    assert (found[:, 7:, :7] > 0).all() and (found[:, :7, 7:] == 0).all()
    assert (np.triu(found[:, 7:, 7:], 1) == 0).all()


def test_influence_across_equals_the_jacobian_by_finite_differences():
    case = case_of("vaswani-pre")
    tokens, beside = case.tokens[:1, :3], {"decoder_input": case.beside["decoder_input"][:1, :2]}
    residual = flow.starts(case.model, tokens, **beside)
    found = flow.influence(case.model, residual, **beside).values[0]
    hooks = ["encoder_blocks.0.hook_resid_pre", "decoder_blocks.0.hook_resid_pre"]
    last = "decoder_blocks.1.hook_resid_post"

    def out(stream):
        edits = [Edit(hook, lambda _, part=part: part) for hook, part in zip(hooks, stream.split([3, 2], 1), strict=True)]
        return case.model.run(tokens, read=[last], edits=edits, **beside).activations[last][0]

    step, columns = 1e-2, []
    for component in range(residual.shape[-1]):
        nudge = torch.zeros_like(residual)
        nudge[0, 1, component] = step
        columns.append((out(residual + nudge) - out(residual - nudge)) / (2 * step))
    assert found[:, 1] == pytest.approx(torch.stack(columns, -1).square().sum((1, 2)).sqrt().numpy(), rel=2e-2, abs=1e-4)
    assert found.shape == (2, 5) and found[0, 4] == 0, "a later token of the target has no influence, exactly"


def test_an_exchanged_source_token_changes_the_target_s_stream_everywhere():
    case = case_of("t5")
    others = (torch.cat([case.tokens, case.beside["decoder_input"]], 1) + 1) % 50
    found = flow.exchange(case.model, case.tokens, others, **case.beside).values
    assert (found[:, :, :7] > 0).all() and (np.triu(found[:, :, 7:], 1) == 0).all()


@pytest.mark.parametrize("analysis", [flow.patterns_of, flow.starts])
def test_without_the_target_there_is_no_graph(analysis):
    case = case_of("t5")
    with pytest.raises(ModelError, match="needs the decoder's tokens too"):
        analysis(case.model, case.tokens)
