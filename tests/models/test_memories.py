"""Planted models do what they declare."""

import pytest
import torch

from interp.errors import ConfigError
from interp.models.memories import planted_memory, planted_world
from interp.tasks.facts import world

HOOK = "blocks.0.mlp.hook_post"


@pytest.fixture(scope="module")
def memory():
    return planted_memory(64, 32, seed=1)


@pytest.fixture(scope="module")
def small():
    return world(32, 2, 8)


def test_each_token_is_followed_by_its_successor(memory):
    rows = memory.walks(5, 6, generator=torch.Generator().manual_seed(0))
    logits = memory.model.run(rows[:, :-1]).logits
    assert torch.equal(logits.argmax(-1), rows[:, 1:])
    assert logits.softmax(-1).amax(-1).min() > 0.99


def test_exactly_the_declared_neuron_fires_and_it_fires_at_one(memory):
    post = memory.model.run(memory.prompts.tokens, read=[HOOK]).activations[HOOK][:, 0]
    expected = torch.zeros(64, 64)
    expected[torch.arange(64), memory.neuron] = 1.0
    torch.testing.assert_close(post, expected, atol=1e-5, rtol=0)


def test_neurons_are_not_in_the_order_of_their_tokens(memory):
    assert not torch.equal(memory.neuron, torch.arange(64))
    assert not torch.equal(planted_memory(64, 32, seed=2).neuron, memory.neuron)


def test_keys_too_crowded_to_tell_apart_are_refused():
    with pytest.raises(ConfigError, match=r"keys=64 in d_model=2: two directions have cosine 1.00; use more dimensions"):
        planted_memory(64, 2)


@pytest.mark.parametrize("template", range(4))
def test_the_planted_world_answers_every_question_in_all_words(small, template):
    prompts = small.prompts(small.facts, template)
    logits = planted_world(small).run(prompts.tokens).logits[:, -1]
    assert torch.equal(logits.argmax(-1), prompts.answer)


def test_only_the_neuron_of_the_person_fires_and_only_at_the_last_name(small):
    prompts = small.prompts(small.facts, 0)
    post = planted_world(small).run(prompts.tokens, read=[HOOK]).activations[HOOK]
    expected = torch.zeros_like(post)
    expected[torch.arange(len(prompts)), prompts.last_subject, small.facts[:, 0]] = 1.0
    torch.testing.assert_close(post, expected, atol=1e-4, rtol=0)


def test_a_world_of_one_relation_is_refused():
    with pytest.raises(ConfigError, match="a planted world needs 2 relations or more"):
        planted_world(world(32, 1, 8))
