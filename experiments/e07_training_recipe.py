"""What does each part of the training recipe do? (Vaswani et al. 2017, arXiv:1706.03762, §5.3–5.4; Xiong 2020, arXiv:2002.04745)

A rising and falling learning rate, smoothed labels, dropout, clipped gradients: each has a property that can be computed, and
each is then seen at work on small encoders that learn to write rows of symbols in reverse. What smoothing asks for is known
exactly: the right logit ln(1 + K(1 − ε)/ε) above all others. A deep model with the norm after every sublayer needs the warm-up at
a learning rate at which one with the norm before does not.

False if trained models stand off that gap, if the gap without smoothing comes to rest, or if post-LN models learn as well
without a warm-up as with one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import stats as distributions
from torch import Tensor, nn

from interp import experiment, figures, stats
from interp.models.batches import Batch
from interp.models.parts import Dropout
from interp.models.training import Course, Learner, Schedule, constant, fit, noam
from interp.models.transformer import TransformerConfig, transformer
from interp.report import Report
from interp.stats import Estimate

ID = "E07"


@dataclass(frozen=True, kw_only=True)
class Config:
    vocabularies: tuple[int, ...] = (8, 16, 32)  # K, the tokens that smoothing spreads over
    smoothings: tuple[float, ...] = (0.05, 0.1, 0.3)  # ε
    smoothing_steps: int = 600  # training of each model on smoothed labels
    few: int = 16  # training rows of the models that see too few
    few_steps: int = 400  # their training
    few_seeds: int = 8  # models of each kind
    drops: tuple[float, ...] = (0.1, 0.3, 0.5)  # q, the share that dropout takes
    layers: int = 4  # of the models that are trained with and without warm-up
    rate: float = 0.015  # their learning rate, after warm-up where there is one
    other_rates: tuple[float, ...] = (0.003, 0.03)  # rates at which a few are trained beside
    warmup: int = 40  # steps
    steps: int = 150  # their training
    seeds: int = 8  # models of each kind at `rate`
    other_seeds: int = 2  # … at the other rates
    seed: int = 0


QUICK = {
    **{"vocabularies": (16,), "smoothings": (0.1,), "smoothing_steps": 400, "few_steps": 200, "few_seeds": 4},
    **{"other_rates": (), "steps": 120, "seeds": 4},
}

VASWANI, XIONG, OURS = "Vaswani et al. 2017", "Xiong et al. 2020", "target of this report"
LENGTH = 6  # symbols of a row
PAPER = (512, 4000)  # d_model and warm-up of Vaswani et al. 2017


def run(config: Config, report: Report) -> None:
    report_schedule(report)
    report_smoothing(config, report)
    report_dropout(config, report)
    report_few(config, report)
    report.section("Clipped gradients and warm-up")
    report_clipping(config, report)
    report_warmup(config, report)


# ---- what is trained ----


def reversal(n: int, symbols: int, generator: torch.Generator) -> Batch:
    """Rows of random symbols, to be written in reverse in their places."""
    tokens = torch.randint(symbols, (n, LENGTH), generator=generator)
    return Batch(tokens=tokens, targets=tokens.flip(1))


def encoder(symbols: int, seed: int, **options: Any) -> nn.Module:
    """A small encoder with learned positions; one post-LN block unless options say otherwise."""
    sizes = {"d_model": 32, "n_heads": 4, "n_layers": 1, "d_mlp": 64, "d_vocab": symbols, "n_ctx": LENGTH}
    kind = {"kind": "encoder", "norm": "post", "positions": "learned"}
    return transformer(TransformerConfig.of(kind | sizes | options), seed)


def drawn(config: Config, *purpose: str | int) -> torch.Generator:
    return torch.Generator().manual_seed(stats.torch_seed(config.seed, ID, *purpose))


def logits_of(module: nn.Module, batch: Batch) -> Tensor:
    """What a module in evaluation mode answers."""
    with torch.no_grad():
        return module.eval()(batch.tokens)


# ---- what is measured ----


def optimal_gap(symbols: int, smoothing: float) -> float:
    """ln(1 + K(1 − ε)/ε): the right logit above the others where smoothed cross-entropy is least.

    The softmax must give the right token 1 − ε + ε/K and every other ε/K; the gap is the logarithm of their ratio.
    """
    return math.log(1 + symbols * (1 - smoothing) / smoothing)


def gaps(logits: Tensor, batch: Batch) -> np.ndarray:
    """The right logit above the mean of the others, [row], mean over positions."""
    right = logits.gather(-1, batch.targets[..., None])[..., 0]
    others = (logits.sum(-1) - right) / (logits.shape[-1] - 1)
    return (right - others).mean(1).double().numpy()


def slope_at(gap: float, symbols: int, smoothing: float) -> float:
    """Largest |∂loss/∂logit| of smoothed cross-entropy where the right logit stands `gap` above the others."""
    logits = torch.zeros(1, symbols, dtype=torch.float64)
    logits[0, 0] = gap
    logits.requires_grad_()
    F.cross_entropy(logits, torch.tensor([0]), label_smoothing=smoothing).backward()
    assert logits.grad is not None
    return float(logits.grad.abs().max())


def calibration_error(logits: Tensor, targets: Tensor, bins: int = 10) -> float:
    """Σ over even bins of confidence of (share of answers) · |mean confidence − share right| (Guo et al. 2017, §2)."""
    confidence, guess = (each.flatten() for each in logits.softmax(-1).double().max(-1))
    right = (guess == targets.flatten()).double()
    which = (confidence * bins).long().clamp_max(bins - 1)
    excess = torch.zeros(bins, dtype=torch.float64).index_add(0, which, confidence - right)
    return float(excess.abs().sum() / len(right))


def accuracy(logits: Tensor, batch: Batch) -> float:
    return float((logits.argmax(-1) == batch.targets).double().mean())


def share(successes: np.ndarray) -> Estimate:
    """A share with its score interval (Wilson 1927), which keeps its width where all or none succeed."""
    found = distributions.binomtest(int(successes.sum()), len(successes))
    interval = found.proportion_ci(method="wilson")
    return Estimate(float(successes.mean()), float(interval.low), float(interval.high), len(successes))


def farthest(estimates: list[Estimate]) -> Estimate:
    """The value farthest from 1, inside the lowest and the highest end of all intervals."""
    worst = max(estimates, key=lambda each: abs(each.value - 1))
    return Estimate(worst.value, min(e.low for e in estimates), max(e.high for e in estimates), worst.n)


# ---- the learning rate ----


def peak(schedule: Schedule, steps: int) -> tuple[int | None, float]:
    """The step with the highest rate, None where it is not alone, and that rate."""
    rates = np.array([schedule(step) for step in range(1, steps + 1)])
    top = np.flatnonzero(rates == rates.max())
    return (int(top[0]) + 1 if len(top) == 1 else None), float(rates.max())


def report_schedule(report: Report) -> None:
    """Where the Noam schedule is highest, and how high."""
    report.section("The learning rate")
    cases = [(d, w) for d in (64, 256, 512, 1024) for w in (10, 400, 1000, 4000)]
    found = [peak(noam(d, w), 2 * w) for d, w in cases]
    flat = [peak(constant((d * w) ** -0.5, w), 2 * w)[0] == w for d, w in cases]
    cold = [peak(lambda step, d=d: d**-0.5 * step**-0.5, 2 * w)[1] for d, w in cases]
    report.claim(
        "peak-step",
        f"share of {len(cases)} pairs of d and w at which the rate is highest at step = warm-up, and nowhere else",
        float(np.mean([step == w for (step, _), (_, w) in zip(found, cases, strict=True)])),
        at_least=1.0,
        source=f"{VASWANI}, eq. 3",
        control=float(np.mean(flat)),
        control_text="warm-up to a constant rate, which has no peak",
    )
    heights = np.array([(d * w) ** -0.5 for d, w in cases])
    report.claim(
        "peak-rate",
        "largest relative distance of the highest rate from (d·w)^(−½)",
        float(np.abs([rate for _, rate in found] / heights - 1).max()),
        at_most=1e-12,
        source=f"{VASWANI}, eq. 3",
        control=float(np.abs(cold / heights - 1).min()),
        control_text="d^(−½) · step^(−½) from the first step on",
    )
    steps = np.arange(1, 20_001, 100)
    kinds = {f"d = {d}, warm-up {w}": noam(d, w) for d, w in (PAPER, (512, 8000), (256, 4000))}
    parts = [pd.DataFrame({"step": steps, "rate": [f(int(s)) for s in steps], "schedule": name}) for name, f in kinds.items()]
    table = pd.concat(parts, ignore_index=True)
    report.figure(
        "schedule",
        figures.lines(table, "step", "rate", by="schedule", ylabel="learning rate", ylim=(0, None)),
        data=table,
        caption="The rate rises evenly for w steps, to (d·w)^(−½), and then falls as step^(−½).",
        alt="Three learning rates over 20,000 steps, each with a sharp peak at its warm-up.",
    )


# ---- smoothed labels ----


def report_smoothing(config: Config, report: Report) -> None:
    """The gap that smoothing asks for, in closed form and in models trained with it; and what it does to confidence."""
    report.section("Smoothed labels")
    grid = [(k, e) for k in (2, 10, 1000, 37_000) for e in (0.01, 0.1, 0.5)]
    report.claim(
        "optimum",
        "steepest slope of the smoothed loss where the right logit stands ln(1 + K(1 − ε)/ε) above the others",
        max(slope_at(optimal_gap(k, e), k, e) for k, e in grid),
        at_most=1e-12,
        source="Szegedy et al. 2016, §7, solved for the logits",
        control=min(slope_at(1.05 * optimal_gap(k, e), k, e) for k, e in grid),
        control_text="a gap 5 % larger",
    )
    trained: dict[tuple[int, float], Course] = {}
    last: dict[tuple[int, float], np.ndarray] = {}
    errors: dict[tuple[int, float], float] = {}
    cases = [(k, e) for k in config.vocabularies for e in (0.0, *config.smoothings)]
    for k, e in experiment.progress(cases, "train on smoothed labels"):
        held = reversal(400, k, drawn(config, "held", k))
        module, trained[k, e] = smoothed(config, k, e, held)
        logits = logits_of(module, held)
        last[k, e], errors[k, e] = gaps(logits, held), calibration_error(logits, held.targets)
    claim_gap(config, last, report)
    claim_growth(config, trained, report)
    claim_confidence(config, errors, report)
    report_gaps(config, trained, errors, report)


def smoothed(config: Config, symbols: int, smoothing: float, held: Batch) -> tuple[nn.Module, Course]:
    """A model trained with smoothing, and its mean gap on held-out rows along the way."""
    module = encoder(symbols, stats.torch_seed(config.seed, ID, "smoothed", symbols))
    learner = Learner(module, schedule=noam(32, 100, 0.5), label_smoothing=smoothing)
    rows = drawn(config, "smoothed rows", symbols)
    batches = (reversal(32, symbols, rows) for _ in range(config.smoothing_steps))
    course = fit(
        learner,
        batches,
        evaluations={"gap": lambda: float(gaps(logits_of(module, held), held).mean())},
        every=config.smoothing_steps // 20,
    )
    return module, course


def claim_gap(config: Config, last: dict[tuple[int, float], np.ndarray], report: Report) -> None:
    """Trained gaps over the optimum."""
    over = {(k, e): stats.bootstrap(found / optimal_gap(k, e), seed=config.seed) for (k, e), found in last.items() if e > 0}
    plain = {(k, e): float(last[k, 0.0].mean() / optimal_gap(k, e)) for k, e in over}
    report.claim(
        "gap",
        f"gap of trained models over the optimal one, the farthest of {len(over)} pairs of K and ε",
        farthest(list(over.values())),
        between=(0.95, 1.05),
        source="the closed form; 5 %",
        control=min(plain.values(), key=lambda each: abs(each - 1)),
        control_text="trained without smoothing, the nearest",
    )


def claim_growth(config: Config, trained: dict[tuple[int, float], Course], report: Report) -> None:
    """Without smoothing the loss has no lowest point, so the gap goes on growing."""
    late = {}
    for case, course in trained.items():
        found = course.evaluations["gap"]
        late[case] = found[config.smoothing_steps] / found[config.smoothing_steps // 2]
    report.claim(
        "growth",
        "without smoothing, gap at the end of training over that at half of it, the least over K",
        min(ratio for (_, e), ratio in late.items() if e == 0),
        at_least=1.1,
        source=OURS,
        control=max(ratio for (_, e), ratio in late.items() if e > 0),
        control_text="with smoothing, the largest",
    )


def claim_confidence(config: Config, errors: dict[tuple[int, float], float], report: Report) -> None:
    """A smoothed model is never surer than its labels, also where it is always right."""
    over = {(k, e): error / (e * (1 - 1 / k)) for (k, e), error in errors.items() if e > 0}
    plain = {(k, e): errors[k, 0.0] / (e * (1 - 1 / k)) for k, e in over}
    report.claim(
        "underconfident",
        "calibration error of smoothed models that are always right, over ε(1 − 1/K), the farthest from 1",
        max(over.values(), key=lambda each: abs(each - 1)),
        between=(0.9, 1.1),
        source="the closed form; 10 %",
        control=max(plain.values()),
        control_text="trained without smoothing, the largest",
    )


def report_gaps(
    config: Config, trained: dict[tuple[int, float], Course], errors: dict[tuple[int, float], float], report: Report
) -> None:
    """Every trained gap beside its optimum, and its course for the largest K."""
    rows = [
        {
            "K": k,
            "ε": e,
            "optimal gap": optimal_gap(k, e) if e > 0 else math.inf,
            "trained gap": course.evaluations["gap"][config.smoothing_steps],
            "calibration error": errors[k, e],
            "ε(1 − 1/K)": e * (1 - 1 / k),
        }
        for (k, e), course in trained.items()
    ]
    report.table("gaps", rows, caption="Gap in nats and calibration error after training, on rows never trained on.")
    largest = max(config.vocabularies)
    parts = [
        pd.DataFrame({"step": list(found), "gap": list(found.values()), "labels": named(largest, e)})
        for (k, e), course in trained.items()
        if k == largest
        for found in [course.evaluations["gap"]]
    ]
    table = pd.concat(parts, ignore_index=True)
    report.figure(
        "gaps",
        figures.lines(table, "step", "gap", by="labels", ylabel="gap, nats", ylim=(0, 1.5 * table["gap"].max())),
        data=table,
        caption=f"The right logit above the others over training, for K = {largest}. Smoothed, it rests at the optimum.",
        alt="Curves of the logit gap: those with smoothing level off at their optima, the one without keeps rising.",
    )


def named(symbols: int, smoothing: float) -> str:
    return f"ε = {smoothing:g}, optimum {optimal_gap(symbols, smoothing):.2f}" if smoothing else "not smoothed"


# ---- dropout ----


def report_dropout(config: Config, report: Report) -> None:
    """What dropout does to one number: the mean stays, the variance is q/(1 − q) of its square."""
    report.section("Dropout")
    means, spreads, raw_means, raw_spreads = [], [], [], []
    for q in config.drops:
        part = Dropout(q).train()
        part.generator = drawn(config, "dropout", str(q))
        ratios = part(torch.ones(4000, 300, dtype=torch.float64))
        undivided = ratios * (1 - q)
        ideal = q / (1 - q)
        means.append(stats.bootstrap(ratios.mean(0).numpy(), seed=config.seed))
        spreads.append(stats.bootstrap(ratios.var(0).numpy() / ideal, seed=config.seed))
        raw_means.append(float(undivided.mean()))
        raw_spreads.append(float(undivided.var(0).mean()) / ideal)
    for slug, text, found, raw in (
        ("dropout-mean", "mean of a number under dropout over the number itself", means, raw_means),
        ("dropout-variance", "its variance over q/(1 − q) times its square", spreads, raw_spreads),
    ):
        report.claim(
            slug,
            f"{text}, the farthest from 1 of q = {', '.join(map(str, config.drops))}",
            farthest(found),
            between=(0.98, 1.02),
            source="Srivastava et al. 2014, §10, divided in training",
            control=max(raw),
            control_text="without the division by 1 − q, the nearest",
        )
    rows = [
        {"q": q, "mean": mean.value, "variance": spread.value * q / (1 - q), "q/(1 − q)": q / (1 - q)}
        for q, mean, spread in zip(config.drops, means, spreads, strict=True)
    ]
    report.table("dropout", rows, caption="Mean and variance of a 1 under dropout.")


# ---- too few rows ----

FEW: dict[str, dict[str, Any]] = {"plain": {}, "dropout 0.3": {"dropout": 0.3}, "smoothing 0.1": {"label_smoothing": 0.1}}
SYMBOLS = 16


def report_few(config: Config, report: Report) -> None:
    """Dropout and smoothing where a model can learn its rows by heart."""
    report.section("Too few rows")
    cases = [(name, seed) for name in FEW for seed in range(config.few_seeds)]
    table = pd.DataFrame([by_heart(config, *case) for case in experiment.progress(cases, "train on few rows")])
    claim_regularised(config, table, "gap-of-losses", "dropout 0.3", "test loss − training loss", 0.75, report)
    claim_regularised(config, table, "overconfident", "smoothing 0.1", "calibration error", 0.5, report)
    text = f"{config.few} training rows, {config.few_seeds} models of each kind"
    kinds = {name: table[table["model"] == name] for name in FEW}
    measures = ("training loss", "test loss", "test accuracy")
    means = [{"model": name} | {each: float(part[each].mean()) for each in measures} for name, part in kinds.items()]
    report.table("few", means, caption=f"{text}: means. Losses in nats, without smoothing.")
    for slug, measure, unit in (
        ("gap-of-losses", "test loss − training loss", ", nats"),
        ("calibration", "calibration error", ""),
    ):
        found = {name: stats.bootstrap(part[measure], seed=config.seed) for name, part in kinds.items()}
        bars = pd.DataFrame([{"model": name, measure: e.value, "low": e.low, "high": e.high} for name, e in found.items()])
        report.figure(
            slug,
            figures.bars(bars, "model", measure, low="low", high="high", xlabel=measure + unit),
            data=bars,
            caption=f"{text}: {measure}, mean with its 95 % interval.",
            alt=f"Bars of the {measure} for plain models, with dropout and with smoothing; the plain one is longest.",
        )


def by_heart(config: Config, name: str, seed: int) -> dict[str, Any]:
    """A model trained over and over on the same few rows."""
    options = dict(FEW[name])
    rows = drawn(config, "few", seed)
    given, held = reversal(config.few, SYMBOLS, rows), reversal(400, SYMBOLS, rows)
    module = encoder(SYMBOLS, stats.torch_seed(config.seed, ID, "few", seed), dropout=options.pop("dropout", 0.0))
    fit(Learner(module, schedule=noam(32, 100, 0.5), seed=seed, **options), [given] * config.few_steps)
    losses = [float(F.cross_entropy(logits_of(module, b).flatten(0, 1), b.targets.flatten())) for b in (given, held)]
    found = logits_of(module, held)
    return {
        "model": name,
        "seed": seed,
        "training loss": losses[0],
        "test loss": losses[1],
        "test loss − training loss": losses[1] - losses[0],
        "test accuracy": accuracy(found, held),
        "calibration error": calibration_error(found, held.targets),
    }


def claim_regularised(
    config: Config, table: pd.DataFrame, slug: str, name: str, measure: str, target: float, report: Report
) -> None:
    """A measure with one part of the recipe over that of plain models of the same seeds."""
    of = {each: part[measure].to_numpy() for each, part in table.groupby("model")}
    half = config.few_seeds // 2
    report.claim(
        slug,
        f"{measure} on unseen rows with {name}, over that of plain models",
        stats.ratio(of[name], of["plain"], seed=config.seed),
        at_most=target,
        source=OURS,
        control=float(of["plain"][:half].mean() / of["plain"][half:].mean()),
        control_text="one half of the plain models over the other",
    )


# ---- clipping ----


def report_clipping(config: Config, report: Report) -> None:
    """A clipped gradient is the same gradient, shorter."""
    batch = reversal(32, SYMBOLS, drawn(config, "clipped"))
    whole = gradient(config, batch, None)
    sizes = [float(whole.norm()) * part for part in (0.01, 0.1, 0.5, 2.0)]
    ideal = {size: whole * min(1.0, size / float(whole.norm())) for size in sizes}
    report.claim(
        "clipping",
        "largest relative distance of the clipped gradient from g · min(1, c/‖g‖)",
        max(float((gradient(config, batch, c) - g).norm() / g.norm()) for c, g in ideal.items()),
        at_most=1e-4,
        source="Pascanu et al. 2013, algorithm 1",
        control=min(float((by_value(whole, c) - g).norm() / g.norm()) for c, g in ideal.items() if c < whole.norm()),
        control_text="each number of it cut instead, to the same norm, the nearest",
    )


def gradient(config: Config, batch: Batch, clip: float | None) -> Tensor:
    """The gradient, flat, that a fresh deep post-LN model's first step is made with."""
    module = encoder(SYMBOLS, stats.torch_seed(config.seed, ID, "clipped"), n_layers=config.layers)
    Learner(module, schedule=constant(1e-3), clip=clip).step(batch)
    return torch.cat([each.grad.flatten() for each in module.parameters() if each.grad is not None])


def by_value(whole: Tensor, norm: float) -> Tensor:
    """The gradient with its largest numbers cut at one bound, such that it has the norm; the bound is found by bisection."""
    low, high = 0.0, float(whole.abs().max())
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if float(whole.clamp(-middle, middle).norm()) < norm else (low, middle)
    return whole.clamp(-high, high)


# ---- warm-up ----

LEARNED = 0.9
"""Accuracy on unseen rows from which a model counts as having learnt."""
ARMS: dict[str, dict[str, Any]] = {
    "post-LN, warm-up": {"norm": "post", "warm": True},
    "post-LN, no warm-up": {"norm": "post", "warm": False},
    "post-LN, no warm-up, clipped": {"norm": "post", "warm": False, "clip": 1.0},
    "pre-LN, warm-up": {"norm": "pre", "warm": True},
    "pre-LN, no warm-up": {"norm": "pre", "warm": False},
}


def report_warmup(config: Config, report: Report) -> None:
    """Deep models with the norm after or before, with and without warm-up, at one high learning rate."""
    cases = list(warmup_cases(config))
    found = [
        (arm, rate, seed, *learn(config, arm, rate, seed)) for arm, rate, seed in experiment.progress(cases, "train deep models")
    ]
    table = pd.DataFrame(found, columns=["model", "rate", "seed", "accuracy", "losses"])
    table["learnt"] = table["accuracy"] >= LEARNED
    shares = {
        (arm, rate): share(table.loc[(table["model"] == arm) & (table["rate"] == rate), "learnt"].to_numpy())
        for rate in (config.rate, *config.other_rates)
        for arm in ARMS
    }
    at = {arm: shares[arm, config.rate] for arm in ARMS}
    text = f"{config.layers}-layer models that learn in {config.steps} steps at rate {config.rate:g}"
    wanted: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
        ("post-with", "post-LN, warm-up", "post-LN, no warm-up", {"at_least": 0.5}),
        ("post-without", "post-LN, no warm-up", "pre-LN, no warm-up", {"at_most": 0.5}),
        ("pre-without", "pre-LN, no warm-up", "post-LN, no warm-up", {"at_least": 0.5}),
    )
    for slug, arm, other, target in wanted:
        report.claim(
            slug,
            f"share of {text}: {arm}",
            at[arm],
            **target,
            source=f"{XIONG}, §3.1",
            control=at[other],
            control_text=other,
        )
    rows = [
        {"model": arm, "rate": rate, "learnt": e.value, "low": e.low, "high": e.high, "models": e.n}
        for (arm, rate), e in shares.items()
    ]
    report.table("warmup", rows, caption=f"Models that get {LEARNED:.0%} of unseen symbols right, with score intervals.")
    report_courses(config, table, report)


def warmup_cases(config: Config) -> Iterator[tuple[str, float, int]]:
    """What is trained: kind of model, learning rate, seed."""
    for rate in (config.rate, *config.other_rates):
        for arm in ARMS:
            for seed in range(config.seeds if rate == config.rate else config.other_seeds):
                yield arm, rate, seed


def learn(config: Config, arm: str, rate: float, seed: int) -> tuple[float, tuple[float, ...]]:
    """A deep model's accuracy on unseen rows after training, and its losses along the way."""
    options = ARMS[arm]
    module = encoder(SYMBOLS, stats.torch_seed(config.seed, ID, "deep", seed), norm=options["norm"], n_layers=config.layers)
    schedule = constant(rate, config.warmup if options["warm"] else 1)
    rows = drawn(config, "deep rows", seed)
    held = reversal(200, SYMBOLS, rows)
    batches = (reversal(32, SYMBOLS, rows) for _ in range(config.steps))
    course = fit(Learner(module, schedule=schedule, clip=options.get("clip")), batches)
    return accuracy(logits_of(module, held), held), course.losses


def report_courses(config: Config, table: pd.DataFrame, report: Report) -> None:
    """Losses along training at the common rate."""
    parts = []
    for arm, part in table[table["rate"] == config.rate].groupby("model", sort=False):
        low, middle, high = np.quantile(np.stack(part["losses"].tolist()), (0.25, 0.5, 0.75), axis=0)
        parts.append(pd.DataFrame({"step": np.arange(len(middle)) + 1, "loss": middle, "low": low, "high": high, "model": arm}))
    courses = pd.concat(parts, ignore_index=True)
    report.figure(
        "courses",
        figures.lines(courses, "step", "loss", by="model", low="low", high="high", ylabel="loss, nats", ylim=(0, 6)),
        data=courses,
        caption=f"Training loss, median and quartiles of {config.seeds} models. A guess costs {math.log(SYMBOLS):.2f}.",
        alt="Loss curves: post-LN models without warm-up stay at guessing, all others fall to zero.",
    )


if __name__ == "__main__":
    experiment.main(Config, run)
