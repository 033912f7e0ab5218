"""Do experts share out the tasks, and does the balance loss make them? (Fedus et al. 2021, arXiv:2101.03961, §2.2)

Each input says which of four tasks it is and holds a vector to turn; each task turns it its own way. One expert is just wide
enough for one task, and a router picks one expert for each input. Nothing tells the router that tasks exist. With a loss for
balance the experts part the tasks among them, and silencing an expert takes away its task and no other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor
from torch.nn import functional as F

from interp import experiment, figures, stats
from interp.models.experts import Experts, balance_loss, router_logits
from interp.models.hooked import Edit, HookedRootModule, Model
from interp.models.parts import Linear, Mlp
from interp.report import Report

ID = "E24"
SOURCE = "Fedus et al. 2021, §2.2"
OWN = "target of this report"


@dataclass(frozen=True, kw_only=True)
class Config:
    tasks: int = 4  # and as many experts
    width: int = 8  # dimensions of the vector to turn; an expert has twice as many neurons, what one linear map needs
    balance: float = 0.1  # weight of the balance loss
    runs: int = 5  # models trained, each with its own tasks
    steps: int = 800
    batch: int = 256
    held_out: int = 4000  # fresh inputs on which everything is measured
    seed: int = 0


QUICK = {"steps": 600, "held_out": 2000}


@dataclass(frozen=True)
class Drawn:
    """Inputs, whose first dimensions say the task and whose others hold the vector, with what is wanted."""

    task: Int[Tensor, " row"]
    x: Float[Tensor, "row d_model"]
    y: Float[Tensor, "row width"]


class Mixture(HookedRootModule):
    """One mixture of experts with a linear readout."""

    def __init__(self, config: Config, experts: int, generator: torch.Generator) -> None:
        super().__init__()
        d_model, hidden = config.tasks + config.width, 2 * config.width
        made = [Mlp(d_model, hidden, act_fn="relu", generator=generator) for _ in range(experts)]
        self.mlp = Experts(d_model, made, top_k=1, renormalised=False, generator=generator)
        self.readout = Linear(d_model, config.width, bias=False, generator=generator)
        self.setup()

    def forward(self, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row width"]:
        return self.readout(self.mlp(x[:, None]))[:, 0]  # each row is a sequence of one


@dataclass(frozen=True)
class Seen:
    """What one trained model does on fresh inputs: the expert of each, its router logits and its squared errors."""

    model: Model
    drawn: Drawn
    expert: Int[Tensor, " row"]
    logits: Float[Tensor, "row expert"]
    error: Float[Tensor, " row"]

    def shares(self, config: Config) -> Float[np.ndarray, "task expert"]:
        """Share of each task's inputs that go to each expert."""
        counts = torch.zeros(config.tasks, config.tasks).index_put_(
            (self.drawn.task, self.expert), torch.ones(len(self.expert)), accumulate=True
        )
        return (counts / counts.sum(1, keepdim=True)).numpy()


def run(config: Config, report: Report) -> None:
    with experiment.stage("train with the balance loss"):
        balanced = [trained(config, run) for run in range(config.runs)]
    with experiment.stage("train without it"):
        free = [trained(replace(config, balance=0.0), run) for run in range(config.runs)]
    with experiment.stage("train one expert alone"):
        alone = trained(config, 0, experts=1)
    report_parting(config, report, balanced, free)
    report_balance(config, report, balanced, free)
    report_ablation(config, report, balanced, alone)
    report.text(
        "What would have shown this false: with the balance loss, mutual information of task and expert below one half; an "
        "expert whose silence harms other tasks as much as its own."
    )


# ---- the tasks and the models ----


def tasks(config: Config, number: int) -> Float[Tensor, "task width width"]:
    """Random orthogonal maps, one for each task of run `number`."""
    drawn = torch.randn(config.tasks, config.width, config.width, generator=_generator(config, "tasks", number))
    return torch.linalg.qr(drawn)[0]


def draw(config: Config, maps: Float[Tensor, "task width width"], n: int, generator: torch.Generator) -> Drawn:
    """Inputs of random tasks: three times the task's unit vector beside a standard normal vector."""
    task = torch.randint(config.tasks, (n,), generator=generator)
    vector = torch.randn(n, config.width, generator=generator)
    x = torch.cat([3.0 * F.one_hot(task, config.tasks), vector], 1)
    return Drawn(task, x, torch.einsum("bij,bj->bi", maps[task], vector))


def trained(config: Config, number: int, *, experts: int | None = None) -> Seen:
    """One model, trained on mean squared error and the balance loss with a rate that falls to 0, and what it does."""
    generator = _generator(config, "training", number)
    maps, module = tasks(config, number), Mixture(config, experts or config.tasks, generator)
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=config.steps)
    for _ in range(config.steps):
        drawn = draw(config, maps, config.batch, generator)
        with router_logits(module) as logits:
            error = (module(drawn.x) - drawn.y).square().mean()
        optimizer.zero_grad()
        (error + config.balance * balance_loss(logits[0], top_k=1)).backward()
        optimizer.step()
        falling.step()
    model, fresh = Model.wrap(module.eval()), draw(config, maps, config.held_out, _generator(config, "fresh", number))
    run = model.run(fresh.x, read=["mlp.hook_router_logits"], logits=True)
    logits = run.activations["mlp.hook_router_logits"][:, 0]
    return Seen(model, fresh, logits.argmax(1), logits, squared_error(run.logits, fresh))


def squared_error(output: Float[Tensor, "row width"], drawn: Drawn) -> Float[Tensor, " row"]:
    """Mean over the dimensions; 1 in the mean for a model that says nothing."""
    return (output - drawn.y).square().mean(1)


def information(seen: Seen, labels: Int[Tensor, " row"]) -> float:
    """Normalised mutual information of a label and the expert chosen: 2 I / (H + H')."""
    return float(normalized_mutual_info_score(labels.numpy(), seen.expert.numpy()))


def _generator(config: Config, *purpose: str | int) -> torch.Generator:
    return torch.Generator().manual_seed(stats.torch_seed(config.seed, *purpose))


# ---- what they show ----


def report_parting(config: Config, report: Report, balanced: list[Seen], free: list[Seen]) -> None:
    """Each expert takes one task, and takes it for what task it is."""
    report.section("Who does what")
    with_loss, without = ([information(each, each.drawn.task) for each in seen] for seen in (balanced, free))
    signs = [information(each, sign_pattern(each.drawn, config)) for each in balanced]
    report.claim(
        "parting",
        f"normalised mutual information of task and expert, median of {config.runs} models",
        stats.bootstrap(with_loss, statistic=np.median, seed=config.seed),
        at_least=0.9,
        source=OWN,
        control=float(np.median(without)),
        control_text="trained without the balance loss",
    )
    report.claim(
        "not-the-vector",
        "the same of expert and the signs of the vector's first two dimensions, the most of any model",
        max(signs),
        at_most=0.05,
        source=OWN,
        control=float(np.median(with_loss)),
        control_text="task and expert",
    )
    rows = [
        {"model": number, "balance loss": kind, "mutual information": value}
        for kind, values in (("with", with_loss), ("without", without))
        for number, value in enumerate(values)
    ]
    report.table("information", rows, caption="Normalised mutual information of task and expert, model by model.")
    worst = int(np.argmin(without))
    for name, seen, words in (("with", balanced[worst], "with"), ("without", free[worst], "without")):
        table = by_task(seen.shares(config), "share")
        report.figure(
            f"shares-{name}",
            figures.heatmap(table, "expert", "task", "share", title=f"Trained {words} the balance loss"),
            data=table,
            caption=f"Share of each task's inputs that go to each expert, in model {worst}.",
            alt=f"Share of inputs by task and expert, trained {words} the balance loss.",
        )


def sign_pattern(drawn: Drawn, config: Config) -> Int[Tensor, " row"]:
    """Which of four quadrants the vector's first two dimensions are in: a label that an expert could follow instead."""
    first, second = (drawn.x[:, config.tasks + i] > 0 for i in range(2))
    return 2 * first.long() + second.long()


def by_task(values: Float[np.ndarray, "task expert"], name: str) -> pd.DataFrame:
    """One row for each task and expert."""
    return pd.DataFrame([{"task": t, "expert": e, name: float(each)} for (t, e), each in np.ndenumerate(values)])


def report_balance(config: Config, report: Report, balanced: list[Seen], free: list[Seen]) -> None:
    """The balance loss itself: its closed-form value, and what training makes of it."""
    even = torch.eye(config.tasks)
    report.claim(
        "uniform",
        "balance loss of a router that shares evenly",
        float(balance_loss(even, top_k=1)),
        equals=1.0,
        tolerance=1e-6,
        source=f"{SOURCE}, eq. 4",
        control=float(balance_loss(1000.0 * even[:1].expand(config.tasks, -1), top_k=1)),
        control_text="all to one expert: their number",
    )
    report.claim(
        "balanced",
        "balance loss after training on it",
        stats.bootstrap([float(balance_loss(each.logits, top_k=1)) for each in balanced], seed=config.seed),
        at_most=1.05,
        source=SOURCE,
        control=float(np.mean([float(balance_loss(each.logits, top_k=1)) for each in free])),
        control_text="trained without",
    )


def report_ablation(config: Config, report: Report, balanced: list[Seen], alone: Seen) -> None:
    """Silencing an expert takes away its own task: routing is division of labour, not only a habit."""
    report.section("Silencing an expert")
    errors = [without_each(seen, config) for seen in balanced]
    own = [own_and_others(each, seen.shares(config)) for each, seen in zip(errors, balanced, strict=True)]
    report.claim(
        "own-task",
        "rise of the squared error of an expert's own task when it is silenced, mean over experts",
        stats.bootstrap([each[0] for each in own], seed=config.seed),
        at_least=0.5,
        source=f"{OWN}; 1 is what a model that says nothing gets",
        control=stats.bootstrap([each[1] for each in own], seed=config.seed),
        control_text="the other tasks",
    )
    report.claim(
        "learned",
        "squared error on fresh inputs",
        stats.bootstrap([float(each.error.mean()) for each in balanced], seed=config.seed),
        at_most=0.05,
        source=OWN,
        control=float(alone.error.mean()),
        control_text="one expert alone, as wide as each of the four",
    )
    table = by_task(errors[0], "rise")
    report.figure(
        "silenced",
        figures.heatmap(table, "expert", "task", "rise", title="Rise of the squared error"),
        data=table,
        caption="What silencing each expert does to each task, in model 0.",
        alt="Rise of the error by task and silenced expert: one large entry in each row and column.",
    )


def without_each(seen: Seen, config: Config) -> Float[np.ndarray, "task expert"]:
    """Rise of each task's squared error when each expert's output is 0."""
    rise = np.zeros((config.tasks, config.tasks))
    for expert in range(config.tasks):
        silent = seen.model.run(seen.drawn.x, edits=[Edit(f"mlp.experts.{expert}.hook_out", torch.zeros_like)])
        change = squared_error(silent.logits, seen.drawn) - seen.error
        rise[:, expert] = [float(change[seen.drawn.task == task].mean()) for task in range(config.tasks)]
    return rise


def own_and_others(rise: Float[np.ndarray, "task expert"], shares: Float[np.ndarray, "task expert"]) -> tuple[float, float]:
    """Mean rise of the task that each expert does most for, and of all other tasks."""
    own = np.zeros_like(rise, dtype=bool)
    own[shares.argmax(0), np.arange(rise.shape[1])] = True
    return float(rise[own].mean()), float(rise[~own].mean())


if __name__ == "__main__":
    experiment.main(Config, run)
