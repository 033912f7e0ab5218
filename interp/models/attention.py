"""Attention whose scores and pattern can be edited, for models that leave their attention to Hugging Face.

There, TransformerLens fires `hook_pattern` on weights that have already been used, so edits do nothing, and
`hook_attn_scores` on the pattern once more. Here both fire inside the computation,

    scores = q kᵀ · scaling + bias + mask,   pattern = softmax(scores),   z = pattern v,

in place of Hugging Face's attention function and for the length of one run. Whether a model's own attention is this and
nothing more (no soft cap, no sinks) is tested by comparing outputs.

Must not know: TransformerLens, names of hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import AttentionInterface

from interp.models.runs import HookPoint

_NAME = "interp_hooked"
_SITE = "_interp_site"


@dataclass(frozen=True)
class Site:
    """One attention: the modules that may call the attention function, and the hook points to fire inside it."""

    modules: tuple[nn.Module, ...]
    scores: HookPoint
    pattern: HookPoint


@contextmanager
def live(sites: Sequence[Site], configs: Sequence[Any]) -> Iterator[None]:
    """Within the block, attention in `sites` fires its hooks as it computes. `configs` are the models' own, put back after."""
    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, eager_mask)
    before = [config._attn_implementation_internal for config in configs]
    for site in sites:
        for module in site.modules:
            module.__dict__[_SITE] = site
    for config in configs:
        config._attn_implementation_internal = _NAME
    try:
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation_internal = name
        for site in sites:
            for module in site.modules:
                del module.__dict__[_SITE]


def changes_nothing(sites: Sequence[Site], configs: Sequence[Any], output: Callable[[], Tensor]) -> bool:
    """Whether a model's output is the same, to rounding, when its attention is computed here."""
    before = output()
    with live(sites, configs):
        after = output()
    tolerance = 1e-4 if before.dtype in (torch.float32, torch.float64) else 3e-2
    return torch.allclose(before, after, rtol=tolerance, atol=tolerance * float(before.abs().max()))


def configs_of(modules: Iterable[nn.Module]) -> list[Any]:
    """The different configurations that choose the attention function of `modules`."""
    found = {id(config): config for module in modules if (config := getattr(module, "config", None)) is not None}
    return [config for config in found.values() if hasattr(config, "_attn_implementation_internal")]


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor | None]:
    """Hugging Face's attention interface: z as [batch pos head d_head], and no weights, which have been through the hooks."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if position_bias is not None:
        scores = scores + position_bias
    if attention_mask is not None:
        scores = scores + attention_mask[..., : key.shape[-2]]
    site = module.__dict__.get(_SITE)
    if site is not None:
        scores = site.scores(scores)
    pattern = torch.softmax(scores, -1)
    if site is not None:
        pattern = site.pattern(pattern)
    return (pattern @ value).transpose(1, 2).contiguous(), None
