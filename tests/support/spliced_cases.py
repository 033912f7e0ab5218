"""A tiny random model, some tokens of it, and an autoencoder that fits its hooks."""

import torch

from interp.models.hooked import Model
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder

TINY = {"d_model": 16, "d_head": 8, "n_heads": 2, "n_layers": 2, "n_ctx": 12, "d_vocab": 20, "d_mlp": 32, "act_fn": "gelu"}


def tiny_model(size):
    """Two layers, their fresh weights made `size` times larger: fresh ones hardly do anything."""
    model = Model.native(TINY, seed=0)
    with torch.no_grad():
        for parameter in model.bridge.parameters():
            parameter.mul_(size)
    return model


def tiny_tokens():
    return torch.randint(0, 20, (3, 10), generator=torch.Generator().manual_seed(0))


def most_of(tokens):
    """All positions but the first, and but the end of the last row."""
    marked = torch.ones_like(tokens, dtype=torch.bool)
    marked[:, 0] = False
    marked[2, 6:] = False
    return marked


def made(activation=None, seed=1, **options):
    """An autoencoder (a transcoder with d_out=16) whose every part does something."""
    sae = SparseAutoencoder(16, 40, activation=activation or TopK(4), seed=seed, **options)
    with torch.no_grad():
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(2))
        sae.scale.fill_(0.5)
        sae.scale_out.fill_(0.25 if sae.transcodes else 0.5)
        if sae.W_skip is not None:
            sae.W_skip.normal_(generator=torch.Generator().manual_seed(3))
    return sae
