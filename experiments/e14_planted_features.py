"""Which sparse autoencoder recovers planted features best, per token and per second? (Chanin & Garriga-Alonso 2026)

Activations are made from a known dictionary, so what was found can be counted (SynthSAEBench, arXiv:2602.14687). Two
problems: features that fire apart, with as many latents as features; and features that hang together in trees and
correlations, with a quarter as many latents. Every architecture is trained on both from the same rows as classical dictionary
learners, at several learning rates and seeds, and each seed plants a dictionary of its own. A feature is found when a decoder
row has a cosine above 0.9 with it; F1 judges when the latents fire. Dictionaries without an encoder of their own get one that
is taught on the same rows. The control is a random dictionary with such an encoder. Intervals are over seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from interp import experiment, figures, stats
from interp.report import Report
from interp.sae import classical
from interp.sae.activation_functions import TopK
from interp.sae.alternating import alternate, distil
from interp.sae.architectures import ARCHITECTURES, build
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.recovery import directions, firing, recovery
from interp.sae.schedules import default_learning_rate
from interp.sae.synthetic import Planted, preset
from interp.sae.training import train
from interp.stats import Estimate

ID = "E14"


@dataclass(frozen=True, kw_only=True)
class Config:
    apart: str = "small"  # preset whose features fire apart; as many latents as features
    apart_tokens: int = 100_000
    together: str = (
        "synth-sae-bench-1k"  # preset with trees and correlations; a quarter as many latents. Full size: synth-sae-bench-16k
    )
    together_tokens: int = 200_000
    rates: tuple[float, ...] = (0.5, 2.0)  # learning rates, in units of the default one
    seeds: int = 3
    seed: int = 0


QUICK = {"apart_tokens": 50_000, "together_tokens": 150_000, "rates": (2.0,), "seeds": 2}

ROWS = 512
"""Rows in a batch."""

SCORED = 16
"""Batches that codes are judged on, drawn apart from those of training."""

LASSO_ROWS, BLOCK_ROWS = 4096, 32_768
"""Rows for scikit-learn's online lasso, which takes half a minute for 50,000, and for the other classical learners."""

ACTIVE = {"tiny": 2, "small": 3, "medium": 8, "synth-sae-bench-1k": 5, "synth-sae-bench-16k": 25}
"""Active latents per row, by preset: about as many as there are features on, of those that the latents have room for."""

PURSUIT, CONTROL = "alternating", "random dictionary"
SYNTH = "Chanin & Garriga-Alonso 2026"


@dataclass(frozen=True)
class Problem:
    """A planted instance, what is trained on it, and the rows of one seed."""

    name: str
    truth: Planted
    d_sae: int
    l0: int
    rows: list[Tensor]
    seed: int

    @classmethod
    def draw(cls, name: str, tokens: int, share: int, seed: int) -> Problem:
        truth = preset(name, seed=seed)
        rows = list(truth.batches(ROWS, max(2, tokens // ROWS), seed=seed))
        return cls(name, truth, len(truth.dictionary) // share, ACTIVE[name], rows, seed)

    @property
    def d(self) -> int:
        return self.truth.dictionary.shape[1]

    def pooled(self, limit: int) -> Tensor:
        """The first rows, less their mean."""
        rows = torch.cat(self.rows[: -(-limit // ROWS)])
        return rows - rows.mean(0)


@dataclass(frozen=True)
class Trained:
    """What a method made of a problem, with what it took, and the share found along the way."""

    sae: SparseAutoencoder
    tokens: int
    seconds: float
    curve: list[dict[str, float]]


def run(config: Config, report: Report) -> None:
    scores, curves = [], []
    plan = (("apart", config.apart, config.apart_tokens, 1), ("together", config.together, config.together_tokens, 4))
    for seed in experiment.progress(range(config.seed, config.seed + config.seeds), "seeds"):
        for kind, name, tokens, share in plan:
            with experiment.stage(f"{kind}, seed {seed}"):
                problem = Problem.draw(name, tokens, share, seed)
                for method, rate, trained in methods(problem, config.rates if kind == "apart" else config.rates[-1:]):
                    where = {"problem": kind, "method": method, "rate": rate, "seed": seed}
                    scores.append(where | score(problem, trained))
                    curves += [where | point for point in trained.curve]
    table = pd.DataFrame(scores)
    curve = pd.DataFrame(curves).query("problem == 'apart'")
    report_apart(table.query("problem == 'apart'"), curve, report, seed=config.seed)
    report_together(table.query("problem == 'together'"), report, seed=config.seed)
    report.table("all-runs", table, caption="Every run: one row per problem, method, learning rate and seed.")


# ---- methods ----


def methods(problem: Problem, rates: tuple[float, ...]) -> list[tuple[str, float, Trained]]:
    """Every method on one problem; `rate` is 0 where there is no learning rate to choose."""
    found = [(name, rate, descend(problem, name, rate)) for name in ARCHITECTURES for rate in rates]
    found.append((PURSUIT, 0.0, alternating(problem)))
    m, k, seed = problem.d_sae, problem.l0, problem.seed
    learners: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
        "k-SVD": (BLOCK_ROWS, lambda rows: classical.ksvd(rows, m, k, seed=seed)),
        "online lasso": (LASSO_ROWS, lambda rows: classical.online_lasso(rows, m, seed=seed)),
        "ICA": (BLOCK_ROWS, lambda rows: classical.ica(rows, m, seed=seed)),
        "PCA": (BLOCK_ROWS, lambda rows: classical.pca(rows, m)),
        CONTROL: (0, lambda rows: classical.random_dictionary(m, problem.d, seed=seed)),
    }
    return found + [(name, 0.0, learned(problem, limit, learn)) for name, (limit, learn) in learners.items()]


def descend(problem: Problem, architecture: str, rate: float) -> Trained:
    """An architecture trained by gradient descent at `rate` times the default learning rate."""
    sae, objective = build(architecture, problem.d, problem.d_sae, l0=problem.l0, seed=problem.seed)
    return timed(
        problem,
        sae,
        lambda **log: train(sae, problem.rows, objective=objective, learning_rate=rate * default_learning_rate(problem.d), **log),
    )


def alternating(problem: Problem) -> Trained:
    """The token-efficient trainer."""
    sae = SparseAutoencoder(problem.d, problem.d_sae, activation=TopK(problem.l0), seed=problem.seed)
    return timed(problem, sae, lambda **log: alternate(sae, problem.rows, **log))


def timed(problem: Problem, sae: SparseAutoencoder, go: Callable[..., object]) -> Trained:
    """Runs a trainer, and looks five times on the way; what looking costs is taken off the time."""
    start, curve, looking = time.process_time(), [], 0.0

    def look(_: str, row: dict[str, float]) -> None:
        nonlocal looking
        began = time.process_time()
        found = recovery(sae.W_dec.detach(), problem.truth.dictionary)[1]
        curve.append({"tokens": row["tokens"], "seconds": began - start - looking, "found": found})
        looking += time.process_time() - began

    steps = len(problem.rows)
    go(steps=steps, log_every=max(1, steps // 5), progress=look)
    return Trained(sae, steps * ROWS, time.process_time() - start - looking, curve)


def learned(problem: Problem, limit: int, learn: Callable[[Tensor], Tensor]) -> Trained:
    """A dictionary from the first rows, and an encoder for it from up to a hundred batches."""
    start = time.process_time()
    dictionary = learn(problem.pooled(min(limit, len(problem.rows) * ROWS)) if limit else problem.rows[0])
    seconds = time.process_time() - start
    k = min(problem.l0, len(dictionary))
    sae = distil(dictionary, problem.rows, k=k, steps=min(100, len(problem.rows)))
    return Trained(sae, min(limit, len(problem.rows) * ROWS), seconds, [])


def score(problem: Problem, trained: Trained) -> dict[str, float]:
    """All measures of one run. The time of a classical learner is that of its dictionary alone."""
    sae, truth = trained.sae, problem.truth
    found = directions(sae.W_dec.detach(), truth.dictionary)
    samples = [truth.draw(ROWS, truth.generator(problem.seed + 10_000, index)) for index in range(SCORED)]
    fires = firing(sae, samples, found.stands_for, features=len(truth.dictionary))
    rows = torch.cat([x for x, _ in samples])
    with torch.no_grad():
        codes = sae.encode(rows)
        left = (rows - sae.decode(codes)).double().square().sum()
    return {
        "mmcs": found.mmcs.value,
        "found": found.found.value,
        "mcc": found.mcc.value,
        "f1": fires.f1.value,
        "precision": fires.precision.value,
        "recall": fires.recall.value,
        "feature_recall": fires.feature_recall.value,
        "dead": fires.dead,
        "duplicates": round((1 - found.uniqueness.value) * sae.d_sae),
        "fvu": float(left / (rows - rows.mean(0)).double().square().sum()),
        "l0": float((codes != 0).sum(1).double().mean()),
        "tokens": trained.tokens,
        "cpu_seconds": trained.seconds,
    }


# ---- features that fire apart ----


def best_rates(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The runs of every method at the learning rate that is best for it in the mean, the best method first."""
    means = table.pivot_table(index="method", columns="rate", values=measure)
    order = means.max(axis=1).sort_values(ascending=False).index
    chosen = pd.DataFrame({"method": order, "rate": [means.loc[method].idxmax() for method in order]})
    return chosen.merge(table, how="left")


def runs_of(table: pd.DataFrame, method: str) -> pd.DataFrame:
    """The runs of one method, one per seed once a learning rate is chosen."""
    return table.query("method == @method")


def of(table: pd.DataFrame, method: str, measure: str, *, seed: int) -> Estimate:
    """A method's mean over seeds."""
    return stats.bootstrap(runs_of(table, method)[measure].to_numpy(), seed=seed)


def ahead(table: pd.DataFrame, method: str, others: list[str], measure: str, *, seed: int) -> Estimate:
    """By how much a method leads the best of others, seed by seed."""
    by_seed = table.pivot(index="seed", columns="method", values=measure)
    return stats.paired_difference(by_seed[method], by_seed[others].max(axis=1), seed=seed)


def summary(table: pd.DataFrame, measure: str, *, seed: int) -> pd.DataFrame:
    """One line per method: the measure with its interval, and means of the rest."""
    lines = []
    for method in table.method.drop_duplicates():
        runs = runs_of(table, method)
        estimate = of(table, method, measure, seed=seed)
        means = runs.drop(columns=["problem", "method", "seed", measure]).mean()
        lines.append({"method": method, measure: estimate.value, "low": estimate.low, "high": estimate.high, **means})
    return pd.DataFrame(lines)


def report_apart(table: pd.DataFrame, curves: pd.DataFrame, report: Report, *, seed: int) -> None:
    """Independent features: all of them can be found, and how soon tells methods apart."""
    report.section("Features that fire apart")
    best = best_rates(table, "found")
    trained = [name for name in best.method.drop_duplicates() if name in ARCHITECTURES]
    report.claim(
        "mmcs",
        f"mean cosine of every true feature with its best latent, {PURSUIT} updates",
        of(best, PURSUIT, "mmcs", seed=seed),
        at_least=0.9,
        source=SYNTH,
        control=of(best, CONTROL, "mmcs", seed=seed),
        control_text=CONTROL,
    )
    report.claim(
        "found",
        f"share of features found from {int(table.tokens.max()):,} tokens, {PURSUIT} updates",
        of(best, PURSUIT, "found", seed=seed),
        at_least=0.93,
        control=of(best, CONTROL, "found", seed=seed),
        control_text=CONTROL,
    )
    report.claim(
        "per-token",
        f"{PURSUIT} updates lead the best architecture at its best learning rate from as many tokens, by",
        ahead(best, PURSUIT, trained, "found", seed=seed),
        at_least=0.0,
        control=ahead(best, CONTROL, trained, "found", seed=seed),
        control_text=CONTROL,
    )
    lines = summary(best, "found", seed=seed)
    enough = lines.query("found >= 0.9").sort_values("cpu_seconds")
    soonest = "none of them" if enough.empty else "**{method}**, {cpu_seconds:.1f} CPU-seconds".format(**enough.iloc[0])
    report.text(f"Most found from the same rows: **{lines.method[0]}**. Soonest of those that find nine in ten: {soonest}.")
    report.table("apart", lines, caption="Every method at its best learning rate (in units of the default), means over seeds.")
    drawn = pd.DataFrame({"method": [*trained[:3], PURSUIT]}).merge(best[["method", "rate"]].drop_duplicates())
    mean = drawn.merge(curves).pivot_table(index=["method", "tokens"], values=["found", "seconds"], sort=False).reset_index()
    for axis, words in (("tokens", "tokens"), ("seconds", "CPU-seconds")):
        report.figure(
            f"found-by-{axis}",
            figures.lines(mean, axis, "found", by="method", xlabel=words, ylabel="share of features found"),
            data=mean,
            caption=f"Share of true features found along training, against {words}: the best three architectures, and {PURSUIT}.",
            alt=f"Lines: share of features found over {words}",
        )


# ---- features that hang together ----


def report_together(table: pd.DataFrame, report: Report, *, seed: int) -> None:
    """Trees and correlations, and too few latents: architectures part ways."""
    report.section("Features that hang together")
    best = best_rates(table, "f1")
    nested = [name for name in best.method.drop_duplicates() if "matryoshka" in name]
    flat = [name for name in ARCHITECTURES if name not in nested]
    report.claim(
        "f1-ordering",
        f"nested losses help: {nested[0]} leads the best architecture without them in F1, by",
        ahead(best, nested[0], flat, "f1", seed=seed),
        at_least=0.05,
        source=SYNTH,
        control=ahead(best, CONTROL, flat, "f1", seed=seed),
        control_text=CONTROL,
    )
    report.claim(
        "mcc",
        f"latents of {nested[0]} match true features one to one: mean |cosine| above that of random directions, by",
        ahead(best, nested[0], [CONTROL], "mcc", seed=seed),
        at_least=0.3,
        source=SYNTH,
        control=ahead(best, "PCA", [CONTROL], "mcc", seed=seed),
        control_text="principal directions",
    )
    lines = summary(best, "f1", seed=seed)
    report.text(
        f"Best F1: **{lines.method[0]}**. Matching pursuit, which wins on features that fire apart, fits here what it should "
        f"leave alone: {PURSUIT} updates reach {of(best, PURSUIT, 'f1', seed=seed).value:.2f}."
    )
    report.table("together", lines, caption="Every method, means over seeds. 0.9 in cosine is out of reach for so few latents.")
    report.figure(
        "f1",
        figures.bars(lines, "method", "f1", low="low", high="high", title="When latents fire", xlabel="F1"),
        data=lines,
        caption="F1 of latents against the features they stand for, mean over latents; dead ones count 0. Intervals over seeds.",
        alt="Bars: F1 by method",
    )


if __name__ == "__main__":
    experiment.main(Config, run)
