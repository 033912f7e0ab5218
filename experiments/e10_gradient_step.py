"""Does attention learn from its context by a step of gradient descent? (von Oswald et al. 2023, arXiv:2212.07677)

Each row shows pairs (x, y) of a linear function of its own and asks for one more y. One layer of linear attention can answer as a
step of gradient descent on the pairs would, with weights written by hand; trained on nothing but the error of its answers, it
comes to do so, with the best step there is. It does so too where that is no longer wise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp import experiment, figures, stats
from interp.models.closed_forms_regression import LinearHead, best_rate, descent_step, step_of
from interp.models.hooked import Edit, Model
from interp.report import Report
from interp.stats import Estimate
from interp.tasks.regression import Regressions, regressions

ID = "E10"
SOURCE = "von Oswald et al. 2023, §3"
OWN = "target of this report"


@dataclass(frozen=True, kw_only=True)
class Config:
    width: int = 10  # d, dimensions of x
    shown: int = 10  # N, pairs in a row
    steps: int = 1500
    batch: int = 2048
    learning_rate: float = 0.01  # falls linearly to 0
    held_out: int = 5000  # fresh rows on which everything is measured
    seeds: int = 20  # on which the weights written by hand are tested
    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)  # largest |x| at which the trained layer is tried; it is trained at 1
    seed: int = 0


QUICK = {"steps": 1000}


def run(config: Config, report: Report) -> None:
    report_construction(config, report)
    with experiment.stage("train"):
        model, losses = trained(config, lambda rows: rows)
    with experiment.stage("train on labels of other rows"):
        misled, _ = trained(config, foreign_labels)
    models = {"trained": model, "labels of other rows": misled, "untrained": fresh(config)}
    report_training(config, report, models, losses)
    report_weights(config, report, model)
    report_patching(config, report, models)
    report_scales(config, report, model)
    report.text(
        "What would have shown this false: answers of the trained layer that another step, or no step, explains better; "
        "sensitivities at an angle to those of the step; a changed label that acts through anything but its value."
    )


# ---- rows, layers, the step ----


def held_out(config: Config, *, scale: float = 1.0) -> Regressions:
    return regressions(
        config.held_out, config.shown, config.width, generator=stats.torch_generator(config.seed, "held out"), scale=scale
    )


def fresh(config: Config) -> Model:
    """A layer with random weights."""
    return Model.wrap(LinearHead(config.width, generator=stats.torch_generator(config.seed, "weights")).eval(), name="untrained")


def foreign_labels(rows: Regressions) -> Regressions:
    """The same, but the pairs show labels of another row: nothing can be learned from them."""
    return replace(rows, y=torch.cat([rows.y[:, :-1].roll(1, 0), rows.y[:, -1:]], 1))


def trained(config: Config, shown_as: Callable[[Regressions], Regressions]) -> tuple[Model, list[float]]:
    """A layer trained on ½ (answer − y)², rows drawn anew at every step, and its loss along the way."""
    module, drawn = (
        LinearHead(config.width, generator=stats.torch_generator(config.seed, "weights")),
        stats.torch_generator(config.seed, "batches"),
    )
    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=config.learning_rate)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=config.steps)
    losses = []
    for _ in experiment.progress(range(config.steps), "training"):
        rows = shown_as(regressions(config.batch, config.shown, config.width, generator=drawn))
        loss = (module.answers(rows.tokens) - rows.answers).square().mean() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        losses.append(float(loss.detach()))
    return Model.wrap(module.eval(), name="trained"), losses


def loss_of(answers: Float[Tensor, " example"], rows: Regressions) -> Float[np.ndarray, " example"]:
    """½ (answer − y)² of each row."""
    return ((answers - rows.answers).square() / 2).double().numpy()


def effective_rate(answers: Float[Tensor, " example"], rows: Regressions, *, seed: int) -> Estimate:
    """The step whose answers come nearest: the least-squares slope of the answers on those of a step of 1."""
    step = rows.after_descent(1.0).double().numpy()
    return stats.ratio(answers.double().numpy() * step, step**2, seed=seed)


def scaled(estimate: Estimate, by: float) -> Estimate:
    """The estimate in other units."""
    return Estimate(estimate.value * by, estimate.low * by, estimate.high * by, estimate.n)


def sensitivity(model: Model, tokens: Float[Tensor, "example pos width"]) -> Float[Tensor, "example d"]:
    """∂answer / ∂x_query: the weights that the row has taught the layer."""
    asked = tokens.clone().requires_grad_()
    return torch.autograd.grad(model.run(asked, grad=True).logits.sum(), asked)[0][:, -1, :-1]


# ---- weights written by hand ----


def report_construction(config: Config, report: Report) -> None:
    """Attention can do it, exactly."""
    report.section("Written by hand")
    report.text(
        "Queries and keys are x, values are y, and the sum is multiplied by the rate: the answer is `x_query · rate Σ y_i x_i`, "
        "as it is after one step of gradient descent from w = 0."
    )
    rate, gaps = best_rate(config.shown, config.width), []
    hand, other = descent_step(config.width, rate), fresh(config)
    for number in range(config.seeds):
        rows = regressions(1000, config.shown, config.width, generator=stats.torch_generator(config.seed, "construction", number))
        wanted = rows.after_descent(rate)
        gaps.append([float((each.run(rows.tokens).logits - wanted).abs().max()) for each in (hand, other)])
    report.claim(
        "construction",
        f"weights written by hand: largest difference from a step of gradient descent, over {config.seeds} seeds",
        max(gap for gap, _ in gaps),
        at_most=1e-5,
        source=f"{SOURCE}, proposition 1",
        control=min(gap for _, gap in gaps),
        control_text="random weights, the least of the largest differences",
    )


# ---- trained ----


def report_training(config: Config, report: Report, models: dict[str, Model], losses: list[float]) -> None:
    """Loss, sensitivities and effective step of the trained layer, beside those of the best step."""
    report.section("Trained")
    rows, rate = held_out(config), best_rate(config.shown, config.width)
    wanted = rows.after_descent(rate)
    taught = rate * torch.einsum("epd,ep->ed", rows.x[:, :-1], rows.y[:, :-1])
    answers = {name: model.run(rows.tokens).logits for name, model in models.items()}
    seed, step = config.seed, loss_of(wanted, rows)
    loss = {name: stats.ratio(loss_of(each, rows), step, seed=seed) for name, each in answers.items()}
    angle = {
        name: stats.bootstrap(torch.cosine_similarity(sensitivity(model, rows.tokens), taught).double().numpy(), seed=seed)
        for name, model in models.items()
    }
    size = {name: scaled(effective_rate(each, rows, seed=seed), 1 / rate) for name, each in answers.items()}
    misled, others = "labels of other rows", "trained on labels of other rows"
    report.claim(
        "loss",
        "loss on fresh rows over that of the best step of gradient descent",
        loss["trained"],
        at_most=1.01,
        source=SOURCE,
        control=loss[misled],
        control_text=others,
    )
    report.claim(
        "sensitivity",
        "cosine of ∂answer/∂x with that of the step",
        angle["trained"],
        at_least=0.99,
        source=SOURCE,
        control=angle[misled],
        control_text=others,
    )
    report.claim(
        "step",
        f"effective step over the best one, 3/(N + d − 1/5) = {rate:.4f}",
        size["trained"],
        between=(0.98, 1.02),
        source=SOURCE,
        control=size[misled],
        control_text=others,
    )
    kinds = {"loss / loss of the step": loss, "cosine of sensitivities": angle, "step / best step": size}
    table = [
        {"layer": name, "measure": kind, "value": each[name].value, "low": each[name].low, "high": each[name].high}
        for kind, each in kinds.items()
        for name in models
    ]
    report.table("trained", table, caption=f"On {len(rows)} fresh rows, with 95 % intervals over rows.")
    draw_training(report, losses, rows, wanted, answers["trained"])


def draw_training(
    report: Report,
    losses: list[float],
    rows: Regressions,
    wanted: Float[Tensor, " example"],
    answers: Float[Tensor, " example"],
) -> None:
    """The way there, and where it ends; `wanted` are the step's answers."""
    rolling = pd.Series(losses).rolling(25, min_periods=1).mean()
    curve = pd.DataFrame({"step": np.arange(1, len(losses) + 1), "loss": rolling, "kind": "trained layer"})
    flat = {"best step": loss_of(wanted, rows).mean(), "no answer": loss_of(torch.zeros(len(rows)), rows).mean()}
    ends = [pd.DataFrame({"step": [1, len(losses)], "loss": [value] * 2, "kind": kind}) for kind, value in flat.items()]
    table = pd.concat([curve, *ends], ignore_index=True)
    report.figure(
        "curve",
        figures.lines(table, "step", "loss", by="kind", xlabel="training step", ylabel="½ squared error", ylim=(0, None)),
        data=table,
        caption="Loss along training (mean of the last 25 batches) beside that of the best step of gradient descent, and of "
        "answering 0. With as many pairs as dimensions least squares would have no error at all.",
        alt="The loss falls from that of no answer to that of the best gradient step and stays there.",
    )
    points = pd.DataFrame({"gradient step": wanted, "trained layer": answers}).iloc[:1000]
    report.figure(
        "answers",
        figures.scatter(
            points, "gradient step", "trained layer", xlabel="answer of the best step", ylabel="trained layer's answer"
        ),
        data=points,
        caption="Answers to 1000 fresh rows.",
        alt="Points close to the diagonal.",
    )


def report_weights(config: Config, report: Report, model: Model) -> None:
    """Training finds the weights that can be written by hand, up to a factor that queries, keys and values may share out."""
    report.section("The weights")
    step, rate = step_of(model), best_rate(config.shown, config.width)
    wanted = torch.eye(config.width, config.width + 1)
    others = wanted[torch.randperm(config.width, generator=stats.torch_generator(config.seed, "order"))]
    report.claim(
        "weights",
        "cosine of W_Q W_Kᵀ with the identity on x, and nothing on y",
        float(torch.cosine_similarity(step.flatten(), wanted.flatten(), 0)),
        at_least=0.95,
        source=f"{SOURCE}, proposition 1; bound ours",
        control=float(torch.cosine_similarity(step.flatten(), others.flatten(), 0)),
        control_text="the identity with its rows in another order",
    )
    names = [*(f"x{i}" for i in range(1, config.width + 1)), "y"]
    table = pd.DataFrame(
        [
            {"key": names[j], "query": names[i], "weight": float(step[i, j])}
            for i in range(config.width)
            for j in range(len(names))
        ]
    )
    table["query"] = pd.Categorical(table["query"], names)
    table["key"] = pd.Categorical(table["key"], names)
    report.figure(
        "weights",
        figures.heatmap(table, "key", "query", "weight", centre=0.0, title="W_Q W_Kᵀ, times what y writes to y"),
        data=table,
        caption=f"By hand it is {rate:.2f} on the diagonal and 0 elsewhere. The query's own y is left out: it is 0.",
        alt="A diagonal of equal numbers, and next to nothing elsewhere.",
    )


# ---- interventions ----


def report_patching(config: Config, report: Report, models: dict[str, Model]) -> None:
    """A label acts as the step says, by its value alone; without the head nothing is answered."""
    report.section("Interventions")
    rows, rate = held_out(config), best_rate(config.shown, config.width)
    twin = rows.tokens.clone()
    changed = torch.randn(len(rows), generator=stats.torch_generator(config.seed, "labels"))
    twin[:, 0, -1] += changed
    wanted = rate * changed * (rows.x[:, 0] * rows.x[:, -1]).sum(1)
    shares = {part: explained(patched(models["trained"], rows.tokens, twin, part), wanted, config.seed) for part in "vkq"}
    report.claim(
        "patched-label",
        "one label changed: share of the variance that the step foretells, when only the pair's value is patched",
        shares["v"],
        at_least=0.98,
        source=f"{SOURCE}; bound ours",
        control=shares["k"],
        control_text="only the pair's key is patched",
    )
    silent = {name: loss_of(without_head(model, rows.tokens), rows) for name, model in models.items()}
    cost = {
        name: stats.ratio(silent[name], loss_of(models[name].run(rows.tokens).logits, rows), seed=config.seed) for name in models
    }
    report.claim(
        "head",
        "loss without the head over loss with it",
        cost["trained"],
        at_least=1.5,
        source=OWN,
        control=cost["labels of other rows"],
        control_text="a layer trained on labels of other rows",
    )
    words = {"v": "value", "k": "key", "q": "query"}
    table = pd.DataFrame([{"patched": words[part], "share": e.value, "low": e.low, "high": e.high} for part, e in shares.items()])
    report.figure(
        "patched",
        figures.bars(table, "patched", "share", low="low", high="high", xlabel="share of variance that the step foretells"),
        data=table,
        caption="The first pair's label is changed, and one thing at its place is taken from the changed run.",
        alt="Patching the value gives all of the effect, key and query none.",
    )


def patched(model: Model, clean: Tensor, twin: Tensor, part: str) -> Float[Tensor, " example"]:
    """Change of the answer when q, k or v of the first pair is that of the twin."""
    hook = f"attn.{part}.hook_out"
    there = model.run(twin, read=[hook]).activations[hook]

    def put(value: Tensor) -> Tensor:
        value[:, 0] = there[:, 0]
        return value

    return model.run(clean, edits=[Edit(hook, put)]).logits - model.run(clean).logits


def explained(found: Float[Tensor, " example"], wanted: Float[Tensor, " example"], seed: int) -> Estimate:
    """1 − Σ (found − wanted)² / Σ wanted²."""
    left = stats.ratio((found - wanted).double().square().numpy(), wanted.double().square().numpy(), seed=seed)
    return Estimate(1 - left.value, 1 - left.high, 1 - left.low, left.n)


def without_head(model: Model, tokens: Tensor) -> Float[Tensor, " example"]:
    """Answers when the head hands on nothing."""
    return model.run(tokens, edits=[Edit("attn.o.hook_in", torch.zeros_like)]).logits


# ---- other inputs ----


def report_scales(config: Config, report: Report, model: Model) -> None:
    """Where x is larger than in training, the step is too long, and the layer errs as the step does."""
    report.section("Where the step is too long")
    rate, lines, worst = best_rate(config.shown, config.width), [], {}
    for scale in config.scales:
        rows = held_out(config, scale=scale)
        nothing = loss_of(torch.zeros(len(rows)), rows)
        losses = {
            "trained layer": loss_of(model.run(rows.tokens).logits, rows),
            "best step at scale 1": loss_of(rows.after_descent(rate), rows),
            "best step at this scale": loss_of(rows.after_descent(rate / scale**2), rows),
        }
        for name, each in losses.items():
            found = stats.ratio(each, nothing, seed=config.seed)
            lines.append({"scale": scale, "by": name, "value": found.value, "low": found.low, "high": found.high})
        worst = losses
    report.claim(
        "too-long",
        f"loss over that of the step, both made for |x| ≤ 1, where |x| goes up to {config.scales[-1]:g}",
        stats.ratio(worst["trained layer"], worst["best step at scale 1"], seed=config.seed),
        between=(0.95, 1.05),
        source=f"{SOURCE}; bounds ours",
        control=stats.ratio(worst["best step at this scale"], worst["best step at scale 1"], seed=config.seed),
        control_text="a learner that finds the best step for these rows",
    )
    table = pd.DataFrame(lines)
    labels = {"xlabel": "largest |x|; trained at 1", "ylabel": "loss / loss of answering 0", "ylim": (0, None)}
    report.figure(
        "scales",
        figures.lines(table, "scale", "value", by="by", low="low", high="high", **labels),
        data=table,
        caption="Loss on rows whose x is smaller or larger than in training.",
        alt="The trained layer lies on the curve of the fixed gradient step, which rises where x is larger than in training.",
    )


if __name__ == "__main__":
    experiment.main(Config, run)
