"""Steering: the neurons that write a token are found, and scaling them does what scaling them does."""

import torch
from mlp_cases import model_of, tokens

from interp.mlp import subupdates
from interp.mlp.steering import steered, writes
from interp.mlp.values import value_logits


def test_a_value_that_is_a_tokens_unembedding_writes_that_token_most():
    model = model_of("no norms")
    logits = value_logits(model, 1)
    z = writes(logits, 7)
    assert torch.allclose(z * logits.std(dim=1), logits[:, 7])
    planted = logits.clone()
    planted[3] = 0.0
    planted[3, 7] = 1.0
    assert int(writes(planted, 7).argmax()) == 3


def test_rows_are_what_scaling_these_neurons_does_where_the_token_comes_and_elsewhere():
    model, rows = model_of("gelu"), tokens(4, 12)
    rows[:, 5] = 9  # the most common token
    table = steered(model, rows, torch.ones_like(rows, dtype=torch.bool), 1, targets=2, neurons=3, factor=4.0)
    assert table.target.tolist()[:2] == [9, 9] and table.neurons.tolist() == ["writing it", "at random"] * 2
    meant = torch.zeros_like(rows, dtype=torch.bool)
    meant[:, :-1] = rows[:, 1:] == 9
    assert table.places[0] == int(meant.sum())
    chosen = writes(value_logits(model, 1), 9).topk(3).indices.tolist()
    edits = subupdates.scaled(model, [(1, neuron) for neuron in chosen], 4.0)
    before, after = (model.run(rows, edits=each).logits.log_softmax(-1)[..., 9] for each in ([], edits))
    assert abs(table.effect[0] - float((after - before)[meant].mean())) < 1e-5


def test_places_that_are_no_text_are_not_steered_towards():
    model, rows = model_of("gelu"), tokens(4, 12)
    rows[:, 5] = 9
    is_text = torch.ones_like(rows, dtype=torch.bool)
    is_text[:, 5] = False
    table = steered(model, rows, is_text, 1, targets=1, neurons=2, factor=2.0)
    assert table.target[0] != 9 or table.places[0] == int((rows[:, 1:] == 9)[is_text[:, 1:]].sum())
