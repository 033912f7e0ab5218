"""Weights by TransformerLens's names and shapes.

    W_E [d_vocab d_model] · W_pos [n_ctx d_model] · W_U [d_model d_vocab] · W_Q, W_K, W_V [head d_model d_head] ·
    W_O [head d_head d_model] · W_in, W_gate [d_model d_mlp] · W_out [d_mlp d_model] ·
    b_Q, b_K, b_V [head d_head] · b_O, b_out [d_model] · b_in [d_mlp] · b_U [d_vocab]

With grouped queries W_K, W_V, b_K and b_V have one entry per key-value head; query head h reads entry h // (heads per group).
Must not know: TransformerLens, model families.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from interp.errors import ModelError
from interp.names import did_you_mean

_TOP = ("W_E", "W_U", "W_pos", "b_U")
_IN_BLOCK = {
    "attn": ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O"),
    "mlp": ("W_in", "W_gate", "W_out", "b_in", "b_out"),
    "ln1": ("w", "b"),
    "ln2": ("w", "b"),
}


class Size:
    """An attribute of a model: a number from its configuration."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, model: Any, owner: type) -> int:
        return size(model, self.name)


class Stacked:
    """An attribute of a model: one weight of every block, stacked on a leading layer axis."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __get__(self, model: Any, owner: type) -> Tensor:
        return torch.stack([model.weight(f"blocks.{layer}.{self.path}") for layer in range(model.n_layers)])


class Single:
    """An attribute of a model: one of the weights outside the blocks."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, model: Any, owner: type) -> Tensor:
        return model.weight(self.name)


def size(model: Any, name: str) -> int:
    """The number `name` in the model's configuration. Raises ModelError if it does not say."""
    value = getattr(getattr(model.bridge, "cfg", None), name, None)
    if value is None:
        raise ModelError(f"{model.name} has no {name}: its configuration does not say")
    return int(value)


def weight(bridge: Any, name: str) -> Tensor:
    """The weight called `name`, without gradient and sharing memory with the model. Raises ModelError if there is none."""
    value = _at(bridge, name)
    if not isinstance(value, Tensor):
        near = did_you_mean(name, [known for known in _names(bridge) if known != name])
        raise ModelError(f"this model has no weight {name!r}{near}")
    return value.detach()


def part(bridge: Any, name: str) -> nn.Module:
    """The part of the model called `name`. Raises ModelError if there is none."""
    value = _at(bridge, name)
    if not isinstance(value, nn.Module):
        names = list(dict.fromkeys(hook.rpartition(".")[0] for hook in bridge.hook_dict))
        raise ModelError(f"this model has no part {name!r}{did_you_mean(name, names)}")
    return value


def _at(bridge: Any, name: str) -> Any:
    """What stands at a dotted path; None where there is nothing."""
    value: Any = bridge
    for step in name.split("."):
        try:
            value = value[int(step)] if step.isdigit() else getattr(value, step)
        except (AttributeError, IndexError, TypeError):
            return None
    return value


def _names(bridge: Any) -> list[str]:
    names: list[str] = [*_TOP]
    for stack in ("blocks", "encoder_blocks", "decoder_blocks"):
        for layer, block in enumerate(getattr(bridge, stack, None) or []):
            for part in block._modules:
                kind = "attn" if part.endswith("attn") else part
                names += [f"{stack}.{layer}.{part}.{leaf}" for leaf in _IN_BLOCK.get(kind, ())]
    return names
