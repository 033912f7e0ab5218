"""Claims about names, folders and copies of models."""

import json
import shutil
import time
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from model_shapes import NATIVE, build, case_of, hf_module
from safetensors.torch import load_file, save_file

from interp.errors import ModelError
from interp.models import hooked, storage
from interp.models.hooked import Model
from interp.models.lens import native_module
from interp.text.tokenizer import load_tokenizer, train_byte_level_bpe

STORIES = Path(__file__).resolve().parents[3] / "shared" / "data" / "stories260k"


def test_a_saved_model_computes_the_same(case, tmp_path):
    case.model.save(tmp_path)
    again = Model.load(str(tmp_path))
    assert torch.equal(again.run(case.tokens, **case.beside).logits, case.run().logits)
    assert again.fingerprint == case.model.fingerprint
    assert again.kind == case.model.kind


def test_a_saved_model_keeps_its_tokenizer(tmp_path):
    backend = train_byte_level_bpe(["some text, some more text"], 300)
    backend.save(str(tmp_path / "t.json"))
    tokenizer = load_tokenizer(tmp_path / "t.json")
    Model.wrap(native_module(NATIVE, 0), tokenizer=tokenizer).save(tmp_path / "model")
    again = Model.load(str(tmp_path / "model")).tokenizer
    assert again is not None and again.fingerprint == tokenizer.fingerprint and again.bos_id == tokenizer.bos_id


def test_a_saved_model_keeps_ties_and_stores_them_once(tmp_path):
    module = native_module(NATIVE, 0)
    module.head.weight = module.tok_embed.weight
    names = len(module.state_dict())
    model = Model.wrap(module.eval())
    model.save(tmp_path)
    again = Model.load(str(tmp_path))
    tokens = torch.ones(1, 4, dtype=torch.long)
    assert torch.equal(again.run(tokens).logits, model.run(tokens).logits)
    assert again.W_E.data_ptr() == again.W_U.T.data_ptr()
    assert len(load_file(tmp_path / "weights.safetensors")) == names - 1


def test_a_saved_model_keeps_its_dtype_unless_another_is_asked_for(tmp_path):
    Model.wrap(native_module(NATIVE, 0).to(torch.bfloat16)).save(tmp_path)
    assert Model.load(str(tmp_path)).W_E.dtype == torch.bfloat16
    assert Model.load(str(tmp_path), dtype=torch.float32).W_E.dtype == torch.float32


@pytest.mark.parametrize(
    "damage, told",
    [
        (lambda folder: (folder / "weights.safetensors").unlink(), "has no weights.safetensors; copy the whole folder"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"cut"), r"not the file that was saved \(its SHA"),
        (lambda folder: (folder / "model.json").write_text("{"), "cannot read .*model.json"),
        (lambda folder: (folder / "model.json").write_text('{"format": 9}'), "has format 9; this version reads format 1"),
        (lambda folder: (folder / "model.json").unlink(), "holds no model: no model.json of ours, no config.json"),
    ],
)
def test_a_broken_folder_is_told(tmp_path, damage, told):
    build("native").save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError, match=told):
        Model.load(str(tmp_path))


def test_a_half_written_model_is_no_model(tmp_path, monkeypatch):
    build("native").save(tmp_path)

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(storage, "save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        build("gated").save(tmp_path)
    with pytest.raises(ModelError, match="holds no model"):
        Model.load(str(tmp_path))


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder as models ship: weights in half precision, tokenizer, card."""
    module = native_module(NATIVE, 3)
    state = {name: tensor.half().contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    card = {"architecture": NATIVE | {"seed": 0}, "weights_sha256": storage._sha256(tmp_path / "weights.safetensors")}
    (tmp_path / "card.json").write_text(json.dumps(card))
    train_byte_level_bpe(["x = 1"], 300).save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setitem(hooked.SHIPPED, "tiny", tmp_path)
    return module


def test_a_shipped_model_loads_by_name_in_full_precision(shipped):
    model = Model.load("tiny")
    expected = shipped.state_dict()["tok_embed.weight"].half().float()
    assert model.name == "tiny" and model.W_E.dtype == torch.float32
    assert torch.equal(model.W_E, expected)
    assert model.tokenizer is not None and model.tokenizer.bos_id == 0


def test_the_shipped_model_is_there():
    model = Model.load("stdlib-4l")
    assert (model.n_layers, model.d_model, model.n_ctx, model.d_vocab) == (4, 192, 256, 2048)
    assert model.tokenizer is not None and model.tokenizer.d_vocab == 2048


def test_a_hugging_face_folder_loads_with_its_tokenizer(tmp_path):
    module = hf_module("llama")
    module.save_pretrained(tmp_path)
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "a": 1}, unk_token="<s>"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>").save_pretrained(tmp_path)
    model = Model.load(str(tmp_path))
    tokens = torch.arange(6)[None]
    with torch.no_grad():
        torch.testing.assert_close(model.run(tokens).logits, hf_module("llama")(tokens).logits)
    assert model.tokenizer is not None and model.tokenizer.bos_id == 0


def test_a_hugging_face_folder_with_weights_missing_is_refused(tmp_path):
    hf_module("llama").save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks the weights model.layers.1.mlp.up_proj.weight"):
        Model.load(str(tmp_path))


def test_loading_says_nothing(tmp_path, capfd):
    hf_module("gpt2").save_pretrained(tmp_path)
    capfd.readouterr()
    Model.load(str(tmp_path))
    assert capfd.readouterr() == ("", "")


def test_an_unknown_name_is_one_clear_error_and_quick():
    start = time.perf_counter()
    with pytest.raises(ModelError) as caught:
        Model.load("stdlib-4k")
    assert time.perf_counter() - start < 5
    told = str(caught.value)
    assert told.startswith("no model 'stdlib-4k' (did you mean stdlib-4l?)")
    assert "induction-2l" in told and "not a folder" in told and "the hub could not be reached" in told and "\n" not in told


def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub():
    with pytest.raises(ModelError, match="no model './no/such/folder'.*not a name the hub could have"):
        Model.load("./no/such/folder")


def test_what_cannot_be_wrapped_is_told():
    with pytest.raises(ModelError, match="cannot wrap a Linear; give a TransformerBridge, a HookedRootModule, a Hugging Face"):
        Model.wrap(torch.nn.Linear(2, 2))
    module = hf_module("gpt2")
    Model.wrap(module)
    with pytest.raises(ModelError, match="this GPT2LMHeadModel has been bridged before; wrap its bridge"):
        Model.wrap(module)


def test_untrained_models_are_the_same_architecture_and_a_function_of_their_seed(case):
    fresh = case.model.untrained(5)
    assert fresh.fingerprint == case.model.untrained(5).fingerprint != case.model.untrained(6).fingerprint
    assert fresh.config == case.model.config
    assert not torch.equal(fresh.run(case.tokens, **case.beside).logits, case.run().logits)


def test_building_models_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    build("native").untrained(1)
    case_of("gpt2").model.untrained(1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_fingerprint_follows_every_weight_and_nothing_else(tmp_path):
    model = build("native")
    first = model.fingerprint
    assert build("native").fingerprint == first
    with torch.no_grad():
        next(iter(model.bridge.original_model.parameters())).add_(1e-3)
    changed = model.fingerprint
    assert changed != first
    model.save(tmp_path / "one")
    shutil.move(tmp_path / "one", tmp_path / "two")
    assert Model.load(str(tmp_path / "two")).fingerprint == changed


@pytest.mark.skipif(not STORIES.is_dir(), reason="the shared data are not here")
def test_the_residual_streams_of_a_real_model_are_hugging_faces_hidden_states():
    model = Model.load(str(STORIES))
    reference = transformers.AutoModelForCausalLM.from_pretrained(STORIES).eval()
    tokens = torch.randint(3, model.d_vocab, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = reference.model(tokens, output_hidden_states=True).hidden_states
    before = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.n_layers)]
    after = [f"blocks.{layer}.hook_resid_post" for layer in range(model.n_layers)]
    found = model.run(tokens, read=before + after).activations
    for layer in range(model.n_layers):
        torch.testing.assert_close(found[before[layer]], states[layer], atol=1e-5, rtol=1e-5)
    for layer in range(model.n_layers - 1):
        torch.testing.assert_close(found[after[layer]], states[layer + 1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.final_norm(found[after[-1]]), states[-1], atol=1e-5, rtol=1e-5)
    assert model.W_K.shape[1] < model.n_heads  # grouped queries


@pytest.mark.parametrize("shape", ["native", "vaswani"])
def test_other_weights_make_another_model_of_the_same_architecture(shape):
    case = case_of(shape)
    fresh = case.model.untrained(5)
    state = {name: tensor.clone() for name, tensor in fresh.state().items()}
    other = case.model.with_weights(state, name="other")
    assert other.fingerprint == fresh.fingerprint != case.model.fingerprint and other.name == "other"
    state.popitem()
    with pytest.raises(ModelError, match="the weights do not fit the architecture: .*Missing key"):
        case.model.with_weights(state, name="other")
