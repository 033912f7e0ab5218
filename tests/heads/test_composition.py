"""Composition and copying from small cores, against the big matrices they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_shapes import case_of

from interp.errors import ModelError
from interp.heads import composition
from interp.heads.composition import Factors
from interp.models.hooked import Model
from interp.models.norms import folded

SHAPE = {"d_model": 24, "d_head": 6, "n_heads": 4, "n_ctx": 16, "d_vocab": 20, "attn_only": True, "act_fn": "gelu"}


def tiny(norm: str | None, n_layers: int = 2) -> Model:
    return Model.native(SHAPE | {"n_layers": n_layers, "normalization_type": norm}, seed=3)


def big_reading(model: Model, layer: int, head: int, way: str) -> torch.Tensor:
    """P diag(g) W as one explicit product."""
    weight = model.weight(f"blocks.{layer}.attn.W_{way}")[head].double()
    if model.bridge.cfg.normalization_type is None:
        return weight
    d_model = weight.shape[0]
    taken = 1 / d_model if model.bridge.cfg.normalization_type == "LN" else 0.0
    centre = torch.eye(d_model, dtype=torch.float64) - taken
    return centre @ torch.diag(model.bridge.blocks[layer].ln1.weight.double()) @ weight


@pytest.mark.parametrize("way", ["Q", "K", "V"])
@pytest.mark.parametrize("norm", [None, "LN"])
def test_composition_equals_the_ratio_of_the_explicit_matrices(way: composition.Way, norm: str | None) -> None:
    model = tiny(norm)
    if norm == "LN":
        with torch.no_grad():
            model.bridge.blocks[1].ln1.weight.add_(torch.linspace(-0.5, 0.5, 24))
    found = composition.composition_scores(model, way, draws=5, seed=0)
    chance = composition.random_composition(24, 6, draws=5, seed=0)
    first = big_reading(model, 0, 2, "V") @ model.weight("blocks.0.attn.W_O")[2].double()
    query, key, value = (big_reading(model, 1, 3, each) for each in "QKV")
    second = {"Q": query @ key.T, "K": key @ query.T, "V": value @ model.weight("blocks.1.attn.W_O")[3].double()}[way]
    ratio = (first @ second).norm() / (first.norm() * second.norm())
    assert found.sel(**{"from": "0.2", "to": "1.3"}).values == pytest.approx(float(ratio.detach()) - chance, rel=1e-6)


def test_only_later_heads_read_earlier_ones() -> None:
    found = composition.composition_scores(tiny(None, n_layers=3), "K", draws=5)
    finite = np.isfinite(found.values)
    layers = np.repeat(np.arange(3), 4)
    np.testing.assert_array_equal(finite, layers[:, None] < layers[None, :])
    assert found.dims == ("from", "to")


@pytest.mark.parametrize("shape", ["t5", "vaswani-pre"])
def test_cross_attention_s_keys_compose_with_the_encoder_s_heads_through_its_last_norm(shape: str) -> None:
    model = case_of(shape).model
    found = composition.composition_scores(model, "K", draws=5, seed=0)
    write = folded(model, "encoder_blocks.1.ln1", model.weight("encoder_blocks.1.attn.W_V").double())[1]
    write = write @ model.weight("encoder_blocks.1.attn.W_O")[1].double()
    keys = folded(model, "encoder_ln_final", model.weight("decoder_blocks.0.cross_attn.W_K").double())[0]
    query = folded(model, "decoder_blocks.0.ln2", model.weight("decoder_blocks.0.cross_attn.W_Q").double())[0]
    ratio = (write @ keys @ query.T).norm() / (write.norm() * (keys @ query.T).norm())
    chance = composition.random_composition(model.d_model, 8, draws=5, seed=0)
    assert found.sel(**{"from": "enc.a1.h1", "to": "dec.c0.h0"}).values == pytest.approx(float(ratio) - chance, rel=1e-6)
    assert np.isneginf(found.sel(**{"from": "dec.a0.h0", "to": "dec.c0.h0"}).values), "its keys do not read the decoder"
    queries = composition.composition_scores(model, "Q", draws=5, seed=0)
    assert np.isfinite(queries.sel(**{"from": "dec.a0.h0", "to": "dec.c0.h0"}).values), "its queries do"


def test_random_matrices_compose_at_one_over_root_d_model() -> None:
    assert composition.random_composition(64, 16, seed=0) == pytest.approx(1 / 8, rel=0.05)


def test_a_planted_pair_tops_k_composition() -> None:
    model = tiny(None)
    with torch.no_grad():
        write = model.weight("blocks.0.attn.W_O")[1]
        planted = model.weight("blocks.1.attn.W_K").clone()
        planted[2] = 3 * write.T
    edited = composition.product_ratio(
        composition.ov_circuit(model, 0), Factors(planted.double(), model.weight("blocks.1.attn.W_Q").double().mT)
    )
    assert divmod(int(edited.argmax()), 4) == (1, 2)


def test_copying_equals_the_eigenvalues_of_the_vocabulary_sized_matrix() -> None:
    model = tiny("LN")
    found = composition.copying_scores(model)
    centre = torch.eye(24, dtype=torch.float64) - 1 / 24
    for layer in range(2):
        for head in range(4):
            ov = big_reading(model, layer, head, "V") @ model.weight(f"blocks.{layer}.attn.W_O")[head].double()
            final = centre @ torch.diag(model.bridge.ln_final.weight.double()) @ model.W_U.double()
            eigenvalues = torch.linalg.eigvals((model.W_E.double() @ ov @ final).detach())
            expected = float(eigenvalues.real.sum() / eigenvalues.abs().sum())
            assert found.values[layer, head] == pytest.approx(expected, abs=1e-6)


def test_a_head_that_writes_the_token_it_reads_copies_and_its_negative_suppresses() -> None:
    basis = torch.linalg.qr(torch.randn(30, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    both = Factors(torch.stack([basis, basis]), torch.stack([basis.T, -basis.T]))
    found = composition.eigenvalue_sign(both, torch.eye(30, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([1.0, -1.0], dtype=torch.float64))


def test_with_grouped_queries_every_head_has_the_keys_and_values_of_its_group() -> None:
    model = case_of("llama").model
    found = composition.composition_scores(model, "K", draws=5, seed=0)
    chance = composition.random_composition(model.d_model, model.d_head, draws=5, seed=0)
    for early, late in [(0, 3), (3, 0), (2, 1)]:
        write = big_reading(model, 0, early // 2, "V") @ model.weight("blocks.0.attn.W_O")[early].double()
        keys = big_reading(model, 1, late // 2, "K") @ big_reading(model, 1, late, "Q").T
        ratio = ((write @ keys).norm() / (write.norm() * keys.norm())).detach()
        assert found.sel(**{"from": f"0.{early}", "to": f"1.{late}"}).values == pytest.approx(float(ratio) - chance, rel=1e-6)


@pytest.mark.parametrize("shape", ["bart", "decoder-post"])
def test_heads_with_norms_between_them_do_not_compose(shape: str) -> None:
    with pytest.raises(
        ModelError, match=f"{shape} norms its residual stream after every write.*a norm stands between any two heads"
    ):
        composition.composition_scores(case_of(shape).model, "V")


def test_an_encoder_s_heads_compose_and_copy_as_a_decoder_s() -> None:
    model = case_of("encoder").model
    assert np.isfinite(composition.composition_scores(model, "V", draws=2).values[:2, 2:]).all()
    assert composition.copying_scores(model).values.shape == composition.matching_scores(model).values.shape == (2, 2)


def test_a_model_of_one_layer_has_no_composition() -> None:
    with pytest.raises(ModelError, match="has 1 layer; heads compose across layers, so give a model with at least 2"):
        composition.composition_scores(tiny(None, n_layers=1), "K")


def test_folding_predicts_the_scores_of_a_normed_head_up_to_the_scale() -> None:
    """x F / σ(x) is what the head's query really is, bias aside: checked on a run."""
    model = tiny("LN")
    tokens = torch.randint(20, (2, 8), generator=torch.Generator().manual_seed(0))
    found = model.run(tokens, read=["blocks.1.hook_resid_pre", "blocks.1.attn.hook_q"]).activations
    residual = found["blocks.1.hook_resid_pre"]
    scale = (residual.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    query = torch.einsum("bpm,hmd->bphd", residual / scale, composition.read_matrix(model, 1, "Q").float())
    torch.testing.assert_close(found["blocks.1.attn.hook_q"], query, rtol=1e-3, atol=1e-5)
