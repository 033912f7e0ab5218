"""Which attribution methods find a circuit that is known, because it was written by hand? (Elhage et al. 2021; Hanna et al. 2024)

An induction head in closed form: 81 edges, of which 8 matter when they are set to zero and 5 when tokens are replaced. Six more
heads compute and attend like it and write where nothing reads. With a little noise on all weights every method is scored
against the declared truth and against interventions performed edge by edge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch

from interp import experiment, figures, stats
from interp.heads import calibration, circuits, edge_attribution, gradients, paths
from interp.heads.graph import Graph
from interp.measurement import Measurement
from interp.models.compiled import Ablation, Compiled, induction
from interp.models.hooked import Model
from interp.report import Report
from interp.tasks.contrast import Contrast, Metric

ID = "E09"
SOURCE = "closed form; Elhage et al. 2021"
HANNA = "Hanna et al. 2024, arXiv:2403.17806"
ABLATIONS: dict[Ablation, str] = {"zero": "set to zero", "corrupt": "replaced by the twin's", "mean": "set to the mean"}
EXPECTED: dict[Ablation, int] = {"zero": 8, "corrupt": 5, "mean": 5}
SEEN = 1e-4  # logit difference from which an effect counts
KEY = "a0.h0->a1.h0<k>"  # how the second head knows where to look


@dataclass(frozen=True, kw_only=True)
class Config:
    seeds: int = 8  # draws of the weight noise, each with its own contrast
    examples: int = 24  # of each contrast
    noise: float = 0.01  # standard deviation of what is added to every weight
    sharpness: float = 30.0  # attention score of a match
    sharpnesses: tuple[float, ...] = (2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 30.0)  # tried on the model without noise
    steps: tuple[int, ...] = (1, 2, 5, 10)  # of the path integrals
    threshold: float = 0.3  # loss of logit difference from which pruning keeps an edge
    seed: int = 0


QUICK = {"seeds": 4, "examples": 16, "steps": (1, 5)}


def run(config: Config, report: Report) -> None:
    report_function(config, report)
    report_truth(config, report)
    with experiment.stage("score the methods on edges"):
        edges = calibration.calibrate(partial(planted, config), edge_methods(config), **trials(config))
    report_methods(config, report, edges)
    report_steps(config, report, edges)
    with experiment.stage("score the methods on nodes"):
        report_nodes(config, report)
    report_misled(config, report)


def planted(config: Config, seed: int) -> Compiled:
    return induction(sharpness=config.sharpness, noise=config.noise, seed=seed)


def trials(config: Config) -> dict:
    return {"seeds": range(config.seed, config.seed + config.seeds), "examples": config.examples}


# ---- what the model does ----


def report_function(config: Config, report: Report) -> None:
    """It is right on every example, and attends to one position, once scores are sharp."""
    report.section("A model written by hand")
    report.text(
        "The residual stream is token | position | previous token | output | null. Head 0 of layer 0 attends one position back "
        "and copies the token it finds to `prev`. Head 0 of layer 1 looks for the position whose `prev` is the last token and "
        "copies the token there to `out`; if there is none it rests on BOS, and says BOS. All is exact up to a softmax over "
        "scores of c (a match), c/2 (BOS) and 0."
    )
    contrast = induction().contrast(8 * config.examples, seed=config.seed)
    found = {each: function(induction(sharpness=each).model, contrast) for each in config.sharpnesses}
    sharpest, dullest = found[max(found)], found[min(found)]
    accuracy, attention = (np.array([each[i] for each in (sharpest, dullest)]) for i in range(2))
    report.claim(
        "accuracy",
        f"share of contexts answered right, c = {max(found):g}",
        stats.bootstrap(accuracy[0], seed=config.seed),
        at_least=1.0,
        source=SOURCE,
        control=float(accuracy[1].mean()),
        control_text=f"c = {min(found):g}",
    )
    report.claim(
        "attention",
        f"least attention of the last token to where it should look, c = {max(found):g}",
        float(attention[0].min()),
        at_least=0.99999,
        source=SOURCE,
        control=float(attention[1].min()),
        control_text=f"c = {min(found):g}",
    )
    rows = [
        {"score of a match": each, "share": float(values.mean()), "of": name}
        for each, pair in found.items()
        for name, values in zip(("right answers", "attention to the match"), pair, strict=True)
    ]
    table = pd.DataFrame(rows)
    report.figure(
        "sharpness",
        figures.lines(table, "score of a match", "share", by="of", ylim=(0, 1.03), xlabel="score of a match, c"),
        caption="The same weights with softer and sharper scores.",
        alt="Both curves rise with the score and reach 1 by about 16.",
        data=table,
    )


def function(model: Model, contrast: Contrast) -> tuple[np.ndarray, np.ndarray]:
    """[example] whether the answer is right, and the attention of the last token to the answer's position."""
    hook = "blocks.1.attn.hook_pattern"
    ran = model.run(contrast.clean, read=[hook], logits=True)
    right = ran.logits[:, -1].argmax(-1) == contrast.answers
    there = (contrast.clean == contrast.answers[:, None]).double().argmax(1)
    attention = ran.activations[hook][torch.arange(len(contrast)), 0, -1, there]
    return right.double().numpy(), attention.double().numpy()


# ---- which edges matter ----


def report_truth(config: Config, report: Report) -> None:
    """Exactly the declared edges have an effect, and which these are depends on the ablation."""
    report.section("Which edges matter depends on what takes their place")
    known = induction(sharpness=config.sharpness)
    untrained = known.model.untrained(config.seed)
    contrast = known.contrast(config.examples, seed=config.seed)
    graph = Graph.of(known.model)
    report.claim(
        "edges",
        "edges in the graph",
        len(graph.edges),
        equals=81,
        source="6H + 3H² + 2H + 1 for two layers of H = 4 heads",
        control=6 * 3 + 3 * 9 + 2 * 3 + 1,
        control_text="the same with 3 heads",
    )
    rows = []
    for ablation, expected in EXPECTED.items():
        effects = sizes(known.model, contrast, ablation)
        seen = {edge for edge, size in effects.items() if size > SEEN}
        report.claim(
            ablation,
            f"edges with an effect when {ABLATIONS[ablation]}, all of them declared",
            len(seen) if seen == known.circuits[ablation] else len(seen ^ known.circuits[ablation]) + len(graph.edges),
            equals=expected,
            source=SOURCE,
            control=sum(size > SEEN for size in sizes(untrained, contrast, ablation).values()),
            control_text="the same architecture with random weights",
        )
        rows += [
            {"edge": edge, "in its place": ablation, "largest change of the logit difference": effects[edge]}
            for edge in sorted(known.circuits["zero"])
        ]
    table = pd.DataFrame(rows)
    report.figure(
        "truth",
        figures.heatmap(table, "in its place", "edge", "largest change of the logit difference", xlabel="what takes its place"),
        caption="The largest change of the logit difference over all examples, by edge and what takes its place.",
        alt="Three rows are zero unless the edge is set to zero: where head 0 of layer 0 looks, and the score of BOS.",
        data=table,
    )
    report.text(
        "Where the first head looks follows from positions, and the score of BOS is the same in every input: replacing these "
        "three edges by another input's changes nothing, though the model needs them. So every truth names its ablation. This "
        "section would be false if an edge outside the declared sets had any effect, or one inside none."
    )


def sizes(model: Model, contrast: Contrast, ablation: Ablation) -> dict[str, float]:
    """The largest effect over examples, by edge."""
    found = paths.effects(model, contrast, Contrast.logit_difference, replacement=ablation)
    return dict(zip(found.coords["edge"], np.abs(found.values).max(1).tolist(), strict=True))


# ---- the methods ----


def edge_methods(config: Config) -> dict[str, calibration.Method]:
    methods: dict[str, calibration.Method] = {
        "EAP": edge_attribution.eap,
        "pruning": partial(pruning, threshold=config.threshold),
    }
    for steps in config.steps:
        methods[f"EAP-IG inputs, {steps} steps"] = partial(edge_attribution.eap_ig, steps=steps)
    methods["EAP-IG activations, 5 steps"] = partial(edge_attribution.eap_ig, path="activations", steps=5)
    methods["random"] = drawn
    return methods


def pruning(model: Model, contrast: Contrast, metric: Metric, *, threshold: float) -> Measurement:
    """1 for edges that ACDC-style pruning keeps, 0 for the others: a decision, not an estimate."""
    graph = Graph.of(model)
    kept = circuits.pruned(paths.Ready(model, graph, contrast), lambda part, logits: -metric(part, logits), threshold)
    values = np.array([[float(edge in kept)] * len(contrast) for edge in graph.edges])
    return Measurement("kept", values, ("edge", "example"), {"edge": list(map(str, graph.edges))})


def drawn(model: Model, contrast: Contrast, metric: Metric) -> Measurement:
    """A number by chance for every edge: the control."""
    names = list(map(str, Graph.of(model).edges))
    seed = int(contrast.clean.sum())
    values = stats.generator(seed, "random scores").normal(size=(len(names), 1)).repeat(len(contrast), 1)
    return Measurement("random", values, ("edge", "example"), {"edge": names})


def report_methods(config: Config, report: Report, table: pd.DataFrame) -> None:
    """Exact patching and EAP-IG find all five edges; EAP does not."""
    report.section("Every method on the noisy model")
    summary = calibration.summary(table, seed=config.seed)
    report.table(
        "edges", wide(summary), caption=f"Mean of {config.seeds} draws of the noise. Forwards count a backward pass as two."
    )
    claim = partial(claim_score, config, report, table)
    claim("exact", "exact", "auroc", "AUROC of exact patching", 1.0, control="random", source="the definition of the truth")
    claim("eap-ig", "EAP-IG inputs, 5 steps", "auroc", "AUROC of EAP-IG (inputs) at 5 steps", 1.0, control="EAP", source=HANNA)
    claim(
        "activations",
        "EAP-IG activations, 5 steps",
        "auroc",
        "AUROC of EAP-IG (activations) at 5 steps",
        1.0,
        control="EAP",
        source=HANNA,
    )
    claim(
        "pruning", "pruning", "auroc", "AUROC of the edges that pruning keeps", 1.0, control="random", source="Conmy et al. 2023"
    )
    claim(
        "margin",
        "exact",
        "margin",
        "how far exact patching parts circuit and decoys",
        0.5,
        control="EAP",
        source="target of this report",
    )
    part = summary.loc[summary.score == "auroc"]
    report.figure(
        "auroc",
        figures.bars(
            part, "method", "value", low="low", high="high", xlabel="AUROC on the 5 visible edges (chance: 0.5)", xlim=(0, 1.05)
        ),
        caption="Whether a method gives the five edges larger sizes than the other 76, with intervals over draws of the noise.",
        alt="Exact patching, pruning and EAP-IG from 2 or 5 steps reach 1; EAP stays near 0.8 and random near 0.5.",
        data=part,
    )


def claim_score(
    config: Config,
    report: Report,
    table: pd.DataFrame,
    slug: str,
    method: str,
    score: str,
    text: str,
    target: float,
    *,
    control: str,
    source: str,
) -> None:
    """A score of one method must reach the target in all draws together, beside that of another method."""
    values = {name: part[score].to_numpy() for name, part in table.groupby("method")}
    report.claim(
        slug,
        text,
        stats.bootstrap(values[method], seed=config.seed),
        at_least=target,
        source=source,
        control=stats.bootstrap(values[control], seed=config.seed),
        control_text=control,
    )


def wide(summary: pd.DataFrame) -> pd.DataFrame:
    """One row per method, one column per score."""
    table = summary.pivot(index="method", columns="score", values="value")
    return table.loc[list(summary.method.drop_duplicates()), [*calibration.SCORES, "forwards"]].reset_index()


def report_steps(config: Config, report: Report, table: pd.DataFrame) -> None:
    """Numbers stay far from exact even where the ranking is right."""
    report.section("Right order, wrong numbers")
    inputs = {f"EAP-IG inputs, {steps} steps": steps for steps in config.steps}
    part = table[table.method.isin([*inputs, "EAP"])].assign(steps=table.method.map(inputs).fillna(0))
    rows = []
    for name, column in (("AUROC", "auroc"), ("Spearman", "spearman"), ("relative L1", "relative_l1")):
        for steps, values in part.groupby("steps")[column]:
            found = stats.bootstrap(values.to_numpy(), seed=config.seed)
            rows.append({"steps": steps, "score": name} | found.cells())
    curve = pd.DataFrame(rows)
    report.figure(
        "steps",
        figures.lines(curve, "steps", "value", by="score", low="low", high="high", ylim=(0, 1.05), xlabel="steps (0: EAP)"),
        caption="EAP-IG (inputs) by the number of steps. AUROC and Spearman are best at 1, the error of the numbers at 0.",
        alt="AUROC rises to 1 within a few steps, while the relative error stays near one half.",
        data=curve,
    )
    report.text(
        "EAP-IG moves all tokens together from clean to corrupted, and what it hands out adds up to the change along that path. "
        "Query, key and value change together there, so they share one change between them; performed one by one each has nearly "
        "all of it. More steps do not mend this: the order is right, the numbers are not. Spearman is low for another reason: 76 "
        "of 81 edges have no effect but that of noise, and their order says little.\n\n"
        "The section would be false if EAP-IG missed one of the five edges in any draw, or EAP found all of them in every one."
    )


def report_nodes(config: Config, report: Report) -> None:
    """Node attribution: the same question about heads."""
    report.section("Nodes")
    methods: dict[str, calibration.Method] = {
        "AtP": gradients.attribution,
        "AtP, GradDrop": gradients.dropped,
        "IG inputs, 5 steps": gradients.integrated,
        "IG activations, 5 steps": partial(gradients.integrated, path="activations"),
    }
    make: Callable[[int], Compiled] = partial(planted, config)
    table = calibration.calibrate(make, methods, exact=calibration.exact_nodes, **trials(config))
    report.table(
        "nodes", wide(calibration.summary(table, seed=config.seed)), caption="The same scores for nodes; three of nine matter."
    )
    claim_score(
        config,
        report,
        table,
        "nodes",
        "IG inputs, 5 steps",
        "auroc",
        "AUROC of integrated gradients for nodes at 5 steps",
        1.0,
        control="AtP",
        source=HANNA,
    )


def report_misled(config: Config, report: Report) -> None:
    """Without noise EAP ranks every edge right and yet gives the deciding ones nearly nothing."""
    report.section("Why AUROC alone is not enough")
    known = induction(sharpness=config.sharpness)
    contrast = known.contrast(config.examples, seed=config.seed)
    metric = Contrast.logit_difference
    methods: dict[str, calibration.Method] = {
        "exact": paths.effects,
        "EAP": edge_attribution.eap,
        "EAP-IG, 5 steps": edge_attribution.eap_ig,
    }
    found = {name: method(known.model, contrast, metric) for name, method in methods.items()}
    rows = []
    for name, effects in found.items():
        scores = calibration.score(effects, found["exact"], known.circuits["corrupt"], known.decoys)
        share = float(effects.sel(edge=KEY).values.mean() / found["exact"].sel(edge=KEY).values.mean())
        rows.append({"method": name} | vars(scores) | {f"share of the effect of {KEY}": share})
    table = pd.DataFrame(rows)
    report.table("silent", table, caption="Without noise, where edges outside the circuit have no effect at all.")
    shares = dict(zip(table.method, table.iloc[:, -1], strict=True))
    report.claim(
        "auroc-misleads",
        f"share of the true effect of {KEY} that EAP reports, where its AUROC is {rows[1]['auroc']:.3f}",
        abs(shares["EAP"]),
        at_most=0.001,
        source="saturated softmax: the gradient at a score of c is e^(−c/2)",
        control=abs(shares["EAP-IG, 5 steps"]),
        control_text="EAP-IG, 5 steps",
    )


if __name__ == "__main__":
    experiment.main(Config, run)
