"""Functions of one or two numbers modulo p, and the frequencies they are made of.

A network that adds modulo p turns each number into an angle, 2πka/p for a few frequencies k, adds angles, and compares the sum
with that of every answer (Nanda et al. 2023, arXiv:2301.05217; Gromov 2023, arXiv:2301.02679):

    logit(c | a, b) ≈ Σ_k α_k cos(w_k (a + b − c)),     w_k = 2πk/p

Frequencies are 1 … (p − 1)/2, for odd p; k and p − k are the same. Everything here takes tensors whose first one or two axes run
over all numbers. Must not know: models, where the tensors come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError


def basis(p: int) -> Float[Tensor, "row p"]:
    """An orthonormal basis, in float64: the constant, then cos(w_k a) and sin(w_k a) for k = 1, 2, …

    Rows 2k − 1 and 2k belong to frequency k. Raises ConfigError for even p, where the last sine is 0, and for p < 3.
    """
    if p < 3 or p % 2 == 0:
        raise ConfigError(f"p={p}: frequencies come in pairs of cosine and sine for odd p from 3 on; use {max(3, p + 1)}")
    angles = 2 * torch.pi / p * torch.outer(torch.arange(1, p // 2 + 1), torch.arange(p)).double()
    waves = torch.stack([angles.cos(), angles.sin()], 1).flatten(0, 1) * (2 / p) ** 0.5
    return torch.cat([torch.full((1, p), p**-0.5, dtype=torch.float64), waves])


def power(table: Float[Tensor, "p column"]) -> Float[Tensor, " frequency"]:
    """Squares of a table's components along each frequency 1, 2, …, summed over columns. The constant has no part in it."""
    found = (basis(len(table)) @ table.double()).square().sum(1)[1:]
    return found.unflatten(0, (-1, 2)).sum(1)


def strongest(power: Float[Tensor, " frequency"], share: float) -> list[int]:
    """The fewest frequencies that carry `share` of the power, in order. Raises ConfigError for a share outside 0 … 1."""
    if not 0 < share <= 1:
        raise ConfigError(f"share={share} of the power; use a number above 0, up to 1")
    order = power.argsort(descending=True)
    carried = power[order].cumsum(0) / power.sum()
    needed = min(int((carried < share).sum()) + 1, len(power))
    return sorted((order[:needed] + 1).tolist())


def keep(table: Float[Tensor, "p *rest"], frequencies: Sequence[int]) -> Float[Tensor, "p *rest"]:
    """The part of a table that lies along some frequencies; 0 is the constant."""
    rows = [row for k in frequencies for row in ([0] if k == 0 else [2 * k - 1, 2 * k])]
    waves = basis(len(table))[rows].to(table)
    return torch.tensordot(waves.T @ waves, table, 1)


def along_sum(values: Float[Tensor, "p p *rest"], frequencies: Sequence[int]) -> Float[Tensor, "p p *rest"]:
    """The part of f(a, b) that lies along cos(w_k (a + b)) and sin(w_k (a + b)); 0 is the constant."""
    p = len(values)
    a, b = torch.arange(p)[:, None], torch.arange(p)
    by_sum = values[a, (b - a) % p].mean(0)  # f(a, s − a), mean over a, for every sum s
    return keep(by_sum, frequencies)[(a + b) % p]


def restricted(logits: Float[Tensor, "p p p"], frequencies: Sequence[int]) -> Float[Tensor, "p p p"]:
    """Logits with nothing but the constant and these frequencies of a + b (Nanda et al. 2023, §5.1)."""
    return along_sum(logits, [0, *frequencies])


def excluded(logits: Float[Tensor, "p p p"], frequencies: Sequence[int]) -> Float[Tensor, "p p p"]:
    """Logits without these frequencies of a + b (Nanda et al. 2023, §5.1)."""
    return logits - along_sum(logits, frequencies)


def amplitudes(logits: Float[Tensor, "p p p"]) -> Float[Tensor, " frequency"]:
    """α_k of the least-squares fit Σ_k α_k cos(w_k (a + b − c)) to logits [a b c], for all frequencies."""
    p = len(logits)
    a, c = torch.arange(p)[:, None], torch.arange(p)
    by_sum = torch.stack([logits[a, (s - a) % p, (s - c) % p].mean(0) for s in range(p)]).double().mean(0)
    return basis(p)[1::2] @ by_sum * (2 / p) ** 0.5


def explained(logits: Float[Tensor, "p p p"], frequencies: Sequence[int]) -> float:
    """Share of the variance of logits [a b c] that Σ_k α_k cos(w_k (a + b − c)) explains, over the frequencies given.

    Variance over answers c, for what is added to all answers alike changes nothing.
    """
    p = len(logits)
    total = float((logits - logits.mean(2, keepdim=True)).double().square().sum())
    return float(amplitudes(logits)[[k - 1 for k in frequencies]].square().sum()) * p**3 / 2 / total


def explained_unevenly(logits: Float[Tensor, "p p p"], frequencies: Sequence[int]) -> float:
    """The same with a strength α_k(a, b) for every sum: what `explained` misses by how loud each answer is."""
    p = len(logits)
    a, b, c = torch.arange(p)[:, None, None], torch.arange(p)[:, None], torch.arange(p)
    centred = (logits - logits.mean(2, keepdim=True)).double()
    turned = basis(p)[1::2][:, (a + b - c) % p][[k - 1 for k in frequencies]]  # unit cosines of a + b − c
    return float(torch.einsum("kabc,abc->kab", turned, centred).square().sum() / centred.square().sum())


def neurons(activations: Float[Tensor, "p p neuron"]) -> tuple[Int[Tensor, " neuron"], Float[Tensor, " neuron"]]:
    """Each neuron's frequency, and the share of its variance over (a, b) that lies in waves of that frequency alone.

    Those are cos and sin of w_k a, of w_k b, and their products (Nanda et al. 2023, §4.3). A neuron that never changes has
    frequency 0 and share 0.
    """
    waves = basis(len(activations))
    found = torch.einsum("ia,abn,jb->ijn", waves, activations.double(), waves).square()
    total = found.sum((0, 1)) - found[0, 0]
    pairs = found[1:, 1:].unflatten(0, (-1, 2)).sum(1).unflatten(1, (-1, 2)).sum(2)  # [frequency frequency neuron]
    single = (found[0, 1:] + found[1:, 0]).unflatten(0, (-1, 2)).sum(1)
    shares = (pairs.diagonal(dim1=0, dim2=1).T + single) / total
    best = shares.max(0)
    changes = activations.amax((0, 1)) > activations.amin((0, 1))
    return torch.where(changes, best.indices + 1, 0), torch.where(changes, best.values, 0.0)


def phases(table: Float[Tensor, "p column"], frequencies: Int[Tensor, " column"]) -> Float[Tensor, " column"]:
    """φ of the best fit A cos(w_k a + φ), A > 0, to each column at its own frequency; in radians."""
    p = len(table)
    angles = 2 * torch.pi / p * torch.arange(p, dtype=torch.float64)[:, None] * frequencies
    return torch.atan2(-(table.double() * angles.sin()).sum(0), (table.double() * angles.cos()).sum(0))
