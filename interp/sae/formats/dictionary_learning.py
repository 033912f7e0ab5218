"""dictionary_learning's directory: `config.json` beside `ae.pt`, a torch checkpoint, which is never unpickled freely.

The library stores no normaliser, no transcoders, and nothing about its own version. Our metadata lies under `interp` in
`config.json`, where it does not look.

Must not know: the other layouts.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp.errors import StoreError
from interp.sae.activation_functions import BatchTopK, Gated, JumpReLU, ReLU, TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.formats import common
from interp.sae.formats.common import Saved, Tensors

CONFIG, WEIGHTS = "config.json", "ae.pt"
OURS = "interp"

_LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}
_DIRECT = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
_NAMES: dict[str, dict[str, str]] = {
    "AutoEncoder": {**_LINEAR, "bias": "b_dec"},
    "AutoEncoderNew": {**_LINEAR, "decoder.bias": "b_dec"},
    "AutoEncoderTopK": {**_LINEAR, "b_dec": "b_dec", "k": "k", "threshold": "one_threshold"},
    "BatchTopKSAE": {**_LINEAR, "b_dec": "b_dec", "k": "k", "threshold": "one_threshold"},
    "MatryoshkaBatchTopKSAE": {**_DIRECT, "k": "k", "threshold": "one_threshold", "group_sizes": "group_sizes"},
    "JumpReluAutoEncoder": {**_DIRECT, "threshold": "threshold"},
    "GatedAutoEncoder": {
        "encoder.weight": "W_enc", "decoder.weight": "W_dec", "decoder_bias": "b_dec",
        "gate_bias": "b_enc", "mag_bias": "b_mag", "r_mag": "r_mag",
    },
}  # fmt: skip
"""Classes of dictionaries: the names of their tensors, and ours for them."""

_TRANSPOSED = ("encoder.weight", "decoder.weight")
_READS_RAW_INPUT = ("AutoEncoderNew", "JumpReluAutoEncoder")


def read(folder: Path) -> Saved:
    """Reads what the library or `files` wrote. Raises StoreError; `interp.sae.formats.load` says when."""
    path = folder / CONFIG
    config = common.read_config(path, WEIGHTS)
    trainer, ours = common.part(path, config, "trainer"), common.part(path, config, OURS)
    kind = trainer.get("dict_class")
    if kind not in _NAMES:
        raise StoreError(f"{path} has dict_class {kind!r}; this version reads {', '.join(_NAMES)}")
    state = _state(folder / WEIGHTS, ours.get("weights_sha256"))
    d_in, d_sae = (common.size(path, trainer, key) for key in ("activation_dim", "dict_size"))
    common.check_shapes(folder / WEIGHTS, CONFIG, state, _shapes(kind, d_in, d_sae, state))
    tensors = {ours_: (state[theirs].T if theirs in _TRANSPOSED else state[theirs]) for theirs, ours_ in _NAMES[kind].items()}
    if kind in _READS_RAW_INPUT:
        tensors = common.centred(tensors)
    if kind == "AutoEncoder":  # its loader does the same
        tensors = common.unit_decoder(tensors)
    metadata = ours or _metadata(config, trainer, kind, tensors)
    return Saved(common.build(path, tensors, lambda: _activation(path, kind, tensors, metadata)), metadata)


def files(sae: SparseAutoencoder, metadata: Mapping[str, Any]) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The weight file by its name, and the configuration of an autoencoder whose scales are folded. Raises StoreError."""
    if sae.transcodes or sae.refinement:
        what = "transcoders" if sae.transcodes else "refined codes"
        raise StoreError(f"dictionary_learning has no class for {what}; save this one with layout='saelens'")
    tensors = common.plain(sae)
    kind, extra = _class(sae, metadata, tensors)
    tensors |= extra
    if kind in _READS_RAW_INPUT:
        tensors = common.uncentred(tensors)
    state = {
        theirs: (tensors[ours].T if theirs in _TRANSPOSED else tensors[ours]).detach().clone().contiguous()
        for theirs, ours in _NAMES[kind].items()
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    weights = buffer.getvalue()
    if isinstance(sae.activation, BatchTopK):
        metadata = common.trained_in_batches(metadata, sae.activation.k)
    before = common.part(Path(CONFIG), metadata, "dictionary_learning")
    trainer = {"lm_name": metadata.get("model_name", ""), "layer": 0, **common.part(Path(CONFIG), before, "trainer")}
    trainer |= {"dict_class": kind, "activation_dim": sae.d_in, "dict_size": sae.d_sae}
    if "k" in extra:
        trainer["k"] = int(extra["k"])
    config = {"buffer": {}, **before, "trainer": trainer, OURS: common.sealed(metadata, weights)}
    return {WEIGHTS: weights}, config


def _state(path: Path, sha256: str | None) -> Tensors:
    content = common.read_content(path, CONFIG, sha256)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what it likes for a file that is cut off, or that would run code
        raise StoreError(
            f"{path} is not a checkpoint of tensors alone; it is cut off, damaged or hostile, and nothing in it was run: "
            "get it again from its author, as safetensors if you can"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise StoreError(f"{path} holds a {type(state).__name__}, not tensors by name; give the state_dict of a dictionary")
    return common.as_float32(state)


def _shapes(kind: str, d_in: int, d_sae: int, state: Tensors) -> dict[str, tuple[int, ...]]:
    ours: dict[str, tuple[int, ...]] = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,), "k": ()}
    ours |= {"one_threshold": (), "group_sizes": tuple(state["group_sizes"].shape[:1]) if "group_sizes" in state else (1,)}
    shapes = {theirs: ours.get(name, (d_sae,)) for theirs, name in _NAMES[kind].items()}
    return {theirs: shape[::-1] if theirs in _TRANSPOSED else shape for theirs, shape in shapes.items()}


def _activation(path: Path, kind: str, tensors: Tensors, metadata: Mapping[str, Any]) -> nn.Module:
    d_sae = tensors["W_dec"].shape[0]
    match kind:
        case "AutoEncoderTopK":
            return TopK(common.active(path, {"k": int(tensors["k"])}, d_sae))
        case "BatchTopKSAE" | "MatryoshkaBatchTopKSAE":
            details = common.part(path, metadata, "training_architecture_details")
            k = common.number(path, details, "k", int(tensors["k"]))  # the file's is whole; ours may not be
            return BatchTopK(k, threshold=max(0.0, float(tensors["one_threshold"])))
        case "JumpReluAutoEncoder":
            return JumpReLU(tensors["threshold"].clamp_min(0.0))
        case "GatedAutoEncoder":
            return Gated(tensors["r_mag"], tensors["b_mag"] - tensors["r_mag"].exp() * tensors["b_enc"])
        case _:
            return ReLU()


def _class(sae: SparseAutoencoder, metadata: Mapping[str, Any], tensors: Tensors) -> tuple[str, Tensors]:
    """The library's class for an autoencoder, and the tensors that it has beside weights and biases."""
    activation = sae.activation
    match activation:
        case ReLU():
            lengths = tensors["W_dec"].norm(dim=1)
            unit = torch.allclose(lengths, torch.ones_like(lengths))
            return ("AutoEncoder" if unit else "AutoEncoderNew"), {}  # the first has its decoder normalised on loading
        case TopK():
            return "AutoEncoderTopK", {"k": torch.tensor(activation.k, dtype=torch.int32), "one_threshold": torch.tensor(-1.0)}
        case BatchTopK():
            k = torch.tensor(max(1, round(activation.k)), dtype=torch.int32)  # whole there; it chooses in training only
            extra = {"k": k, "one_threshold": activation.threshold.float().cpu()}
            sizes = _group_sizes(metadata, sae.d_sae)
            return ("BatchTopKSAE", extra) if sizes is None else ("MatryoshkaBatchTopKSAE", {**extra, "group_sizes": sizes})
        case JumpReLU():
            return "JumpReluAutoEncoder", {"threshold": activation.threshold}
        case Gated():
            magnitude = activation.log_gain.exp() * tensors["b_enc"] + activation.shift
            return "GatedAutoEncoder", {"b_mag": magnitude, "r_mag": activation.log_gain}
        case _:
            raise StoreError(f"dictionary_learning has no class for {activation}; save this one with layout='saelens'")


def _group_sizes(metadata: Mapping[str, Any], d_sae: int) -> Tensor | None:
    """How many latents each nested dictionary adds, from the widths in the metadata."""
    widths = common.part(Path(CONFIG), metadata, "training_architecture_details").get("matryoshka_widths")
    if not isinstance(widths, list) or widths[-1:] != [d_sae]:
        return None
    return torch.diff(torch.tensor([0, *widths]))


def _metadata(config: Mapping[str, Any], trainer: Mapping[str, Any], kind: str, tensors: Tensors) -> dict[str, Any]:
    """The library's facts by SAELens's names, and its whole configuration for a way back."""
    facts: dict[str, Any] = {"model_name": trainer["lm_name"]} if "lm_name" in trainer else {}
    if kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        details: dict[str, Any] = {"k": int(tensors["k"])}
        if kind.startswith("Matryoshka"):
            details["matryoshka_widths"] = tensors["group_sizes"].cumsum(0).tolist()
        name = "matryoshka_batchtopk" if kind.startswith("Matryoshka") else "batchtopk"
        facts |= {"training_architecture": name, "training_architecture_details": details}
    return {**facts, "dictionary_learning": dict(config)}
