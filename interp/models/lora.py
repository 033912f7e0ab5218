"""Low-rank adapters on any linear map of any model (Hu et al. 2021, arXiv:2106.09685, §4.1).

    W' = W + (α / r) B A,   A [r d_in] drawn from N(0, 1/d_in),   B [d_out r] zero at first

Only A and B are trained. The sum stands in the weight's place, so that hooks, analyses of weights and every way to run the model
see the adapted map, and merging changes no number. What a change of weights amounts to is read off its singular values.

Must not know: training loops, analyses of activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from interp import stats
from interp.errors import ModelError
from interp.models import weights
from interp.models.hooked import Model


class Adapters:
    """Adapters on some linear parts of a model, as `["blocks.0.attn.q", "blocks.1.mlp.out"]`; attached when made.

    Attached, they are all of the model that is trained (`parameters`), and start as no change at all. `merge` writes their sum
    into the weights; `detach` gives the model back as it was, bit for bit, from either state; `attach` puts them on again.
    alpha: as in the paper; with alpha = rank the factor is 1. A model with adapters attached cannot be saved: merge first.
    Where a model keeps queries, keys and values in one matrix (GPT-2, NeoX), TransformerLens runs on copies: adapters on q, k
    and v act, merged too, but are not saved.

    Raises ModelError, with every fault, for parts that do not exist or are no linear maps, and for a rank below 1 or above what
    the matrix can have.
    """

    def __init__(self, model: Model, parts: Sequence[str], *, rank: int, alpha: float, seed: int) -> None:
        self._homes = {name: _home(model, name) for name in parts}
        faults = [fault for name, home in self._homes.items() if (fault := _fault(name, home, rank)) is not None]
        if faults:
            raise ModelError("; ".join(faults))
        self._learned = {
            name: _LowRank(home, rank, alpha / rank, torch.Generator().manual_seed(stats.torch_seed(seed, "lora", name)))
            for name, home in self._homes.items()
        }
        self._original = {name: home.weight for name, home in self._homes.items()}
        self._trainable = [each for each in model.bridge.parameters() if each.requires_grad]
        self._attached = False
        self.attach()

    def parameters(self) -> list[nn.Parameter]:
        """A and B of every part."""
        return [each for learned in self._learned.values() for each in learned.parameters()]

    def changes(self) -> dict[str, Float[Tensor, "d_out d_in"]]:
        """(α / r) B A of every part, as a map from its input to its output: y = ΔW x."""
        return {name: learned.change().detach() for name, learned in self._learned.items()}

    def attach(self) -> None:
        """Lets the adapters act, and freezes everything else."""
        self.detach()
        for each in self._trainable:
            each.requires_grad_(False)
        for name, home in self._homes.items():
            parametrize.register_parametrization(home, "weight", self._learned[name])
        self._attached = True

    def merge(self) -> None:
        """Writes the sum into the weights. The model is then an ordinary one, and can be saved."""
        merged = {name: nn.Parameter(home.weight.detach().clone()) for name, home in self._homes.items()}
        self.detach()
        for name, home in self._homes.items():
            home.weight = merged[name]

    def detach(self) -> None:
        """Gives the model its own weights back, and lets them be trained again."""
        for name, home in self._homes.items():
            if self._attached:
                parametrize.remove_parametrizations(home, "weight", leave_parametrized=False)
            home.weight = self._original[name]
        for each in self._trainable:
            each.requires_grad_(True)
        self._attached = False


def spectrum(change: Float[Tensor, "d_out d_in"]) -> Float[Tensor, " rank"]:
    """Singular values, largest first."""
    return torch.linalg.svdvals(change)


def effective_rank(change: Float[Tensor, "d_out d_in"]) -> float:
    """exp of the entropy of the singular values, taken as shares of their sum (Roy & Vetterli 2007): r for r equal ones.

    Raises ModelError for a matrix of zeros, which has none.
    """
    values = spectrum(change.double())
    if not values.any():
        raise ModelError("the effective rank of no change is not defined; give a matrix that is not zero")
    shares = values / values.sum()
    return float(torch.exp(-torch.xlogy(shares, shares).sum()))


def nearest(change: Float[Tensor, "d_out d_in"], rank: int) -> Float[Tensor, "d_out d_in"]:
    """The matrix of at most this rank that is nearest in Frobenius norm: the leading singular vectors. What is left has the
    squared norm Σ_{i>rank} σ_i² (Eckart & Young 1936)."""
    u, values, v = torch.linalg.svd(change, full_matrices=False)
    return (u[:, :rank] * values[:rank]) @ v[:rank]


class _LowRank(nn.Module):
    """A weight with a change of low rank added; what `parametrize` puts in a weight's place."""

    def __init__(self, home: nn.Module, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.scale, self.transposed = scale, _is_transposed(home)
        weight: Any = home.weight
        d_out, d_in = weight.shape[::-1] if self.transposed else weight.shape
        drawn = torch.randn(rank, d_in, generator=generator) / d_in**0.5
        self.A = nn.Parameter(drawn.to(weight))
        self.B = nn.Parameter(torch.zeros(d_out, rank).to(weight))

    def change(self) -> Float[Tensor, "d_out d_in"]:
        return self.scale * (self.B @ self.A)

    def forward(self, weight: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        return weight + (self.change().T if self.transposed else self.change())


def _home(model: Model, name: str) -> Any:
    """The module that holds the matrix of a part: the part, or what TransformerLens wrapped."""
    part = weights.part(model.bridge, name)
    return getattr(part, "original_component", part)


def _is_transposed(home: nn.Module) -> bool:
    """Whether the matrix is kept as [d_in d_out], as GPT-2's maps are (transformers' Conv1D)."""
    return type(home).__name__ == "Conv1D"


def _fault(name: str, home: nn.Module, rank: int) -> str | None:
    if parametrize.is_parametrized(home, "weight"):
        return f"{name} has an adapter already; detach it first"
    weight = getattr(home, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.ndim != 2 or isinstance(home, nn.Embedding):
        return f"{name} is a {type(home).__name__}, not a linear map"
    if not 1 <= rank <= min(weight.shape):
        return f"rank={rank} does not fit {name}, which is {' by '.join(map(str, weight.shape))}; use 1 to {min(weight.shape)}"
    return None
