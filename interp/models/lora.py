"""Low-rank adapters on any linear map of any model (Hu et al. 2021, arXiv:2106.09685, §4.1).

    W' = W + (α / r) B A,   A [r d_in] drawn from N(0, 1/d_in),   B [d_out r] zero at first

Only A and B are trained. The sum stands in the weight's place, so that hooks, analyses of weights and every way to run the model
see the adapted map, and merging changes no number. What a change of weights amounts to is read off its singular values.

Must not know: training loops, analyses of activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Int
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
    Where a model keeps queries, keys and values in one matrix (GPT-2, NeoX), TransformerLens runs on copies: what changes in q, k
    or v changes in that matrix too, so that it is saved.

    Raises ModelError, with every fault, for parts that do not exist or are no linear maps, for a rank below 1 or above what the
    matrix can have, and for a part of a joint matrix that other adapters hold.
    """

    def __init__(self, model: Model, parts: Sequence[str], *, rank: int, alpha: float, seed: int) -> None:
        self._homes = {name: home_of(model, name) for name in parts}
        faults = [fault for name, home in self._homes.items() if (fault := _fault(name, home, rank)) is not None]
        if faults:
            raise ModelError("; ".join(faults))
        self._learned = {
            name: _LowRank(home, rank, alpha / rank, stats.torch_generator(seed, "lora", name))
            for name, home in self._homes.items()
        }
        self._joined = _joined(model, self._learned)
        faults = [f"{name} shares its matrix with a part that has an adapter already; detach it first" for name in self._taken()]
        if faults:
            raise ModelError("; ".join(faults))
        self._places: list[tuple[Any, nn.Module]] = [(home, self._learned[name]) for name, home in self._homes.items()]
        self._places += [(joined.home, joined) for joined in self._joined]
        self._original = [home.weight for home, _ in self._places]
        self._trainable = [each for each in model.bridge.parameters() if each.requires_grad]
        self._attached = False
        self.attach()

    def parameters(self) -> list[nn.Parameter]:
        """A and B of every part."""
        return [each for learned in self._learned.values() for each in learned.parameters()]

    def changes(self) -> dict[str, Float[Tensor, "d_out d_in"]]:
        """(α / r) B A of every part, as a map from its input to its output: y = ΔW x."""
        return {name: learned.change().detach() for name, learned in self._learned.items()}

    def fill(self, changes: Mapping[str, Float[Tensor, "d_out d_in"]]) -> None:
        """Sets B A of some parts so that the change is the nearest of this rank to the one given (`nearest`): an adapter taken
        from full fine-tuning, or made by hand. Raises ModelError, with every fault, for other parts and shapes."""
        faults = [f"there is no adapter on {name}" for name in changes if name not in self._learned]
        for name, change in changes.items():
            if name in self._learned and change.shape != (wanted := self._learned[name].change().shape):
                faults.append(f"the change of {name} is {list(change.shape)}, its matrix {list(wanted)}")
        if faults:
            raise ModelError("; ".join(faults))
        for name, change in changes.items():
            self._learned[name].fill(change)

    def attach(self) -> None:
        """Lets the adapters act, and freezes everything else."""
        self.detach()
        for each in self._trainable:
            each.requires_grad_(False)
        for home, added in self._places:
            parametrize.register_parametrization(home, "weight", added)
        self._attached = True

    def merge(self) -> None:
        """Writes the sum into the weights. The model is then an ordinary one, and can be saved."""
        merged = [nn.Parameter(home.weight.detach().clone()) for home, _ in self._places]
        self.detach()
        for (home, _), weight in zip(self._places, merged, strict=True):
            home.weight = weight

    def detach(self) -> None:
        """Gives the model its own weights back, and lets them be trained again."""
        for (home, _), weight in zip(self._places, self._original, strict=True):
            if self._attached:
                parametrize.remove_parametrizations(home, "weight", leave_parametrized=False)
            home.weight = weight
        for each in self._trainable:
            each.requires_grad_(True)
        self._attached = False

    def _taken(self) -> list[str]:
        """The parts whose joint matrix other adapters hold."""
        held = [joined for joined in self._joined if parametrize.is_parametrized(joined.home, "weight")]
        return [name for joined in held for name in joined.names]


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


def overlap(first: Float[Tensor, "d_out _"], second: Float[Tensor, "d_out _"], rank: int) -> float:
    """φ = ‖Uᵀ V‖² / rank of the leading left singular vectors U and V of two matrices: 1 where they span the same directions,
    0 where they are orthogonal, rank / d_out for random ones in the mean (Hu et al. 2021, §7.2, eq. 4).

    Raises ModelError for a rank below 1 or above what the matrices can have.
    """
    most = min(*first.shape, *second.shape)
    if not 1 <= rank <= most:
        raise ModelError(f"rank={rank} directions cannot be compared in matrices of rank {most} at most; use 1 to {most}")
    u, v = (torch.linalg.svd(matrix, full_matrices=False).U[:, :rank] for matrix in (first, second))
    return float((u.T @ v).square().sum() / rank)


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

    @torch.no_grad()
    def fill(self, change: Float[Tensor, "d_out d_in"]) -> None:
        u, values, v = torch.linalg.svd(change, full_matrices=False)
        root, rank = values.sqrt(), len(self.A)
        self.A.copy_(root[:rank, None] * v[:rank])
        self.B.copy_(u[:, :rank] * root[:rank] / self.scale)

    def change(self) -> Float[Tensor, "d_out d_in"]:
        return self.scale * (self.B @ self.A)

    def forward(self, weight: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        return weight + (self.change().T if self.transposed else self.change())


class _Joined(nn.Module):
    """A matrix of queries, keys and values in one, with the changes of the parts that were copied from it added."""

    def __init__(self, home: Any) -> None:
        super().__init__()
        self.home_of: tuple[Any] = (home,)  # in a tuple, so that it is no submodule
        self.names: list[str] = []
        self.places: list[Tensor] = []
        self.adapters: list[_LowRank] = []

    @property
    def home(self) -> Any:
        """The module that holds the matrix."""
        return self.home_of[0]

    def forward(self, weight: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        for learned, places in zip(self.adapters, self.places, strict=True):
            weight = weight.flatten().index_add(0, places.flatten(), learned.change().flatten()).view_as(weight)
        return weight


def _joined(model: Model, learned: dict[str, _LowRank]) -> list[_Joined]:
    """The joint matrices that parts were copied from, each with those of its parts that are adapted."""
    found: dict[int, _Joined] = {}
    for name, each in learned.items():
        path, _, part = name.rpartition(".")
        attention: Any = weights.part(model.bridge, path) if path and part in "qkv" else None
        if (split := getattr(attention, "split_qkv_matrix", None)) is None:
            continue
        qkv = attention.submodules["qkv"]
        joined = found.setdefault(id(attention), _Joined(qkv.original_component))
        joined.names.append(name)
        joined.places.append(_numbered(split, qkv.name, joined.home)["qkv".index(part)])
        joined.adapters.append(each)
    return list(found.values())


def _numbered(split: Any, name: str, joint: Any) -> list[Int[Tensor, "d_out d_in"]]:
    """Where the numbers of q, k and v stand in the joint matrix: what the split makes of a matrix of numbered places."""
    weight = torch.arange(joint.weight.numel(), dtype=torch.float64).view(joint.weight.shape)
    bias = None if joint.bias is None else torch.zeros(joint.bias.shape)
    with torch.random.fork_rng(devices=[]):  # parts that split a weight draw random ones first
        parts = split(SimpleNamespace(**{name: SimpleNamespace(weight=weight, bias=bias)}))
    return [part.weight.detach().long().to(joint.weight.device) for part in parts]


def home_of(model: Model, name: str) -> Any:
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
