"""What does each part of the training recipe do? (Vaswani et al. 2017, arXiv:1706.03762, §5.3–5.4; Xiong 2020, arXiv:2002.04745)

A rising and falling learning rate, smoothed labels, dropout, clipped gradients: each has a property that can be computed. Small
encoders that learn to write rows of symbols in reverse show two of them at work: smoothing asks for the right logit to stand
ln(1 + K(1 − ε)/ε) above all others, and a deep model with the norm after every sublayer needs a warm-up at a learning rate at
which one with the norm before does not. Weights kept on the way show what a model learns when.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy import stats as distributions
from torch import Tensor, nn

from interp import experiment, figures, stats
from interp.models.batches import Batch
from interp.models.courses import Curves, measured
from interp.models.dropout import geometric_mean, squared_error
from interp.models.evaluations import accuracy, calibration_error, gaps, optimal_gap, right
from interp.models.hooked import Edit, Model
from interp.models.training import Course, Learner, Schedule, constant, evenly, fit, noam
from interp.models.transformer import TransformerConfig, transformer
from interp.report import Report
from interp.stats import Estimate

ID = "E07"


@dataclass(frozen=True, kw_only=True)
class Config:
    vocabularies: tuple[int, ...] = (8, 16, 32)  # K, the tokens that smoothing spreads over
    smoothings: tuple[float, ...] = (0.05, 0.1, 0.3)  # ε
    smoothing_steps: int = 600  # training of each model on smoothed labels
    checkpoints: int = 31  # weights kept along it
    drops: tuple[float, ...] = (0.1, 0.3, 0.5)  # q, the share that dropout takes
    layers: int = 4  # of the models that are trained with and without warm-up
    rate: float = 0.015  # their learning rate, after warm-up where there is one
    other_rates: tuple[float, ...] = (0.003, 0.03)  # rates at which a few are trained beside
    warmup: int = 40  # steps
    steps: int = 150  # their training
    seeds: int = 8  # models of each kind at `rate`
    other_seeds: int = 2  # … at the other rates
    seed: int = 0


QUICK = {"vocabularies": (16,), "smoothings": (0.1,), "smoothing_steps": 400, "other_rates": (), "steps": 80, "seeds": 4}

VASWANI, XIONG, OURS = "Vaswani et al. 2017", "Xiong et al. 2020", "target of this report"
LENGTH, SYMBOLS = 6, 16  # symbols of a row, and how many there are where nothing else is said
MASKED = 10  # numbers that dropout acts on where all its masks, 2 to this power, are tried


def run(config: Config, report: Report) -> None:
    report_schedule(report)
    report_smoothing(config, report)
    report_dropout(config, report)
    report.section("Clipped gradients and warm-up")
    report_clipping(config, report)
    report_warmup(config, report)
    report.text(
        "What would have shown this false: trained models that stand off the gap; a gap without smoothing that comes to rest; "
        "post-LN models that learn as well without a warm-up as with one."
    )


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
    return stats.torch_generator(config.seed, ID, *purpose)


# ---- the learning rate ----


def peaks(schedule: Schedule, d: int, warmup: int) -> bool:
    """Whether the rate is highest at the end of warm-up and nowhere else, and there (d·w)^(−½)."""
    rates = np.array([schedule(step) for step in range(1, 2 * warmup + 1)])
    return np.flatnonzero(rates == rates.max()).tolist() == [warmup - 1] and abs(rates.max() * (d * warmup) ** 0.5 - 1) < 1e-12


def report_schedule(report: Report) -> None:
    """Where the Noam schedule is highest, and how high."""
    report.section("The learning rate")
    cases = [(d, w) for d in (64, 256, 512, 1024) for w in (10, 400, 1000, 4000)]
    flat = [peaks(constant((d * w) ** -0.5, w), d, w) for d, w in cases]
    cold = [peaks(lambda step, d=d: d**-0.5 * step**-0.5, d, w) for d, w in cases]
    report.claim(
        "peak",
        f"share of {len(cases)} pairs of d and w at which the rate is highest at step = w alone, and there (d·w)^(−½) to 1e-12",
        float(np.mean([peaks(noam(d, w), d, w) for d, w in cases])),
        at_least=1.0,
        source=f"{VASWANI}, eq. 3",
        control=float(np.mean([flat, cold])),
        control_text="warm-up to a constant rate, and d^(−½) · step^(−½) from the first step on",
    )
    steps = np.arange(1, 20_001, 100)
    kinds = {f"d = {d}, warm-up {w}": noam(d, w) for d, w in ((512, 4000), (512, 8000), (256, 4000))}
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


@dataclass(frozen=True)
class Smoothed:
    """A model trained on labels smoothed by ε over K tokens, its course, and its answers to rows never trained on."""

    k: int
    e: float
    model: Model
    course: Course
    held: Batch
    logits: Float[Tensor, "row pos d_vocab"]

    @property
    def over(self) -> Float[np.ndarray, " row"]:
        """Its gap on each row over the optimal one."""
        return gaps(self.logits, self.held).unflatten(0, (-1, LENGTH)).mean(1).double().numpy() / optimal_gap(self.k, self.e)


def smoothed(config: Config, k: int, e: float) -> Smoothed:
    module = encoder(k, stats.torch_seed(config.seed, ID, "smoothed", k))
    learner = Learner(module, schedule=noam(32, 100, 0.5), label_smoothing=e)
    held, rows, steps = reversal(400, k, drawn(config, "held", k)), drawn(config, "smoothed rows", k), config.smoothing_steps
    course = fit(
        learner,
        (reversal(32, k, rows) for _ in range(steps)),
        checkpoints=evenly(steps, config.checkpoints),
        evaluations={"gap": lambda: float(gaps(learner.logits(held), held).mean())},
        every=steps // 20,
    )
    return Smoothed(k, e, Model.wrap(module), course, held, learner.logits(held))


def slope_at(gap: float, symbols: int, smoothing: float) -> float:
    """Largest |∂loss/∂logit| of smoothed cross-entropy where the right logit stands `gap` above the others."""
    logits = (gap * F.one_hot(torch.tensor([0]), symbols).double()).requires_grad_()
    loss = F.cross_entropy(logits, torch.tensor([0]), label_smoothing=smoothing)
    return float(torch.autograd.grad(loss, logits)[0].abs().max())


def report_optimum(report: Report) -> None:
    """Where the smoothed loss is least."""
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


def report_smoothing(config: Config, report: Report) -> None:
    """The gap that smoothing asks for, in closed form and in models trained with it; and what it does to confidence."""
    report.section("Smoothed labels")
    report_optimum(report)
    cases = [(k, e) for k in config.vocabularies for e in (0.0, *config.smoothings)]
    found = [smoothed(config, k, e) for k, e in experiment.progress(cases, "train on smoothed labels")]
    claim_gaps([each for each in found if each.e], {each.k: each for each in found if not each.e}, config, report)
    rows = [
        {"K": each.k, "ε": each.e, "optimal gap": optimal_gap(each.k, each.e), "gap": float(gaps(each.logits, each.held).mean())}
        | {"calibration error": calibration_error(each.logits, each.held), "ε(1 − 1/K)": each.e * (1 - 1 / each.k)}
        for each in found
    ]
    report.table("gaps", rows, caption="Gap in nats and calibration error after training, on rows never trained on.")
    largest = [each for each in found if each.k == max(config.vocabularies)]
    report_gaps(largest, report)
    report_checkpoints(config, largest[1], report)


def claim_gaps(with_it: list[Smoothed], without: dict[int, Smoothed], config: Config, report: Report) -> None:
    """Trained gaps rest at the optimum; without smoothing there is none, and the gap goes on growing."""
    estimates = [stats.bootstrap(each.over, seed=config.seed) for each in with_it]
    worst = max(estimates, key=lambda each: abs(each.value - 1))
    courses = [[list(each.course.evaluations["gap"].values()) for each in some] for some in (with_it, without.values())]
    resting, growing = ([curve[-1] / curve[len(curve) // 2] for curve in some] for some in courses)
    plain = [float(replace(without[each.k], e=each.e).over.mean()) for each in with_it]
    report.claim(
        "gap",
        f"gap of trained models over the optimal one, the farthest of {len(with_it)} pairs of K and ε",
        Estimate(worst.value, min(each.low for each in estimates), max(each.high for each in estimates), worst.n),
        between=(0.95, 1.05),
        source="the closed form; 5 %",
        control=min(plain, key=lambda each: abs(each - 1)),
        control_text="trained without smoothing, the nearest",
    )
    report.claim(
        "growth",
        "without smoothing, gap at the end of training over that at half of it, the least over K",
        min(growing),
        at_least=1.1,
        source=OURS,
        control=max(resting),
        control_text="with smoothing, the largest",
    )


def report_gaps(found: list[Smoothed], report: Report) -> None:
    """Gaps along training."""
    names = [f"ε = {each.e:g}, optimum {optimal_gap(each.k, each.e):.2f}" if each.e else "not smoothed" for each in found]
    curves = [pd.Series(each.course.evaluations["gap"], name="gap").rename_axis("step").reset_index() for each in found]
    table = pd.concat([curve.assign(labels=name) for name, curve in zip(names, curves, strict=True)], ignore_index=True)
    report.figure(
        "gaps",
        figures.lines(table, "step", "gap", by="labels", ylabel="gap, nats", ylim=(0, 1.5 * table["gap"].max())),
        data=table,
        caption=f"The right logit above the others over training, K = {found[0].k}. Smoothed, it rests at the optimum.",
        alt="Curves of the logit gap: those with smoothing level off at their optima, the one without keeps rising.",
    )


def report_checkpoints(config: Config, study: Smoothed, report: Report) -> None:
    """What weights kept along training show: answers come right when a head looks where the symbol stands."""
    curves = measured(study.model, study.course.states, lambda model: looking(model, study.held))
    ratios = {name: curves.ratio_of_falls(name, "answers wrong", seed=config.seed) for name in curves.values}
    report.claim(
        "checkpoints",
        "step at which attention away from the symbol to be written is half fallen, over that of the share of wrong answers",
        ratios["attention off the symbol"],
        between=(0.8, 1.25),
        source=OURS,
        control=ratios["attention off its neighbour"],
        control_text="attention away from the place beside it",
    )
    table = curves.table({name: name for name in curves.values}, "share")
    report.figure(
        "checkpoints",
        figures.lines(table, "step", "share", by="measure", ylim=(0, 1.02)),
        data=table,
        caption=f"Measured on weights kept at {len(curves.steps)} steps (K = {study.k}, ε = {study.e:g}): wrong "
        "answers, and attention that no head gives the place of the symbol to be written, or the place beside it.",
        alt="Wrong answers and attention off the symbol fall together; attention off its neighbour rises.",
    )


def looking(model: Model, held: Batch, *, edits: Sequence[Edit] = ()) -> dict[str, Float[np.ndarray, " row"]]:
    """What a model gets wrong, and how much of its attention the head that looks there most does not give to two places."""
    hook, rows = "blocks.0.attn.hook_pattern", torch.arange(LENGTH)
    found = model.run(held.tokens, read=[hook], edits=edits, logits=True)
    missed = {"answers wrong": (~right(found.logits, held)).unflatten(0, (-1, LENGTH))}
    for name, key in (("attention off the symbol", rows.flip(0)), ("attention off its neighbour", rows.flip(0).roll(1))):
        missed[name] = 1 - found.activations[hook].amax(1)[:, rows, key]
    return {name: each.double().mean(1).numpy() for name, each in missed.items()}


# ---- dropout ----


def report_dropout(config: Config, report: Report) -> None:
    """What dropout makes of a layer's answer and of what it learns, exactly; and that it ends with training."""
    report.section("Dropout")
    laws = pd.DataFrame([under_all_masks(config, q) for q in config.drops])
    report.table("dropout", laws, caption=f"Means over all masks of {MASKED} numbers against what is due without dropout.")
    report.claim(
        "dropout-ensemble",
        "answer of a softmax layer without dropout: largest difference from the geometric mean of its answers under all masks",
        laws["difference, one layer"].max(),
        at_most=1e-12,
        source="Hinton et al. 2012 (arXiv:1207.0580)",
        control=laws["difference, two layers"].min(),
        control_text="with a hidden layer between, where it is near but not equal",
    )
    report.claim(
        "dropout-penalty",
        "squared error of a linear layer, mean over all masks, over squared error without dropout + q/(1 − q) Σ w_i² x_i²",
        laws["squared error / law"].iloc[np.abs(laws["squared error / law"] - 1).argmax()],
        equals=1.0,
        tolerance=1e-12,
        source="Srivastava et al. 2014, §9.1",
        control=laws["squared error / that without dropout"].min(),
        control_text="without the second term, the nearest",
    )
    batch = reversal(50, SYMBOLS, drawn(config, "dropped rows"))
    on, off = (Learner(encoder(SYMBOLS, config.seed, dropout=q), schedule=constant(1e-3)) for q in (0.3, 0.0))
    answers = off.logits(batch)
    report.claim(
        "dropout-off",
        "largest difference of a model's logits in evaluation from those of the same weights without dropout",
        float((on.logits(batch) - answers).abs().max()),
        at_most=0.0,
        source="Srivastava et al. 2014, §10",
        control=float((on.module.train()(batch.tokens) - answers).abs().max().detach()),
        control_text="in training",
    )


def under_all_masks(config: Config, q: float) -> dict[str, float]:
    """Two laws of dropout: of one softmax layer (and one behind a hidden layer), and of one linear output."""
    random = drawn(config, "masks", str(q))
    x, y, w, out = (torch.randn(s, generator=random, dtype=torch.float64) for s in ((MASKED,), (), (MASKED, 8), (8, 5)))

    def difference(logits: Callable[[Tensor], Tensor]) -> float:
        return float((geometric_mean(logits, x, q) - logits(x).softmax(-1)).abs().max())

    mean, plain = squared_error(w[:, 0], x, float(y), q), float((x @ w[:, 0] - y).square())
    return {
        "q": q,
        "difference, one layer": difference(lambda rows: rows @ w),
        "difference, two layers": difference(lambda rows: (rows @ w).relu() @ out),
        "squared error / law": mean / (plain + q / (1 - q) * float((w[:, 0] * x).square().sum())),
        "squared error / that without dropout": mean / plain,
    }


# ---- clipping ----


def report_clipping(config: Config, report: Report) -> None:
    """A clipped gradient is the same gradient, shorter."""
    batch = reversal(32, SYMBOLS, drawn(config, "clipped"))
    whole = gradient(config, batch, None)
    sizes = [float(whole.norm()) * part for part in (0.01, 0.1, 0.5, 2.0)]
    ideal = {size: whole * min(1.0, size / float(whole.norm())) for size in sizes}
    numbers = {c: whole.clamp(-c / len(whole) ** 0.5, c / len(whole) ** 0.5) for c in sizes}
    report.claim(
        "clipping",
        "largest relative distance of the clipped gradient from g · min(1, c/‖g‖)",
        max(float((gradient(config, batch, c) - g).norm() / g.norm()) for c, g in ideal.items()),
        at_most=1e-4,
        source="Pascanu et al. 2013, algorithm 1",
        control=min(float((numbers[c] - g).norm() / g.norm()) for c, g in ideal.items()),
        control_text="each number of it cut instead, at the bound that keeps any gradient as short, the nearest",
    )


def gradient(config: Config, batch: Batch, clip: float | None) -> Tensor:
    """The gradient, flat, that a fresh deep post-LN model's first step is made with."""
    module = encoder(SYMBOLS, stats.torch_seed(config.seed, ID, "clipped"), n_layers=config.layers)
    Learner(module, schedule=constant(1e-3), clip=clip).step(batch)
    return torch.cat([each.grad.flatten() for each in module.parameters() if each.grad is not None])


# ---- warm-up ----

LEARNED = 0.9  # accuracy on unseen rows from which a model counts as having learnt
ARMS: dict[str, dict[str, Any]] = {
    "post-LN, warm-up": {"norm": "post", "warm": True},
    "post-LN, no warm-up": {"norm": "post", "warm": False},
    "post-LN, no warm-up, clipped": {"norm": "post", "warm": False, "clip": 1.0},
    "pre-LN, warm-up": {"norm": "pre", "warm": True},
    "pre-LN, no warm-up": {"norm": "pre", "warm": False},
}


def report_warmup(config: Config, report: Report) -> None:
    """Deep models with the norm after or before, with and without warm-up, at one high learning rate."""
    rates = [(config.rate, config.seeds), *((rate, config.other_seeds) for rate in config.other_rates)]
    cases = [(arm, rate, seed) for rate, seeds in rates for arm in ARMS for seed in range(seeds)]
    found = [(*case, *learn(config, *case)) for case in experiment.progress(cases, "train deep models")]
    table = pd.DataFrame(found, columns=["model", "rate", "seed", "accuracy", "losses"])
    shares = {
        (arm, rate): share(table.loc[(table["model"] == arm) & (table["rate"] == rate), "accuracy"] >= LEARNED)
        for rate, _ in rates
        for arm in ARMS
    }
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
            shares[arm, config.rate],
            **target,
            source=f"{XIONG}, §3.1",
            control=shares[other, config.rate],
            control_text=other,
        )
    rows = [
        {"model": arm, "rate": rate, "learnt": e.value, "low": e.low, "high": e.high, "models": e.n}
        for (arm, rate), e in shares.items()
    ]
    report.table("warmup", rows, caption=f"Models that get {LEARNED:.0%} of unseen symbols right, with score intervals.")
    report_courses(config, table.loc[table["rate"] == config.rate], report)


def share(holds: pd.Series) -> Estimate:
    """A share with its score interval (Wilson 1927), which keeps its width where all or none hold."""
    found = distributions.binomtest(int(holds.sum()), len(holds))
    interval = found.proportion_ci(method="wilson")
    return Estimate(float(holds.mean()), float(interval.low), float(interval.high), len(holds))


def learn(config: Config, arm: str, rate: float, seed: int) -> tuple[float, tuple[float, ...]]:
    """A deep model's accuracy on unseen rows after training, and its losses along the way."""
    options, rows = ARMS[arm], drawn(config, "deep rows", seed)
    module = encoder(SYMBOLS, stats.torch_seed(config.seed, ID, "deep", seed), norm=options["norm"], n_layers=config.layers)
    learner = Learner(module, schedule=constant(rate, config.warmup if options["warm"] else 1), clip=options.get("clip"))
    held = reversal(200, SYMBOLS, rows)
    course = fit(learner, (reversal(32, SYMBOLS, rows) for _ in range(config.steps)))
    return accuracy(learner.logits(held), held), course.losses


def report_courses(config: Config, table: pd.DataFrame, report: Report) -> None:
    """Losses along training."""
    losses = {str(arm): np.stack(part["losses"].tolist()) for arm, part in table.groupby("model", sort=False)}
    means = Curves(np.arange(1, config.steps + 1, dtype=float), losses).table({arm: arm for arm in losses}, "loss", "model")
    report.figure(
        "courses",
        figures.lines(means, "step", "loss", by="model", ylabel="loss, nats", ylim=(0, 5)),
        data=means,
        caption=f"Training loss, mean of {config.seeds} models of each kind. A guess costs {math.log(SYMBOLS):.2f}.",
        alt="Loss curves: post-LN models without warm-up stay at guessing, all others fall to zero.",
    )


if __name__ == "__main__":
    experiment.main(Config, run)
