"""The census finds what was planted in the weights, gives chance where nothing was, and works for every kind of MLP."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mlp_cases import batch_of, model_of, tokens

from interp.errors import ModelError
from interp.mlp.census import census, expert_usage, spectrum, summary
from interp.mlp.keys import triggers
from interp.mlp.memories import activations, memories, routing
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


def test_the_usage_of_experts_is_that_of_the_router():
    model, batches = model_of("mixtral"), [batch_of(tokens()[:1]), batch_of(tokens()[1:])]
    usage = expert_usage(model, batches)
    assert usage.groupby("layer").share.sum().tolist() == pytest.approx([2, 2])  # of four experts two work for each token
    assert usage.groupby("layer").load.mean().tolist() == pytest.approx([1, 1])
    x = model.run(tokens(), read=["blocks.1.mlp.hook_in"]).activations["blocks.1.mlp.hook_in"].flatten(0, 1)
    weights = routing(model, 1, x)
    last = usage[usage.layer == 1]
    np.testing.assert_allclose(last.share, (weights > 0).double().mean(0))
    np.testing.assert_allclose(last.weight * last.share, weights.mean(0), rtol=1e-5)
    with pytest.raises(ModelError, match="layer 0 of gelu is one MLP, not a mixture of experts, and routes nothing"):
        expert_usage(model_of("gelu"), batches)


def test_a_model_without_mlps_is_refused():
    for what in (census, spectrum):
        with pytest.raises(ModelError, match="attention-only has no MLPs, so no neurons to read; give a model with MLPs"):
            what(model_of("attention-only"))
