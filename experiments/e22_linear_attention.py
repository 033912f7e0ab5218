"""Is linear attention a memory of fast weights, and what does its fixed size cost? (Schlag et al. 2021, arXiv:2102.11174)

The sum over earlier keys and values can be carried along as one matrix. It holds as many keys apart as it has dimensions and not
one more; the delta rule replaces what a sum piles up; random features bring it near to the softmax at an error that falls as
one over their number (Choromanski et al. 2021, arXiv:2009.14794).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from interp import experiment, figures, stats
from interp.models.linear_attention import (
    DeltaRule,
    EluPlusOne,
    Favor,
    LinearAttention,
    UnitRelu,
    delta_rule,
    fast_weights,
    linear_attention,
)
from interp.models.scores import ScaledDot
from interp.report import Report

ID = "E22"
FAST, FAVOR = "Schlag et al. 2021", "Choromanski et al. 2021"
SPREAD = 0.4  # of the components of queries and keys whose kernel is estimated; the kernel's error grows as e^(|q + k|²/√d)


@dataclass(frozen=True, kw_only=True)
class Config:
    width: int = 16  # of queries, keys and the memory (d); even
    seeds: int = 20  # on which the closed-form claims are tested
    length: int = 256  # tokens in those sequences
    features: tuple[int, ...] = (10, 30, 100, 300, 1000)  # m, random features
    draws: int = 500  # of the features, at each number of them
    pairs: int = 64  # queries, and as many keys, whose products the features estimate
    lengths: tuple[int, ...] = (100, 300, 1000, 3000)  # at which work is counted and timed
    chunk: int = 32  # tokens that the memory takes at a time, where it takes more than one
    seed: int = 0


QUICK = {"draws": 200}


def run(config: Config, report: Report) -> None:
    report_forms(config, report)
    report_capacity(config, report)
    with experiment.stage("draw random features"):
        report_favor(config, report)
    report_cost(config, report)
    report.text(
        "What would have shown this false: a recurrence that gives something else than the parallel form; one more key than "
        "dimensions read back exactly; a value that the delta rule does not replace; an error of random features that does not "
        "fall as one over their number."
    )


# ---- two forms of one thing ----


def report_forms(config: Config, report: Report) -> None:
    """What is computed over all pairs at once is what a memory gives that is carried along."""
    gaps = [form_gaps(config, number) for number in range(config.seeds)]
    for name, words in (("linear", "sum of fast weights (elu + 1)"), ("favor", "random features"), ("delta", "delta rule")):
        report.claim(
            f"forms-{name}",
            f"{words}: largest difference between the form over all pairs and a memory carried along, token by token or "
            f"{config.chunk} at a time; {config.seeds} seeds, {config.length} tokens",
            max(each[name] for each in gaps),
            at_most=1e-5,
            source=f"{FAST}, §4.2" if name == "delta" else f"{FAST}, §3",
            control=min(each[f"{name}, control"] for each in gaps),
            control_text="the memory one token late, the least",
        )


def form_gaps(config: Config, number: int) -> dict[str, float]:
    """Largest differences of the forms on one random sequence, for each kind; and of forms that should differ."""
    drawn = stats.torch_generator(config.seed, ID, "forms", number)
    q, k, v = torch.randn(3, 1, config.length, 2, config.width, generator=drawn).unbind()
    rule = DeltaRule(2, config.width, UnitRelu(), generator=drawn)
    favor = Favor(config.width, 2 * config.width, orthogonal=True, generator=drawn)
    gaps: dict[str, float] = {}

    def delta(phi_q: Tensor, phi_k: Tensor, v: Tensor, *, chunk: int) -> Tensor:
        return delta_rule(phi_q, phi_k, v, rule.rates(k), chunk=chunk)[0]

    with torch.no_grad():
        for name, mixer, carried in (
            ("linear", LinearAttention(EluPlusOne()), linear_attention),
            ("favor", LinearAttention(favor), linear_attention),
            ("delta", rule, delta),
        ):
            at_once = mixer(q, k, v, causal=True, seen=None)
            found = [carried(mixer.feature_map(q), mixer.feature_map(k), v, chunk=chunk) for chunk in (1, config.chunk)]
            gaps[name] = max(float((at_once - each).abs().max()) for each in found)
            gaps[f"{name}, control"] = min(float((at_once[:, 1:] - each[:, :-1]).abs().max()) for each in found)
    return gaps


# ---- what the memory holds ----


def report_capacity(config: Config, report: Report) -> None:
    """As many keys as dimensions, and not one more; and what the delta rule adds."""
    report.section("What the memory holds")
    d = config.width
    report.claim(
        "capacity",
        f"largest squared error of reading back {d} values under {d} orthonormal keys, over {config.seeds} seeds",
        max(
            float(reading_errors(orthonormal(d, stats.torch_generator(config.seed, ID, "keys", i))).max())
            for i in range(config.seeds)
        ),
        at_most=1e-10,
        source=f"{FAST}, §4.1",
        control=float(reading_errors(harmonic(d + 1, d)).min()),
        control_text=f"{d + 1} keys, as far apart as they go: the least error",
    )
    overfull = [unit_keys(d + 1, d, stats.torch_generator(config.seed, ID, "overfull", i)) for i in range(config.seeds)]
    report.claim(
        "overflow",
        f"mean squared error with {d + 1} keys, the least over random keys and the best arrangement, in units of 1/d",
        d * min(float(reading_errors(keys).mean()) for keys in [harmonic(d + 1, d), *overfull]),
        at_least=1.0 - 1e-6,
        source="Welch 1974: n unit vectors in d dimensions have Σ (k_i·k_j)² ≥ n²/d",
        control=d * float(reading_errors(orthonormal(d, stats.torch_generator(config.seed, ID, "keys", 0))).mean()),
        control_text=f"{d} orthonormal keys",
    )
    written = [overwritten(config, number) for number in range(config.seeds)]
    report.claim(
        "overwrite",
        f"delta rule: largest error of what is read after half of {d} keys got new values, over {config.seeds} seeds",
        max(each[0] for each in written),
        at_most=1e-5,
        source=f"{FAST}, §4.2",
        control=min(each[1] for each in written),
        control_text="the plain sum, the least of the largest errors",
    )
    rows = []
    for n in range(2, 2 * d + 1, 2):
        best = harmonic(n, d) if n > d else orthonormal(d, stats.torch_generator(config.seed, ID, "keys", 0))[:n]
        errors = {"best arrangement": best, "random": unit_keys(n, d, stats.torch_generator(config.seed, ID, "random keys", n))}
        rows += [{"keys stored": n, "error": float(reading_errors(each).mean()), "keys": name} for name, each in errors.items()]
        rows.append({"keys stored": n, "error": max(0.0, n / d - 1), "keys": "bound: n/d − 1"})
    table = pd.DataFrame(rows)
    report.figure(
        "capacity",
        figures.lines(table, "keys stored", "error", by="keys", ylabel="squared error of what is read", ylim=(0, None)),
        data=table,
        caption=f"Error of reading values of length 1 from a memory of {d} dimensions, mean over keys.",
        alt=f"The best arrangement is read without error up to {d} keys and then rises; random keys err from the start.",
    )


def orthonormal(d: int, drawn: torch.Generator) -> Float[Tensor, "d d"]:
    return torch.linalg.qr(torch.randn(d, d, generator=drawn, dtype=torch.float64))[0]


def unit_keys(n: int, d: int, drawn: torch.Generator) -> Float[Tensor, "n d"]:
    """Random directions."""
    return torch.nn.functional.normalize(torch.randn(n, d, generator=drawn, dtype=torch.float64), dim=1)


def harmonic(n: int, d: int) -> Float[Tensor, "n d"]:
    """More keys than dimensions, which meet Welch's bound: turns of 1 to d/2 periods over n points, of length 1.

    With n = d + 1 they are the corners of a simplex.
    """
    angles = 2 * torch.pi * torch.arange(n, dtype=torch.float64)[:, None] * torch.arange(1, d // 2 + 1) / n
    return (2 / d) ** 0.5 * torch.cat([angles.cos(), angles.sin()], 1)


def reading_errors(keys: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Squared error of what each key reads, when each has a value of length 1 at right angles to all others."""
    values = torch.eye(len(keys), dtype=keys.dtype)
    _, memory = fast_weights(keys[None, :, None], keys[None, :, None], values[None, :, None])
    return (keys @ memory[0, 0] - values).square().sum(1)


def overwritten(config: Config, number: int) -> tuple[float, float]:
    """Largest error of reading all keys after every second one got a new value: delta rule at β = 1, and plain sum."""
    drawn, d = stats.torch_generator(config.seed, ID, "overwrite", number), config.width
    keys, again = orthonormal(d, drawn).float(), torch.arange(0, d, 2)
    values, new = torch.randn(2, d, d, generator=drawn)
    wanted = values.clone()
    wanted[again] = new[again]
    k = torch.cat([keys, keys[again]])[None, :, None]
    v = torch.cat([values, new[again]])[None, :, None]
    memories = delta_rule(k, k, v, torch.ones(k.shape[:3]))[1], fast_weights(k, k, v)[1]
    replaced, piled = (float((keys @ memory[0, 0] - wanted).abs().max()) for memory in memories)
    return replaced, piled


# ---- random features ----


def report_favor(config: Config, report: Report) -> None:
    """The error of FAVOR+ falls as one over the number of features."""
    report.section("Random features of the softmax")
    errors = {name: kernel_errors(name, config) for name in ("independent", "orthogonal", "without the norm factor")}
    slopes = {name: slope(values, config.features, seed=config.seed) for name, values in errors.items()}
    report.claim(
        "favor-slope",
        "slope of log error on log number of features (orthogonal)",
        slopes["orthogonal"],
        between=(-1.15, -0.85),
        source=f"{FAVOR}, lemma 2",
        control=slopes["without the norm factor"],
        control_text="features without the factor exp(−|y|²/2): they converge to another kernel",
    )
    report.claim(
        "orthogonal",
        "error of orthogonal over that of independent features, each error times m, mean over all m",
        stats.ratio(*((errors[name] * config.features).mean(1) for name in ("orthogonal", "independent")), seed=config.seed),
        at_most=1.0,
        source=f"{FAVOR}, theorem 2",
        control=float(errors["without the norm factor"].mean() / errors["independent"].mean()),
        control_text="without the norm factor",
    )
    rows = []
    for name, values in errors.items():
        for m, column in zip(config.features, values.T, strict=True):
            rows.append({"m": m, "features": name} | stats.bootstrap(column, seed=config.seed).cells("error"))
    table = pd.DataFrame(rows)
    report.table("favor", table, caption="Mean squared relative error of exp(q·k/√d), 95 % intervals over draws of the features.")
    labels = {"xlabel": "m, random features", "ylabel": "squared relative error", "xscale": "log", "yscale": "log"}
    report.figure(
        "favor",
        figures.lines(table, "m", "error", by="features", low="low", high="high", **labels),
        data=table,
        caption="Error of the estimated softmax kernel against the number of features.",
        alt="Lines for independent and orthogonal features fall at slope minus one; without the norm factor the line is flat.",
    )


def kernel_errors(kind: str, config: Config) -> Float[np.ndarray, "draw features"]:
    """Mean squared relative error of φ(q)·φ(k) as an estimate of exp(q·k/√d), over pairs, for every draw of the features."""
    drawn = stats.torch_generator(config.seed, ID, "kernel", kind)
    q, k = SPREAD * torch.randn(2, config.pairs, config.width, generator=stats.torch_generator(config.seed, ID, "pairs"))
    truth = torch.exp(q @ k.T / config.width**0.5)
    found = np.zeros((config.draws, len(config.features)))
    for column, m in enumerate(config.features):
        for row in range(config.draws):
            phi = Favor(config.width, m, orthogonal=kind != "independent", generator=drawn)
            estimate = phi(q) @ phi(k).T
            if kind == "without the norm factor":
                lengths = q.square().sum(1)[:, None] + k.square().sum(1)
                estimate = estimate * torch.exp(lengths / config.width**0.5 / 2)
            found[row, column] = float((estimate / truth - 1).square().mean())
    return found


def slope(errors: Float[np.ndarray, "draw features"], features: tuple[int, ...], *, seed: int) -> stats.Estimate:
    """Least-squares slope of log mean error on log m; draws are resampled."""
    x = np.log(np.asarray(features, dtype=float))
    x -= x.mean()
    return stats.resampled(len(errors), lambda rows: float(np.log(errors[rows].mean(0)) @ x / (x @ x)), seed=seed)


# ---- what it costs ----


def report_cost(config: Config, report: Report) -> None:
    """Work grows with the length for a memory and with its square over all pairs; a memory's size does not grow at all."""
    report.section("What it costs")
    table = pd.DataFrame([row for length in config.lengths for row in costs(length, config)])
    growth = {form: growth_of(rows, "work") for form, rows in table.groupby("attention")}
    report.claim(
        "linear-work",
        "memory carried along, token by token or in chunks, the larger of two: slope of log work "
        "(operations in matrix products) on log length, over the two longest rows",
        max(growth[TOKENS], growth[CHUNKS]),
        at_most=1.05,
        source="Katharopoulos et al. 2020, §3.2",
        control=growth[SOFTMAX],
        control_text="softmax attention",
    )
    report.table("cost", table, caption="Work and time for one row, and numbers kept to go on with the next token, for one head.")
    labels = {"xlabel": "length of the row, tokens", "xscale": "log", "yscale": "log"}
    report.figure(
        "cost",
        figures.lines(table, "length", "work", by="attention", ylabel="operations in matrix products", **labels),
        data=table,
        caption="Work of one head on one row, counted.",
        alt="On logarithmic axes the work of carried memories rises at slope one, that of all forms over all pairs at slope two.",
    )
    report.figure(
        "time",
        figures.lines(table, "length", "ms", by="attention", ylabel="CPU time, ms", **labels),
        data=table,
        caption="The same in CPU time on this machine, medians of three: exploratory, since it differs from run to run. "
        "Token by token the work is least, but every step is a call of its own.",
        alt="On short rows all pairs take least time; on the longest rows chunks do.",
    )


SOFTMAX, PAIRS, TOKENS, CHUNKS = "softmax", "linear, all pairs", "linear, token by token", "linear, in chunks"


def costs(length: int, config: Config) -> list[dict[str, str | float]]:
    """Counted work of each form of attention on one row, its time, and what it keeps for the next token."""
    qkv = torch.randn(3, 1, length, 1, config.width, generator=stats.torch_generator(config.seed, ID, "cost", length)).unbind()
    phi = EluPlusOne()
    pairs = LinearAttention(phi)

    def carried(chunk: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        return lambda q, k, v: linear_attention(phi(q), phi(k), v, chunk=chunk)

    forms: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        SOFTMAX: lambda q, k, v: torch.einsum("bhqk,bkhd->bqhd", ScaledDot()(q, k).softmax(-1), v),
        PAIRS: lambda q, k, v: pairs(q, k, v, causal=True, seen=None),
        TOKENS: carried(1),
        CHUNKS: carried(config.chunk),
    }
    kept = {SOFTMAX: 2 * config.width * length}
    rows = []
    for form, attend in forms.items():
        with FlopCounterMode(display=False) as counted:
            attend(*qkv)
        work, keeps = counted.get_total_flops(), kept.get(form, config.width * (config.width + 1))
        rows.append({"attention": form, "length": length, "work": work, "keeps": keeps, "ms": 1000 * seconds(attend, *qkv)})
    return rows


def seconds(attend: Callable[..., Tensor], *qkv: Tensor) -> float:
    """CPU time of this process, the median of three runs."""
    taken = []
    for _ in range(3):
        start = time.process_time()
        attend(*qkv)
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def growth_of(table: pd.DataFrame, name: str) -> float:
    """Slope of log value on log length over the last two rows."""
    lengths, values = (np.log(table[column].to_numpy(dtype=float)[-2:]) for column in ("length", name))
    return float((values[1] - values[0]) / (lengths[1] - lengths[0]))


if __name__ == "__main__":
    experiment.main(Config, run)
