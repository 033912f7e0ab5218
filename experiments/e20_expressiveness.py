"""What can a Transformer of fixed size not be sure of, however long the row? (Hahn 2020, arXiv:1906.06755)

With bounded weights, softmax attention gives each of n tokens a weight of order 1/n, so one token moves the output by O(1/n).
PARITY and FIRST hang on one token. Chiang & Cholak 2022 (arXiv:2202.12172) show that this limits how sure a Transformer can be,
not whether it is right: two layers written by hand decide both at every length, with an ever smaller margin, and layer norm with
ε = 0 makes it large again. What is learned is another question still: MAJORITY, where no single token matters, is learned and
carried over to longer rows; PARITY is not.

False if the influence of a token falls more slowly than n^(−0.8) without a change of weights, if a recogniser errs at some
length, or if a trained model carries PARITY over to rows longer than it was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp import experiment, figures, stats
from interp.models import recognisers
from interp.models.batches import answers
from interp.models.hooked import Model
from interp.models.positions import frequencies
from interp.models.training import Learner, fit, linear_decay
from interp.models.transformer import TransformerConfig, transformer
from interp.report import Report
from interp.tasks import bits
from interp.tasks.answered import Answered

ID = "E20"


@dataclass(frozen=True, kw_only=True)
class Config:
    lengths: tuple[int, ...] = (32, 64, 128, 256, 512)  # bits in a row, for influence
    models: int = 24  # fresh ones, for influence
    pairs: int = 16  # rows and their twins, per model and length
    written: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # bits in a row, for the recognisers
    rows: int = 50  # per length, for the recognisers
    trained: tuple[int, ...] = (3, 5, 7, 9, 11, 13, 15, 17, 19, 21)  # bits in a row, in training
    tested: tuple[int, ...] = (5, 9, 13, 17, 21, 31, 41, 61, 81)  # … in testing
    steps: int = 800  # training on each task
    test_rows: int = 400  # per length
    seed: int = 0


QUICK = {"lengths": (32, 64, 128), "models": 16, "written": (2, 10, 100, 500), "rows": 20, "steps": 400, "tested": (9, 21, 41)}

HAHN, CHIANG, TARGET = "Hahn 2020, lemma 5", "Chiang & Cholak 2022", "target of this report"
Task = Callable[..., Answered]
TASKS: dict[str, Task] = {"MAJORITY": bits.majority, "FIRST": bits.first, "PARITY": bits.parity}
LEARNED = (
    ("MAJORITY", "none"),
    ("MAJORITY", "sinusoidal"),
    ("FIRST", "sinusoidal"),
    ("PARITY", "none"),
    ("PARITY", "sinusoidal"),
)


def run(config: Config, report: Report) -> None:
    with experiment.stage("influence of one token in fresh models"):
        report_influence(config, report)
    with experiment.stage("recognisers written by hand"):
        report_recognisers(config, report)
    report_learning(config, report)


# ---- one token among many ----

WIDTH = 32  # of the encoders' streams
FRESH = {"no positions": "none", "sinusoids": "sinusoidal", "sinusoids, fast waves alone": "fast"}
"""Fresh encoders by how they are told positions."""


def encoder(config: Config, positions: str, *, longest: int, draw: int) -> Any:
    """A fresh encoder of two layers over bits."""
    sizes = {"kind": "encoder", "d_model": WIDTH, "n_heads": 4, "n_layers": 2, "d_mlp": 64, "d_vocab": 3}
    architecture = TransformerConfig.of(sizes | {"n_ctx": longest + 1, "positions": positions})
    return transformer(architecture, stats.torch_seed(config.seed, ID, "weights", draw))


def influence(say: Callable[[Tensor], Tensor], pairs: tuple[Tensor, Tensor]) -> float:
    """Mean |change| of what is said of rows when they are exchanged for their twins."""
    row, twin = pairs
    return float((say(row) - say(twin)).abs().mean())


def one_token_apart(config: Config, length: int, draw: int, *, at: int | None = None) -> tuple[Tensor, Tensor]:
    """Rows behind <cls>, and twins in which one bit is turned over: that at place `at`, or at places spread over the row."""
    generator = stats.torch_generator(config.seed, ID, "pairs", length, draw)
    rows = bits.first(config.pairs, length, generator=generator).tokens
    shares = (torch.arange(config.pairs) + torch.rand(config.pairs, generator=generator)) / config.pairs
    places = 1 + (shares * length).long()[:, None]
    places = places if at is None else torch.full_like(places, at)
    return rows, rows.scatter(1, places, 1 - rows.gather(1, places))


def slope(values: np.ndarray, lengths: tuple[int, ...], *, seed: int) -> stats.Estimate:
    """Least-squares slope of log value [draw length] on log length, with its interval over draws."""
    x = np.log(np.asarray(lengths, dtype=float))
    x -= x.mean()
    return stats.bootstrap(np.log(values) @ x / (x @ x), seed=seed)


def fresh(config: Config, positions: str, draw: int) -> Callable[[Tensor], Tensor]:
    """What an encoder with random weights says at <cls>. "fast": of the sinusoids, only waves that turn in the shortest row."""
    module = encoder(config, "none" if positions == "none" else "sinusoidal", longest=max(config.lengths), draw=draw)
    if positions == "fast":
        turns = frequencies(WIDTH) * min(config.lengths) / (2 * np.pi)
        module.pos_embed.weight[:, (turns < 1).repeat_interleave(2)] = 0
    model = Model.wrap(module.eval())
    return lambda tokens: model.run(tokens).logits[:, 0].double()


def influences(config: Config, positions: str) -> Float[np.ndarray, "draw length"]:
    """How far one bit moves what fresh encoders say."""
    models = [fresh(config, positions, draw) for draw in range(config.models)]
    return np.array(
        [[influence(say, one_token_apart(config, length, draw)) for length in config.lengths] for draw, say in enumerate(models)]
    )


def report_influence(config: Config, report: Report) -> None:
    """How far one bit moves the logits at <cls>, over the length of the row."""
    report.section("One token among many")
    found = {name: influences(config, positions) for name, positions in FRESH.items()}
    scaled = recognisers.first(log_length=True)
    grown = [influence(scaled, one_token_apart(config, length, 0, at=1)) for length in config.lengths]
    flat = float(np.polyfit(np.log(config.lengths), np.log(grown), 1)[0])
    for slug, (name, values) in zip(("influence", "influence-sinusoids", "influence-fast-waves"), found.items(), strict=True):
        report.claim(
            slug,
            f"{name}: slope of the logarithm of one token's influence over log n, in fresh encoders of two layers",
            slope(values, config.lengths, seed=config.seed),
            between=(-1.1, -0.9),
            source=HAHN,
            control=flat,
            control_text="the first bit in FIRST written by hand, with scores that grow as log n",
        )
    figure_influence(config, report, found, grown)


def figure_influence(config: Config, report: Report, found: dict[str, np.ndarray], grown: list[float]) -> None:
    """The law, and what keeps sinusoids from it at these lengths."""
    table = pd.DataFrame(
        {"bits": length, "model": name, "influence": float(column.mean())}
        | stats.bootstrap(length * column, seed=config.seed).cells("influence × n")
        for name, values in found.items()
        for length, column in zip(config.lengths, values.T, strict=True)
    )
    hand = {"bits": config.lengths, "influence": grown, "model": "FIRST, scores × log n"}
    everything = pd.concat([table.loc[:, ["bits", "influence", "model"]], pd.DataFrame(hand)], ignore_index=True)
    report.figure(
        "influence",
        figures.lines(everything, "bits", "influence", by="model", title="One token's influence falls as 1/n", **LOGLOG),
        data=everything,
        caption="Mean change of the output when one bit is turned over, against the number of bits.",
        alt="Lines of slope about −1 for random weights, and a flat one for scores that grow with log n.",
    )
    labels = {"xscale": "log", "xlabel": "bits in a row", "ylim": (0, None), "title": "The law, divided out"}
    report.figure(
        "reach",
        figures.lines(table, "bits", "influence × n", by="model", low="low", high="high", **labels),
        data=table,
        caption="The same times the number of bits, with 95 % intervals over models: level where the law holds.",
        alt="Level without positions and with fast waves alone; with all sinusoids the line rises and levels off.",
    )
    report.text(
        "The law is about the limit. With all sinusoids the influence falls a little more slowly at these lengths. The second "
        "figure shows that this is no exception: influence × n rises and levels off. A wave that has not turned once within the "
        "row still changes from length to length, and with it what a query attends to; the slowest of these turns once in "
        f"{2 * np.pi / float(frequencies(WIDTH).min()):,.0f} tokens. Without those that do not turn in "
        f"{min(config.lengths)} tokens the law holds from there on, as it does without positions."
    )


LOGLOG = {"xscale": "log", "yscale": "log", "xlabel": "bits in a row"}


# ---- written by hand ----


def report_recognisers(config: Config, report: Report) -> None:
    """Right at every length, and how sure."""
    report.section("Right at every length")
    found = pd.concat(
        [recognised(config, name, length) for name in ("PARITY", "FIRST") for length in config.written], ignore_index=True
    )
    claim_recognisers(config, report, found)
    figure_recognisers(report, found)


def claim_recognisers(config: Config, report: Report, found: pd.DataFrame) -> None:
    for name in ("PARITY", "FIRST"):
        own = found.query("task == @name and margin == 'as it is'")
        report.claim(
            name.lower(),
            f"{name} written by hand: share of rows right, at the worst of {min(config.written)} to {max(config.written)} bits",
            float(own["right"].min()),
            at_least=1.0,
            source=CHIANG,
            control=float(own["right without attention"].max()),
            control_text="its second attention taken out, at its best length",
        )
    longest = max(config.written)
    last = found.query("task == 'PARITY' and bits == @longest")
    unsure = dict(zip(last["margin"], last["entropy"], strict=True))
    report.claim(
        "unsure",
        f"PARITY as it is: bits of cross-entropy on {longest} bits",
        unsure["as it is"],
        at_least=0.99,
        unit="bits",
        source=f"{HAHN}: goes to 1",
        control=unsure["normed, ε = 0"],
        control_text="normed, ε = 0",
    )
    report.claim(
        "sure",
        f"PARITY behind a layer norm with ε = 0: bits of cross-entropy on {longest} bits",
        unsure["normed, ε = 0"],
        at_most=0.01,
        unit="bits",
        source=CHIANG,
        control=unsure["normed, ε = 1e−5"],
        control_text="ε = 1e−5, as layer norms have it",
    )


def figure_recognisers(report: Report, found: pd.DataFrame) -> None:
    parity = found.query("task == 'PARITY'")
    report.figure(
        "sureness",
        figures.lines(
            parity,
            "bits",
            "entropy",
            by="margin",
            xscale="log",
            ylim=(-0.05, 1.1),
            ylabel="cross-entropy (bits)",
            xlabel="bits in a row",
            title="PARITY: always right, and how sure",
        ),
        data=parity,
        caption="Cross-entropy of the hand-written PARITY, as it is and behind a last layer norm; 1 is a coin's.",
        alt="Without a norm the curve goes to one; with ε = 0 it stays at zero; with ε = 1e-5 it leaves zero as rows grow.",
    )
    report.table("recognisers", found, caption="Hand-written recognisers: least |answer|, share right, cross-entropy in bits.")


def recognised(config: Config, name: str, length: int) -> pd.DataFrame:
    """What the recogniser of a task says of rows of a length, as it is and normed in three ways."""
    model, deaf = recogniser(name), recogniser(name)
    deaf.attn2.o.weight.zero_()
    rows = TASKS[name](config.rows, length, generator=stats.torch_generator(config.seed, ID, "recognisers", name, length))
    answer, blind = model(rows.tokens), deaf(rows.tokens)
    margins = {
        "as it is": answer,
        "normed, ε = 1e−5": recognisers.normed(answer, eps=1e-5),
        "normed, ε = 0": recognisers.normed(answer, eps=0.0),
    }
    table = [
        {
            "task": name,
            "bits": length,
            "margin": margin,
            "least |answer|": float(value.abs().min()),
            "right": float(((value > 0).long() == rows.answers).double().mean()),
            "right without attention": float(((blind > 0).long() == rows.answers).double().mean()),
            "entropy": cross_entropy(SHARPENED * value, rows.answers),
        }
        for margin, value in margins.items()
    ]
    return pd.DataFrame(table)


SHARPENED = 10.0
"""The last layer's weight: any fixed one shows the same."""


def recogniser(name: str) -> recognisers.Recogniser:
    return recognisers.parity() if name == "PARITY" else recognisers.first(log_length=False)


def cross_entropy(logits: Tensor, wanted: Tensor) -> float:
    """Mean cross-entropy in bits of yes-or-no answers, from the logit of yes."""
    return float(F.binary_cross_entropy_with_logits(logits, wanted.to(logits))) / float(np.log(2))


# ---- learned ----


def report_learning(config: Config, report: Report) -> None:
    """The same encoder trained on three tasks, and tested on longer rows."""
    report.section("Learned, and past the length of training")
    right: dict[str, dict[int, stats.Estimate]] = {}
    for name, positions in LEARNED:
        with experiment.stage(f"train on {name}, positions: {positions}"):
            model = trained(config, name, positions)
        right[f"{name}, {positions}"] = {length: accuracy(config, model, name, length) for length in config.tested}
    longer = min(length for length in config.tested if length > max(config.trained) * 1.5)
    text = f"share of rows of {longer} bits right, after training on {min(config.trained)} to {max(config.trained)}"
    majority = right["MAJORITY, none"][longer]
    parity = max((right[f"PARITY, {positions}"][longer] for positions in ("none", "sinusoidal")), key=lambda e: e.value)
    report.claim(
        "majority-carries-over",
        f"MAJORITY, without positions: {text}",
        majority,
        at_least=0.9,
        source=TARGET,
        control=parity,
        control_text="PARITY, with or without",
    )
    report.claim(
        "parity-does-not",
        f"PARITY, with or without positions, whichever does better: {text}",
        parity,
        at_most=0.6,
        source="Hahn 2020; guessing reaches 0.5",
        control=majority,
        control_text="MAJORITY",
    )
    rows = [
        {"bits": length, "right": e.value, "low": e.low, "high": e.high, "task, positions": name}
        for name, each in right.items()
        for length, e in each.items()
    ]
    table = pd.DataFrame(rows)
    labels = {"xlabel": "bits in a row", "ylabel": "share right", "ylim": (0, 1.05)}
    report.figure(
        "learned",
        figures.lines(
            table,
            "bits",
            "right",
            by="task, positions",
            low="low",
            high="high",
            title=f"Trained on rows of up to {max(config.trained)} bits",
            **labels,
        ),
        data=table,
        caption="Share of rows right against their length, with 95 % intervals over rows.",
        alt="MAJORITY without positions stays high far past training; PARITY is at one half for all but the shortest rows.",
    )
    report.text(
        "Neither MAJORITY nor PARITY depends on order. Sinusoids that training never saw disturb a majority that is counted well "
        "without them. PARITY can be written down, as above, but the weights that do it are not found."
    )


def trained(config: Config, name: str, positions: str) -> Model:
    """An encoder trained on rows of lengths drawn from `trained`."""
    generator = stats.torch_generator(config.seed, ID, "train", name)

    def batches() -> Iterator[Any]:
        for _ in range(config.steps):
            length = config.trained[int(torch.randint(len(config.trained), (), generator=generator))]
            yield answers(TASKS[name](64, length, generator=generator))

    module = encoder(config, positions, longest=max(config.tested), draw=0)
    fit(Learner(module, schedule=linear_decay(3e-3, 50, config.steps)), batches())
    return Model.wrap(module, name=name)


def accuracy(config: Config, model: Model, name: str, length: int) -> stats.Estimate:
    rows = TASKS[name](config.test_rows, length, generator=stats.torch_generator(config.seed, ID, "test", name, length))
    found = model.run(rows.tokens).logits[:, rows.position, :2].argmax(-1)
    return stats.bootstrap((found == rows.answers).double().numpy(), seed=config.seed)


if __name__ == "__main__":
    experiment.main(Config, run)
