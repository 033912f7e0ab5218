"""Estimates of node effects: right to first order on every kind of model, exact where what follows is linear, and complete along
a path; what they cannot be asked is refused."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from edge_cases import contrast_of, put, shaken
from model_shapes import NATIVE, SHAPES, build
from near_twins import near
from transformer_lens.tools.analysis import attribution_patching as lens

from interp.errors import ConfigError, ModelError
from interp.heads import gradients, softmax
from interp.heads.asked import ask
from interp.heads.graph import Graph
from interp.heads.nodes import PARTS, sites
from interp.models.hooked import Edit, Model
from interp.tasks.contrast import Contrast

TWO_STACKS = ("t5", "bart", "marian", "vaswani", "vaswani-pre")
BARE = NATIVE | {"attn_only": True, "normalization_type": None}
"""No norm and no MLP: after the last attention everything is linear."""


def performed(model: Model, contrast: Any, parts: Any, *, by_position: bool = False) -> np.ndarray:
    """Node after node with its twin's activation put in: metric after − metric before."""
    found, twin = [], contrast.swapped()
    nodes = sites(Graph.of(model), parts)
    twins = model.run(twin.clean, read=[site.hook for site in nodes], **twin.beside).activations
    plain = contrast.logit_difference(model.run(contrast.clean, **contrast.beside).logits)

    def patch(value: torch.Tensor, hook: str, head: int | None, pos: int | slice) -> torch.Tensor:
        index: Any = (slice(None), head, pos) if "pattern" in hook else (slice(None), pos, ...)
        index = index if head is None or "pattern" in hook else (slice(None), pos, head)
        value[index] = twins[hook][index]
        return value

    for site in nodes:
        for head in [None] if len(site.names) == 1 and site.part in ("input", "mlp", "resid") else range(len(site.names)):
            places = range(contrast.clean.shape[1]) if by_position else [slice(None)]
            row = []
            for pos in places:
                edit = Edit(site.hook, lambda value, how=(site.hook, head, pos): patch(value, *how))
                run = model.run(contrast.clean, edits=[edit], **contrast.beside)
                row.append((contrast.logit_difference(run.logits) - plain).detach().double().numpy())
            found.append(np.stack(row, -1) if by_position else row[0])
    return np.stack(found)


@cache
def bare(**more: Any) -> Model:
    """Attention without norms and MLPs, so sharp that its softmax is nearly flat."""
    model, generator = Model.native(BARE | more, seed=0), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.bridge.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return model


# ---- laws ----


@pytest.mark.parametrize("shape", [pytest.param(shape, marks=[pytest.mark.slow] * (shape in TWO_STACKS)) for shape in SHAPES])
def test_estimates_are_right_to_first_order(shape: str) -> None:
    off, parts = [], PARTS if shape in ("native", "gated", "bert") else ("input", "z", "k")
    for finer in (1, 2):
        model, contrast = near(shape, finer=finer)
        exact = performed(model, contrast, parts)
        found = gradients.attribution(model, contrast, parts=parts).values
        off.append(np.abs(found - exact).max())
    assert off[1] < 0.05 * np.abs(exact).max()
    assert 2.5 < off[0] / off[1] < 5, "the error falls with the square of the corruption, nearly so past a kinked activation"


def test_positions_of_a_node_sum_to_it_and_batches_make_no_difference() -> None:
    model, contrast = shaken("t5"), contrast_of("t5")
    whole = gradients.attribution(model, contrast, parts=PARTS)
    parted = gradients.attribution(model, contrast, parts=PARTS, by_position=True, batch=1)
    assert parted.dims == ("node", "example", "pos") and parted.values.shape[-1] == 7
    np.testing.assert_allclose(parted.values.sum(-1), whole.values, atol=1e-5 * np.abs(whole.values).max())
    decoder = [name.startswith("dec.a") and "<" not in name for name in parted.coords["node"]]
    assert np.abs(parted.values[decoder][..., 4]).min() > 0
    assert (parted.values[decoder][..., 5:] == 0).all(), "a decoder of 5 positions has no sixth"


def test_a_model_of_frozen_weights_gives_the_same_and_no_weight_gets_a_gradient() -> None:
    model, contrast = build("gpt2"), contrast_of("gpt2")
    before = gradients.attribution(model, contrast)
    for parameter in model.bridge.parameters():
        assert parameter.grad is None
        parameter.requires_grad_(False)
    with torch.no_grad():
        np.testing.assert_array_equal(gradients.attribution(model, contrast).values, before.values)


def test_estimates_are_exact_where_the_model_is_linear() -> None:
    model = bare()
    with torch.no_grad():
        for layer in range(2):
            for name in ("W_Q", "b_Q"):
                model.weight(f"blocks.{layer}.attn.{name}").zero_()
    contrast = contrast_of("native")
    found = gradients.attribution(model, contrast).values
    bare.cache_clear()
    np.testing.assert_allclose(found, performed(model, contrast, ("input", "z", "mlp")), rtol=1e-4, atol=1e-4)


def test_nodes_equal_those_of_transformerlens() -> None:
    """It takes one scalar of one example's logits, denoises, keeps positions apart and averages over examples."""
    model, contrast = shaken("gpt2"), contrast_of("gpt2")
    contrast = Contrast(clean=contrast.clean, corrupt=contrast.corrupt, answers=torch.tensor([7, 7]), wrong=torch.tensor([9, 9]))
    theirs = lens.attribution_patch(
        model.bridge, contrast.clean, contrast.corrupt, lambda logits: logits[0, -1, 7] - logits[0, -1, 9]
    )
    summed: dict[str, float] = {}
    for node, score in theirs.node_scores.items():
        name = {"embed": "input", "attn_head_out": f"a{node.layer}.h{node.head}", "mlp_out": f"m{node.layer}"}[node.kind]
        summed[name] = summed.get(name, 0.0) + score
    ours = gradients.attribution(model, contrast.swapped()).mean("example")
    expected = [summed[name] for name in ours.coords["node"]]
    np.testing.assert_allclose(ours.values, expected, atol=1e-5 * np.abs(expected).max())


# ---- the QK fix ----


@pytest.mark.parametrize(
    "more",
    [{}, {"n_key_value_heads": 1, "positional_embedding_type": "rotary", "rotary_dim": 8}],
    ids=["plain", "grouped rotary"],
)
def test_the_fix_is_exact_where_what_follows_the_softmax_is_linear(more: dict[str, Any]) -> None:
    model, contrast = bare(**more), contrast_of("native")
    exact = performed(model, contrast, ("q", "k"), by_position=True)
    linear, fixed = (
        gradients.attribution(model, contrast, parts=("q", "k"), qk_fix=fix, by_position=True) for fix in (False, True)
    )
    last = [name.startswith("a1") for name in fixed.coords["node"]]
    np.testing.assert_allclose(fixed.values[last], exact[last], atol=1e-4 * np.abs(exact).max())
    assert np.abs(linear.values[last] - exact[last]).max() > 0.3 * np.abs(exact).max(), "or the softmax was not curved here"


@pytest.mark.parametrize("shape", ["bert", "vaswani", "gated"])
def test_the_fix_is_right_to_first_order_too(shape: str) -> None:
    model, contrast = near(shape)
    linear, fixed = (gradients.attribution(model, contrast, parts=("q", "k"), qk_fix=fix).values for fix in (False, True))
    np.testing.assert_allclose(fixed, linear, atol=0.02 * np.abs(linear).max())


def test_attention_that_leaves_exactly_nothing_to_half_of_the_keys_is_refused() -> None:
    model, contrast = build("attention-only"), contrast_of("native")
    with torch.no_grad():
        model.weight("blocks.0.attn.W_Q").mul_(1e5)
    with pytest.raises(ModelError, match="blocks.0.attn.hook_pattern leaves exactly 0 to half of the keys"):
        gradients.attribution(model, contrast, parts=("k",), qk_fix=True)


def test_a_key_with_the_whole_row_to_itself_has_no_effect() -> None:
    z = softmax._denominators("hook_pattern", *(torch.tensor([[[[1.0, 0.0]]]]) for _ in range(3)))
    assert (z == 1).all()


# ---- dropped blocks ----


def test_a_node_whose_two_paths_cancel_is_seen_when_blocks_are_dropped() -> None:
    model = Model.native(BARE | {"n_heads": 1, "d_head": 16, "n_ctx": 1}, seed=0)
    with torch.no_grad():
        model.weight("blocks.1.attn.W_V")[0] = torch.eye(16)
        model.weight("blocks.1.attn.W_O")[0] = -torch.eye(16)
    contrast = Contrast(
        clean=torch.tensor([[3]]), corrupt=torch.tensor([[4]]), answers=torch.tensor([5]), wrong=torch.tensor([6])
    )
    direct = performed(model, contrast, ("z",))
    assert direct[0] == pytest.approx(0, abs=1e-6) and abs(direct[1]) > 1e-3
    plain, dropped = (how(model, contrast, parts=("z",)).values for how in (gradients.attribution, gradients.dropped))
    assert plain[0] == pytest.approx(0, abs=1e-6)
    twin = model.run(contrast.corrupt, read=["blocks.0.attn.hook_out"]).activations["blocks.0.attn.hook_out"]
    move = twin - model.run(contrast.clean, read=["blocks.0.attn.hook_out"]).activations["blocks.0.attn.hook_out"]
    alone = move[0, 0] @ (model.W_U[:, 5] - model.W_U[:, 6])
    assert dropped[0] == pytest.approx(abs(float(alone)), rel=1e-4)


@pytest.mark.parametrize("shape", ["bert", "vaswani-pre"])
def test_dropping_is_the_mean_over_other_blocks_of_runs_without_their_gradient(shape: str) -> None:
    model, contrast = shaken(shape), contrast_of(shape)
    graph = Graph.of(model)
    nodes = sites(graph, ("input", "z"))
    blocks: dict[str, list[str]] = {}
    for sublayer in graph.anatomy.sublayers:
        blocks.setdefault(".".join(sublayer.out.split(".")[:2]), []).append(sublayer.out)
    twin = contrast.swapped()
    hooks = [site.hook for site in nodes]
    twins = model.run(twin.clean, read=hooks, **twin.beside).activations
    total = {name: np.zeros(2) for site in nodes for name in site.names}
    for outs in blocks.values():
        edits = [Edit(out, lambda value: value.detach()) for out in outs]
        tape = gradients.recorded(model, contrast, Contrast.logit_difference, hooks, edits=edits)
        slopes = tape.gradients()
        for site in nodes:
            effects = site.per_node((twins[site.hook] - tape.clean[site.hook]) * slopes[site.hook]).sum(-1)
            for name, effect in zip(site.names, effects, strict=True):
                total[name] += np.abs(effect.numpy())
    expected = [total[name] / (len(blocks) - (site.block is not None)) for site in nodes for name in site.names]
    found = gradients.dropped(model, contrast, parts=("input", "z"), qk_fix=False).values
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


# ---- along a path ----


@pytest.mark.parametrize("shape", ["native", "bert", "bart"])
def test_integrated_inputs_add_up_as_steps_grow(shape: str) -> None:
    model, contrast = shaken(shape), contrast_of(shape)
    one = gradients.attribution(model, contrast)
    few, many = (gradients.integrated(model, contrast, steps=steps) for steps in (5, 40))
    off = [np.abs(gradients.completeness(model, contrast, each).values).max() for each in (one, few, many)]
    assert off[2] < off[1] / 8 and off[2] < off[0] / 8


def test_the_heads_of_a_hook_add_up_to_patching_all_of_it() -> None:
    model, contrast = shaken("native"), contrast_of("native")
    found = gradients.integrated(model, contrast, path="activations", steps=30)
    twin = model.run(contrast.corrupt, read=["blocks.0.attn.hook_z"]).activations["blocks.0.attn.hook_z"]
    runs = [model.run(contrast.clean, edits=edits).logits for edits in ([put("blocks.0.attn.hook_z", None, twin)], [])]
    after, before = (contrast.logit_difference(logits).numpy() for logits in runs)
    heads = found.sel(node="a0.h0").values + found.sel(node="a0.h1").values
    assert heads == pytest.approx(after - before, abs=0.01 * float(np.abs(after - before).max()))
    linear = gradients.attribution(model, contrast)
    assert np.abs(linear.sel(node="a0.h0").values + linear.sel(node="a0.h1").values - (after - before)).max() > 0.05


def test_one_path_leaves_what_comes_before_clean_and_the_other_does_not() -> None:
    model, contrast = shaken("native"), contrast_of("native")
    inputs, own = (gradients.integrated(model, contrast, path=path) for path in ("inputs", "activations"))
    np.testing.assert_allclose(inputs.sel(node="input").values, own.sel(node="input").values, rtol=1e-5)
    assert np.abs(inputs.sel(node="m1").values - own.sel(node="m1").values).max() > 1e-3


# ---- what is refused ----


def flat(part: Contrast, logits: torch.Tensor) -> torch.Tensor:
    return logits[:, 0, 0] * 0


def stepped(part: Contrast, logits: torch.Tensor) -> torch.Tensor:
    return (logits.argmax(-1) == part.answers[:, None]).double().mean(-1)


def steep(part: Contrast, logits: torch.Tensor) -> torch.Tensor:
    return (logits[:, -1, 0] - logits[:, -1, 0].detach()).abs().sqrt()


def whole(part: Contrast, logits: torch.Tensor) -> torch.Tensor:
    return logits.mean()


@pytest.mark.parametrize(
    ("metric", "error", "message"),
    [
        (flat, ModelError, "every effect is exactly 0: the metric does not depend on the activations there"),
        (stepped, ModelError, "the metric has no gradient: it does not depend on the logits, or goes through argmax"),
        (steep, ModelError, "the estimate at input is not finite in example 0"),
        (whole, ConfigError, r"the metric gave shape \[\] for 2 examples; give one number per example"),
    ],
)
def test_metrics_without_a_usable_gradient_are_refused(metric: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gradients.attribution(shaken("native"), contrast_of("native"), metric)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"parts": ("z", "mpl")}, r"no part 'mpl' \(did you mean mlp\?\); give some of input, z, mlp, q, k, v, pattern, resid"),
        ({"parts": ()}, r"parts=\(\); give some of input, z"),
        ({"batch": 0}, "batch=0 must be 1 or more"),
    ],
)
def test_what_does_not_exist_is_named(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gradients.attribution(shaken("native"), contrast_of("native"), **how)


@pytest.mark.parametrize(
    ("how", "message"),
    [({"steps": 0}, "steps=0 make no path; use at least 1"), ({"path": "weights"}, "no path 'weights'; move the 'inputs' or")],
)
def test_paths_that_do_not_exist_are_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gradients.integrated(shaken("native"), contrast_of("native"), **how)


def test_a_model_of_one_block_has_none_to_drop() -> None:
    model = Model.native(NATIVE | {"n_layers": 1}, seed=0)
    with pytest.raises(ConfigError, match="native has 1 block, so none is left when it is dropped; use attribution"):
        gradients.dropped(model, contrast_of("native"))


def test_effects_without_inputs_cannot_be_complete() -> None:
    model, contrast = shaken("native"), contrast_of("native")
    with pytest.raises(ConfigError, match="no node starts at an input, so nothing says what they should add up to"):
        gradients.completeness(model, contrast, gradients.attribution(model, contrast, parts=("z",)))


def test_a_value_that_is_not_finite_is_refused_with_its_example() -> None:
    contrast = contrast_of("native")
    with pytest.raises(ConfigError, match="the metric is nan in example 1"):
        ask(lambda part, logits: torch.tensor([0.0, float("nan")]), contrast, torch.zeros(2, 7, 50))
