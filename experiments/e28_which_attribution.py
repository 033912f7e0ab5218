"""Which attribution method finds what matters, how far can its numbers be trusted, and when does it lie? (Hanna et al. 2024)

Every method that gives a number to every edge, on every circuit that is known here: induction in closed form with noise on all
weights, six programs compiled to weights, and eight models of which each is built to mislead one method. All are scored beside
the declared circuit and beside replacing every edge by its twin's value, one at a time; and each is asked for its price.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from interp import experiment, figures, stats
from interp.heads import calibration, edge_attribution, gradients, paths, static
from interp.measurement import Measurement
from interp.models.blind_spots import BLIND_SPOTS, BlindSpot
from interp.models.compiled import Compiled, induction
from interp.models.hooked import Model
from interp.models.rasp_circuits import compiled_task
from interp.models.rasp_programs import TASKS
from interp.report import Report
from interp.tasks.contrast import Contrast, Metric

ID = "E28"
HANNA = "Hanna et al. 2024, arXiv:2403.17806"
TRUTH = "the circuits' own declaration"
INDUCTION, PROGRAMS, SPOTS = "induction", "programs", "blind spots"
COLUMNS = {"auroc": "AUROC", "spearman": "Spearman", "relative_l1": "relative L1", "margin": "margin"}
PERFORMED = ("exact", "denoising", "zero ablation", "mean ablation")  # these intervene; the others estimate
DECODERS_ONLY = ("direct effect", "weights")  # programs that look ahead are encoders, whose logits are no plain sum of parts
GRADIENTS = ["EAP", "EAP-IG inputs", "EAP-IG activations"]
FOUND = 0.99  # AUROC from which, in every draw, a circuit counts as found
CLOSE = 0.1  # relative L1 up to which, in every draw, numbers count as right
NOTICED = 0.05  # share of a method's largest size from which an edge counts as seen


@dataclass(frozen=True, kw_only=True)
class Config:
    seeds: int = 5  # draws of contrasts, and of the noise where there is one
    examples: int = 24  # of each contrast
    noise: float = 0.01  # standard deviation of what is added to every weight of the induction model
    sharpness: float = 30.0  # its attention score of a match
    steps: int = 5  # of the path integrals
    seed: int = 0


QUICK = {"seeds": 2, "examples": 12}


def run(config: Config, report: Report) -> None:
    with experiment.stage("score every method on every circuit"):
        table = calibrated(circuits(config), edge_methods(config), config)
    report_scores(config, report, table)
    report_price(report, table)
    report_spots(config, report)
    with experiment.stage("score the methods for nodes"):
        report_nodes(config, report)
    report_trust(report, table)


# ---- circuits and methods ----


def circuits(config: Config) -> dict[str, Callable[[int], Compiled]]:
    """What makes each known circuit from a seed. A rotated one has the edges of the one that is not: see `report_rotation`."""
    made: dict[str, Callable[[int], Compiled]] = {
        INDUCTION: lambda seed: induction(sharpness=config.sharpness, noise=config.noise, seed=seed)
    }
    made |= {name: always(compiled_task(name).compiled) for name in TASKS}
    spots = {name: make() for name, make in BLIND_SPOTS.items()}
    return made | {name: always(spot.known) for name, spot in spots.items() if spot.misses | spot.invents}


def always(known: Compiled) -> Callable[[int], Compiled]:
    """The same circuit, whatever the seed."""
    return lambda _: known


def kind(circuit: str) -> str:
    """What sort of circuit a name is of."""
    return INDUCTION if circuit == INDUCTION else PROGRAMS if circuit in TASKS else SPOTS


def edge_methods(config: Config) -> dict[str, calibration.Method]:
    return {
        "denoising": denoising,
        "zero ablation": partial(paths.effects, replacement="zero"),
        "mean ablation": partial(paths.effects, replacement="mean"),
        "EAP": edge_attribution.eap,
        "EAP-IG inputs": partial(edge_attribution.eap_ig, steps=config.steps),
        "EAP-IG activations": partial(edge_attribution.eap_ig, path="activations", steps=config.steps),
        "direct effect": static.direct_effects,
        "weights": static.composition,
        "random": static.chance,
    }


def denoising(model: Model, contrast: Contrast, metric: Metric) -> Measurement:
    """What clean values do in the corrupted run, edge by edge, with the sign of taking them away."""
    found = paths.effects(model, contrast.swapped(), metric)
    return Measurement(found.name, -found.values, found.dims, found.coords)


def calibrated(
    made: dict[str, Callable[[int], Compiled]],
    methods: dict[str, calibration.Method],
    config: Config,
    exact: calibration.Method = paths.effects,
) -> pd.DataFrame:
    """`calibration.calibrate` on every circuit: one row per circuit, method and seed."""
    seeds = range(config.seed, config.seed + config.seeds)
    parts = []
    for name, make in experiment.progress(made.items(), "circuits"):
        encodes = make(config.seed).model.kind == "encoder"
        able = {key: method for key, method in methods.items() if not (encodes and key in DECODERS_ONLY)}
        scored = calibration.calibrate(make, able, seeds=seeds, examples=config.examples, exact=exact)
        parts.append(scored.assign(circuit=name))
    return pd.concat(parts, ignore_index=True)


# ---- every method on every circuit ----


def report_scores(config: Config, report: Report, table: pd.DataFrame) -> None:
    """AUROC, size of error, rank correlation and margin, method by circuit."""
    report.section("Every method on every known circuit")
    report.text(
        "The truth of a circuit is which edges change the logit difference when they carry the corrupted twin's value instead. "
        "AUROC asks whether those get larger sizes than all others (chance: 0.5). Relative L1 is Σ |method − exact| / Σ |exact|: "
        "0 is right, and a method that says nothing has 1. Margin is how far the smallest of the circuit lies above the largest "
        "decoy, as a share of the largest size. Of one circuit, the rows below are means over draws; `intervals` has all of them."
    )
    means = by_circuit(table, *COLUMNS)
    estimated = ~means.method.isin(PERFORMED)
    for name, text in COLUMNS.items():
        report.figure(
            name,
            grid(means.loc[estimated], name),
            caption=f"{text} of estimates by circuit, mean of {config.seeds} draws. {SHORT_CAPTION}{CAPTIONS[name]}",
            alt=ALTS[name],
            data=means.loc[:, ["circuit", "method", name]],
        )
    report.figure(
        "performed",
        grid(means.loc[~estimated & (means.method != "exact")], "auroc"),
        caption="AUROC of other interventions: clean values in the corrupted run (denoising), nothing, and the mean.",
        alt="Denoising and mean ablation are 1 on nearly all circuits, zero ablation on fewer than half.",
        data=means.loc[~estimated, ["circuit", "method", "auroc"]],
    )
    intervals = [calibration.summary(part, seed=config.seed).assign(circuit=name) for name, part in table.groupby("circuit")]
    report.table(
        "intervals",
        pd.concat(intervals, ignore_index=True),
        caption="Every score with its interval over draws. Forwards: see the price.",
    )
    claim_exact(config, report, "exact", "AUROC of replacing every edge by its twin's value, every circuit and draw", table)
    own = table[table.circuit == INDUCTION].pivot(index="seed", columns="method", values="auroc")
    report.claim(
        "induction",
        f"AUROC of EAP-IG (inputs, {config.steps} steps) on the 5 visible edges of closed-form induction with noise",
        stats.bootstrap(own["EAP-IG inputs"].to_numpy(), seed=config.seed),
        at_least=1.0,
        source=HANNA,
        control=stats.bootstrap(own["EAP"].to_numpy(), seed=config.seed),
        control_text="EAP",
    )


def claim_exact(config: Config, report: Report, slug: str, text: str, table: pd.DataFrame) -> None:
    """What is performed finds every circuit, what is drawn by chance none."""
    exact, random = (stats.bootstrap(table.auroc[table.method == name], seed=config.seed) for name in ("exact", "random"))
    report.claim(slug, text, exact, at_least=1.0, source=TRUTH, control=random, control_text="random scores")


SHORT = {"EAP-IG inputs": "IG in", "EAP-IG activations": "IG act", "direct effect": "direct"}
SHORT_CAPTION = (
    "IG in, IG act: EAP-IG along inputs, along activations. Direct: what a part writes into the logits. Weights: composition."
)
CAPTIONS = {
    "auroc": "",
    "relative_l1": " Values above 2 are drawn as 2: they are in the table.",
    "spearman": " Over all edges, most of which have no effect but that of noise.",
    "margin": "",
}
ALTS = {
    "auroc": "EAP-IG reaches 1 on most circuits and EAP on fewer. On hist, most_freq and brackets all gradients miss edges.",
    "relative_l1": "EAP and EAP-IG are 0 on circuits without a softmax between twins, and 0.3 or more on most others.",
    "spearman": "EAP and EAP-IG lie between 0.5 and 1, random scores near 0.",
    "margin": "EAP and EAP-IG have no margin on hist, most_freq and brackets.",
}


def by_circuit(table: pd.DataFrame, *scores: str) -> pd.DataFrame:
    """Means over draws: columns circuit, method and the scores, in the table's order."""
    return table.pivot_table(index=["circuit", "method"], values=list(scores), sort=False).reset_index()


def grid(means: pd.DataFrame, score: str) -> Figure:
    """A heat map in the table's order, with names that can be read on a narrow screen."""
    drawn = means.assign(method=means.method.replace(SHORT).str.removesuffix(" ablation"), cell=means[score].clip(upper=2.0))
    return figures.heatmap(drawn, "method", "circuit", "cell", xlabel="", ylabel="")


PRICES = (2, 5, 10, 20, 50, 100)


def report_price(report: Report, table: pd.DataFrame) -> None:
    """AUROC by cost."""
    report.section("What it costs")
    cost = table.pivot_table(index="method", values=["forwards", "auroc"], sort=False).reset_index()
    paid = cost.loc[cost.forwards > 0]
    report.figure(
        "price",
        figures.scatter(
            paid,
            "forwards",
            "auroc",
            by="method",
            xscale="log",
            xticks=PRICES,
            xticklabels=list(map(str, PRICES)),
            ylim=(0.45, 1.03),
            xlabel="forward passes of all examples",
            ylabel="AUROC",
        ),
        caption="Mean AUROC and mean cost over all circuits; a backward pass counts as two. The number of edges sets the price "
        "of replacing them one by one, the number of blocks that of EAP-IG along activations, and neither that of EAP.",
        alt="EAP lies lowest in price with 3 to 4 passes, EAP-IG along inputs at about 16, all others dearer.",
        data=paid,
    )


# ---- blind spots ----


def report_spots(config: Config, report: Report) -> None:
    """Each blind spot blinds the method it is built for, and another method sees."""
    report.section("When a method lies")
    rows = []
    for name, make in BLIND_SPOTS.items():
        spot = make()
        if not spot.misses | spot.invents:
            report_rotation(config, report, spot)
            continue
        blinded, seeing = CHECKED[name]
        methods = edge_methods(config) | {"exact": paths.effects, "together": together(spot)}
        seeds = range(config.seed, config.seed + config.seeds)
        contrasts = [spot.known.contrast(config.examples, seed=seed) for seed in seeds]
        wrong, right = (np.array([share(methods[each], spot, contrast) for contrast in contrasts]) for each in (blinded, seeing))
        what = (
            "an edge that matters, the one it gives least"
            if spot.misses
            else "an edge that does not matter, the one it gives most"
        )
        report.claim(
            name.replace(" ", "-"),
            f"{name}: share of its largest size that {seeing} gives {what}",
            stats.bootstrap(right, seed=config.seed),
            at_least=NOTICED if spot.misses else None,
            at_most=None if spot.misses else NOTICED,
            source=TRUTH,
            control=stats.bootstrap(wrong, seed=config.seed),
            control_text=blinded,
        )
        rows.append({"model": name, "blinded": blinded, "share there": wrong.mean(), "sees": seeing, "share here": right.mean()})
        rows[-1] |= {"it lies about": spot.misled}
    report.table(
        "spots",
        rows,
        caption=f"The size given to planted edges, as a share of the largest. Edges that matter need {NOTICED} or more.",
    )
    report.text(
        "A blind spot would be none, and this section false, if the blinded method gave its planted edges what they are worth. "
        "Effects of single edges, exact ones too, say nothing of edges that act together: redundant heads look idle and "
        "cancelling heads look busy until both are replaced at once."
    )


CHECKED = {
    "saturated softmax": ("EAP", "EAP-IG inputs"),
    "redundant heads": ("exact", "denoising"),
    "cancelling heads": ("exact", "together"),
    "constant head": ("zero ablation", "exact"),
    "unused direction": ("weights", "exact"),
    "leaking scale": ("direct effect", "exact"),
    "superposed writes": ("weights", "exact"),
}
"""Of every blind spot, the method that is misled and one that is not."""


def share(method: calibration.Method, spot: BlindSpot, contrast: Contrast) -> float:
    """The least size given to a missed edge, or the largest to an invented one, as a share of the largest size of all."""
    found = method(spot.known.model, contrast, Contrast.logit_difference)
    sizes = dict(zip(map(str, found.coords["edge"]), np.abs(found.values).mean(1).tolist(), strict=True))
    largest = max(sizes.values())
    if not largest:
        return 0.0
    planted = [sizes[edge] for edge in spot.misses | spot.invents]
    return (min(planted) if spot.misses else max(planted)) / largest


def together(spot: BlindSpot) -> calibration.Method:
    """Exact effects, but the planted edges into the last reader are replaced all at once and share what that does."""

    def method(model: Model, contrast: Contrast, metric: Metric) -> Measurement:
        found = paths.effects(model, contrast, metric)
        names = list(map(str, found.coords["edge"]))
        planted = [edge for edge in names if edge in spot.misses | spot.invents]
        values = found.values.copy()
        values[[names.index(edge) for edge in planted]] = paths.effect(model, contrast, metric, planted).values
        return Measurement(found.name, values, found.dims, found.coords)

    return method


def report_rotation(config: Config, report: Report, spot: BlindSpot) -> None:
    """A rotation of the residual stream changes every dimension of it, and no edge."""
    plain = induction()
    contrast = plain.contrast(config.examples, seed=config.seed)
    hook = "blocks.1.hook_resid_post"
    held, effects = [], []
    for model in (plain.model, spot.known.model):
        held.append(model.run(contrast.clean, read=[hook]).activations[hook].numpy())
        effects.append(edge_attribution.eap_ig(model, contrast).values)
    edges, dimensions = (float(np.linalg.norm(b - a) / np.linalg.norm(a)) for a, b in (effects, held))
    report.claim(
        "rotated-basis",
        "rotated basis: relative change of EAP-IG's effects of edges",
        edges,
        at_most=1e-3,
        source="closed form",
        control=dimensions,
        control_text="change of what single dimensions of the residual stream hold",
    )


# ---- nodes ----


def report_nodes(config: Config, report: Report) -> None:
    """The gradient methods for nodes, on circuits of more than one block."""
    report.section("Nodes")
    methods: dict[str, calibration.Method] = {
        "AtP": gradients.attribution,
        "AtP*": gradients.dropped,
        "IG inputs": partial(gradients.integrated, steps=config.steps),
        "random": partial(static.chance, nodes=True),
    }
    deep = {name: make for name, make in circuits(config).items() if kind(name) != SPOTS and make(0).model.n_layers > 1}
    table = calibrated(deep, methods, config, calibration.exact_nodes)
    means = by_circuit(table, "auroc", "relative_l1", "forwards")
    report.figure(
        "nodes",
        grid(means, "auroc"),
        caption="AUROC for nodes. AtP* has no sign, and its queries and keys go through the exact softmax only where queries and "
        "keys are nodes; here nodes are what heads and MLPs write.",
        alt="Exact replacement is 1 throughout.",
        data=means,
    )
    claim_exact(config, report, "nodes", "AUROC of replacing all edges out of a node, every circuit and draw", table)


# ---- what follows ----


def report_trust(report: Report, table: pd.DataFrame) -> None:
    """Which method to trust, by rule from the table."""
    report.section("Which method to trust when")
    judged = verdicts(table)
    report.table(
        "verdicts",
        judged,
        caption=f"A circuit is found where AUROC is at least {FOUND} in every draw; numbers are right where relative L1 is at "
        f"most {CLOSE} in every draw. Forwards: the median over circuits.",
    )
    report.text("\n".join(f"- {line}" for line in advice(table)))


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Of every method: its price, how many circuits it finds, on how many its numbers are right, and where it is worst."""
    auroc, error, price = (
        over_draws(table, "auroc", "min"),
        over_draws(table, "relative_l1", "max"),
        over_draws(table, "forwards", "mean"),
    )
    rows = []
    for method in auroc.columns:
        least = auroc[method].dropna()
        rows.append(
            {
                "method": method,
                "forwards": round(float(price[method].median()), 1),
                "circuits found": f"{int((least >= FOUND).sum())} of {len(least)}",
                "numbers right": f"{int((error[method] <= CLOSE).sum())} of {len(least)}",
                "least AUROC": round(float(least.min()), 2),
                "on": least.idxmin() if least.min() < FOUND else "–",
            }
        )
    return pd.DataFrame(rows)


def over_draws(table: pd.DataFrame, score: str, of: Literal["min", "max", "mean"]) -> pd.DataFrame:
    """The least, largest or mean score over draws: one row per circuit, one column per method."""
    return table.pivot_table(index="circuit", columns="method", values=score, aggfunc=of, sort=False)


def advice(table: pd.DataFrame) -> list[str]:
    """Sentences that follow from the table by rule: of each sort of circuit, the cheapest estimate that finds them all."""
    auroc, price = over_draws(table, "auroc", "min"), over_draws(table, "forwards", "mean")
    estimates = [name for name in auroc.columns if name not in (*PERFORMED, "random")]
    lines = []
    for sort in (INDUCTION, PROGRAMS, SPOTS):
        here = [name for name in auroc.index if kind(name) == sort]
        cost = {name: price.loc[here, name].mean() for name in [*estimates, "exact"]}
        able = sorted((name for name in estimates if auroc.loc[here, name].min() >= FOUND), key=lambda name: cost[name])
        best = "no estimate finds every circuit"
        if able:
            best = f"the cheapest estimate that finds every circuit is {able[0]} ({cost[able[0]]:.0f} forwards)"
        lines.append(f"{sort.capitalize()}: {best}; replacing edge by edge does, for {cost['exact']:.0f} forwards on average.")
    right = (over_draws(table, "relative_l1", "max")[estimates] <= CLOSE).sum()
    lines.append(
        f"As numbers, the nearest estimate is {right.idxmax()}, right on {right.max()} of {len(auroc)} circuits. Choose by "
        "estimates what to replace, and report what replacing it did."
    )
    silent = [name for name in auroc.index if auroc.loc[name, GRADIENTS].max() < FOUND]
    if silent:
        lines.append(f"No gradient method finds the circuit of {', '.join(silent)}: replace every edge there.")
    return lines


if __name__ == "__main__":
    experiment.main(Config, run)
