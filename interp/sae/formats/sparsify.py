"""sparsify's directory (eai-sparsify, one per hook point): `cfg.json` beside `sae.safetensors`.

Our metadata lies under `interp` in `cfg.json`, where the library does not look.

Must not know: the other layouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from interp.errors import StoreError
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.formats import common
from interp.sae.formats.common import Saved
from interp.sae.formats.foreign import AbsTopK, GroupMax

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
OURS = "interp"

_ACTIVATIONS = {"topk": TopK, "groupmax": GroupMax}


def read(folder: Path) -> Saved:
    """Reads what the library or `files` wrote. Raises StoreError; `interp.sae.formats.load` says when."""
    path = folder / CONFIG
    config = common.read_config(path, WEIGHTS)
    ours = common.part(path, config, OURS)
    chosen = config.get("activation", "topk")
    if chosen not in _ACTIVATIONS:
        raise StoreError(f"{path} has activation {chosen!r}; this version reads {', '.join(_ACTIVATIONS)}")
    d_in, transcodes, skip = common.size(path, config, "d_in"), bool(config.get("transcode")), bool(config.get("skip_connection"))
    d_sae = (
        common.size(path, config, "num_latents")
        if config.get("num_latents")
        else d_in * common.size(path, config, "expansion_factor")
    )
    state = common.read_tensors(folder / WEIGHTS, CONFIG, ours.get("weights_sha256"))
    shapes = {"encoder.weight": (d_sae, d_in), "encoder.bias": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    common.check_shapes(folder / WEIGHTS, CONFIG, state, shapes | ({"W_skip": (d_in, d_in)} if skip else {}))
    tensors = {
        "W_enc": state["encoder.weight"].T,
        "b_enc": state["encoder.bias"],
        "W_dec": state["W_dec"],
        "b_dec": state["b_dec"],
    }
    if skip:
        tensors["W_skip"] = state["W_skip"].T
        tensors = tensors if transcodes else common.uncentred(tensors)  # with a skip, ours reads x and not x - b_dec
    sae = common.build(path, tensors, lambda: _activation(path, config, chosen, d_sae), transcodes=transcodes or skip)
    return Saved(sae, ours)


def files(sae: SparseAutoencoder, metadata: Mapping[str, Any]) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The weight file by its name, and the configuration of an autoencoder whose scales are folded. Raises StoreError."""
    chosen = next((name for name, kind in _ACTIVATIONS.items() if isinstance(sae.activation, kind)), None)
    fault = (
        f"activation {sae.activation}" if chosen is None
        else "refined codes" if sae.refinement
        else f"d_out={sae.d_out} beside d_in={sae.d_in}" if sae.d_out != sae.d_in
        else None
    )  # fmt: skip
    if fault is not None:
        raise StoreError(f"sparsify has no place for {fault}; save this one with layout='saelens'")
    tensors = common.plain(sae)
    state = {"encoder.weight": tensors["W_enc"].T, "encoder.bias": tensors["b_enc"], "W_dec": tensors["W_dec"]}
    state["b_dec"] = tensors["b_dec"]
    if sae.W_skip is not None:
        state["W_skip"] = tensors["W_skip"].T
    weights = common.dump(state)
    config = {
        "activation": chosen,
        "expansion_factor": max(1, sae.d_sae // sae.d_in),
        "normalize_decoder": True,
        "num_latents": sae.d_sae,
        "k": sae.activation.k,
        "multi_topk": False,
        "skip_connection": sae.W_skip is not None,
        "transcode": sae.transcodes,
        "d_in": sae.d_in,
        OURS: common.sealed(metadata, weights),
    }
    return {WEIGHTS: weights}, config


def _activation(path: Path, config: Mapping[str, Any], chosen: str, d_sae: int) -> nn.Module:
    k = common.active(path, config, d_sae)
    if chosen == "groupmax" and d_sae % k:
        raise StoreError(f"{path} says k={k} groups of {d_sae} latents; the latents must be a multiple of k: the file is damaged")
    if chosen == "topk" and config.get("signed"):  # files of before version 1.0
        return AbsTopK(k)
    return _ACTIVATIONS[chosen](k)
