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
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import torch

from interp import experiment, figures, stats
from interp.heads import ablation, composition, patterns
from interp.heads.ablation import Head
from interp.measurement import Measurement
from interp.models import zoo
from interp.models.hooked import Edit, Model
from interp.models.zoo import Trained
from interp.report import AttentionView, Report
from interp.stats import Estimate
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
    report_ablation(study, report)
    report_phase_change(study, report, window=config.window)
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
    without = {head: copy_loss(model, on, ablation.mean(model, [head], means)) for head in heads}
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


def claim_induction_ablation(study: Study, report: Report, means: ablation.Means, whole: np.ndarray) -> None:
    """Paired by prompt: the loss without induction heads less the mean loss without as many heads that are of neither kind."""
    model, on = study.model, study.measuring
    others = [head for head in np.ndindex(model.n_layers, model.n_heads) if head not in (study.previous, *study.induction)]
    ablated = study.induction[: len(others)]
    without = copy_loss(model, on, ablation.mean(model, ablated, means))
    groups = list(combinations(others, len(ablated)))
    control = np.mean([copy_loss(model, on, ablation.mean(model, group, means)) for group in groups], axis=0)
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


def report_phase_change(study: Study, report: Report, *, window: int) -> None:
    """The loss on copied tokens falls at once, and the prefix score rises while it does."""
    report.section("Phase change")
    steps = np.array([step for step, _ in study.two.checkpoints], dtype=float)
    loss = np.stack([copy_loss(model, study.measuring) for _, model in study.two.checkpoints])
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
