"""What is damaged, hostile, foreign or meant for something else is refused with a reason, and a failed save loses nothing."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from interp.errors import StoreError
from interp.sae import formats
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.formats import common
from interp.sae.formats.saelens import CONFIG, WEIGHTS

FIXTURES = Path(__file__).parent.parent / "fixtures"
METADATA = {"model_name": "m", "model_fingerprint": "abc", "hook_name": "blocks.0.hook_resid_post"}


@pytest.fixture
def folder(every, tmp_path):
    return formats.save(every["topk"](), tmp_path / "sae", metadata=METADATA)


def edit(folder, **changes):
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / CONFIG).unlink(), r"cfg.json cannot be read: No such file .* holds cfg.json and sae_weights.safetensors"),
        (lambda f: (f / WEIGHTS).unlink(), "safetensors cannot be read: No such file"),
        (lambda f: (f / CONFIG).write_text('{"architecture": '), "is not JSON"),
        (lambda f: (f / CONFIG).write_text("[" * 100_000), "is not JSON"),
        (lambda f: (f / CONFIG).write_text("[]"), "is not an autoencoder's configuration"),
        (lambda f: edit(f, metadata=[1]), r"expected an object under metadata, got \[1\]"),
        (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]), "is not the file that cfg.json was written for"),
        (lambda f: edit(f, architecture="temporal"), "architecture 'temporal'; this version reads standard, topk"),
        (lambda f: edit(f, architecture=3), "architecture '3'"),
        (lambda f: edit(f, normalize_activations="layer_norm"), "every row normalised by itself"),
        (lambda f: edit(f, d_sae=20), r"W_enc is \(6, 12\), expected \(6, 20\)"),
        (lambda f: edit(f, k=19), "says k=19 of d_sae=12"),
        (lambda f: edit(f, d_in=-1), "d_in=-1; expected a whole number"),
        (lambda f: edit(f, d_in=True), "d_in=True"),
        (lambda f: edit(f, architecture="groupmax", k=5), "k=5 groups of d_sae=12 latents; d_sae must be a multiple of k"),
        (lambda f: edit(f, architecture="gated"), "b_gate is missing, expected"),
        (lambda f: edit(f, architecture="refined_topk", refinement="much"), "refinement='much'; expected a number"),
        (lambda f: edit(f, metadata={"parts": {"early": 2}}), "does not describe an autoencoder"),
        (lambda f: save_file({"sparsity": torch.zeros(3)}, f / "sparsity.safetensors"), r"sparsity is \(3,\), expected \(12,\)"),
    ],
)
def test_damaged_files_are_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(StoreError, match=message):
        formats.load(folder)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x80\x04K\x00.", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"], ids=len)
@pytest.mark.parametrize("layout", ["saelens", "sparsify", "dictionary_learning"])
def test_hostile_weights_without_a_checksum_are_refused(tmp_path, content, layout):
    name = {"saelens": "topk", "sparsify": "topk", "dictionary_learning": "AutoEncoder"}[layout]
    folder = shutil.copytree(FIXTURES / layout / name, tmp_path / "x")
    (folder / formats.LAYOUTS[layout].WEIGHTS).write_bytes(content)
    with pytest.raises(StoreError, match="cut off|missing, expected"):
        formats.load(folder)


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("whole", [False, True], ids=["inside", "whole"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, whole):
    folder, trace = shutil.copytree(FIXTURES / "dictionary_learning" / "AutoEncoder", tmp_path / "x"), tmp_path / "trace"
    state = torch.load(folder / "ae.pt", weights_only=True)
    torch.save(Hostile(trace) if whole else {**state, "extra": Hostile(trace)}, folder / "ae.pt")
    with pytest.raises(StoreError, match="hostile, and nothing in it was run"):
        formats.load(folder)
    assert not trace.exists()
    torch.load(folder / "ae.pt", weights_only=False)
    assert trace.exists(), "the file is as hostile as it should be"


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    folder = shutil.copytree(FIXTURES / "dictionary_learning" / "AutoEncoder", tmp_path / "x")
    torch.save([torch.zeros(3)], folder / "ae.pt")
    with pytest.raises(StoreError, match="holds a list, not tensors by name"):
        formats.load(folder)
    (folder / "config.json").write_text('{"trainer": {"dict_class": "IdentityDict"}}')
    with pytest.raises(StoreError, match="dict_class 'IdentityDict'; this version reads AutoEncoder, "):
        formats.load(folder)


def test_an_activation_that_sparsify_does_not_have_is_refused(tmp_path):
    folder = shutil.copytree(FIXTURES / "sparsify" / "topk", tmp_path / "x")
    edit(folder, activation="relu")
    with pytest.raises(StoreError, match="activation 'relu'; this version reads topk, groupmax"):
        formats.load(folder)
    edit(folder, activation="groupmax", k=5)
    with pytest.raises(StoreError, match="k=5 groups of 12 latents"):
        formats.load(folder)


def test_weights_that_are_not_finite_are_refused(folder):
    edit(folder, metadata={})
    weights = load_file(folder / WEIGHTS)
    save_file(weights | {"b_enc": torch.full((12,), float("nan"))}, folder / WEIGHTS)
    with pytest.raises(StoreError, match="b_enc is not finite"):
        formats.load(folder)


def test_another_model_or_hook_is_refused(folder):
    assert formats.load(folder, model_fingerprint="abc", hook="blocks.0.hook_resid_post").metadata["model_name"] == "m"
    with pytest.raises(StoreError, match="was trained on model abc, not on xyz"):
        formats.load(folder, model_fingerprint="xyz")
    with pytest.raises(StoreError, match="was trained on hook blocks.0.hook_resid_post, not on blocks.1"):
        formats.load(folder, hook="blocks.1")


def test_a_directory_without_an_autoencoder_says_what_was_expected_and_where_there_are_some(folder, tmp_path):
    with pytest.raises(StoreError, match=r"holds no autoencoder: expected cfg.json and sae_weights.safetensors \(saelens\) or "):
        formats.load(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="it has them in sae$"):
        formats.load(tmp_path)


def test_two_layouts_do_not_share_a_directory(every, folder):
    with pytest.raises(StoreError, match="holds an autoencoder of layout 'saelens'; choose another directory for 'sparsify'"):
        formats.save(every["topk"](), folder, layout="sparsify")
    shutil.copy(FIXTURES / "sparsify" / "topk" / "sae.safetensors", folder)
    with pytest.raises(StoreError, match="holds autoencoders of the layouts saelens, sparsify"):
        formats.load(folder)


@pytest.mark.parametrize("layout", ["saelens", "dictionary_learning", "sparsify"])
def test_a_full_disk_leaves_the_old_autoencoder_whole(every, x, tmp_path, monkeypatch, layout):
    sae, write = every["topk"](), common.write_partial
    formats.save(sae, tmp_path, layout=layout)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(path, content):
        write(path, content[: len(content) // 2])
        if path.suffix == ".json":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(common, "write_partial", full)
    with pytest.raises(StoreError, match="cannot be written: No space left on device; choose another directory"):
        formats.save(SparseAutoencoder(6, 12, activation=TopK(2)), tmp_path, layout=layout)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    torch.testing.assert_close(formats.load(tmp_path).sae.encode(x), sae.encode(x))


def test_a_save_that_was_killed_midway_is_noticed(every, folder, tmp_path):
    other = formats.save(every["topk"](), tmp_path / "other", metadata={"notes": 1})
    weights = load_file(other / WEIGHTS)
    save_file({name: tensor + 1 for name, tensor in weights.items()}, folder / WEIGHTS)
    with pytest.raises(StoreError, match="is not the file that cfg.json was written for"):
        formats.load(folder)
    (folder / CONFIG).unlink()
    with pytest.raises(StoreError, match="cfg.json cannot be read"):
        formats.load(folder)


def test_what_cannot_be_written_is_refused(every, tmp_path):
    sae = every["topk"]()
    with pytest.raises(StoreError, match="cannot be saved as JSON"):
        formats.save(sae, tmp_path, metadata={"x": float("nan")})
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        formats.save(sae, tmp_path / "file" / "sae")
    silu = SparseAutoencoder(4, 8, activation=nn.SiLU())
    silu.folded = lambda: silu
    with pytest.raises(StoreError, match=r"an autoencoder with SiLU\(\) cannot be saved"):
        formats.save(silu, tmp_path)
