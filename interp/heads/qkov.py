"""What heads, and chains of heads, read and write, in the tokens of the vocabulary; from the weights alone.

    OV: W_E W_OV W_U, [token attended to, token whose logit rises]      QK: W_E W_QK W_Eᵀ / √d_head, [query token, key token]

(Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"). Both have rank d_head at most and are held as two thin
factors: no d_vocab × d_vocab matrix is ever built. A chain of heads is one virtual head: W_OV of the first, then of the next.

Norms are folded in and biases left out as composition.py states; the norm before the unembedding likewise. What adds the same
to every logit, or to the score of every key, changes no probability, and is taken out of `spectrum` and `rank` (not of
eigenvalues, which stay those of the published definitions). The embedding stands for the stream: what positions, MLPs and heads
outside the chain add to it is not in these readings.

Must not know: figures, reports, texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp import stats
from interp.errors import ModelError
from interp.heads.composition import Factors, eigenvalue_sign, ov_circuit, qk_circuit, require_one_stream, unembedding
from interp.models.hooked import Model

Circuit = Literal["OV", "QK"]
Head = tuple[int, int]


@dataclass(frozen=True)
class Spectrum:
    """A circuit as a sum Σᵢ sᵢ readᵢ writeᵢᵀ of rank-one parts, the strongest first.

    values: sᵢ ≥ 0. read, write: unit vectors over the vocabulary; of an OV circuit the tokens attended to and the logits moved,
    of a QK circuit queries and keys. The sign of a pair is free; here the largest entry of each `read` is positive.
    """

    values: Float[Tensor, " direction"]
    read: Float[Tensor, "direction d_vocab"]
    write: Float[Tensor, "direction d_vocab"]

    @property
    def shares(self) -> Float[Tensor, " direction"]:
        """sᵢ² / Σ s²."""
        return self.values.square() / self.values.square().sum()

    def ends(self, direction: int, n: int) -> dict[str, tuple[list[int], list[int]]]:
        """The tokens at both ends of one part: "+" and "−" to (tokens read, tokens written), the strongest first.

        Reading a "+" token raises the "+" tokens written and lowers the "−" ones; a "−" token does the opposite.
        """
        sides = (self.read[direction], self.write[direction])
        return {
            "+": (sides[0].topk(n).indices.tolist(), sides[1].topk(n).indices.tolist()),
            "−": ((-sides[0]).topk(n).indices.tolist(), (-sides[1]).topk(n).indices.tolist()),
        }


class Reading:
    """How circuits of one kind read in the tokens of a model. Raises ModelError as `composition.require_one_stream`,
    and for "OV" as `composition.unembedding`."""

    def __init__(self, model: Model, circuit: Circuit) -> None:
        require_one_stream(model)
        self.model, self.circuit = model, circuit
        self._embedding = model.W_E.detach().double()
        scale = 1.0 if circuit == "OV" else model.d_head**-0.5
        self._out = (unembedding(model) if circuit == "OV" else self._embedding.T) * scale

    def layer(self, layer: int) -> Factors:
        """The circuits of all heads of a layer, in the residual stream."""
        return (ov_circuit if self.circuit == "OV" else qk_circuit)(self.model, layer)

    def sign(self, heads: Factors) -> Float[Tensor, " head"]:
        """`Σ Re λ / Σ |λ|`: copying (OV) or matching (QK). For real λ, (1 + sign) / 2 is the share that is positive."""
        return eigenvalue_sign(heads, self._around)

    def rank(self, heads: Factors) -> Float[Tensor, " head"]:
        """The effective rank (Σ s²)² / Σ s⁴ over singular values: d_head when all are alike, 1 when one is all there is."""
        left, right = self._grams
        product = (heads.left.mT @ left @ heads.left) @ (heads.right @ right @ heads.right.mT)
        trace = product.diagonal(dim1=-2, dim2=-1).sum(-1)
        return trace.square() / (product * product.mT).sum((-1, -2))

    def spectrum(self, head: Factors) -> Spectrum:
        """The singular value decomposition of one circuit (one head in `head`), by QR of its two thin factors."""
        left, right = self._embedding @ head.left[0], self._centred(head.right[0] @ self._out)
        q_left, r_left = torch.linalg.qr(left)
        q_right, r_right = torch.linalg.qr(right.T)
        u, values, v = torch.linalg.svd(r_left @ r_right.T)
        read, write = (q_left @ u).T, (q_right @ v.T).T
        sign = read.gather(1, read.abs().argmax(1, keepdim=True)).sign()
        return Spectrum(values, read * sign, write * sign)

    @cached_property
    def _around(self) -> Float[Tensor, "d_model d_model"]:
        return self._out @ self._embedding

    @cached_property
    def _grams(self) -> tuple[Float[Tensor, "d_model d_model"], Float[Tensor, "d_model d_model"]]:
        out = self._centred(self._out)
        return self._embedding.T @ self._embedding, out @ out.T

    @staticmethod
    def _centred(out: Float[Tensor, "rank d_vocab"]) -> Float[Tensor, "rank d_vocab"]:
        return out - out.mean(1, keepdim=True)


def ov(model: Model, *chain: Head) -> Factors:
    """W_OV of a head, or of the virtual head that a chain makes, the earliest head first: Factors of one matrix.

    Raises ModelError for heads that do not exist and for a chain that does not go from layer to later layer.
    """
    if not chain:
        raise ModelError("a chain of no heads writes nothing; give at least one (layer, head)")
    _require_order(chain)
    parts = [_one(model, ov_circuit, head) for head in chain]
    right = parts[0].right
    for part in parts[1:]:
        right = right @ part.left @ part.right
    return Factors(parts[0].left, right)


def qk(model: Model, head: Head, *, query_from: Sequence[Head] = (), key_from: Sequence[Head] = ()) -> Factors:
    """W_QK of a head, whose query or key reads what chains of earlier heads wrote: Factors of one matrix.

    With key_from = [a previous-token head], a positive `Reading.sign` is an induction head in the weights: the key says which
    token came before. Raises ModelError as `ov`.
    """
    own = _one(model, qk_circuit, head)
    left, right = own.left, own.right
    if query_from:
        _require_order([*query_from, head])
        chain = ov(model, *query_from)
        left = chain.left @ (chain.right @ left)
    if key_from:
        _require_order([*key_from, head])
        chain = ov(model, *key_from)
        right = (right @ chain.right.mT) @ chain.left.mT
    return Factors(left, right)


def random_heads(model: Model, draws: int, *, seed: int = 0) -> Factors:
    """Heads with Gaussian weights of the shape of this model's: the null of `Reading.sign` and `Reading.rank`."""
    generator = stats.torch_generator(seed, "random heads")
    drawn = torch.randn(2, draws, model.d_model, model.d_head, generator=generator, dtype=torch.float64).to(model.device)
    return Factors(drawn[0], drawn[1].mT)


def _one(model: Model, circuits: Callable[[Model, int], Factors], head: Head) -> Factors:
    layer, place = head
    if not (0 <= layer < model.n_layers and 0 <= place < model.n_heads):
        raise ModelError(
            f"{model.name} has no head ({layer}, {place}); it has layers 0–{model.n_layers - 1} of heads 0–{model.n_heads - 1}"
        )
    found = circuits(model, layer)
    return Factors(found.left[place : place + 1], found.right[place : place + 1])


def _require_order(chain: Sequence[Head]) -> None:
    if any(late[0] <= early[0] for early, late in pairwise(chain)):
        named = " → ".join(f"{layer}.{head}" for layer, head in chain)
        raise ModelError(f"heads {named} do not follow one another: each must be in a later layer than the one before")
