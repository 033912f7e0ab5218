"""Addition modulo p: the task of grokking (Power et al. 2022, arXiv:2201.02177; Nanda et al. 2023, arXiv:2301.05217).

    a b =  →  (a + b) mod p                tokens 0 … p − 1 are numbers, p is "="

Must not know: models.
"""

from __future__ import annotations

import torch

from interp.errors import ConfigError
from interp.tasks.answered import Answered
from interp.tasks.contrast import Contrast


def additions(p: int) -> Answered:
    """All p² sums in order of (a, b), asked for at "=". Raises ConfigError for p < 2."""
    if p < 2:
        raise ConfigError(f"p={p} leaves nothing to add; use 2 or more")
    a, b = torch.cartesian_prod(torch.arange(p), torch.arange(p)).unbind(1)
    return Answered(tokens=torch.stack([a, b, torch.full_like(a, p)], 1), answers=(a + b) % p, position=2)


def split(every: Answered, share: float, *, generator: torch.Generator) -> tuple[Answered, Answered]:
    """A random `share` of the examples to train on, and the rest. Raises ConfigError when either would be empty."""
    kept = round(share * len(every))
    if not 0 < kept < len(every):
        raise ConfigError(f"share={share} of {len(every)} examples leaves one part empty; use a share between 0 and 1")
    order = torch.randperm(len(every), generator=generator)
    return every[order[:kept]], every[order[kept:]]


def addition_contrast(n: int, p: int, *, generator: torch.Generator) -> Contrast:
    """Random sums, and twins with another first number, which have another answer. Raises ConfigError for p < 2."""
    every = additions(p)
    rows = torch.randint(p * p, (n,), generator=generator)
    other = (rows + p * torch.randint(1, p, (n,), generator=generator)) % (p * p)
    return every[rows].against(every[other])
