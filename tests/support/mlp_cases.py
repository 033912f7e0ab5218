"""Models with MLPs of every kind, and a text whose labels are known because they were written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from model_shapes import GATED, NATIVE, case_of

from interp.models.hooked import Model
from interp.text.labelled import LabelledText
from interp.text.packing import TokenBatch

KINDS = {
    "gelu": NATIVE,
    "relu": NATIVE | {"act_fn": "relu"},
    "solu": NATIVE | {"act_fn": "solu_ln"},
    "gated": GATED,
    "no norms": NATIVE | {"normalization_type": None},
    "attention-only": NATIVE | {"attn_only": True},
}


def model_of(kind: str) -> Model:
    """A random native model of one of `KINDS`, or a Hugging Face model of `model_shapes`; norms have gains of their own."""
    if kind not in KINDS:
        return case_of(kind).model
    model = Model.native(KINDS[kind], seed=0, name=kind)
    with torch.no_grad():
        for norm in [block.ln2 for block in model.bridge.blocks if hasattr(block, "ln2")] + [model.bridge.ln_final]:
            if getattr(norm, "weight", None) is not None:
                norm.weight.add_(torch.linspace(-0.5, 0.5, 16))
    return model


def tokens(rows: int = 2, context: int = 7) -> torch.Tensor:
    """Random tokens of these models."""
    return torch.randint(3, 50, (rows, context), generator=torch.Generator().manual_seed(1))


def batch_of(tokens: torch.Tensor) -> TokenBatch:
    """Rows that are a document each, without BOS."""
    document = torch.arange(len(tokens))[:, None].expand(tokens.shape)
    position = torch.arange(tokens.shape[1]).expand(tokens.shape)
    is_text = torch.ones_like(tokens, dtype=torch.bool)
    return TokenBatch(tokens, document, position, position, position + 1, is_text, ~is_text)


def text_of(
    documents: Sequence[Sequence[int] | np.ndarray], labels: Mapping[str, np.ndarray], *, d_vocab: int = 50
) -> LabelledText:
    """A text of these tokens; labels have one value per token, document after document."""
    lengths = [len(document) for document in documents]
    return LabelledText(
        batches=[],
        tokens=np.concatenate([np.asarray(document) for document in documents]),
        document=np.repeat(np.arange(len(documents)), lengths),
        position=np.concatenate([np.arange(length) for length in lengths]),
        labels=dict(labels),
        first=np.append(0, np.cumsum(lengths)),
        names=tuple(f"document {i}" for i in range(len(documents))),
        vocabulary=[f"t{i}" for i in range(d_vocab)],
    )
