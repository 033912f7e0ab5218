"""What is saved comes back with equal codes and outputs: every kind of autoencoder, every layout that has a place for it."""

import json

import pytest
import torch

from interp.errors import StoreError
from interp.sae import architectures, formats

FACTS = {"model_name": "m", "hook_name": "blocks.0.hook_resid_post", "notes": [1, {"a": "b"}]}


def assert_same(first, second, x):
    torch.testing.assert_close(first.encode(x), second.encode(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first(x), second(x), rtol=1e-4, atol=1e-5)


def test_saving_folds_and_loading_gives_equal_codes_and_outputs(sae, kind, x, tmp_path):
    saved = formats.load(formats.save(sae, tmp_path, metadata=FACTS))
    assert float(saved.sae.scale) == float(saved.sae.scale_out) == 1
    assert (sae.encode(x) != 0).float().mean() > 0.05, "an autoencoder that is silent here proves nothing"
    assert_same(saved.sae, sae, x)
    assert type(saved.sae.activation) is type(sae.activation)
    assert (saved.sae.parts, saved.sae.refinement) == (sae.parts, sae.refinement)
    assert saved.metadata.items() >= FACTS.items()


def test_a_second_save_changes_nothing(sae, tmp_path):
    formats.save(sae, tmp_path / "one")
    saved = formats.load(tmp_path / "one")
    formats.save(saved.sae, tmp_path / "two", metadata=saved.metadata)
    first, second = (json.loads((tmp_path / name / "cfg.json").read_text()) for name in ("one", "two"))
    for config in (first, second):
        config["metadata"].pop("weights_sha256")  # thresholds and the gate's bias go through a logarithm and a sum
    assert first == second


@pytest.mark.parametrize("layout", ["dictionary_learning", "sparsify"])
def test_other_layouts_carry_what_their_libraries_have_and_refuse_the_rest(sae, kind, x, layout, elsewhere, tmp_path):
    if kind in elsewhere[layout]:
        saved = formats.load(formats.save(sae, tmp_path, metadata=FACTS, layout=layout))
        assert formats.layout_of(tmp_path) == layout
        assert_same(saved.sae, sae, x)
        assert saved.metadata.items() >= FACTS.items()
    else:
        with pytest.raises(StoreError, match=rf"^{layout} has no (class|place) for .*; save this one with layout='saelens'$"):
            formats.save(sae, tmp_path, layout=layout)
        assert not list(tmp_path.iterdir()), "a refusal leaves nothing behind"


def test_conversion_there_and_back_keeps_outputs_metadata_and_density(every, x, tmp_path):
    sae, density = every["topk"](), torch.rand(12, generator=torch.Generator().manual_seed(0))
    formats.save(sae, tmp_path / "ours", metadata=FACTS, density=density)
    formats.convert(tmp_path / "ours", tmp_path / "theirs", layout="dictionary_learning")
    formats.convert(tmp_path / "theirs", tmp_path / "third", layout="sparsify")
    formats.convert(tmp_path / "third", tmp_path / "back", layout="saelens")
    saved = formats.load(tmp_path / "back")
    assert_same(saved.sae, sae, x)
    assert saved.metadata.items() >= FACTS.items() and saved.metadata["training_scale"] == pytest.approx(0.6)
    torch.testing.assert_close(saved.density, density)


def test_the_widths_of_a_matryoshka_survive_as_group_sizes(every, tmp_path):
    trained = {
        "training_architecture": "matryoshka_batchtopk",
        "training_architecture_details": {"matryoshka_widths": [2, 5, 12]},
    }
    formats.save(every["batchtopk"](), tmp_path / "ours", metadata=trained)
    formats.convert(tmp_path / "ours", tmp_path / "theirs", layout="dictionary_learning")
    state = torch.load(tmp_path / "theirs" / "ae.pt", weights_only=True)
    assert state["group_sizes"].tolist() == [2, 3, 7]
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert config["trainer"]["dict_class"] == "MatryoshkaBatchTopKSAE" and config["trainer"]["k"] == 3
    details = formats.load(tmp_path / "theirs").metadata["training_architecture_details"]
    assert details == {"k": 3, "matryoshka_widths": [2, 5, 12]}


def test_a_k_that_is_not_whole_survives_a_library_that_wants_it_whole(every, tmp_path):
    sae = every["batchtopk"]()
    sae.activation.k = 2.5
    formats.save(sae, tmp_path / "theirs", layout="dictionary_learning")
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["trainer"]["k"] == 2
    assert formats.load(tmp_path / "theirs").sae.activation.k == 2.5


def test_a_decoder_that_is_not_unit_keeps_its_codes_in_dictionary_learning(every, x, tmp_path):
    sae = every["relu"]()
    with torch.no_grad():
        sae.W_dec *= torch.linspace(0.5, 2, 12)[:, None]
    saved = formats.load(formats.save(sae, tmp_path, layout="dictionary_learning"))
    assert json.loads((tmp_path / "config.json").read_text())["trainer"]["dict_class"] == "AutoEncoderNew"
    assert_same(saved.sae, sae, x)


def test_the_layout_is_saelens_s(every, x, tmp_path):
    formats.save(every["topk"](), tmp_path, metadata={"hook_name": "blocks.0.attn.hook_z"})
    config = json.loads((tmp_path / "cfg.json").read_text())
    config["metadata"].pop("weights_sha256")
    assert config == {
        "architecture": "topk", "d_in": 6, "d_sae": 12, "k": 3, "rescale_acts_by_decoder_norm": False, "dtype": "float32",
        "device": "cpu", "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "hook_z",
        "metadata": {"hook_name": "blocks.0.attn.hook_z", "training_scale": pytest.approx(0.6), "sae_lens_version": "6.0.0"},
    }  # fmt: skip


@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_every_architecture_that_is_trained_here_travels(name, x, tmp_path):
    sae, _ = architectures.build(name, 6, 12, l0=3)
    with torch.no_grad():
        sae.W_enc.mul_(5)
        sae.b_dec.add_(0.1)
    assert_same(formats.load(formats.save(sae, tmp_path)).sae, sae, x)
