"""Mixtures of experts of every kind that is served: Hugging Face's and our own, with one, two or all experts for a token."""

from functools import cache
from typing import Any

import torch
import transformers
from model_shapes import HF, OWN

from interp.models.hooked import Model
from interp.models.transformer import TransformerConfig, transformer

HUGGING = {
    "mixtral": {},
    "qwen2moe": {},  # all four experts for every token
    "qwen2moe, 2 of 4": {"num_experts_per_tok": 2},
}
OURS = {"top-1": {"experts_per_token": 1}, "top-2": {"experts_per_token": 2}}
KINDS = [*HUGGING, *OURS]
PER_TOKEN = {"mixtral": 2, "qwen2moe": 4, "qwen2moe, 2 of 4": 2, "top-1": 1, "top-2": 2}


def module_of(kind, **sizes) -> Any:
    """The bare module, shaken so that routers are sure of something; the same every time."""
    if kind in OURS:
        values = OWN | {"kind": "decoder", "mlp": "experts"} | OURS[kind] | sizes
        module = transformer(TransformerConfig.of(values), seed=0)
    else:
        name, config = HF[kind.partition(",")[0]]
        cls = getattr(transformers, name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = cls(cls.config_class(**config | HUGGING[kind] | sizes))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


@cache
def model_of(kind):
    """The model that all tests share, whose weights stay as they are."""
    return wrapped(kind, module_of(kind))


def wrapped(kind, module=None):
    """A model of one's own."""
    return Model.wrap(module_of(kind) if module is None else module, name=kind)


def tokens_of(rows=3, context=9):
    return torch.randint(3, 50, (rows, context), generator=torch.Generator().manual_seed(1))
