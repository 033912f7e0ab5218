"""How much of a change of weights fits in a low rank, and what does fine-tuning change? (Hu et al. 2021, arXiv:2106.09685)

A linear student with an adapter of rank r can follow a teacher's shift as far as Eckart and Young allow, and training gets
there. The induction model learns a cipher that an adapter of known rank can say. A model of known facts learns new ones
through adapters in one known place: what is held before and after, heads, neurons and features, must show that place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import comparison, experiment, figures, stats
from interp.comparison import Rows, Units
from interp.heads import patterns
from interp.models import zoo
from interp.models.batches import Batch, taught
from interp.models.changes import matrices, noised
from interp.models.hooked import Model
from interp.models.lens import HookedRootModule
from interp.models.lora import Adapters
from interp.models.parts import Linear
from interp.models.training import Learner, fast, fit, linear_decay
from interp.report import Report
from interp.sae import architectures, training
from interp.sae.autoencoder import SparseAutoencoder
from interp.tasks.contrast import Contrast
from interp.tasks.facts import World
from interp.tasks.repeated import Repeated, repeated_random

ID = "E21"
OWN = "target of this report"


@dataclass(frozen=True, kw_only=True)
class Config:
    width: int = 24  # of the linear student
    shift: tuple[float, ...] = (3.0, 2.5, 2.0, 1.5, 1.0, 0.5)  # singular values of the teacher's shift; their number is its rank
    ranks: tuple[int, ...] = (1, 2, 3, 4, 6, 8)  # of the adapter
    shifts: int = 2  # teachers
    linear_steps: int = 500
    swaps: int = 4  # pairs of tokens that the cipher exchanges
    cipher_steps: int = 60  # of the induction model, each time it is trained
    layer: int = 1  # whose MLP is adapted when the facts change
    rank: int = 8  # of those adapters
    people: int = 16  # whose first fact is another
    fact_steps: int = 120  # of the adapters; a third of them for all matrices
    features: int = 256  # of the autoencoder after that layer
    chosen: int = 32  # neurons and features that are put into the other model
    draws: int = 5  # of as many others at random
    held_out: int = 128  # rows of the cipher on which the models are measured
    seed: int = 0


QUICK = {"shifts": 1}


def run(config: Config, report: Report) -> None:
    with experiment.stage("train linear adapters"):
        report_linear(config, report)
    with experiment.stage("teach a cipher"):
        report_by_hand(config, report)
        report_cipher(config, report)
    with experiment.stage("teach facts"):
        lesson = Lesson.of(config)
        adapted = lesson.taught(parts_of([config.layer], "mlp"), config.fact_steps, rank=config.rank)
        whole = lesson.taught(parts_of(range(4)), config.fact_steps // 3)
        report_learned(lesson, report, {"adapters": adapted, "all matrices": whole})
        report_place(lesson, report, adapted, whole)
        report_places(lesson, report, adapted, whole)
        report_units(lesson, report, adapted)
    report.text(
        "What would have shown this false: an adapter narrower than the shift that does better than the singular values allow; a "
        "cipher of four exchanges that no adapter of rank 4 can say; a difference between the models before the place that was "
        "trained, or a share other than 1 at that place; features that changed most and carry no more than others."
    )


def parts_of(layers: Iterable[int], *sublayers: str) -> list[str]:
    """The linear maps of some layers: all, or those of "attn" or "mlp"."""
    maps = {"attn": ("q", "k", "v", "o"), "mlp": ("in", "out")}
    return [f"blocks.{layer}.{name}.{part}" for layer in layers for name in sublayers or maps for part in maps[name]]


def fine_tuned(name: str, batches: Iterable[Batch], parts: Sequence[str], *, steps: int, rank: int | None, seed: int) -> Model:
    """A zoo model after training some of its matrices, or adapters of a rank on them, which are merged."""
    model = Model.load(name)
    adapters = None if rank is None else Adapters(model, parts, rank=rank, alpha=rank, seed=seed)
    if adapters is None:
        trained = {id(model.bridge.get_submodule(part).original_component.weight) for part in parts}
        for each in model.bridge.parameters():
            each.requires_grad_(id(each) in trained)
    schedule = linear_decay(3e-3 if rank is None else 1e-2, 5, steps)
    fit(Learner(model.bridge.original_model, schedule=schedule, forward=fast), batches)
    if adapters is not None:
        adapters.merge()
    return model


def bars_of(found: dict[str, stats.Estimate], label: str, value: str) -> pd.DataFrame:
    return pd.DataFrame([{label: name, value: each.value, "low": each.low, "high": each.high} for name, each in found.items()])


# ---- a linear student ----


class Student(HookedRootModule):
    """One linear map."""

    def __init__(self, width: int, drawn: torch.Generator) -> None:
        super().__init__()
        self.map = Linear(width, width, bias=False, generator=drawn)
        self.setup()

    def forward(self, x: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
        return self.map(x)


def report_linear(config: Config, report: Report) -> None:
    """The best loss of every rank, and that of training."""
    report.section("A shift of known rank")
    full = len(config.shift)
    tails = {rank: sum(value**2 for value in config.shift[rank:]) for rank in config.ranks}
    found = {rank: np.array([trained_loss(config, rank, number) for number in range(config.shifts)]) for rank in config.ranks}
    narrow, wide = [r for r in config.ranks if r < full], [r for r in config.ranks if r >= full]
    over = {rank: found[rank] / tails[rank] for rank in narrow}
    chance = [chance_loss(config, narrow[0], number) / tails[narrow[0]] for number in range(config.shifts)]
    report.claim(
        "eckart-young",
        f"loss of trained adapters over Σ_(i>r) σ_i², the worst of ranks {narrow[0]} to {narrow[-1]} and {config.shifts} shifts",
        float(max(each.max() for each in over.values())),
        at_most=1.02,
        source="Eckart & Young 1936",
        control=float(min(chance)),
        control_text=f"the shift projected on random directions, rank {narrow[0]}",
    )
    report.claim(
        "bound",
        "the same, the best of them: nothing does better",
        float(min(each.min() for each in over.values())),
        at_least=1 - 1e-5,
        source="Eckart & Young 1936",
        control=float(found[wide[0]].max() / tails[narrow[-1]]),
        control_text=f"rank {wide[0]}, measured against the bound of rank {narrow[-1]}",
    )
    report.claim(
        "wide-enough",
        f"loss of adapters of rank {full} and more, the worst",
        float(max(found[rank].max() for rank in wide)),
        at_most=1e-4,
        source="Hu et al. 2021, §4.1",
        control=float(found[narrow[-1]].min()),
        control_text=f"rank {narrow[-1]}",
    )
    rows = [{"rank": rank, "loss": float(found[rank].mean()), "adapter": "trained"} for rank in config.ranks]
    rows += [{"rank": rank, "loss": float(tails[rank]), "adapter": "best possible"} for rank in config.ranks]
    table = pd.DataFrame(rows)
    report.figure(
        "linear",
        figures.lines(table, "rank", "loss", by="adapter", xlabel="rank of the adapter", ylabel="squared error", ylim=(0, None)),
        data=table,
        caption=f"A shift of rank {full}: loss of trained adapters, and what the singular values allow.",
        alt="The loss falls with the rank to zero at the rank of the shift; trained adapters lie on the bound.",
    )


def shift(config: Config, number: int) -> Float[Tensor, "width width"]:
    """A teacher's shift: random singular vectors, given singular values."""
    u, v = torch.linalg.qr(
        torch.randn(2, config.width, len(config.shift), generator=stats.torch_generator(config.seed, "shift", number))
    )[0]
    return (u * torch.tensor(config.shift)) @ v.T


def trained_loss(config: Config, rank: int, number: int) -> float:
    """E|ΔW x − Δ* x|² = ‖ΔW − Δ*‖² for normal x, after training an adapter on fresh x with a rate that falls to 0."""
    drawn, wanted = stats.torch_generator(config.seed, "linear", rank, number), shift(config, number)
    model = Model.wrap(Student(config.width, drawn))
    adapters = Adapters(model, ["map"], rank=rank, alpha=rank, seed=config.seed)
    base = model.weight("map.weight").clone()
    optimizer = torch.optim.Adam(adapters.parameters(), lr=0.03)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.linear_steps)
    for _ in range(config.linear_steps):
        x = torch.randn(256, config.width, generator=drawn)
        optimizer.zero_grad()
        (model.bridge(x) - x @ (base + wanted).T).square().sum(1).mean().backward()
        optimizer.step()
        falling.step()
    return float((adapters.changes()["map"] - wanted).square().sum())


def chance_loss(config: Config, rank: int, number: int) -> float:
    """What is left of the shift after a projection of its output on random directions."""
    wanted = shift(config, number)
    basis = torch.linalg.qr(torch.randn(config.width, rank, generator=stats.torch_generator(config.seed, "chance", number)))[0]
    return float((wanted - basis @ basis.T @ wanted).square().sum())


# ---- the induction model learns a cipher ----


def cipher(config: Config, d_vocab: int) -> Int[Tensor, " d_vocab"]:
    """What is said in place of every token: `swaps` pairs of tokens change places."""
    drawn = 1 + torch.randperm(d_vocab - 1, generator=stats.torch_generator(config.seed, "cipher"))[: 2 * config.swaps]
    said = torch.arange(d_vocab)
    said[drawn] = drawn.view(-1, 2).flip(1).flatten()
    return said


def copies(config: Config, model: Model, n: int, *purpose: str | int) -> Repeated:
    return repeated_random(n, model.n_ctx, model.d_vocab, generator=stats.torch_generator(config.seed, *purpose))


def asked(rows: Repeated, said: Int[Tensor, " d_vocab"]) -> Batch:
    """A copy is to be said in cipher; nothing else is asked."""
    return Batch(tokens=rows.tokens, targets=said[rows.tokens[:, 1:]], counted=rows.is_copy[:, 1:])


def report_by_hand(config: Config, report: Report) -> None:
    """An exchange of two tokens is a change of rank 1 of the unembedding, so the cipher's rank is known."""
    report.section("A cipher of known rank")
    before, swaps = Model.load("induction-2l"), config.swaps
    said, weight = cipher(config, before.d_vocab), before.weight("W_U").T
    tokens = copies(config, before, 8, "by hand").tokens
    wanted, off = before.run(tokens).logits[..., said], {}
    for rank in (swaps - 1, swaps):
        model = Model.load("induction-2l")
        Adapters(model, ["unembed"], rank=rank, alpha=rank, seed=0).fill({"unembed": weight[said] - weight})
        off[rank] = float((model.run(tokens).logits - wanted).abs().max())
    report.claim(
        "by-hand",
        f"{swaps} pairs of tokens change places: how far the logits under an adapter of rank {swaps} made by hand lie from the "
        "model's own with those columns exchanged, at most",
        off[swaps],
        at_most=1e-3,
        source="an exchange of two rows is a change of rank 1",
        control=off[swaps - 1],
        control_text=f"the best change of rank {swaps - 1}",
    )


def report_cipher(config: Config, report: Report) -> None:
    """The cipher learned by attention alone: in full, through adapters, and from a teacher's words."""
    before = Model.load("induction-2l")
    said, parts = cipher(config, before.d_vocab), parts_of(range(2), "attn")

    def course(purpose: str, batch: Callable[[Repeated], Batch], rank: int | None = None) -> Model:
        rows = (copies(config, before, 32, purpose, step) for step in range(config.cipher_steps))
        return fine_tuned("induction-2l", map(batch, rows), parts, steps=config.cipher_steps, rank=rank, seed=config.seed)

    tuned = course("curated", lambda rows: asked(rows, said))
    models = {
        "before": before,
        "trained on true rows": tuned,
        "trained on a teacher's words": course("taught", lambda rows: taught(tuned, rows.tokens)),
        f"adapters of rank {config.swaps}": course("adapters", lambda rows: asked(rows, said), config.swaps),
        "adapters of rank 1": course("adapters", lambda rows: asked(rows, said), 1),
    }
    found = {name: accuracy(config, model, said) for name, model in models.items()}
    intervals = {name: stats.bootstrap(values, seed=config.seed) for name, values in found.items()}
    report.claim(
        "adapters",
        f"exchanged tokens that are said in cipher, after training adapters of rank {config.swaps} on all of attention",
        intervals[f"adapters of rank {config.swaps}"],
        at_least=0.95,
        source=OWN,
        control=intervals["adapters of rank 1"],
        control_text="rank 1",
    )
    report.claim(
        "teacher",
        "accuracy that a student of the tuned model's words lacks, against that model",
        stats.paired_difference(found["trained on true rows"], found["trained on a teacher's words"], seed=config.seed),
        at_most=0.1,
        source=OWN,
        control=stats.paired_difference(found["trained on true rows"], found["before"], seed=config.seed),
        control_text="the model before",
    )
    table = bars_of(intervals, "model", "accuracy")
    report.figure(
        "cipher",
        figures.bars(table, "model", "accuracy", low="low", high="high", xlim=(0, 1.02)),
        data=table,
        caption=f"Exchanged tokens that are said in cipher where they are to be copied, after {config.cipher_steps} steps each.",
        alt="Bars: none before; nearly all after full training, a teacher's words and adapters wide enough; fewer with rank 1.",
    )
    report_rank(config, report, before, tuned)
    report_looks(config, report, before, tuned)


def accuracy(config: Config, model: Model, said: Int[Tensor, " d_vocab"]) -> Float[np.ndarray, " row"]:
    """Share of the copies of exchanged tokens that are said in cipher, in every row that has some."""
    batch = asked(copies(config, model, config.held_out, "held out"), said)
    assert batch.counted is not None
    exchanged = batch.counted & (batch.targets != batch.tokens[:, 1:])
    right = (model.run(batch.tokens).logits[:, :-1].argmax(-1) == batch.targets) & exchanged
    some = exchanged.any(1)
    return (right.sum(1)[some] / exchanged.sum(1)[some]).double().numpy()


def report_rank(config: Config, report: Report, before: Model, tuned: Model) -> None:
    """Full training spreads the change over more directions than it needs, and over fewer than noise."""
    changed = matrices(before, tuned, rank=config.swaps).query("change > 0")
    control = matrices(before, noised(before, tuned, seed=config.seed), rank=config.swaps).query("change > 0")
    random = control["effective rank"].mean()
    report.claim(
        "low-rank",
        "effective rank of the change of a matrix over that of noise, mean over the matrices of attention",
        stats.bootstrap(changed["effective rank"] / random, seed=config.seed),
        at_most=0.8,
        source=f"{OWN}, after Hu et al. 2021, §7",
        control=stats.bootstrap(control["effective rank"] / random, seed=config.seed),
        control_text="noise of the same norm",
    )
    report.table(
        "matrices", changed, caption=f"What full training added to each matrix of attention; noise has rank {random:.0f}."
    )


def report_looks(config: Config, report: Report, before: Model, tuned: Model) -> None:
    """What is said has changed; where the heads look has not."""
    tokens = copies(config, before, config.held_out, "held out").tokens
    looks = [patterns.induction_scores(model, tokens, special=[0]) for model in (before, tuned, before.untrained(config.seed))]
    layer, head = looks[0].mean("example").top(1)[0]
    own, after, chance = (each.sel(layer=layer, head=head).values for each in looks)
    report.claim(
        "same-look",
        f"attention of head {layer}.{head}, the best induction head, to the token after the match that learning the cipher cost",
        stats.paired_difference(own, after, seed=config.seed),
        at_most=0.2,
        source=f"{OWN}; fine-tuning enhances existing mechanisms (Prakash et al. 2024)",
        control=stats.paired_difference(own, chance, seed=config.seed),
        control_text="what it had before any training",
    )


# ---- the model of facts learns others ----


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
        return fine_tuned("facts-4l", batches, parts, steps=steps, rank=rank, seed=self.config.seed)

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
    table = bars_of(shares, "put in", "share")
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
