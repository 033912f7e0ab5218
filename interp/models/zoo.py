"""Small models trained on demand, a function of their recipe alone, and kept in a cache.

`induction-2l` and `induction-1l` are attention-only models of two layers and of one that learn to continue random tokens
that repeat (`interp.tasks.repeated`; Elhage et al. 2021; Olsson et al. 2022). `facts-4l` knows the facts of a generated
world, and `trigrams-1l` a table of token triples (`interp.tasks.facts`). `names-3l`, of attention alone, tells who is given
something (`interp.tasks.names`). `reversal-1l` and `translation-1l` are
encoder–decoders that turn sources into targets with a known alignment (`interp.tasks.sequences`, `.translation`). The
cache is the folder in `INTERP_CACHE`, by default `~/.cache/interp`; an entry is named after the hash of its recipe and is
complete or absent.

Must not know: TransformerLens, analyses.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.errors import ModelError
from interp.models import storage
from interp.models.batches import Batch, next_token, sequence_to_sequence
from interp.models.hooked import Model
from interp.models.lens import native_module
from interp.models.training import Learner, constant, evenly, fast, fit, linear_decay
from interp.models.transformer import TransformerConfig, transformer
from interp.tasks import names
from interp.tasks.facts import Lookup, World, lookup, world
from interp.tasks.pairs import FIRST, Pairs
from interp.tasks.repeated import repeated_random
from interp.tasks.sequences import reversal
from interp.tasks.translation import LONGEST, VOCABULARY, sentences, translations

Scored = tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]
"""Rows to train on, and the tokens whose loss the curve tells."""


@dataclass(frozen=True, kw_only=True)
class _Course:
    """What all recipes say: the size of the model, and how it is trained."""

    n_layers: int
    seed: int = 0
    steps: int
    checkpoints: int = 2  # states kept, evenly spaced from before the first step to after the last
    batch: int
    d_model: int = 64
    n_heads: int = 4
    learning_rate: float = 3e-3
    warmup: int = 50
    weight_decay: float = 0.1

    @property
    def architecture(self) -> dict[str, Any]:
        """Fields of the model's configuration."""
        raise NotImplementedError

    def rows(self, generator: torch.Generator) -> Scored:
        """One batch of rows, whose next tokens are asked for, and in it the tokens whose loss the curve tells."""
        raise NotImplementedError

    def learner(self) -> Learner:
        """A module with fresh weights, and how it is trained."""
        module = native_module(self.architecture, self.seed)
        schedule = constant(self.learning_rate, self.warmup)
        return Learner(module, schedule=schedule, weight_decay=self.weight_decay, forward=fast)

    def examples(self, generator: torch.Generator) -> Batch:
        """What one step is given and asked."""
        tokens, scored = self.rows(generator)
        return next_token(tokens, told=scored)

    def layers(self, **more: Any) -> dict[str, Any]:
        """Fields of the native model's configuration, and more of them."""
        own = {"d_model": self.d_model, "d_head": self.d_model // self.n_heads, "n_heads": self.n_heads}
        return own | {"n_layers": self.n_layers, "normalization_type": "LN"} | more


@dataclass(frozen=True, kw_only=True)
class Recipe(_Course):
    """All that the weights of an induction model depend on."""

    n_layers: int = 2
    steps: int = 2000
    checkpoints: int = 40
    batch: int = 32
    length: int = 48
    d_vocab: int = 49
    weight_decay: float = 0.6  # with less, several heads share the work of the previous-token head

    @property
    def architecture(self) -> dict:
        """Fields of the native model's configuration."""
        return self.layers(n_ctx=self.length, d_vocab=self.d_vocab, attn_only=True)

    def rows(self, generator: torch.Generator) -> Scored:
        """One batch, and in it the tokens that an earlier copy determines."""
        drawn = repeated_random(self.batch, self.length, self.d_vocab, generator=generator)
        return drawn.tokens, drawn.is_copy


@dataclass(frozen=True, kw_only=True)
class FactRecipe(_Course):
    """All that the weights of a model of a generated world depend on."""

    subjects: int = 64
    relations: int = 3
    objects: int = 16
    n_layers: int = 4  # with two, the last token gathers the names itself and nothing is stored at the subject
    steps: int = 1000
    batch: int = 96
    length: int = 10
    d_mlp: int = 256

    @cached_property
    def world(self) -> World:
        """What there is to know."""
        return world(self.subjects, self.relations, self.objects, seed=self.seed)

    @property
    def architecture(self) -> dict:
        """Fields of the native model's configuration."""
        return self.layers(d_mlp=self.d_mlp, d_vocab=len(self.world.words), n_ctx=self.length, act_fn="gelu")

    def rows(self, generator: torch.Generator) -> Scored:
        """One batch of sentences, and in it the answers."""
        return self.world.rows(self.batch, self.length, generator=generator)


@dataclass(frozen=True, kw_only=True)
class TrigramRecipe(_Course):
    """All that the weights of a model of a table of token triples depend on."""

    facts: int = 512
    tokens: int = 64
    n_layers: int = 1
    steps: int = 1500
    batch: int = 256
    d_mlp: int = 256

    @cached_property
    def table(self) -> Lookup:
        """What there is to know."""
        return lookup(self.facts, self.tokens, seed=self.seed)

    @property
    def architecture(self) -> dict:
        """Fields of the native model's configuration."""
        return self.layers(d_mlp=self.d_mlp, d_vocab=self.tokens, n_ctx=3, act_fn="relu")

    def rows(self, generator: torch.Generator) -> Scored:
        """One batch of triples, and in it their last tokens."""
        picked = torch.randint(self.facts, (self.batch,), generator=generator)
        rows = torch.cat([self.table.pairs, self.table.answers[:, None]], 1)[picked]
        return rows, torch.tensor([False, False, True]).expand_as(rows)


@dataclass(frozen=True, kw_only=True)
class NamesRecipe(_Course):
    """All that the weights of a model of sentences about two people depend on."""

    n_layers: int = 3
    steps: int = 1000
    batch: int = 64

    @property
    def architecture(self) -> dict:
        """Fields of the native model's configuration."""
        return self.layers(d_vocab=len(names.VOCABULARY), n_ctx=names.LENGTH, attn_only=True)

    def rows(self, generator: torch.Generator) -> Scored:
        """One batch of sentences, and in it the answers."""
        told = names.sentences(self.batch, generator=generator)
        return told.tokens, told.is_answer


@dataclass(frozen=True, kw_only=True)
class PairsRecipe(_Course):
    """An encoder–decoder as in Vaswani et al. 2017 (post-LN, sinusoids, tied embeddings), one block in each stack.

    It learns to reverse rows of different symbols, or to translate generated sentences.
    """

    task: Literal["reversal", "translation"]
    n_layers: int = 1
    n_heads: int = 2
    steps: int = 800
    batch: int = 64
    d_mlp: int = 128
    warmup: int = 100
    weight_decay: float = 0.0
    lengths: tuple[int, int] = (6, 10)  # shortest and longest row to be reversed
    symbols: int = 20  # that rows to be reversed are made of

    @property
    def architecture(self) -> dict[str, Any]:
        """Fields of the configuration."""
        words, longest = (len(VOCABULARY), LONGEST) if self.task == "translation" else (FIRST + self.symbols, self.lengths[1])
        sizes = {"d_model": self.d_model, "n_heads": self.n_heads, "n_layers": self.n_layers, "d_mlp": self.d_mlp}
        kind = {"kind": "encoder-decoder", "norm": "post", "positions": "sinusoidal", "tied": True}
        return sizes | kind | {"d_vocab": words, "n_ctx": longest + 1}

    def learner(self) -> Learner:
        """The rate falls to nothing at the end: a constant one leaves single symbols wrong."""
        module = transformer(TransformerConfig.of(self.architecture), self.seed)
        return Learner(module, schedule=linear_decay(self.learning_rate, self.warmup, self.steps), weight_decay=self.weight_decay)

    def pairs(self, n: int, generator: torch.Generator) -> Pairs:
        """`n` sources and targets."""
        if self.task == "translation":
            return translations(sentences(n, generator=generator))
        return reversal(n, self.lengths, self.symbols, generator=generator)

    def examples(self, generator: torch.Generator) -> Batch:
        """One batch of them."""
        return sequence_to_sequence(self.pairs(self.batch, generator))


AnyRecipe = Recipe | FactRecipe | TrigramRecipe | NamesRecipe | PairsRecipe
RECIPES: dict[str, AnyRecipe] = {
    "induction-2l": Recipe(),
    "induction-1l": Recipe(n_layers=1),
    "facts-4l": FactRecipe(),
    "trigrams-1l": TrigramRecipe(),
    "names-3l": NamesRecipe(),
    "reversal-1l": PairsRecipe(task="reversal"),
    "translation-1l": PairsRecipe(task="translation", steps=600),
}
NAMES = tuple(RECIPES)


@dataclass(frozen=True)
class Trained:
    """A trained model with its course: `curve` has the loss of every training batch on the tokens that its recipe scores
    (nats per token), `states` the weights after some numbers of steps."""

    model: Model
    curve: tuple[float, ...]
    states: dict[int, dict[str, Tensor]]

    @cached_property
    def checkpoints(self) -> list[tuple[int, Model]]:
        """Steps taken, and the model then; the first is the model before training."""
        return [(step, self._with(state, step)) for step, state in sorted(self.states.items())]

    def _with(self, state: dict[str, Tensor], step: int) -> Model:
        return self.model.with_weights(state, name=f"{self.model.name} after {step} steps")


def trained(name: str, *, on_step: Callable[[int, float], None] | None = None) -> Trained:
    """A zoo model with its course, from the cache or trained now."""
    folder_ = folder(name, on_step=on_step)
    states: dict[int, dict[str, Tensor]] = {}
    for key, tensor in load_file(folder_ / "checkpoints.safetensors").items():
        step, _, parameter = key.partition("/")
        states.setdefault(int(step), {})[parameter] = tensor
    curve = tuple(json.loads((folder_ / "curve.json").read_text()))
    return Trained(Model.load(str(folder_)), curve, states)


def folder(name: str, *, on_step: Callable[[int, float], None] | None = None) -> Path:
    """The folder of a zoo model in the cache, which `Model.load` reads; trains the model if it is not there yet."""
    recipe = RECIPES[name]
    key = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode()).hexdigest()[:16]
    kept = cache() / f"{name}-{key}"
    if not (kept / storage.RECORD).is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=kept.parent, prefix=f".{kept.name}-"))
        try:
            _write(train(recipe, on_step=on_step), partial)
            shutil.rmtree(kept, ignore_errors=True)
            os.replace(partial, kept)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return kept


def cache() -> Path:
    """Where trained models are kept."""
    return Path(os.environ.get("INTERP_CACHE") or Path.home() / ".cache" / "interp")


def train(recipe: AnyRecipe, *, on_step: Callable[[int, float], None] | None = None) -> Trained:
    """The model of a recipe, and its course; `on_step(step, loss)` is called after every step. Not cached.

    Raises ModelError unless there is at least one step and one checkpoint.
    """
    if recipe.steps < 1 or recipe.checkpoints < 1:
        raise ModelError(f"steps={recipe.steps} and checkpoints={recipe.checkpoints} must both be 1 or more")
    learner = recipe.learner()
    generator = torch.Generator().manual_seed(recipe.seed)
    batches = (recipe.examples(generator) for _ in range(recipe.steps))
    course = fit(learner, batches, checkpoints=evenly(recipe.steps, recipe.checkpoints), on_step=on_step)
    name = next((name for name, known in RECIPES.items() if known == recipe), type(recipe).__name__)
    return Trained(Model.wrap(learner.module, name=name), course.losses, course.states)


def _write(result: Trained, where: Path) -> None:
    flat = {f"{step}/{name}": tensor for step, state in result.states.items() for name, tensor in state.items()}
    save_file(flat, where / "checkpoints.safetensors")
    (where / "curve.json").write_text(json.dumps(result.curve))
    result.model.save(where)
