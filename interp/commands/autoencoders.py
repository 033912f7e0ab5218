"""An autoencoder on disk with what it takes to look at it: the model it was made for, and a labelled text it reads there.

What `interp eval-sae` and `interp features` have in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from interp import experiment
from interp.activations import ActivationBatch, harvest
from interp.errors import ConfigError
from interp.models.hooked import Model
from interp.sae import formats
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.batches import rows_of
from interp.text import resolve
from interp.text.labelled import LabelledText


@dataclass(frozen=True)
class Subject:
    """An autoencoder, its model, a text, and the activations that it reads there (and writes, where that is another hook)."""

    sae: SparseAutoencoder
    model: Model
    hooks: tuple[str, ...]  # what it reads
    target: str | None  # what it writes, if that is not what it reads
    text: LabelledText
    seen: list[ActivationBatch]
    trained_on: bool  # whether it was trained on this very corpus

    @property
    def warning(self) -> str:
        """What a reader must know of the text."""
        told = "The autoencoder was trained on this very corpus; give another --corpus to see how it does on new text."
        return told if self.trained_on else ""

    @property
    def rows(self) -> Tensor:
        """What it reads on every token of the text."""
        return rows_of_all(self.seen, self.hooks)


def rows_of_all(seen: list[ActivationBatch], hooks: tuple[str, ...]) -> Tensor:
    """The rows of all batches, several hooks laid side by side."""
    import torch

    return torch.cat([rows_of(batch, hooks) for batch in seen])


def opened(
    saved: formats.Saved,
    folder: Path,
    *,
    model: str | None,
    hook: tuple[str, ...],
    target: str | None,
    corpus: str,
    max_tokens: int,
    device: str,
) -> Subject:
    """Loads the model of an autoencoder from `folder` and reads the text once; what is None or empty comes from its metadata.

    Raises StoreError for another model than the one it was trained on, ConfigError where neither flags nor metadata name a model
    and hook.
    """
    made = saved.metadata
    name, hooks = model or made.get("model_name"), hook or tuple(made.get("hook_names") or ()) or _one(made.get("hook_name"))
    if not name or not hooks:
        raise ConfigError(f"{folder} does not say which model and hook it was trained on; give --model and --hook")
    loaded = Model.load(name, device=device)
    if model is None:
        formats.check_made_for(folder, made, model_fingerprint=loaded.fingerprint)
    tokenizer = loaded.tokenizer
    if tokenizer is None:
        raise ConfigError(f"{name} has no tokenizer here, so it cannot read --corpus {corpus}")
    target = target or made.get("hook_name_out")
    target = None if (target,) == hooks else target
    texts = resolve(corpus).up_to(max_tokens, tokenizer)
    experiment.source(f"model {loaded.name}", loaded.fingerprint)
    experiment.source(f"corpus {texts.name}", texts.revision)
    with experiment.stage("read the text"):
        text = LabelledText.read(texts, tokenizer, context=min(loaded.n_ctx, int(made.get("context_size") or loaded.n_ctx)))
        read = dict.fromkeys((*hooks, *_one(target)))
        seen = list(harvest(loaded, text.batches, list(read)))
    trained_on = made.get("dataset_revision") == texts.revision
    return Subject(saved.sae.to(device), loaded, hooks, target, text, seen, trained_on)


def _one(value: Any) -> tuple[Any, ...]:
    return () if value is None else (value,)
