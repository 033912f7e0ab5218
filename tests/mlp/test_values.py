"""Value readings against a run; agreement of planted neurons with what follows their triggers, and its exact null."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from mlp_cases import model_of, text_of
from model_shapes import case_of

from interp.errors import ConfigError, ModelError
from interp.mlp.keys import Triggers
from interp.mlp.memories import memories
from interp.mlp.values import agreement, calibration, readings, value_logits, value_tokens
from interp.models.hooked import Edit


@pytest.mark.parametrize("kind", ["gelu", "gated", "gpt2"])
def test_value_logits_are_the_logits_of_a_residual_stream_that_is_the_value(kind):
    """Set the final residual to a large multiple of each value: what the model then says is the reading, biases apart."""
    model = model_of(kind)
    values = memories(model, 1).values
    tokens = torch.zeros(len(values), 2, dtype=torch.long)
    alone = Edit("blocks.1.hook_resid_post", lambda residual: (1e4 * values)[:, None].expand_as(residual))
    logits = model.run(tokens, edits=[alone], logits=True).logits[:, -1]
    torch.testing.assert_close(value_logits(model, 1), logits - logits.mean(-1, keepdim=True), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["t5", "vaswani-pre"])
def test_values_of_a_decoder_beside_an_encoder_are_read_as_its_last_residual_stream_is(kind):
    case = case_of(kind)
    values = memories(case.model, 1, stack="decoder").values
    tokens = torch.zeros(len(values), 2, dtype=torch.long)
    alone = Edit("decoder_blocks.1.hook_resid_post", lambda residual: (1e4 * values)[:, None].expand_as(residual))
    logits = case.model.run(tokens, decoder_input=tokens, edits=[alone], logits=True).logits[:, -1]
    found = value_logits(case.model, 1, stack="decoder")
    torch.testing.assert_close(found, logits - logits.mean(-1, keepdim=True), rtol=1e-3, atol=1e-4)
    assert torch.equal(value_tokens(case.model, 1, top=3, stack="decoder")[0], found.argsort(dim=1, descending=True)[:, :3])


def test_value_tokens_are_the_ends_of_the_reading():
    model = model_of("gelu")
    promoted, suppressed = value_tokens(model, 0, top=3)
    order = value_logits(model, 0).argsort(dim=1, descending=True)
    assert torch.equal(promoted, order[:, :3])
    assert torch.equal(suppressed, order.flip(1)[:, :3])


def test_a_model_whose_logits_are_more_than_norm_and_unembedding_is_refused():
    with pytest.raises(ModelError, match="the logits of bert are not just its final norm and unembedding"):
        value_logits(model_of("bert"), 0)


def test_readings_of_a_value_that_says_nothing_and_of_one_that_says_one_token():
    logits = torch.zeros(2, 50)
    logits[1, 3] = 100.0
    found = readings(logits + 1e-4 * torch.randn(2, 50, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(found.entropy, torch.tensor([np.log(50), 0.0], dtype=torch.float32), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.confidence, torch.tensor([1 / 50, 1.0]), atol=1e-3, rtol=0)
    assert found.kurtosis[0] < 5 < found.kurtosis[1]


TEXT = text_of([[1, 2, 3, 4, 5], [6, 7, 8, 9]], {})


def planted() -> tuple[torch.Tensor, Triggers]:
    """Five neurons with two triggers each, and values that put token 3 first, then 9, then the others in order."""
    logits = -torch.arange(50.0).repeat(5, 1)
    logits[:, 3], logits[:, 9] = 2.0, 1.0
    places = [[(0, 1), (0, 1)], [(1, 2), (0, 1)], [(0, 4), (0, 1)], [(0, 0), (1, 3)], [(0, 1), (0, 1)]]  # (document, position)
    table, values = torch.tensor(places).transpose(0, 1), torch.ones(2, 5)
    values[:, 4] = 0.0  # never fires
    empty = torch.empty(0, dtype=torch.long)
    return logits, Triggers(values, table[..., 0], table[..., 1], torch.ones(5), 9, torch.empty(0, 5), empty, empty)


def test_agreement_is_counted_by_the_tokens_that_follow():
    table = agreement(*planted(), TEXT).set_index("neuron")
    assert table.index.tolist() == [0, 1, 2, 3]  # a neuron that never fires has no triggers
    assert table.next.tolist() == [3, 9, -1, 2]  # the third's top trigger ends its document
    assert table["rank"].tolist() == [0, 1, -1, 4]  # before 2 come 3, 9, 0 and 1
    assert table.max_rank.tolist() == [0, 0, 0, 4]
    assert table.agrees.tolist() == [1, 0, 0, 0]
    assert table.share.tolist() == [1, 0.5, 0.5, 0]
    assert table.chance.tolist() == [0.25] * 4


def test_chance_is_the_mean_over_shuffles():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(40, 10))).float()
    text = text_of([rng.integers(0, 10, 500)], {}, d_vocab=10)
    position, empty = torch.from_numpy(rng.integers(0, 499, (1, 40))), torch.empty(0, dtype=torch.long)
    found = Triggers(torch.ones(1, 40), torch.zeros_like(position), position, torch.ones(40), 1, torch.empty(0, 40), empty, empty)
    following, first = text.tokens[position.numpy()[0] + 1], logits.argmax(-1).numpy()
    shuffled = np.mean([(first == rng.permutation(following)).mean() for _ in range(20_000)])
    assert agreement(logits, found, text).chance.mean() == pytest.approx(shuffled, rel=0.02)


def test_calibration_puts_as_many_neurons_into_each_bin_by_confidence():
    table = pd.DataFrame({"confidence": np.arange(100)[::-1] / 100, "agrees": np.arange(100)[::-1] >= 50, "chance": 0.1})
    found = calibration(table.astype(float), bins=4)
    assert found.neurons.tolist() == [25] * 4
    assert found.agrees.tolist() == [0, 0, 1, 1]
    assert found.confidence.tolist() == pytest.approx([0.12, 0.37, 0.62, 0.87])
    with pytest.raises(ConfigError, match="100 neurons cannot fill 101 bins; use fewer bins"):
        calibration(table, bins=101)
