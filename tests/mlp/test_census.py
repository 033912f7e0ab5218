"""The census finds what was planted in the weights, gives chance where nothing was, and works for every kind of MLP."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mlp_cases import batch_of, model_of, tokens
from model_shapes import case_of

from interp.activations import TokenPairs
from interp.errors import ModelError
from interp.mlp.census import census, spectrum, summary
from interp.mlp.keys import triggers
from interp.mlp.memories import activations, memories
from interp.models.hooked import Model

WIDE = {"d_model": 64, "d_head": 16, "n_heads": 4, "n_layers": 1, "n_ctx": 16, "d_vocab": 100, "d_mlp": 256, "act_fn": "relu"}


@pytest.mark.parametrize("kind", ["gelu", "relu", "solu", "gated", "no norms", "gpt2", "mixtral"])
def test_every_kind_of_mlp_has_a_census_of_all_its_neurons(kind):
    model = model_of(kind)
    found = triggers(activations(model, [batch_of(tokens())]))
    table = census(model, found)
    assert len(table) == 2 * len(memories(model, 0).values)
    assert not table.isna().any().any()
    assert ("gate_norm" in table, "expert" in table) == (kind in ("gated", "mixtral"), kind == "mixtral")
    assert table.density.between(0, 1).all()
    assert summary(table).neurons.sum() == len(table)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_each_stack_has_a_census_of_its_own_and_readings_where_it_writes_logits(stack):
    case = case_of("t5")
    pair = TokenPairs.of(case.tokens, case.beside["decoder_input"])
    table = census(case.model, triggers(activations(case.model, [pair], stack=stack)), stack=stack)
    assert len(table) == 2 * 32 and not table.isna().any().any()
    assert ("confidence" in table) == ("kurtosis" in summary(table)) == (stack == "decoder")
    values = memories(case.model, 1, stack=stack).values
    np.testing.assert_allclose(table.value_norm[32:], values.norm(dim=1), rtol=1e-6)
    assert set(spectrum(case.model, stack=stack).layer) == {0, 1}


def planted() -> Model:
    """Neuron 1 writes along what it reads, neuron 2 erases it, neuron 4 is neuron 3 twice as strong, 5 never fires, 6 always."""
    model = Model.native(WIDE | {"normalization_type": "LN"}, seed=0)
    block = model.bridge.blocks[0]
    keys, values = block.mlp.get_submodule("in").weight, block.mlp.out.weight
    with torch.no_grad():
        centred = keys - keys.mean(1, keepdim=True)
        values[:, 1], values[:, 2] = centred[1], -centred[2]
        keys[4], values[:, 4] = 2 * keys[3], 2 * values[:, 3]
        block.mlp.get_submodule("in").bias[5:7] = torch.tensor([-100.0, 100.0])
        values[:, 7] = model.W_U[:, 11] - model.W_U.mean(1)
    return model


def test_planted_neurons_stand_out():
    model = planted()
    batch = batch_of(torch.randint(0, 100, (8, 16), generator=torch.Generator().manual_seed(0)))
    table = census(model, triggers(activations(model, [batch]))).set_index("neuron")
    assert table.in_out_cosine[1] == pytest.approx(1, abs=1e-4)
    assert table.in_out_cosine[2] == pytest.approx(-1, abs=1e-4)
    assert table.in_out_z[1] == pytest.approx(8, abs=1e-3)
    assert (table.twin[3], table.twin[4]) == (4, 3)
    assert table.twin_cosine[[3, 4]].to_numpy() == pytest.approx(1, abs=1e-4)
    assert (table.key_norm[4], table.value_norm[4]) == pytest.approx((2 * table.key_norm[3], 2 * table.value_norm[3]), rel=1e-4)
    assert table.index[table.dead].tolist() == [5]
    assert 6 in table.index[table.always_on]
    assert table["kurtosis"][7] > 1.5 * table["kurtosis"].median()
    others = table.drop(index=[1, 2, 3, 4])
    assert others.in_out_cosine.std() == pytest.approx(64**-0.5, rel=0.15)
    assert others.twin_cosine.max() < 0.5
    row = summary(table.reset_index()).iloc[0]
    assert (row["|in-out z| > 5"], row["duplicates"], row["dead"]) == (2, 2, 1)


def test_a_census_of_the_weights_alone_has_no_activations():
    assert "density" not in census(planted())


def test_random_weights_have_the_spectrum_of_random_weights_and_planted_ones_do_not():
    model = Model.native(WIDE | {"normalization_type": "LN"}, seed=0)
    table = spectrum(model)
    assert table.groupby("matrix").size().to_dict() == {"key": 64, "value": 64}
    values = table[table.matrix == "value"]
    np.testing.assert_allclose(values.value, values.random, rtol=0.07)
    with torch.no_grad():
        model.bridge.blocks[0].mlp.out.weight.add_(torch.outer(torch.ones(64), torch.ones(256)))
    planted = spectrum(model)
    first = planted[(planted.matrix == "value") & (planted.component == 1)].iloc[0]
    assert first.value > 4 * first.random


def test_a_model_without_mlps_is_refused():
    for what in (census, spectrum):
        with pytest.raises(ModelError, match="attention-only has no MLPs, so no neurons to read; give a model with MLPs"):
            what(model_of("attention-only"))
