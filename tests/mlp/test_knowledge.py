"""Knowledge neurons: found where they were planted, and proved by silencing and doubling them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from edge_cases import shaken
from model_shapes import case_of
from planted import memory, small_world, world_model

from interp.errors import ConfigError, ModelError
from interp.measurement import Measurement
from interp.mlp import knowledge, recall
from interp.mlp.subupdates import scaled, sub_updates
from interp.models.hooked import Edit, Model
from interp.tasks.facts import Prompts

SHAPE = {"d_model": 16, "d_head": 8, "n_heads": 2, "n_layers": 2, "n_ctx": 16, "d_vocab": 20, "act_fn": "gelu", "d_mlp": 24}


@pytest.fixture(scope="module")
def random_model() -> Model:
    return Model.native(SHAPE | {"normalization_type": "LN"}, seed=0)


def prompts_known_to(model: Model) -> Prompts:
    """Random prompts, asking for what the model says anyway."""
    tokens = torch.randint(20, (6, 7), generator=torch.Generator().manual_seed(0))
    subject = torch.zeros_like(tokens, dtype=torch.bool)
    subject[:, 2:4] = True
    last = torch.tensor([6, 6, 5, 6, 4, 6])
    answer = model.run(tokens).logits[torch.arange(6), last].argmax(-1)
    return Prompts(tokens, subject, last, answer)


def test_the_planted_neuron_has_the_largest_attribution() -> None:
    planted = memory()
    found = knowledge.attribute(planted.model, planted.prompts, steps=30)
    assert torch.equal(torch.from_numpy(found.values.values[:, 0]).argmax(1), planted.neuron)
    assert np.abs(found.residual.values).max() < 0.01


def test_attributions_sum_to_what_silencing_the_layer_costs(random_model: Model) -> None:
    prompts = prompts_known_to(random_model)
    found = knowledge.attribute(random_model, prompts, at=prompts.last_subject, layers=[0], steps=40)

    def silence(post: torch.Tensor) -> torch.Tensor:
        post[torch.arange(6), prompts.last_subject] = 0.0
        return post

    cut = recall.probability(random_model, prompts, edits=[Edit("blocks.0.mlp.hook_post", silence)])
    lost = recall.probability(random_model, prompts) - cut
    np.testing.assert_allclose(found.values.values.sum((1, 2)), lost.numpy(), atol=1e-4)
    assert found.values.dims == ("example", "layer", "neuron") and found.values.coords["layer"] == [0]


@pytest.mark.parametrize(("shape", "stack"), [("bart", "encoder"), ("vaswani-pre", "decoder")])
def test_in_both_stacks_attributions_sum_to_what_silencing_the_layer_costs(shape: str, stack: str) -> None:
    """Sources of one token and one token of target: a layer of neurons has one place there, so all of it can be silenced."""
    model, tokens = shaken(shape), case_of(shape).tokens[:, :1]
    beside: dict[str, Any] = {"decoder_input": torch.tensor([[5], [6]])}
    answer = model.run(tokens, **beside).logits[:, -1].argmax(-1)
    prompts = Prompts(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.zeros(2, dtype=torch.long), answer)
    found = knowledge.attribute(model, prompts, layers=[1], steps=32, stack=stack, **beside)
    width = found.values.values.shape[2]
    change = knowledge.relative_change(model, prompts, [(1, i) for i in range(width)], factor=0.0, stack=stack, **beside)
    lost = -change.values * recall.probability(model, prompts, **beside).numpy()
    assert np.abs(lost).max() > 1e-3
    np.testing.assert_allclose(found.values.values.sum((1, 2)), lost, atol=0.02 * np.abs(lost).max() + 1e-4)


def test_a_decoders_neurons_are_asked_where_the_answer_is_and_an_encoders_at_the_prompts_last_token() -> None:
    case = case_of("t5")
    last, answer = torch.tensor([6, 4]), case.run().logits[:, -1].argmax(-1)
    prompts = Prompts(case.tokens, torch.ones_like(case.tokens, dtype=torch.bool), last, answer)
    for stack, at in (("decoder", torch.tensor([4, 4])), ("encoder", last)):
        plain, named = (
            knowledge.attribute(case.model, prompts, at=place, layers=[0], steps=2, stack=stack, **case.beside)
            for place in (None, at)
        )
        np.testing.assert_array_equal(plain.values.values, named.values.values)
        assert np.abs(plain.values.values).max() > 0


def test_the_error_of_the_integral_falls_with_the_square_of_the_steps() -> None:
    planted = memory()
    coarse, fine = (
        np.abs(knowledge.attribute(planted.model, planted.prompts, steps=steps).residual.values).mean() for steps in (40, 80)
    )
    assert 3 < coarse / fine < 5


def test_refining_keeps_what_most_wordings_share_strongest_first() -> None:
    values = np.array([[[10.0, 5.0, 0.1]], [[10.0, 1.0, 9.0]], [[8.0, 4.0, 0.0]], [[0.0, 0.0, 3.0]]])
    attributions = Measurement("attribution", values, ("example", "layer", "neuron"), {"layer": [2]})
    found = knowledge.refine(attributions, [7, 7, 7, 9], threshold=0.2, share=0.6)
    assert found == {7: [(2, 0), (2, 1)], 9: [(2, 2)]}
    assert knowledge.refine(attributions, [7, 7, 7, 9], threshold=0.2, share=0.3)[7] == [(2, 0), (2, 1), (2, 2)]


def test_silencing_a_persons_neuron_loses_the_fact_and_no_other() -> None:
    world, model = small_world(), world_model()
    prompts = world.prompts(world.facts, 0)
    found = knowledge.attribute(model, prompts, at=prompts.last_subject, layers=[0])
    neurons = knowledge.refine(found.values, range(len(prompts)))
    assert neurons[5] == [(0, int(world.facts[5, 0]))]
    change = knowledge.relative_change(model, prompts, neurons[5], factor=0.0).values
    own = (world.facts[:, 0] == world.facts[5, 0]).numpy()
    assert (change[own] < -0.8).all() and np.abs(change[~own]).max() < 1e-3


def test_sub_updates_read_back_what_is_stored_and_need_the_neurons_that_hold_it() -> None:
    planted = memory()
    updates = sub_updates(planted.model, planted.prompts.tokens, 0)
    for top in (1, None):
        assert torch.equal(knowledge.read_back(updates, planted.prompts, top=top), planted.successor)
    blank = planted.model.untrained(0)
    read = knowledge.read_back(sub_updates(blank, planted.prompts.tokens, 0), planted.prompts)
    assert (read == planted.successor).float().mean() < 0.1


def test_facts_the_model_does_not_know_are_refused_with_figures() -> None:
    planted = memory()
    wrong = planted.prompts.asking(planted.successor.roll(1))
    told = r"planted memory does not know 64 of 64 facts \(prompt 0: the answer has probability .* keep those it knows"
    with pytest.raises(ModelError, match=told):
        knowledge.attribute(planted.model, wrong)


def test_models_without_one_mlp_per_layer_and_integrals_without_steps_are_refused() -> None:
    with pytest.raises(ModelError, match="layer 0 of mixtral is a mixture of experts"):
        knowledge.attribute(case_of("mixtral").model, memory().prompts)
    bare = Model.native(SHAPE | {"attn_only": True, "normalization_type": None}, seed=0)
    with pytest.raises(ModelError, match="has no MLPs, so no neurons to read"):
        knowledge.attribute(bare, prompts_known_to(bare))
    with pytest.raises(ConfigError, match="steps=0: the integral needs 1 or more"):
        knowledge.attribute(bare, prompts_known_to(bare), steps=0)


def test_recall_reads_each_prompt_at_its_own_last_token(random_model: Model) -> None:
    prompts = prompts_known_to(random_model)
    assert recall.is_first(random_model, prompts).all()
    short = prompts[torch.tensor([4])]
    cut = Prompts(short.tokens[:, :5], short.subject[:, :5], short.last, short.answer)
    torch.testing.assert_close(recall.probability(random_model, short), recall.probability(random_model, cut))
    silent = scaled(random_model, [(layer, neuron) for layer in (0, 1) for neuron in range(24)], 0.0)
    assert not torch.allclose(recall.probability(random_model, prompts), recall.probability(random_model, prompts, edits=silent))


@pytest.mark.parametrize("shape", ["bart", "vaswani-pre"])
def test_a_decoder_answers_after_the_last_token_of_its_input_that_is_not_padding(shape: str) -> None:
    case = case_of(shape)
    prompts = Prompts(case.tokens, torch.ones_like(case.tokens, dtype=torch.bool), torch.tensor([6, 6]), torch.tensor([7, 8]))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    padded = recall.probability(case.model, prompts, **case.beside, decoder_attention_mask=mask)
    for row, length in ((0, 3), (1, 5)):
        alone = recall.probability(
            case.model, prompts[row : row + 1], decoder_input=case.beside["decoder_input"][row : row + 1, :length]
        )
        torch.testing.assert_close(padded[row], alone[0])
