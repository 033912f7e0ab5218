"""How many nearly orthogonal directions fit in d dimensions, and what does reading one cost? (Johnson & Lindenstrauss 1984)

Superposition rests on a fact of geometry: exponentially many directions in d dimensions are nearly orthogonal, and random
projections keep distances. Here the bounds are held against draws, and the noise that the remaining overlaps put on a linear
readout against its closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from interp import experiment, figures, stats, superposition
from interp.report import Report
from interp.stats import Estimate

ID = "E13"
DG, WELCH, UNION = "Dasgupta & Gupta 2003, theorem 2.1", "Welch 1974", "union bound over pairs"
SIZES = {"the lemma's": 1, "a quarter of it": 4}  # of the space projected to


@dataclass(frozen=True, kw_only=True)
class Config:
    points: int = 200  # projected points
    ambient: int = 2000  # dimensions they come from
    errors: tuple[float, ...] = (0.2, 0.3, 0.5)  # ε of the projection
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)  # d of random directions
    counts: tuple[int, ...] = (64, 256, 1024, 4096)  # how many of them
    active: tuple[int, ...] = (2, 4, 8, 16, 32)  # features that share one vector
    readout_width: int = 128
    features: int = 512  # directions they are chosen from
    draws: int = 40_000  # vectors for each number of active features
    repeats: int = 20  # independent projections, and sets of directions
    seed: int = 0


QUICK = {"repeats": 8}


def run(config: Config, report: Report) -> None:
    report_projections(config, report)
    report_directions(config, report)
    report_readout(config, report)
    report.text(
        "What would have shown this false: more pairs outside 1 ± ε than the lemma allows; directions that overlap less than "
        "Welch says they must, or random ones that overlap more than the union bound; a readout whose noise is not (k − 1)/d."
    )


# ---- random projections ----


def report_projections(config: Config, report: Report) -> None:
    """A projection to the dimension of the lemma keeps nearly every distance; one to a quarter of it does not.

    The lemma bounds the chance of each pair to leave 1 ± ε by 2/n²: all pairs of one projection may well stay inside, and all
    of many projections need not.
    """
    report.section("Random projections keep distances")
    rows, first, share = [], dict.fromkeys(SIZES, 0), dict.fromkeys(SIZES, 0.0)
    pairs = config.points * (config.points - 1) // 2
    for epsilon in config.errors:
        enough = superposition.jl_dimension(config.points, epsilon)
        for size, part in SIZES.items():
            worst, broken = projected(config, epsilon, enough // part)
            rows.append(
                {"ε": epsilon, "dimensions": enough // part, "size": size, "worst error": worst, "broken pairs": sum(broken)}
            )
            first[size] += broken[0]
            share[size] += sum(broken) / (pairs * config.repeats * len(config.errors))
    report.claim(
        "all-pairs",
        f"pairs whose squared distance leaves 1 ± ε, of {pairs:,} in one projection for each ε = "
        f"{', '.join(map(str, config.errors))}",
        first["the lemma's"],
        at_most=0,
        source=DG,
        control=first["a quarter of it"],
        control_text="a quarter of the dimensions",
    )
    report.claim(
        "projection",
        f"the share of such pairs, over {config.repeats} projections for each ε",
        share["the lemma's"],
        at_most=2 / config.points**2,
        source=f"2/n², {DG}",
        control=share["a quarter of it"],
        control_text="a quarter of the dimensions",
    )
    report.table(
        "projections",
        rows,
        caption=f"{config.points} points, {pairs:,} pairs, from {config.ambient} dimensions; {config.repeats} projections each.",
    )


def projected(config: Config, epsilon: float, dimension: int) -> tuple[float, list[int]]:
    """The worst error of any distance over all projections, and how many distances leave 1 ± ε in each."""
    worst, broken = 0.0, []
    for repeat in range(config.repeats):
        rng = stats.generator(config.seed, "projection", dimension, repeat)
        points = rng.standard_normal((config.points, config.ambient), dtype=np.float32)
        map_ = rng.standard_normal((config.ambient, dimension), dtype=np.float32) / np.float32(np.sqrt(dimension))
        errors = np.abs(superposition.distortions(points.astype(np.float64), (points @ map_).astype(np.float64)))
        worst = max(worst, float(errors.max()))
        broken.append(int((errors > epsilon).sum()))
    return worst, broken


# ---- random directions ----


def report_directions(config: Config, report: Report) -> None:
    """Random directions overlap no less than Welch allows and no more than the union bound does."""
    report.section("Many directions, small overlaps")
    sizes = [(n, d) for d in config.widths for n in config.counts if n > d]
    failure = 0.01 / (len(sizes) * config.repeats)
    found = pd.DataFrame([row for n, d in sizes for row in coherences(config, n, d, failure=failure)])
    shares = (found.coherence / found.bound).to_numpy()
    report.claim(
        "union-bound",
        "largest overlap of random directions over the bound that 99 % of runs keep in every draw: mean, least and largest draw",
        Estimate(float(shares.mean()), float(shares.min()), float(shares.max()), len(shares)),
        at_most=1.0,
        source=UNION,
        control=float((found.confined / found.bound).min()),
        control_text="directions confined to a quarter of the dimensions, least of all draws",
    )
    report.claim(
        "welch",
        "the same overlap over the least that any directions can have: least of all draws",
        float((found.coherence / found.welch).min()),
        at_least=1.0,
        source=WELCH,
        control=float((found.typical / found.welch).min()),
        control_text="the mean overlap, which the bound says nothing of",
    )
    gaps = [abs(superposition.coherence(superposition.simplex(d)) - superposition.welch_bound(d + 1, d)) for d in config.widths]
    report.claim(
        "simplex",
        "d + 1 corners of a simplex miss the Welch bound by at most",
        max(gaps),
        at_most=1e-9,
        source=WELCH,
        control=min(chance_gap(config, d) for d in config.widths),
        control_text="d + 1 random directions",
    )
    table = pd.DataFrame(found.groupby(["d", "n"])[["coherence", "bound", "welch"]].mean()).reset_index()
    report.table("coherence", table, caption=f"Largest |cosine| between two of n directions, mean of {config.repeats} draws.")
    report.figure(
        "coherence",
        figures.lines(
            table.assign(d=[f"d = {d}" for d in table.d]),
            "n",
            "coherence",
            by="d",
            xlabel="n, random directions",
            ylabel="largest |cosine|",
            ylim=(0, 1),
            title="Four times the directions cost little overlap",
            **log_axis(config.counts),
        ),
        data=table,
        caption="The largest overlap grows with the square root of log n: in 256 dimensions 4,096 directions stay below 0.4.",
        alt="Curves that rise slowly with n, lower for larger d.",
    )


def coherences(config: Config, n: int, d: int, *, failure: float) -> list[dict[str, float]]:
    """One row per draw of n directions in d dimensions: overlaps, those of directions in a quarter of d, and both bounds."""
    bounds = {"bound": superposition.random_coherence_bound(n, d, failure), "welch": superposition.welch_bound(n, d)}
    rows = []
    for repeat in range(config.repeats):
        rng = stats.generator(config.seed, "directions", n, d, repeat)
        directions = rng.standard_normal((n, d), dtype=np.float32)
        unit = directions[:256] / np.linalg.norm(directions[:256], axis=1, keepdims=True)
        overlaps = {
            "coherence": superposition.coherence(directions),
            "confined": superposition.coherence(directions[:, : d // 4]),
            "typical": float(np.abs(unit @ unit.T)[np.triu_indices(len(unit), 1)].mean()),
        }
        rows.append({"d": d, "n": n} | overlaps | bounds)
    return rows


def chance_gap(config: Config, d: int) -> float:
    rng = stats.generator(config.seed, "no simplex", d)
    return abs(superposition.coherence(rng.standard_normal((d + 1, d))) - superposition.welch_bound(d + 1, d))


# ---- readout ----


def report_readout(config: Config, report: Report) -> None:
    """Reading one feature off a sum of k costs a noise of variance (k − 1)/d, and false alarms as a Gaussian has them."""
    report.section("What reading one feature costs")
    d, rng = config.readout_width, stats.generator(config.seed, "readout")
    directions = rng.standard_normal((config.features, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    basis = np.eye(d)
    rows, ratios, controls = [], [], []
    for active in config.active:
        noise = superposition.interference(directions, active, draws=config.draws, rng=rng)
        none = superposition.interference(basis, active, draws=config.draws // 20, rng=rng)
        ratio = stats.bootstrap(noise**2 * d / (active - 1), seed=config.seed, resamples=500)
        ratios.append(ratio)
        controls.append(float((none**2).mean()) * d / (active - 1))
        rows.append({"active": active, "found": float((noise**2).mean()), "(k − 1)/d": (active - 1) / d})
    worst = max(ratios, key=lambda each: abs(each.value - 1))
    report.claim(
        "readout-noise",
        f"variance of the readout over (k − 1)/d, at the worst of k = {', '.join(map(str, config.active))}",
        Estimate(worst.value, min(each.low for each in ratios), max(each.high for each in ratios), worst.n),
        between=(0.95, 1.05),
        source="closed form for random directions",
        control=max(controls),
        control_text="an orthonormal basis",
    )
    table = pd.DataFrame(rows)
    long = table.melt("active", var_name="variance", value_name="value")
    labels = {"xlabel": "k, active features", "ylabel": "variance of the readout", "yscale": "log"}
    report.figure(
        "readout",
        figures.lines(long, "active", "value", by="variance", **labels, **log_axis(config.active)),
        data=table,
        caption=f"Variance of a linear readout in {d} dimensions: every further active feature adds 1/d.",
        alt="Measured variance and closed form lie on one another.",
    )
    alarms = false_alarms(config, directions, rng)
    report.claim(
        "false-alarms",
        "share of silent features that read above ½, over the Gaussian tail Q(½√(d/k)), at k = 16",
        alarms,
        between=(0.9, 1.1),
        source="Gaussian readout",
        control=0.0,
        control_text="an orthonormal basis: no alarms",
    )
    report.text(
        "A linear readout of one of n features is wrong somewhere once n · Q(½√(d/k)) nears 1: k may grow as d / (8 ln n). "
        "A sparse autoencoder compares features with each other, and can go further."
    )


def log_axis(values: Sequence[int]) -> dict[str, Any]:
    """A logarithmic axis with these numbers on it."""
    return {"xscale": "log", "xticks": values, "xticklabels": [f"{value:,}" for value in values]}


def false_alarms(config: Config, directions: np.ndarray, rng: np.random.Generator, *, active: int = 16) -> Estimate:
    """How many times the predicted rate silent features read above ½, over vectors of `active` features."""
    shares = []
    for _ in range(config.draws // 200):
        chosen = rng.choice(len(directions), active, replace=False)
        read = directions @ (rng.choice([-1.0, 1.0], active) @ directions[chosen])
        read[chosen] = 0.0
        shares.append((read > 0.5).sum() / (len(directions) - active))
    rate = superposition.false_alarm_rate(active, config.readout_width)
    return stats.bootstrap(np.asarray(shares) / rate, seed=config.seed)


if __name__ == "__main__":
    experiment.main(Config, run)
