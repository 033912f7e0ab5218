"""What can a score function look up, and how wide must its head be? (Bhojanapalli et al. 2020, arXiv:2002.07028, §3)

Dot, scaled dot and bilinear scores are linear in the key, so the log of the attention has rank d_head + 1 at most. That
bound does not stop a head of width two from finding any one key among hundreds: keys on a circle do it. It stops narrow heads
from reproducing soft attention, and a head of width one from finding more than two keys. Additive scores, an MLP of query and
key, are bound by neither.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp import experiment, figures, stats
from interp.models.scores import Additive, Bilinear, Dot, ScaledDot
from interp.report import Report
from interp.stats import Estimate

ID = "E03"
SOURCE = "Bhojanapalli et al. 2020"
LINEAR = ("dot", "scaled dot", "bilinear")
KINDS = (*LINEAR, "additive")
Loss = Callable[[Tensor], Tensor]  # log-attention [run query key] -> loss of each run


@dataclass(frozen=True, kw_only=True)
class Config:
    keys: int = 16  # to look among, and as many queries
    widths: tuple[int, ...] = (1, 2, 4, 8, 15)  # of the head, d_head; 15 is one less than keys
    hidden: int = 32  # units of additive scores
    draws: int = 20  # random heads whose ranks are taken, at each width
    runs: int = 8  # lookups trained, at each width
    steps: int = 600
    circle: tuple[int, ...] = (4, 16, 64, 256, 512)  # numbers of keys on a circle
    seed: int = 0


QUICK = {"draws": 10}


def run(config: Config, report: Report) -> None:
    report_ranks(config, report)
    report_circle(config, report)
    with experiment.stage("train lookups"):
        report_lookup(config, report)
    with experiment.stage("train soft attention"):
        report_soft(config, report)
    report.text(
        "What would have shown this false: a rank above d_head + 1 for a score that is linear in the key; a head of width one "
        "with linear scores that finds three keys; keys on a circle that are confused in a head of width two; additive scores "
        "that obey the bound."
    )


def score_of(kind: str, heads: int, width: int, config: Config, generator: torch.Generator) -> nn.Module:
    """A score function by name, with weights for each of `heads` heads."""
    if kind == "additive":
        return Additive(heads, width, hidden=config.hidden, generator=generator)
    return Bilinear(heads, width, generator=generator) if kind == "bilinear" else {"dot": Dot, "scaled dot": ScaledDot}[kind]()


# ---- ranks ----


def report_ranks(config: Config, report: Report) -> None:
    """The bound, at every width, and the score that is not bound."""
    report.section("The rank of log-attention")
    ranks = {(kind, width): random_ranks(kind, width, config) for kind in KINDS for width in config.widths}
    above = {key: found - (key[1] + 1) for key, found in ranks.items()}
    narrow = min(config.widths)
    report.claim(
        "rank",
        f"rank of log-attention − (d_head + 1), the most over {', '.join(LINEAR)} scores at widths of {narrow} to "
        f"{max(config.widths)}",
        max(int(found.max()) for (kind, _), found in above.items() if kind in LINEAR),
        at_most=0,
        source=SOURCE,
        control=int(above["additive", narrow].max()),
        control_text=f"additive scores at width {narrow}",
    )
    report.claim(
        "additive-rank",
        f"rank of log-attention − (d_head + 1) for additive scores at width {narrow}, the least of {config.draws} heads",
        int(above["additive", narrow].min()),
        at_least=1,
        source="tanh is not linear",
        control=int(above["bilinear", narrow].max()),
        control_text="bilinear scores, the most",
    )
    rows = [
        {"scores": kind, "d_head": width, "least": int(found.min()), "most": int(found.max()), "bound": width + 1}
        for (kind, width), found in ranks.items()
    ]
    report.table("rank", rows, caption=f"Rank of log-attention, {config.keys} queries by {config.keys} keys, random heads.")
    shown = pd.DataFrame(
        [
            {"d_head": w, "rank": max(ranks[kind, w].max() for kind in LINEAR), "scores": "linear in the key"}
            for w in config.widths
        ]
        + [{"d_head": w, "rank": ranks["additive", w].max(), "scores": "additive"} for w in config.widths]
        + [{"d_head": w, "rank": w + 1, "scores": "bound: d_head + 1"} for w in config.widths]
    )
    report.figure(
        "rank",
        figures.lines(
            shown,
            "d_head",
            "rank",
            by="scores",
            xlabel="d_head, width of the head",
            ylabel="rank of log-attention",
            ylim=(0, None),
        ),
        data=shown,
        caption="The highest rank seen: scores that are linear in the key lie on the bound, additive ones above it.",
        alt="Rank against head width: dot, scaled dot and bilinear scores follow the line d_head + 1, additive scores lie above.",
    )


def random_ranks(kind: str, width: int, config: Config) -> Int[np.ndarray, " draw"]:
    """Rank of the log-attention of random heads, in double precision."""
    drawn = stats.torch_generator(config.seed, "rank", kind, width)
    q, k = torch.randn(2, 1, config.keys, config.draws, width, generator=drawn, dtype=torch.float64)
    with torch.no_grad():
        scores = score_of(kind, config.draws, width, config, drawn).double()(q, k)[0]
    return torch.linalg.matrix_rank(scores.log_softmax(-1)).numpy()


# ---- keys on a circle ----


def report_circle(config: Config, report: Report) -> None:
    """Width two is enough for any permutation, in closed form; the price is the size of the scores."""
    report.section("A head of width two finds any key")
    rows = [circle_row(keys, config) for keys in config.circle]
    table = pd.DataFrame(rows)
    most = max(config.circle)
    report.claim(
        "circle",
        f"queries that attend most to their own key, at d_head = 2 and {min(config.circle)} to {most} keys on a circle",
        float(table["accuracy"].min()),
        at_least=1.0,
        source="closed form: keys on a circle",
        control=float(table["accuracy, keys at random"].iloc[-1]),
        control_text=f"{most} keys at random in the plane: only the corners of their hull can win",
    )
    report.claim(
        "circle-sharp",
        "attention that goes elsewhere, at the worst query",
        float(table["attention elsewhere"].max()),
        at_most=1e-3,
        source="(n − 1) e^(−gap), the gap c(1 − cos 2π/n)",
        control=float(table["attention elsewhere, scale of 10"].iloc[-1]),
        control_text=f"{most} keys, with scores no larger than 10",
    )
    report.table("circle", table, caption="Keys on a circle of scale c: scores must grow as n² to keep n keys apart.")


def circle_row(keys: int, config: Config) -> dict[str, float]:
    """A permutation lookup by keys on the unit circle, scaled so that all the other keys together get less than 1/1000."""
    drawn = stats.torch_generator(config.seed, "circle", keys)
    permutation = torch.randperm(keys, generator=drawn)
    scale = float(np.log(1000 * (keys - 1)) / (1 - np.cos(2 * np.pi / keys)))
    round_ = circle(keys)
    scattered = torch.randn(keys, 2, generator=drawn, dtype=torch.float64)
    sharp, blunt = (looked_up(c * round_[permutation], round_, permutation) for c in (scale, 10.0))
    return {
        "keys": keys,
        "scale c": scale,
        "accuracy": sharp[0],
        "attention elsewhere": sharp[1],
        "attention elsewhere, scale of 10": blunt[1],
        "accuracy, keys at random": looked_up(scattered[permutation], scattered, permutation)[0],
    }


def circle(keys: int) -> Float[Tensor, "key 2"]:
    """Points at even angles on the unit circle: each has its largest product with itself."""
    angles = torch.arange(keys, dtype=torch.float64) * 2 * torch.pi / keys
    return torch.stack([angles.cos(), angles.sin()], 1)


def looked_up(q: Float[Tensor, "key 2"], k: Float[Tensor, "key 2"], wanted: Int[Tensor, " key"]) -> tuple[float, float]:
    """Share of queries that attend most to the key they want, and the most attention any of them gives to the others."""
    pattern = Dot()(q[None, :, None], k[None, :, None])[0, 0].softmax(-1)
    elsewhere = pattern.scatter(1, wanted[:, None], 0.0).sum(1)  # not 1 − p, which rounds
    return float((pattern.argmax(1) == wanted).double().mean()), float(elsewhere.max())


# ---- trained ----


def report_lookup(config: Config, report: Report) -> None:
    """Every score function learns a permutation at width two; at width one, linear scores find two keys at most."""
    report.section("Trained to look up a permutation")
    wanted = torch.rand(config.runs, config.keys, generator=stats.torch_generator(config.seed, "permutation")).argsort(1)

    def missed(log_attention: Tensor) -> Tensor:
        return -log_attention.gather(2, wanted[:, :, None]).mean((1, 2))

    def hits(log_attention: Tensor) -> np.ndarray:
        return (log_attention.argmax(-1) == wanted).double().mean(1).numpy()

    found = {(kind, width): hits(trained(kind, width, missed, "lookup", config)) for kind in KINDS for width in config.widths[:3]}
    for kind in KINDS:
        report.claim(
            f"learned-{kind.replace(' ', '-')}",
            f"{kind} scores, trained: queries that attend most to their own key, at d_head = 2 and {config.keys} keys",
            stats.bootstrap(found[kind, 2], seed=config.seed),
            at_least=0.99,
            source="closed form, as above",
            control=float(hits(trained(kind, 2, missed, "lookup", config, steps=0)).mean()),
            control_text="before training",
        )
    report.claim(
        "line",
        f"the same at d_head = 1, the most over {', '.join(LINEAR)} scores",
        float(max(found[kind, 1].max() for kind in LINEAR)),
        at_most=2 / config.keys,
        source="of products with points on a line, one of the two ends is the largest",
        control=stats.bootstrap(found["additive", 1], seed=config.seed),
        control_text="additive scores",
    )
    table = by_width(found, "accuracy", config)
    report.table("lookup", table, caption=f"Permutation lookup, mean of {config.runs} permutations and its 95 % interval.")
    report.figure(
        "lookup",
        figures.heatmap(table, "d_head", "scores", "accuracy", xlabel="d_head, width of the head", ylabel=""),
        data=table,
        caption="Queries that attend most to their own key after training, by score function and width of the head.",
        alt="All score functions reach 1 at widths 2 and 4; at width 1 only additive scores do, the others stay at an eighth.",
    )


def report_soft(config: Config, report: Report) -> None:
    """What the bound costs: narrow heads with linear scores cannot reproduce random soft attention."""
    report.section("Trained to reproduce soft attention")
    drawn = stats.torch_generator(config.seed, "soft attention")
    wanted = torch.randn(config.runs, config.keys, config.keys, generator=drawn).log_softmax(-1)

    def divergence(log_attention: Tensor) -> Tensor:
        return (wanted.exp() * (wanted - log_attention)).sum(-1).mean(1)

    found = {
        (kind, width): divergence(trained(kind, width, divergence, "soft", config)).double().numpy()
        for kind in KINDS
        for width in config.widths
    }
    enough = max(config.widths)
    best = min(LINEAR, key=lambda kind: found[kind, 2].mean())
    report.claim(
        "bottleneck",
        f"divergence from random attention at d_head = 2, {best} scores (the best of the linear ones)",
        stats.bootstrap(found[best, 2], seed=config.seed),
        at_least=0.1,
        unit="nats",
        source=f"{SOURCE}: a head narrower than the sequence cannot represent every attention",
        control=stats.bootstrap(found["additive", 2], seed=config.seed),
        control_text="additive scores at the same width",
    )
    report.claim(
        "wide-enough",
        f"the same at d_head = {enough}, bilinear scores",
        stats.bootstrap(found["bilinear", enough], seed=config.seed),
        at_most=1e-3,
        unit="nats",
        source=f"{SOURCE}: log-attention up to a number per row has rank {config.keys - 1} at most",
        control=stats.bootstrap(found["bilinear", 2], seed=config.seed),
        control_text="d_head = 2",
    )
    table = by_width(found, "divergence", config)
    report.table("soft", table, caption="Divergence of the trained from the wanted attention, nats per query.")
    axis = {"xlabel": "d_head, width of the head", "ylabel": "divergence, nats per query", "ylim": (0, None)}
    report.figure(
        "soft",
        figures.lines(table, "d_head", "divergence", by="scores", low="low", high="high", **axis),
        data=table,
        caption=f"How far trained heads stay from random attention over {config.keys} keys.",
        alt="The divergence of dot, scaled dot and bilinear scores falls with width to 0 at 15; additive scores reach 0 at 2.",
    )


def trained(
    kind: str, width: int, loss: Loss, task: str, config: Config, *, steps: int | None = None
) -> Float[Tensor, "run query key"]:
    """Log-attention after training queries, keys and the score's own weights, with Adam at a rate that falls to 0.

    The runs are the heads of one module: they share nothing.
    """
    steps = config.steps if steps is None else steps
    drawn = stats.torch_generator(config.seed, "trained", task, kind, width)
    q, k = (nn.Parameter(torch.randn(1, config.keys, config.runs, width, generator=drawn)) for _ in range(2))
    score = score_of(kind, config.runs, width, config, drawn)
    optimizer = torch.optim.Adam([q, k, *score.parameters()], fused=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        optimizer.zero_grad()
        loss(score(q, k)[0].log_softmax(-1)).sum().backward()
        optimizer.step()
    with torch.no_grad():
        return score(q, k)[0].log_softmax(-1)


def by_width(found: dict[tuple[str, int], np.ndarray], name: str, config: Config) -> pd.DataFrame:
    """One row for each score function and width: the mean over runs and its interval."""
    rows = []
    for (kind, width), values in found.items():
        estimate: Estimate = stats.bootstrap(values, seed=config.seed)
        ends = {name: estimate.value, "low": estimate.low, "high": estimate.high}
        rows.append({"scores": kind, "d_head": width} | ends)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    experiment.main(Config, run)
