"""Files that the other libraries wrote load as what those libraries compute; `tests/sae/fixtures/make.py` wrote them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from interp.errors import StoreError
from interp.sae import formats
from interp.sae.activation_functions import BatchTopK, JumpReLU
from interp.sae.formats.foreign import AbsTopK

FIXTURES = Path(__file__).parent.parent / "fixtures"
FOUND = sorted(path.with_suffix("") for path in FIXTURES.glob("*/*.safetensors"))


@pytest.mark.parametrize("folder", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_library_s_file_computes_what_the_library_computes(folder):
    expected = load_file(f"{folder}.safetensors")
    saved = formats.load(folder)
    assert formats.layout_of(folder) == folder.parent.name
    torch.testing.assert_close(saved.sae.encode(expected["x"]), expected["codes"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(saved.sae(expected["x"]), expected["output"], rtol=1e-4, atol=1e-5)


def test_every_fixture_says_which_library_made_it():
    libraries = {"saelens": "sae-lens 6", "dictionary_learning": "dictionary-learning 0", "sparsify": "eai-sparsify 1"}
    assert {folder.parent.name for folder in FOUND} == set(libraries)
    for folder in FOUND:
        with safe_open(f"{folder}.safetensors", "pt") as file:
            assert file.metadata()["made_by"].startswith(libraries[folder.parent.name])


def test_facts_are_read_by_one_name_from_old_and_new_files():
    for name in ("standard", "old_standard"):
        facts = formats.load(FIXTURES / "saelens" / name).metadata
        assert (facts["model_name"], facts["hook_name"], facts["context_size"]) == ("toy", "blocks.0.hook_resid_post", 8)
    assert formats.load(FIXTURES / "dictionary_learning" / "AutoEncoder").metadata["model_name"] == "toy"


def test_batchtopk_is_known_again_in_a_checkpoint_and_in_its_inference_save():
    for name in ("batchtopk_checkpoint", "batchtopk_inference"):
        saved = formats.load(FIXTURES / "saelens" / name)
        assert isinstance(saved.sae.activation, BatchTopK) and saved.sae.activation.k == 2.5
        assert float(saved.sae.activation.threshold) == pytest.approx(1.3)
        assert saved.metadata["training_architecture"] == "batchtopk"


def test_matryoshka_widths_are_read_from_both_libraries():
    for name in ("saelens/matryoshka_checkpoint", "dictionary_learning/MatryoshkaBatchTopKSAE"):
        assert formats.load(FIXTURES / name).metadata["training_architecture_details"]["matryoshka_widths"] == [3, 6, 12]


def copy(name, target, tensors=lambda found: found, **changes):
    """A fixture with some of its configuration and tensors changed."""
    source = FIXTURES / "saelens" / name
    target.mkdir()
    config = json.loads((source / "cfg.json").read_text()) | changes
    (target / "cfg.json").write_text(json.dumps(config))
    save_file(tensors(load_file(source / "sae_weights.safetensors")), target / "sae_weights.safetensors")
    return target


def test_thresholds_stored_as_logarithms_are_read(tmp_path):
    def logarithm(found):
        return {name: found[name] for name in found if name != "threshold"} | {"log_threshold": found["threshold"].log()}

    theirs = formats.load(FIXTURES / "saelens" / "jumprelu").sae.activation
    ours = formats.load(copy("jumprelu", tmp_path / "old", logarithm)).sae.activation
    assert isinstance(ours, JumpReLU) and isinstance(theirs, JumpReLU)
    torch.testing.assert_close(ours.threshold, theirs.threshold)


def test_an_unfolded_file_without_its_factor_wants_it_from_the_caller(tmp_path):
    bare = copy("unfolded_checkpoint", tmp_path / "bare")
    with pytest.raises(StoreError, match=r"wants inputs normalised .*pass input_scale="):
        formats.load(bare)
    whole = formats.load(FIXTURES / "saelens" / "unfolded_checkpoint").sae
    x = load_file(FIXTURES / "saelens" / "unfolded_checkpoint.safetensors")["x"]
    torch.testing.assert_close(formats.load(bare, input_scale=0.37).sae(x), whole(x))
    for wrong in (0.0, float("inf"), -1.0, float("nan")):
        with pytest.raises(StoreError, match="pass input_scale="):
            formats.load(bare, input_scale=wrong)


@pytest.mark.parametrize("normaliser", ["layer_norm", "constant_norm_rescale"])
def test_normalisers_that_weights_cannot_do_are_refused(tmp_path, normaliser):
    with pytest.raises(StoreError, match=f"every row normalised by itself \\('{normaliser}'\\), which weights cannot do"):
        formats.load(copy("standard", tmp_path / "x", normalize_activations=normaliser))


def test_whitening_is_refused_where_it_is_not_there_or_cannot_be_folded(tmp_path):
    with pytest.raises(StoreError, match="activation_whitening.safetensors cannot be read: No such file"):
        formats.load(copy("whitened_topk", tmp_path / "bare"))
    for name in ("matching_pursuit", "transcoder"):
        with pytest.raises(StoreError, match=f"wants inputs whitened, which weights of a {name} cannot do"):
            formats.load(copy(name, tmp_path / name, normalize_activations="covariance_whitening"))


def test_architectures_that_look_beyond_one_row_are_refused(tmp_path):
    with pytest.raises(
        StoreError, match=r"architecture 'temporal'; this version reads standard, topk, .*and transcoders of them"
    ):
        formats.load(copy("standard", tmp_path / "x", architecture="temporal"))


def test_atoms_that_do_not_span_the_space_are_refused(tmp_path):
    def flat(found):
        return found | {"W_dec": found["W_dec"] * torch.tensor([1.0, 1, 1, 1, 1, 0])}

    with pytest.raises(StoreError, match="matching pursuit needs atoms that span all 6 dimensions, and these span 5"):
        formats.load(copy("matching_pursuit", tmp_path / "x", flat))


def test_signed_files_of_the_first_sparsify_choose_by_size(tmp_path):
    source = FIXTURES / "sparsify" / "topk"
    for name in ("cfg.json", "sae.safetensors"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    config = json.loads((source / "cfg.json").read_text())
    config.pop("activation")
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"signed": True}))
    assert isinstance(formats.load(tmp_path).sae.activation, AbsTopK)
