"""What does the temperature of a softmax do to a lookup? (Boltzmann; Vaswani et al. 2017; Ramsauer et al. 2020, arXiv:2008.02217)

Attention looks a value up: the softmax of scores divided by a temperature weighs the keys. Cold, it takes the best key and
the error falls exponentially in the gap to the next; hot, it takes the mean and the entropy nears that of all keys alike. In
between entropy grows at a rate that is a variance. The closed forms are held against draws, then against an induction head of
a trained model whose queries are divided by a temperature: copying goes as the lookup goes. Last, every head of that model is
heated by itself, to see which of them needs to be sharp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp import experiment, figures, stats
from interp.heads import ablation, patterns
from interp.heads.ablation import Head
from interp.heads.temperature import costs, entropy, heated, score_variance, sharpness, tempered
from interp.measurement import Measurement
from interp.models.hooked import Edit, Model
from interp.report import Report
from interp.stats import Estimate
from interp.tasks.repeated import Repeated, repeated_random

ID = "E01"
CLOSED, TARGET = "closed form", "target of this report"
PATTERN, QUERIES = "blocks.1.attn.hook_pattern", "blocks.1.attn.hook_q"


@dataclass(frozen=True, kw_only=True)
class Config:
    keys: tuple[int, ...] = (2, 8, 64, 512)  # keys that a query chooses among
    temperatures: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
    lookups: int = 2000  # draws of scores, for each number of keys
    width: int = 32  # of the values looked up
    heat: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # temperatures for the trained heads
    prompts: int = 64
    seed: int = 0


QUICK = {"lookups": 500, "prompts": 32}


def run(config: Config, report: Report) -> None:
    report_lookup(config, report)
    report_entropy(config, report)
    trained = Trained.of(config)
    report_head(config, report, trained)
    report_bound(config, report, trained)
    report_needs(config, report, trained)
    report.text(
        "What would have shown this false: a lookup, drawn or trained, that misses by more than its bound; entropy that grows at "
        "another rate; a head whose own pattern does not tell what dividing its queries does; induction heads that can be heated "
        "at no more cost than others."
    )


def drawn(config: Config, keys: int) -> Float[Tensor, "lookup key"]:
    """Gaussian scores."""
    generator = stats.torch_generator(config.seed, "scores", keys)
    return torch.randn(config.lookups, keys, generator=generator, dtype=torch.float64)


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
    scores, generator = drawn(config, keys), stats.torch_generator(config.seed, "values", keys)
    stored = torch.randn(keys, config.width, generator=generator, dtype=torch.float64)
    stored /= stored.norm(dim=1, keepdim=True)
    weights = (scores / temperature).softmax(-1)
    best, second = scores.topk(2).values.unbind(-1)
    missed = 1 - weights.amax(1)
    bound = (keys - 1) * ((second - best) / temperature).exp()
    error = (weights @ stored - stored[scores.argmax(1)]).norm(dim=1)
    return {
        "keys": keys,
        "temperature": temperature,
        "missed": float(missed.mean()),
        "value error": float(error.mean()),
        "excess": float((missed - bound).max()),
        "value_excess": float((error - 2 * missed).max()),
        "shuffled": float((missed - bound[torch.randperm(config.lookups, generator=generator)]).max()),
    }


def equal_gaps(config: Config) -> tuple[float, float]:
    """The largest deviation of 1 − p_max from its closed form, and from the bound that lacks the denominator."""
    exact, bound = [], []
    for keys in config.keys:
        scores = torch.zeros(keys, dtype=torch.float64)
        scores[0] = 1.0
        for temperature in config.temperatures:
            missed = 1 - float((scores / temperature).softmax(-1)[0])
            odds = (keys - 1) * math.exp(-1 / temperature)
            exact.append(abs(missed - odds / (1 + odds)))
            bound.append(abs(missed - odds))
    return max(exact), max(bound)


# ---- entropy ----


def report_entropy(config: Config, report: Report) -> None:
    """Entropy grows with temperature at the rate Var(s)/T³, and nears ln n as Var(s)/2T²."""
    report.section("Entropy")
    table = pd.DataFrame([entropy_row(drawn(config, keys), each) for keys in config.keys for each in config.temperatures])
    report.claim(
        "entropy-rate",
        "T · dH/dT differs from Var_p(s)/T², the variance under the softmax, by at most",
        table["off"].max(),
        at_most=1e-5,
        unit="nats",
        source=CLOSED,
        control=table["off without weights"].max(),
        control_text="the variance of the scores themselves",
    )
    slopes = [power(table.query(f"keys == {keys} and temperature >= 10")) for keys in config.keys]
    report.claim(
        "entropy-limit",
        "hot, ln n − H falls with temperature as a power law of exponent (the farthest from −2 over all n)",
        max(slopes, key=lambda slope: abs(slope + 2)),
        between=(-2.05, -1.95),
        source="Var(s)/2T² to second order",
        control=power(table.query(f"keys == {config.keys[-1]} and temperature <= 0.5")),
        control_text="the same where it is cold, T ≤ 0.5",
    )
    report.figure(
        "entropy",
        figures.lines(table, "temperature", "entropy", by="keys", xscale="log", ylabel="entropy, nats"),
        data=table,
        caption="Entropy of the attention against temperature: from 0, one key, to ln n, all alike.",
        alt="S-shaped curves, each rising to the logarithm of its number of keys.",
    )


def entropy_row(scores: Float[Tensor, "lookup key"], temperature: float) -> dict[str, float]:
    """Mean entropy at a temperature, what is left of ln n, and how far T · dH/dT is from the variance it should be."""
    step = 1e-4 * temperature
    below, at, above = ((scores / each).softmax(-1) for each in (temperature - step, temperature, temperature + step))
    rate = temperature * (entropy(above) - entropy(below)) / (2 * step)
    found = float(entropy(at).mean())
    return {
        "keys": scores.shape[1],
        "temperature": temperature,
        "entropy": found,
        "left": math.log(scores.shape[1]) - found,
        "off": float((rate - score_variance(at)).abs().max()),
        "off without weights": float((rate - (scores / temperature).var(1, correction=0)).abs().max()),
    }


def power(rows: pd.DataFrame) -> float:
    """The exponent of what is left of ln n, over temperature."""
    return float(np.polyfit(np.log(rows.temperature), np.log(rows.left), 1)[0])


# ---- a trained head ----


@dataclass(frozen=True)
class Trained:
    """A trained model that copies, prompts that its heads were not chosen on, and which heads those are."""

    model: Model
    prompts: Repeated
    copying: list[Head]
    others: list[Head]  # of the same layer
    before: Head  # looks one token back

    @classmethod
    def of(cls, config: Config) -> Trained:
        model = Model.load("induction-2l")
        experiment.source(f"model {model.name}", model.fingerprint)
        choosing, measuring = (prompts(config, model, purpose) for purpose in ("choose heads", "measure heads"))
        kinds = patterns.scores(model, choosing.tokens, kinds=["induction", "previous_token"])
        prefix = kinds["induction"].mean("example")
        heads = [(layer, head) for layer, head in prefix.top() if layer == 1]
        copying = [head for head in heads if prefix.values[head] >= prefix.values.max() / 2]
        (before,) = kinds["previous_token"].mean("example").top(1)
        return cls(model, measuring, copying, [head for head in heads if head not in copying], before)

    def loss(self, edits: Sequence[Edit]) -> Measurement:
        """Of every prompt on the tokens that an earlier copy determines, in nats."""
        return ablation.loss(self.model, self.prompts.tokens, edits=edits, predicted=self.prompts.is_copy)

    def attention(self, edits: Sequence[Edit]) -> np.ndarray:
        """Of the head that copies most to the tokens after earlier matches, per prompt."""
        pattern = self.model.run(self.prompts.tokens, read=[PATTERN], edits=edits).activations[PATTERN]
        _, head = self.copying[0]
        return patterns.targeted(pattern, self.prompts.tokens, "induction")[:, head].double().numpy()


def prompts(config: Config, model: Model, purpose: str) -> Repeated:
    generator = stats.torch_generator(config.seed, ID, purpose)
    return repeated_random(config.prompts, model.n_ctx, model.d_vocab, generator=generator)


def report_head(config: Config, report: Report, trained: Trained) -> None:
    """A trained model copies as long as its induction heads look up: heated, attention and copying go together."""
    report.section("A trained head, heated and cooled")
    model, hottest = trained.model, max(config.heat)
    plain, hot, beside = (trained.loss(heated(model, hottest, heads)).values for heads in ([], trained.copying, trained.others))
    report.claim(
        "heat-costs",
        f"induction heads at {hottest:g} times the temperature cost, on copies,",
        stats.paired_difference(hot, plain, seed=config.seed),
        at_least=0.5,
        unit="nats/token",
        source=TARGET,
        control=stats.paired_difference(beside, plain, seed=config.seed),
        control_text="the same done to the layer's other heads",
    )
    report.claim(
        "attention-falls",
        "attention to the token after earlier matches falls with every step of temperature, at the least by",
        least_fall(config, trained, trained.copying),
        at_least=0.001,
        unit="attention",
        source=TARGET,
        control=least_fall(config, trained, trained.others),
        control_text="the layer's other heads heated",
    )
    rows = []
    for each in config.heat:
        edits = heated(model, each, trained.copying)
        measures = {"attention": trained.attention(edits).mean(), "loss on copies": trained.loss(edits).values.mean()}
        rows += [{"temperature": each, "measure": measure, "value": value} for measure, value in measures.items()]
    table = pd.DataFrame(rows)
    report.figure(
        "heated-head",
        figures.lines(table, "temperature", "value", by="measure", ylabel="share of attention, nats/token", **heats(config)),
        data=table,
        caption="The temperature of the induction heads of a trained model: attention to the right tokens, and loss on copies.",
        alt="Attention falls with temperature, and loss rises.",
    )


def heats(config: Config) -> dict[str, Any]:
    """The axis of the temperatures of trained heads."""
    return {"xscale": "log", "xticks": config.heat, "xticklabels": [f"{each:g}" for each in config.heat]}


def least_fall(config: Config, trained: Trained, heads: Sequence[Head]) -> Estimate:
    """The least that prefix attention falls in a step of temperature, when these heads are heated."""
    steps = [trained.attention(heated(trained.model, each, heads)) for each in config.heat]
    falls = [stats.paired_difference(cold, hot, seed=config.seed) for cold, hot in pairwise(steps)]
    return min(falls, key=lambda fall: fall.low)


# ---- the bound, on a trained head ----


def report_bound(config: Config, report: Report, trained: Trained) -> None:
    """What the gaps of the untouched scores allow a head to miss, and what it misses when its queries are divided."""
    report.section("The bound on a trained head")
    untouched, found = pattern_of(trained, 1.0), {each: pattern_of(trained, each) for each in config.heat}
    best, second = untouched.topk(2).values.log().unbind(-1)
    others = torch.arange(1, untouched.shape[1] + 1)
    order = torch.randperm(len(untouched), generator=stats.torch_generator(config.seed, ID, "gaps of other prompts"))
    rows, excess, shuffled, told, still = [], [], [], [], []
    for each, pattern in found.items():
        missed, bound = 1 - pattern.amax(-1), others * ((second - best) / each).exp()
        excess.append(float((missed - bound).max()))
        shuffled.append(float((missed - bound[order]).max()))
        told.append(float((pattern - tempered(untouched, each)).abs().max()))
        still.append(float((pattern - untouched).abs().max()))
        shown = {"found": missed, "allowed by the bound": bound.clamp_max(1)}
        rows += [{"temperature": each, "missed": float(value.mean()), "1 − p_max": name} for name, value in shown.items()]
    report.claim(
        "trained-bound",
        "best induction head, its queries divided by T: 1 − p_max exceeds (n − 1) e^(−Δ/T), Δ the gap at T = 1, by at most",
        max(excess),
        at_most=1e-5,
        source=CLOSED,
        control=max(shuffled),
        control_text="gaps of other prompts",
    )
    report.claim(
        "pattern-tells",
        "its attention then differs from p^(1/T) / Σ p^(1/T), from the pattern p at T = 1, by at most",
        max(told),
        at_most=1e-5,
        unit="attention",
        source=CLOSED,
        control=max(still),
        control_text="the pattern p itself",
    )
    table = pd.DataFrame(rows)
    report.figure(
        "trained-bound",
        figures.lines(table, "temperature", "missed", by="1 − p_max", ylabel="mean of queries", ylim=(0, 1.25), **heats(config)),
        data=table,
        caption="Attention of the best induction head beside its best key, all queries of all prompts, and what the gaps allow.",
        alt="The bound lies above what is found at every temperature; both rise, the bound to 1 early.",
    )


def pattern_of(trained: Trained, temperature: float) -> Float[Tensor, "example query key"]:
    """Attention of the best induction head with its queries divided by a temperature: scores are linear in queries.

    The first query is left out: it has one key.
    """
    _, head = trained.copying[0]

    def divide(q: Tensor) -> Tensor:
        q[:, :, head] /= temperature
        return q

    run = trained.model.run(trained.prompts.tokens, read=[PATTERN], edits=[Edit(QUERIES, divide)])
    return run.activations[PATTERN][:, head, 1:].double()


# ---- which heads need it ----


def report_needs(config: Config, report: Report, trained: Trained) -> None:
    """Every head heated by itself: what is sharp, and what has to be."""
    report.section("Which heads have to be sharp")
    found = costs(trained.model, trained.loss)
    alone = [head for head in found.mean("example").top() if head != trained.before]
    report.claim(
        "needs",
        "twice as hot, the head that looks one token back costs more, on copies, than the costliest of all others, by",
        stats.paired_difference(found.values[trained.before], found.values[alone[0]], seed=config.seed),
        at_least=0.1,
        unit="nats/token",
        source=TARGET,
        control=stats.paired_difference(found.values[alone[0]], found.values[alone[1]], seed=config.seed),
        control_text="the costliest of those over the next",
    )
    sharp = {name: each.mean("example") for name, each in sharpness(trained.model, trained.prompts.tokens).items()}
    rows = []
    for layer, head in found.mean("example").top():
        cost = found.sel(layer=layer, head=head).estimate(seed=config.seed)
        measures = {name: float(each.values[layer, head]) for name, each in sharp.items()}
        rows.append({"head": f"L{layer}H{head}", "cost": cost.value, "low": cost.low, "high": cost.high} | measures)
    table = pd.DataFrame(rows)
    report.figure(
        "needs",
        figures.bars(table, "head", "cost", low="low", high="high", xlabel="rise of the loss on copies, nats/token"),
        data=table,
        caption="What it costs to double the temperature of each head alone, with 95 % intervals over prompts.",
        alt="One bar of more than half a nat, for a head of the first layer; all others are near 0.",
    )
    report.text(
        "Evenness, in the table under the figure, is H / ln n: induction heads are the sharpest of all, yet each can be heated "
        "alone, if not all together: they do the same. The head that feeds them is far less sharp, and has to be as it is."
    )


if __name__ == "__main__":
    experiment.main(Config, run)
