"""How much of a change of weights fits in a low rank, and what does fine-tuning change? (Hu et al. 2021, arXiv:2106.09685)

A linear student with an adapter of rank r can follow a teacher's shift as far as Eckart and Young allow, and training gets
there. Then the induction model learns to say segments backwards: which heads change, of what rank the change is, whether a
narrow adapter can follow, and whether a teacher's answers teach as well as true ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from interp import experiment, figures, stats
from interp.heads import patterns
from interp.models.hooked import HookedRootModule, Model
from interp.models.lora import Adapters, effective_rank, nearest, spectrum
from interp.models.parts import Linear
from interp.models.training import fast_logits
from interp.report import Report

ID = "E21"
OWN = "target of this report"
PARTS = [f"blocks.{layer}.attn.{part}" for layer in range(2) for part in ("q", "k", "v", "o")]
Labels = Callable[[Tensor], Tensor]  # rows [batch pos] -> wanted next tokens [batch pos-1]


@dataclass(frozen=True, kw_only=True)
class Config:
    width: int = 24  # of the linear student
    shift: tuple[float, ...] = (
        3.0,
        2.5,
        2.0,
        1.5,
        1.0,
        0.5,
    )  # singular values of the teacher's shift; their number is its rank r*
    ranks: tuple[int, ...] = (1, 2, 3, 4, 6, 8)  # of the adapter
    shifts: int = 3  # teachers
    linear_steps: int = 800
    model: str = "induction-2l"
    steps: int = 800  # of fine-tuning
    batch: int = 32
    adapter: int = 8  # rank of the adapters on the model
    held_out: int = 128  # rows on which the models are measured
    seed: int = 0


QUICK = {"shifts": 1, "steps": 500}


def run(config: Config, report: Report) -> None:
    with experiment.stage("train linear adapters"):
        report_linear(config, report)
    with experiment.stage("fine-tune the model"):
        before, tuned = Model.load(config.model), fine_tuned(config, "curated", following)
    report_change(config, report, before, tuned)
    with experiment.stage("fine-tune on a teacher's answers"):
        report_teacher(config, report, before, tuned)
    report.text(
        "What would have shown this false: an adapter narrower than the shift that does better than the singular values allow; a "
        "fine-tuned model whose heads look where they looked before."
    )


def generator(config: Config, *purpose: str | int) -> torch.Generator:
    return torch.Generator().manual_seed(stats.torch_seed(config.seed, *purpose))


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
    u, v = torch.linalg.qr(torch.randn(2, config.width, len(config.shift), generator=generator(config, "shift", number)))[0]
    return (u * torch.tensor(config.shift)) @ v.T


def trained_loss(config: Config, rank: int, number: int) -> float:
    """E|ΔW x − Δ* x|² = ‖ΔW − Δ*‖² for normal x, after training an adapter on fresh x with a rate that falls to 0."""
    drawn, wanted = generator(config, "linear", rank, number), shift(config, number)
    model = Model.wrap(Student(config.width, drawn))
    adapters = Adapters(model, ["map"], rank=rank, alpha=rank, seed=config.seed)
    base = model.weight("map.weight").clone()
    optimizer = torch.optim.Adam(adapters.parameters(), lr=0.02)
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
    basis = torch.linalg.qr(torch.randn(config.width, rank, generator=generator(config, "chance", number)))[0]
    return float((wanted - basis @ basis.T @ wanted).square().sum())


# ---- a model that learns to say segments backwards ----


@dataclass(frozen=True)
class Mirrored:
    """Rows of a start token, a random segment, the segment backwards, and random tokens. `known` marks the tokens that the row
    so far determines, from the second step back on."""

    tokens: Int[Tensor, "batch pos"]
    known: Bool[Tensor, "batch pos"]


def mirrored(n: int, length: int, d_vocab: int, drawn: torch.Generator) -> Mirrored:
    """Segments of 10 tokens to half a row; the last is not said twice."""
    order = 1 + torch.rand(n, d_vocab - 1, generator=drawn).argsort(1)[:, : length - 1]
    size = torch.randint(10, length // 2 + 1, (n, 1), generator=drawn)
    place = torch.arange(length - 1).expand(n, -1)
    source = torch.where(place < size, place, 2 * size - 2 - place)
    tokens = order.gather(1, torch.where(source >= 0, source, place))
    start = torch.zeros(n, 1, dtype=torch.long)
    return Mirrored(torch.cat([start, tokens], 1), torch.cat([start.bool(), (place > size) & (source >= 0)], 1))


def following(rows: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos-1"]:
    """The true next tokens."""
    return rows[:, 1:]


def answers_of(teacher: Model) -> Labels:
    """A teacher's likeliest next tokens."""
    return lambda rows: teacher.run(rows).logits[:, :-1].argmax(-1)


def fine_tuned(config: Config, purpose: str, labels: Labels, *, rank: int | None = None) -> Model:
    """The model after training its attention, or adapters on it, on mirrored rows with a rate that falls to 0."""
    model = Model.load(config.model)
    module = model.bridge.original_model
    if rank is None:
        learned: list[nn.Parameter] = [w for name, w in module.named_parameters() if ".attn." in name and name.endswith("weight")]
    else:
        adapters = Adapters(model, PARTS, rank=rank, alpha=rank, seed=config.seed)
        learned = adapters.parameters()
    optimizer = torch.optim.Adam(learned, lr=3e-3)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=config.steps)
    for batch in batches(config, model, purpose):
        logits = fast_logits(module, batch.tokens)[:, :-1]
        optimizer.zero_grad()
        F.cross_entropy(logits[batch.known[:, 1:]], labels(batch.tokens)[batch.known[:, 1:]]).backward()
        optimizer.step()
        falling.step()
    if rank is not None:
        adapters.merge()
    return model


def batches(config: Config, model: Model, purpose: str) -> Iterator[Mirrored]:
    drawn = generator(config, "rows", purpose)
    return (mirrored(config.batch, model.n_ctx, model.d_vocab, drawn) for _ in range(config.steps))


def accuracy(config: Config, model: Model) -> Float[np.ndarray, " row"]:
    """Share of the determined tokens that the model gets right, row by row, on fresh rows."""
    rows = mirrored(config.held_out, model.n_ctx, model.d_vocab, generator(config, "held out"))
    right = (model.run(rows.tokens).logits[:, :-1].argmax(-1) == rows.tokens[:, 1:]) & rows.known[:, 1:]
    return (right.sum(1) / rows.known.sum(1)).double().numpy()


def report_change(config: Config, report: Report, before: Model, tuned: Model) -> None:
    """What fine-tuning changed: where heads look, and of what rank the change is."""
    report.section("A model that learns to go backwards")
    rows = mirrored(config.held_out, before.n_ctx, before.d_vocab, generator(config, "held out")).tokens
    looks = {
        name: patterns.scores(model, rows, kinds=("induction", "duplicate_token"), special=[0])
        for name, model in (("before", before), ("after", tuned))
    }
    heads = {name: found["duplicate_token"].mean("example").top(1)[0] for name, found in looks.items()}
    layer, head = heads["after"]
    report.claim(
        "looks-at-the-match",
        f"after fine-tuning, attention of head {layer}.{head} to the earlier match itself",
        looks["after"]["duplicate_token"].sel(layer=layer, head=head).estimate(seed=config.seed),
        at_least=0.5,
        source=OWN,
        control=looks["before"]["duplicate_token"].sel(layer=layer, head=head).estimate(seed=config.seed),
        control_text="the same head before",
    )
    old = looks["before"]["induction"].mean("example").top(1)[0]
    lost = stats.paired_difference(
        *(looks[name]["induction"].sel(layer=old[0], head=old[1]).values for name in ("before", "after")), seed=config.seed
    )
    report.claim(
        "leaves-the-next",
        f"attention that head {old[0]}.{old[1]}, the best induction head before, has lost to the token after the match",
        lost,
        at_least=0.5,
        source=OWN,
        control=float(
            (looks["before"]["induction"].mean("example").values - looks["after"]["induction"].mean("example").values)[0].max()
        ),
        control_text="the heads of layer 0, the most",
    )
    changes = {part: change_of(before, tuned, part) for part in PARTS}
    drawn = generator(config, "random change")
    relative = [effective_rank(each) / effective_rank(torch.randn(each.shape, generator=drawn)) for each in changes.values()]
    report.claim(
        "low-rank",
        "effective rank of the change of a matrix over that of a random one, mean over matrices",
        stats.bootstrap(relative, seed=config.seed),
        at_most=0.8,
        source=f"{OWN}, after Hu et al. 2021, §7",
        control=1.0,
        control_text="random changes",
    )
    rows_ = [
        {
            "matrix": part,
            "effective rank": effective_rank(each),
            "left by rank 8": float((each - nearest(each, 8)).norm() / each.norm()),
        }
        for part, each in changes.items()
    ]
    report.table(
        "change", rows_, caption="What fine-tuning changed: effective rank of each matrix's change, of 64, and its rest."
    )
    spectra = pd.DataFrame(
        [
            {"place": i + 1, "share": float(value), "matrix": part.removeprefix("blocks.")}
            for part in ("blocks.0.attn.q", "blocks.0.attn.v", "blocks.1.attn.q", "blocks.1.attn.o")
            for i, value in enumerate(spectrum(changes[part]) / spectrum(changes[part])[0])
        ]
    )
    report.figure(
        "spectra",
        figures.lines(
            spectra, "place", "share", by="matrix", xlabel="singular value", ylabel="share of the largest", ylim=(0, None)
        ),
        data=spectra,
        caption="Singular values of what fine-tuning added, over the largest of each matrix.",
        alt="Singular values of the change of four matrices fall from one: the first few are the largest.",
    )


def change_of(before: Model, after: Model, part: str) -> Float[Tensor, "d_out d_in"]:
    """What was added to the matrix of a part."""
    first, second = (model.bridge.get_submodule(part).original_component.weight.detach() for model in (before, after))
    return second - first


def report_teacher(config: Config, report: Report, before: Model, tuned: Model) -> None:
    """Training on what a tuned teacher says, and through adapters."""
    report.section("Answers of a teacher, and a narrow adapter")
    student = fine_tuned(config, "student", answers_of(tuned))
    narrow = fine_tuned(config, "curated", following, rank=config.adapter)
    found = {
        "before": accuracy(config, before),
        "tuned on true rows": accuracy(config, tuned),
        "tuned on the teacher's answers": accuracy(config, student),
        f"adapters of rank {config.adapter}": accuracy(config, narrow),
    }
    report.claim(
        "teacher",
        "accuracy that a student trained on the tuned model's answers lacks, against that model on the same rows",
        stats.paired_difference(found["tuned on true rows"], found["tuned on the teacher's answers"], seed=config.seed),
        at_most=0.1,
        source=OWN,
        control=stats.paired_difference(found["tuned on true rows"], found["before"], seed=config.seed),
        control_text="the model before any fine-tuning",
    )
    rows = [
        {"model": name, "accuracy": each.value, "low": each.low, "high": each.high}
        for name, values in found.items()
        for each in [stats.bootstrap(values, seed=config.seed)]
    ]
    table = pd.DataFrame(rows)
    report.figure(
        "accuracy",
        figures.bars(table, "model", "accuracy", low="low", high="high", xlim=(0, 1)),
        data=table,
        caption=f"Tokens of mirrored segments that are predicted, after {config.steps} steps each.",
        alt="Bars of accuracy: the model before, after fine-tuning on true rows and on the teacher's answers, and with adapters.",
    )


if __name__ == "__main__":
    experiment.main(Config, run)
