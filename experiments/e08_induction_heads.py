"""Do induction heads form, carry the in-context gain, and appear in a phase change? (Olsson et al. 2022, arXiv:2209.11895)

Two attention-only models, of two layers and of one, learn to continue random tokens that repeat with a random period. In
two layers a head of the first can mark each token with the one before it, and a head of the second can then look for
the token after earlier matches of the present one: induction (Elhage et al. 2021). One layer has nobody to do the first
step. Heads are chosen on some prompts and measured on others. The in-context gain is what a model saves on copied tokens
against an even guess among all tokens. Ablation replaces a head's output by its mean over the positions that predict copied
tokens (zero is shown beside it): the mean over all positions would hold what heads write while they rest at BOS.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd

from interp import experiment, figures, head_pages, stats
from interp.heads import ablation, classes, composition, patching, paths, patterns
from interp.heads.ablation import Head
from interp.heads.formation import Formation, follow
from interp.heads.induction import KINDS, WAYS, Circuit, best_prefix, copy_loss, find, gain_removed, label
from interp.models import zoo
from interp.models.courses import place_in_fall
from interp.models.hooked import Model
from interp.models.zoo import Trained
from interp.report import Report
from interp.stats import Estimate
from interp.tasks.contrast import Contrast
from interp.tasks.repeated import Repeated, repeated_random

ID = "E08"


@dataclass(frozen=True, kw_only=True)
class Config:
    steps: int = zoo.Recipe.steps  # training of either model
    checkpoints: int = 41  # models kept along the way
    prompts: int = 64  # to choose heads on, and as many others to measure them
    window: int = 200  # training steps in which most of the fall must happen
    seed: int = 0


QUICK = {"steps": 1000, "checkpoints": 26, "prompts": 32}

OLSSON = "Olsson et al. 2022"
ELHAGE = "Elhage et al. 2021"


@dataclass(frozen=True)
class Study:
    """Both models, the prompts, and the circuit of the two-layer model that the prompts for choosing point to."""

    config: Config
    two: Trained
    one: Trained
    untrained: Model
    choosing: Repeated
    measuring: Repeated
    circuit: Circuit

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def model(self) -> Model:
        return self.two.model

    @property
    def heads(self) -> list[Head]:
        return list(np.ndindex(self.model.n_layers, self.model.n_heads))

    @property
    def beside(self) -> list[Head]:
        """The other heads of the previous-token head's layer."""
        return [head for head in self.heads if head[0] == self.circuit.previous[0] and head != self.circuit.previous]


def run(config: Config, report: Report) -> None:
    study = prepare(config)
    report_scores(study, report)
    report_composition(study, report)
    report_ablation(study, report)
    report_patching(study, report)
    report_paths(study, report)
    formation = follow(study.two.checkpoints, study.circuit, study.measuring)
    report_phase_change(study, report, formation)
    report_composition_along(study, report, formation)
    report_attention(study, report)


def prepare(config: Config) -> Study:
    """Trains both models and chooses the heads."""
    course = {"seed": config.seed, "steps": config.steps, "checkpoints": config.checkpoints}
    with experiment.stage("train two layers, and one"):
        two, one = (zoo.train(zoo.Recipe(n_layers=n_layers, **course)) for n_layers in (2, 1))
    choosing, measuring = (prompts(config, two.model, purpose) for purpose in ("choose heads", "measure heads"))
    untrained = two.model.untrained(stats.torch_seed(config.seed, "untrained"))
    return Study(config, two, one, untrained, choosing, measuring, find(two.model, choosing))


def prompts(config: Config, model: Model, purpose: str) -> Repeated:
    generator = stats.torch_generator(config.seed, ID, purpose)
    return repeated_random(config.prompts, model.n_ctx, model.d_vocab, generator=generator)


# ---- scores ----


def report_scores(study: Study, report: Report) -> None:
    """Two layers match prefixes and copy; one layer does neither."""
    report.section("Heads that match prefixes")
    score, one_layer, chance = (
        best_prefix(model, study.choosing, study.measuring, seed=study.seed)
        for model in (study.model, study.one.model, study.untrained)
    )
    report.claim(
        "prefix-score",
        f"the best head ({study.circuit.reader}) attends to the token after all earlier matches",
        score,
        at_least=0.8,
        unit="attention",
        source=OLSSON,
        control=chance,
        control_text="best head of an untrained model",
    )
    report.claim(
        "one-layer-prefix",
        "one layer fails: its best head reaches less than half of that target",
        one_layer,
        at_most=0.4,
        unit="attention",
        source=ELHAGE,
        control=score,
        control_text="two layers",
    )
    copy, plain = copy_loss(study.model, study.measuring), copy_loss(study.one.model, study.measuring)
    report.claim(
        "one-layer-loss",
        "one layer fails: its loss on copied tokens is larger, by",
        stats.paired_difference(plain, copy, seed=study.seed),
        at_least=1.0,
        unit="nats",
        source=ELHAGE,
        control=stats.bootstrap(copy, seed=study.seed),
        control_text="all that two layers lose",
    )
    table = classes.tested(study.model, study.measuring.tokens, seed=study.seed)
    caption = "Every head of the two-layer model. Null: what targets of shuffled tokens, or even attention, get."
    report.table("head-scores", table, caption=caption)
    shown = table.query("kind == 'induction'")
    report.figure(
        "prefix-scores",
        figures.heatmap(shown, "head", "layer", "score", title="Prefix matching, two layers"),
        data=shown,
        caption="Attention to the tokens after all earlier matches of the present one, on prompts that chose no head.",
        alt="Heat map of prefix scores by layer and head",
    )


# ---- weights ----


def report_composition(study: Study, report: Report) -> None:
    """From the weights alone: the induction head's key reads what the previous-token head writes."""
    report.section("Composition, from the weights")
    report.claim(
        "k-composition",
        f"previous-token head ({study.circuit.writer}) → induction head tops K-composition: lead over all pairs of other kinds",
        study.circuit.key_lead(study.model),  # of the weights: nothing is sampled, so there is no interval
        at_least=0.0,
        source=ELHAGE,
        control=study.circuit.key_lead(study.untrained),
        control_text="the same pairs in an untrained model",
    )
    claim_way(study, report)
    tables = [composition.composition_scores(study.model, way).table().set_index(["from", "to"]) for way in WAYS]
    table = pd.concat(tables, axis=1).replace(-np.inf, np.nan).dropna().reset_index()
    axes = {"xlabel": "reading head", "ylabel": "writing head", "title": "K-composition"}
    report.figure(
        "k-composition",
        figures.heatmap(table, "to", "from", "K_composition", centre=0.0, **axes),
        data=table.filter(items=["from", "to", "K_composition"]),
        caption="‖W_OV W_QKᵀ‖ / (‖W_OV‖ ‖W_QK‖), less its mean over Gaussian matrices.",
        alt="Heat map of K-composition between the heads of the first and the second layer",
    )
    report.table("composition", table, caption="Q-, K- and V-composition of every pair, less the mean over Gaussian matrices.")
    copying = composition.copying_scores(study.model).table()
    report.table("copying", copying, caption="Copying score Σλ/Σ|λ| of W_E W_OV W_U: 1 raises the logit of what is attended to.")


def claim_way(study: Study, report: Report) -> None:
    """The pair of heads meets in the key: their queries and values are composed less."""
    model, untrained = (study.circuit.composition(one) for one in (study.model, study.untrained))
    report.claim(
        "composition-way",
        f"{study.circuit.writer} → {study.circuit.reader} compose by the key: lead over the larger of query and value",
        model["K"] - max(model["Q"], model["V"]),
        at_least=0.05,
        source=f"{ELHAGE}; margin ours",
        control=untrained["K"] - max(untrained["Q"], untrained["V"]),
        control_text="the same pair in an untrained model",
    )


# ---- ablation ----


def report_ablation(study: Study, report: Report) -> None:
    """The gain needs the previous-token head, and the induction heads more than their neighbours."""
    report.section("Ablation")
    model, on = study.model, study.measuring
    means = ablation.mean_outputs(model, study.choosing.tokens, positions=study.choosing.predicts_copy)
    whole = copy_loss(model, on)
    without = {head: copy_loss(model, on, ablation.replaced(model, [head], means)) for head in study.heads}
    zeroed = {head: copy_loss(model, on, ablation.zero(model, [head])) for head in study.heads}

    def removed(cut: np.ndarray) -> Estimate:
        return gain_removed(whole, cut, model.d_vocab, seed=study.seed)

    report.claim(
        "previous-token-ablation",
        f"share of the in-context gain that goes with the previous-token head ({study.circuit.writer})",
        removed(without[study.circuit.previous]),
        at_least=0.8,
        source=OLSSON,
        control=removed(np.mean([without[head] for head in study.beside], axis=0)),
        control_text="with another head of its layer, on average",
    )
    claim_induction_ablation(study, report, means, whole)
    table = pd.DataFrame(
        {"head": label(head), "ablation": kind} | removed(cut[head]).cells("gain removed")
        for head in study.heads
        for kind, cut in {"mean": without, "zero": zeroed}.items()
    )
    report.table("ablation", table, caption="Share of the in-context gain that goes with each head.")
    shown = table.query("ablation == 'mean'")
    axes = {"title": "What each head carries", "xlabel": "share of the in-context gain removed"}
    report.figure(
        "ablation",
        figures.bars(shown, "head", "gain removed", low="low", high="high", **axes),
        data=shown,
        caption="One head at a time replaced by its mean output.",
        alt="Bars: share of the in-context gain removed by ablating each head",
    )


def claim_induction_ablation(study: Study, report: Report, means: ablation.Values, whole: np.ndarray) -> None:
    """Paired by prompt: the loss without induction heads less the mean loss without as many heads that are of neither kind."""
    model, on = study.model, study.measuring
    others = [head for head in study.heads if head not in (study.circuit.previous, *study.circuit.induction)]
    ablated = study.circuit.induction[: len(others)]
    without = copy_loss(model, on, ablation.replaced(model, ablated, means))
    groups = list(combinations(others, len(ablated)))
    control = np.mean([copy_loss(model, on, ablation.replaced(model, group, means)) for group in groups], axis=0)
    names = ", ".join(map(label, ablated))
    report.claim(
        "induction-ablation",
        f"losing the best induction heads ({names}) costs more than as many heads of neither kind, by",
        stats.paired_difference(without, control, seed=study.seed),
        at_least=0.1,
        unit="nats",
        source=OLSSON,
        control=stats.paired_difference(control, whole, seed=study.seed),
        control_text="what the others cost",
    )


# ---- patching ----


def report_patching(study: Study, report: Report) -> None:
    """The twin's previous-token head takes away the copy; no other head of its layer does."""
    report.section("Patching: which heads does the copy pass through?")
    model, contrast = study.model, study.measuring.without_matches(study.model.d_vocab)
    total = patching.total_effect(model, contrast, metric=Contrast.log_probability).values
    found = patching.sweep(model, contrast, "blocks.*.attn.hook_z", by=("head",), metric=Contrast.log_probability)
    share = {head: stats.ratio(found.sel(layer=head[0], head=head[1]).values, total, seed=study.seed) for head in study.heads}
    other = max(study.beside, key=lambda head: share[head].value)
    report.claim(
        "head-patching",
        f"share of the whole effect that patching the previous-token head ({study.circuit.writer}) alone has",
        share[study.circuit.previous],
        at_least=0.5,
        source=f"{OLSSON}; most of it, ours",
        control=share[other],
        control_text=f"the most that another head of its layer has ({label(other)})",
    )
    table = pd.DataFrame({"head": label(head)} | each.cells("share") for head, each in share.items())
    axes = {"title": "One head patched", "xlabel": "share of whole effect"}
    report.figure(
        "head-patching",
        figures.bars(table, "head", "share", low="low", high="high", **axes),
        data=table,
        caption="One head's output taken from the twin in which there is nothing to copy. Share of the loss of log-probability "
        f"of the copied token, which is {-total.mean():.2f} nats on average when everything is the twin's.",
        alt="Bars: share of the whole effect by head; the previous-token head stands out",
    )


def report_paths(study: Study, report: Report) -> None:
    """Between the two heads, the key is the path."""
    report.section("Path patching: by the key alone?")
    contrast = study.measuring.without_matches(study.model.d_vocab)
    total = patching.total_effect(study.model, contrast, metric=Contrast.log_probability).values
    writers = [*(f"a0.h{head}" for head in range(study.model.n_heads)), "input"]

    def share(*ends: tuple[str, str]) -> Estimate:
        edges = [f"{writer}->a{layer}.h{head}<{way}>" for writer, way in ends for layer, head in study.circuit.induction]
        effect = paths.effect(study.model, contrast, Contrast.log_probability, edges)
        return stats.ratio(effect.values, total, seed=study.seed)

    previous = f"a0.h{study.circuit.previous[1]}"
    key, elsewhere = share((previous, "k")), share((previous, "q"), (previous, "v"))
    report.claim(
        "key-path",
        f"share of the whole effect on the path {study.circuit.writer} → keys of the induction heads, and no other",
        key,
        at_least=0.5,
        source=f"{ELHAGE}; most of it, ours",
        control=share(*((writer, "k") for writer in writers if writer != previous)),
        control_text="all other writers → the same keys",
    )
    report.claim(
        "other-ways",
        f"share on the paths {study.circuit.writer} → queries and values of the induction heads",
        elsewhere,
        at_most=0.1,
        source=f"{ELHAGE}; a tenth, ours",
        control=key,
        control_text="its path to their keys",
    )
    table = pd.DataFrame({"path": f"{writer} → {way}"} | share((writer, way)).cells() for writer in writers for way in "qkv")
    axes = {"title": "Single paths into the induction heads", "xlabel": "share of whole effect"}
    report.figure(
        "paths",
        figures.bars(table, "path", "value", low="low", high="high", **axes),
        data=table,
        caption="What a writer hands to the query, key or value of all induction heads is taken from the twin; everything else "
        "they read, and everything others read, is as it was. a0.h0 is head 0 of layer 0, input the embeddings.",
        alt="Bars: share of the whole effect by path; the previous-token head's path to the keys stands out",
    )


# ---- phase change ----


def report_phase_change(study: Study, report: Report, formation: Formation) -> None:
    """The loss on copied tokens falls at once, and the prefix score rises while it does."""
    report.section("Phase change")
    claim_phase_change(study, report, formation)
    plain = np.stack([copy_loss(model, study.measuring) for _, model in study.one.checkpoints])
    losses = along(formation.steps, {"two layers": formation.loss, "one layer": plain}, seed=study.seed)
    names = (f"previous token, {study.circuit.writer}", f"prefix matching, {study.circuit.reader}")
    scores = along(formation.steps, dict(zip(names, (formation.previous, formation.prefix), strict=True)), seed=study.seed)
    draw = {"x": "step", "y": "mean", "by": "series", "low": "low", "high": "high", "xlabel": "training step"}
    report.figure(
        "phase-loss",
        figures.lines(losses, **draw, ylabel="nats", title="Loss on copied tokens"),
        data=losses,
        caption="Loss on copied tokens along training: mean and 95 % interval over prompts.",
        alt="The loss of two layers falls steeply; that of one layer does not",
    )
    report.figure(
        "phase-scores",
        figures.lines(scores, **draw, ylabel="attention", title="Scores of the two heads"),
        data=scores,
        caption="Scores of the two heads along training: mean and 95 % interval over prompts. The previous-token head "
        "does its work in the first part of a row, where tokens are new (see the view): its mean over whole rows stays low.",
        alt="Both scores rise while the loss falls",
    )


def claim_phase_change(study: Study, report: Report, formation: Formation) -> None:
    """The fall is steep, and the score rises inside it."""
    steps, window = formation.steps, study.config.window
    report.claim(
        "phase-steep",
        f"share of the whole fall of the loss on copied tokens that happens within {window} steps of {steps[-1]:.0f}",
        formation.steepest_share(window, seed=study.seed),
        at_least=0.5,
        source=OLSSON,
        control=window / steps[-1],
        control_text="a loss that falls evenly",
    )
    report.claim(
        "phase-together",
        "the prefix score is half risen while the loss falls (0: a tenth of the fall is done, 1: nine tenths)",
        formation.prefix_in_fall(seed=study.seed),
        between=(0.0, 1.0),
        source=OLSSON,
        control=place_in_fall(steps, formation.loss.mean(1), steps),
        control_text="a score that rises evenly",
    )


def report_composition_along(study: Study, report: Report, formation: Formation) -> None:
    """The two heads compose by the key when the loss has fallen, and not before."""
    report.claim(
        "composition-together",
        "when nine tenths of the fall of the loss are done, the two heads compose by the key: lead over query and value",
        formation.key_lead(0.9, seed=study.seed),
        at_least=0.05,
        source=f"{OLSSON}; {ELHAGE}; margin ours",
        control=formation.key_lead(0.1).value,
        control_text="when a tenth is done",
    )
    table = pd.DataFrame({"step": formation.steps} | formation.composition).melt("step", list(WAYS), "way", "score")
    axes = {"xlabel": "training step", "ylabel": "composition", "title": "Composition of the two heads"}
    report.figure(
        "phase-composition",
        figures.lines(table, "step", "score", by="way", **axes),
        data=table,
        caption=f"{study.circuit.writer} → {study.circuit.reader}, from the weights: how much of what the first writes the "
        "second's queries (Q), keys (K) and values (V) read, less the mean over Gaussian matrices. K parts from Q and V while "
        "the loss falls, and goes on rising when the loss has long been flat.",
        alt="K-composition parts from Q- and V-composition while the loss falls, and goes on rising",
    )


def along(steps: np.ndarray, series: dict[str, np.ndarray], *, seed: int) -> pd.DataFrame:
    """Mean and interval over examples at every step, of each series [checkpoint example]."""
    return pd.DataFrame(
        {"series": name, "step": step} | stats.bootstrap(row, resamples=500, seed=seed).cells("mean")
        for name, values in series.items()
        for step, row in zip(steps, values, strict=True)
    )


# ---- a look ----


def report_attention(study: Study, report: Report) -> None:
    """Every head on one prompt."""
    report.section("The heads at work")
    tokens, copy = study.measuring.tokens[:1], study.measuring.start[0] + study.measuring.period[0]
    found = patterns.scores(study.model, tokens, kinds=KINDS)
    scores = {kind.replace("_", " "): found[kind].mean("example").values for kind in KINDS}
    shown = ["BOS", *(f" {token}" for token in tokens[0, 1:].tolist())]
    view = head_pages.attention_view(study.model, tokens, shown, scores=scores)
    caption = f"Previous token {study.circuit.writer}, induction {study.circuit.reader}. The second copy begins at {int(copy)}."
    report.view(replace(view, title="Attention on one prompt", caption=caption))


if __name__ == "__main__":
    experiment.main(Config, run)
