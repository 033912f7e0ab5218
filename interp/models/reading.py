"""How well a model reads text: the loss of every token of packed documents, and what is written on the shipped model's card.

Must not know: analyses, reports.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from interp.models.hooked import SHIPPED, Model
from interp.text.packing import TokenBatch


def token_losses(model: Model, batches: Iterable[TokenBatch]) -> tuple[Float[Tensor, " token"], Int[Tensor, " token"]]:
    """Loss of every predicted text token in nats, and its document; first tokens of rows, BOS and padding are not predicted."""
    losses, documents = [], []
    for batch in batches:
        counts = batch.is_text[:, 1:]
        logits = model.run(batch.tokens).logits[:, :-1].cpu().float()
        losses.append(F.cross_entropy(logits[counts], batch.tokens[:, 1:][counts], reduction="none"))
        documents.append(batch.document[:, 1:][counts])
    return torch.cat(losses), torch.cat(documents)


def card(name: str) -> dict[str, Any]:
    """What the training script wrote about a shipped model: recipe, seed, corpus, losses and curves along training."""
    return json.loads((SHIPPED[name] / "card.json").read_text(encoding="utf-8"))
