"""Autoencoders on disk, in SAELens's directory layout: `cfg.json` beside `sae_weights.safetensors`.

The input scale is folded on saving, so the file needs no normaliser. Our own facts (model fingerprint, hook, tokenizer, training)
lie under `metadata`, where SAELens keeps its own; `metadata.weights_sha256` lets a cut-off or swapped weight file be noticed.
The configuration is written last: a directory without it is half-written. Nothing is unpickled.

Must not know: models (only their fingerprints), training.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from interp.errors import StoreError
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"


@dataclass(frozen=True)
class Saved:
    """An autoencoder read from disk, with the metadata saved beside it."""

    sae: SparseAutoencoder
    metadata: dict[str, Any]


def save(sae: SparseAutoencoder, directory: str | Path, *, metadata: Mapping[str, Any] | None = None) -> Path:
    """Writes `sae`, folded, into `directory` (made if missing) and returns it.

    metadata: JSON-able facts. SAELens knows `model_name`, `hook_name`, `context_size`, `prepend_bos`, `dataset_path`; `load`
    checks `model_fingerprint` and `hook_name`.

    Raises StoreError for an activation the layout has no name for, metadata that is not JSON, or a path that cannot be written.
    """
    if not isinstance(sae.activation, TopK):
        raise StoreError(f"an autoencoder with {sae.activation} cannot be saved; its activation must be TopK")
    folded = sae.folded()
    tensors = {name: parameter.detach().float().cpu().contiguous() for name, parameter in folded.named_parameters()}
    weights = dump_tensors(tensors)
    facts = dict(metadata or {}) | {"weights_sha256": hashlib.sha256(weights).hexdigest(), "training_scale": float(sae.scale)}
    config = {
        "architecture": "topk",
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "k": sae.activation.k,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": facts,
    }
    folder = Path(directory)
    try:
        text = json.dumps(config, indent=2, allow_nan=False)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).unlink(missing_ok=True)
        _write(folder / WEIGHTS, weights)
        _write(folder / CONFIG, text.encode())
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"the metadata cannot be saved as JSON ({error}); use plain numbers, strings, lists and dicts"
        ) from error
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}; choose another directory or free some space") from error
    return folder


def load(directory: str | Path, *, model_fingerprint: str | None = None, hook: str | None = None) -> Saved:
    """Reads an autoencoder of architecture "topk", ours or SAELens's.

    model_fingerprint, hook: what the caller is about to use it on; checked against the metadata where that names them.

    Raises StoreError for missing, cut-off or contradictory files, other architectures, and another model or hook.
    """
    folder = Path(directory)
    config = _config(folder)
    metadata = config.get("metadata") or {}
    _check_made_for(folder, metadata, model_fingerprint, hook)
    tensors = _weights(folder, metadata.get("weights_sha256"))
    d_in, d_sae, k = (_size(folder, config, key) for key in ("d_in", "d_sae", "k"))
    if k > d_sae:
        raise StoreError(f"{folder / CONFIG} says k={k} of d_sae={d_sae} latents; k can be at most d_sae: the file is damaged")
    _check_shapes(folder, tensors, {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,)})
    if config.get("rescale_acts_by_decoder_norm", False):
        norm = tensors["W_dec"].norm(dim=1).clamp_min(1e-12)
        tensors |= {"W_dec": tensors["W_dec"] / norm[:, None], "W_enc": tensors["W_enc"] * norm, "b_enc": tensors["b_enc"] * norm}
    if not config.get("apply_b_dec_to_input", True):
        tensors["b_enc"] = tensors["b_enc"] + tensors["b_dec"] @ tensors["W_enc"]
    sae = SparseAutoencoder(d_in, d_sae, activation=TopK(k))
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(tensors[name])
    return Saved(sae, metadata)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read: {error.strerror}; give a directory that holds {CONFIG} and {WEIGHTS}"
        ) from error
    except ValueError as error:
        raise StoreError(f"{path} is not JSON ({error}); it is cut off or damaged: save the autoencoder again") from error
    if not isinstance(config, dict) or not isinstance(config.get("metadata") or {}, dict):
        raise StoreError(f"{path} is not an autoencoder's configuration; expected an object with architecture, d_in, d_sae and k")
    if config.get("architecture") != "topk":
        raise StoreError(f"{path} has architecture {config.get('architecture')!r}; this version reads 'topk'")
    if config.get("normalize_activations", "none") not in ("none", None):
        raise StoreError(
            f"{path} wants inputs normalised ({config['normalize_activations']!r}); fold the normaliser into the weights first"
        )
    return config


def _weights(folder: Path, sha256: str | None) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    try:
        content = path.read_bytes()
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise StoreError(
                f"{path} is not the file that {CONFIG} was written for; it is cut off or was replaced: save the autoencoder again"
            )
        tensors = load_tensors(content)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read: {error.strerror}; give a directory that holds {CONFIG} and {WEIGHTS}"
        ) from error
    except SafetensorError as error:
        raise StoreError(
            f"{path} is not a whole safetensors file ({error}); it is cut off or damaged: save the autoencoder again"
        ) from error
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _check_made_for(folder: Path, metadata: dict[str, Any], model_fingerprint: str | None, hook: str | None) -> None:
    made = (metadata.get("model_fingerprint"), metadata.get("hook_name"))
    for what, ours, theirs in (("model", model_fingerprint, made[0]), ("hook", hook, made[1])):
        if ours is not None and theirs is not None and ours != theirs:
            raise StoreError(
                f"{folder} was trained on {what} {theirs}, not on {ours}; use it there, or train one for this {what}"
            )


def _check_shapes(folder: Path, tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]]) -> None:
    found = {name: tuple(tensors[name].shape) if name in tensors else "missing" for name in expected}
    wrong = [f"{name} is {found[name]}, expected {shape}" for name, shape in expected.items() if found[name] != shape]
    bad = [f"{name} is not finite" for name in expected if name in tensors and not bool(tensors[name].isfinite().all())]
    if wrong or bad:
        raise StoreError(f"{folder / WEIGHTS} does not fit {CONFIG}: {'; '.join(wrong + bad)}")


def _size(folder: Path, config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise StoreError(f"{folder / CONFIG} has {key}={value!r}; expected a whole number of at least 1")
    return value


def _write(path: Path, content: bytes) -> None:
    """All of the file or none of it."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
