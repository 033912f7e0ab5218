"""Causal tracing (Meng et al. 2022, arXiv:2202.05262, section 2): where in the model does a fact pass on its way to the answer?

The subject's embeddings are blurred with noise until the answer is lost; then one state is put back as it was in the clean
run. What the answer regains is the indirect effect of that state. States are the residual stream, what an MLP writes or what
an attention layer writes, at one token; a window puts back several layers at once. What is found is where information
passes. It need not be where an edit works best (Hase et al. 2023, arXiv:2301.04213).

In an encoder–decoder the prompt is the source, and either stack can be traced. The decoder's tokens all come after the subject.

Must not know: editing, figures, reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp import stats
from interp.errors import ConfigError, ModelError
from interp.measurement import Measurement
from interp.mlp.memories import blocks, layers
from interp.mlp.recall import asked_at, probability, require_known
from interp.models.hooked import Edit, Model
from interp.tasks.facts import Prompts

STATES = {
    "hidden": "hook_resid_post",
    "mlp": "hook_mlp_out",
    "attention": "hook_attn_out",
    "cross-attention": "cross_attn.hook_out",
}
"""What can be put back, and its hook in a block."""
ROLES = ("before", "first subject", "middle subject", "last subject", "next", "further", "last")
"""Places in a prompt; a subject of one token has only its last, and the prompt's last token is nothing else."""
EMBEDDINGS = ("hook_embed", "encoder_blocks.0.hook_resid_pre")
"""Where a prompt's embeddings are: the first of these that can be read. In T5 both stacks share the embedding's own hook."""


@dataclass(frozen=True)
class Trace:
    """What blurring costs and what each state restores.

    clean, corrupted: probability of the answer, Measurement(example). effect: restored − corrupted probability,
    Measurement(example, layer, role), the mean over noise samples and over the positions of a role. Roles that some prompt
    does not have are left out.
    """

    clean: Measurement
    corrupted: Measurement
    effect: Measurement


def roles(prompts: Prompts) -> Int[Tensor, "example pos"]:
    """The place in `ROLES` of every position; −1 for padding."""
    position = torch.arange(prompts.tokens.shape[1]).expand_as(prompts.tokens)
    end, last = prompts.last_subject[:, None], prompts.last[:, None]
    found = torch.where(position < end, ROLES.index("before"), ROLES.index("further"))
    found[position == end + 1] = ROLES.index("next")
    found[prompts.subject] = ROLES.index("middle subject")
    start = prompts.subject.int().argmax(1)[:, None]
    found[position == start] = ROLES.index("first subject")
    found[position == end] = ROLES.index("last subject")
    found[position == last] = ROLES.index("last")
    return torch.where(position > last, -1, found)


def trace(
    model: Model,
    prompts: Prompts,
    *,
    state: str = "mlp",
    window: int = 1,
    noise: float = 3.0,
    samples: int = 4,
    seed: int = 0,
    stack: str | None = None,
    **beside: Any,
) -> Trace:
    """The indirect effect of every layer's state at every place of the prompts.

    noise: standard deviation of what is added to every number of the subject's embeddings, in standard deviations of those
    embeddings. window: layers put back together, centred on the one named. The noise depends on `seed` alone, so traces of
    different states compare. stack: whose states, in an encoder–decoder. beside: what the model takes beside the prompts
    (`mlp.recall`).

    Raises ConfigError for an unknown state or a window or sample that is no positive number, ModelError for a model that does
    not have the state and for prompts whose answer it does not know.
    """
    if state not in STATES:
        raise ConfigError(f"no state {state!r} to restore; choose from {', '.join(STATES)}")
    if window < 1 or samples < 1 or noise <= 0:
        raise ConfigError(f"window={window}, samples={samples} and noise={noise:g} must all be above 0")
    hooks = [f"{blocks(model, stack)}.{layer}.{STATES[state]}" for layer in layers(model, stack)]
    if hooks[0] not in model.hooks:
        raise ModelError(f"{model.name} has no {hooks[0]}, so no state {state!r} to put back; give a model that has one")
    require_known(model, prompts, **beside)
    clean = model.run(prompts.tokens, read=hooks, **beside).activations
    repeated = prompts[torch.arange(len(prompts)).repeat(samples)]
    again = {name: tensor.repeat(samples, 1) for name, tensor in beside.items()}
    blur = _blur(model, prompts, beside, noise=noise, samples=samples, seed=seed)
    corrupted = probability(model, repeated, edits=[blur], **again).view(samples, -1)
    place = _roles_of_target(prompts, beside) if stack == "decoder" else roles(prompts)
    restored = torch.zeros(len(hooks), *place.shape)
    for layer in range(len(hooks)):
        around = [hooks[each] for each in range(layer - (window - 1) // 2, layer + window // 2 + 1) if 0 <= each < len(hooks)]
        for position in range(place.shape[1]):
            put = [Edit(hook, partial(_put_back, clean=clean[hook], position=position, samples=samples)) for hook in around]
            restored[layer, :, position] = probability(model, repeated, edits=[blur, *put], **again).view(samples, -1).mean(0)
    gained = restored - corrupted.mean(0)[:, None]
    return Trace(
        Measurement("clean", probability(model, prompts, **beside).double().numpy(), ("example",), unit="probability"),
        Measurement("corrupted", corrupted.mean(0).double().numpy(), ("example",), unit="probability"),
        _by_role(gained, place),
    )


def _roles_of_target(prompts: Prompts, beside: Mapping[str, Any]) -> Int[Tensor, "example pos"]:
    """The same for the tokens that a decoder is given, which all come after the subject."""
    position, last = torch.arange(beside["decoder_input"].shape[1]), asked_at(prompts, beside)[:, None]
    found = torch.where(position == last, ROLES.index("last"), ROLES.index("further"))
    return torch.where(position > last, -1, found)


def _blur(model: Model, prompts: Prompts, beside: Mapping[str, Any], *, noise: float, samples: int, seed: int) -> Edit:
    """Noise on the subjects' embeddings, other noise for every sample."""
    hook = next(hook for hook in EMBEDDINGS if hook in model.hooks)
    embedded = model.run(prompts.tokens, read=[hook], **beside).activations[hook]
    scale = noise * embedded[prompts.subject.to(embedded.device)].std()
    generator = stats.torch_generator(seed, "subject noise")
    drawn = torch.randn(samples, *embedded.shape, generator=generator).to(embedded) * scale
    added = (drawn * prompts.subject[..., None].to(drawn)).flatten(0, 1)
    return Edit(hook, lambda embedding: embedding + added)


def _put_back(state: Tensor, *, clean: Float[Tensor, "example pos d_model"], position: int, samples: int) -> Tensor:
    state[:, position] = clean[:, position].repeat(samples, 1)
    return state


def _by_role(gained: Float[Tensor, "layer example pos"], place: Int[Tensor, "example pos"]) -> Measurement:
    """Means over the positions of each role, in double precision."""
    present = [role for role in range(len(ROLES)) if bool((place == role).any(1).all())]
    means: Sequence[Tensor] = [_mean_where(gained.double(), place == role) for role in present]
    names = [ROLES[role] for role in present]
    values = torch.stack(means, -1).transpose(0, 1).numpy()
    return Measurement("effect", values, ("example", "layer", "role"), {"role": names}, unit="probability")


def _mean_where(values: Float[Tensor, "layer example pos"], where: Bool[Tensor, "example pos"]) -> Float[Tensor, "layer example"]:
    return (values * where).sum(-1) / where.sum(-1)
