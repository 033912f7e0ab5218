"""Models whose circuits are known because they were written by hand: ground truth for whatever claims to find circuits.

A `Compiled` is a model, a label for every dimension of its residual stream, the edges that matter under each kind of ablation,
and contrasts to ask about. What matters depends on the ablation, so there is no truth without one: an edge that carries the
same in both twins of every contrast can be set to zero with effect, and replaced by its twin's without.
Edges are written as in `interp.heads.graph`: "a0.h0->a1.h0<k>" is head 0 of layer 0 as the keys of head 0 of layer 1 read it.

`induction` is the closed form of an induction head (Elhage et al. 2021, "A Mathematical Framework", induction heads; Olsson
et al. 2022, arXiv:2209.11895), beside heads that do the same and write where nothing reads.

Must not know: analyses, reports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp import stats
from interp.errors import ConfigError
from interp.models.hooked import Model
from interp.models.lens import native_module
from interp.tasks.contrast import Contrast

Ablation = Literal["corrupt", "zero", "mean"]
"""What an edge carries instead: the corrupted twin's value, nothing, or the mean of the corrupted values at its position."""

BOS = 0
"""The first token of every input, in every model here."""


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A model and the truth about it.

    labels: what each dimension of the residual stream holds, as "prev=3".
    circuits: for each ablation, the edges whose replacement changes the logit difference of some contrast; no other edge does.
    decoys: edges at components that compute and attend like those of the circuit, to no effect.
    draw: makes contrasts, from their number and a generator.
    description: what the model computes and how.
    """

    model: Model
    labels: tuple[str, ...]
    circuits: Mapping[Ablation, frozenset[str]]
    decoys: frozenset[str]
    draw: Callable[[int, torch.Generator], Contrast]
    description: str

    def contrast(self, n: int, *, seed: int) -> Contrast:
        """`n` examples of what the circuit is for. Raises ConfigError for none."""
        if n < 1:
            raise ConfigError(f"n={n} examples; ask for 1 or more")
        return self.draw(n, stats.torch_generator(seed, "contrast"))


# ---- induction ----

VOCABULARY = 17  # BOS among them
LENGTH = 12
HEADS = 4
_TRUE = "input->a0.h0<v> input->a1.h0<q> input->a1.h0<v> a0.h0->a1.h0<k> a1.h0->logits"
_CONSTANT = "input->a0.h0<q> input->a0.h0<k> input->a1.h0<k>"


def induction(*, sharpness: float = 30.0, noise: float = 0.0, seed: int = 0) -> Compiled:
    """Two layers of attention and no norm, which say what followed the last token when it stood before, and BOS if it never did.

    Residual stream: token | position | previous token | output | null. Head 0 of layer 0 attends to the position before
    and writes its token to `prev`; head 0 of layer 1 attends to where `prev` is the last token, writes the token there to
    `out`, and rests on BOS, whose score is half that of a match. Scores of a match are `sharpness`. The other heads are
    decoys: they do the same by `null`, attend to equal tokens, or to all, and write to `null`, which nothing else reads.

    Of 81 edges 8 matter, and 5 when tokens are replaced by others: where a head looks by position, and the score of BOS, are
    the same in both twins. `noise` is the standard deviation of what is added to every weight matrix, by `seed`.
    """
    if sharpness <= 0 or noise < 0:
        raise ConfigError(f"sharpness={sharpness}, noise={noise}: sharpness must be above 0, noise 0 or more")
    spans = Spans({"tok": VOCABULARY, "pos": LENGTH, "prev": VOCABULARY, "out": VOCABULARY, "null": VOCABULARY})
    shape = {"n_layers": 2, "n_heads": HEADS, "d_head": VOCABULARY, "n_ctx": LENGTH, "d_vocab": VOCABULARY, "attn_only": True}
    module = blank_module({"d_model": spans.width} | shape)
    with torch.no_grad():
        module.tok_embed.weight[:, spans["tok"]] = torch.eye(VOCABULARY)
        module.pos.weight[:, spans["pos"]] = torch.eye(LENGTH)
        _first_layer(module.layers[0].attn, spans, sharpness)
        _second_layer(module.layers[1].attn, spans, sharpness)
        module.head.weight[:, spans["out"]] = 10 * torch.eye(VOCABULARY)
        add_noise(module, noise, seed)
    seen = frozenset(_TRUE.split())
    return Compiled(
        model=Model.wrap(module.eval(), name="closed-form induction"),
        labels=spans.labels,
        circuits={"corrupt": seen, "zero": seen | frozenset(_CONSTANT.split()), "mean": seen},
        decoys=_decoy_edges(),
        draw=_induction_contrast,
        description="the token that followed the last one when it stood before, BOS if it never did",
    )


def _first_layer(attn: Any, spans: Spans, sharpness: float) -> None:
    """Head 0 copies the token before to `prev`, head 1 to `null`; head 2 attends to equal tokens, head 3 to all."""
    for head, place in ((0, "prev"), (1, "null")):
        weights = head_weights(attn, head)
        weights.q[:LENGTH, spans["pos"]] = sharpness * attn.scale * torch.eye(LENGTH)
        weights.k[1:LENGTH, spans["pos"]] = torch.eye(LENGTH)[: LENGTH - 1]
        _copy(weights, spans["tok"], spans[place])
    _same_token(head_weights(attn, 2), spans, sharpness * attn.scale)
    _copy(head_weights(attn, 3), spans["tok"], spans["null"])


def _second_layer(attn: Any, spans: Spans, sharpness: float) -> None:
    """Head 0 is the induction head, head 1 its like by `null` and to `null`; heads 2 and 3 as in the first layer."""
    for head, (key, place) in enumerate((("prev", "out"), ("null", "null"))):
        weights = head_weights(attn, head)
        weights.q[:, spans["tok"]] = sharpness * attn.scale * torch.eye(VOCABULARY)
        weights.k[:, spans[key]] = torch.eye(VOCABULARY)
        weights.k[:, spans["tok"].start + BOS] = 0.5
        _copy(weights, spans["tok"], spans[place])
    _same_token(head_weights(attn, 2), spans, sharpness * attn.scale)
    _copy(head_weights(attn, 3), spans["tok"], spans["null"])


def _same_token(weights: HeadWeights, spans: Spans, sharpness: float) -> None:
    weights.q[:, spans["tok"]] = sharpness * torch.eye(VOCABULARY)
    weights.k[:, spans["tok"]] = torch.eye(VOCABULARY)
    _copy(weights, spans["tok"], spans["null"])


def _copy(weights: HeadWeights, source: slice, target: slice) -> None:
    weights.v[:, source] = torch.eye(VOCABULARY)
    weights.o[target] = torch.eye(VOCABULARY)


def _decoy_edges() -> frozenset[str]:
    """All edges into and out of the decoy heads."""
    heads = [(layer, head) for layer in range(2) for head in range(HEADS)]
    names = {place: "a{}.h{}".format(*place) for place in heads}
    edges = [("input", place, f"input->{name}<{way}>") for place, name in names.items() for way in "qkv"]
    edges += [(place, "logits", f"{name}->logits") for place, name in names.items()]
    between = [(u, v) for u in heads for v in heads if u[0] < v[0]]
    edges += [(u, v, f"{names[u]}->{names[v]}<{way}>") for u, v in between for way in "qkv"]
    decoys = [place for place in heads if place[1] > 0]
    return frozenset(edge for source, target, edge in edges if source in decoys or target in decoys)


def _induction_contrast(n: int, generator: torch.Generator) -> Contrast:
    """BOS, then tokens that all differ; the last repeats one of them, but in every fourth example it is new.

    The twin has every token but BOS moved on by one and the same number of places in the vocabulary.
    """
    words = VOCABULARY - 1
    clean = torch.stack([torch.randperm(words, generator=generator)[: LENGTH - 1] for _ in range(n)]) + 1
    rows, match = torch.arange(n), torch.randint(LENGTH - 3, (n,), generator=generator)
    seen = rows % 4 != 3
    clean[seen, -1] = clean[rows, match][seen]
    shift = torch.randint(1, words, (n, 1), generator=generator)
    twin = (clean - 1 + shift) % words + 1
    start = torch.full((n, 1), BOS)
    return Contrast(
        clean=torch.cat([start, clean], 1),
        corrupt=torch.cat([start, twin], 1),
        answers=torch.where(seen, clean[rows, match + 1], BOS),
        wrong=torch.where(seen, twin[rows, match + 1], clean[:, 0]),
    )


# ---- writing weights by hand ----


class HeadWeights(NamedTuple):
    """Views of one head's weights: q, k, v are [d_head d_model], o is [d_model d_head]."""

    q: Float[Tensor, "d_head d_model"]
    k: Float[Tensor, "d_head d_model"]
    v: Float[Tensor, "d_head d_model"]
    o: Float[Tensor, "d_model d_head"]


def head_weights(attn: Any, head: int) -> HeadWeights:
    """One head's weights in a native attention; what is written into them is written into the module."""
    rows = slice(head * attn.d_head, (head + 1) * attn.d_head)
    return HeadWeights(attn.q.weight[rows], attn.k.weight[rows], attn.v.weight[rows], attn.o.weight[:, rows])


def blank_module(architecture: dict[str, Any]) -> Any:
    """A native module whose weights are all zero, without norms unless the architecture asks for them."""
    module = native_module({"act_fn": "relu", "normalization_type": None} | architecture, 0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    return module


def add_noise(module: Any, deviation: float, seed: int) -> None:
    """Adds independent Gaussian noise to every weight matrix, not to biases and norms."""
    generator = stats.torch_generator(seed, "weight noise")
    for parameter in module.parameters():
        if parameter.ndim == 2:
            parameter += deviation * torch.randn(parameter.shape, generator=generator)


class Spans:
    """Stretches of the residual stream by name, one after the other."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        ends = torch.tensor(list(sizes.values())).cumsum(0).tolist()
        self._spans = {name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}
        self.width: int = ends[-1]

    def __getitem__(self, name: str) -> slice:
        return self._spans[name]

    def size(self, name: str) -> int:
        """Dimensions of one stretch."""
        return self._spans[name].stop - self._spans[name].start

    @property
    def labels(self) -> tuple[str, ...]:
        """Of every dimension: the stretch and the place in it, as "prev=3"."""
        return tuple(f"{name}={i}" for name in self._spans for i in range(self.size(name)))
