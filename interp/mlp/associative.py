"""How much a memory of keys and values can hold: linear, attention and MLP memories side by side.

All three answer a query q from pairs (kᵢ, vᵢ); they differ in how sharply they tell keys apart:

    linear       v̂ = q W, with W = Σ kᵢ vᵢᵀ (Hebbian) or the least-squares W
    attention    v̂ = Σ softmaxᵢ(q·kᵢ / T) vᵢ, the modern Hopfield network (Ramsauer et al. 2020, arXiv:2008.02217, eq. 3)
    MLP          v̂ = Σ relu((q·kᵢ − θ) / (1 − θ)) vᵢ, a layer with one neuron per key

Must not know: models, figures, reports.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import ConfigError


def unit_vectors(n: int, d: int, *, seed: int) -> Float[Tensor, "n d"]:
    """n directions, uniform on the sphere in d dimensions."""
    drawn = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=1, keepdim=True)


def hebbian(keys: Float[Tensor, "key d"], values: Float[Tensor, "key d_value"]) -> Float[Tensor, "d d_value"]:
    """W = Σ kᵢ vᵢᵀ: one outer product per pair."""
    return keys.T @ values


def least_squares(keys: Float[Tensor, "key d"], values: Float[Tensor, "key d_value"]) -> Float[Tensor, "d d_value"]:
    """The W of least norm among those with the smallest Σ ‖kᵢW − vᵢ‖²: the pseudoinverse."""
    return torch.linalg.pinv(keys) @ values


def attend(
    queries: Float[Tensor, "query d"],
    keys: Float[Tensor, "key d"],
    values: Float[Tensor, "key d_value"],
    *,
    temperature: float,
) -> Float[Tensor, "query d_value"]:
    """The attention memory. Raises ConfigError unless the temperature is above 0."""
    if temperature <= 0:
        raise ConfigError(f"temperature={temperature:g} must be above 0")
    return (queries @ keys.T / temperature).softmax(-1) @ values


def fire(
    queries: Float[Tensor, "query d"], keys: Float[Tensor, "key d"], values: Float[Tensor, "key d_value"], *, threshold: float
) -> Float[Tensor, "query d_value"]:
    """The MLP memory: exact for unit keys whose coherence is at most the threshold θ. Raises ConfigError unless θ < 1."""
    if threshold >= 1:
        raise ConfigError(f"threshold={threshold:g} silences every neuron; use one below 1, such as the keys' coherence")
    return torch.relu((queries @ keys.T - threshold) / (1 - threshold)) @ values


def expected_error(n: int, d: int, *, rule: str) -> float:
    """E‖v̂ − v‖² / E‖v‖² of n random unit keys with independent values of mean zero, asked for exactly.

    hebbian: (n − 1)/d, since each other key adds its squared cosine, 1/d on average (Kohonen 1972). least_squares:
    max(0, 1 − d/n), the share of the values outside the span of the keys' columns.
    """
    if rule == "hebbian":
        return (n - 1) / d
    if rule == "least_squares":
        return max(0.0, 1 - d / n)
    raise ConfigError(f"no rule {rule!r}; choose from hebbian, least_squares")


def attention_error_bound(n: int, gap: float, temperature: float) -> float:
    """1 − p of the right key is at most (n − 1) e^(−gap/T), where every other key scores at least `gap` less."""
    return (n - 1) * math.exp(-gap / temperature)


def error(read: Float[Tensor, "query d_value"], values: Float[Tensor, "query d_value"]) -> Float[Tensor, " query"]:
    """‖v̂ − v‖² of every query over the mean ‖v‖²."""
    return (read - values).square().sum(1) / values.square().sum(1).mean()


def retrieved(read: Float[Tensor, "query d_value"], values: Float[Tensor, "query d_value"]) -> Float[Tensor, " query"]:
    """1 where what was read has the largest product with its own value among all stored values, else 0."""
    return ((read @ values.T).argmax(1) == torch.arange(len(values))).float()
