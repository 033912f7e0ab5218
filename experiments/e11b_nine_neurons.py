"""How few neurons add modulo p? (after Gromov 2023, arXiv:2301.02679)

Neurons that square the sum of two waves add exactly when their phases are arranged so that all else cancels; nine are enough.
With phases drawn at random even thousands err. Trained neurons of the same kind keep the law by which the closed form is built:
each writes at the sum of the phases at which it reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from interp import experiment, figures, stats
from interp.mlp import fourier
from interp.models.closed_forms_modular import QuadraticMlp, adder, drawn, grid
from interp.models.hooked import Edit, Model
from interp.report import Report
from interp.tasks.answered import Answered
from interp.tasks.modular import additions, split

ID = "E11b"
SOURCE = "Gromov 2023, §3"
OWN = "target of this report"
OWN_FREQUENCY = 0.85  # share of what a neuron writes from which it counts as one of a single frequency; as in E11


@dataclass(frozen=True, kw_only=True)
class Config:
    moduli: tuple[int, ...] = (23, 59, 97, 113)  # primes on which the closed form is tested
    seeds: int = 20  # frequencies of the closed form, and draws of random phases
    p: int = 59  # of everything else
    widths: tuple[int, ...] = (9, 30, 100, 300, 1000, 3000)  # of networks with random phases
    share: float = 0.5  # of the table that the trained network sees
    trained_width: int = 128
    steps: int = 600
    learning_rate: float = 0.01
    weight_decay: float = 1.0
    seed: int = 0


QUICK = {"moduli": (23, 59), "widths": (9, 30, 100, 300, 1000)}


def run(config: Config, report: Report) -> None:
    report_closed_form(config, report)
    report_ablation(config, report)
    report_random(config, report)
    with experiment.stage("train"):
        report_trained(config, report)
    report.text(
        "What would have shown this false: one wrong sum, or logits that are not one wave of a + b − c; nine random phases that "
        "do as well; trained neurons that write at phases of their own."
    )


# ---- what a network says ----


def answer_logits(model: Model, p: int, *, edits: tuple[Edit, ...] = ()) -> Float[Tensor, "p p p"]:
    """Logits [a b c] of every answer to every sum."""
    return model.run(additions(p).tokens[:, :2], edits=edits).logits.unflatten(0, (p, p))


def accuracy(logits: Float[Tensor, "p p p"]) -> float:
    """Share of all sums whose answer has the largest logit."""
    p = len(logits)
    return float((logits.flatten(0, 1).argmax(1) == additions(p).answers).double().mean())


def frequencies(config: Config, p: int) -> list[int]:
    """One frequency for every seed."""
    return (1 + torch.randint(p // 2, (config.seeds,), generator=stats.torch_generator(config.seed, "frequencies", p))).tolist()


# ---- the closed form ----


def report_closed_form(config: Config, report: Report) -> None:
    """Nine neurons add without error, whatever the frequency."""
    report.section("Nine neurons")
    right, explained = [], []
    for p in config.moduli:
        for frequency in frequencies(config, p):
            logits = answer_logits(adder(p, frequency, grid()), p)
            right.append(accuracy(logits))
            explained.append(fourier.explained(logits, [frequency]))
    by_chance = [random_adder(config, 9, number) for number in range(config.seeds)]
    where = f"p = {', '.join(map(str, config.moduli))} at {config.seeds} frequencies each"
    report.claim(
        "accuracy",
        f"share of all sums right, the least over {where}",
        min(right),
        at_least=1.0,
        source=SOURCE,
        control=max(each[0] for each in by_chance),
        control_text=f"phases drawn at random, the best of {config.seeds} draws (p = {config.p})",
    )
    report.claim(
        "explained",
        "share of the logits' variance that α cos(w (a + b − c)) explains, the least of them",
        min(explained),
        equals=1.0,
        tolerance=1e-6,
        source="closed form",
        control=max(each[1] for each in by_chance),
        control_text="phases drawn at random, the best",
    )


def random_adder(config: Config, width: int, number: int) -> tuple[float, float]:
    """Accuracy and explained share of a network whose phases are drawn at random."""
    frequency = frequencies(config, config.p)[number]
    phases = drawn(width, generator=stats.torch_generator(config.seed, "phases", width, number))
    logits = answer_logits(adder(config.p, frequency, phases), config.p)
    return accuracy(logits), fourier.explained(logits, [frequency])


def report_ablation(config: Config, report: Report) -> None:
    """All nine are needed: without one, what it cancelled is left over."""
    frequency = frequencies(config, config.p)[0]
    model = adder(config.p, frequency, grid())
    rows = []
    for neuron in range(9):
        logits = answer_logits(model, config.p, edits=(silenced(neuron),))
        share = fourier.explained(logits, [frequency])
        rows.append({"neuron": str(neuron), "right": accuracy(logits), "explained": share})
    table, whole = pd.DataFrame(rows), answer_logits(model, config.p)
    report.claim(
        "one-less",
        "without one neuron: explained share, the farthest from 8/9 of nine",
        max((float(each) for each in table["explained"]), key=lambda each: abs(each - 8 / 9)),
        equals=8 / 9,
        tolerance=1e-3,
        source="closed form: a ninth of what each neuron writes is the wave, the rest cancels",
        control=fourier.explained(whole, [frequency]),
        control_text="all nine",
    )
    report.claim(
        "all-needed",
        "without one neuron: share of all sums right, the most of nine",
        float(table["right"].max()),
        at_most=0.9,
        source=OWN,
        control=accuracy(whole),
        control_text="all nine",
    )
    report.figure(
        "ablation",
        figures.bars(table, "neuron", "right", xlabel="share of all sums right", ylabel="neuron silenced"),
        data=table,
        caption=f"The closed form at p = {config.p}, frequency {frequency}, with one neuron silenced.",
        alt="Less than half of all sums are right without any one of the nine neurons.",
    )


def silenced(neuron: int) -> Edit:
    """Sets one neuron to 0."""

    def silence(value: Tensor) -> Tensor:
        value[:, neuron] = 0.0
        return value

    return Edit("hook_post", silence)


def report_random(config: Config, report: Report) -> None:
    """Random phases get there too, as the number of neurons grows."""
    report.section("Random phases")
    draws = min(config.seeds, 5)
    rows = []
    for width in config.widths:
        shares = np.mean([random_adder(config, width, number) for number in range(draws)], axis=0)
        for measure, value in zip(("sums right", "variance explained"), shares, strict=True):
            rows.append({"neurons": width, "measure": measure, "value": float(value)})
    table = pd.DataFrame(rows)
    labels = {"xlabel": "neurons", "ylabel": "share", "xscale": "log", "ylim": (0, 1.02)}
    report.figure(
        "width",
        figures.lines(table, "neurons", "value", by="measure", title="Phases drawn at random", **labels),
        data=table,
        caption=f"Mean over {draws} draws at p = {config.p}. Nine arranged phases have 1 in both.",
        alt="Both shares rise with the number of neurons; sums right stays below 1.",
    )
    report.claim(
        "random-phases",
        "nine neurons with random phases: share of all sums right",
        stats.bootstrap([random_adder(config, 9, number)[0] for number in range(config.seeds)], seed=config.seed),
        at_most=0.5,
        source=f"{SOURCE}: random phases need many neurons; bound ours",
        control=accuracy(answer_logits(adder(config.p, 1, grid()), config.p)),
        control_text="phases on the grid",
    )


# ---- trained ----


def report_trained(config: Config, report: Report) -> None:
    """A trained network of such neurons is built by the same law."""
    report.section("Trained")
    train, test = split(additions(config.p), config.share, generator=stats.torch_generator(config.seed, "split"))
    fresh = QuadraticMlp(config.p, config.trained_width, generator=stats.torch_generator(config.seed, "weights"))
    module = trained(config, train)
    models = {"trained": Model.wrap(module), "untrained": Model.wrap(fresh.eval())}
    logits = {name: answer_logits(model, config.p) for name, model in models.items()}
    answered = {name: (each[test.tokens[:, 0], test.tokens[:, 1]].argmax(1) == test.answers) for name, each in logits.items()}
    report.claim(
        "learned",
        "share of sums it was not trained on that it gets right",
        stats.bootstrap(answered["trained"].double().numpy(), seed=config.seed),
        at_least=0.99,
        source="Gromov 2023, §2",
        control=stats.bootstrap(answered["untrained"].double().numpy(), seed=config.seed),
        control_text="untrained",
    )
    every = range(1, config.p // 2 + 1)
    report.claim(
        "trained-explained",
        "share of its logits' variance that Σ_k α_k cos(w_k (a + b − c)) explains",
        fourier.explained(logits["trained"], every),
        at_least=0.95,
        source=OWN,
        control=fourier.explained(logits["untrained"], every),
        control_text="untrained",
    )
    report_phases(config, report, module, fresh)


def report_phases(config: Config, report: Report, module: QuadraticMlp, fresh: QuadraticMlp) -> None:
    """The law of phases, neuron by neuron, and how the model does with nothing else."""
    table = phases(module)
    gap, by_chance = (np.cos(np.asarray(each["output phase"] - each["sum of input phases"])) for each in (table, phases(fresh)))
    single = np.asarray(table["share"]) >= OWN_FREQUENCY
    report.claim(
        "phases",
        "mean cosine of a neuron's output phase less the sum of its input phases (neurons of a single frequency)",
        stats.bootstrap(gap[single], seed=config.seed),
        at_least=0.9,
        source=f"{SOURCE}; bound ours",
        control=stats.bootstrap(by_chance, seed=config.seed),
        control_text="untrained",
    )
    report.text(
        f"{single.sum()} of {len(single)} neurons have {OWN_FREQUENCY:.0%} of what they write at one frequency. Those that share "
        f"themselves out among several have no phase of their own: over all neurons the mean cosine is {gap.mean():.2f}."
    )
    order = torch.randperm(config.trained_width, generator=stats.torch_generator(config.seed, "order"))
    pure, mixed = (purified(module, order=each) for each in (None, order))
    report.claim(
        "pure",
        "share of all sums right when every neuron is made one of the closed form's, at its own frequency and input phases",
        accuracy(answer_logits(pure, config.p)),
        at_least=0.99,
        source=OWN,
        control=accuracy(answer_logits(mixed, config.p)),
        control_text="output phases of other neurons",
    )
    names = ("sum of input phases", "output phase")
    shown = pd.DataFrame({name: np.mod(np.asarray(table[name]), 2 * np.pi) for name in names})
    shown["what it writes"] = np.where(single, "one frequency", "several")
    report.figure(
        "phases",
        figures.scatter(shown, *names, by="what it writes", aspect="equal"),
        data=shown,
        caption=f"The {config.trained_width} trained neurons, in radians; 0 is 2π. The closed form is the diagonal.",
        alt="Neurons of a single frequency lie on the diagonal, some of the others do not.",
    )


def trained(config: Config, train: Answered) -> QuadraticMlp:
    """A network trained on the squared error of its logits, as Gromov's, on all examples at every step."""
    module = QuadraticMlp(config.p, config.trained_width, generator=stats.torch_generator(config.seed, "weights"))
    optimizer = torch.optim.AdamW(module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    wanted = F.one_hot(train.answers, config.p).float()
    for _ in experiment.progress(range(config.steps), "training"):
        error = (module(train.tokens[:, :2]) - wanted).square().sum(1).mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    return module.eval()


def own_frequencies(module: QuadraticMlp) -> tuple[Int[Tensor, " neuron"], Float[Tensor, " neuron"]]:
    """Of each neuron: the frequency at which what it writes is strongest, and the share of it that lies there."""
    written = fourier.basis(len(module.out.weight))[1:] @ module.out.weight.detach().double()
    power = written.square().unflatten(0, (-1, 2)).sum(1)
    return 1 + power.argmax(0), power.amax(0) / power.sum(0)


def phases(module: QuadraticMlp) -> pd.DataFrame:
    """Of every neuron at its own frequency: sum of the phases at which it reads a and b, phase at which it writes, and the share
    of what it writes that lies there."""
    own, share = own_frequencies(module)
    a, b, out = (fourier.phases(each.detach(), own).numpy() for each in (module.W_a, module.W_b, module.out.weight))
    return pd.DataFrame({"sum of input phases": a + b, "output phase": out, "share": share.numpy()})


def purified(module: QuadraticMlp, *, order: Tensor | None) -> Model:
    """Pure waves of each neuron's frequency and lengths, which write at the sum of their input phases, or others' in `order`."""
    own, p = own_frequencies(module)[0], len(module.W_a)
    a, b = (fourier.phases(each.detach(), own) for each in (module.W_a, module.W_b))
    summed = (a + b) if order is None else (a + b)[order]
    angles = 2 * torch.pi / p * torch.arange(p)[:, None] * own
    pure = QuadraticMlp(p, len(own), generator=torch.Generator())
    with torch.no_grad():
        for weight, phase, like in (
            (pure.W_a, a, module.W_a),
            (pure.W_b, b, module.W_b),
            (pure.out.weight, summed, module.out.weight),
        ):
            weight.copy_(torch.cos(angles + phase) * like.norm(dim=0) * (2 / p) ** 0.5)
    return Model.wrap(pure.eval())


if __name__ == "__main__":
    experiment.main(Config, run)
