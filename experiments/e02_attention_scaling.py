"""Why are attention scores divided by √d? (Vaswani et al. 2017, arXiv:1706.03762, §3.2.1)

Queries and keys with independent components of mean 0 and variance 1 have products q·k of mean 0 and variance d: without
the division the softmax saturates as heads widen, and its Jacobian, which carries every gradient to queries and keys,
shrinks. Controls break the assumption of independent unit-variance components, and with it the law.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from interp import experiment, figures, stats
from interp.heads.temperature import jacobian_norm
from interp.report import Report
from interp.stats import Estimate

ID = "E02"


@dataclass(frozen=True, kw_only=True)
class Config:
    widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024)  # d, the length of a query
    blocks: int = 100  # independent blocks of pairs; intervals are taken over blocks
    pairs: int = 300  # (q, k) pairs in a block
    queries: int = 300  # queries for the softmax Jacobian
    keys: int = 64  # keys each query attends to
    seed: int = 0


QUICK = {"queries": 200}

Draw = Callable[[np.random.Generator, int, int], np.ndarray]  # generator, count, width -> vectors [count, width]
SOURCE = "Vaswani et al. 2017, §3.2.1"


def independent(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    """Vectors whose components are independent N(0, 1): the assumption of the law."""
    return rng.standard_normal((count, width), dtype=np.float32)


def unit_norm(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    """Directions uniform on the unit sphere: components of variance 1/d, so Var(q·k) = 1/d."""
    vectors = independent(rng, count, width)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def correlated(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    """Components of variance 1 that are all one and the same number: q·k = d·ab, so Var(q·k) = d²."""
    return np.repeat(rng.standard_normal((count, 1), dtype=np.float32), width, axis=1)


DRAWS: dict[str, Draw] = {"independent": independent, "unit norm": unit_norm, "correlated": correlated}


def product_variances(draw: Draw, config: Config, *, seed_name: str) -> np.ndarray:
    """Var(q·k) of every block at every width, [block, width]; the mean is known to be 0, so it is E[(q·k)²]."""
    columns = []
    for width in config.widths:
        rng = stats.generator(config.seed, "products", seed_name, width)
        count = config.blocks * config.pairs
        products = np.einsum("nd,nd->n", draw(rng, count, width), draw(rng, count, width))
        columns.append((products.astype(np.float64) ** 2).reshape(config.blocks, config.pairs).mean(axis=1))
    return np.stack(columns, axis=1)


def log_log_slope(values: np.ndarray, widths: Sequence[int], *, seed: int) -> Estimate:
    """Least-squares slope of log value on log width, one slope per row of values [row, width], with its interval over rows."""
    x = np.log(np.asarray(widths, dtype=np.float64))
    x -= x.mean()
    return stats.bootstrap(np.log(values) @ x / (x @ x), seed=seed)


def jacobian_norms(config: Config) -> dict[str, np.ndarray]:
    """Softmax Jacobian norms of every query at every width, [query, width], from raw and from scaled scores."""
    raw, scaled = [], []
    for width in config.widths:
        rng = stats.generator(config.seed, "softmax", width)
        queries = independent(rng, config.queries, width).astype(np.float64)
        keys = independent(rng, config.queries * config.keys, width).reshape(config.queries, config.keys, width)
        scores = np.einsum("qd,qkd->qk", queries, keys)
        raw.append(jacobian_norm(torch.from_numpy(scores).softmax(-1)).numpy())
        scaled.append(jacobian_norm(torch.from_numpy(scores / np.sqrt(width)).softmax(-1)).numpy())
    return {"not scaled": np.stack(raw, axis=1), "divided by √d": np.stack(scaled, axis=1)}


def share_kept(norms: np.ndarray, *, seed: int) -> Estimate:
    """Mean norm at the largest width over mean norm at the smallest, from [query, width]; queries are resampled."""
    return stats.ratio(norms[:, -1], norms[:, 0], seed=seed)


def by_width(name: str, values: np.ndarray, config: Config, *, by: str) -> pd.DataFrame:
    """One row per width: the mean over rows of values [row, width] and its interval."""
    estimates = [stats.bootstrap(column, seed=config.seed) for column in values.T]
    rows = [(name, d, e.value, e.low, e.high) for d, e in zip(config.widths, estimates, strict=True)]
    return pd.DataFrame(rows, columns=[by, "d", "value", "low", "high"])


def envelope(estimates: Sequence[Estimate], centre: float) -> Estimate:
    """The value farthest from the centre, inside the lowest and highest end of all intervals."""
    worst = max(estimates, key=lambda e: abs(e.value - centre))
    return Estimate(worst.value, min(e.low for e in estimates), max(e.high for e in estimates), worst.n)


def curves(table: pd.DataFrame, config: Config, *, by: str, **labels: Any) -> Figure:
    """Curves of value against d, on a logarithmic axis, with their intervals, one per kind."""
    axis = {
        "xscale": "log",
        "xlabel": "d, components of a query",
        "xticks": config.widths,
        "xticklabels": [*map(str, config.widths)],
    }
    return figures.lines(table, "d", "value", by=by, low="low", high="high", **axis, **labels)


def report_variance(config: Config, report: Report) -> None:
    """The law, and the two controls that break its assumptions."""
    variances = {name: product_variances(draw, config, seed_name=name) for name, draw in DRAWS.items()}
    slopes = {name: log_log_slope(values, config.widths, seed=config.seed) for name, values in variances.items()}
    relative = variances["independent"] / np.asarray(config.widths)
    ratio = envelope([stats.bootstrap(column, seed=config.seed) for column in relative.T], centre=1.0)
    report.claim(
        "variance",
        f"Var(q·k) / d at the worst of d = {min(config.widths)}…{max(config.widths)}",
        ratio,
        between=(0.95, 1.05),
        source=SOURCE,
        control=float(variances["correlated"][:, -1].mean() / config.widths[-1]),
        control_text="components that are all equal, at the largest d",
    )
    report.claim(
        "slope",
        "log Var(q·k) grows with log d at slope 1",
        slopes["independent"],
        between=(0.95, 1.05),
        source=SOURCE,
        control=slopes["correlated"],
        control_text="components that are all equal: slope 2",
    )
    report.claim(
        "control-unit-norm",
        "negative control: with queries and keys of norm 1 the slope is −1",
        slopes["unit norm"],
        between=(-1.05, -0.95),
        source="E[(u·v)²] = 1/d for uniform directions",
        control=slopes["independent"],
        control_text="independent components",
    )
    table = pd.concat([by_width(name, values, config, by="vectors") for name, values in variances.items()], ignore_index=True)
    report.table("variance", table, caption="Var(q·k) with 95 % intervals over blocks of pairs")
    powers = {10.0**n: f"{10.0**n:,.7g}" for n in range(-3, 7)}
    axis = {"yscale": "log", "yticks": list(powers), "yticklabels": list(powers.values()), "ylabel": "Var(q·k)"}
    figure = curves(table, config, by="vectors", title="Independent components: Var(q·k) = d", **axis)
    report.figure(
        "variance",
        figure,
        data=table,
        caption="Variance of q·k against d: slope 1, and what breaks it.",
        alt="Log-log curves of the variance of q dot k: slope 1 for independent components, 2 for equal, minus 1 for unit norm",
    )


def report_jacobian(config: Config, report: Report) -> None:
    """What the softmax makes of it: the size of its Jacobian with and without the division."""
    norms = jacobian_norms(config)
    kept = {name: share_kept(values, seed=config.seed) for name, values in norms.items()}
    first, last = config.widths[0], config.widths[-1]
    text = f"softmax Jacobian norm at d = {last}, as a share of that at d = {first}"
    report.claim(
        "jacobian-scaled",
        f"divided by √d: {text}",
        kept["divided by √d"],
        between=(0.8, 1.25),
        source=SOURCE,
        control=kept["not scaled"],
        control_text="scores not scaled",
    )
    report.claim(
        "jacobian-raw",
        f"not scaled: {text}",
        kept["not scaled"],
        at_most=0.5,
        source=SOURCE,
        control=kept["divided by √d"],
        control_text="scores divided by √d",
    )
    table = pd.concat([by_width(name, values, config, by="scores") for name, values in norms.items()], ignore_index=True)
    report.table(
        "jacobian", table, caption=f"Frobenius norm of the softmax Jacobian over {config.keys} keys, 95 % intervals over queries"
    )
    figure = curves(
        table,
        config,
        by="scores",
        ylabel="‖∂softmax/∂scores‖",
        ylim=(0, None),
        title="Without the division, gradients fade as heads widen",
    )
    report.figure(
        "jacobian",
        figure,
        data=table,
        caption="Mean Frobenius norm of the softmax Jacobian against d.",
        alt="The Jacobian norm is flat in d with scaling and falls without it",
    )


def run(config: Config, report: Report) -> None:
    report_variance(config, report)
    report_jacobian(config, report)


if __name__ == "__main__":
    experiment.main(Config, run)
