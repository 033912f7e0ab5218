"""What all layouts share: reading with every check, writing all or nothing, and the tensors of an autoencoder.

Must not know: the layouts, models (only their fingerprints), training.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor, nn

from interp.errors import StoreError, TrainingError
from interp.sae.autoencoder import SparseAutoencoder

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Saved:
    """An autoencoder read from disk, with what was saved beside it.

    metadata: facts by SAELens's names (`model_name`, `hook_name`, …) and our own.
    density: [d_sae] share of the tokens on which each latent fires, where the file has it.
    """

    sae: SparseAutoencoder
    metadata: dict[str, Any]
    density: Float[Tensor, "d_sae"] | None = None


def read_config(path: Path, weights: str) -> dict[str, Any]:
    """The object in a JSON file; `weights` is the file expected beside it. Raises StoreError."""
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read: {error.strerror}; give a directory that holds {path.name} and {weights}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is not JSON ({error}); it is cut off or damaged: save the autoencoder again") from error
    if not isinstance(config, dict):
        raise StoreError(f"{path} is not an autoencoder's configuration; expected an object with its sizes")
    return config


def part(path: Path, config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object under `key`, empty if there is none. Raises StoreError for anything else."""
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise StoreError(f"{path} is not an autoencoder's configuration; expected an object under {key}, got {value!r:.40}")
    return value


def read_content(path: Path, config: str, sha256: str | None) -> bytes:
    """The bytes of a weight file, if they are those that `config` was written for. Raises StoreError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read: {error.strerror}; give a directory that holds {config} and {path.name}"
        ) from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise StoreError(
            f"{path} is not the file that {config} was written for; it is cut off or was replaced: save the autoencoder again"
        )
    return content


def read_tensors(path: Path, config: str, sha256: str | None) -> Tensors:
    """The tensors in a safetensors file, numbers as float32. Raises StoreError."""
    try:
        return as_float32(load_tensors(read_content(path, config, sha256)))
    except (SafetensorError, ValueError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"{path} is not a whole safetensors file ({error}); it is cut off or damaged: save the autoencoder again"
        ) from error


def as_float32(tensors: Mapping[str, Tensor]) -> Tensors:
    """The same tensors, with floating-point ones as float32."""
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def check_shapes(path: Path, config: str, tensors: Tensors, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises one StoreError that lists every tensor that is missing, misshapen or not finite."""
    found = {name: tuple(tensors[name].shape) if name in tensors else "missing" for name in expected}
    wrong = [f"{name} is {found[name]}, expected {shape}" for name, shape in expected.items() if found[name] != shape]
    bad = [f"{name} is not finite" for name in expected if name in tensors and not bool(tensors[name].isfinite().all())]
    if wrong or bad:
        raise StoreError(f"{path} does not fit {config}: {'; '.join(wrong + bad)}")


def size(path: Path, config: Mapping[str, Any], key: str) -> int:
    """A size from the configuration. Raises StoreError for anything but a whole number of at least 1."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise StoreError(f"{path} has {key}={value!r}; expected a whole number of at least 1")
    return value


def number(path: Path, config: Mapping[str, Any], key: str, default: float) -> float:
    """A number from the configuration. Raises StoreError for anything else."""
    value = config.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise StoreError(f"{path} has {key}={value!r}; expected a number")
    return value


def active(path: Path, config: Mapping[str, Any], d_sae: int) -> int:
    """k from the configuration, at most d_sae. Raises StoreError."""
    k = size(path, config, "k")
    if k > d_sae:
        raise StoreError(f"{path} says k={k} of d_sae={d_sae} latents; k can be at most d_sae: the file is damaged")
    return k


def build(
    path: Path,
    tensors: Mapping[str, Tensor],
    activation: Callable[[], nn.Module],
    *,
    transcodes: bool = False,
    parts: Mapping[str, int] | None = None,
    refinement: float = 0.0,
) -> SparseAutoencoder:
    """An autoencoder with these W_enc, W_dec, b_enc, b_dec and (if there) W_skip, by our names and shapes.

    activation: builds it; an InterpError it raises is reported as a fault of the file at `path`, as are all others of building.
    """
    (d_in, d_sae), d_out, skip = tensors["W_enc"].shape, tensors["W_dec"].shape[1], "W_skip" in tensors
    try:
        sae = SparseAutoencoder(
            d_in,
            d_sae,
            activation=activation(),
            d_out=d_out if transcodes else None,
            skip=skip,
            parts=parts,
            refinement=refinement,
        )
    except (TrainingError, ValueError, TypeError) as error:
        raise StoreError(f"{path} does not describe an autoencoder: {error}") from error
    with torch.no_grad():
        for name in ("W_enc", "W_dec", "b_enc", "b_dec") + ("W_skip",) * skip:
            sae.get_parameter(name).copy_(tensors[name])
    return sae


def centred(tensors: Tensors) -> Tensors:
    """The same autoencoder, reading x - b_dec where it read x."""
    return tensors | {"b_enc": tensors["b_enc"] + tensors["b_dec"] @ tensors["W_enc"]}


def uncentred(tensors: Tensors) -> Tensors:
    """The same autoencoder, reading x where it read x - b_dec."""
    return tensors | {"b_enc": tensors["b_enc"] - tensors["b_dec"] @ tensors["W_enc"]}


def unit_decoder(tensors: Tensors) -> Tensors:
    """Decoder rows of length 1, with their lengths in the encoder: codes are in units of what they write."""
    norm = tensors["W_dec"].norm(dim=1).clamp_min(1e-12)
    scaled = {"W_dec": tensors["W_dec"] / norm[:, None], "W_enc": tensors["W_enc"] * norm, "b_enc": tensors["b_enc"] * norm}
    return tensors | scaled


def plain(sae: SparseAutoencoder) -> Tensors:
    """The float32 weights of an autoencoder whose scales are folded, by our names."""
    return {
        name: parameter.detach().float().cpu().contiguous()
        for name, parameter in sae.named_parameters()
        if not name.startswith("activation.")
    }


def dump(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file."""
    return dump_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def sealed(metadata: Mapping[str, Any], weights: bytes) -> dict[str, Any]:
    """The metadata with the checksum of the weights."""
    return {**metadata, "weights_sha256": hashlib.sha256(weights).hexdigest()}


def trained_in_batches(metadata: Mapping[str, Any], k: float) -> dict[str, Any]:
    """The metadata with the k of a BatchTopK, which its file keeps as a threshold, where SAELens notes it."""
    details = {**(metadata.get("training_architecture_details") or {}), "k": k}
    return {"training_architecture": "batchtopk", **metadata, "training_architecture_details": details}


def write(folder: Path, files: Mapping[str, bytes], config: Mapping[str, Any], config_name: str) -> None:
    """Writes all files, or leaves the folder as it was: a folder without its configuration is half-written.

    Raises StoreError for a configuration that is not JSON, and for what the disk refuses.
    """
    try:
        text = json.dumps(config, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"the metadata cannot be saved as JSON ({error}); use plain numbers, strings, lists and dicts"
        ) from error
    whole = {**files, config_name: text.encode()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in whole.items():
            write_partial(folder / name, content)
        (folder / config_name).unlink(missing_ok=True)
        for name in whole:
            os.replace(_partial(folder / name), folder / name)
    except OSError as error:
        for name in whole:
            _discard(_partial(folder / name))
        raise StoreError(f"{folder} cannot be written: {error.strerror}; choose another directory or free some space") from error


def write_partial(path: Path, content: bytes) -> None:
    """The whole content, on the disk, under the name of an unfinished file."""
    with _partial(path).open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # the disk that refused to write may refuse this too
        return
