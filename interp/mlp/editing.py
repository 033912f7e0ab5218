"""Editing what an MLP stores: the least change of one layer's values under which given keys give given outputs.

For keys K [fact neuron], outputs V* [fact d_model] and the second moment C = E[k kᵀ] of keys in general,

    Δ = C⁻¹Kᵀ (λI + K C⁻¹ Kᵀ)⁻¹ (V* − K W),    W′ = W + Δ.

One fact and λ = 0 is ROME (Meng et al. 2022, arXiv:2202.05262, eq. 2); many facts and λ > 0 is the update of MEMIT in one
layer (Meng et al. 2023, arXiv:2210.07229, eq. 14, by the Woodbury identity). With λ = 0 every fact is met exactly. The keys
that an edit asks for are measured once: the values are sought for the same keys that are then written to.

Must not know: tracing, figures, reports.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError, ModelError
from interp.mlp.memories import require_one_mlp
from interp.mlp.recall import answer_probability, asked_at, last_logits
from interp.models.hooked import Edit, Model
from interp.streaming import Covariance
from interp.tasks.facts import Prompts


@dataclass(frozen=True)
class Rewrite:
    """A change of the values of one layer, W_out + left @ right; `relative_norm` is ‖change‖ / ‖W_out‖ (Frobenius).

    stack: of the layer, in encoder–decoders.
    """

    layer: int
    left: Float[Tensor, "neuron fact"]
    right: Float[Tensor, "fact d_model"]
    relative_norm: float
    stack: str | None = None

    @property
    def change(self) -> Float[Tensor, "neuron d_model"]:
        """What is added to W_out; its rank is at most the number of facts."""
        return self.left @ self.right

    def apply(self, model: Model) -> Model:
        """A copy of the model with the change made; the model itself stays as it is.

        Raises ModelError for a model whose W_out cannot be written in place.
        """
        edited = Model.wrap(copy.deepcopy(model.bridge), tokenizer=model.tokenizer, name=f"{model.name} (edited)")
        name = f"{require_one_mlp(model, self.layer, stack=self.stack)}.mlp.W_out"
        wanted = edited.weight(name) + self.change.to(model.weight(name))
        edited.weight(name).copy_(wanted)
        if not torch.equal(edited.weight(name), wanted):
            raise ModelError(f"{name} of {model.name} is computed from other weights and cannot be written; edit another layer")
        return edited


@dataclass(frozen=True)
class Targets:
    """What a layer should give for each fact. values: without the layer's bias. probability: of the answers when it does, the
    mean over the contexts."""

    values: Float[Tensor, "fact d_model"]
    probability: Float[Tensor, " fact"]


def second_moment(rows: Iterable[Float[Tensor, "_ neuron"]]) -> Float[Tensor, "neuron neuron"]:
    """C = E[k kᵀ] over the activations of a layer's neurons (`mlp.hook_post`) on a corpus, streamed, float64."""
    seen = Covariance()
    for part in rows:
        seen.update(part)
    found = seen.compute()
    return found.covariance + torch.outer(found.mean, found.mean)


def subject_keys(
    model: Model, layer: int, contexts: Sequence[Prompts], *, stack: str | None = None, **beside: Any
) -> Float[Tensor, "fact neuron"]:
    """k* of every fact: what the neurons do at the last subject token, the mean over contexts.

    contexts: the same facts in the same order, after different prefixes or in different words. beside: what the model takes
    beside each of them (`mlp.recall`). The decoder of an encoder–decoder has no subject token: its key is what its neurons do
    where the answer is asked.
    Raises ModelError for a model without MLPs or with mixtures of experts.
    """
    hook = f"{require_one_mlp(model, layer, stack=stack)}.mlp.hook_post"
    _same_facts(contexts)
    found = [
        model.run(asked.tokens, read=[hook], **beside).activations[hook][torch.arange(len(asked)), _key_at(asked, stack, beside)]
        for asked in contexts
    ]
    return torch.stack(found).float().mean(0)


def target_values(
    model: Model,
    layer: int,
    contexts: Sequence[Prompts],
    *,
    keep: Sequence[Prompts] = (),
    steps: int = 80,
    learning_rate: float = 0.3,
    keep_weight: float = 0.3,
    decay: float = 1e-3,
    max_norm: float = 6.0,
    stack: str | None = None,
    **beside: Any,
) -> Targets:
    """v* of every fact: k* W plus the δ that makes the layer's output, where its key is, lead to the answer.

    δ minimises, by Adam, −log P(answer) as the mean over contexts, plus `keep_weight` times KL(before ‖ after) of what is
    answered to `keep` (prompts about the same subjects, in the same order), plus `decay` ‖δ‖²/‖v‖²; after every step it is
    cut to `max_norm` ‖v‖. Rates are per root mean square of v. stack, beside: as in `subject_keys`.

    Raises ModelError as `subject_keys`, ConfigError for contexts that do not hold the same facts.
    """
    _same_facts([*contexts, *keep])
    block = require_one_mlp(model, layer, stack=stack)
    values = subject_keys(model, layer, contexts, stack=stack, **beside) @ model.weight(f"{block}.mlp.W_out").float()
    size = values.norm(dim=-1, keepdim=True)
    before = [last_logits(model, asked, **beside).log_softmax(-1) for asked in keep]
    theta = torch.zeros_like(values, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=learning_rate)

    def answered(asked: Prompts, *, grad: bool) -> Tensor:
        edit = _adding(f"{block}.hook_mlp_out", _key_at(asked, stack, beside), theta * size / values.shape[1] ** 0.5)
        return last_logits(model, asked, edits=[edit], grad=grad, **beside)

    for _ in range(steps):
        loss = decay * theta.square().mean(1).sum()
        for asked in contexts:
            loss = loss - answer_probability(answered(asked, grad=True), asked).log().sum() / len(contexts)
        for asked, old in zip(keep, before, strict=True):
            new = answered(asked, grad=True).log_softmax(-1)
            loss = loss + keep_weight * (old.exp() * (old - new)).sum() / len(keep)
        optimizer.zero_grad()
        theta.grad = torch.autograd.grad(loss, theta)[0]
        optimizer.step()
        with torch.no_grad():
            length = theta.square().mean(1, keepdim=True).sqrt()
            theta *= (max_norm / length.clamp_min(1e-12)).clamp(max=1.0)
    with torch.no_grad():
        reached = torch.stack([answer_probability(answered(asked, grad=False), asked) for asked in contexts]).mean(0)
        return Targets(values + theta.detach() * size / values.shape[1] ** 0.5, reached)


def least_change(
    weight: Float[Tensor, "neuron d_model"],
    keys: Float[Tensor, "fact neuron"],
    values: Float[Tensor, "fact d_model"],
    moment: Float[Tensor, "neuron neuron"],
    *,
    ridge: float = 0.0,
    slack: float = 0.0,
) -> tuple[Float[Tensor, "neuron fact"], Float[Tensor, "fact d_model"]]:
    """Δ above as its two factors, float64: what disturbs other keys least, E‖kΔ‖², under K(W + Δ) = V*.

    ridge: what is added to the diagonal of C, in units of its mean. slack: λ, in units of the mean of diag(K C⁻¹ Kᵀ); above 0
    facts may be missed a little where they contradict each other.

    Raises ModelError when C is singular, and when the keys depend on each other and there is no slack.
    """
    weight = weight.double()
    asked, wanted = keys.to(weight), values.to(weight)
    left = torch.cholesky_solve(asked.T, torch.linalg.cholesky(_regular(moment.to(weight), ridge)))
    gram = asked @ left
    gram = gram + slack * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    _require_distinct(asked, gram)
    return left, torch.linalg.solve(gram, wanted - asked @ weight)


def rewrite(
    model: Model,
    layer: int,
    keys: Float[Tensor, "fact neuron"],
    values: Float[Tensor, "fact d_model"],
    moment: Float[Tensor, "neuron neuron"],
    *,
    ridge: float = 0.0,
    slack: float = 0.0,
    max_relative_norm: float = 2.0,
    stack: str | None = None,
) -> Rewrite:
    """The edit of one layer by `least_change`.

    Raises ModelError as that does, and when the change is larger than `max_relative_norm` times ‖W_out‖.
    """
    weight = model.weight(f"{require_one_mlp(model, layer, stack=stack)}.mlp.W_out")
    left, right = least_change(weight, keys, values, moment, ridge=ridge, slack=slack)
    relative = float((left @ right).norm() / weight.double().norm())
    if relative > max_relative_norm:
        raise ModelError(
            f"the edit would change W_out of layer {layer} by {relative:.2g} times its norm, more than "
            f"max_relative_norm={max_relative_norm:g}; ask for smaller values, fewer facts, or allow more"
        )
    return Rewrite(layer, left, right, relative, stack)


def unmoved(before: Model, after: Model, prompts: Prompts, **beside: Any) -> Bool[Tensor, " example"]:
    """Whether the first choice is the same in both models: specificity, over prompts that an edit should leave alone."""
    first, second = (last_logits(model, prompts, **beside).argmax(-1).cpu() for model in (before, after))
    return first == second


def _key_at(prompts: Prompts, stack: str | None, beside: Mapping[str, Any]) -> Int[Tensor, " fact"]:
    """The position whose key stands for each fact."""
    return asked_at(prompts, beside) if stack == "decoder" else prompts.last_subject


def _adding(hook: str, position: Int[Tensor, " fact"], delta: Float[Tensor, "fact d_model"]) -> Edit:
    def add(written: Tensor) -> Tensor:
        written[torch.arange(len(position)), position] += delta.to(written.dtype)
        return written

    return Edit(hook, add)


def _regular(moment: Float[Tensor, "neuron neuron"], ridge: float) -> Float[Tensor, "neuron neuron"]:
    """C with its ridge, if it can be inverted."""
    mean = moment.diagonal().mean()
    moment = moment + ridge * mean * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    spectrum = torch.linalg.eigvalsh(moment)
    rank = int((spectrum > 1e-12 * spectrum[-1]).sum())
    if rank < len(moment):
        raise ModelError(
            f"the second moment of {len(moment)} keys is singular: rank {rank}, smallest eigenvalue "
            f"{float(spectrum[0] / spectrum[-1]):.1g} of the largest; stream more tokens, or use ridge=1e-4"
        )
    return moment


def _require_distinct(asked: Float[Tensor, "fact neuron"], gram: Float[Tensor, "fact fact"]) -> None:
    scaled = gram / torch.outer(gram.diagonal(), gram.diagonal()).sqrt()
    if float(torch.linalg.eigvalsh(scaled)[0]) > 1e-9:
        return
    alike = torch.nn.functional.cosine_similarity(asked[:, None], asked[None], dim=-1).fill_diagonal_(-1)
    first, second = divmod(int(alike.argmax()), len(asked))
    raise ModelError(
        f"the keys of {len(asked)} facts depend on each other (facts {first} and {second} have cosine "
        f"{float(alike.max()):.4f}); give one fact per subject, or use slack=0.01"
    )


def _same_facts(contexts: Sequence[Prompts]) -> None:
    sizes = sorted({len(asked) for asked in contexts})
    if len(sizes) != 1:
        raise ConfigError(f"contexts hold {sizes or 'no'} facts; give the same facts in each, in the same order")
