"""Attention that costs the same at every position: a memory of fixed size in place of all earlier keys and values.

With a feature map φ in place of the softmax, the sum over keys can be taken once, as a matrix of *fast weights* that each token
writes to and reads from (Katharopoulos et al. 2020, arXiv:2006.16236; Schlag et al. 2021, arXiv:2102.11174):

    softmax     z_i = Σ_j exp(q_i·k_j/√d) v_j / Σ_j exp(q_i·k_j/√d)
    linear      S_i = S_{i−1} + φ(k_i) v_iᵀ,                     z_i = S_iᵀ φ(q_i) / Σ_{j≤i} φ(k_j)·φ(q_i)
    delta rule  S_i = S_{i−1} + β_i φ(k_i) (v_i − S_{i−1}ᵀ φ(k_i))ᵀ,   z_i = S_iᵀ φ(q_i)

The sum can only add; the delta rule first reads what the memory holds under a key, and replaces it. The modules here compute in
parallel over positions, with hooks, and take the place of scores and softmax in an attention: every pair of tokens has a number
to look at, so their time grows as the square of the length. `linear_attention`, `fast_weights` and `delta_rule` carry the memory
along instead, one token or one chunk after the other, in time that grows as the length. Every head has a memory of its own.

Must not know: attention's projections, blocks, how models are trained.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.errors import ModelError
from interp.models.lens import HookPoint


class EluPlusOne(nn.Module):
    """φ(x) = elu(x) + 1, positive everywhere (Katharopoulos et al. 2020, eq. 7)."""

    def forward(self, x: Float[Tensor, "*rows d_head"]) -> Float[Tensor, "*rows d_head"]:
        return F.elu(x) + 1


class UnitRelu(nn.Module):
    """φ(x) = relu(x) of length 1, as the delta rule wants its keys: then writing at β = 1 replaces all that was under the key."""

    def forward(self, x: Float[Tensor, "*rows d_head"]) -> Float[Tensor, "*rows d_head"]:
        return F.normalize(F.relu(x), dim=-1)


class Favor(nn.Module):
    """Positive random features of the softmax kernel (FAVOR+, Choromanski et al. 2021, arXiv:2009.14794, lemma 1):

        φ(x) = exp(W y − |y|²/2) / √m,   y = x / d_head^¼,   rows of W from N(0, 1)

    so that φ(q)·φ(k) is exp(q·k/√d_head) in the mean over W, with a mean squared error that falls as 1/m.

    orthogonal: whether rows of W are made orthogonal in groups of d_head, which lowers the error (their theorem 2). W is drawn
    once, from `generator`, and saved with the model. Raises ModelError for fewer than one feature.
    """

    W: Float[Tensor, "feature d_head"]

    def __init__(self, d_head: int, n_features: int, *, orthogonal: bool, generator: torch.Generator) -> None:
        super().__init__()
        if n_features < 1:
            raise ModelError(f"n_features={n_features}: random features must be 1 or more")
        drawn = torch.randn(n_features, d_head, generator=generator)
        if orthogonal:
            drawn = drawn.norm(dim=1, keepdim=True) * _orthogonal(n_features, d_head, generator)
        self.register_buffer("W", drawn)

    def forward(self, x: Float[Tensor, "*rows d_head"]) -> Float[Tensor, "*rows feature"]:
        y = x / x.shape[-1] ** 0.25
        return torch.exp(y @ self.W.T - y.square().sum(-1, keepdim=True) / 2) / len(self.W) ** 0.5


class LinearAttention(nn.Module):
    """Attention by a feature map, a module that gives positive features.

    `hook_phi_q` and `hook_phi_k` are the features, [batch pos head feature]; `hook_pattern` is what each query takes of each
    value, [batch head query key], rows summing to 1 as a softmax's do. All act.
    """

    def __init__(self, feature_map: nn.Module) -> None:
        super().__init__()
        self.feature_map = feature_map
        self.hook_phi_q, self.hook_phi_k, self.hook_pattern = HookPoint(), HookPoint(), HookPoint()

    def forward(
        self,
        q: Float[Tensor, "batch query head d_head"],
        k: Float[Tensor, "batch key head d_head"],
        v: Float[Tensor, "batch key head d_value"],
        *,
        causal: bool,
        seen: Bool[Tensor, "batch key"] | None,
    ) -> Float[Tensor, "batch query head d_value"]:
        weights = _products(self.hook_phi_q(self.feature_map(q)), self.hook_phi_k(self.feature_map(k)))
        weights = weights.tril() if causal else weights
        weights = weights if seen is None else weights * seen[:, None, None]
        pattern = weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
        return torch.einsum("bhqk,bkhd->bqhd", self.hook_pattern(pattern), v)


class DeltaRule(nn.Module):
    """Attention by fast weights that overwrite (Schlag et al. 2021, §4.2).

    β = σ(w·k + b) for each head, where the paper reads it off the layer's input: an attention hands on queries, keys and values
    only. `hook_phi_q`, `hook_phi_k` are features, `hook_beta` the share of the old that is replaced, [batch pos head], and
    `hook_written` what each token adds under its key, [batch pos head d_value]. All act.
    """

    def __init__(self, n_heads: int, d_head: int, feature_map: nn.Module, *, generator: torch.Generator) -> None:
        super().__init__()
        self.feature_map = feature_map
        self.w = nn.Parameter(torch.randn(n_heads, d_head, generator=generator) / d_head**0.5)
        self.b = nn.Parameter(torch.zeros(n_heads))
        self.hook_phi_q, self.hook_phi_k, self.hook_beta, self.hook_written = (HookPoint() for _ in range(4))

    def forward(
        self,
        q: Float[Tensor, "batch query head d_head"],
        k: Float[Tensor, "batch key head d_head"],
        v: Float[Tensor, "batch key head d_value"],
        *,
        causal: bool,
        seen: Bool[Tensor, "batch key"] | None,
    ) -> Float[Tensor, "batch query head d_value"]:
        """Raises ModelError unless causal: what a write replaces depends on what came before."""
        if not causal:
            raise ModelError("the delta rule writes token after token and has no form that sees both ways; use a decoder")
        beta = self.hook_beta(self.rates(k))
        beta = beta if seen is None else beta * seen[:, :, None]
        phi_q, phi_k = self.hook_phi_q(self.feature_map(q)), self.hook_phi_k(self.feature_map(k))
        written = self.hook_written(_written(phi_k, v, beta))
        return torch.einsum("bhqk,bkhd->bqhd", _products(phi_q, phi_k).tril(), written)

    def rates(self, k: Float[Tensor, "batch key head d_head"]) -> Float[Tensor, "batch key head"]:
        """β = σ(w·k + b)."""
        return torch.sigmoid(torch.einsum("bkhd,hd->bkh", k, self.w) + self.b)


def linear_attention(
    phi_q: Float[Tensor, "batch pos head feature"],
    phi_k: Float[Tensor, "batch pos head feature"],
    v: Float[Tensor, "batch pos head d_value"],
    *,
    chunk: int = 64,
) -> Float[Tensor, "batch pos head d_value"]:
    """Causal linear attention by a memory that is carried along: what `LinearAttention` gives, in time that grows as pos.

    A column of ones beside the values carries the normaliser. chunk as in `fast_weights`.
    """
    found, _ = fast_weights(phi_q, phi_k, torch.cat([v, torch.ones_like(v[..., :1])], -1), chunk=chunk)
    return found[..., :-1] / found[..., -1:]


def fast_weights(
    phi_q: Float[Tensor, "batch pos head feature"],
    phi_k: Float[Tensor, "batch pos head feature"],
    v: Float[Tensor, "batch pos head d_value"],
    *,
    chunk: int = 64,
) -> tuple[Float[Tensor, "batch pos head d_value"], Float[Tensor, "batch head feature d_value"]]:
    """Σ_{j≤i} (φ(q_i)·φ(k_j)) v_j, and the memory at the end.

    chunk: tokens taken at a time, by products of all their pairs; work grows as pos · (chunk + feature), and chunk=1 is the
    recurrence itself, which is slowest outside of theory. Raises ModelError for a chunk below 1.
    """
    return _carried(phi_q, phi_k, v, None, chunk)


def delta_rule(
    phi_q: Float[Tensor, "batch pos head feature"],
    phi_k: Float[Tensor, "batch pos head feature"],
    v: Float[Tensor, "batch pos head d_value"],
    beta: Float[Tensor, "batch pos head"],
    *,
    chunk: int = 64,
) -> tuple[Float[Tensor, "batch pos head d_value"], Float[Tensor, "batch head feature d_value"]]:
    """What queries read under the delta rule, and the memory at the end; chunk as in `fast_weights` (Yang et al. 2024, §3)."""
    return _carried(phi_q, phi_k, v, beta, chunk)


def _carried(
    phi_q: Tensor, phi_k: Tensor, v: Tensor, beta: Tensor | None, chunk: int
) -> tuple[Float[Tensor, "batch pos head d_value"], Float[Tensor, "batch head feature d_value"]]:
    """A memory carried along from chunk to chunk, which each writes to, under its keys: values, or by a `beta` what they lack."""
    if chunk < 1:
        raise ModelError(f"chunk={chunk}: at least one token is taken at a time")
    memory = v.new_zeros(v.shape[0], v.shape[2], phi_k.shape[-1], v.shape[-1])
    outputs = []
    for start in range(0, v.shape[1], chunk):
        rows = slice(start, start + chunk)
        q, k, written = phi_q[:, rows], phi_k[:, rows], v[:, rows]
        if beta is not None:
            written = _written(k, written - _read(memory, k), beta[:, rows])
        outputs.append(_read(memory, q) + torch.einsum("bhqk,bkhd->bqhd", _products(q, k).tril(), written))
        memory = memory + torch.einsum("bkhf,bkhd->bhfd", k, written)
    return torch.cat(outputs, 1), memory


def _read(memory: Tensor, phi: Tensor) -> Float[Tensor, "batch pos head d_value"]:
    return torch.einsum("bqhf,bhfd->bqhd", phi, memory)


def _written(phi_k: Tensor, v: Tensor, beta: Tensor) -> Float[Tensor, "batch pos head d_value"]:
    """What each token adds under its key, u_i = β_i (v_i − Σ_{j<i} (φ(k_i)·φ(k_j)) u_j): a triangular system, solved at once
    (Yang et al. 2024, arXiv:2406.06484, §3). v: values less what the memory held under their keys before."""
    rate = beta.transpose(1, 2)[..., None]  # [batch head pos 1]
    overlap = rate * _products(phi_k, phi_k).tril(-1)
    written = torch.linalg.solve_triangular(overlap, rate * v.transpose(1, 2), upper=False, unitriangular=True)
    return written.transpose(1, 2)


def _orthogonal(n: int, d: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
    """Rows of random orthogonal matrices. A QR decomposition fixes signs in its own way; those of R undo it (Mezzadri 2007,
    arXiv:math-ph/0609050, §5), without which rows are not uniform."""
    q, r = torch.linalg.qr(torch.randn(-(-n // d), d, d, generator=generator))
    return (q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]).flatten(0, 1)[:n]


def _products(phi_q: Tensor, phi_k: Tensor) -> Float[Tensor, "batch head query key"]:
    return torch.einsum("bqhf,bkhf->bhqk", phi_q, phi_k)
