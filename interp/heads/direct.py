"""Direct logit attribution: what each part of a model writes straight into the logits, summing to them.

In a pre-norm model the last residual stream is a sum of what parts wrote, x = Σ c, and the final norm is linear but for its
scale: n(x) = P(x) ∘ g / σ(x) + b, where P takes the mean out (layer norm) or nothing (RMS norm). With σ frozen at its value on
this input, the logit along u = W_U[:, answer], or along a difference of two such columns, is

    Σ_c c·r + b·u + b_U        with r = P(g ∘ u) / σ(x)

(Elhage et al. 2021, "A Mathematical Framework"). Where the stream is normed after each sum (post-LN), what a part writes goes
through every norm that follows, each frozen likewise: from the last to the first, r ← P(g ∘ r) / σ, and each norm's bias adds
b·r. What the unembedding reads may be scaled once more (T5: by d_model^-½ where embeddings are tied); r is, too.
A log-probability is the logit less log Σ exp of all logits, the softmax's part.

In an encoder–decoder, the stream is the decoder's: cross-attention writes into it what it read of the source, and the encoder
itself nothing. No weight is rewritten, and every table is checked to add up before it is returned. It tells what a part writes
itself; what it does through later parts is not in it.

Must not know: figures, reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ModelError
from interp.measurement import Measurement
from interp.models.anatomy import Stream, Sublayer, anatomy
from interp.models.hooked import Model
from interp.models.norms import gain, takes_mean_out
from interp.models.runs import Run

SLACK = 1e-4
"""How far a sum of parts may miss what the model computed in float32, relative to the sum of their sizes."""


@dataclass(frozen=True)
class Question:
    """What is asked of the logits of every example: that of its answer, less that of `wrong` where it is given.

    positions: where to look, one per example or one for all. log_probability: asks for the answer's log-probability instead.
    """

    answers: Int[Tensor, " example"]
    wrong: Int[Tensor, " example"] | None = None
    positions: Int[Tensor, " example"] | int = -1
    log_probability: bool = False


def by_component(
    model: Model, tokens: Int[Tensor, "example pos"], question: Question, *, batch: int = 32, **beside: Any
) -> Measurement:
    """Contributions of the embeddings, of attention and MLP of every layer, and of biases: Measurement(component, example).

    They add up to what is asked. Components: "embed", "pos_embed", "0.attn", "0.mlp", …; in an encoder–decoder "embed" (positions
    in it), "0.self_attn", "0.cross_attn", "0.mlp", …; then "norm bias", "unembed bias", and for a log-probability "softmax". In
    nats. beside: what the model takes beside tokens, as in `Model.run`: decoder_input, attention_mask.

    Raises ModelError for answers and positions that do not exist, and for models whose logits are not such a sum.
    """
    stream = _stream(model)
    embedded = _embedded(model, stream)
    hooks = [*embedded.values(), *(sublayer.out for sublayer in stream.sublayers)]
    columns, names = [], []
    for asked, run in _batches(model, tokens, question, hooks, batch, beside):
        parts = {name: _read(asked.at(run.activations[hook]), asked.of_embeddings) for name, hook in embedded.items()}
        parts |= {_label(each): _read(asked.at(run.activations[each.out]), asked.of[each.name]) for each in stream.sublayers}
        parts |= asked.constants
        names = list(parts)
        columns.append(torch.stack(list(parts.values())))
        asked.check(columns[-1].sum(0), asked.value, columns[-1].abs().sum(0), "the parts", "its logits")
    return Measurement("contribution", torch.cat(columns, 1).numpy(), ("component", "example"), {"component": names}, "nats")


def by_head(
    model: Model,
    tokens: Int[Tensor, "example pos"],
    question: Question,
    *,
    attention: str = "self",
    batch: int = 32,
    **beside: Any,
) -> Measurement:
    """Contributions z W_O of every head: Measurement(layer, head, example), in nats. The bias b_O of a layer is no head's.

    attention: "self", or in an encoder–decoder "decoder" or "cross". Raises ModelError as `by_component`, and for an attention
    that does not write into this stream.
    """
    layers = _attention(model, attention)
    columns = []
    for asked, run in _batches(
        model, tokens, question, [h for each in layers.values() for h in (each.writes, each.out)], batch, beside
    ):
        heads = [asked.by_heads(each, run) for each in layers.values()]
        for each, brought in zip(layers.values(), heads, strict=True):
            asked.check_sublayer(each, brought, asked.at(run.activations[each.out]))
        columns.append(torch.stack(heads))
    return Measurement(
        "contribution", torch.cat(columns, 2).numpy(), ("layer", "head", "example"), {"layer": list(layers)}, "nats"
    )


def by_source(
    model: Model,
    tokens: Int[Tensor, "example pos"],
    question: Question,
    *,
    attention: str = "self",
    batch: int = 32,
    **beside: Any,
) -> Measurement:
    """What every head brings from each token: A[query, source] v[source] W_O. Measurement(layer, head, source, example), in nats.

    Sums over sources to `by_head`. With "cross", sources are the encoder's tokens. With grouped queries each head reads the
    values of its group. Raises as `by_head`.
    """
    layers = _attention(model, attention)
    hooks = [hook for each in layers.values() for hook in (_pattern(each), each.ways["v"].hook, each.writes)]
    columns = []
    for asked, run in _batches(model, tokens, question, hooks, batch, beside):
        found = []
        for each in layers.values():
            pattern, v = (run.activations[hook].double().cpu() for hook in (_pattern(each), each.ways["v"].hook))
            v = v.repeat_interleave(pattern.shape[1] // v.shape[2], dim=2)
            brought = torch.einsum("eshd,ehd->ehs", v, asked.read_by_heads(each))
            found.append((asked.at(pattern.transpose(1, 2)) * brought).permute(1, 2, 0))
            total, sizes = found[-1].sum(1), found[-1].abs().sum(1)
            asked.check(total, asked.by_heads(each, run), sizes, f"the sources of {each.name}", "what its heads write")
        columns.append(torch.stack(found))
    dims = ("layer", "head", "source", "example")
    return Measurement("contribution", torch.cat(columns, 3).numpy(), dims, {"layer": list(layers)}, "nats")


def by_neuron(
    model: Model, tokens: Int[Tensor, "example pos"], question: Question, *, batch: int = 32, **beside: Any
) -> Measurement:
    """Contributions mᵢ vᵢ of every neuron, vᵢ its row of W_out: Measurement(layer, neuron, example), in nats; b_out apart.

    Raises ModelError as `by_component`, and for models without MLPs and with mixtures of experts.
    """
    layers = _plain_mlps(model)
    columns = []
    for asked, run in _batches(model, tokens, question, [h for m in layers.values() for h in (_post(m), m.out)], batch, beside):
        found = []
        for each in layers.values():
            values = model.weight(f"{_path(each)}.W_out").double().cpu()
            found.append((asked.at(run.activations[_post(each)]) * (asked.of[each.name] @ values.T)).T)
            asked.check_sublayer(each, found[-1], asked.at(run.activations[each.out]))
        columns.append(torch.stack(found))
    dims = ("layer", "neuron", "example")
    return Measurement("contribution", torch.cat(columns, 2).numpy(), dims, {"layer": list(layers)}, "nats")


class _Asked:
    """A question about one batch, as vectors that what is written is read with: `of` every sublayer, and `of_embeddings`."""

    def __init__(self, model: Model, run: Run, question: Question, rows: slice) -> None:
        self.model = model
        logits = run.logits.double().cpu()
        self._rows, self._places = torch.arange(len(logits)), _places(question.positions, rows, logits.shape[:2])
        answers = question.answers[rows].cpu()
        u, b = self._unembedding(answers)
        own = self.at(logits)
        self._rounding = 8 * torch.finfo(torch.float32).eps * own.abs().amax(-1)  # what two equal logits may differ by
        self.value = own[self._rows, answers]
        if question.wrong is not None:
            wrong = question.wrong[rows].cpu()
            other = self._unembedding(wrong)
            u, b, self.value = u - other[0], b - other[1], self.value - own[self._rows, wrong]
        self.of: dict[str, Float[Tensor, "example d_model"]] = {}
        self.of_embeddings, biases = self._back(run, u)
        self.constants = {"norm bias": biases, "unembed bias": b}
        if question.log_probability:
            self.constants["softmax"] = -own.logsumexp(-1)
            self.value = self.value - own.logsumexp(-1)

    def at(self, activation: Float[Tensor, "example pos *rest"]) -> Float[Tensor, "example *rest"]:
        """At the positions asked about."""
        return activation.double().cpu()[self._rows, self._places]

    def by_heads(self, attention: Sublayer, run: Run) -> Float[Tensor, "head example"]:
        """What every head adds to the value."""
        return torch.einsum("ehd,ehd->he", self.at(run.activations[attention.writes]), self.read_by_heads(attention))

    def read_by_heads(self, attention: Sublayer) -> Float[Tensor, "example head d_head"]:
        """What is read of each head's output z: W_O r."""
        return torch.einsum("hdm,em->ehd", self.model.weight(f"{_path(attention)}.W_O").double().cpu(), self.of[attention.name])

    def check_sublayer(self, each: Sublayer, pieces: Float[Tensor, "piece example"], out: Float[Tensor, "example d"]) -> None:
        """Raises ModelError unless the pieces and the bias are all that an attention or MLP wrote."""
        reading = self.of[each.name]
        rest = reading @ _weight(self.model, f"{_path(each)}.{'b_out' if each.heads is None else 'b_O'}", reading.shape[1])
        sizes = (out.abs() * reading.abs()).sum(-1)  # pieces may cancel, and what is written may be read by nothing
        self.check(pieces.sum(0) + rest, _read(out, reading), sizes, f"the pieces of {each.name}", "what it writes")

    def check(self, total: Tensor, wanted: Tensor, sizes: Tensor, parts: str, whole: str) -> None:
        missed = float((((total - wanted).abs() - self._rounding).clamp_min(0) / sizes.clamp_min(1e-9)).max())
        if not missed <= SLACK:
            raise ModelError(
                f"{parts} of {self.model.name} do not add up to {whole} (off by {missed:.1%} of their sizes): it has a norm or a "
                "cap in between; use ablation or patching, which suppose nothing"
            )

    def _unembedding(self, answers: Tensor) -> tuple[Float[Tensor, "example d_model"], Float[Tensor, " example"]]:
        bias = _weight(self.model, "b_U", self.model.d_vocab) + _weight(self.model, "final_logits_bias", self.model.d_vocab)
        return self.model.W_U.double().cpu()[:, answers].T, bias[answers]

    def _back(self, run: Run, u: Float[Tensor, "example d_model"]) -> tuple[Tensor, Float[Tensor, " example"]]:
        """From the unembedding back to the embeddings: what is read of them, and what the norms' biases bring."""
        stream = _stream(self.model)
        reading, biases = self._through_head(run, stream, u)
        for sublayer in reversed(stream.sublayers):
            if sublayer.renorm is not None:
                before = self.at(run.activations[f"{sublayer.renorm}.hook_in"])
                reading, bias = self._through(sublayer.renorm, before, reading)
                biases = biases + bias
            self.of[sublayer.name] = reading
        return reading, biases

    def _through_head(self, run: Run, stream: Stream, u: Tensor) -> tuple[Tensor, Float[Tensor, " example"]]:
        """Through the scale before the unembedding and the final norm, if there are any."""
        final, read = self.at(run.activations[_last(stream)]), self.at(run.activations[_LOGITS_READ])
        norm = _final_norm(self.model, stream)
        normed = final if norm is None else self._normed(norm, final)
        scale = (read * normed).sum() / normed.square().sum()
        if not bool((read - scale * normed).abs().max() <= SLACK * read.abs().max()):
            raise ModelError(
                f"the logits of {self.model.name} are more than a norm and an unembedding of its last residual stream, so they "
                "are no sum of what its parts write; use ablation or patching"
            )
        return (scale * u, torch.zeros_like(u[:, 0])) if norm is None else self._through(norm, final, scale * u)

    def _through(self, norm: str, x: Tensor, reading: Tensor) -> tuple[Tensor, Float[Tensor, " example"]]:
        """What is read before a norm, its scale frozen, and what its bias brings. The norm itself says what its scale is here."""
        weight = gain(self.model, norm).double().cpu()
        shift = self._normed(norm, torch.zeros_like(x[:1]))[0]
        linear, normed = self._centred(x) * weight, self._normed(norm, x) - shift
        scale = (linear * normed).sum(-1) / linear.square().sum(-1)
        return self._centred(weight * reading) * scale[:, None], reading @ shift

    def _normed(self, norm: str, residual: Tensor) -> Tensor:
        return self.model.apply(norm, residual.to(self.model.W_U)[None])[0].double().cpu()

    def _centred(self, vectors: Tensor) -> Tensor:
        return vectors - vectors.mean(-1, keepdim=True) if takes_mean_out(self.model) else vectors


_LOGITS_READ = "unembed.hook_in"


def _read(written: Float[Tensor, "example d_model"], reading: Float[Tensor, "example d_model"]) -> Float[Tensor, " example"]:
    """What vectors in the stream add to the value."""
    return (written * reading).sum(-1)


def _batches(
    model: Model, tokens: Int[Tensor, "example pos"], question: Question, hooks: Sequence[str], batch: int, beside: dict[str, Any]
) -> Iterator[tuple[_Asked, Run]]:
    """Runs over the examples, each with the question about its batch."""
    _check(model, tokens, question)
    stream = _stream(model)
    normed = [f"{sublayer.renorm}.hook_in" for sublayer in stream.sublayers if sublayer.renorm is not None]
    for start in range(0, len(tokens), batch):
        rows = slice(start, start + batch)
        part = {name: value[rows] for name, value in beside.items()}
        run = model.run(tokens[rows], read=sorted({*hooks, *normed, _last(stream), _LOGITS_READ}), logits=True, **part)
        yield _Asked(model, run, question, rows), run


def _check(model: Model, tokens: Tensor, question: Question) -> None:
    for name, ids in (("answers", question.answers), ("wrong", question.wrong)):
        if ids is None:
            continue
        if ids.shape != (len(tokens),):
            raise ModelError(f"{name} has shape {list(ids.shape)} for {len(tokens)} examples; give one token id per example")
        if int(ids.min()) < 0 or int(ids.max()) >= model.d_vocab:
            outside = int(ids[(ids < 0) | (ids >= model.d_vocab)][0])
            raise ModelError(f"{name} holds the id {outside}, but the model's vocabulary is 0 to {model.d_vocab - 1}")


def _places(positions: Tensor | int, rows: slice, shape: Sequence[int]) -> Int[Tensor, " example"]:
    """The position of every example of a batch, counted from the front."""
    places = torch.full(shape[:1], positions) if isinstance(positions, int) else positions[rows].cpu()
    if places.shape != shape[:1] or int(places.min()) < -shape[1] or int(places.max()) >= shape[1]:
        raise ModelError(f"positions do not lie in rows of {shape[1]} tokens; give one place per example, or one for all")
    return places % shape[1]


# ---- where things stand ----


def _stream(model: Model) -> Stream:
    """The stream that the logits read."""
    found = anatomy(model)
    return found.streams[found.logits.stream]


def _embedded(model: Model, stream: Stream) -> dict[str, str]:
    """What stands in the stream at its start, by name."""
    apart = {"embed": "hook_embed", "pos_embed": "hook_pos_embed"}
    return {"embed": stream.start} if stream.prefix else {name: hook for name, hook in apart.items() if hook in model.hooks}


def _attention(model: Model, name: str) -> dict[int, Sublayer]:
    """The attention of every layer that is called so."""
    stream = _stream(model)
    own, known = "decoder" if stream.prefix else "self", dict[str, dict[int, Sublayer]]()
    for each in stream.sublayers:
        if each.heads is not None:
            known.setdefault(own if each.ways["v"].stream == stream.prefix else "cross", {})[_layer(each)] = each
    if name not in known:
        raise ModelError(
            f"no attention {name!r} writes into what the logits of {model.name} read; ask for {' or '.join(map(repr, known))}"
        )
    return known[name]


def _plain_mlps(model: Model) -> dict[int, Sublayer]:
    """The MLP of every layer."""
    stream = _stream(model)
    found = {_layer(each): each for each in stream.sublayers if each.heads is None}
    for layer in range(len(stream.ends)):
        if layer not in found:
            raise ModelError(f"layer {layer} of {model.name} has no MLP, so there are no neurons; use by_component or by_head")
        try:
            model.weight(f"{_path(found[layer])}.W_out")
        except ModelError:
            raise ModelError(
                f"the MLP of layer {layer} of {model.name} is no single one (a mixture of experts); by_component has it whole"
            ) from None
    return found


def _final_norm(model: Model, stream: Stream) -> str | None:
    norm = "decoder_ln_final" if stream.prefix else "ln_final"
    return norm if f"{norm}.hook_in" in model.hooks else None


def _weight(model: Model, name: str, size: int) -> Float[Tensor, " size"]:
    """A bias; zeros where the model has none of that name."""
    try:
        return model.weight(name).double().cpu().flatten()
    except ModelError:
        return torch.zeros(size, dtype=torch.float64)


def _path(each: Sublayer) -> str:
    """The part of the model that a sublayer is: "blocks.0.attn", "decoder_blocks.1.cross_attn", "blocks.0.mlp"."""
    block, _, leaf = each.writes.rpartition(".")
    return f"{block}.mlp" if leaf == "hook_mlp_out" else block


def _label(each: Sublayer) -> str:
    """Its name as a component: "0.attn"."""
    return _path(each).partition(".")[2]


def _layer(each: Sublayer) -> int:
    return int(_label(each).partition(".")[0])


def _pattern(attention: Sublayer) -> str:
    return f"{_path(attention)}.hook_pattern"


def _post(mlp: Sublayer) -> str:
    return f"{_path(mlp)}.hook_post"


def _last(stream: Stream) -> str:
    return stream.ends[len(stream.sublayers)]
