"""Do experts share out the tasks, and does the balance loss make them? (Fedus et al. 2021, arXiv:2101.03961, §2.2)

Each input says which of four tasks it is and holds a vector to turn; each task turns it its own way. One expert is just wide
enough for one task, and a router picks one expert for each input. Nothing tells the router that tasks exist. With a loss for
balance the experts part the tasks among them. An expert is then taken away in three ways: it writes nothing; the router has to
choose another; its inputs are sent to another with all their weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from interp import experiment, figures, stats
from interp.mlp.rerouting import Ablation, Effects, effects, left_out, sent, silenced
from interp.mlp.routing import Decisions, decided, load, sureness, usage
from interp.mlp.specialists import information
from interp.models.experts import Experts, balance_loss, router_logits
from interp.models.hooked import Edit, Model
from interp.models.lens import HookedRootModule
from interp.models.parts import Linear, Mlp
from interp.report import Report

ID = "E24"
SOURCE = "Fedus et al. 2021, §2.2"
OWN = "target of this report"
LAYER = "mlp"


@dataclass(frozen=True, kw_only=True)
class Config:
    tasks: int = 4  # and as many experts
    width: int = 8  # dimensions of the vector to turn; an expert has twice as many neurons, what one linear map needs
    balance: float = 0.1  # weight of the balance loss
    runs: int = 5  # models trained, each with its own tasks
    steps: int = 300
    batch: int = 256
    held_out: int = 2000  # fresh inputs on which everything is measured
    seed: int = 0


QUICK = {"steps": 250}


class Mixture(HookedRootModule):
    """One mixture of experts with a linear readout."""

    def __init__(self, config: Config, experts: int, generator: torch.Generator) -> None:
        super().__init__()
        d_model, hidden = config.tasks + config.width, 2 * config.width
        made = [Mlp(d_model, hidden, act_fn="relu", generator=generator) for _ in range(experts)]
        self.mlp = Experts(d_model, made, top_k=1, renormalised=False, generator=generator)
        self.readout = Linear(d_model, config.width, bias=False, generator=generator)
        self.setup()

    def forward(self, x: Float[Tensor, "row 1 d_model"]) -> Float[Tensor, "row 1 width"]:
        return self.readout(self.mlp(x))


@dataclass(frozen=True)
class Trained:
    """One model, and what it does on fresh inputs: its router's decisions and its squared errors."""

    model: Model
    maps: Float[Tensor, "task width width"]
    x: Float[Tensor, "row 1 d_model"]
    decisions: Decisions
    error: Float[np.ndarray, " row"]

    @property
    def task(self) -> Int[np.ndarray, " row"]:
        return task_of(self.x, len(self.maps)).flatten().numpy()

    def by_task(self, values: Float[np.ndarray, "expert row"]) -> Float[np.ndarray, "task expert"]:
        """Means over the inputs of each task."""
        return np.stack([values[:, self.task == task].mean(1) for task in range(len(self.maps))])

    def shares(self) -> Float[np.ndarray, "task expert"]:
        """Share of each task's inputs that go to each expert."""
        return self.by_task(self.decisions.chosen(LAYER).T.double().numpy())

    def without(self, ablation: Ablation) -> Effects:
        """Rise of the squared error with each expert taken away: Measurements(layer, expert, example)."""
        error = partial(squared_error, maps=self.maps)
        return effects(self.model, self.x, metric=error, ablation=ablation, unit="", batch=len(self.x))


def run(config: Config, report: Report) -> None:
    with experiment.stage("train with the balance loss"):
        balanced = [trained(config, number) for number in range(config.runs)]
    with experiment.stage("train without it"):
        free = [trained(replace(config, balance=0.0), number) for number in range(config.runs)]
    with experiment.stage("train one expert alone"):
        alone = trained(config, 0, experts=1)
    report_parting(config, report, balanced, free)
    report_balance(config, report, balanced, free)
    report_silence(config, report, balanced, alone)
    report_replacement(config, report, balanced)
    report.text(
        "What would have shown this false: with the balance loss, mutual information of task and expert below one half; an "
        "expert whose silence harms other tasks as much as its own; another expert that does the task as well."
    )


# ---- the tasks and the models ----


def tasks(config: Config, number: int) -> Float[Tensor, "task width width"]:
    """Random orthogonal maps, one for each task of run `number`."""
    drawn = torch.randn(config.tasks, config.width, config.width, generator=stats.torch_generator(config.seed, "tasks", number))
    return torch.linalg.qr(drawn)[0]


def draw(config: Config, n: int, generator: torch.Generator) -> Float[Tensor, "row 1 d_model"]:
    """Inputs of random tasks: three times the task's unit vector beside a standard normal vector. Each is a sequence of one."""
    task = torch.randint(config.tasks, (n, 1), generator=generator)
    vector = torch.randn(n, 1, config.width, generator=generator)
    return torch.cat([3.0 * F.one_hot(task, config.tasks), vector], -1)


def task_of(x: Float[Tensor, "row 1 d_model"], n_tasks: int) -> Int[Tensor, "row 1"]:
    """Which task an input says it is."""
    return x[..., :n_tasks].argmax(-1)


def squared_error(
    output: Float[Tensor, "row 1 width"], x: Float[Tensor, "row 1 d_model"], *, maps: Float[Tensor, "task width width"]
) -> Float[Tensor, "row 1"]:
    """Against the vector turned by its task's map, mean over the dimensions; 1 in the mean for a model that says nothing."""
    wanted = torch.einsum("rpij,rpj->rpi", maps[task_of(x, len(maps))], x[..., len(maps) :])
    return (output - wanted).square().mean(-1)


def trained(config: Config, number: int, *, experts: int | None = None) -> Trained:
    """One model, trained on mean squared error and the balance loss with a rate that falls to 0, and what it does."""
    generator = stats.torch_generator(config.seed, "training", number)
    maps, module = tasks(config, number), Mixture(config, experts or config.tasks, generator)
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-2)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=max(config.steps, 1))
    for _ in range(config.steps):
        x = draw(config, config.batch, generator)
        with router_logits(module) as logits:
            error = squared_error(module(x), x, maps=maps).mean()
        optimizer.zero_grad()
        (error + config.balance * balance_loss(logits[0], top_k=1)).backward()
        optimizer.step()
        falling.step()
    model, x = Model.wrap(module.eval()), draw(config, config.held_out, stats.torch_generator(config.seed, "fresh", number))
    error = squared_error(model.run(x).logits, x, maps=maps).flatten().double().numpy()
    return Trained(model, maps, x, decided(model, x), error)


# ---- what the routers decide ----


def report_parting(config: Config, report: Report, balanced: list[Trained], free: list[Trained]) -> None:
    """Each expert takes one task, and takes it for what task it is."""
    report.section("Who does what")
    table = pd.concat([told(seen, kind) for kind, seen in (("with", balanced), ("without", free))], ignore_index=True)
    values = {key: part.information.to_numpy() for key, part in table.groupby(["balance loss", "label"])}
    report.claim(
        "parting",
        f"normalised mutual information of task and expert, median of {config.runs} models",
        stats.bootstrap(values["with", "task"], statistic=np.median, seed=config.seed),
        at_least=0.9,
        source=OWN,
        control=float(np.median(values["without", "task"])),
        control_text="trained without the balance loss",
    )
    report.claim(
        "not-the-vector",
        "the same of expert and the signs of the vector's first two dimensions, the most of any model",
        float(values["with", "signs"].max()),
        at_most=0.05,
        source=OWN,
        control=float(np.median(values["with", "task"])),
        control_text="task and expert",
    )
    report.table(
        "information", table, caption="Information of label and expert, model by model; shuffled: labels dealt out anew."
    )
    worst = int(np.argmin(values["without", "task"]))
    for kind, seen in (("with", balanced[worst]), ("without", free[worst])):
        shares = cells(seen.shares(), "share")
        report.figure(
            f"shares-{kind}",
            figures.heatmap(shares, "expert", "task", "share", title=f"Trained {kind} the balance loss"),
            data=shares,
            caption=f"Share of each task's inputs that go to each expert, in model {worst}.",
            alt=f"Share of inputs by task and expert, trained {kind} the balance loss.",
        )


def told(models: list[Trained], kind: str) -> pd.DataFrame:
    """Normalised mutual information of the expert with the task, and with a label that it could follow instead."""
    parts = []
    for number, seen in enumerate(models):
        vector = seen.x[:, 0, len(seen.maps) :]
        signs = 2 * (vector[:, 0] > 0).long() + (vector[:, 1] > 0).long()
        found = information(seen.decisions, {"task": seen.task, "signs": signs.numpy()})
        parts.append(labelled(found.drop(columns="layer"), number, kind))
    return pd.concat(parts)


def labelled(table: pd.DataFrame, number: int, kind: str) -> pd.DataFrame:
    """The rows of one model, which they name first."""
    return pd.concat([pd.DataFrame({"model": number, "balance loss": kind}, index=table.index), table], axis=1)


def cells(values: Float[np.ndarray, "task expert"], name: str) -> pd.DataFrame:
    """One row for each task and expert."""
    return pd.DataFrame([{"task": t, "expert": e, name: float(each)} for (t, e), each in np.ndenumerate(values)])


def report_balance(config: Config, report: Report, balanced: list[Trained], free: list[Trained]) -> None:
    """The balance loss itself: its closed-form value, and what training makes of it."""
    report.section("Balance")
    report_uniform(config, report)
    untrained = [trained(replace(config, steps=0), number) for number in range(config.runs)]
    kinds = {"untrained": untrained, "with": balanced, "without": free}
    table = pd.concat([routers(seen, kind) for kind, seen in kinds.items()], ignore_index=True)
    values = {kind: part.balance.to_numpy() for kind, part in table.groupby("balance loss")}
    report.claim(
        "balanced",
        "balance loss after training on it",
        stats.bootstrap(values["with"], seed=config.seed),
        at_most=1.05,
        source=SOURCE,
        control=float(values["without"].mean()),
        control_text="trained without",
    )
    report.table(
        "routers",
        table,
        caption="Routers, model by model: how even (balance, 1 to 4) and how sure they are: entropy of their probabilities, and "
        "margin between the logits of the expert chosen and of the next, in nats.",
    )
    loads = pd.concat([busiest_first(seen, number) for number, seen in enumerate(free)], ignore_index=True)
    report.figure(
        "load",
        figures.heatmap(loads, "rank", "model", "load", title="Trained without the balance loss", xlabel="expert, busiest first"),
        data=loads,
        caption="Load of every expert: 1 is an even part. Where one has 2, another is idle, and two tasks share one expert.",
        alt="Load by model and expert, busiest first: some experts have twice an even part, and some have nothing.",
    )


def routers(models: list[Trained], kind: str) -> pd.DataFrame:
    """One row for each model: how even and how sure its router is."""
    found = (sureness(usage([seen.decisions])).filter(["balance", "entropy", "margin"]) for seen in models)
    return pd.concat([labelled(rows, number, kind) for number, rows in enumerate(found)])


def report_uniform(config: Config, report: Report) -> None:
    """Closed form: the loss of the evenest router is 1."""
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


def busiest_first(seen: Trained, number: int) -> pd.DataFrame:
    """The loads of one model's experts."""
    loads = load(usage([seen.decisions])).load.sort_values(ascending=False)
    return pd.DataFrame({"model": number, "rank": range(1, len(loads) + 1), "load": loads.to_numpy()})


# ---- what the experts do ----


def report_silence(config: Config, report: Report, balanced: list[Trained], alone: Trained) -> None:
    """Silencing an expert takes away its own task: routing is division of labour, not only a habit."""
    report.section("Taking an expert away")
    own, others = own_and_others(balanced, silenced)
    report.claim(
        "own-task",
        "rise of the squared error of an expert's own task when it is silenced, mean over experts",
        stats.bootstrap(own, seed=config.seed),
        at_least=0.5,
        source=f"{OWN}; 1 is what a model that says nothing gets",
        control=stats.bootstrap(others, seed=config.seed),
        control_text="the other tasks",
    )
    report_bystanders(config, report, balanced)
    report.claim(
        "learned",
        "squared error on fresh inputs",
        stats.bootstrap([float(each.error.mean()) for each in balanced], seed=config.seed),
        at_most=0.05,
        source=OWN,
        control=float(alone.error.mean()),
        control_text="one expert alone, as wide as each of the four",
    )


def report_bystanders(config: Config, report: Report, models: list[Trained]) -> None:
    """By the formula: y = Σ w_e expert_e(x), so the silence of an expert with weight 0 changes nothing."""
    found = [seen.without(silenced) for seen in models]
    most_others, most_own = (
        max(float(np.nanmax(np.abs(getattr(each, kind).values))) for each in found) for kind in ("others", "own")
    )
    report.claim(
        "bystanders",
        "largest change of the squared error of an input, when an expert is silenced that it was not sent to",
        most_others,
        at_most=1e-6,
        source="by the formula of the mixture",
        control=most_own,
        control_text="inputs that were sent to it",
    )


def report_replacement(config: Config, report: Report, balanced: list[Trained]) -> None:
    """Another expert in its place does worse than none: it turns the vector, but the wrong way."""
    silence, replaced = (own_and_others(balanced, ablation)[0] for ablation in (silenced, left_out))
    kept, misled = own_and_others(balanced, only_this)
    ways = {"silenced": silence, "left out of the choice": replaced, "inputs sent to another": misled}
    rises = {way: stats.bootstrap(values, seed=config.seed) for way, values in ways.items()}
    report.claim(
        "left-out",
        "rise of the squared error of an expert's own task when the router may not choose it",
        rises["left out of the choice"],
        at_least=1.1,
        source=f"{OWN}; the next expert takes its place",
        control=rises["silenced"],
        control_text="the expert silenced: nothing takes its place",
    )
    report.claim(
        "wrong-expert",
        "rise of the squared error of inputs sent to the expert of another task, with all their weight",
        rises["inputs sent to another"],
        at_least=1.1,
        source=f"{OWN}; two unrelated orthogonal maps differ by 2 in the mean",
        control=stats.bootstrap(kept, seed=config.seed),
        control_text="sent to their own",
    )
    table = pd.DataFrame([{"expert": way, "rise": each.value, "low": each.low, "high": each.high} for way, each in rises.items()])
    report.figure(
        "ways",
        figures.bars(table, "expert", "rise", low="low", high="high", xlabel="rise of the squared error of its own task"),
        data=table,
        caption=f"What it costs a task to lose its expert, three ways; mean and 95 % interval over {config.runs} models.",
        alt="Bars: a silenced expert costs 1, one left out of the choice more, inputs sent to another expert most.",
    )
    for name, title, ablation in (
        ("silenced", "One expert silenced", silenced),
        ("sent", "All inputs sent to one expert", only_this),
    ):
        rise = cells(balanced[0].by_task(balanced[0].without(ablation).every.sel(layer=LAYER).values), "rise")
        report.figure(
            name,
            figures.heatmap(rise, "expert", "task", "rise", title=title),
            data=rise,
            caption=f"{title}: the rise of every task's squared error, in model 0.",
            alt=f"{title}: rise of the squared error by task and expert.",
        )


def only_this(model: Model, layer: str, experts: Sequence[int]) -> list[Edit]:
    """Everything is sent to the first of the experts named."""
    return sent(model, layer, experts[0])


def own_and_others(models: list[Trained], ablation: Ablation) -> tuple[list[float], list[float]]:
    """Mean rise of the task that each expert does most for, and of all other tasks, model by model."""
    own, others = [], []
    for seen in models:
        rise = seen.by_task(seen.without(ablation).every.sel(layer=LAYER).values)
        is_own = np.zeros_like(rise, dtype=bool)
        is_own[seen.shares().argmax(0), np.arange(rise.shape[1])] = True
        own.append(float(rise[is_own].mean()))
        others.append(float(rise[~is_own].mean()))
    return own, others


if __name__ == "__main__":
    experiment.main(Config, run)
