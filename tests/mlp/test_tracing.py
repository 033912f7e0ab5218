"""Causal tracing: what was planted is where it is found, and one step against the same done by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from edge_cases import shaken
from model_shapes import case_of
from planted import memory, small_world, world_model

from interp.errors import ConfigError, ModelError
from interp.mlp import tracing
from interp.models.hooked import Model
from interp.tasks.facts import Prompts, read_relation

CAPITALS = Path(__file__).parents[3] / "shared" / "data" / "relations" / "factual" / "country_capital_city.json"
NAMES = tracing.ROLES


def test_every_position_has_its_place() -> None:
    subject = torch.zeros(3, 8, dtype=torch.bool)
    subject[0, 2:5], subject[1, 1], subject[2, 0:2] = True, True, True
    prompts = Prompts(torch.zeros(3, 8, dtype=torch.long), subject, torch.tensor([7, 3, 2]), torch.zeros(3, dtype=torch.long))
    found = [[NAMES[i] if i >= 0 else "" for i in row] for row in tracing.roles(prompts).tolist()]
    whole = ["before", "before", "first subject", "middle subject", "last subject", "next", "further", "last"]
    assert found[0] == whole
    assert found[1] == ["before", "last subject", "next", "last", "", "", "", ""]
    assert found[2] == ["first subject", "last subject", "last", "", "", "", "", ""]


@pytest.mark.parametrize("template", [0, 2])
def test_in_the_planted_world_one_mlp_state_brings_everything_back(template: int) -> None:
    world = small_world()
    prompts = world.prompts(world.facts, template)
    found = tracing.trace(world_model(), prompts, samples=4)
    lost = found.clean.values.mean() - found.corrupted.values.mean()
    effect = found.effect.mean("example")
    assert lost > 0.3
    assert effect.sel(layer=0, role="last subject").values > 0.9 * lost
    table = effect.table().query("not (layer == 0 and role == 'last subject')")
    assert table["effect"].abs().max() < 0.1 * lost


def test_attention_carries_it_at_the_last_token_and_not_at_the_subject() -> None:
    world = small_world()
    effect = tracing.trace(world_model(), world.prompts(world.facts, 0), state="attention").effect.mean("example")
    assert effect.top(1) == [(1, "last")]
    assert effect.sel(layer=1, role="last subject").values == pytest.approx(0, abs=1e-6)


def test_putting_back_the_last_hidden_state_gives_the_clean_answer() -> None:
    world = small_world()
    found = tracing.trace(world_model(), world.prompts(world.facts, 1), state="hidden", samples=2)
    restored = found.corrupted.values + found.effect.sel(layer=1, role="last").values
    assert restored == pytest.approx(found.clean.values, abs=1e-5)


def test_a_window_over_all_layers_brings_back_at_least_what_one_layer_does() -> None:
    world = small_world()
    prompts = world.prompts(world.facts, 0)
    one, both = (tracing.trace(world_model(), prompts, state="hidden", window=window).effect.mean("example") for window in (1, 2))
    late = {"layer": 0, "role": "last"}
    assert both.sel(**late).values == pytest.approx(one.sel(layer=1, role="last").values, abs=1e-5)
    assert both.sel(**late).values > one.sel(**late).values + 0.3


def asked_of(shape: str, source: int, target: int) -> tuple[Model, Prompts, dict]:
    """A random encoder–decoder, with prompts whose subject is their first token and whose answers are what it says."""
    case, model = case_of(shape), shaken(shape)
    tokens, beside = case.tokens[:, :source], {"decoder_input": case.beside["decoder_input"][:, :target]}
    subject = torch.zeros_like(tokens, dtype=torch.bool)
    subject[:, 0] = True
    answer = model.run(tokens, **beside).logits[:, -1].argmax(-1)
    return model, Prompts(tokens, subject, torch.full((2,), source - 1), answer), beside


@pytest.mark.parametrize("shape", ["t5", "bart", "vaswani-pre"])
def test_all_that_one_target_token_knows_of_the_source_passes_its_cross_attention(shape: str) -> None:
    """Put back in every layer it regains the answer; in one it does not, nor does what the encoder made of another token."""
    model, prompts, beside = asked_of(shape, source=3, target=1)
    every, one = (
        tracing.trace(model, prompts, state="cross-attention", window=window, samples=2, stack="decoder", **beside)
        for window in (4, 1)
    )
    lost = every.clean.values - every.corrupted.values
    assert lost.max() > 0.02
    torch.testing.assert_close(every.effect.sel(layer=1, role="last").values, lost, rtol=1e-4, atol=1e-5)
    assert abs(one.effect.sel(layer=0, role="last").values - lost).max() > 1e-3
    encoder = tracing.trace(model, prompts, state="hidden", window=4, samples=2, stack="encoder", **beside)
    assert abs(encoder.effect.sel(layer=1, role="last").values - lost).max() > 1e-3


@pytest.mark.parametrize("shape", ["bart", "vaswani"])
def test_the_only_source_token_put_back_in_the_encoder_regains_the_answer(shape: str) -> None:
    model, prompts, beside = asked_of(shape, source=1, target=4)
    found = tracing.trace(model, prompts, state="hidden", samples=2, stack="encoder", **beside)
    assert list(found.effect.coords["role"]) == ["last"]
    lost = found.clean.values - found.corrupted.values
    assert lost.max() > 0.02
    for layer in (0, 1):
        torch.testing.assert_close(found.effect.sel(layer=layer, role="last").values, lost, rtol=1e-4, atol=1e-5)
    decoder = tracing.trace(model, prompts, samples=1, stack="decoder", **beside)
    assert list(decoder.effect.coords["role"]) == ["further", "last"]


def test_without_noise_on_the_subject_nothing_is_lost_and_seeds_repeat() -> None:
    world = small_world()
    prompts = world.prompts(world.facts, 0)
    faint = tracing.trace(world_model(), prompts, noise=1e-3, samples=1)
    assert faint.corrupted.values == pytest.approx(faint.clean.values, abs=1e-3)
    first, again, other = (tracing.trace(world_model(), prompts, samples=1, seed=seed).corrupted.values for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()


def test_unknown_facts_states_and_bad_sizes_are_refused() -> None:
    planted = memory()
    with pytest.raises(ModelError, match="does not know 64 of 64 facts"):
        tracing.trace(planted.model, planted.prompts.asking(planted.successor.roll(1)))
    with pytest.raises(ConfigError, match="no state 'mlps' to restore; choose from hidden, mlp, attention"):
        tracing.trace(planted.model, planted.prompts, state="mlps")
    with pytest.raises(ConfigError, match="window=0, samples=4 and noise=3 must all be above 0"):
        tracing.trace(planted.model, planted.prompts, window=0)


def test_a_state_that_the_model_has_not_is_refused_and_the_others_are_traced() -> None:
    shape = {"d_model": 16, "d_head": 8, "n_heads": 2, "n_layers": 1, "n_ctx": 16, "d_vocab": 64, "attn_only": True}
    bare, prompts = Model.native(shape, seed=0), memory().prompts
    with pytest.raises(ModelError, match=r"native has no blocks\.0\.hook_mlp_out, so no state 'mlp' to put back"):
        tracing.trace(bare, prompts)
    known = prompts.asking(bare.run(prompts.tokens).logits[torch.arange(len(prompts)), prompts.last].argmax(-1))
    assert tracing.trace(bare, known[:2], state="attention", samples=1).effect.values.any()


@pytest.mark.skipif(not CAPITALS.is_file(), reason="no ../shared/data/relations")
def test_a_model_of_python_is_not_traced_for_capitals_it_does_not_know() -> None:
    model = Model.load("stdlib-4l")
    assert model.tokenizer is not None
    prompts = read_relation(CAPITALS).prompts(model.tokenizer)
    with pytest.raises(ModelError, match=r"stdlib-4l does not know \d+ of 24 facts \(prompt \d+: the answer has probability"):
        tracing.trace(model, prompts)
