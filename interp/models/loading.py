"""How a bare module is built from its recipe, and where a name leads: our own folders, and the hub when nothing else has it.

Must not know: TransformerLens, hooks, what a `Model` is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from interp.errors import ModelError
from interp.models import huggingface, storage
from interp.models.lens import native_module
from interp.models.transformer import TransformerConfig, transformer
from interp.names import did_you_mean

CARD = "card.json"
Recipe = Literal["native", "huggingface", "transformer"]
"""Whose module it is: TransformerLens's native one, Hugging Face's, or ours."""


def build(recipe: Recipe, kind: str, config: dict[str, Any], seed: int) -> nn.Module:
    """A bare module with fresh weights: of a native configuration, of a Hugging Face class `kind`, or a Transformer of ours."""
    if recipe == "native":
        return native_module(config, seed)
    if recipe == "huggingface":
        return huggingface.build(kind, config, seed=seed)
    return transformer(TransformerConfig.of(config), seed)


def stored(folder: Path) -> nn.Module | None:
    """The bare model in a folder of ours, in evaluation mode, or None if the folder is none: `card.json` beside weights in
    half precision (as models ship; loaded as float32), or what `Model.save` writes (loaded in its own dtype)."""
    if (folder / CARD).is_file():
        card = storage.read_json(folder / CARD)
        module = build("native", "", card["architecture"], 0)
        storage.fill(module, storage.read_weights(folder, card["weights_sha256"]), {})
        return module.eval()
    if (folder / storage.RECORD).is_file():
        record, state = storage.read(folder)
        module = build(record["kind"], record["class"], record["config"], 0).to(getattr(torch, record["dtype"]))
        storage.fill(module, state, record["ties"])
        return module.eval()
    return None


def require_hub(name: str, known: Sequence[str], *, revision: str | None) -> None:
    """Raises ModelError, with all that could have been meant, unless the hub or its cache has the model."""
    why = huggingface.why_unreachable(name, revision=revision)
    if why is not None:
        ours = f"not one of the package's ({', '.join(known)})"
        raise ModelError(f"no model {name!r}{did_you_mean(name, known)}: {ours}, not a folder, and {why}")
