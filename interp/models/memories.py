"""Models whose memories are known because they were written by hand: what is stored where is declared, not found.

`planted_memory` is one MLP that knows each token's successor, one neuron per token. `planted_world` answers every question of
a generated world by one way alone: at the last token of a name the first MLP looks up the person, and an attention head of
the last token's relation fetches the object. Both have no norms, so that every number can be followed.

Must not know: analyses, reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.models.compiled import blank_module, head_weights
from interp.models.hooked import Model
from interp.tasks.facts import Prompts, World

SHARPNESS = 30.0
"""Attention score of what a head looks for; what it does not look for scores 0, the resting place half of it."""


@dataclass(frozen=True)
class PlantedMemory:
    """A one-layer model in which token i is followed by `successor[i]`, and neuron `neuron[i]` alone knows it.

    coherence: the largest cosine between two keys, which are the token embeddings; neurons are silent up to half way
    between it and 1.
    """

    model: Model
    successor: Int[Tensor, " token"]
    neuron: Int[Tensor, " token"]
    coherence: float

    @property
    def prompts(self) -> Prompts:
        """Every token alone, asked for its successor."""
        tokens = torch.arange(len(self.successor))[:, None]
        return Prompts(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.zeros_like(tokens[:, 0]), self.successor)

    def walks(self, n: int, length: int, *, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
        """Rows in which the successor follows each token, from random starts."""
        rows = [torch.randint(len(self.successor), (n,), generator=generator)]
        for _ in range(length - 1):
            rows.append(self.successor[rows[-1]])
        return torch.stack(rows, 1)


def planted_memory(keys: int = 256, d_model: int = 64, *, strength: float = 40.0, seed: int = 0) -> PlantedMemory:
    """A memory of `keys` tokens in `d_model` dimensions: random directions as keys, each with its own random value direction.

    Neuron for token i computes relu((x·kᵢ − θ)/(1 − θ)), which is 1 for its token and 0 for all others, and writes `strength`
    times the unembedding direction of the successor. Raises ConfigError for keys too crowded to be told apart.
    """
    generator = torch.Generator().manual_seed(seed)
    known, said = (_directions(keys, d_model, generator) for _ in range(2))
    coherence = max(float((each @ each.T).fill_diagonal_(0).max()) for each in (known, said))
    if coherence > 0.95:
        raise ConfigError(f"keys={keys} in d_model={d_model}: two directions have cosine {coherence:.2f}; use more dimensions")
    threshold = (1 + coherence) / 2
    successor, neuron = (torch.randperm(keys, generator=generator) for _ in range(2))
    sizes = {"d_model": d_model, "d_head": d_model, "n_layers": 1, "n_heads": 1, "n_ctx": 16, "d_vocab": keys, "d_mlp": keys}
    module = blank_module(sizes)
    mlp = module.layers[0].mlp
    with torch.no_grad():
        module.tok_embed.weight.copy_(known)
        module.head.weight.copy_(said)
        mlp.fc_in.weight[neuron] = known / (1 - threshold)
        mlp.fc_in.bias.fill_(-threshold / (1 - threshold))
        mlp.fc_out.weight[:, neuron] = strength * said[successor].T
    return PlantedMemory(Model.wrap(module.eval(), name="planted memory"), successor, neuron, coherence)


def planted_world(world: World, *, n_ctx: int = 16, strength: float = 20.0) -> Model:
    """A two-layer model that answers every question of a world.

    Layer 0: one head brings each token the one before it, another the relation asked for so far; neuron s fires where the two
    names of subject s stand in their order and writes all objects of s. Layer 1: head r, at a token that knows it is asked
    for relation r, attends to subjects found and copies their object under r to the output. Its MLP is silent.
    Raises ConfigError for a world with a single relation, which leaves no head to see the token before.
    """
    n_relations, d_vocab = len(world.templates), len(world.words)
    if n_relations < 2:
        raise ConfigError("a planted world needs 2 relations or more, as many as it has heads")
    place = _Places(d_vocab, n_ctx, n_relations)
    module = blank_module(
        {
            "d_model": place.width,
            "d_head": max(d_vocab, n_ctx),
            "n_heads": n_relations,
            "n_layers": 2,
            "n_ctx": n_ctx,
            "d_vocab": d_vocab,
            "d_mlp": len(world.subjects),
        }
    )
    with torch.no_grad():
        module.tok_embed.weight[:, place.token] = torch.eye(d_vocab)
        module.pos.weight[:, place.position] = torch.eye(n_ctx)
        _previous_token_head(module.layers[0].attn, place)
        _relation_head(module.layers[0].attn, place, world)
        _subject_neurons(module.layers[0].mlp, place, world)
        for relation in range(n_relations):
            _object_head(module.layers[1].attn, place, world, relation)
        module.head.weight[:, place.output] = strength * torch.eye(d_vocab)
    return Model.wrap(module.eval(), name="planted world")


class _Places:
    """Where in the residual stream each kind of information lies."""

    def __init__(self, d_vocab: int, n_ctx: int, n_relations: int) -> None:
        sizes = [d_vocab, n_ctx, d_vocab, n_relations, d_vocab, 1, d_vocab]
        ends = torch.tensor(sizes).cumsum(0).tolist()
        spans = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        self.token, self.position, self.previous, self.relation, self.objects, self.found, self.output = spans
        self.width = ends[-1]


def _previous_token_head(attn: Any, place: _Places) -> None:
    """Head 0: the query at position i looks for position i − 1; the value is the token."""
    q, k, v, o = head_weights(attn, 0)
    n = place.position.stop - place.position.start
    q[:n, place.position] = SHARPNESS * attn.scale * torch.eye(n)
    k[1:n, place.position] = torch.eye(n)[: n - 1]
    v[: place.token.stop, place.token] = torch.eye(place.token.stop)
    o[place.previous, : place.token.stop] = torch.eye(place.token.stop)


def _relation_head(attn: Any, place: _Places, world: World) -> None:
    """Head 1: every query looks for relation words, and rests on BOS, which has no value."""
    q, k, v, o = head_weights(attn, 1)
    q[0, place.token] = SHARPNESS * attn.scale
    k[0, 0] = 0.5
    for relation, word in enumerate(_relation_words(world)):
        k[0, word] = 1.0
        v[relation, word] = 1.0
        o[place.relation.start + relation, relation] = 1.0


def _subject_neurons(mlp: Any, place: _Places, world: World) -> None:
    """Neuron s is 1 where subject s is named: relu(6 (previous = first name) + 6 (token = last name) − 11).

    So steep, that a blurred name is lost.
    """
    for subject, (first, last) in enumerate(world.subjects.tolist()):
        mlp.fc_in.weight[subject, place.previous.start + first] = 6.0
        mlp.fc_in.weight[subject, place.token.start + last] = 6.0
        mlp.fc_in.bias[subject] = -11.0
        mlp.fc_out.weight[place.found, subject] = 1.0
        mlp.fc_out.weight[place.objects.start + world.answers[subject], subject] = 1.0


def _object_head(attn: Any, place: _Places, world: World, relation: int) -> None:
    """Head r of layer 1: a query that knows relation r looks for subjects found and takes their object of that relation."""
    q, k, v, o = head_weights(attn, relation)
    q[0, place.relation.start + relation] = SHARPNESS * attn.scale
    k[0, place.found] = 1.0
    k[0, 0] = 0.5
    for i, word in enumerate(world.answers[:, relation].unique().tolist()):
        v[i, place.objects.start + word] = 1.0
        o[place.output.start + word, i] = 1.0


def _relation_words(world: World) -> list[int]:
    """The word that names each relation: the one its first question shares with no other relation's."""
    asked = [set(templates[0]) for templates in world.templates]
    return [world.words.index(next(iter(words - set.union(*asked[:i], *asked[i + 1 :])))) for i, words in enumerate(asked)]


def _directions(n: int, d: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
    drawn = torch.randn(n, d, generator=generator)
    return drawn / drawn.norm(dim=1, keepdim=True)
