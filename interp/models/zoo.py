"""Small models trained on demand, a function of their recipe alone, and kept in a cache.

`induction-2l` and `induction-1l` are attention-only models of two layers and of one that learn to continue random tokens
that repeat (`interp.tasks.repeated`; Elhage et al. 2021; Olsson et al. 2022). `facts-4l` knows the facts of a generated
world, and `trigrams-1l` a table of token triples (`interp.tasks.facts`). The cache is the folder in `INTERP_CACHE`, by
default `~/.cache/interp`; an entry is named after the hash of its recipe and is complete or absent.

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
from itertools import tee
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.errors import ModelError
from interp.models import storage
from interp.models.hooked import Model, native_module
from interp.models.training import fit
from interp.tasks.facts import Lookup, World, lookup, world
from interp.tasks.repeated import repeated_random

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


AnyRecipe = Recipe | FactRecipe | TrigramRecipe
RECIPES: dict[str, AnyRecipe] = {
    "induction-2l": Recipe(),
    "induction-1l": Recipe(n_layers=1),
    "facts-4l": FactRecipe(),
    "trigrams-1l": TrigramRecipe(),
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
        module = native_module(self.model.config, 0).eval()
        storage.fill(module, state, {})
        return Model.wrap(module, name=f"{self.model.name} after {step} steps")


def train_induction(
    n_layers: int = 2,
    *,
    seed: int = 0,
    steps: int = Recipe.steps,
    checkpoints: int = Recipe.checkpoints,
    on_step: Callable[[int, float], None] | None = None,
) -> Trained:
    """Trains an induction model; `on_step(step, loss)` is called after every step. Not cached.

    Trained on all tokens; the loss told is that on tokens which an earlier copy determines, the rest being noise.
    Raises ModelError unless there is at least one step and one checkpoint.
    """
    if steps < 1 or checkpoints < 1:
        raise ModelError(f"steps={steps} and checkpoints={checkpoints} must both be 1 or more")
    return train(Recipe(n_layers=n_layers, seed=seed, steps=steps, checkpoints=checkpoints), on_step=on_step)


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
    """The model of a recipe, and its course. Not cached."""
    module = native_module(recipe.architecture, recipe.seed)
    curve = []
    kept = {round(recipe.steps * i / max(1, recipe.checkpoints - 1)) for i in range(recipe.checkpoints)}
    states = {0: _copy(module)} if 0 in kept else {}
    generator = torch.Generator().manual_seed(recipe.seed)
    for_training, for_curve = tee(recipe.rows(generator) for _ in range(recipe.steps))
    losses = fit(
        module,
        (tokens for tokens, _ in for_training),
        learning_rate=recipe.learning_rate,
        warmup=recipe.warmup,
        weight_decay=recipe.weight_decay,
    )
    for step, (loss, (_, scored)) in enumerate(zip(losses, for_curve, strict=True), start=1):
        curve.append(float(loss[scored[:, 1:]].mean()))
        if step in kept:
            states[step] = _copy(module)
        if on_step is not None:
            on_step(step, curve[-1])
    name = next((name for name, known in RECIPES.items() if known == recipe), type(recipe).__name__)
    return Trained(Model.wrap(module.eval(), name=name), tuple(curve), states)


def _copy(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _write(result: Trained, where: Path) -> None:
    flat = {f"{step}/{name}": tensor for step, state in result.states.items() for name, tensor in state.items()}
    save_file(flat, where / "checkpoints.safetensors")
    (where / "curve.json").write_text(json.dumps(result.curve))
    result.model.save(where)
