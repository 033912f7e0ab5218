"""Do induction heads form, carry the in-context gain, and appear in a phase change? (Olsson et al. 2022, arXiv:2209.11895)

Two attention-only models, of two layers and of one, learn to continue random tokens that repeat with a random period. In
two layers a head of the first can mark each token with the one before it, and a head of the second can then look for
the token after earlier matches of the present one: induction (Elhage et al. 2021). One layer has nobody to do the first
step. Heads are chosen on some prompts and measured on others. The in-context gain is what a model saves on copied tokens
against an even guess among all tokens. Ablation replaces a head's output by its mean over the positions that predict copied
tokens (zero is shown beside it): the mean over all positions would hold what heads write while they rest at BOS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import torch

from interp import experiment, figures, stats
from interp.heads import ablation, composition, patching, paths, patterns
from interp.heads.ablation import Head
from interp.measurement import Measurement
from interp.models import zoo
from interp.models.hooked import Edit, Model
from interp.models.zoo import Trained
from interp.report import AttentionView, Report
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

KINDS = ("previous_token", "induction")
WAYS: tuple[composition.Way, ...] = ("Q", "K", "V")
OLSSON = "Olsson et al. 2022"
ELHAGE = "Elhage et al. 2021"


@dataclass(frozen=True)
class Study:
    """Both models, the prompts, and the heads of the two-layer model that the prompts for choosing point to."""

    two: Trained
    one: Trained
    untrained: Model
    choosing: Repeated
    measuring: Repeated
    previous: Head
    induction: list[Head]  # best first
    seed: int

    @property
    def model(self) -> Model:
        return self.two.model


def run(config: Config, report: Report) -> None:
    study = prepare(config)
    report_scores(study, report)
    report_composition(study, report)
    report_ways(study, report)
    report_ablation(study, report)
    report_patching(study, report)
    report_paths(study, report)
    steps, loss = loss_along(study)
    report_phase_change(study, report, steps, loss, window=config.window)
    report_composition_along(study, report, steps, loss)
    report_attention(study, report)


def prepare(config: Config) -> Study:
    """Trains both models and chooses the heads."""
    two, one = (train(config, n_layers) for n_layers in (2, 1))
    choosing, measuring = (prompts(config, two.model, purpose) for purpose in ("choose heads", "measure heads"))
    previous, induction = choose_heads(two.model, choosing)
    untrained = two.model.untrained(stats.torch_seed(config.seed, "untrained"))
    return Study(two, one, untrained, choosing, measuring, previous, induction, config.seed)


def train(config: Config, n_layers: int) -> Trained:
    with experiment.stage(f"train {n_layers} layers"):
        return zoo.train_induction(n_layers, seed=config.seed, steps=config.steps, checkpoints=config.checkpoints)


def prompts(config: Config, model: Model, purpose: str) -> Repeated:
    generator = torch.Generator().manual_seed(stats.torch_seed(config.seed, ID, purpose))
    return repeated_random(config.prompts, model.n_ctx, model.d_vocab, generator=generator)


def choose_heads(model: Model, on: Repeated) -> tuple[Head, list[Head]]:
    """The head of the first layer that attends most to the token before, and the heads of the second that match prefixes.

    An induction head scores at least half as much as the best; they come best first.
    """
    found = {kind: scores.mean("example") for kind, scores in patterns.scores(model, on.tokens, kinds=KINDS).items()}
    previous = found["previous_token"].sel(layer=0).top(1)[0][0]
    prefix = found["induction"].sel(layer=1)
    return (0, previous), [(1, head) for (head,) in prefix.top() if prefix.values[head] >= prefix.values.max() / 2]


def label(head: Head) -> str:
    return f"{head[0]}.{head[1]}"


def copy_loss(model: Model, on: Repeated, edits: Sequence[Edit] = ()) -> np.ndarray:
    """Loss of every example on the tokens that an earlier copy determines, in nats."""
    return ablation.loss(model, on.tokens, edits=edits, predicted=on.is_copy).values


# ---- scores ----


def best_prefix(study: Study, model: Model) -> Estimate:
    """Prefix score of a model's best head: chosen on some prompts, measured on others."""
    layer, head = patterns.induction_scores(model, study.choosing.tokens).mean("example").top(1)[0]
    return patterns.induction_scores(model, study.measuring.tokens).sel(layer=layer, head=head).estimate(seed=study.seed)


def report_scores(study: Study, report: Report) -> None:
    """Two layers match prefixes and copy; one layer does neither."""
    report.section("Heads that match prefixes")
    score, one_layer = best_prefix(study, study.model), best_prefix(study, study.one.model)
    report.claim(
        "prefix-score",
        f"the best head ({label(study.induction[0])}) attends to the token after all earlier matches",
        score,
        at_least=0.8,
        unit="attention",
        source=OLSSON,
        control=best_prefix(study, study.untrained),
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
    table = score_table(study)
    report.table("head-scores", table, caption="Every head of the two-layer model. Null: what targets of shuffled tokens get.")
    shown = table.query("kind == 'induction'")
    report.figure(
        "prefix-scores",
        figures.heatmap(shown, "head", "layer", "score", title="Prefix matching, two layers"),
        data=shown,
        caption="Attention to the tokens after all earlier matches of the present one, on prompts that chose no head.",
        alt="Heat map of prefix scores by layer and head",
    )


def score_table(study: Study) -> pd.DataFrame:
    """One row per kind and head: score with interval, its null with shuffled targets, and what even attention would get."""
    tokens = study.measuring.tokens
    found, even = patterns.scores(study.model, tokens), patterns.uniform_scores(tokens)
    shuffled = patterns.shuffled_scores(study.model, tokens, seed=stats.torch_seed(study.seed, "shuffled targets"))
    rows = []
    for kind, scores in found.items():
        for layer, head in np.ndindex(study.model.n_layers, study.model.n_heads):
            score = scores.sel(layer=layer, head=head).estimate(seed=study.seed)
            null = float(shuffled[kind].sel(layer=layer, head=head).values.mean()) if kind in shuffled else math.nan
            row = {"kind": kind, "layer": layer, "head": head, "score": score.value, "low": score.low, "high": score.high}
            rows.append(row | {"null": null, "even": float(even[kind].values.mean())})
    return pd.DataFrame(rows)


# ---- weights ----


def report_composition(study: Study, report: Report) -> None:
    """From the weights alone: the induction head's key reads what the previous-token head writes."""
    report.section("Composition, from the weights")
    scores = composition.composition_scores(study.model, "K")
    report.claim(
        "k-composition",
        f"previous-token head ({label(study.previous)}) → induction head tops K-composition: lead over all pairs of other kinds",
        lead(study, scores),
        at_least=0.0,
        source=ELHAGE,
        control=lead(study, composition.composition_scores(study.untrained, "K")),
        control_text="the same pairs in an untrained model",
    )
    table = scores.table().replace(-np.inf, np.nan).dropna()
    axes = {"xlabel": "reading head", "ylabel": "writing head", "title": "K-composition"}
    report.figure(
        "k-composition",
        figures.heatmap(table, "to", "from", "K_composition", centre=0.0, **axes),
        data=table,
        caption="‖W_OV W_QKᵀ‖ / (‖W_OV‖ ‖W_QK‖), less its mean over Gaussian matrices.",
        alt="Heat map of K-composition between the heads of the first and the second layer",
    )
    copying = composition.copying_scores(study.model).table()
    report.table("copying", copying, caption="Copying score Σλ/Σ|λ| of W_E W_OV W_U: 1 raises the logit of what is attended to.")


def report_ways(study: Study, report: Report) -> None:
    """The pair of heads meets in the key: their queries and values are composed less."""
    model, untrained = (each_way(study, one) for one in (study.model, study.untrained))
    report.claim(
        "composition-way",
        f"{label(study.previous)} → {label(study.induction[0])} compose by the key: lead over the larger of query and value",
        model["K"] - max(model["Q"], model["V"]),
        at_least=0.05,
        source=f"{ELHAGE}; margin ours",
        control=untrained["K"] - max(untrained["Q"], untrained["V"]),
        control_text="the same pair in an untrained model",
    )
    tables = [composition.composition_scores(study.model, way).table().set_index(["from", "to"]) for way in WAYS]
    table = pd.concat(tables, axis=1).replace(-np.inf, np.nan).dropna().reset_index()
    report.table("composition", table, caption="Q-, K- and V-composition of every pair, less the mean over Gaussian matrices.")


def each_way(study: Study, model: Model) -> dict[str, float]:
    """Q-, K- and V-composition of the previous-token head with the best induction head."""
    pair = {"from": label(study.previous), "to": label(study.induction[0])}
    return {way: float(composition.composition_scores(model, way).sel(**pair).values) for way in WAYS}


def lead(study: Study, scores: Measurement) -> float:
    """Largest score from the previous-token head to an induction head, less the largest of all other pairs.

    A property of the weights: nothing is sampled, so there is no interval.
    """
    score = {(early, late): value for early, late, value in scores.table().itertuples(index=False)}
    true = [score.pop((label(study.previous), label(head))) for head in study.induction]
    return max(true) - max(score.values())


# ---- ablation ----


def gain_removed(study: Study, whole: np.ndarray, without: np.ndarray) -> Estimate:
    """Share of the in-context gain that goes: mean extra loss over mean gain, prompts resampled together."""
    chance = math.log(study.model.d_vocab - 1)
    return stats.ratio(without - whole, chance - whole, seed=study.seed)


def report_ablation(study: Study, report: Report) -> None:
    """The gain needs the previous-token head, and the induction heads more than their neighbours."""
    report.section("Ablation")
    model, on = study.model, study.measuring
    means = ablation.mean_outputs(model, study.choosing.tokens, positions=study.choosing.predicts_copy)
    whole = copy_loss(model, on)
    heads = list(np.ndindex(model.n_layers, model.n_heads))
    without = {head: copy_loss(model, on, ablation.replaced(model, [head], means)) for head in heads}
    others = np.mean([without[head] for head in heads if head[0] == 0 and head != study.previous], axis=0)
    report.claim(
        "previous-token-ablation",
        f"share of the in-context gain that goes with the previous-token head ({label(study.previous)})",
        gain_removed(study, whole, without[study.previous]),
        at_least=0.8,
        source=OLSSON,
        control=gain_removed(study, whole, others),
        control_text="with another head of its layer, on average",
    )
    claim_induction_ablation(study, report, means, whole)
    rows = []
    for head in heads:
        zeroed = copy_loss(model, on, ablation.zero(model, [head]))
        for kind, cut in {"mean": without[head], "zero": zeroed}.items():
            gone = gain_removed(study, whole, cut)
            rows.append({"head": label(head), "ablation": kind, "gain removed": gone.value, "low": gone.low, "high": gone.high})
    table = pd.DataFrame(rows)
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
    others = [head for head in np.ndindex(model.n_layers, model.n_heads) if head not in (study.previous, *study.induction)]
    ablated = study.induction[: len(others)]
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


def without_matches(on: Repeated, d_vocab: int) -> Contrast:
    """Prompts cut before their last token, which is the answer; in the twins, every earlier match of the token before it is
    one token that the prompt does not hold."""
    clean, answers = on.tokens[:, :-1], on.tokens[:, -1]
    held = torch.zeros(len(clean), d_vocab, dtype=torch.bool).scatter_(1, on.tokens, True)
    free = (~held).int().argmax(1, keepdim=True)
    match = clean == clean[:, -1:]
    match[:, -1] = False
    return Contrast(clean=clean, corrupt=torch.where(match, free, clean), answers=answers)


def report_patching(study: Study, report: Report) -> None:
    """The twin's previous-token head takes away the copy; no other head of its layer does."""
    report.section("Patching: which heads does the copy pass through?")
    model, contrast = study.model, without_matches(study.measuring, study.model.d_vocab)
    total = patching.total_effect(model, contrast, metric=Contrast.log_probability).values
    found = patching.sweep(model, contrast, "blocks.*.attn.hook_z", by=("head",), metric=Contrast.log_probability)
    heads = list(np.ndindex(model.n_layers, model.n_heads))
    share = {head: stats.ratio(found.sel(layer=head[0], head=head[1]).values, total, seed=study.seed) for head in heads}
    layer, other = max((head for head in heads if head[0] == 0 and head != study.previous), key=lambda head: share[head].value)
    report.claim(
        "head-patching",
        f"share of the whole effect that patching the previous-token head ({label(study.previous)}) alone has",
        share[study.previous],
        at_least=0.5,
        source=f"{OLSSON}; most of it, ours",
        control=share[layer, other],
        control_text=f"the most that another head of its layer has ({label((layer, other))})",
    )
    rows = [{"head": label(head), "share": e.value, "low": e.low, "high": e.high} for head, e in share.items()]
    report.figure(
        "head-patching",
        figures.bars(
            pd.DataFrame(rows), "head", "share", low="low", high="high", title="One head patched", xlabel="share of whole effect"
        ),
        data=rows,
        caption="One head's output taken from the twin in which there is nothing to copy. Share of the loss of log-probability "
        f"of the copied token, which is {-total.mean():.2f} nats on average when everything is the twin's.",
        alt="Bars: share of the whole effect by head; the previous-token head stands out",
    )


def report_paths(study: Study, report: Report) -> None:
    """Between the two heads, the key is the path."""
    report.section("Path patching: by the key alone?")
    contrast = without_matches(study.measuring, study.model.d_vocab)
    total = patching.total_effect(study.model, contrast, metric=Contrast.log_probability).values
    writers = [*(f"a0.h{head}" for head in range(study.model.n_heads)), "input"]

    def share(*ends: tuple[str, str]) -> Estimate:
        edges = [f"{writer}->a{layer}.h{head}<{way}>" for writer, way in ends for layer, head in study.induction]
        effect = paths.effect(study.model, contrast, Contrast.log_probability, edges)
        return stats.ratio(effect.values, total, seed=study.seed)

    previous = f"a0.h{study.previous[1]}"
    key, elsewhere = share((previous, "k")), share((previous, "q"), (previous, "v"))
    report.claim(
        "key-path",
        f"share of the whole effect on the path {label(study.previous)} → keys of the induction heads, and no other",
        key,
        at_least=0.5,
        source=f"{ELHAGE}; most of it, ours",
        control=share(*((writer, "k") for writer in writers if writer != previous)),
        control_text="all other writers → the same keys",
    )
    report.claim(
        "other-ways",
        f"share on the paths {label(study.previous)} → queries and values of the induction heads",
        elsewhere,
        at_most=0.1,
        source=f"{ELHAGE}; a tenth, ours",
        control=key,
        control_text="its path to their keys",
    )
    rows = [{"path": f"{writer} → {way}", **asdict(share((writer, way)))} for writer in writers for way in "qkv"]
    axes = {"title": "Single paths into the induction heads", "xlabel": "share of whole effect"}
    report.figure(
        "paths",
        figures.bars(pd.DataFrame(rows), "path", "value", low="low", high="high", **axes),
        data=rows,
        caption="What a writer hands to the query, key or value of all induction heads is taken from the twin; everything else "
        "they read, and everything others read, is as it was. a0.h0 is head 0 of layer 0, input the embeddings.",
        alt="Bars: share of the whole effect by path; the previous-token head's path to the keys stands out",
    )


# ---- phase change ----


def crossing(steps: np.ndarray, curve: np.ndarray, level: float) -> float:
    """The step at which a curve has gone a share `level` of the way from its first value to its last, interpolated."""
    progress = (curve - curve[0]) / (curve[-1] - curve[0])
    after = max(int(np.argmax(progress >= level)), 1)
    return float(np.interp(level, progress[after - 1 : after + 1], steps[after - 1 : after + 1]))


def place_in_fall(steps: np.ndarray, loss: np.ndarray, score: np.ndarray) -> float:
    """When the score is half risen, on a scale from 0 (a tenth of the loss's fall is done) to 1 (nine tenths are)."""
    start, end = crossing(steps, loss, 0.1), crossing(steps, loss, 0.9)
    return (crossing(steps, score, 0.5) - start) / (end - start)


def steepest_share(steps: np.ndarray, loss: np.ndarray, *, window: float) -> float:
    """The largest share of the whole fall that happens within a window of steps."""
    starts = np.linspace(steps[0], steps[-1] - window, 200)
    falls = np.interp(starts, steps, loss) - np.interp(starts + window, steps, loss)
    return float(falls.max() / (loss[0] - loss[-1]))


def loss_along(study: Study) -> tuple[np.ndarray, np.ndarray]:
    """Steps of the two-layer model's checkpoints, and the loss on copied tokens there: [checkpoint example]."""
    steps = np.array([step for step, _ in study.two.checkpoints], dtype=float)
    return steps, np.stack([copy_loss(model, study.measuring) for _, model in study.two.checkpoints])


def report_phase_change(study: Study, report: Report, steps: np.ndarray, loss: np.ndarray, *, window: int) -> None:
    """The loss on copied tokens falls at once, and the prefix score rises while it does."""
    report.section("Phase change")
    plain = np.stack([copy_loss(model, study.measuring) for _, model in study.one.checkpoints])
    previous, prefix = head_scores_along(study)
    claim_phase_change(study, report, steps, loss, prefix, window=window)
    draw = {"x": "step", "y": "mean", "by": "series", "low": "low", "high": "high", "xlabel": "training step"}
    table = along(steps, {"two layers": loss, "one layer": plain}, seed=study.seed)
    report.figure(
        "phase-loss",
        figures.lines(table, **draw, ylabel="nats", title="Loss on copied tokens"),
        data=table,
        caption="Loss on copied tokens along training: mean and 95 % interval over prompts.",
        alt="The loss of two layers falls steeply; that of one layer does not",
    )
    names = (f"previous token, {label(study.previous)}", f"prefix matching, {label(study.induction[0])}")
    table = along(steps, dict(zip(names, (previous, prefix), strict=True)), seed=study.seed)
    report.figure(
        "phase-scores",
        figures.lines(table, **draw, ylabel="attention", title="Scores of the two heads"),
        data=table,
        caption="Scores of the two heads along training: mean and 95 % interval over prompts. The previous-token head "
        "does its work in the first part of a row, where tokens are new (see the view): its mean over whole rows stays low.",
        alt="Both scores rise while the loss falls",
    )


def head_scores_along(study: Study) -> tuple[np.ndarray, np.ndarray]:
    """Score of the previous-token head and of the induction head at every checkpoint, each [checkpoint example]."""
    heads, rows = (study.previous, study.induction[0]), []
    for _, model in study.two.checkpoints:
        found = patterns.scores(model, study.measuring.tokens, kinds=KINDS)
        rows.append([found[kind].sel(layer=layer, head=head).values for kind, (layer, head) in zip(KINDS, heads, strict=True)])
    previous, prefix = np.stack(rows, axis=1)
    return previous, prefix


def report_composition_along(study: Study, report: Report, steps: np.ndarray, loss: np.ndarray) -> None:
    """The two heads compose by the key when the loss has fallen, and not before."""
    along = [each_way(study, model) for _, model in study.two.checkpoints]
    scores = {way: np.array([score[way] for score in along]) for way in WAYS}
    leads = scores["K"] - np.maximum(scores["Q"], scores["V"])

    def lead_at(rows: np.ndarray, level: float) -> float:
        return float(np.interp(crossing(steps, loss[:, rows.astype(int)].mean(1), level), steps, leads))

    examples = np.arange(loss.shape[1])
    report.claim(
        "composition-together",
        "when nine tenths of the fall of the loss are done, the two heads compose by the key: lead over query and value",
        stats.bootstrap(examples, statistic=lambda rows: lead_at(rows, 0.9), seed=study.seed),
        at_least=0.05,
        source=f"{OLSSON}; {ELHAGE}; margin ours",
        control=lead_at(examples, 0.1),
        control_text="when a tenth is done",
    )
    rows = [{"step": step, "way": way, "score": score} for way in WAYS for step, score in zip(steps, scores[way], strict=True)]
    table = pd.DataFrame(rows)
    axes = {"xlabel": "training step", "ylabel": "composition", "title": "Composition of the two heads"}
    report.figure(
        "phase-composition",
        figures.lines(table, "step", "score", by="way", **axes),
        data=table,
        caption=f"{label(study.previous)} → {label(study.induction[0])}, from the weights: how much of what the first writes the "
        "second's queries (Q), keys (K) and values (V) read, less the mean over Gaussian matrices. K parts from Q and V while "
        "the loss falls, and goes on rising when the loss has long been flat.",
        alt="K-composition parts from Q- and V-composition while the loss falls, and goes on rising",
    )


def claim_phase_change(
    study: Study, report: Report, steps: np.ndarray, loss: np.ndarray, prefix: np.ndarray, *, window: float
) -> None:
    """The fall is steep, and the score rises inside it; loss and prefix are [checkpoint example], prompts are resampled."""
    examples = np.arange(loss.shape[1])

    def steep(rows: np.ndarray) -> float:
        return steepest_share(steps, loss[:, rows.astype(int)].mean(1), window=window)

    def place(rows: np.ndarray) -> float:
        return place_in_fall(steps, loss[:, rows.astype(int)].mean(1), prefix[:, rows.astype(int)].mean(1))

    report.claim(
        "phase-steep",
        f"share of the whole fall of the loss on copied tokens that happens within {window} steps of {steps[-1]:.0f}",
        stats.bootstrap(examples, statistic=steep, seed=study.seed),
        at_least=0.5,
        source=OLSSON,
        control=window / steps[-1],
        control_text="a loss that falls evenly",
    )
    report.claim(
        "phase-together",
        "the prefix score is half risen while the loss falls (0: a tenth of the fall is done, 1: nine tenths)",
        stats.bootstrap(examples, statistic=place, seed=study.seed),
        between=(0.0, 1.0),
        source=OLSSON,
        control=place_in_fall(steps, loss.mean(1), steps),
        control_text="a score that rises evenly",
    )


def along(steps: np.ndarray, series: dict[str, np.ndarray], *, seed: int) -> pd.DataFrame:
    """Mean and interval over examples at every step, of each series [checkpoint example]."""
    rows = []
    for name, values in series.items():
        for step, row in zip(steps, values, strict=True):
            found = stats.bootstrap(row, resamples=500, seed=seed)
            rows.append({"series": name, "step": step, "mean": found.value, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)


# ---- a look ----


def report_attention(study: Study, report: Report) -> None:
    """Every head on one prompt."""
    report.section("The heads at work")
    tokens, copy = study.measuring.tokens[:1], study.measuring.start[0] + study.measuring.period[0]
    hooks = [f"blocks.{layer}.attn.hook_pattern" for layer in range(study.model.n_layers)]
    found = study.model.run(tokens, read=hooks).activations
    scores = patterns.scores(study.model, tokens, kinds=KINDS)
    report.view(
        AttentionView(
            title="Attention on one prompt",
            tokens=["BOS", *(f" {token}" for token in tokens[0, 1:].tolist())],
            patterns=np.stack([found[hook][0].numpy() for hook in hooks]),
            scores={kind.replace("_", " "): scores[kind].mean("example").values for kind in KINDS},
            caption=f"Previous-token head {label(study.previous)}, induction head {label(study.induction[0])}. "
            f"The second copy begins at position {int(copy)}.",
        )
    )


if __name__ == "__main__":
    experiment.main(Config, run)
