"""What heads say to one another, read from the weights alone.

Rows are vectors: a head reads x W_Q, x W_K, x W_V and writes z W_O, so W_QK = W_Q W_Kᵀ and W_OV = W_V W_O, both of rank
d_head at most. Everything here works on the d_head × d_head cores and never builds a d_model × d_model matrix
(Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits").

Normalisation: before a matrix that reads the residual stream stands the block's norm. Its gain is folded into the matrix
and, for layer norm, the mean over d_model taken out; the division by the scale is left out, since one positive factor
per position changes neither ratio below. Biases are left out: they add the same whatever is read. With grouped queries, every
query head has the keys and values of its group. Rotary positions are left out too: W_QK is that of two tokens at one place.

Models that norm the stream after it was written (post-LN) are refused: there a norm stands between two heads, and no product of
weights says what one makes of the other. In an encoder–decoder, heads compose wherever one reads the stream that the other wrote
into: cross-attention reads the decoder by its queries, and the encoder, through its last norm, by its keys and values.

Must not know: figures, reports, tokens.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp import stats
from interp.errors import ModelError
from interp.measurement import Measurement
from interp.models.anatomy import Sublayer, anatomy
from interp.models.hooked import Model
from interp.models.norms import folded

Way = Literal["Q", "K", "V"]


class Factors(NamedTuple):
    """A matrix left @ right of low rank, for every head: left Float[head m rank], right Float[head rank n]."""

    left: Float[Tensor, "head m rank"]
    right: Float[Tensor, "head rank n"]


def composition_scores(model: Model, way: Way, *, draws: int = 50, seed: int = 0) -> Measurement:
    """How much each later head reads, by its query, key or value, of what each earlier head writes.

    ‖W_OV A‖_F / (‖W_OV‖_F ‖A‖_F) with A = W_QK (Q), W_QKᵀ (K) or W_OV (V) of the later head, minus the mean of that ratio
    over Gaussian matrices of the same shapes. Measurement(from, to), heads as "layer.head", in an encoder–decoder as the graph
    names them ("enc.a0.h1", "dec.c0.h1"). Pairs in which `to` does not read what `from` wrote, by this way, are −inf, so that
    they never rank.

    Raises ModelError for a model none of whose heads reads another, and for models that norm what they wrote.
    """
    require_pre_norm(model)
    attentions = _attentions(model)
    writers, readers = (
        [circuit(each) for each, _, _ in attentions] for circuit in (partial(_ov, model), partial(_reads, model, way))
    )
    names = [name for each, _, _ in attentions for name in _names(each)]
    chance = random_composition(*writers[0].left.shape[1:], draws=draws, seed=seed)
    blocks = []
    for writer, (_, stream, depth) in zip(writers, attentions, strict=True):
        ratios = []
        for reader, (late, _, _) in zip(readers, attentions, strict=True):
            read = late.ways[way.lower()]
            if read.stream == stream and read.depth >= depth:
                ratios.append(product_ratio(writer, reader).cpu().double().numpy() - chance)
            else:
                ratios.append(np.full((len(writer.left), len(reader.left)), -np.inf))
        blocks.append(ratios)
    values = np.block(blocks)
    if not np.isfinite(values).any():
        raise ModelError(f"{model.name} has {model.n_layers} layer; heads compose across layers, so give a model with at least 2")
    return Measurement(f"{way}_composition", values, ("from", "to"), {"from": names, "to": names})


def product_ratio(first: Factors, second: Factors) -> Float[Tensor, "head_first head_second"]:
    """‖A B‖_F / (‖A‖_F ‖B‖_F) for every A of `first` and B of `second`.

    With A = l₁r₁ and B = l₂r₂: ‖AB‖² = tr((l₁ᵀl₁) M (r₂r₂ᵀ) Mᵀ), M = r₁l₂.
    """
    core = torch.einsum("ard,bds->abrs", first.right, second.left)
    norm = torch.einsum("apr,abrs,bsq,abpq->ab", _gram(first.left.mT), core, _gram(second.right), core)
    return (norm.clamp_min(0) / (_squared_norm(first)[:, None] * _squared_norm(second))).sqrt()


def random_composition(d_model: int, d_head: int, *, draws: int = 50, seed: int = 0) -> float:
    """Mean of the ratio over pairs of matrices with Gaussian factors; near 1/√d_model."""
    generator = stats.torch_generator(seed, "random composition")
    first, second = (
        Factors(
            torch.randn(draws, d_model, d_head, generator=generator), torch.randn(draws, d_head, d_model, generator=generator)
        )
        for _ in range(2)
    )
    return float(product_ratio(first, second).mean())


def copying_scores(model: Model) -> Measurement:
    """`Σ Re λ / Σ |λ|` over the eigenvalues of W_E W_OV W_U for every head: 1 copies every token, −1 suppresses it.

    The non-zero eigenvalues are those of the d_head × d_head matrix W_O W_U W_E W_V. The norms before the head and before
    the unembedding are folded in as stated above; the path is that of the token's own embedding. Measurement(layer, head).

    Raises ModelError as `require_one_stream` and `unembedding`.
    """
    require_one_stream(model)
    around = unembedding(model) @ model.W_E.detach().double()
    values = [eigenvalue_sign(ov_circuit(model, layer), around) for layer in range(model.n_layers)]
    return Measurement("copying", torch.stack(values).cpu().numpy(), ("layer", "head"))


def matching_scores(model: Model) -> Measurement:
    """`Σ Re λ / Σ |λ|` over the eigenvalues of W_E W_QK W_Eᵀ for every head: 1 attends to the query's own token, −1 to others.

    The path is that of the tokens' own embeddings, at one place. Measurement(layer, head). Raises ModelError as above.
    """
    require_one_stream(model)
    embedding = model.W_E.detach().double()
    values = [eigenvalue_sign(qk_circuit(model, layer), embedding.T @ embedding) for layer in range(model.n_layers)]
    return Measurement("matching", torch.stack(values).cpu().numpy(), ("layer", "head"))


def eigenvalue_sign(matrix: Factors, around: Float[Tensor, "n m"]) -> Float[Tensor, " head"]:
    """`Σ Re λ / Σ |λ|` of A left @ right B, with `around` = B A: the eigenvalues of right @ B A @ left, all that are not zero."""
    eigenvalues = torch.linalg.eigvals(matrix.right @ around @ matrix.left)
    return eigenvalues.real.sum(-1) / eigenvalues.abs().sum(-1)


def unembedding(model: Model) -> Float[Tensor, "d_model d_vocab"]:
    """W_U, the norm before it folded in, in float64. Raises ModelError where a model's head is more than a norm and W_U."""
    model.unembed(model.W_E[:1])  # refuses any other head
    return folded(model, "ln_final", model.W_U.detach().double())


def ov_circuit(model: Model, layer: int) -> Factors:
    """W_OV = W_V W_O of every head in the layer, the norm before it folded in. Raises as `require_one_stream`."""
    return _ov(model, _of_layer(model, layer))


def qk_circuit(model: Model, layer: int) -> Factors:
    """W_QK = W_Q W_Kᵀ of every head in the layer, the norm before it folded in; scores are √d_head times smaller.

    Raises as `require_one_stream`.
    """
    return _qk(model, _of_layer(model, layer))


def read_matrix(model: Model, layer: int, way: Way) -> Float[Tensor, "head d_model d_head"]:
    """W_Q, W_K or W_V of every query head, the norm before it folded in, in float64. Raises as `require_one_stream`."""
    return _matrix(model, _of_layer(model, layer), way)


def require_pre_norm(model: Model) -> None:
    """Raises ModelError for models whose residual streams are normed elsewhere than where they are read."""
    if any(sublayer.renorm for sublayer in anatomy(model).sublayers):
        raise ModelError(
            f"{model.name} norms its residual stream after every write (post-LN), so a norm stands between any two heads; its "
            "weights do not multiply into circuits: use patterns, ablation or patching"
        )


def require_one_stream(model: Model) -> None:
    """Raises ModelError for models without one residual stream, from tokens to logits, that is normed only where it is read."""
    require_pre_norm(model)
    if len(anatomy(model).streams) > 1:
        raise ModelError(
            f"{model.name} is an encoder-decoder model: tokens come in through one stack and logits go out of the other; its "
            "weights do not multiply into circuits from token to token: use composition_scores, patterns, ablation or patching"
        )


def _ov(model: Model, attention: Sublayer) -> Factors:
    assert attention.output is not None
    return Factors(_matrix(model, attention, "V"), model.weight(f"{_part(attention.output)}.W_O").detach().double())


def _qk(model: Model, attention: Sublayer) -> Factors:
    return Factors(_matrix(model, attention, "Q"), _matrix(model, attention, "K").mT)


def _reads(model: Model, way: Way, attention: Sublayer) -> Factors:
    """What multiplies an earlier head's output from the right: W_QK, W_QKᵀ or W_OV."""
    if way == "V":
        return _ov(model, attention)
    query_key = _qk(model, attention)
    return query_key if way == "Q" else Factors(query_key.right.mT, query_key.left.mT)


def _matrix(model: Model, attention: Sublayer, way: Way) -> Float[Tensor, "head d_model d_head"]:
    *norms, projection = attention.ways[way.lower()].parts
    matrix = model.weight(f"{_part(projection)}.W_{way}").detach().double()
    for norm in norms:
        matrix = folded(model, norm, matrix)
    assert attention.heads is not None
    return matrix.repeat_interleave(attention.heads // len(matrix), 0)


def _attentions(model: Model) -> list[tuple[Sublayer, str, int]]:
    """Every attention, with the stream it writes into and the depth at which what it writes is there."""
    return [
        (sublayer, stream.prefix, depth)
        for stream in anatomy(model).streams.values()
        for depth, sublayer in enumerate(stream.sublayers, start=1)
        if sublayer.heads is not None
    ]


def _of_layer(model: Model, layer: int) -> Sublayer:
    """The attention of a layer of the one stream."""
    require_one_stream(model)
    return next(each for each, _, _ in _attentions(model) if each.name == f"a{layer}")


def _names(attention: Sublayer) -> list[str]:
    alone = re.fullmatch(r"a(\d+)", attention.name)
    return [f"{alone[1]}.{head}" if alone else f"{attention.name}.h{head}" for head in range(attention.heads or 0)]


def _part(projection: str) -> str:
    """The attention that a projection belongs to."""
    return projection.rpartition(".")[0]


def _gram(rows: Float[Tensor, "head rank n"]) -> Float[Tensor, "head rank rank"]:
    return rows @ rows.mT


def _squared_norm(matrix: Factors) -> Float[Tensor, " head"]:
    return (_gram(matrix.left.mT) * _gram(matrix.right)).sum((-1, -2))
