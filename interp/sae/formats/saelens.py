"""SAELens's directory: `cfg.json` beside `sae_weights.safetensors`. It is our own layout too.

What SAELens has an architecture for, it loads. What it has none for gets a name that it refuses: `gated_transcoder`,
`topk_skip_transcoder`, `groupmax`, `refined_topk` (codes refined by a step of ISTA). BatchTopK is saved as SAELens saves it at
the end of training, a JumpReLU with one threshold, with k under `metadata.training_architecture_details`. A crosscoder is an
autoencoder over its parts side by side, named in `metadata.parts`.

Must not know: the other layouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from interp.errors import StoreError
from interp.sae.activation_functions import BatchTopK, Gated, JumpReLU, ReLU, TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.formats import common
from interp.sae.formats.common import Saved, Tensors
from interp.sae.formats.foreign import AbsTopK, GroupMax, MatchingPursuit

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
SCALER, WHITENING = "activation_scaler.json", "activation_whitening.safetensors"
VERSION = "6.0.0"
"""The SAELens whose names of keys are written."""

_OLD_KEYS = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
_OLD_FACTS = (
    "model_name", "hook_name", "hook_head_index", "context_size", "prepend_bos", "dataset_path", "neuronpedia_id"
)  # fmt: skip
_KINDS = (
    "standard", "topk", "abstopk", "jumprelu", "batchtopk", "matryoshka_batchtopk", "gated", "matching_pursuit", "groupmax"
)  # fmt: skip
_BATCH = ("batchtopk", "matryoshka_batchtopk")


def read(folder: Path, *, input_scale: float | None = None) -> Saved:
    """Reads what SAELens or `files` wrote. Raises StoreError; `interp.sae.formats.load` says when."""
    path = folder / CONFIG
    config = _modern(common.read_config(path, WEIGHTS))
    metadata = common.part(path, config, "metadata")
    kind, transcodes, skip, refined = _parsed(path, config)
    scale = _input_scale(folder, config, input_scale)
    tensors = common.read_tensors(folder / WEIGHTS, CONFIG, metadata.get("weights_sha256"))
    if "log_threshold" in tensors:
        tensors["threshold"] = tensors.pop("log_threshold").exp()
    d_in, d_sae = (common.size(path, config, key) for key in ("d_in", "d_sae"))
    d_out = common.size(path, config, "d_out") if transcodes else d_in
    common.check_shapes(folder / WEIGHTS, CONFIG, tensors, _shapes(kind, d_in, d_sae, d_out, skip=skip))
    whitened = config.get("normalize_activations") == "covariance_whitening"
    if whitened and (transcodes or kind == "matching_pursuit"):
        raise StoreError(
            f"{path} wants inputs whitened, which weights of a {config['architecture']} cannot do; give it whitened ones"
        )
    if kind == "matching_pursuit":
        return Saved(_matching_pursuit(path, config, tensors, scale), metadata)
    tensors = _scaled(tensors, scale)
    if kind == "gated":
        tensors["b_enc"] = tensors["b_gate"]
    if kind in ("topk", "abstopk", *_BATCH) and config.get("rescale_acts_by_decoder_norm", kind in _BATCH):
        tensors = common.unit_decoder(tensors)
        if kind in _BATCH:
            tensors["topk_threshold"] = tensors["topk_threshold"] / scale
    if whitened:
        tensors = _unwhitened(folder, tensors, d_in, reads_raw=not config.get("apply_b_dec_to_input", True))
    if not transcodes and not config.get("apply_b_dec_to_input", True):
        tensors = common.centred(tensors)
    if skip:
        tensors["W_skip"] = tensors["W_skip"].T
    else:
        tensors.pop("W_skip", None)
    sae = common.build(
        path,
        tensors,
        lambda: _activation(path, kind, config, metadata, tensors),
        transcodes=transcodes,
        parts=metadata.get("parts"),
        refinement=common.number(path, config, "refinement", 0.0) if refined else 0.0,
    )
    if sae.draft is not None:
        sae.draft = _draft(path, config, sae)
    return Saved(sae, _trained_as(kind, config, metadata))


def files(sae: SparseAutoencoder, metadata: Mapping[str, Any]) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The weight file by its name, and the configuration of an autoencoder whose scales are folded. Raises StoreError."""
    kind, fields, tensors = _described(sae)
    facts = common.trained_in_batches(metadata, sae.activation.k) if isinstance(sae.activation, BatchTopK) else dict(metadata)
    if sae.W_skip is not None:
        tensors["W_skip"] = tensors["W_skip"].T
    if sae.draft is not None:
        first = sae.draft.state_dict().get("threshold")  # BatchTopK's own for the first codes
        fields |= {"refinement": sae.refinement, "draft_k": sae.draft.k}
        fields |= {} if first is None else {"draft_threshold": float(first)}
    if len(sae.parts) > 1:
        facts["parts"] = dict(sae.parts)
    weights = common.dump(tensors)
    config = {
        "architecture": _name(kind, sae),
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        **({"d_out": sae.d_out} if sae.transcodes else {}),
        **fields,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": not sae.transcodes,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if str(facts.get("hook_name", "")).endswith("hook_z") else "none",
        "metadata": common.sealed({"sae_lens_version": VERSION, **facts}, weights),
    }
    return {WEIGHTS: weights}, config


def _described(sae: SparseAutoencoder) -> tuple[str, dict[str, Any], Tensors]:
    """The kind of activation, what the configuration says of it, and all tensors."""
    tensors, activation = common.plain(sae), sae.activation
    match activation:
        case ReLU():
            return "standard", {}, tensors
        case TopK() | AbsTopK():
            kind = "topk" if isinstance(activation, TopK) else "abstopk"
            return kind, {"k": activation.k, "rescale_acts_by_decoder_norm": False}, tensors
        case GroupMax():
            return "groupmax", {"k": activation.k}, tensors
        case JumpReLU() | BatchTopK():
            return "jumprelu", {}, {**tensors, "threshold": activation.threshold.expand(sae.d_sae)}
        case Gated():
            gate = tensors.pop("b_enc")
            magnitude = activation.log_gain.exp() * gate + activation.shift
            return "gated", {}, {**tensors, "b_gate": gate, "b_mag": magnitude, "r_mag": activation.log_gain}
        case MatchingPursuit():
            names = ("residual_threshold", "max_iterations", "stop_on_duplicate_support")
            rules = {name: getattr(activation, name) for name in names}
            return "matching_pursuit", rules, {name: tensors[name] for name in ("W_dec", "b_dec")}
    raise StoreError(f"an autoencoder with {activation} cannot be saved; SAELens's layout has no name for it")


def _name(kind: str, sae: SparseAutoencoder) -> str:
    """`standard`, `transcoder`, `jumprelu_skip_transcoder`, `refined_topk`: SAELens's pattern, carried on."""
    words = [kind] if kind != "standard" or not sae.transcodes else []
    words += ["skip"] if sae.W_skip is not None else []
    words += ["transcoder"] if sae.transcodes else []
    return "_".join((["refined"] if sae.refinement else []) + words)


def _parsed(path: Path, config: Mapping[str, Any]) -> tuple[str, bool, bool, bool]:
    """(kind of activation, whether it transcodes, has a skip, is refined) of an architecture's name."""
    given = str(config["architecture"])
    refined, rest = given.startswith("refined_"), given.removeprefix("refined_")
    transcodes = rest == "transcoder" or rest.endswith("_transcoder")
    rest = rest.removesuffix("transcoder").removesuffix("_")
    skip = transcodes and (rest == "skip" or rest.endswith("_skip"))
    kind = (rest.removesuffix("skip").removesuffix("_") if skip else rest) or "standard"
    if kind not in _KINDS:
        raise StoreError(f"{path} has architecture {given!r}; this version reads {', '.join(_KINDS)}, and transcoders of them")
    return kind, transcodes, skip, refined


def _modern(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration by today's names; files of before SAELens 6 keep their facts beside the sizes."""
    new = {_OLD_KEYS.get(key, key): value for key, value in config.items()}
    if "metadata" not in new:
        new["metadata"] = {key: new[key] for key in _OLD_FACTS if key in new}
    chosen = new.get("activation_fn_kwargs")
    if new.get("activation_fn") == "topk" and isinstance(chosen, dict):
        new |= {"architecture": "topk", "k": chosen.get("k")}
    if new.get("normalize_activations") is True:
        new["normalize_activations"] = "expected_average_only_in"
    return {"architecture": "standard", **new}


def _input_scale(folder: Path, config: Mapping[str, Any], given: float | None) -> float:
    """What inputs are multiplied by before the weights see them."""
    wanted = config.get("normalize_activations") or "none"
    if wanted in ("none", "covariance_whitening"):
        return 1.0
    if wanted != "expected_average_only_in":
        raise StoreError(
            f"{folder / CONFIG} wants every row normalised by itself ({wanted!r}), which weights cannot do; "
            "fold the normaliser into the activations that are given to it, and say normalize_activations='none'"
        )
    if given is None and (folder / SCALER).is_file():
        given = common.read_config(folder / SCALER, CONFIG).get("scaling_factor")
    if not isinstance(given, int | float) or isinstance(given, bool) or not 0 < given < float("inf"):
        raise StoreError(
            f"{folder / CONFIG} wants inputs normalised ({wanted!r}) and {SCALER} is not beside it, or holds no factor; "
            "pass input_scale=, sqrt(d_in) over the mean norm of its inputs (SAELens's norm_scaling_factor)"
        )
    return float(given)


def _scaled(tensors: Tensors, scale: float) -> Tensors:
    """The weights for inputs that are not multiplied by `scale`. Codes stay what they were."""
    factors = {"W_enc": scale, "W_dec": 1 / scale, "b_dec": 1 / scale}
    return {name: tensor * factors.get(name, 1.0) for name, tensor in tensors.items()}


def _unwhitened(folder: Path, tensors: Tensors, d: int, *, reads_raw: bool) -> Tensors:
    """The weights for inputs that are not whitened by z = (x - mean) M, x = z M⁻¹ + mean. Codes stay what they were."""
    whitening = common.read_tensors(folder / WHITENING, CONFIG, None)
    common.check_shapes(folder / WHITENING, CONFIG, whitening, {"mean": (d,), "matrix": (d, d), "inverse_matrix": (d, d)})
    mean, inverse, encoder = whitening["mean"], whitening["inverse_matrix"], whitening["matrix"] @ tensors["W_enc"]
    written = {"W_dec": tensors["W_dec"] @ inverse, "b_dec": tensors["b_dec"] @ inverse + mean}
    return {**tensors, **written, "W_enc": encoder, "b_enc": tensors["b_enc"] - mean @ encoder * reads_raw}


def _shapes(kind: str, d_in: int, d_sae: int, d_out: int, *, skip: bool) -> dict[str, tuple[int, ...]]:
    written = {"W_dec": (d_sae, d_out), "b_dec": (d_out,)}
    if kind == "matching_pursuit":
        return written
    biases = {
        "gated": ("b_gate", "b_mag", "r_mag"),
        "jumprelu": ("b_enc", "threshold"),
    }.get(kind, ("b_enc",))
    extra: dict[str, tuple[int, ...]] = {"topk_threshold": ()} if kind in _BATCH else {}
    extra |= {"W_skip": (d_out, d_in)} if skip else {}
    return {"W_enc": (d_in, d_sae), **written, **dict.fromkeys(biases, (d_sae,)), **extra}


def _activation(path: Path, kind: str, config: Mapping[str, Any], metadata: Mapping[str, Any], tensors: Tensors) -> nn.Module:
    d_sae = tensors["W_dec"].shape[0]
    match kind:
        case "topk":
            return TopK(common.active(path, config, d_sae))
        case "abstopk":
            return AbsTopK(common.active(path, config, d_sae))
        case "groupmax":
            return GroupMax(_groups(path, config, d_sae))
        case "gated":
            return Gated(tensors["r_mag"], tensors["b_mag"] - tensors["r_mag"].exp() * tensors["b_gate"])
        case "jumprelu":
            return _jumprelu(path, tensors["threshold"].clamp_min(0.0), metadata)
        case "batchtopk" | "matryoshka_batchtopk":
            k = common.number(path, config, "k", 0.0)
            return BatchTopK(k, threshold=max(0.0, float(tensors["topk_threshold"])))
        case _:
            return ReLU()


def _jumprelu(path: Path, threshold: torch.Tensor, metadata: Mapping[str, Any]) -> nn.Module:
    """BatchTopK where the metadata says how many it chose in training, and the threshold is one number; else JumpReLU."""
    details = common.part(path, metadata, "training_architecture_details")
    if "k" in details and bool((threshold == threshold[0]).all()):
        return BatchTopK(common.number(path, details, "k", 0.0), threshold=float(threshold[0]))
    return JumpReLU(threshold)


def _draft(path: Path, config: Mapping[str, Any], sae: SparseAutoencoder) -> nn.Module:
    """The activation of the first codes, where a second look refines them."""
    k = common.number(path, config, "draft_k", sae.d_sae)
    if isinstance(sae.activation, BatchTopK):
        return BatchTopK(k, threshold=common.number(path, config, "draft_threshold", 0.0))
    return TopK(common.active(path, {"k": k}, sae.d_sae))


def _groups(path: Path, config: Mapping[str, Any], d_sae: int) -> int:
    k = common.active(path, config, d_sae)
    if d_sae % k:
        raise StoreError(f"{path} says k={k} groups of d_sae={d_sae} latents; d_sae must be a multiple of k: the file is damaged")
    return k


def _matching_pursuit(path: Path, config: Mapping[str, Any], tensors: Tensors, scale: float) -> SparseAutoencoder:
    """Tied: the atoms are the encoder. Under an input scale SAELens keeps the atoms and rescales what is compared to rows."""
    atoms, bias = tensors["W_dec"], tensors["b_dec"] / scale
    if not config.get("apply_b_dec_to_input", True):
        bias = torch.zeros_like(bias)
    most = config.get("max_iterations")
    whole = {"W_enc": atoms.T, "W_dec": atoms, "b_enc": torch.zeros(len(atoms)), "b_dec": bias}
    return common.build(
        path,
        whole,
        lambda: MatchingPursuit(
            atoms,
            residual_threshold=common.number(path, config, "residual_threshold", 1e-2) / scale,
            max_iterations=atoms.shape[1] if most is None else common.size(path, config, "max_iterations"),
            stop_on_duplicate_support=bool(config.get("stop_on_duplicate_support", True)),
        ),
    )


def _trained_as(kind: str, config: Mapping[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata, with how a training checkpoint was trained, as SAELens's inference save would note it."""
    if kind not in _BATCH or "training_architecture" in metadata:
        return metadata
    details = {key: config[key] for key in ("k", "matryoshka_widths") if key in config}
    return {**metadata, "training_architecture": kind, "training_architecture_details": details}
