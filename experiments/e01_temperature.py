"""What does the temperature of a softmax do to a lookup? (Boltzmann; Vaswani et al. 2017; Ramsauer et al. 2020, arXiv:2008.02217)

Attention looks a value up: the softmax of scores divided by a temperature weighs the keys. Cold, it takes the best key and
the error falls exponentially in the gap to the next; hot, it takes the mean and the entropy nears that of all keys alike. In
between entropy grows at a rate that is a variance. The closed forms are held against draws, and then a trained induction
head is heated and cooled: its queries are divided by a temperature, and copying goes as its lookup goes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp import experiment, figures, stats
from interp.heads import ablation, patterns
from interp.models.hooked import Edit, Model
from interp.report import Report
from interp.stats import Estimate
from interp.tasks.repeated import Repeated, repeated_random

ID = "E01"
CLOSED = "closed form"


@dataclass(frozen=True, kw_only=True)
class Config:
    keys: tuple[int, ...] = (2, 8, 64, 512)  # keys that a query chooses among
    temperatures: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
    lookups: int = 2000  # draws of scores, for each number of keys
    width: int = 32  # of the values looked up
    heat: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # temperatures for the trained head
    prompts: int = 64
    seed: int = 0


QUICK = {"lookups": 500, "prompts": 32}


def run(config: Config, report: Report) -> None:
    report_lookup(config, report)
    report_entropy(config, report)
    report_head(config, report)


def softmax(scores: np.ndarray, temperature: float) -> np.ndarray:
    """exp(s/T) / Σ exp(s/T) over the last axis."""
    weights = np.exp((scores - scores.max(-1, keepdims=True)) / temperature)
    return weights / weights.sum(-1, keepdims=True)


def entropy(weights: np.ndarray) -> np.ndarray:
    """−Σ p ln p over the last axis, in nats."""
    return -(weights * np.log(np.maximum(weights, 1e-300))).sum(-1)


def drawn(config: Config, keys: int) -> np.ndarray:
    """Gaussian scores, [lookup key]."""
    return stats.generator(config.seed, "scores", keys).standard_normal((config.lookups, keys))


# ---- lookup ----


def report_lookup(config: Config, report: Report) -> None:
    """What goes to the wrong keys falls exponentially in gap over temperature, and the error of the value with it."""
    report.section("A lookup and its error")
    table = pd.DataFrame([look_up(config, keys, temperature) for keys in config.keys for temperature in config.temperatures])
    report.claim(
        "lookup-bound",
        "1 − p_max exceeds (n − 1) e^(−Δ/T), with Δ the gap between the two best scores, by at most",
        table.excess.max(),
        at_most=1e-12,
        source=CLOSED,
        control=table.shuffled.max(),
        control_text="gaps of other queries",
    )
    report.claim(
        "value-bound",
        "the value looked up misses the best key's (all of length 1) by more than 2 (1 − p_max) by at most",
        table.value_excess.max(),
        at_most=1e-12,
        source="triangle inequality",
        control=(table["value error"] - table.missed).max(),
        control_text="a bound of half the size",
    )
    equal, wrong = equal_gaps(config)
    report.claim(
        "equal-gaps",
        "with all other scores Δ below the best, 1 − p_max differs from (n − 1) e^(−Δ/T) / (1 + (n − 1) e^(−Δ/T)) by at most",
        equal,
        at_most=1e-12,
        source=CLOSED,
        control=wrong,
        control_text="the bound itself, without its denominator",
    )
    report.figure(
        "lookup",
        figures.lines(
            table,
            "temperature",
            "missed",
            by="keys",
            xscale="log",
            xlabel="temperature",
            ylabel="1 − p_max",
            ylim=(0, 1),
            title="More keys need colder lookups",
        ),
        data=table,
        caption="Share of the attention that misses the best key, for Gaussian scores.",
        alt="Curves that rise from 0 to nearly 1 with temperature, earlier for more keys.",
    )


def look_up(config: Config, keys: int, temperature: float) -> dict[str, float]:
    """What goes to the wrong keys and what the value misses, in the mean; and by how much either exceeds its bound at most."""
    scores = drawn(config, keys)
    rng = stats.generator(config.seed, "values", keys)
    stored = rng.standard_normal((keys, config.width))
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    ordered, weights = np.sort(scores, axis=1), softmax(scores, temperature)
    missed = 1 - weights.max(1)
    bound = (keys - 1) * np.exp((ordered[:, -2] - ordered[:, -1]) / temperature)
    error = np.linalg.norm(weights @ stored - stored[scores.argmax(1)], axis=1)
    return {
        "keys": keys,
        "temperature": temperature,
        "missed": missed.mean(),
        "value error": error.mean(),
        "excess": (missed - bound).max(),
        "value_excess": (error - 2 * missed).max(),
        "shuffled": (missed - rng.permutation(bound)).max(),
    }


def equal_gaps(config: Config) -> tuple[float, float]:
    """The largest deviation of 1 − p_max from its closed form, and from the bound that lacks the denominator."""
    exact, bound = [], []
    for keys in config.keys:
        for temperature in config.temperatures:
            scores = np.zeros((1, keys))
            scores[0, 0] = 1.0
            missed = 1 - softmax(scores, temperature)[0, 0]
            odds = (keys - 1) * math.exp(-1 / temperature)
            exact.append(abs(missed - odds / (1 + odds)))
            bound.append(abs(missed - odds))
    return max(exact), max(bound)


# ---- entropy ----


def report_entropy(config: Config, report: Report) -> None:
    """Entropy grows with temperature at the rate Var(s)/T³, and nears ln n as Var(s)/2T²."""
    report.section("Entropy")
    worst, signless, rows, slopes = [], [], [], []
    for keys in config.keys:
        scores = drawn(config, keys)
        for temperature in config.temperatures:
            step = 1e-4 * temperature
            rate = (entropy(softmax(scores, temperature + step)) - entropy(softmax(scores, temperature - step))) / (2 * step)
            weights = softmax(scores, temperature)
            mean = (weights * scores).sum(1, keepdims=True)
            spread = (weights * (scores - mean) ** 2).sum(1)
            worst.append(np.abs(rate * temperature - spread / temperature**2).max())
            signless.append(np.abs(rate * temperature - scores.var(axis=1) / temperature**2).max())
            left = math.log(keys) - entropy(weights)
            rows.append({"keys": keys, "temperature": temperature, "entropy": entropy(weights).mean(), "left": left.mean()})
        hot = [row for row in rows if row["keys"] == keys and row["temperature"] >= 10]
        logs = np.log([[row["temperature"], row["left"]] for row in hot])
        slopes.append(float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0]))
    report.claim(
        "entropy-rate",
        "T · dH/dT differs from Var_p(s)/T², the variance under the softmax, by at most",
        float(max(worst)),
        at_most=1e-5,
        unit="nats",
        source=CLOSED,
        control=float(max(signless)),
        control_text="the variance of the scores themselves",
    )
    report.claim(
        "entropy-limit",
        "hot, ln n − H falls with temperature as a power law of exponent (the farthest from −2 over all n)",
        max(slopes, key=lambda slope: abs(slope + 2)),
        between=(-2.05, -1.95),
        source="Var(s)/2T² to second order",
        control=float(cold_slope(rows, config)),
        control_text="the same where it is cold, T ≤ 0.5",
    )
    table = pd.DataFrame(rows)
    report.figure(
        "entropy",
        figures.lines(table, "temperature", "entropy", by="keys", xscale="log", ylabel="entropy, nats"),
        data=table,
        caption="Entropy of the attention against temperature: from 0, one key, to ln n, all alike.",
        alt="S-shaped curves, each rising to the logarithm of its number of keys.",
    )


def cold_slope(rows: Sequence[dict[str, float]], config: Config) -> float:
    cold = [row for row in rows if row["keys"] == config.keys[-1] and row["temperature"] <= 0.5]
    return float(np.polyfit(np.log([row["temperature"] for row in cold]), np.log([row["left"] for row in cold]), 1)[0])


# ---- a trained head ----


def report_head(config: Config, report: Report) -> None:
    """A trained model copies as long as its induction heads look up: heated, attention and copying go together."""
    report.section("A trained head, heated and cooled")
    model = Model.load("induction-2l")
    experiment.source(f"model {model.name}", model.fingerprint)
    choosing, measuring = (prompts(config, model, purpose) for purpose in ("choose heads", "measure heads"))
    prefix = patterns.induction_scores(model, choosing.tokens).mean("example").sel(layer=1)
    heads = [head for (head,) in prefix.top() if prefix.values[head] >= prefix.values.max() / 2]
    others = [head for head in range(model.n_heads) if head not in heads]
    rows, hottest = [], max(config.heat)
    plain, hot, beside = (copy_loss(model, measuring, edits) for edits in ([], heated(heads, hottest), heated(others, hottest)))
    for heat in config.heat:
        edits = heated(heads, heat)
        attention = prefix_attention(model, measuring, edits, heads[0]).mean()
        rows.append({"temperature": heat, "attention": attention, "loss on copies": copy_loss(model, measuring, edits).mean()})
    report.claim(
        "heat-costs",
        f"queries of the induction heads divided by {hottest:g} cost, on copies,",
        stats.paired_difference(hot, plain, seed=config.seed),
        at_least=0.5,
        unit="nats/token",
        source="target of this report",
        control=stats.paired_difference(beside, plain, seed=config.seed),
        control_text="the same done to the layer's other heads",
    )
    report.claim(
        "attention-falls",
        "attention to the token after earlier matches falls with every step of temperature, at the least by",
        least_fall(config, model, measuring, heads, heads[0]),
        at_least=0.001,
        unit="attention",
        source="target of this report",
        control=least_fall(config, model, measuring, others, heads[0]),
        control_text="the layer's other heads heated",
    )
    table = pd.DataFrame(rows)
    report.figure(
        "heated-head",
        figures.lines(
            table.melt("temperature", var_name="measure", value_name="value"), "temperature", "value", by="measure", xscale="log"
        ),
        data=table,
        caption="The temperature of the induction heads of a trained model: attention to the right tokens, and loss on copies.",
        alt="Attention falls with temperature, and loss rises.",
    )


def prompts(config: Config, model: Model, purpose: str) -> Repeated:
    generator = torch.Generator().manual_seed(stats.torch_seed(config.seed, ID, purpose))
    return repeated_random(config.prompts, model.n_ctx, model.d_vocab, generator=generator)


def copy_loss(model: Model, on: Repeated, edits: Sequence[Edit]) -> np.ndarray:
    """Loss of every prompt on the tokens that an earlier copy determines, in nats."""
    return ablation.loss(model, on.tokens, edits=edits, predicted=on.is_copy).values


def heated(heads: Sequence[int], temperature: float) -> list[Edit]:
    """Scores of these heads of the second layer over a temperature: scores are linear in queries."""

    def divide(q: Tensor) -> Tensor:
        q[:, :, list(heads)] /= temperature
        return q

    return [Edit("blocks.1.attn.hook_q", divide)]


def least_fall(config: Config, model: Model, on: Repeated, heads: Sequence[int], head: int) -> Estimate:
    """The least that one head's prefix attention falls in a step of temperature, when these heads are heated."""
    steps = [prefix_attention(model, on, heated(heads, heat), head) for heat in config.heat]
    falls = [stats.paired_difference(cold, hot, seed=config.seed) for cold, hot in pairwise(steps)]
    return min(falls, key=lambda fall: fall.low)


def prefix_attention(model: Model, on: Repeated, edits: Sequence[Edit], head: int) -> np.ndarray:
    """Attention of one head of the second layer to the tokens after earlier matches, per prompt."""
    hook = "blocks.1.attn.hook_pattern"
    pattern = model.run(on.tokens, read=[hook], edits=edits).activations[hook]
    return patterns.targeted(pattern, on.tokens, "induction")[:, head].double().numpy()


if __name__ == "__main__":
    experiment.main(Config, run)
