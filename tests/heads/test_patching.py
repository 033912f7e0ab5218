"""Activation patching: the sweeps against one patch at a time, on every kind of model, and against TransformerLens's own."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from model_shapes import SHAPES, Case, build, case_of
from transformer_lens import patching as lens
from transformer_lens.ActivationCache import ActivationCache

from interp.errors import ConfigError, HookError, ModelError
from interp.heads import ablation, patching
from interp.heads.ablation import Place
from interp.measurement import Measurement
from interp.models.hooked import Model
from interp.tasks.contrast import Contrast

ONE_STACK = [
    ("blocks.*.hook_resid_post", ("pos",)),
    ("blocks.*.hook_mlp_out", ()),
    ("blocks.*.attn.hook_k", ("head",)),
    ("blocks.*.attn.hook_z", ("head", "pos")),
    ("blocks.*.attn.hook_pattern", ("head",)),
]
TWO_STACKS = [
    ("encoder_blocks.*.hook_mlp_out", ("pos",)),
    ("encoder_blocks.*.attn.hook_pattern", ("head",)),
    ("decoder_blocks.*.self_attn.hook_z", ("head",)),
    ("decoder_blocks.*.cross_attn.hook_k", ("head", "pos")),
    ("decoder_blocks.*.cross_attn.hook_pattern", ("head", "pos")),
]


@cache
def sharp(shape: str) -> Case:
    """A case whose weights are large, so that attention is far from even and every part matters."""
    case = case_of(shape)
    model = build(shape)
    with torch.no_grad():
        for weight in model.bridge.parameters():
            if weight.ndim > 1:
                weight.mul_(0.4 / weight.std())
    return Case(model, case.tokens, case.beside)


def contrast_of(shape: str) -> Contrast:
    """Twins that differ in two tokens, for three examples; the last of them in one only."""
    case = sharp(shape)
    clean = torch.cat([case.tokens, case.tokens[:1].flip(1)])
    corrupt = clean.clone()
    corrupt[:, 2] = (clean[:, 2] + 11) % 47 + 3
    corrupt[:2, 4] = (clean[:2, 4] + 5) % 47 + 3
    beside = {name: value[[0, 1, 0]] for name, value in case.beside.items()}
    answers, wrong = torch.tensor([3, 9, 20]), torch.tensor([5, 30, 40])
    return Contrast(clean=clean, corrupt=corrupt, answers=answers, wrong=wrong, beside=beside)


def one_at_a_time(model: Model, contrast: Contrast, hooks: str, by: tuple[str, ...]) -> np.ndarray:
    """What a sweep must give: one run with one edit for each cell; NaN for most cells where there are many."""

    beside: dict[str, Any] = dict(contrast.beside)

    def asked(edits: list) -> torch.Tensor:
        return contrast.logit_difference(model.run(contrast.clean, edits=edits, **beside).logits).double()

    names = [hooks.replace("*", str(layer)) for layer in range(model.n_layers)]
    values = ablation.corrupted(model, contrast, names)
    whole, rows = asked([]), []
    for name in names:
        sizes = [values[name].shape[ablation.axes(name)[axis]] for axis in by]
        effects = torch.full((*sizes, len(contrast)), torch.nan, dtype=torch.float64)
        cells = list(np.ndindex(*sizes))
        for cell in cells[:: 1 + len(cells) // 3]:
            place = Place(name, **dict(zip(by, cell, strict=True)))
            effects[cell] = asked(ablation.replaced(model, [place], values)) - whole
        rows.append(effects)
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_sweep_gives_what_one_patch_at_a_time_gives(shape: str) -> None:
    model, contrast = sharp(shape).model, contrast_of(shape)
    for hooks, by in TWO_STACKS if model.kind == "encoder-decoder" else ONE_STACK:
        if hooks.replace("*", "0") not in model.hooks:
            assert shape == "attention-only" and hooks == "blocks.*.hook_mlp_out"
            continue
        found = patching.sweep(model, contrast, hooks, by=by, batch=16)
        assert found.dims == ("layer", *by, "example") and list(found.coords["layer"]) == [0, 1]
        expected = one_at_a_time(model, contrast, hooks, by)
        tried = ~np.isnan(expected)
        np.testing.assert_allclose(found.values[tried], expected[tried], rtol=1e-4, atol=1e-5, err_msg=hooks)
        assert np.abs(expected[tried]).max() > 1e-3, f"{hooks}: a comparison of zeros with zeros shows nothing"


@pytest.mark.parametrize("batch", [1, 2, None])
def test_the_number_of_rows_in_a_pass_changes_nothing(batch: int | None) -> None:
    model, contrast = sharp("native").model, contrast_of("native")
    sweep = partial(patching.sweep, model, contrast, "blocks.*.attn.hook_z", by=("head",))
    np.testing.assert_allclose(sweep(batch=batch).values, sweep(batch=7).values, atol=1e-6)
    total = partial(patching.total_effect, model, contrast)
    np.testing.assert_allclose(total(batch=batch).values, total(batch=7).values, atol=1e-6)


@pytest.fixture(scope="module")
def gpt2() -> tuple[Model, Contrast]:
    return sharp("gpt2").model, contrast_of("gpt2").swapped()


LENS = {
    "get_act_patch_resid_pre": ("blocks.*.hook_resid_pre", ("pos",)),
    "get_act_patch_resid_mid": ("blocks.*.hook_resid_mid", ("pos",)),
    "get_act_patch_attn_out": ("blocks.*.hook_attn_out", ("pos",)),
    "get_act_patch_mlp_out": ("blocks.*.hook_mlp_out", ("pos",)),
    "get_act_patch_attn_head_out_all_pos": ("blocks.*.attn.hook_z", ("head",)),
    "get_act_patch_attn_head_q_all_pos": ("blocks.*.attn.hook_q", ("head",)),
    "get_act_patch_attn_head_k_all_pos": ("blocks.*.attn.hook_k", ("head",)),
    "get_act_patch_attn_head_v_all_pos": ("blocks.*.attn.hook_v", ("head",)),
    "get_act_patch_attn_head_pattern_all_pos": ("blocks.*.attn.hook_pattern", ("head",)),
}


@pytest.mark.parametrize("name", LENS)
def test_sweeps_equal_those_of_transformerlens(gpt2: tuple[Model, Contrast], name: str) -> None:
    model, contrast = gpt2  # both denoise: the corrupted run goes on, clean values are put in
    hooks, by = LENS[name]
    _, cache = model.bridge.run_with_cache(contrast.corrupt)
    assert isinstance(cache, ActivationCache)
    theirs = getattr(lens, name)(model.bridge, contrast.clean, cache, lambda logits: contrast.logit_difference(logits).mean())
    before = contrast.logit_difference(model.run(contrast.clean).logits).mean()
    ours = patching.sweep(model, contrast, hooks, by=by).mean("example").values
    np.testing.assert_allclose(ours, (theirs - before).numpy(), atol=1e-5)


def test_a_patch_of_everything_has_the_whole_effect(gpt2: tuple[Model, Contrast]) -> None:
    model, contrast = gpt2
    total = patching.total_effect(model, contrast)
    assert total.dims == ("example",) and np.abs(total.values).min() > 1e-4
    embeddings = patching.sweep(model, contrast, "blocks.*.hook_resid_pre").sel(layer=0)
    np.testing.assert_allclose(embeddings.values, total.values, atol=1e-5)
    np.testing.assert_allclose(patching.total_effect(model, contrast.swapped()).values, -total.values, atol=1e-6)


def test_places_before_the_first_changed_token_have_no_effect_at_all(gpt2: tuple[Model, Contrast]) -> None:
    model, contrast = gpt2
    effects = patching.sweep(model, contrast, "blocks.*.hook_resid_post", by=("pos",)).values
    assert (effects[:, :2] == 0).all() and (effects[-1, -1] != 0).all()


def test_cells_without_a_change_are_not_run(gpt2: tuple[Model, Contrast], monkeypatch: pytest.MonkeyPatch) -> None:
    model, contrast = gpt2
    ran: list[int] = []
    run_from = model.run_from
    monkeypatch.setattr(
        model, "run_from", lambda layer, residual, **how: ran.append(len(residual)) or run_from(layer, residual, **how)
    )
    patching.sweep(model, contrast, "blocks.*.hook_resid_pre", by=("pos",), batch=4)
    assert sum(ran) == (2 + 2 + 1) + (5 + 5 + 5)  # at the embeddings the changed tokens, one layer on all that follow
    assert max(ran) == 4


def test_every_example_has_its_own_effect(gpt2: tuple[Model, Contrast]) -> None:
    model, contrast = gpt2
    sweep = partial(patching.sweep, model, hooks="blocks.*.attn.hook_z", by=("head", "pos"))
    alone = [sweep(contrast=contrast[row : row + 1]).values for row in range(len(contrast))]
    np.testing.assert_allclose(sweep(contrast=contrast).values, np.concatenate(alone, -1), atol=1e-6)


def test_other_inputs_follow_their_example() -> None:
    case, contrast = sharp("bert"), contrast_of("bert")
    mask = torch.ones_like(contrast.clean)
    mask[0, 5:] = 0
    contrast = replace(contrast, beside={"attention_mask": mask}, positions=1)
    expected = one_at_a_time(case.model, contrast, "blocks.*.attn.hook_z", ("head",))
    found = patching.sweep(case.model, contrast, "blocks.*.attn.hook_z", by=("head",), batch=2)
    np.testing.assert_allclose(found.values, expected, atol=1e-5)


def test_twins_may_differ_in_what_stands_beside_the_tokens() -> None:
    case, contrast = sharp("t5"), contrast_of("t5")
    other = {"decoder_input": contrast.beside["decoder_input"].flip(1)}
    contrast = replace(contrast, corrupt=contrast.clean, beside_corrupt=other)
    found = patching.sweep(case.model, contrast, "decoder_blocks.*.hook_resid_pre").sel(layer=0)
    np.testing.assert_allclose(found.values, patching.total_effect(case.model, contrast).values, atol=1e-5)
    assert (patching.sweep(case.model, contrast, "encoder_blocks.*.hook_resid_post").values == 0).all()


def test_a_sweep_of_other_values_is_an_ablation(gpt2: tuple[Model, Contrast]) -> None:
    model, contrast = gpt2
    hooks = [f"blocks.{layer}.attn.hook_z" for layer in range(2)]
    clean = model.run(contrast.clean, read=hooks).activations
    kinds = {
        "zero": ablation.zeros(hooks),
        "mean": ablation.mean_outputs(model, contrast.clean),
        "another example": ablation.shuffled(clean, seed=0),
    }
    before = contrast.logit_difference(model.run(contrast.clean).logits)
    found: list[Measurement] = []
    for values in kinds.values():
        found.append(patching.sweep(model, contrast, "blocks.*.attn.hook_z", by=("head",), values=values, batch=2))
        edits = ablation.replaced(model, [(1, 0)], values)
        expected = contrast.logit_difference(model.run(contrast.clean, edits=edits).logits) - before
        np.testing.assert_allclose(found[-1].sel(layer=1, head=0).values, expected, atol=1e-5)
    assert not np.allclose(found[0].values, found[1].values) and not np.allclose(found[1].values, found[2].values)


def test_a_metric_of_ones_own_sees_the_examples_that_ran(gpt2: tuple[Model, Contrast]) -> None:
    model, contrast = gpt2
    sweep = partial(patching.sweep, model, contrast, "blocks.*.hook_mlp_out", batch=2)
    own = sweep(metric=lambda part, logits: part.at_positions(logits).gather(1, part.answers[:, None])[:, 0])
    np.testing.assert_allclose(own.values, sweep(metric=Contrast.answer_logit).values, atol=1e-6)


def test_what_a_sweep_cannot_do_is_said(gpt2: tuple[Model, Contrast]) -> None:
    model, contrast = gpt2
    same = replace(contrast, corrupt=contrast.clean)
    with pytest.raises(ModelError, match="clean and corrupted inputs are the same in every example"):
        patching.sweep(model, same, "blocks.*.attn.hook_z")
    with pytest.raises(ModelError, match="clean and corrupted inputs are the same in every example"):
        patching.total_effect(model, same)
    with pytest.raises(ModelError, match="answers holds the id 50, but the model's vocabulary is 0 to 49"):
        patching.sweep(model, replace(contrast, answers=contrast.answers + 30), "blocks.*.attn.hook_z")
    with pytest.raises(ConfigError, match="the metric gave shape .3, 50. for 3 examples; give one number per example"):
        patching.sweep(model, contrast, "blocks.*.attn.hook_z", metric=Contrast.at_positions)
    with pytest.raises(ConfigError, match="every effect is exactly 0 although patches change the logits"):
        patching.sweep(model, contrast, "blocks.*.attn.hook_z", metric=lambda asked, logits: 0 * asked.answer_logit(logits))
    with pytest.raises(ConfigError, match="has no heads to go through; leave 'head' out"):
        patching.sweep(model, contrast, "blocks.*.hook_mlp_out", by=("head",))
    with pytest.raises(ConfigError, match="by='layer' is no axis of a sweep; choose from head, pos"):
        patching.sweep(model, contrast, "blocks.*.hook_mlp_out", by=("layer",))
    with pytest.raises(ConfigError, match=r"expected axes, got the string 'head'; write by=\('head',\)"):
        patching.sweep(model, contrast, "blocks.*.attn.hook_z", by="head")
    with pytest.raises(ConfigError, match="must have one star in the place of the layer"):
        patching.sweep(model, contrast, "blocks.0.hook_mlp_out")
    with pytest.raises(HookError, match=r"no hook 'blocks.0.attn.hook_zz' on this model .did you mean"):
        patching.sweep(model, contrast, "blocks.*.attn.hook_zz")
    with pytest.raises(ConfigError, match="batch=0 must be 1 or more"):
        patching.sweep(model, contrast, "blocks.*.hook_mlp_out", batch=0)
    with pytest.raises(ModelError, match="no values for blocks.1.hook_mlp_out; give some for every layer"):
        patching.sweep(model, contrast, "blocks.*.hook_mlp_out", values=ablation.zeros(["blocks.0.hook_mlp_out"]))
    misfit = {f"blocks.{layer}.hook_mlp_out": torch.zeros(4, 7, 16) for layer in range(2)}
    with pytest.raises(ModelError, match=r"values of shape \[4, 7, 16\] do not fit blocks.0.hook_mlp_out, which is \[3, 7, 16\]"):
        patching.sweep(model, contrast, "blocks.*.hook_mlp_out", values=misfit)
