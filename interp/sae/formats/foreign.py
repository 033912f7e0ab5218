"""Activation functions that only files bring: other libraries train them, here they are read, used and written.

Must not know: files, layouts.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.errors import TrainingError


class AbsTopK(nn.Module):
    """The k pre-activations of each row that are largest in size, with their signs (Zhu et al. 2025, arXiv:2510.00404)."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, pre: Float[Tensor, "row d_sae"]) -> Float[Tensor, "row d_sae"]:
        indices = pre.abs().topk(self.k, dim=-1, sorted=False).indices
        return torch.zeros_like(pre).scatter(-1, indices, pre.gather(-1, indices))

    def rescaled(self, factor: float | Float[Tensor, "d_sae"]) -> AbsTopK:
        _one_number(self, factor)
        return self

    def extra_repr(self) -> str:
        return f"k={self.k}"


class GroupMax(nn.Module):
    """The largest positive pre-activation of each of k groups of neighbouring latents (eai-sparsify's `groupmax`)."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, pre: Float[Tensor, "row d_sae"]) -> Float[Tensor, "row d_sae"]:
        groups = pre.relu().unflatten(-1, (self.k, -1))
        values, indices = groups.max(dim=-1, keepdim=True)
        return torch.zeros_like(groups).scatter(-1, indices, values).flatten(-2)

    def rescaled(self, factor: float | Float[Tensor, "d_sae"]) -> GroupMax:
        _one_number(self, factor)
        return self

    def extra_repr(self) -> str:
        return f"k={self.k}"


class MatchingPursuit(nn.Module):
    """Greedy codes: again and again the atom nearest to what is left over, by relu(r·d), is taken off (Mallat & Zhang 1993).

    dictionary: the atoms, [d_sae d]. They are the encoder too, so pre-activations x Dᵀ determine the row x, provided that the
    atoms span the space; x is read back from them with the pseudo-inverse.
    residual_threshold: a row is done when less than this is left over (0: never). max_iterations: atoms taken at most.
    stop_on_duplicate_support: a row is done when no new atom was taken. This is SAELens's `matching_pursuit`.

    For use only: were W_dec trained, it would come apart from `dictionary`. Raises TrainingError for atoms that do not span
    the space.
    """

    dictionary: Tensor
    back: Tensor

    def __init__(
        self,
        dictionary: Float[Tensor, "d_sae d"],
        *,
        residual_threshold: float,
        max_iterations: int,
        stop_on_duplicate_support: bool,
    ) -> None:
        super().__init__()
        atoms, d = dictionary.detach().double(), dictionary.shape[1]
        rank = int(torch.linalg.matrix_rank(atoms))
        if rank < d:
            raise TrainingError(f"matching pursuit needs atoms that span all {d} dimensions, and these span {rank}")
        self.residual_threshold, self.max_iterations = residual_threshold, max_iterations
        self.stop_on_duplicate_support = stop_on_duplicate_support
        self.register_buffer("dictionary", dictionary.detach().clone())
        self.register_buffer("back", torch.linalg.pinv(atoms).T.to(dictionary.dtype))

    def forward(self, pre: Float[Tensor, "row d_sae"]) -> Float[Tensor, "row d_sae"]:
        rest, codes = pre @ self.back, torch.zeros_like(pre)
        done = torch.zeros(len(pre), dtype=torch.bool, device=pre.device)
        for _ in range(self.max_iterations):
            value, atom = (rest @ self.dictionary.T).relu().max(dim=1)
            value = value * ~done
            support = codes != 0
            codes = codes.scatter_add(1, atom[:, None], value[:, None])
            rest = rest - value[:, None] * self.dictionary[atom]
            done = done | self._settled(rest, (codes != 0) == support)
            if bool(done.all()):
                break
        return codes

    def _settled(self, rest: Float[Tensor, "row d"], same: Bool[Tensor, "row d_sae"]) -> Bool[Tensor, "row"]:
        small = rest.norm(dim=1) < self.residual_threshold
        return small | same.all(1) if self.stop_on_duplicate_support else small

    def rescaled(self, factor: float | Float[Tensor, "d_sae"]) -> MatchingPursuit:
        _one_number(self, factor)
        return MatchingPursuit(
            self.dictionary,
            residual_threshold=self.residual_threshold * float(factor),
            max_iterations=self.max_iterations,
            stop_on_duplicate_support=self.stop_on_duplicate_support,
        )

    def extra_repr(self) -> str:
        return f"max_iterations={self.max_iterations}"


def _one_number(activation: nn.Module, factor: float | Tensor) -> None:
    if isinstance(factor, Tensor) and factor.ndim:
        raise TrainingError(
            f"{type(activation).__name__} compares latents with each other, so they cannot be rescaled one by one"
        )
