"""Direct logit attribution: what each part of a model writes straight into the logits, summing to them.

In a pre-norm model the last residual stream is a sum of what parts wrote, x = Σ c, and the final norm is linear but for its
scale: n(x) = P(x) ∘ g / σ(x) + b, where P takes the mean out (layer norm) or nothing (RMS norm). With σ frozen at its value on
this input, the logit along u = W_U[:, answer], or along a difference of two such columns, is

    Σ_c c·r + b·u + b_U        with r = P(g ∘ u) / σ(x)

(Elhage et al. 2021, "A Mathematical Framework"). A log-probability is the logit less log Σ exp of all logits, the softmax's
part. No weight is rewritten, and every table is checked to add up before it is returned. It tells what a part writes itself;
what it does through later parts is not in it.

Must not know: figures, reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ModelError
from interp.measurement import Measurement
from interp.models.anatomy import anatomy
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


def by_component(model: Model, tokens: Int[Tensor, "example pos"], question: Question, *, batch: int = 32) -> Measurement:
    """Contributions of the embeddings, of attention and MLP of every layer, and of biases: Measurement(component, example).

    They add up to what is asked. Components: "embed", "pos_embed", "0.attn", "0.mlp", …, "norm bias", "unembed bias", and for a
    log-probability "softmax". In nats.

    Raises ModelError for answers and positions that do not exist, and for models whose logits are not such a sum.
    """
    written = _written(model)
    columns = []
    for asked, run in _batches(model, tokens, question, list(written.values()), batch):
        parts = {name: asked.direct(asked.at(run.activations[hook])) for name, hook in written.items()} | asked.constants
        columns.append(torch.stack(list(parts.values())))
        asked.check(columns[-1].sum(0), asked.value, columns[-1].abs().sum(0), "the parts", "its logits")
    names = [*written, *asked.constants]
    return Measurement("contribution", torch.cat(columns, 1).numpy(), ("component", "example"), {"component": names}, "nats")


def by_head(model: Model, tokens: Int[Tensor, "example pos"], question: Question, *, batch: int = 32) -> Measurement:
    """Contributions z W_O of every head: Measurement(layer, head, example), in nats. The bias b_O of a layer is no head's.

    Raises ModelError as `by_component`.
    """
    columns = []
    for asked, run in _batches(model, tokens, question, _hooks(model, "attn.hook_z", "hook_attn_out"), batch):
        layers = [torch.einsum("ehd,ehd->he", asked.at(_attn(run, at, "z")), asked.read_by_heads(at)) for at in _layers(model)]
        for layer, heads in enumerate(layers):
            asked.check_layer(layer, "attn", heads, asked.at(run.activations[f"blocks.{layer}.hook_attn_out"]))
        columns.append(torch.stack(layers))
    return Measurement("contribution", torch.cat(columns, 2).numpy(), ("layer", "head", "example"), unit="nats")


def by_source(model: Model, tokens: Int[Tensor, "example pos"], question: Question, *, batch: int = 32) -> Measurement:
    """What every head brings from each token: A[query, source] v[source] W_O. Measurement(layer, head, source, example), in nats.

    Sums over sources to `by_head`. With grouped queries each head reads the values of its group. Raises ModelError as
    `by_component`.
    """
    columns = []
    for asked, run in _batches(model, tokens, question, _hooks(model, "attn.hook_pattern", "attn.hook_v", "attn.hook_z"), batch):
        layers = []
        for layer in _layers(model):
            pattern, v = _attn(run, layer, "pattern").double().cpu(), _attn(run, layer, "v").double().cpu()
            v = v.repeat_interleave(pattern.shape[1] // v.shape[2], dim=2)
            brought = torch.einsum("eshd,ehd->ehs", v, asked.read_by_heads(layer))
            query = asked.at(pattern.transpose(1, 2))
            layers.append((query * brought).permute(1, 2, 0))
            whole = torch.einsum("ehd,ehd->he", asked.at(_attn(run, layer, "z")), asked.read_by_heads(layer))
            asked.check(
                layers[-1].sum(1), whole, layers[-1].abs().sum(1), f"the sources of layer {layer}", "what its heads write"
            )
        columns.append(torch.stack(layers))
    return Measurement("contribution", torch.cat(columns, 3).numpy(), ("layer", "head", "source", "example"), unit="nats")


def by_neuron(model: Model, tokens: Int[Tensor, "example pos"], question: Question, *, batch: int = 32) -> Measurement:
    """Contributions mᵢ vᵢ of every neuron, vᵢ its row of W_out: Measurement(layer, neuron, example), in nats; b_out apart.

    Raises ModelError as `by_component`, and for models without MLPs and with mixtures of experts.
    """
    _check(model, tokens, question)
    _require_plain_mlps(model)
    columns = []
    for asked, run in _batches(model, tokens, question, _hooks(model, "mlp.hook_post", "hook_mlp_out"), batch):
        layers = []
        for layer in _layers(model):
            values = model.weight(f"blocks.{layer}.mlp.W_out").double().cpu()
            active = asked.at(run.activations[f"blocks.{layer}.mlp.hook_post"])
            layers.append((active * (asked.reading @ values.T)).T)
            asked.check_layer(layer, "mlp", layers[-1], asked.at(run.activations[f"blocks.{layer}.hook_mlp_out"]))
        columns.append(torch.stack(layers))
    return Measurement("contribution", torch.cat(columns, 2).numpy(), ("layer", "neuron", "example"), unit="nats")


class _Asked:
    """A question about one batch, as vectors that what is written is read with."""

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
        self.reading, shift = self._through_norm(run, u)
        self.constants = {"norm bias": u @ shift, "unembed bias": b}
        if question.log_probability:
            self.constants["softmax"] = -own.logsumexp(-1)
            self.value = self.value - own.logsumexp(-1)

    def at(self, activation: Float[Tensor, "example pos *rest"]) -> Float[Tensor, "example *rest"]:
        """At the positions asked about."""
        return activation.double().cpu()[self._rows, self._places]

    def direct(self, written: Float[Tensor, "example d_model"]) -> Float[Tensor, " example"]:
        """What vectors in the last residual stream add to the value."""
        return (written * self.reading).sum(-1)

    def read_by_heads(self, layer: int) -> Float[Tensor, "example head d_head"]:
        """What is read of each head's output z: W_O r."""
        return torch.einsum("hdm,em->ehd", self.model.weight(f"blocks.{layer}.attn.W_O").double().cpu(), self.reading)

    def check_layer(self, layer: int, part: str, pieces: Float[Tensor, "piece example"], out: Float[Tensor, "example d"]) -> None:
        """Raises ModelError unless the pieces and the bias are all that the attention or MLP of a layer wrote."""
        bias = {"attn": "attn.b_O", "mlp": "mlp.b_out"}[part]
        try:
            rest = self.reading @ self.model.weight(f"blocks.{layer}.{bias}").double().cpu()
        except ModelError:  # no bias
            rest = torch.zeros(len(self.reading), dtype=torch.float64)
        sizes = (out.abs() * self.reading.abs()).sum(-1)  # pieces may cancel, and what is written may be read by nothing
        self.check(pieces.sum(0) + rest, self.direct(out), sizes, f"the {part} of layer {layer}", "what it writes")

    def check(self, total: Tensor, wanted: Tensor, sizes: Tensor, parts: str, whole: str) -> None:
        missed = float((((total - wanted).abs() - self._rounding).clamp_min(0) / sizes.clamp_min(1e-9)).max())
        if not missed <= SLACK:
            raise ModelError(
                f"{parts} of {self.model.name} do not add up to {whole} (off by {missed:.1%} of their sizes): it has a norm or a "
                "cap in between; use ablation or patching, which suppose nothing"
            )

    def _unembedding(self, answers: Tensor) -> tuple[Float[Tensor, "example d_model"], Float[Tensor, " example"]]:
        try:
            bias = self.model.b_U.double().cpu()[answers]
        except ModelError:
            bias = torch.zeros(len(answers), dtype=torch.float64)
        return self.model.W_U.double().cpu()[:, answers].T, bias

    def _through_norm(self, run: Run, u: Float[Tensor, "example d_model"]) -> tuple[Tensor, Float[Tensor, " d_model"]]:
        """r for every example, and the norm's bias. The norm itself says what its scale is here."""
        final, weight = self.at(run.activations[_last(self.model)]), gain(self.model, "ln_final").double().cpu()
        shift = self._normed(torch.zeros_like(final[:1]))[0]
        linear, normed = self._centred(final) * weight, self._normed(final) - shift
        scale = (linear * normed).sum(-1) / linear.square().sum(-1)
        return self._centred(weight * u) * scale[:, None], shift

    def _normed(self, residual: Tensor) -> Tensor:
        weights = self.model.W_U
        return self.model.final_norm(residual.to(weights)).double().cpu()

    def _centred(self, vectors: Tensor) -> Tensor:
        return vectors - vectors.mean(-1, keepdim=True) if takes_mean_out(self.model) else vectors


def _batches(
    model: Model, tokens: Int[Tensor, "example pos"], question: Question, hooks: Sequence[str], batch: int
) -> Iterator[tuple[_Asked, Run]]:
    """Runs over the examples, each with the question about its batch."""
    _check(model, tokens, question)
    for start in range(0, len(tokens), batch):
        rows = slice(start, start + batch)
        run = model.run(tokens[rows], read=sorted({*hooks, _last(model)}), logits=True)
        yield _Asked(model, run, question, rows), run


def _check(model: Model, tokens: Tensor, question: Question) -> None:
    normed = any(sublayer.renorm for sublayer in anatomy(model).sublayers)
    if model.kind != "decoder" or normed:
        kind = "a post-norm" if normed else f"an {model.kind}"
        raise ModelError(
            f"{model.name} is {kind} model: its residual stream is normed between blocks, or read by another stack, "
            "and is no sum of what its parts write; use ablation or patching"
        )
    for name, ids in (("answers", question.answers), ("wrong", question.wrong)):
        if ids is None:
            continue
        if ids.shape != (len(tokens),):
            raise ModelError(f"{name} has shape {list(ids.shape)} for {len(tokens)} examples; give one token id per example")
        if int(ids.min()) < 0 or int(ids.max()) >= model.d_vocab:
            outside = int(ids[(ids < 0) | (ids >= model.d_vocab)][0])
            raise ModelError(f"{name} holds the id {outside}, but the model's vocabulary is 0 to {model.d_vocab - 1}")


def _require_plain_mlps(model: Model) -> None:
    for layer in _layers(model):
        if f"blocks.{layer}.hook_mlp_out" not in model.hooks:
            raise ModelError(f"layer {layer} of {model.name} has no MLP, so there are no neurons; use by_component or by_head")
        try:
            model.weight(f"blocks.{layer}.mlp.W_out")
        except ModelError:
            raise ModelError(
                f"the MLP of layer {layer} of {model.name} is no single one (a mixture of experts); by_component has it whole"
            ) from None


def _places(positions: Tensor | int, rows: slice, shape: Sequence[int]) -> Int[Tensor, " example"]:
    """The position of every example of a batch, counted from the front."""
    places = torch.full(shape[:1], positions) if isinstance(positions, int) else positions[rows].cpu()
    if places.shape != shape[:1] or int(places.min()) < -shape[1] or int(places.max()) >= shape[1]:
        raise ModelError(f"positions do not lie in rows of {shape[1]} tokens; give one place per example, or one for all")
    return places % shape[1]


def _written(model: Model) -> dict[str, str]:
    """Component → the hook that holds what it writes into the residual stream, in order."""
    named = {"embed": "hook_embed", "pos_embed": "hook_pos_embed"}
    named |= {f"{layer}.{part}": f"blocks.{layer}.hook_{part}_out" for layer in _layers(model) for part in ("attn", "mlp")}
    there = set(model.hooks)
    return {name: hook for name, hook in named.items() if hook in there}


def _hooks(model: Model, *leaves: str) -> list[str]:
    return [f"blocks.{layer}.{leaf}" for layer in _layers(model) for leaf in leaves]


def _attn(run: Run, layer: int, leaf: str) -> Tensor:
    return run.activations[f"blocks.{layer}.attn.hook_{leaf}"]


def _layers(model: Model) -> range:
    return range(model.n_layers)


def _last(model: Model) -> str:
    return f"blocks.{model.n_layers - 1}.hook_resid_post"
