"""A model of three lines to harvest from, and rows to fill stores with."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from interp.activations import ActivationBatch, Header
from interp.errors import HookError
from interp.text.packing import TokenBatch

HOOK, HEADS = "blocks.0.hook_resid_post", "blocks.0.attn.hook_z"


class FakeModel:
    """Activations are functions of the token: `HOOK` holds token + dimension / 10, `HEADS` holds token + head, alike over
    d_head."""

    name, fingerprint, kind, n_ctx, d_vocab, tokenizer = "fake", "f" * 64, "decoder", 16, 300, None

    def __init__(self) -> None:
        self.runs: list[tuple[str, ...]] = []
        self.inputs: list[dict] = []

    def resolve(self, names):
        if wrong := [name for name in names if name not in (HOOK, HEADS, "hook_pos_embed", "ln_final.hook_scale")]:
            raise HookError(f"no hook {wrong[0]}")

    def run(self, tokens, *, read, **inputs):
        self.runs.append(tuple(read))
        self.inputs.append(inputs)
        token = tokens.float()
        known = {
            HOOK: token[:, :, None] + torch.arange(6) / 10,
            HEADS: (token[:, :, None] + torch.arange(3))[..., None].expand(-1, -1, -1, 4),
            "hook_pos_embed": torch.zeros(1, tokens.shape[1], 6),
            "ln_final.hook_scale": token,
        }
        return SimpleNamespace(activations={name: known[name] for name in read})

    def probe_inputs(self):
        raise AssertionError("a decoder's rows are its tokens: there is nothing to probe")


def token_batch(rows: int = 2, context: int = 8, *, first_document: int = 0, padding: int = 0) -> TokenBatch:
    """BOS and then one document per row; the last `padding` tokens of the last row are padding."""
    position = torch.arange(context).expand(rows, -1) - 1
    document = torch.arange(first_document, first_document + rows)[:, None].expand(-1, context).clone()
    is_padding = torch.zeros(rows, context, dtype=torch.bool)
    is_padding[-1, context - padding :] = True
    is_text = (position >= 0) & ~is_padding
    document[~is_text] = -1
    tokens = torch.where(is_text, 10 * document + position, 0)
    return TokenBatch(tokens, document, torch.where(is_text, position, -1), position, position + 1, is_text, is_padding)


def rows_of(count: int, *, first: int = 0, d: int = 6, context: int = 16) -> ActivationBatch:
    """`count` rows of a store; row i holds i in every dimension of `HOOK` and its negative in `HEADS`, and comes from document
    i // context."""
    index = torch.arange(first, first + count)
    values = index.float()[:, None]
    return ActivationBatch(
        activations={HOOK: values.expand(-1, d), HEADS: -values.expand(-1, 12)},
        tokens=index % 251,
        document=index // context,
        position=index % context,
        shapes={HOOK: (d,), HEADS: (3, 4)},
    )


def batches_of(total: int, *, batch: int = 100) -> list[ActivationBatch]:
    """Rows 0 … total − 1 in batches."""
    return [rows_of(min(batch, total - first), first=first) for first in range(0, total, batch)]


HEADER = Header(
    model="fake", model_fingerprint="f" * 64, tokenizer_fingerprint="a" * 64, hooks=(HOOK, HEADS), context=16, corpus="numbers"
)
SHARD = 100 * 18 * 4
"""Bytes of 100 rows of both hooks: with batches of 100 rows, one shard per batch."""
