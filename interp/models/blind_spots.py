"""Small models in which a usual way of finding out what matters goes wrong, each by one mechanism and with the truth declared.

Every one is a `BlindSpot`: a model whose truth is known, the method that is misled, and what it misses or invents. Most read BOS
and one word, and say the word. `BLIND_SPOTS` has them all by name.

Must not know: analyses, reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp import stats
from interp.models.compiled import BOS, Ablation, Compiled, Spans, blank_module, head_weights, induction
from interp.models.hooked import Model
from interp.tasks.contrast import Contrast

WORDS = 4
SHARPNESS = 30.0
TETRAHEDRON = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 3**0.5
"""Four directions in three dimensions, a column each; every two have cosine −1/3."""

Write = Callable[[Any, Spans], None]
"""Writes the weights of a blank module, given where things lie in its residual stream."""


@dataclass(frozen=True, kw_only=True)
class BlindSpot:
    """A known model and a method that it misleads.

    misled: the method that fails, and why. finds: what tells the truth instead.
    misses: edges that matter and are given nothing, or nearly. invents: edges that do not matter, together or at all, and are
    given much.
    """

    known: Compiled
    misled: str
    finds: str
    misses: frozenset[str] = frozenset()
    invents: frozenset[str] = frozenset()


def saturated_softmax() -> BlindSpot:
    """Closed-form induction without noise: attention so sure of itself that its gradient is gone."""
    return BlindSpot(
        known=induction(),
        misled="EAP: the gradient of a softmax whose scores lie 15 apart is e^(−15)",
        finds="EAP-IG, or replacing the edge",
        misses=frozenset({"input->a0.h0<v>", "input->a1.h0<q>", "a0.h0->a1.h0<k>"}),
    )


def redundant_heads() -> BlindSpot:
    """Two heads see the same, and the MLP says so if either does: min(1, a + b).

    Without one of them the other is enough; with one of them alone, too. The circuit of the contrast has neither, that of its
    `swapped()` has both.
    """

    def write(module: Any, spans: Spans) -> None:
        likes = torch.tensor([[1.0, 1.0, 0.0, 0.0]])  # of the four words two are seen
        for head in (0, 1):
            copy_word(module, spans, 0, head, spans["seen"], by=likes)
        for neuron, (threshold, sign) in enumerate(((0.0, 1.0), (1.0, -1.0))):
            _neuron(module, neuron, {spans["seen"].start: 1.0}, -threshold, spans["said"].start, sign)

    known = _known("redundant heads", write, _circuits("m0->logits"), {"seen": 1, "said": WORDS}, draw=_seen_or_not)
    return BlindSpot(
        known=known,
        misled="replacing one edge of the clean run at a time (noising), and gradients there",
        finds="the swapped contrast (denoising), or replacing both heads together",
        misses=frozenset(edge for head in (0, 1) for edge in (f"input->a0.h{head}<v>", f"a0.h{head}->m0")),
    )


def cancelling_heads() -> BlindSpot:
    """One head says the word; two more say the next word and take it back."""

    def write(module: Any, spans: Spans) -> None:
        copy_word(module, spans, 0, 0, spans["said"], by=torch.eye(WORDS))
        for head, sign in ((1, 1.0), (2, -1.0)):
            copy_word(module, spans, 0, head, spans["said"], by=sign * torch.eye(WORDS).roll(1, 0))

    heads = [f"a0.h{head}" for head in range(3)]
    seen = [edge for head in heads for edge in (f"input->{head}<v>", f"{head}->logits")]
    known = _known("cancelling heads", write, _circuits(*seen, zero=_keys(heads)), {"said": WORDS}, heads=3)
    return BlindSpot(
        known=known,
        misled="effects of single edges, exact or not: two heads of which nothing is left in the output look important",
        finds="replacing both heads together",
        invents=frozenset(edge for edge in seen if "h0" not in edge),
    )


def constant_head() -> BlindSpot:
    """A head that attends to BOS and always writes the same, without which the MLP says nothing. It carries no information."""

    def write(module: Any, spans: Spans) -> None:
        attn = module.layers[0].attn
        weights = head_weights(attn, 0)
        attn.q.bias[0] = SHARPNESS * attn.scale
        weights.k[0, spans["bos"]] = 1.0
        weights.v[0, spans["bos"]] = 1.0
        weights.o[spans["on"], 0] = 1.0
        for word in range(WORDS):
            reads = {spans["words"].start + word: 1.0, spans["on"].start: 1.0}
            _neuron(module, word, reads, -1.0, spans["said"].start + word, 1.0)

    constant = ["input->a0.h0<k>", "input->a0.h0<v>", "a0.h0->m0"]
    circuits = _circuits("input->m0", "m0->logits", zero=constant)
    known = _known("constant head", write, circuits, {"on": 1, "said": WORDS}, heads=1)
    return BlindSpot(
        known=known,
        misled="zero ablation, as a measure of what carries the answer",
        finds="replacement by corrupted or mean values",
        invents=frozenset(constant),
    )


def unused_direction() -> BlindSpot:
    """A head whose keys read all that an earlier head writes, for queries that nothing ever writes: it attends evenly."""

    def write(module: Any, spans: Spans) -> None:
        copy_word(module, spans, 0, 0, spans["seen"], by=torch.eye(WORDS))
        weights = head_weights(module.layers[1].attn, 0)
        weights.q[:WORDS, spans["never"]] = SHARPNESS * torch.eye(WORDS)
        weights.k[:WORDS, spans["seen"]] = torch.eye(WORDS)
        weights.v[:WORDS, spans["words"]] = torch.eye(WORDS)
        weights.o[spans["said"], :WORDS] = torch.eye(WORDS)

    circuits = _circuits("input->a1.h0<v>", "a1.h0->logits")
    known = _known("unused direction", write, circuits, {"seen": WORDS, "never": WORDS, "said": WORDS}, heads=1, layers=2)
    return BlindSpot(
        known=known,
        misled="K-composition of weights: the scores depend on the earlier head's writing and on nothing else",
        finds="any intervention on activations",
        invents=frozenset({"a0.h0->a1.h0<k>"}),
    )


def rotated_basis(*, seed: int = 0) -> BlindSpot:
    """Closed-form induction in a residual stream turned at random: the same logits, and no dimension means anything by itself.

    Label i is what lies along row i of the rotation, which is W_E of token 0, 1, … for the first ones.
    """
    plain = induction()
    generator = stats.torch_generator(seed, "rotation")
    turn = torch.linalg.qr(torch.randn(plain.model.d_model, plain.model.d_model, generator=generator)).Q
    model = Model.wrap(blank_module(plain.model.config).eval(), name="rotated induction")
    for name in ("W_E", "W_pos"):
        model.weight(name).copy_(plain.model.weight(name) @ turn)
    model.weight("W_U").copy_(turn.T @ plain.model.W_U)
    for layer in range(model.n_layers):
        place = f"blocks.{layer}.attn"
        for name in ("W_Q", "W_K", "W_V"):
            model.weight(f"{place}.{name}").copy_(turn.T @ plain.model.weight(f"{place}.{name}"))
        model.weight(f"{place}.W_O").copy_(plain.model.weight(f"{place}.W_O") @ turn)
    return BlindSpot(
        known=replace(plain, model=model, description=f"{plain.description}, in a rotated residual stream"),
        misled="reading single dimensions of the residual stream",
        finds="edges and nodes, which no rotation changes",
    )


def leaking_scale() -> BlindSpot:
    """A head writes to the side of all that is read, for some words more than for others; the norm's scale alone carries it."""

    def write(module: Any, spans: Spans) -> None:
        copy_word(module, spans, 0, 0, spans["said"], by=torch.eye(WORDS))
        copy_word(module, spans, 0, 1, spans["aside"], by=torch.arange(1.0, WORDS + 1)[None])

    heads = ["a0.h0", "a0.h1"]
    seen = [edge for head in heads for edge in (f"input->{head}<v>", f"{head}->logits")]
    circuits = _circuits(*seen, zero=[*_keys(heads), "input->logits"], mean=["input->logits"])
    known = _known("leaking scale", write, circuits, {"said": WORDS, "aside": 1}, norm="RMSPre")
    return BlindSpot(
        known=known,
        misled="direct logit attribution at a frozen scale: the head's writing is orthogonal to every logit",
        finds="replacing the edge, or a gradient that goes through the norm",
        misses=frozenset({"a0.h1->logits"}),
    )


def superposed_writes() -> BlindSpot:
    """Four words share three dimensions. One head writes the word there, another a fainter trace of the next word, which the
    neurons read too, and clip away."""

    def write(module: Any, spans: Spans) -> None:
        copy_word(module, spans, 0, 0, spans["shared"], by=TETRAHEDRON)
        copy_word(module, spans, 0, 1, spans["shared"], by=0.3 * TETRAHEDRON.roll(-1, 1))
        for word in range(WORDS):
            direction = (5 * TETRAHEDRON[:, word]).tolist()
            reads = dict(enumerate(direction, spans["shared"].start))
            for half, (threshold, sign) in enumerate(((0.6, 1.0), (0.8, -1.0))):
                _neuron(module, 2 * word + half, reads, -5 * threshold, spans["said"].start + word, sign)

    circuits = _circuits("input->a0.h0<v>", "a0.h0->m0", "m0->logits", zero=_keys(["a0.h0"]))
    known = _known("superposed writes", write, circuits, {"shared": 3, "said": WORDS})
    return BlindSpot(
        known=known,
        misled="weights: what the second head writes lies along directions that neurons read",
        finds="replacing the edge, or its gradient: the neurons are clipped",
        invents=frozenset({"a0.h1->m0"}),
    )


BLIND_SPOTS: dict[str, Callable[[], BlindSpot]] = {
    "saturated softmax": saturated_softmax,
    "redundant heads": redundant_heads,
    "cancelling heads": cancelling_heads,
    "constant head": constant_head,
    "unused direction": unused_direction,
    "rotated basis": rotated_basis,
    "leaking scale": leaking_scale,
    "superposed writes": superposed_writes,
}


# ---- parts ----


def copy_word(module: Any, spans: Spans, layer: int, head: int, target: slice, *, by: Float[Tensor, "d word"]) -> None:
    """A head that attends to the word and writes column w of `by` for word w."""
    attn = module.layers[layer].attn
    weights = head_weights(attn, head)
    attn.q.bias[head * attn.d_head] = SHARPNESS * attn.scale
    weights.k[0, spans["words"]] = 1.0
    weights.v[:WORDS, spans["words"]] = torch.eye(WORDS)
    weights.o[target, :WORDS] = by


def _neuron(module: Any, neuron: int, reads: dict[int, float], bias: float, target: int, amount: float) -> None:
    mlp = module.layers[0].mlp
    mlp.fc_in.bias[neuron] = bias
    mlp.fc_out.weight[target, neuron] = amount
    for dimension, weight in reads.items():
        mlp.fc_in.weight[neuron, dimension] = weight


def _keys(heads: Iterable[str]) -> list[str]:
    return [f"input->{head}<k>" for head in heads]


def _circuits(*seen: str, zero: Iterable[str] = (), mean: Iterable[str] = ()) -> dict[Ablation, frozenset[str]]:
    """What matters when replaced by the twin's, and what besides when set to zero or to the mean."""
    return {"corrupt": frozenset(seen), "zero": frozenset((*seen, *zero)), "mean": frozenset((*seen, *mean))}


def _known(
    name: str,
    write: Write,
    circuits: dict[Ablation, frozenset[str]],
    sizes: dict[str, int],
    *,
    heads: int = 2,
    layers: int = 1,
    norm: str | None = None,
    draw: Callable[[int, torch.Generator], Contrast] | None = None,
) -> Compiled:
    """A model over BOS and one word that says logit i + 1 for dimension i of "said"."""
    spans = Spans({"bos": 1, "words": WORDS} | sizes)
    shape = {"n_layers": layers, "n_heads": heads, "d_head": WORDS, "n_ctx": 2, "d_vocab": WORDS + 1, "d_mlp": 2 * WORDS}
    module = blank_module({"d_model": spans.width, "normalization_type": norm} | shape)
    with torch.no_grad():
        module.tok_embed.weight[BOS, spans["bos"]] = 1.0
        module.tok_embed.weight[1:, spans["words"]] = torch.eye(WORDS)
        module.head.weight[1:, spans["said"]] = torch.eye(WORDS)
        write(module, spans)
    return Compiled(
        model=Model.wrap(module.eval(), name=name),
        labels=spans.labels,
        circuits=circuits,
        decoys=frozenset(),
        draw=draw or _two_words,
        description="the word",
    )


def _two_words(n: int, generator: torch.Generator) -> Contrast:
    """A word, and another in the twin."""
    words = torch.randint(WORDS, (n,), generator=generator)
    others = (words + torch.randint(1, WORDS, (n,), generator=generator)) % WORDS
    return _asked(words + 1, others + 1, answers=words + 1, wrong=others + 1)


def _seen_or_not(n: int, generator: torch.Generator) -> Contrast:
    """A word that is seen, and one that is not in the twin; asked is the logit that says so, against one that is never raised."""
    words, others = (torch.randint(2, (n,), generator=generator) + shift for shift in (1, 3))
    return _asked(words, others, answers=torch.ones_like(words), wrong=torch.full_like(words, WORDS))


def _asked(clean: Tensor, corrupt: Tensor, *, answers: Tensor, wrong: Tensor) -> Contrast:
    def rows(words: Tensor) -> Tensor:
        return torch.stack([torch.full_like(words, BOS), words], 1)

    return Contrast(clean=rows(clean), corrupt=rows(corrupt), answers=answers, wrong=wrong)
