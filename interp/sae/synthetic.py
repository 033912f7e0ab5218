"""Planted features: activations whose true dictionary and codes are known, for tests and for calibration.

    x = Σ_i on_i · magnitude_i · G_i + noise,   on_i ~ Bernoulli(p_i),  magnitude_i ~ U(0.5, 1.5),  G_i random unit directions

Must not know: models, training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from interp.errors import ConfigError
from interp.stats import torch_seed


@dataclass(frozen=True)
class Planted:
    """A known dictionary and how often each of its features fires."""

    dictionary: Float[Tensor, "feature d"]  # unit rows
    probability: Float[Tensor, "feature"]
    noise: float  # expected norm of the noise added to a row

    def sample(self, rows: int, generator: torch.Generator) -> tuple[Float[Tensor, "row d"], Float[Tensor, "row feature"]]:
        """Rows and their true codes."""
        shape = (rows, len(self.probability))
        on = torch.rand(shape, generator=generator) < self.probability
        codes = on * (torch.rand(shape, generator=generator) + 0.5)
        x = codes @ self.dictionary
        return x + torch.randn(x.shape, generator=generator) * self.noise / x.shape[1] ** 0.5, codes

    def batches(self, rows: int, count: int, *, seed: int = 0) -> Iterator[Float[Tensor, "row d"]]:
        """`count` batches of rows; the same seed gives the same rows."""
        generator = torch.Generator().manual_seed(torch_seed(seed, "planted rows"))
        for _ in range(count):
            yield self.sample(rows, generator)[0]


def planted(n: int, d: int, *, commonest: float = 0.05, rarest: float = 0.002, noise: float = 0.0, seed: int = 0) -> Planted:
    """`n` features in `d` dimensions whose firing probabilities fall as a power law from `commonest` to `rarest`."""
    if not 0 < rarest <= commonest <= 1:
        raise ConfigError(
            f"firing probabilities from {commonest} down to {rarest} are not ordered within (0, 1]; swap or shrink them"
        )
    generator = torch.Generator().manual_seed(torch_seed(seed, "planted dictionary"))
    dictionary = F.normalize(torch.randn(n, d, generator=generator), dim=1)
    exponent = torch.arange(1, n + 1).double().log() / math.log(max(n, 2))
    return Planted(dictionary, (commonest * (rarest / commonest) ** exponent).float(), noise)
