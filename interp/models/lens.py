"""The one door to TransformerLens: its hooks, its native models, its bridges. No other module imports it.

Must not know: what a `Model` does with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import transformers
from torch import nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.hook_points import HookPoint
from transformer_lens.HookedRootModule import HookedRootModule
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components import AttentionBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformer_lens.model_bridge.sources.native import NativeModel, initialize_native_model

from interp.errors import ModelError
from interp.names import did_you_mean

__all__ = [
    "HookPoint",
    "HookedRootModule",
    "NativeModel",
    "TransformerBridge",
    "bridged",
    "native_config",
    "native_module",
    "native_names",
    "opaque_attentions",
    "why_off",
]

_SWITCHES = {
    "hook_result": "use_attn_result",
    "hook_attn_in": "use_attn_in",
    "hook_mlp_in": "use_hook_mlp_in",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
}
_IGNORED_BY_NATIVE = ("tie_word_embeddings", "parallel_attn_mlp", "num_experts", "use_local_attn", "use_attn_result")
_NOT_ARCHITECTURE = {"device", "dtype", "seed", "architecture", "model_name", "n_params", "n_devices"}


def native_module(config: dict[str, Any], seed: int) -> NativeModel:
    """A bare native model (no hooks, in training mode) with fresh weights, by the fields of `TransformerBridgeConfig`.

    Raises ModelError for fields that do not exist and for those that native models silently ignore.
    """
    known = TransformerBridgeConfig(d_model=1, d_head=1, n_layers=1, n_ctx=1, n_heads=1).to_dict()
    unknown = [f"{name!r}{did_you_mean(name, known)}" for name in config if name not in known]
    if unknown:
        raise ModelError(f"no field {', no field '.join(unknown)}")
    ignored = [name for name in _IGNORED_BY_NATIVE if config.get(name)]
    if ignored:
        raise ModelError(f"native models ignore {', '.join(ignored)}; leave them out")
    try:
        cfg = TransformerBridgeConfig(**{**config, "seed": None})  # with a seed it would seed torch, numpy and random globally
        with torch.random.fork_rng(devices=[]):
            module = NativeModel(cfg)
        initialize_native_model(module, cfg, seed)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ModelError(f"bad architecture: {error}") from None
    return module


def native_config(module: Any) -> dict[str, Any]:
    """The fields of a native module that make the architecture: those that differ from the defaults."""
    cfg = module.cfg
    needed = {name: getattr(cfg, name) for name in ("d_model", "d_head", "n_layers", "n_ctx", "n_heads", "d_vocab", "d_mlp")}
    default = TransformerBridgeConfig(**needed).to_dict()
    given = {name: value for name, value in cfg.to_dict().items() if name in default and value != default[name]}
    return needed | {name: value for name, value in given.items() if name not in _NOT_ARCHITECTURE}


def native_names(module: Any) -> list[str]:
    """The names in a native module's state before anything wrapped its parts."""
    with torch.device("meta"):
        return list(NativeModel(module.cfg).state_dict())


def bridged(module: nn.Module, name: str) -> TransformerBridge:
    """A bare module with hooks on its parts, in place; a Hugging Face model computes its attention eagerly from then on.

    Raises ModelError for a module that TransformerLens has no bridge for, or that was bridged before.
    """
    if isinstance(module, NativeModel):
        return build_bridge_from_module(module, "TransformerLensNative", tl_config=module.cfg, model_name=name)
    if not isinstance(module, transformers.PreTrainedModel):
        kinds = "a TransformerBridge, a HookedRootModule, a Hugging Face model or a native model"
        raise ModelError(f"cannot wrap a {type(module).__name__}; give {kinds}")
    if any(isinstance(part, GeneralizedComponent) for part in module.modules()):
        raise ModelError(f"this {type(module).__name__} has been bridged before; wrap its bridge")
    module.set_attn_implementation("eager")
    try:
        with torch.random.fork_rng(devices=[]):  # parts that split a weight draw random ones first
            return build_bridge_from_module(module, type(module).__name__, hf_config=module.config, model_name=name)
    except ValueError as error:
        raise ModelError(f"TransformerLens has no bridge for {type(module).__name__}: {str(error).splitlines()[0]}") from None


def opaque_attentions(parts: Iterable[nn.Module]) -> list[Any]:
    """The bridged attentions among `parts` whose scores and patterns Hugging Face computes out of sight of their hooks."""
    return [
        part
        for part in parts
        if isinstance(part, AttentionBridge)
        and type(part).forward is AttentionBridge.forward
        and not getattr(part.original_component, "accepts_pattern_fn", False)
    ]


def why_off(name: str) -> str | None:
    """How to switch on a hook that TransformerLens has off by default; None for all others."""
    switch = _SWITCHES.get(name.rpartition(".")[2])
    return f"switch it on with bridge.set_{switch}(True) and wrap the bridge again" if switch else None
