"""Where does a model keep its facts, and can one be rewritten? (Meng et al. 2022, arXiv:2202.05262; Dai et al. 2022, 2104.08696)

First a planted model, in which it is known that the last token of a name looks up the person in the first MLP. Then a small
transformer that learned about 200 facts about people of two names. Both are traced (the names are blurred, and one state at
a time put back), asked for their knowledge neurons, and edited, one fact at a time and many at once. Edits are judged by what
was asked for, in the words of the edit and in others, and by all that should have stayed. Tracing tells where facts pass; which
of them an edit can change is another matter (Hase et al. 2023, 2301.04213), and is compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor

from interp import experiment, figures, stats
from interp.measurement import Measurement
from interp.mlp import editing, knowledge, recall, tracing
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
    table, targets = report_editing(config, report, study)
    report_hase(config, report, study, effect, table, targets)
    report_many(report, study, targets)


def prepare(config: Config, model: Model, world: World) -> Study:
    """Chooses facts and new objects, and streams the second moment of keys over sentences of the world."""
    generator = torch.Generator().manual_seed(stats.torch_seed(config.seed, ID, "edits"))
    everything = world.facts[torch.randperm(len(world.facts), generator=generator)]
    facts = everything[recall.is_first(model, world.prompts(everything, ASKED[0]))][: config.edited]
    hook = f"blocks.{LAYER}.mlp.hook_post"
    rows = (world.rows(128, model.n_ctx, generator=generator)[0] for _ in range(4))
    posts = (model.run(row, read=[hook]).activations[hook][:, 1:].flatten(0, 1) for row in rows)
    return Study(model, world, facts, other_objects(world, facts), editing.second_moment(posts), config.seed)


def other_objects(world: World, facts: Tensor) -> Tensor:
    """Another object of the same relation for every fact."""
    found = []
    for subject, relation in facts.tolist():
        objects = world.answers[:, relation].unique()
        place = int((objects == world.answers[subject, relation]).nonzero())
        found.append(objects[(place + len(objects) // 3) % len(objects)])
    return torch.stack(found)


# ---- the planted world ----


def report_planted(config: Config, report: Report, world: World) -> None:
    """Tracing, attribution and editing find what was planted."""
    report.section("A planted world")
    model, facts = planted_world(world), spread(world, config.traced)
    prompts = world.prompts(facts, 0)
    with experiment.stage("planted world"):
        traces = {state: tracing.trace(model, prompts, state=state, samples=config.samples, seed=config.seed) for state in STATES}
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
    report.claim(
        "planted-peak",
        "effect of that MLP less that of any other MLP state",
        lead(traces["mlp"].effect, seed=config.seed),
        at_least=0.0,
        unit="probability",
        source=MENG,
        control=lead(traces["attention"].effect, seed=config.seed),
        control_text="the same for attention",
    )
    top = torch.from_numpy(found.values.sel(layer=0).values).argmax(1)
    report.claim(
        "planted-neuron",
        "share of facts whose neuron of largest attribution is the person's own",
        share(top == facts[:, 0], seed=config.seed),
        at_least=1.0,
        source=DAI,
        control=share(top.roll(len(world.templates)) == facts[:, 0], seed=config.seed),
        control_text="the neuron found for another fact",
    )
    claim_planted_edits(config, report, model, world)


def claim_planted_edits(config: Config, report: Report, model: Model, world: World) -> None:
    """Every fact that is rewritten changes in all words, and nothing else does."""
    facts = spread(world, config.edited // 2)
    wanted, prompts = other_objects(world, facts), world.prompts(world.facts, 0)
    contexts = [world.prompts(facts, template).asking(wanted) for template in ASKED]
    keys, targets = (
        editing.subject_keys(model, 0, contexts),
        editing.target_values(model, 0, contexts, keep=same_person(world, facts)),
    )
    moment = editing.second_moment([editing.subject_keys(model, 0, [prompts])])
    success, unmoved, blunt = [], [], []
    for fact in range(len(facts)):
        one = slice(fact, fact + 1)
        edited = editing.rewrite(model, 0, keys[one], targets.values[one], moment, max_relative_norm=MAX_NORM).apply(model)
        mean_key = editing.rewrite(model, 0, keys.mean(0, keepdim=True), targets.values[one], moment, max_relative_norm=100)
        blunt.append(float(editing.unmoved(model, mean_key.apply(model), prompts[others(world, facts[fact])]).float().mean()))
        success.append(worded(edited, world, facts[one], wanted[one], (*ASKED, *OTHER_WORDS)))
        unmoved.append(float(editing.unmoved(model, edited, prompts[others(world, facts[fact])]).float().mean()))
    report.claim(
        "planted-edit",
        "share of edited facts that are answered anew, over all wordings",
        stats.bootstrap(success, seed=config.seed),
        at_least=1.0,
        source=MENG,
        control=worded(model, world, facts, wanted, (*ASKED, *OTHER_WORDS)),
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
            share(knows[model.name][where], seed=config.seed),
            at_least=0.95,
            source=ISSUE,
            control=share(knows[untrained.name][where], seed=config.seed),
            control_text="untrained",
        )
    report.text(f"{len(world.facts)} facts, such as: {world.text(world.prompts(world.facts[:1], 0).tokens[0, 1:])} …")


def report_tracing(config: Config, report: Report, model: Model, world: World) -> Measurement:
    """The MLP acts at the last subject token. Returns its effects."""
    report.section("Causal tracing")
    some = world.prompts(spread(world, config.traced), 0)
    prompts = some[recall.is_first(model, some)]
    with experiment.stage("trace"):
        effects = {
            state: tracing.trace(model, prompts, state=state, samples=config.samples, seed=config.seed).effect for state in STATES
        }
    here = {state: effect.sel(layer=LAYER, role="last subject").values for state, effect in effects.items()}
    report.claim(
        "trace-peak",
        "effect of the first MLP at the last subject token less that of any other MLP state",
        lead(effects["mlp"], seed=config.seed),
        at_least=0.0,
        unit="probability",
        source=MENG,
        control=lead(effects["attention"], seed=config.seed),
        control_text="the same for attention",
    )
    report.claim(
        "trace-mlp-attention",
        "effect of the first MLP at the last subject token less that of any attention layer there",
        least_lead(
            here["mlp"],
            [effects["attention"].sel(layer=each, role="last subject").values for each in range(model.n_layers)],
            seed=config.seed,
        ),
        at_least=0.0,
        unit="probability",
        source=MENG,
        control=least_lead(
            effects["mlp"].sel(layer=1, role="last").values,
            [effects["attention"].sel(layer=1, role="last").values],
            seed=config.seed,
        ),
        control_text="layer 1 at the last token",
    )
    for state, effect in effects.items():
        table = effect.mean("example").table()
        order = list(effect.coords["role"])
        table["place"] = [f"{order.index(role)} {role}".replace(" ", "\n") for role in table["role"]]
        report.figure(
            f"trace-{state}",
            figures.heatmap(table, "place", "layer", "effect", centre=0.0, title=f"What restoring brings back: {state}"),
            data=table,
            caption="Mean gain in probability of the answer when one state is put back into a run with blurred names.",
            alt=f"Heat map of the indirect effect of {state} states by layer and place in the prompt",
        )
    return effects["mlp"]


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
    generator = torch.Generator().manual_seed(stats.torch_seed(config.seed, ID, "neurons"))
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
    table = neuron_table(model, world, neurons, known, generator)
    report.table(
        "knowledge-neurons", table, caption="Relative change of P(answer): own fact, other people's facts, random neurons."
    )
    for slug, text, name, sign in (
        (
            "suppress",
            "share of P(answer) lost when its knowledge neurons are silenced, less that of other facts",
            "silenced",
            -1.0,
        ),
        ("double", "share of P(answer) gained when they are doubled, less that of other facts", "doubled", 1.0),
    ):
        report.claim(
            slug,
            text,
            stats.paired_difference(sign * table[f"own, {name}"], sign * table[f"others, {name}"], seed=config.seed),
            at_least=0.1 if name == "silenced" else 0.0,
            source=DAI,
            control=stats.paired_difference(
                sign * table[f"own, random {name}"], sign * table[f"others, {name}"], seed=config.seed
            ),
            control_text="as many random neurons",
        )
    report.text(
        f"{table['neurons'].mean():.1f} neurons per fact are found in {len(ways)} wordings. Largest completeness residual: "
        f"{residual:.2g}."
    )


def neuron_table(
    model: Model, world: World, neurons: dict[int, list[knowledge.Neuron]], known: Tensor, generator: torch.Generator
) -> pd.DataFrame:
    """What silencing and doubling the neurons of every fact does to it and to other people's, beside random neurons."""
    rows, prompts, people = [], world.prompts(world.facts, 0), world.facts[:, 0]
    for fact, found in neurons.items():
        random = [(LAYER, int(neuron)) for neuron in torch.randperm(model.d_mlp, generator=generator)[: len(found)]]
        others_known = (known & (people != people[fact])).numpy()
        row: dict[str, float] = {"fact": fact, "neurons": len(found)}
        for name, factor in (("silenced", 0.0), ("doubled", 2.0)):
            change = knowledge.relative_change(model, prompts, found, factor=factor).values
            row[f"own, {name}"], row[f"others, {name}"] = change[fact], change[others_known].mean()
            row[f"own, random {name}"] = knowledge.relative_change(model, prompts, random, factor=factor).values[fact]
        rows.append(row)
    return pd.DataFrame(rows)


# ---- editing ----


def spread(world: World, n: int) -> Tensor:
    """About `n` facts, evenly from the whole world, with all relations among them."""
    step = max(1, len(world.facts) // n)
    step += step > 1 and step % len(world.templates) == 0
    return world.facts[::step]


def same_person(world: World, facts: Tensor) -> list[Prompts]:
    """Prompts for the other relations of each fact's subject."""
    n = len(world.templates)
    return [world.prompts(torch.stack([facts[:, 0], (facts[:, 1] + shift) % n], 1), 0) for shift in range(1, n)]


def others(world: World, fact: Tensor) -> Tensor:
    """Which facts of the world are not this one."""
    return (world.facts != fact).any(1)


def worded(model: Model, world: World, facts: Tensor, wanted: Tensor, templates: tuple[int, ...]) -> float:
    """Share of (fact, wording) that are answered with the new objects."""
    return float(
        torch.stack([recall.is_first(model, world.prompts(facts, way).asking(wanted)) for way in templates]).float().mean()
    )


def contexts(study: Study) -> list[Prompts]:
    """The edited facts in the words of the edit, with nothing and with two fillers before them."""
    generator = torch.Generator().manual_seed(stats.torch_seed(study.seed, ID, "prefixes"))
    found = []
    for template in ASKED:
        for length in (0, 2):
            prefix = study.world.prefixes(len(study.facts), length, generator=generator)
            found.append(study.world.prompts(study.facts, template, prefix=prefix).asking(study.wanted))
    return found


def report_editing(config: Config, report: Report, study: Study) -> tuple[pd.DataFrame, editing.Targets]:
    """One fact at a time is rewritten; its paraphrases follow, others stay. Returns the table of edits and their values."""
    report.section("Editing one fact")
    with experiment.stage("edit"):
        keep = same_person(study.world, study.facts)
        targets = editing.target_values(study.model, LAYER, contexts(study), keep=keep)
        table = edit_table(study, targets)
    report.table("edits", table, caption="One row per edit and metric. Shares, over wordings or over the other facts.")
    ours, plain = (table[table["metric"] == metric].reset_index() for metric in ("C", "I"))
    before = [worded(study.model, study.world, study.facts, study.wanted, words) for words in (ASKED, OTHER_WORDS)]
    for column, words, target, source, control in (
        ("success", "the words of the edit", 0.95, ISSUE, before[0]),
        ("paraphrase", "other words", 0.8, MENG, before[1]),
    ):
        report.claim(
            f"edit-{column}",
            f"share of edited facts that are answered anew, in {words}",
            stats.bootstrap(ours[column], seed=config.seed),
            at_least=target,
            source=source,
            control=control,
            control_text="before the edits",
        )
    for column, text in (("specificity", ""), ("neighbours", " with the object that the edited one had")):
        report.claim(
            f"edit-{column}",
            f"share that stay of other people's facts{text}",
            stats.bootstrap(ours[column], seed=config.seed),
            at_least=0.95,
            source=ISSUE,
            control=stats.bootstrap(plain[column], seed=config.seed),
            control_text="edits by C = I",
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
    return table, targets


def edit_table(study: Study, targets: editing.Targets) -> pd.DataFrame:
    """Every edit by both metrics, judged."""
    keys = editing.subject_keys(study.model, LAYER, contexts(study))
    world, rows = study.world, []
    metrics = {"C": (study.moment, RIDGE), "I": (torch.eye(len(study.moment), dtype=study.moment.dtype), 0.0)}
    everything = world.prompts(world.facts, ASKED[0])
    old = world.answers[world.facts[:, 0], world.facts[:, 1]]
    for place, fact in enumerate(study.facts):
        one = slice(place, place + 1)
        elsewhere = world.facts[:, 0] != fact[0]
        neighbours = elsewhere & (old == world.answers[fact[0], fact[1]])
        for metric, (moment, ridge) in metrics.items():
            change = editing.rewrite(
                study.model, LAYER, keys[one], targets.values[one], moment, ridge=ridge, max_relative_norm=MAX_NORM
            )
            edited = change.apply(study.model)
            stays = editing.unmoved(study.model, edited, everything).float()
            rows.append(
                {
                    "subject": world.text(world.subjects[fact[0]]),
                    "relation": int(fact[1]),
                    "metric": metric,
                    "success": worded(edited, world, study.facts[one], study.wanted[one], ASKED),
                    "paraphrase": worded(edited, world, study.facts[one], study.wanted[one], OTHER_WORDS),
                    "specificity": float(stays[elsewhere].mean()),
                    "neighbours": float(stays[neighbours].mean()),
                    "same person": float(stays[~elsewhere & others(world, fact)].mean()),
                    "probability": float(recall.probability(edited, study.asked(OTHER_WORDS[0], one))[0]),
                    "relative norm": change.relative_norm,
                }
            )
    return pd.DataFrame(rows)


def report_hase(
    config: Config, report: Report, study: Study, effect: Measurement, table: pd.DataFrame, targets: editing.Targets
) -> None:
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
        control=explained(targets.probability.numpy(), probability, seed=config.seed),
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
    report.table(
        "layers", rows, caption="Between layers tracing and editing agree in this model: the last token reads names early."
    )


def explained(x: np.ndarray, y: np.ndarray, *, seed: int) -> Estimate:
    """Spearman's ρ² with its bootstrap interval, examples resampled."""

    def square(rows: np.ndarray) -> float:
        picked = rows.astype(int)
        return float(np.nan_to_num(spearmanr(x[picked], y[picked]).statistic)) ** 2  # type: ignore[union-attr]

    return stats.bootstrap(np.arange(len(x)), statistic=square, seed=seed)


def report_many(report: Report, study: Study, targets: editing.Targets) -> None:
    """How many facts one layer takes at once."""
    report.section("Many facts at once")
    keys = editing.subject_keys(study.model, LAYER, contexts(study))
    first = [int((study.facts[:, 0] == subject).nonzero()[0]) for subject in study.facts[:, 0].unique()]
    order = torch.tensor(sorted(first))  # one fact per person: facts of one person share their key
    rows = []
    for n in [size for size in (1, 2, 4, 8, 16, 32) if size <= len(order)]:
        chosen = order[:n]
        for slack in (0.0, 0.1):
            change = editing.rewrite(
                study.model,
                LAYER,
                keys[chosen],
                targets.values[chosen],
                study.moment,
                ridge=RIDGE,
                slack=slack,
                max_relative_norm=100,
            )
            edited = change.apply(study.model)
            elsewhere = ~torch.isin(study.world.facts[:, 0], study.facts[chosen, 0])
            stays = editing.unmoved(study.model, edited, study.world.prompts(study.world.facts, 0)[elsewhere])
            rows.append(
                {
                    "facts": n,
                    "slack": slack,
                    "success": worded(edited, study.world, study.facts[chosen], study.wanted[chosen], ASKED),
                    "specificity": float(stays.float().mean()),
                    "relative norm": change.relative_norm,
                }
            )
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


def share(holds: Tensor, *, seed: int) -> Estimate:
    """Share of examples for which something holds, with its interval."""
    return stats.bootstrap(holds.double().numpy(), seed=seed)


if __name__ == "__main__":
    experiment.main(Config, run)
