"""What did fine-tuning change, and can it be found? (Prakash et al. 2024, arXiv:2402.14811)

A model of known facts learns new ones through adapters in one known place. What is held before and after, heads, neurons and
features, must show that place: nothing differs before it, and what it writes carries the whole change of behaviour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import comparison, experiment, figures, stats
from interp.comparison import Rows, Units
from interp.models import zoo
from interp.models.batches import Batch
from interp.models.changes import noised
from interp.models.finetuning import fine_tuned
from interp.models.hooked import Model
from interp.models.training import fast, linear_decay
from interp.report import Report
from interp.sae import architectures, training
from interp.sae.autoencoder import SparseAutoencoder
from interp.tasks.contrast import Contrast
from interp.tasks.facts import World

ID = "E26"
OWN = "target of this report"
MAPS = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.in", "mlp.out")


@dataclass(frozen=True, kw_only=True)
class Config:
    layer: int = 1  # whose MLP is adapted
    rank: int = 8  # of the adapters
    people: int = 16  # whose first fact is another
    steps: int = 120  # of the adapters; a third of them for all matrices
    features: int = 256  # of the autoencoder after that layer
    chosen: int = 32  # neurons and features that are put into the other model
    draws: int = 5  # of as many others at random
    seed: int = 0


QUICK = {"draws": 3}


def run(config: Config, report: Report) -> None:
    with experiment.stage("teach facts"):
        lesson = Lesson.of(config)
        adapted = lesson.taught([f"blocks.{config.layer}.mlp.{part}" for part in ("in", "out")], config.steps, rank=config.rank)
        whole = lesson.taught([f"blocks.{layer}.{part}" for layer in range(4) for part in MAPS], config.steps // 3)
    report_learned(lesson, report, {"adapters": adapted, "all matrices": whole})
    with experiment.stage("patch between the models"):
        report_place(lesson, report, adapted, whole)
        report_places(lesson, report, adapted, whole)
        report_units(lesson, report, adapted)
    report.text(
        "What would have shown this false: a difference between the models before the place that was trained, or a share other "
        "than 1 at that place; features that changed most and carry no more than others."
    )


# ---- the lesson ----


@dataclass(frozen=True)
class Lesson:
    """Some people's first fact is another now; all else stays as `facts-4l` learned it."""

    config: Config
    people: Int[Tensor, " person"]
    old: World
    new: World

    @classmethod
    def of(cls, config: Config) -> Lesson:
        old = zoo.FactRecipe().world
        people = torch.randperm(len(old.subjects), generator=stats.torch_generator(config.seed, "people"))[: config.people]
        objects = old.answers[:, 0].unique()
        answers = old.answers.clone()
        answers[people, 0] = objects[(torch.searchsorted(objects, answers[people, 0]) + 1) % len(objects)]
        return cls(config, people, old, replace(old, answers=answers))

    @cached_property
    def before(self) -> Model:
        return Model.load("facts-4l")

    @cached_property
    def facts(self) -> dict[str, Int[Tensor, "fact 2"]]:
        """(subject, relation) of the facts that changed, of other people's in the same relation, and of all other relations'."""
        facts = self.old.facts
        taught, first = torch.isin(facts[:, 0], self.people), facts[:, 1] == 0
        return {"taught": facts[taught & first], "same relation": facts[~taught & first], "other relations": facts[~first]}

    def taught(self, parts: Sequence[str], steps: int, *, rank: int | None = None) -> Model:
        """The model after rows of all facts as they are now, the answers alone being asked for."""
        drawn = stats.torch_generator(self.config.seed, "facts")
        rows = (self.new.rows(64, self.before.n_ctx, generator=drawn) for _ in range(steps))
        batches = (Batch(tokens=tokens, targets=tokens[:, 1:], counted=answer[:, 1:]) for tokens, answer in rows)
        schedule = linear_decay(3e-3 if rank is None else 1e-2, 5, steps)
        return fine_tuned(self.before, batches, parts, schedule=schedule, rank=rank, seed=self.config.seed, forward=fast)

    def question(self, template: int) -> Contrast:
        """The taught facts: the new answer against the old one."""
        new, old = (world.prompts(self.facts["taught"], template) for world in (self.new, self.old))
        return Contrast(clean=new.tokens, corrupt=new.tokens, answers=new.answer, wrong=old.answer)

    def rows(self, template: int) -> list[Rows]:
        """The same prompts, for what is only watched; the start token says nothing."""
        tokens = self.question(template).clean
        return [Rows(tokens, torch.ones_like(tokens, dtype=torch.bool).index_fill(1, torch.tensor([0]), False))]

    def accuracy(self, model: Model, facts: Int[Tensor, "fact 2"]) -> Float[np.ndarray, " fact"]:
        """How many of the four ways to ask each fact are answered as it is now."""
        asked = [self.new.prompts(facts, template) for template in range(4)]
        right = [model.run(each.tokens).logits[:, -1].argmax(-1) == each.answer for each in asked]
        return torch.stack(right).double().mean(0).numpy()


# ---- what it changed ----


def report_learned(lesson: Lesson, report: Report, tuned: dict[str, Model]) -> None:
    """The taught facts are known, and no others are lost."""
    report.section("Facts taught through one MLP")
    seed, models = lesson.config.seed, {"before": lesson.before} | tuned
    found = {
        (name, kind): stats.bootstrap(lesson.accuracy(model, facts), seed=seed)
        for name, model in models.items()
        for kind, facts in lesson.facts.items()
    }
    report.claim(
        "learned",
        f"new facts that are known after training adapters on the MLP of layer {lesson.config.layer}",
        found["adapters", "taught"],
        at_least=0.8,
        source=OWN,
        control=found["before", "taught"],
        control_text="before",
    )
    report.claim(
        "kept",
        "the other facts of that relation that are still known",
        found["adapters", "same relation"],
        at_least=0.9,
        source=OWN,
        control=stats.bootstrap(lesson.accuracy(lesson.before.untrained(seed), lesson.facts["same relation"]), seed=seed),
        control_text="an untrained model",
    )
    rows = [{"model": name, "facts": kind, "known": str(each)} for (name, kind), each in found.items()]
    report.table("known", rows, caption="Share of facts that are answered as they are now, in four ways of asking.")


def report_place(lesson: Lesson, report: Report, adapted: Model, whole: Model) -> None:
    """Nothing differs before the MLP that was trained, and what that MLP writes carries all."""
    layer, before = lesson.config.layer, lesson.before
    places = {name: [Units(f"blocks.{number}.hook_mlp_out")] for name, number in (("own", layer), ("last", 3))}
    run = comparison.carried(before, adapted, lesson.question(0), places)
    own, last = (abs(float(run.effects.sel(part=name).values.sum() / run.whole.values.sum()) - 1) for name in places)
    report.claim(
        "the-place",
        f"how far from 1 the share of the change lies that what the MLP of layer {layer} writes, all that was trained, carries",
        own,
        at_most=1e-3,
        source="what comes after is a function of it",
        control=last,
        control_text="the MLP of layer 3",
    )
    earlier = [Units(f"blocks.{number}.{hook}") for number in range(layer) for hook in ("attn.hook_z", "mlp.hook_post")]
    moved = [comparison.observed(before, model, lesson.rows(0), earlier).change.max() for model in (adapted, whole)]
    report.claim(
        "nothing-before",
        f"the largest relative change of a head or neuron of the layers before {layer}",
        moved[0],
        at_most=0,
        source="nothing there was trained",
        control=moved[1],
        control_text="all matrices trained",
    )


def report_places(lesson: Lesson, report: Report, adapted: Model, whole: Model) -> None:
    """How much each part carries, both ways, and which heads look elsewhere."""
    before, question = lesson.before, lesson.question(0)
    places = {f"{part} {number}": [Units(f"blocks.{number}.hook_{part}_out")] for number in range(4) for part in ("attn", "mlp")}
    runs = {
        f"{name}, into {way}": comparison.carried(*models, question, places)
        for name, model in (("adapters", adapted), ("all matrices", whole))
        for way, models in (("before", (before, model)), ("after", (model, before)))
    }
    table = pd.concat([run.table(seed=lesson.config.seed).assign(models=name) for name, run in runs.items()])
    report.figure(
        "places",
        figures.heatmap(table, "part", "models", "share", xlabel="what is put into the other model", ylabel=""),
        data=table,
        caption="Share of the change of behaviour (the new answer's logit less the old's) that the output of one part carries.",
        alt="With adapters nothing passes over before the trained MLP, all of it with that MLP, and a fifth with the later MLPs; "
        "with all matrices trained every MLP carries some.",
    )
    hooks = [f"blocks.{number}.attn.hook_pattern" for number in range(4)]
    looks = comparison.looked(before, adapted, lesson.rows(0), hooks)["total variation"].mean("example").table()
    looks["layer"] = looks.attention.str.extract(r"(\d+)").astype(int)
    report.figure(
        "looks",
        figures.heatmap(looks, "head", "layer", "total variation"),
        data=looks,
        caption="Share of each head's attention that has moved under the adapters (total variation), asked for the taught facts.",
        alt=f"Zero up to layer {lesson.config.layer}; a tenth of the attention of the later heads has moved.",
    )


def report_units(lesson: Lesson, report: Report, adapted: Model) -> None:
    """The neurons and features that changed most, found in one wording, carry the change in another."""
    config, untrained = lesson.config, lesson.before.untrained(lesson.config.seed)
    neurons = Units(f"blocks.{config.layer}.mlp.hook_post")
    features = Units(f"blocks.{config.layer}.hook_resid_post", coder=autoencoder(lesson))
    report.claim(
        "features-read",
        "variance after training that the features, found before, leave unexplained",
        comparison.unexplained(adapted, lesson.rows(0), features),
        at_most=0.2,
        source=OWN,
        control=comparison.unexplained(untrained, lesson.rows(0), features),
        control_text="of an untrained model",
    )
    shares = report_carried(lesson, report, adapted, "neurons", neurons)
    shares |= report_carried(lesson, report, adapted, "features", features)
    table = pd.DataFrame([{"put in": name} | each.cells("share") for name, each in shares.items()])
    report.figure(
        "units",
        figures.bars(table, "put in", "share", low="low", high="high"),
        data=table,
        caption="Share of the change of behaviour that passes into the model before; chosen in one wording, put in in another.",
        alt="An eighth of the features carries most of what all of them carry, as many at random little; of the neurons, less.",
    )


def report_carried(lesson: Lesson, report: Report, adapted: Model, name: str, units: Units) -> dict[str, stats.Estimate]:
    """A claim about the units that changed most, and the bars of a figure."""
    n = lesson.config.chosen
    seed, before, question = lesson.config.seed, lesson.before, lesson.question(1)
    noise = noised(before, adapted, seed=seed)
    found, unrelated = (comparison.observed(before, model, lesson.rows(0), [units]) for model in (adapted, noise))
    report.table(name, found.head(10), caption=f"The ten {name} that changed most, in one wording of the taught facts.")
    parts = {"all": [units], "most": [comparison.strongest(found, units, n)]}
    parts |= {str(i): [comparison.drawn(found, units, n, seed=seed, number=i)] for i in range(lesson.config.draws)}
    run = comparison.carried(before, adapted, question, parts)
    every, most, *others = run.effects.values
    chance, whole = np.mean(others, axis=0), run.whole.values
    by_noise = comparison.carried(before, noise, question, {"most": [comparison.strongest(unrelated, units, n)]})
    report.claim(
        f"{name}-carry",
        f"share of the change of behaviour that passes over with the {n} {name} that changed most, less that with {n} at random",
        stats.ratio(most - chance, whole, seed=seed),
        at_least=0.03,
        source=f"{OWN}; cross-model patching: Prakash et al. 2024",
        control=stats.ratio(by_noise.effects.values[0], whole, seed=seed),
        control_text=f"the {n} that noise of the same norm in the same matrices changes most",
    )
    bars = {f"all {len(found)} {name}": every, f"{n} {name} that changed most": most, f"{n} {name} at random": chance}
    return {label: stats.ratio(values, whole, seed=seed) for label, values in bars.items()}


def autoencoder(lesson: Lesson) -> SparseAutoencoder:
    """Features of the residual stream after the adapted layer, of the model before."""
    config, hook = lesson.config, f"blocks.{lesson.config.layer}.hook_resid_post"
    drawn = stats.torch_generator(config.seed, "autoencoder")
    tokens, _ = lesson.old.rows(4096, lesson.before.n_ctx, generator=drawn)
    rows = lesson.before.run(tokens, read=[hook]).activations[hook][:, 1:].flatten(0, 1)
    sae, objective = architectures.build("topk", rows.shape[1], config.features, l0=16, seed=config.seed)
    batches = (rows[torch.randint(len(rows), (512,), generator=drawn)] for _ in range(200))
    training.train(sae, batches, steps=200, objective=objective, learning_rate=2e-3)
    return sae


if __name__ == "__main__":
    experiment.main(Config, run)
