"""More features than dimensions: how nearly orthogonal directions can be, and what a small network makes of it.

Bounds are closed forms; directions are rows [feature d]. The toy model is that of Elhage et al. 2022, "Toy Models of
Superposition" (arXiv:2209.10652), many instances trained at once.

Must not know: language models, autoencoders, figures, reports.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats as distributions
from torch import Tensor
from torch.nn import functional as F

from interp.errors import ConfigError
from interp.stats import torch_generator

_BLOCK = 128
"""Rows whose cosines are taken at a time: so many stay in a processor's cache."""


def jl_dimension(n: int, epsilon: float) -> int:
    """Dimensions in which n points keep all squared distances within a factor 1 ± ε: m = ⌈4 ln n / (ε²/2 − ε³/3)⌉.

    A random projection to so many fails with probability at most 1 − 1/n (Dasgupta & Gupta 2003, theorem 2.1); in practice
    hardly ever, because that proof adds up the failures of all pairs. Raises ConfigError for n < 2 or ε outside (0, 1).
    """
    if n < 2 or not 0 < epsilon < 1:
        raise ConfigError(f"n={n}, epsilon={epsilon}: there must be two points or more, and an error between 0 and 1")
    return math.ceil(4 * math.log(n) / (epsilon**2 / 2 - epsilon**3 / 3))


def distortions(points: Float[np.ndarray, "n d"], images: Float[np.ndarray, "n m"]) -> Float[np.ndarray, " pair"]:
    """‖f(u) − f(v)‖² / ‖u − v‖² − 1 for every pair of points."""
    upper = np.triu_indices(len(points), 1)
    before, after = (_squared_distances(rows)[upper] for rows in (points, images))
    return after / before - 1


def coherence(directions: Float[np.ndarray, "n d"]) -> float:
    """The largest |cosine| between two different rows. Raises ConfigError for fewer than two."""
    if len(directions) < 2:
        raise ConfigError(f"{len(directions)} directions have no coherence; give 2 or more")
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    worst = 0.0
    for start in range(0, len(unit), _BLOCK):
        cosines = unit[start : start + _BLOCK] @ unit[start:].T
        np.fill_diagonal(cosines, 0.0)
        worst = max(worst, float(cosines.max()), -float(cosines.min()))
    return worst


def welch_bound(n: int, d: int) -> float:
    """No n > d directions have a coherence below √((n − d) / (d (n − 1))) (Welch 1974); 0 for n ≤ d."""
    return math.sqrt(max(n - d, 0) / (d * max(n - 1, 1)))


def random_coherence_bound(n: int, d: int, failure: float = 0.01) -> float:
    """The coherence that n random directions keep below with probability 1 − `failure` at least.

    The square of a cosine between two of them is Beta(1/2, (d − 1)/2); the union bound gives each of the n(n − 1)/2 pairs its
    share of the failure.
    """
    return math.sqrt(distributions.beta.isf(failure / (n * (n - 1) / 2), 0.5, (d - 1) / 2))


def simplex(d: int) -> Float[np.ndarray, "n d"]:
    """d + 1 unit vectors in d dimensions, every two with cosine −1/d: they meet the Welch bound."""
    centred = np.eye(d + 1) - 1 / (d + 1)
    basis = np.linalg.svd(centred)[0][:, :d]
    return basis / np.linalg.norm(basis, axis=1, keepdims=True)


def rotation(d: int, *, generator: torch.Generator) -> Float[Tensor, "d d"]:
    """A random rotation or reflection: values times it are read along directions of no particular basis, the same in all."""
    return torch.linalg.qr(torch.randn(d, d, generator=generator)).Q


def interference(
    directions: Float[np.ndarray, "n d"], active: int, *, draws: int, rng: np.random.Generator
) -> Float[np.ndarray, " draw"]:
    """What reading one active feature off a sum of `active` features gets wrong: g₁·Σ sᵢ gᵢ − s₁, with random signs s.

    Of `active` random unit directions its variance is (active − 1)/d.
    """
    chosen = rng.random((draws, len(directions)), dtype=np.float32).argpartition(active - 1, axis=1)[:, :active]
    signs = rng.choice([-1.0, 1.0], size=chosen.shape)
    sums = np.zeros((draws, directions.shape[1]))
    for sign, feature in zip(signs.T, chosen.T, strict=True):  # one at a time: all at once would be `active` times the memory
        sums += sign[:, None] * directions[feature]
    return np.einsum("rd,rd->r", directions[chosen[:, 0]], sums) - signs[:, 0]


def false_alarm_rate(active: int, d: int, threshold: float = 0.5) -> float:
    """How often a silent feature reads above the threshold: Q(threshold · √(d / active)), its readout being N(0, active/d)."""
    return float(distributions.norm.sf(threshold * math.sqrt(d / active)))


START = 0.3
"""Mean length of the starting directions. From 1, one dense model in six stays in a worse arrangement; from 0.3 none does."""


@dataclass(frozen=True)
class Toy:
    """Instances of the toy model after training: x̂ = relu(Wᵀ W x + b), one dictionary W per instance.

    directions: [instance feature hidden], row i what feature i writes. bias: [instance feature].
    loss: [instance] mean over rows of Σ importance (x − x̂)², on fresh rows.
    """

    directions: Float[Tensor, "instance feature hidden"]
    bias: Float[Tensor, "instance feature"]
    loss: Float[Tensor, " instance"]

    @property
    def norms(self) -> Float[Tensor, "instance feature"]:
        """Length of each feature's direction: about 1 where it is represented, about 0 where it is given up."""
        return self.directions.norm(dim=-1)

    @property
    def dimensionality(self) -> Float[Tensor, "instance feature"]:
        """‖Wᵢ‖² / Σⱼ (Ŵᵢ·Wⱼ)², the share of a dimension a feature has: 2/5 in a pentagon, 1/2 in a pair of opposites."""
        unit = F.normalize(self.directions, dim=-1)
        overlap = torch.einsum("ifh,igh->ifg", unit, self.directions).square().sum(-1)
        return self.norms.square() / overlap.clamp_min(1e-12)


def train_toy(
    features: int,
    hidden: int,
    *,
    sparsity: float | Float[Tensor, " instance"],
    instances: int,
    importance: float = 1.0,
    steps: int = 5000,
    batch: int = 1024,
    learning_rate: float = 1e-2,
    seed: int = 0,
) -> Toy:
    """Trains instances of the toy model apart from each other, in one batched computation.

    Features are 0 with probability `sparsity` and uniform on [0, 1] else; feature i has importance `importance`ⁱ in the loss
    Σᵢ importanceⁱ (xᵢ − x̂ᵢ)² (Elhage et al. 2022, "Demonstrating Superposition"). Adam, with a cosine fall of its rate to 0.
    """
    generator = torch_generator(seed, "toy model")
    chance = 1 - torch.as_tensor(sparsity, dtype=torch.float32).expand(instances)[:, None, None]
    weights = importance ** torch.arange(features, dtype=torch.float32)
    directions = (START * torch.randn(instances, features, hidden, generator=generator) / hidden**0.5).requires_grad_()
    bias = torch.zeros(instances, features, requires_grad=True)
    optimizer = torch.optim.Adam([directions, bias], lr=learning_rate, fused=True)

    def losses(rows: int) -> Tensor:
        uniform = torch.rand(2, instances, rows, features, generator=generator)
        x = uniform[0] * (uniform[1] < chance)
        guess = torch.baddbmm(bias[:, None], x @ directions, directions.mT).relu()
        return ((x - guess).square() * weights).sum(-1).mean(-1)

    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        losses(batch).sum().backward()
        optimizer.step()
    with torch.no_grad():
        return Toy(directions.detach(), bias.detach(), losses(8 * batch))


def _squared_distances(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n n"]:
    squares = (rows**2).sum(1)
    return squares[:, None] + squares - 2 * rows @ rows.T
