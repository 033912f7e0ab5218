"""Where a name leads: our own folders, and the hub when nothing else has it.

Must not know: TransformerLens. How a model is built is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from interp.errors import ModelError
from interp.models import huggingface, storage
from interp.names import did_you_mean

CARD = "card.json"


Build = Callable[[str, str, dict[str, Any], int], nn.Module]
"""(recipe, class, configuration, seed) -> bare module."""


def stored(folder: Path, build: Build) -> nn.Module | None:
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
