"""How much of a change of weights fits in a low rank? (Hu et al. 2021, arXiv:2106.09685)

A linear student with an adapter of rank r can follow a teacher's shift as far as Eckart and Young allow, and training gets
there. The induction model learns a cipher that an adapter of known rank can say: by hand, by training, and from the words of a
teacher.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import experiment, figures, stats
from interp.heads import patterns
from interp.models.batches import Batch, taught
from interp.models.changes import matrices, noised
from interp.models.finetuning import fine_tuned
from interp.models.hooked import Model
from interp.models.lens import HookedRootModule
from interp.models.lora import Adapters
from interp.models.parts import Linear
from interp.models.training import fast, linear_decay
from interp.report import Report
from interp.tasks.repeated import Repeated, repeated_random

ID = "E21"
OWN = "target of this report"
MODEL = "induction-2l"
PARTS = [f"blocks.{layer}.attn.{part}" for layer in range(2) for part in ("q", "k", "v", "o")]


@dataclass(frozen=True, kw_only=True)
class Config:
    width: int = 24  # of the linear student
    shift: tuple[float, ...] = (3.0, 2.5, 2.0, 1.5, 1.0, 0.5)  # singular values of the teacher's shift; their number is its rank
    ranks: tuple[int, ...] = (1, 2, 3, 4, 6, 8)  # of the adapter
    shifts: int = 2  # teachers
    linear_steps: int = 500
    swaps: int = 4  # pairs of tokens that the cipher exchanges
    cipher_steps: int = 60  # of the induction model, each time it is trained
    held_out: int = 128  # rows of the cipher on which the models are measured
    seed: int = 0


QUICK = {"shifts": 1}


def run(config: Config, report: Report) -> None:
    with experiment.stage("train linear adapters"):
        report_linear(config, report)
    with experiment.stage("teach a cipher"):
        report_by_hand(config, report)
        report_cipher(config, report)
    report.text(
        "What would have shown this false: an adapter narrower than the shift that does better than the singular values allow; a "
        "cipher of four exchanges that no adapter of rank 4 can say; an induction head that has lost its target."
    )


# ---- a linear student ----


class Student(HookedRootModule):
    """One linear map."""

    def __init__(self, width: int, drawn: torch.Generator) -> None:
        super().__init__()
        self.map = Linear(width, width, bias=False, generator=drawn)
        self.setup()

    def forward(self, x: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
        return self.map(x)


def report_linear(config: Config, report: Report) -> None:
    """The best loss of every rank, and that of training."""
    report.section("A shift of known rank")
    full = len(config.shift)
    tails = {rank: sum(value**2 for value in config.shift[rank:]) for rank in config.ranks}
    found = {rank: np.array([trained_loss(config, rank, number) for number in range(config.shifts)]) for rank in config.ranks}
    narrow, wide = [r for r in config.ranks if r < full], [r for r in config.ranks if r >= full]
    over = {rank: found[rank] / tails[rank] for rank in narrow}
    chance = [chance_loss(config, narrow[0], number) / tails[narrow[0]] for number in range(config.shifts)]
    report.claim(
        "eckart-young",
        f"loss of trained adapters over Σ_(i>r) σ_i², the worst of ranks {narrow[0]} to {narrow[-1]} and {config.shifts} shifts",
        float(max(each.max() for each in over.values())),
        at_most=1.02,
        source="Eckart & Young 1936",
        control=float(min(chance)),
        control_text=f"the shift projected on random directions, rank {narrow[0]}",
    )
    report.claim(
        "bound",
        "the same, the best of them: nothing does better",
        float(min(each.min() for each in over.values())),
        at_least=1 - 1e-5,
        source="Eckart & Young 1936",
        control=float(found[wide[0]].max() / tails[narrow[-1]]),
        control_text=f"rank {wide[0]}, measured against the bound of rank {narrow[-1]}",
    )
    report.claim(
        "wide-enough",
        f"loss of adapters of rank {full} and more, the worst",
        float(max(found[rank].max() for rank in wide)),
        at_most=1e-4,
        source="Hu et al. 2021, §4.1",
        control=float(found[narrow[-1]].min()),
        control_text=f"rank {narrow[-1]}",
    )
    rows = [{"rank": rank, "loss": float(found[rank].mean()), "adapter": "trained"} for rank in config.ranks]
    rows += [{"rank": rank, "loss": float(tails[rank]), "adapter": "best possible"} for rank in config.ranks]
    table = pd.DataFrame(rows)
    report.figure(
        "linear",
        figures.lines(table, "rank", "loss", by="adapter", xlabel="rank of the adapter", ylabel="squared error", ylim=(0, None)),
        data=table,
        caption=f"A shift of rank {full}: loss of trained adapters, and what the singular values allow.",
        alt="The loss falls with the rank to zero at the rank of the shift; trained adapters lie on the bound.",
    )


def shift(config: Config, number: int) -> Float[Tensor, "width width"]:
    """A teacher's shift: random singular vectors, given singular values."""
    u, v = torch.linalg.qr(
        torch.randn(2, config.width, len(config.shift), generator=stats.torch_generator(config.seed, "shift", number))
    )[0]
    return (u * torch.tensor(config.shift)) @ v.T


def trained_loss(config: Config, rank: int, number: int) -> float:
    """E|ΔW x − Δ* x|² = ‖ΔW − Δ*‖² for normal x, after training an adapter on fresh x with a rate that falls to 0."""
    drawn, wanted = stats.torch_generator(config.seed, "linear", rank, number), shift(config, number)
    model = Model.wrap(Student(config.width, drawn))
    adapters = Adapters(model, ["map"], rank=rank, alpha=rank, seed=config.seed)
    base = model.weight("map.weight").clone()
    optimizer = torch.optim.Adam(adapters.parameters(), lr=0.03)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.linear_steps)
    for _ in range(config.linear_steps):
        x = torch.randn(256, config.width, generator=drawn)
        optimizer.zero_grad()
        (model.bridge(x) - x @ (base + wanted).T).square().sum(1).mean().backward()
        optimizer.step()
        falling.step()
    return float((adapters.changes()["map"] - wanted).square().sum())


def chance_loss(config: Config, rank: int, number: int) -> float:
    """What is left of the shift after a projection of its output on random directions."""
    wanted = shift(config, number)
    basis = torch.linalg.qr(torch.randn(config.width, rank, generator=stats.torch_generator(config.seed, "chance", number)))[0]
    return float((wanted - basis @ basis.T @ wanted).square().sum())


# ---- the induction model learns a cipher ----


def cipher(config: Config, d_vocab: int) -> Int[Tensor, " d_vocab"]:
    """What is said in place of every token: `swaps` pairs of tokens change places."""
    drawn = 1 + torch.randperm(d_vocab - 1, generator=stats.torch_generator(config.seed, "cipher"))[: 2 * config.swaps]
    said = torch.arange(d_vocab)
    said[drawn] = drawn.view(-1, 2).flip(1).flatten()
    return said


def copies(config: Config, model: Model, n: int, *purpose: str | int) -> Repeated:
    return repeated_random(n, model.n_ctx, model.d_vocab, generator=stats.torch_generator(config.seed, *purpose))


def asked(rows: Repeated, said: Int[Tensor, " d_vocab"]) -> Batch:
    """A copy is to be said in cipher; nothing else is asked."""
    return Batch(tokens=rows.tokens, targets=said[rows.tokens[:, 1:]], counted=rows.is_copy[:, 1:])


def report_by_hand(config: Config, report: Report) -> None:
    """An exchange of two tokens is a change of rank 1 of the unembedding, so the cipher's rank is known."""
    report.section("A cipher of known rank")
    before, swaps = Model.load(MODEL), config.swaps
    said, weight = cipher(config, before.d_vocab), before.weight("W_U").T
    tokens = copies(config, before, 8, "by hand").tokens
    wanted, off = before.run(tokens).logits[..., said], {}
    for rank in (swaps - 1, swaps):
        model = Model.load(MODEL)
        Adapters(model, ["unembed"], rank=rank, alpha=rank, seed=0).fill({"unembed": weight[said] - weight})
        off[rank] = float((model.run(tokens).logits - wanted).abs().max())
    report.claim(
        "by-hand",
        f"{swaps} pairs of tokens change places: how far the logits under an adapter of rank {swaps} made by hand lie from the "
        "model's own with those columns exchanged, at most",
        off[swaps],
        at_most=1e-3,
        source="an exchange of two rows is a change of rank 1",
        control=off[swaps - 1],
        control_text=f"the best change of rank {swaps - 1}",
    )


def report_cipher(config: Config, report: Report) -> None:
    """The cipher learned by attention alone: in full, through adapters, and from a teacher's words."""
    before = Model.load(MODEL)
    said = cipher(config, before.d_vocab)

    def course(purpose: str, batch: Callable[[Repeated], Batch], rank: int | None = None) -> Model:
        rows = (copies(config, before, 32, purpose, step) for step in range(config.cipher_steps))
        schedule = linear_decay(3e-3 if rank is None else 1e-2, 5, config.cipher_steps)
        return fine_tuned(before, map(batch, rows), PARTS, schedule=schedule, rank=rank, seed=config.seed, forward=fast)

    tuned = course("curated", lambda rows: asked(rows, said))
    models = {
        "before": before,
        "trained on true rows": tuned,
        "trained on a teacher's words": course("taught", lambda rows: taught(tuned, rows.tokens)),
        f"adapters of rank {config.swaps}": course("adapters", lambda rows: asked(rows, said), config.swaps),
        "adapters of rank 1": course("adapters", lambda rows: asked(rows, said), 1),
    }
    found = {name: accuracy(config, model, said) for name, model in models.items()}
    intervals = {name: stats.bootstrap(values, seed=config.seed) for name, values in found.items()}
    report.claim(
        "adapters",
        f"exchanged tokens that are said in cipher, after training adapters of rank {config.swaps} on all of attention",
        intervals[f"adapters of rank {config.swaps}"],
        at_least=0.95,
        source=OWN,
        control=intervals["adapters of rank 1"],
        control_text="rank 1",
    )
    report.claim(
        "teacher",
        "accuracy that a student of the tuned model's words lacks, against that model",
        stats.paired_difference(found["trained on true rows"], found["trained on a teacher's words"], seed=config.seed),
        at_most=0.1,
        source=OWN,
        control=stats.paired_difference(found["trained on true rows"], found["before"], seed=config.seed),
        control_text="the model before",
    )
    table = pd.DataFrame([{"model": name} | each.cells("accuracy") for name, each in intervals.items()])
    report.figure(
        "cipher",
        figures.bars(table, "model", "accuracy", low="low", high="high", xlim=(0, 1.02)),
        data=table,
        caption=f"Exchanged tokens that are said in cipher where they are to be copied, after {config.cipher_steps} steps each.",
        alt="Bars: none before; nearly all after full training, a teacher's words and adapters wide enough; fewer with rank 1.",
    )
    report_rank(config, report, before, tuned)
    report_looks(config, report, before, tuned)


def accuracy(config: Config, model: Model, said: Int[Tensor, " d_vocab"]) -> Float[np.ndarray, " row"]:
    """Share of the copies of exchanged tokens that are said in cipher, in every row that has some."""
    batch = asked(copies(config, model, config.held_out, "held out"), said)
    assert batch.counted is not None
    exchanged = batch.counted & (batch.targets != batch.tokens[:, 1:])
    right = (model.run(batch.tokens).logits[:, :-1].argmax(-1) == batch.targets) & exchanged
    some = exchanged.any(1)
    return (right.sum(1)[some] / exchanged.sum(1)[some]).double().numpy()


def report_rank(config: Config, report: Report, before: Model, tuned: Model) -> None:
    """Full training spreads the change over more directions than it needs, and over fewer than noise."""
    changed = matrices(before, tuned, rank=config.swaps).query("change > 0")
    control = matrices(before, noised(before, tuned, seed=config.seed), rank=config.swaps).query("change > 0")
    random = control["effective rank"].mean()
    report.claim(
        "low-rank",
        "effective rank of the change of a matrix over that of noise, mean over the matrices of attention",
        stats.bootstrap(changed["effective rank"] / random, seed=config.seed),
        at_most=0.8,
        source=f"{OWN}, after Hu et al. 2021, §7",
        control=stats.bootstrap(control["effective rank"] / random, seed=config.seed),
        control_text="noise of the same norm",
    )
    report.table(
        "matrices", changed, caption=f"What full training added to each matrix of attention; noise has rank {random:.0f}."
    )


def report_looks(config: Config, report: Report, before: Model, tuned: Model) -> None:
    """What is said has changed; where the heads look has not."""
    tokens = copies(config, before, config.held_out, "held out").tokens
    looks = [patterns.induction_scores(model, tokens, special=[0]) for model in (before, tuned, before.untrained(config.seed))]
    layer, head = looks[0].mean("example").top(1)[0]
    own, after, chance = (each.sel(layer=layer, head=head).values for each in looks)
    report.claim(
        "same-look",
        f"attention of head {layer}.{head}, the best induction head, to the token after the match that learning the cipher cost",
        stats.paired_difference(own, after, seed=config.seed),
        at_most=0.2,
        source=f"{OWN}; fine-tuning enhances existing mechanisms (Prakash et al. 2024)",
        control=stats.paired_difference(own, chance, seed=config.seed),
        control_text="what it had before any training",
    )


if __name__ == "__main__":
    experiment.main(Config, run)
