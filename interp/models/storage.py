"""Models on disk: a JSON record, weights as safetensors, a tokenizer; and the fingerprint of what a model computes.

A folder holds `weights.safetensors`, `tokenizer.json` when there is one, and `model.json`, written last: a folder without
it is not a saved model. Must not know: TransformerLens, how models are built.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from interp.errors import ModelError
from interp.text.tokenizer import Tokenizer, load_tokenizer

RECORD, WEIGHTS, TOKENIZER = "model.json", "weights.safetensors", "tokenizer.json"
FORMAT = 1


def write(folder: Path, record: Mapping[str, Any], state: Mapping[str, Tensor], tokenizer: Tokenizer | None) -> None:
    """Writes a saved model over whatever model the folder held. Tied tensors are stored once, and their tie recorded."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    ties = ties_of(state)
    stored = {name: tensor.detach().contiguous().clone() for name, tensor in state.items() if name not in ties}
    save_file(stored, folder / WEIGHTS)
    backend = getattr(tokenizer, "backend", None)
    if tokenizer is not None and backend is not None:
        backend.save(str(folder / TOKENIZER))
        special = {"bos_token": _token(backend, tokenizer.bos_id), "pad_token": _token(backend, tokenizer.pad_id)}
        (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in special.items() if v is not None}))
    whole = {"format": FORMAT, **record, "ties": ties, "weights_sha256": _sha256(folder / WEIGHTS)}
    partial = folder / (RECORD + ".partial")
    partial.write_text(json.dumps(whole, indent=1) + "\n")
    os.replace(partial, folder / RECORD)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The record and the weights of a saved model. Raises ModelError when they do not belong together."""
    record = read_json(folder / RECORD)
    if record.get("format") != FORMAT:
        raise ModelError(f"{folder / RECORD} has format {record.get('format')!r}; this version reads format {FORMAT}")
    state = read_weights(folder, record["weights_sha256"])
    return record, state | {name: state[twin] for name, twin in record["ties"].items()}


def read_weights(folder: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors in `weights.safetensors`, if its hash is the one given."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelError(f"{folder} has no {WEIGHTS}; copy the whole folder or save the model again")
    if _sha256(path) != sha256:
        raise ModelError(f"{path} is not the file that was saved (its SHA-256 differs); copy it or save the model again")
    return load_file(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from None


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer in the folder, or None."""
    return load_tokenizer(folder / TOKENIZER) if (folder / TOKENIZER).is_file() else None


def ties_of(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Names whose tensor is the same memory as that of an earlier name, with that name."""
    seen: dict[tuple, str] = {}
    ties = {}
    for name, tensor in state.items():
        if tensor.numel():
            first = seen.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype), name)
            if first != name:
                ties[name] = first
    return ties


def fill(module: nn.Module, state: Mapping[str, Tensor], ties: Mapping[str, str]) -> None:
    """Loads `state` into a freshly built module, ties included. Raises ModelError when names or shapes do not fit."""
    for name, twin in ties.items():
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, module.get_parameter(twin))
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ModelError(f"the weights do not fit the architecture: {' '.join(str(error).split())}") from None


def fingerprint(facts: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """SHA-256 in hex over a description and the bytes, names, dtypes and shapes of all tensors."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 22):
            digest.update(part)
    return digest.hexdigest()


def _token(backend: Any, index: int | None) -> str | None:
    return None if index is None else backend.id_to_token(index)
