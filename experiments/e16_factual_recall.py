"""Where does a model keep its facts, and can one be rewritten? (Meng et al. 2022, arXiv:2202.05262; Dai et al. 2022, 2104.08696)

First a planted model, in which it is known that the last token of a name looks up the person in the first MLP. Then a small
transformer that learned about 200 facts about people of two names. Both are traced (the names are blurred, and one state at
a time put back), asked for their knowledge neurons, and edited, one fact at a time and many at once. Edits are judged by what
was asked for, in the words of the edit and in others, and by all that should have stayed. Tracing tells where facts pass; which
of them an edit can change is another matter (Hase et al. 2023, 2301.04213), and is compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp import experiment, figures, stats
from interp.association import rank_correlation
from interp.measurement import Measurement
from interp.mlp import editing, knowledge, recall, tracing
from interp.mlp.judging import edit_scores, neuron_scores, worded
from interp.models import zoo
from interp.models.hooked import Model
from interp.models.memories import planted_world
from interp.report import Report
from interp.stats import Estimate
from interp.tasks.facts import Prompts, World

ID = "E16"


@dataclass(frozen=True, kw_only=True)
class Config:
    steps: int = zoo.FactRecipe.steps  # of training
    traced: int = 96  # facts whose way is traced
    edited: int = 64  # facts rewritten, one at a time
    samples: int = 4  # draws of noise for tracing
    attributed: int = 48  # facts whose knowledge neurons are sought
    seed: int = 0


QUICK = {"traced": 48, "samples": 2, "attributed": 24}

MENG, DAI, HASE = "Meng et al. 2022", "Dai et al. 2022", "Hase et al. 2023"
ISSUE = "target of this report"
LAYER = 0  # where facts are found, and edited
ASKED, OTHER_WORDS = (0, 2), (1, 3)
"""Templates of the contexts of an edit, and those it is tested on as paraphrases."""
EVERY_WAY = (*ASKED, *OTHER_WORDS)
RIDGE, MAX_NORM = 1e-4, 4.0
THRESHOLD = 0.1
"""Of knowledge neurons, as a share of the largest attribution; half of Dai's, since facts here are spread over more neurons."""


@dataclass(frozen=True)
class Study:
    """The model, its world, and the facts that are edited: what is to become of each, and the second moment of keys."""

    model: Model
    world: World
    facts: Tensor  # (subject, relation)
    wanted: Tensor  # the new object of each
    moment: Tensor
    seed: int

    @cached_property
    def contexts(self) -> list[Prompts]:
        """The edited facts in the words of the edit, with nothing and with two fillers before them."""
        generator = stats.torch_generator(self.seed, ID, "prefixes")
        return self.world.contexts(self.facts, self.wanted, ASKED, (0, 2), generator=generator)

    @cached_property
    def keys(self) -> Tensor:
        """What the MLP is asked with for each fact: [fact neuron]."""
        return editing.subject_keys(self.model, LAYER, self.contexts)

    @cached_property
    def targets(self) -> editing.Targets:
        """What the MLP has to answer for each fact to become the new one."""
        return editing.target_values(self.model, LAYER, self.contexts, keep=self.world.same_person(self.facts))

    def asked(self, template: int, chosen: Tensor | slice = slice(None)) -> Prompts:
        """Edited facts in some words, asking for their new objects."""
        return self.world.prompts(self.facts[chosen], template).asking(self.wanted[chosen])


def run(config: Config, report: Report) -> None:
    recipe = zoo.FactRecipe(seed=config.seed, steps=config.steps)
    report_planted(config, report, recipe.world)
    with experiment.stage("train"):
        model = zoo.train(recipe).model
    report_known(config, report, model, recipe.world)
    effect = report_tracing(config, report, model, recipe.world)
    report_neurons(config, report, model, recipe.world)
    study = prepare(config, model, recipe.world)
    table = report_editing(config, report, study)
    report_hase(config, report, study, effect, table)
    report_many(report, study)


def prepare(config: Config, model: Model, world: World) -> Study:
    """Chooses facts and new objects, and streams the second moment of keys over sentences of the world."""
    generator = stats.torch_generator(config.seed, ID, "edits")
    everything = world.facts[torch.randperm(len(world.facts), generator=generator)]
    facts = everything[recall.is_first(model, world.prompts(everything, ASKED[0]))][: config.edited]
    hook = f"blocks.{LAYER}.mlp.hook_post"
    rows = (world.rows(128, model.n_ctx, generator=generator)[0] for _ in range(4))
    posts = (model.run(row, read=[hook]).activations[hook][:, 1:].flatten(0, 1) for row in rows)
    return Study(model, world, facts, world.other_objects(facts), editing.second_moment(posts), config.seed)


# ---- the planted world ----


def report_planted(config: Config, report: Report, world: World) -> None:
    """Tracing, attribution and editing find what was planted."""
    report.section("A planted world")
    report.text("One neuron per person in the first MLP fires at the end of the name and writes all that is known of them.")
    model, facts = planted_world(world), world.spread(config.traced)
    prompts = world.prompts(facts, 0)
    with experiment.stage("planted world"):
        traces = trace_all(config, model, prompts)
        found = knowledge.attribute(model, prompts, at=prompts.last_subject, layers=[0])
    lost = traces["mlp"].clean.values - traces["mlp"].corrupted.values
    here = {state: trace.effect.sel(layer=0, role="last subject").values for state, trace in traces.items()}
    report.claim(
        "planted-trace",
        "share of the lost probability that the first MLP brings back at the last subject token",
        stats.ratio(here["mlp"], lost, seed=config.seed),
        at_least=0.95,
        source=MENG,
        control=stats.ratio(here["attention"], lost, seed=config.seed),
        control_text="the first attention layer there",
    )
    claim_peak(config, report, "planted-peak", "effect of that MLP less that of any other MLP state", traces)
    top = torch.from_numpy(found.values.sel(layer=0).values).argmax(1)
    report.claim(
        "planted-neuron",
        "share of facts whose neuron of largest attribution is the person's own",
        stats.bootstrap(top == facts[:, 0], seed=config.seed),
        at_least=1.0,
        source=DAI,
        control=stats.bootstrap(top.roll(len(world.templates)) == facts[:, 0], seed=config.seed),
        control_text="the neuron found for another fact",
    )
    claim_planted_edits(config, report, model, world)


def claim_planted_edits(config: Config, report: Report, model: Model, world: World) -> None:
    """Every fact that is rewritten changes in all words, and nothing else does."""
    facts = world.spread(config.edited // 2)
    wanted, prompts = world.other_objects(facts), world.prompts(world.facts, 0)
    contexts = [world.prompts(facts, template).asking(wanted) for template in ASKED]
    keys = editing.subject_keys(model, 0, contexts)
    values = editing.target_values(model, 0, contexts, keep=world.same_person(facts)).values
    moment = editing.second_moment([editing.subject_keys(model, 0, [prompts])])
    success, unmoved, blunt = [], [], []
    for place, fact in enumerate(facts):
        one, rest = slice(place, place + 1), prompts[world.but(fact)]
        edited = editing.rewrite(model, 0, keys[one], values[one], moment, max_relative_norm=MAX_NORM).apply(model)
        smeared = editing.rewrite(model, 0, keys.mean(0, keepdim=True), values[one], moment, max_relative_norm=100).apply(model)
        success.append(worded(edited, world, facts[one], wanted[one], EVERY_WAY))
        for kept, after in ((unmoved, edited), (blunt, smeared)):
            kept.append(float(editing.unmoved(model, after, rest).float().mean()))
    report.claim(
        "planted-edit",
        "share of edited facts that are answered anew, over all wordings",
        stats.bootstrap(success, seed=config.seed),
        at_least=1.0,
        source=MENG,
        control=worded(model, world, facts, wanted, EVERY_WAY),
        control_text="before the edits",
    )
    report.claim(
        "planted-specificity",
        "share of the other facts that stay, the person's own among them",
        stats.bootstrap(unmoved, seed=config.seed),
        at_least=0.95,
        source=MENG,
        control=stats.bootstrap(blunt, seed=config.seed),
        control_text="written to the mean of all keys",
    )


# ---- the trained model ----

STATES = ("mlp", "attention", "hidden")


def report_known(config: Config, report: Report, model: Model, world: World) -> None:
    """It knows the facts, also when asked in ways it was never shown."""
    report.section("A model that learned its facts")
    untrained = model.untrained(stats.torch_seed(config.seed, "untrained"))
    ways = range(len(world.templates[0]))
    held_out = torch.cat([world.is_held_out(world.facts, way) for way in ways])
    knows = {
        one.name: torch.cat([recall.is_first(one, world.prompts(world.facts, way)) for way in ways]) for one in (model, untrained)
    }
    for slug, where, text in (
        ("known", ~held_out, "share of facts answered, in ways of asking seen in training"),
        ("known-held-out", held_out, "share of facts answered, in ways of asking never seen for them"),
    ):
        report.claim(
            slug,
            text,
            stats.bootstrap(knows[model.name][where], seed=config.seed),
            at_least=0.95,
            source=ISSUE,
            control=stats.bootstrap(knows[untrained.name][where], seed=config.seed),
            control_text="untrained",
        )
    report.text(f"{len(world.facts)} facts, such as: {world.text(world.prompts(world.facts[:1], 0).tokens[0, 1:])} …")


def report_tracing(config: Config, report: Report, model: Model, world: World) -> Measurement:
    """The MLP acts at the last subject token. Returns its effects."""
    report.section("Causal tracing")
    some = world.prompts(world.spread(config.traced), 0)
    prompts = some[recall.is_first(model, some)]
    with experiment.stage("trace"):
        traces = trace_all(config, model, prompts)
    words = "effect of the first MLP at the last subject token less that of any other MLP state"
    claim_peak(config, report, "trace-peak", words, traces)
    mlp, attention = traces["mlp"].effect, traces["attention"].effect
    heads = [attention.sel(layer=layer, role="last subject").values for layer in range(model.n_layers)]
    last = [effect.sel(layer=1, role="last").values for effect in (mlp, attention)]
    report.claim(
        "trace-mlp-attention",
        "effect of the first MLP at the last subject token less that of any attention layer there",
        least_lead(mlp.sel(layer=LAYER, role="last subject").values, heads, seed=config.seed),
        at_least=0.0,
        unit="probability",
        source=MENG,
        control=stats.paired_difference(*last, seed=config.seed),
        control_text="layer 1 at the last token",
    )
    for state, trace in traces.items():
        table = trace.effect.mean("example").table()
        table["place"] = table["role"].str.replace(" ", "\n")
        report.figure(
            f"trace-{state}",
            figures.heatmap(table, "place", "layer", "effect", centre=0.0, title=f"What restoring brings back: {state}"),
            data=table,
            caption="Mean gain in probability of the answer when one state is put back into a run with blurred names.",
            alt=f"Heat map of the indirect effect of {state} states by layer and place in the prompt",
        )
    return mlp


def trace_all(config: Config, model: Model, prompts: Prompts) -> dict[str, tracing.Trace]:
    """Every kind of state put back, one at a time."""
    return {state: tracing.trace(model, prompts, state=state, samples=config.samples, seed=config.seed) for state in STATES}


def claim_peak(config: Config, report: Report, slug: str, text: str, traces: dict[str, tracing.Trace]) -> None:
    """The MLP stands out where facts are found, attention does not."""
    report.claim(
        slug,
        text,
        lead(traces["mlp"].effect, seed=config.seed),
        at_least=0.0,
        unit="probability",
        source=MENG,
        control=lead(traces["attention"].effect, seed=config.seed),
        control_text="the same for attention",
    )


def lead(effect: Measurement, *, seed: int) -> Estimate:
    """Effect at (LAYER, last subject) less the largest mean effect of any other layer and role, paired by example."""
    cells = [(layer, role) for layer, role in effect.mean("example").top() if (layer, role) != (LAYER, "last subject")]
    rivals = [effect.sel(layer=layer, role=role).values for layer, role in cells]
    return least_lead(effect.sel(layer=LAYER, role="last subject").values, rivals, seed=seed)


def least_lead(values: np.ndarray, rivals: list[np.ndarray], *, seed: int) -> Estimate:
    """Paired difference to the rival with the largest mean."""
    return stats.paired_difference(values, max(rivals, key=np.mean), seed=seed)


# ---- knowledge neurons ----


def report_neurons(config: Config, report: Report, model: Model, world: World) -> None:
    """Facts hang on the neurons that attribution finds for them, other facts less."""
    report.section("Knowledge neurons")
    ways = range(len(world.templates[0]))
    asked = [world.prompts(world.facts, way) for way in ways]
    known = torch.stack([recall.is_first(model, each) for each in asked]).all(0)
    generator = stats.torch_generator(config.seed, ID, "neurons")
    chosen = known.nonzero().flatten()
    chosen = chosen[torch.randperm(len(chosen), generator=generator)][: config.attributed]
    with experiment.stage("integrated gradients"):
        parts = [
            knowledge.attribute(model, each[chosen], at=each[chosen].last_subject, layers=[LAYER], steps=60) for each in asked
        ]
    values = np.concatenate([part.values.values for part in parts])
    merged = Measurement("attribution", values, ("example", "layer", "neuron"), {"layer": [LAYER]}, unit="probability")
    neurons = knowledge.refine(merged, chosen.tolist() * len(parts), threshold=THRESHOLD)
    residual = max(float(np.abs(part.residual.values).max()) for part in parts)
    table = neuron_scores(model, world, neurons, known, layer=LAYER, generator=generator)
    caption = "Relative change of P(answer): own fact, other people's facts, random neurons."
    report.table("knowledge-neurons", table, caption=caption)
    for slug, done, name, sign, least in (
        ("suppress", "lost when its knowledge neurons are silenced", "silenced", -1.0, 0.1),
        ("double", "gained when they are doubled", "doubled", 1.0, 0.0),
    ):
        own, random, others = (sign * table[f"{whose} {name}"] for whose in ("own,", "own, random", "others,"))
        report.claim(
            slug,
            f"share of P(answer) {done}, less that of other facts",
            stats.paired_difference(own, others, seed=config.seed),
            at_least=least,
            source=DAI,
            control=stats.paired_difference(random, others, seed=config.seed),
            control_text="as many random neurons",
        )
    number = f"{table['neurons'].mean():.1f} neurons per fact are found in {len(ways)} wordings."
    report.text(f"{number} Largest completeness residual: {residual:.2g}.")


# ---- editing ----


def report_editing(config: Config, report: Report, study: Study) -> pd.DataFrame:
    """One fact at a time is rewritten; its paraphrases follow, others stay. Returns the table of edits."""
    report.section("Editing one fact")
    with experiment.stage("edit"):
        table = edit_table(study)
    report.table("edits", table, caption="One row per edit and metric. Shares, over wordings or over the other facts.")
    ours, plain = (table[table["metric"] == metric].reset_index() for metric in ("C", "I"))
    was, were = (worded(study.model, study.world, study.facts, study.wanted, ways) for ways in (ASKED, OTHER_WORDS))
    anew, stay, first = "of edited facts that are answered anew, in", "that stay of other people's facts", "before the edits"
    blunt = {column: stats.bootstrap(plain[column], seed=config.seed) for column in ("specificity", "neighbours")}
    for column, text, least, source, control, beside in (
        ("success", f"{anew} the words of the edit", 0.95, ISSUE, was, first),
        ("paraphrase", f"{anew} other words", 0.8, MENG, were, first),
        ("specificity", stay, 0.95, ISSUE, blunt["specificity"], "edits by C = I"),
        ("neighbours", f"{stay} with the object that the edited one had", 0.95, ISSUE, blunt["neighbours"], "edits by C = I"),
    ):
        report.claim(
            f"edit-{column}",
            f"share {text}",
            stats.bootstrap(ours[column], seed=config.seed),
            at_least=least,
            source=source,
            control=control,
            control_text=beside,
        )
    report.claim(
        "edit-covariance",
        "specificity of edits by C⁻¹ less that of edits by C = I: keys of names are correlated",
        stats.paired_difference(ours["specificity"], plain["specificity"], seed=config.seed),
        at_least=0.0,
        source=MENG,
        control=stats.paired_difference(ours["success"], plain["success"], seed=config.seed),
        control_text="the same for success",
    )
    return table


def edit_table(study: Study) -> pd.DataFrame:
    """Every edit by both metrics, judged."""
    world, rows = study.world, []
    metrics = {"C": (study.moment, RIDGE), "I": (torch.eye(len(study.moment), dtype=study.moment.dtype), 0.0)}
    for place, fact in enumerate(study.facts):
        one, wanted = slice(place, place + 1), study.wanted[place]
        for metric, (moment, ridge) in metrics.items():
            key, value = study.keys[one], study.targets.values[one]
            change = editing.rewrite(study.model, LAYER, key, value, moment, ridge=ridge, max_relative_norm=MAX_NORM)
            edited = change.apply(study.model)
            row = {"subject": world.text(world.subjects[fact[0]]), "relation": int(fact[1]), "metric": metric}
            row |= edit_scores(study.model, edited, world, fact, wanted, asked=ASKED, unasked=OTHER_WORDS)
            row["probability"] = float(recall.probability(edited, study.asked(OTHER_WORDS[0], one))[0])
            rows.append(row | {"relative norm": change.relative_norm})
    return pd.DataFrame(rows)


def report_hase(config: Config, report: Report, study: Study, effect: Measurement, table: pd.DataFrame) -> None:
    """Which facts an edit changes well is not told by how strongly they are traced to the layer."""
    report.section("Does tracing tell where edits work?")
    prompts = study.world.prompts(study.facts, 0)
    traced = tracing.trace(study.model, prompts, samples=config.samples, seed=config.seed).effect
    here = traced.sel(layer=LAYER, role="last subject").values
    probability = np.asarray(table[table["metric"] == "C"]["probability"])
    report.claim(
        "hase",
        "share of the variance (of ranks) of P(new answer) after an edit that the fact's traced effect explains",
        explained(here, probability, seed=config.seed),
        at_most=0.25,
        source=HASE,
        control=explained(study.targets.probability.numpy(), probability, seed=config.seed),
        control_text="explained by how far v* got before the edit",
    )
    asked = [study.asked(ASKED[0])]
    rows = [
        {
            "layer": layer,
            "traced effect": float(effect.sel(layer=layer, role="last subject").values.mean()),
            "P(new answer) with v*": float(editing.target_values(study.model, layer, asked).probability.mean()),
        }
        for layer in range(study.model.n_layers)
    ]
    caption = "Between layers tracing and editing agree in this model: the last token reads names early."
    report.table("layers", rows, caption=caption)


def explained(x: np.ndarray, y: np.ndarray, *, seed: int) -> Estimate:
    """Spearman's ρ² with its bootstrap interval, examples resampled; constants explain nothing."""
    return stats.resampled(len(x), lambda rows: float(np.nan_to_num(rank_correlation(x[rows], y[rows]))) ** 2, seed=seed)


def report_many(report: Report, study: Study) -> None:
    """How many facts one layer takes at once."""
    report.section("Many facts at once")
    world, rows = study.world, []
    first = [int((study.facts[:, 0] == subject).nonzero()[0]) for subject in study.facts[:, 0].unique()]
    order = torch.tensor(sorted(first))  # one fact per person: facts of one person share their key
    for n in [size for size in (1, 2, 4, 8, 16, 32) if size <= len(order)]:
        chosen = order[:n]
        for slack in (0.0, 0.1):
            change = editing.rewrite(
                study.model, LAYER, study.keys[chosen], study.targets.values[chosen], study.moment,
                ridge=RIDGE, slack=slack, max_relative_norm=100,
            )  # fmt: skip
            edited = change.apply(study.model)
            elsewhere = ~torch.isin(world.facts[:, 0], study.facts[chosen, 0])
            stays = editing.unmoved(study.model, edited, world.prompts(world.facts, 0)[elsewhere])
            success = worded(edited, world, study.facts[chosen], study.wanted[chosen], ASKED)
            row = {"facts": n, "slack": slack, "success": success, "specificity": float(stays.float().mean())}
            rows.append(row | {"relative norm": change.relative_norm})
    table = pd.DataFrame(rows)
    shown = pd.DataFrame(table.melt(["facts", "slack"], ["success", "specificity"], "score", "share"))
    shown["series"] = [f"{score}, slack {slack}" for score, slack in zip(shown["score"], shown["slack"], strict=True)]
    report.table("many", table, caption="Edits of several facts in one layer at once.")
    report.figure(
        "many",
        figures.lines(shown, "facts", "share", by="series", xscale="log", title="Many facts at once"),
        data=shown,
        caption="Success of the edits and specificity over the facts of people whom no edit names.",
        alt="Success and specificity fall as more facts are edited at once",
    )


if __name__ == "__main__":
    experiment.main(Config, run)
