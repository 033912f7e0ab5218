"""What is saved comes back the same; what is damaged, foreign or meant for something else is refused with a reason."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from interp.errors import StoreError
from interp.sae import formats
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder

METADATA = {"model_name": "m", "model_fingerprint": "abc", "hook_name": "blocks.0.hook_resid_post"}


@pytest.fixture
def sae():
    sae = SparseAutoencoder(6, 18, activation=TopK(3), seed=1)
    with torch.no_grad():
        sae.scale.fill_(0.3)
        sae.scale_out.fill_(0.3)
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(0))
        sae.b_enc.normal_(generator=torch.Generator().manual_seed(1)).mul_(0.1)
    return sae


@pytest.fixture
def folder(sae, tmp_path):
    return formats.save(sae, tmp_path / "sae", metadata=METADATA)


@pytest.fixture
def x():
    return 4 * torch.randn(50, 6, generator=torch.Generator().manual_seed(5))


def edit(folder, **changes):
    path = folder / formats.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_save_and_load_give_the_same_codes_and_reconstructions(sae, folder, x):
    saved = formats.load(folder, model_fingerprint="abc", hook="blocks.0.hook_resid_post")
    torch.testing.assert_close(saved.sae.encode(x), sae.encode(x))
    torch.testing.assert_close(saved.sae(x), sae(x))
    assert saved.metadata.items() >= METADATA.items() and saved.metadata["training_scale"] == pytest.approx(0.3)


def test_the_layout_is_saelens_s(folder, sae, x):
    config = json.loads((folder / "cfg.json").read_text())
    assert {key: config[key] for key in ("architecture", "d_in", "d_sae", "k", "dtype", "normalize_activations")} == {
        "architecture": "topk", "d_in": 6, "d_sae": 18, "k": 3, "dtype": "float32", "normalize_activations": "none"
    }  # fmt: skip
    weights = load_file(folder / "sae_weights.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {
        "W_enc": (6, 18), "W_dec": (18, 6), "b_enc": (18,), "b_dec": (6,)
    }  # fmt: skip
    pre = ((x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]).relu()
    values, indices = pre.topk(3)
    plain = torch.zeros_like(pre).scatter(1, indices, values) @ weights["W_dec"] + weights["b_dec"]
    torch.testing.assert_close(plain, sae(x))


def foreign(folder, x, **changes):
    """A file as SAELens may write it, with its forward pass spelt out."""
    generator = torch.Generator().manual_seed(9)
    shapes = {"W_enc": (6, 18), "W_dec": (18, 6), "b_enc": (18,), "b_dec": (6,)}
    w = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    folder.mkdir()
    save_file(w, folder / formats.WEIGHTS)
    config = {"architecture": "topk", "d_in": 6, "d_sae": 18, "k": 3, "apply_b_dec_to_input": True, "metadata": {}} | changes
    (folder / formats.CONFIG).write_text(json.dumps(config))
    norm = w["W_dec"].norm(dim=1) if config.get("rescale_acts_by_decoder_norm") else torch.ones(18)
    pre = ((x - w["b_dec"] * config["apply_b_dec_to_input"]) @ w["W_enc"] + w["b_enc"]) * norm
    values, indices = pre.relu().topk(3)
    return (torch.zeros_like(pre).scatter(1, indices, values) / norm) @ w["W_dec"] + w["b_dec"]


@pytest.mark.parametrize("change", [{}, {"rescale_acts_by_decoder_norm": True}, {"apply_b_dec_to_input": False}], ids=str)
def test_saelens_options_load_as_what_saelens_computes(tmp_path, x, change):
    expected = foreign(tmp_path / "foreign", x, **change)
    torch.testing.assert_close(formats.load(tmp_path / "foreign").sae(x), expected, rtol=1e-4, atol=1e-4)


def test_saving_over_an_old_autoencoder_leaves_no_half_written_directory(folder, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(formats, "_write", full)
    with pytest.raises(StoreError, match="cannot be written: No space left on device; choose another directory"):
        formats.save(SparseAutoencoder(6, 18, activation=TopK(3)), folder)
    with pytest.raises(StoreError, match="cannot be read"):
        formats.load(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / formats.CONFIG).unlink(), "cfg.json cannot be read: No such file"),
        (lambda f: (f / formats.WEIGHTS).unlink(), "safetensors cannot be read: No such file"),
        (lambda f: (f / formats.CONFIG).write_text('{"architecture": '), "is not JSON"),
        (lambda f: (f / formats.CONFIG).write_text("[]"), "is not an autoencoder's configuration"),
        (
            lambda f: (f / formats.WEIGHTS).write_bytes((f / formats.WEIGHTS).read_bytes()[:-9]),
            "is not the file that cfg.json was",
        ),
        (lambda f: edit(f, architecture="gated"), "architecture 'gated'; this version reads 'topk'"),
        (lambda f: edit(f, normalize_activations="layer_norm"), "fold the normaliser"),
        (lambda f: edit(f, d_sae=20), r"W_enc is \(6, 18\), expected \(6, 20\)"),
        (lambda f: edit(f, k=19), "says k=19 of d_sae=18"),
        (lambda f: edit(f, d_in=-1), "d_in=-1; expected a whole number"),
        (lambda f: edit(f, d_in=True), "d_in=True"),
    ],
)
def test_damaged_files_are_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(StoreError, match=message):
        formats.load(folder)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x80\x04K\x00.", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"], ids=len)
def test_hostile_weights_without_a_checksum_are_refused(folder, content):
    edit(folder, metadata={})
    (folder / formats.WEIGHTS).write_bytes(content)
    with pytest.raises(StoreError, match="cut off or damaged|missing, expected"):
        formats.load(folder)


def test_weights_that_are_not_finite_are_refused(folder):
    edit(folder, metadata={})
    weights = load_file(folder / formats.WEIGHTS)
    save_file(weights | {"b_enc": torch.full((18,), float("nan"))}, folder / formats.WEIGHTS)
    with pytest.raises(StoreError, match="b_enc is not finite"):
        formats.load(folder)


def test_another_model_or_hook_is_refused(folder):
    with pytest.raises(StoreError, match="was trained on model abc, not on xyz"):
        formats.load(folder, model_fingerprint="xyz")
    with pytest.raises(StoreError, match="was trained on hook blocks.0.hook_resid_post, not on blocks.1"):
        formats.load(folder, hook="blocks.1")


def test_what_cannot_be_written_is_refused(sae, tmp_path):
    with pytest.raises(StoreError, match="cannot be saved as JSON"):
        formats.save(sae, tmp_path, metadata={"x": float("nan")})
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        formats.save(sae, tmp_path / "file" / "sae")
    with pytest.raises(StoreError, match=r"an autoencoder with ReLU\(\) cannot be saved"):
        formats.save(SparseAutoencoder(4, 8, activation=nn.ReLU()), tmp_path)
