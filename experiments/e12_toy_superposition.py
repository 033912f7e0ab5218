"""When does a network put more features than it has dimensions? (Elhage et al. 2022, arXiv:2209.10652)

A linear map into few dimensions, back by its transpose, and a relu: dense features get a dimension each and the rest is given
up; sparse ones share. Five features in two dimensions settle into a pentagon; two hundred in twenty into opposite pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from interp import experiment, figures, stats, superposition
from interp.report import Report

ID = "E12"
SOURCE = "Elhage et al. 2022"
SLACK = 0.02  # how far a dimensionality may lie from its ideal
PRESENT = 0.5  # length from which a feature counts as represented


@dataclass(frozen=True, kw_only=True)
class Config:
    instances: int = 32  # of the model with 5 features in 2 dimensions, at each sparsity
    sparsities: tuple[float, ...] = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97)  # probability that a feature is 0
    importance: float = 0.9  # of feature i in the loss: importance to the power i
    steps: int = 6000
    wide_sparsities: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9)  # of the model with 200 features in 20 dimensions
    wide_steps: int = 3000
    seed: int = 0


QUICK = {"sparsities": (0.0, 0.8, 0.97), "wide_sparsities": (0.5, 0.7, 0.9), "wide_steps": 2000}


def run(config: Config, report: Report) -> None:
    with experiment.stage("train the small models"):
        small = narrow(config)
    report_pentagons(config, report, small)
    report_phases(config, report, small)
    with experiment.stage("train the wide models"):
        sparsity = torch.tensor(config.wide_sparsities)
        wide = superposition.train_toy(
            200, 20, sparsity=sparsity, instances=len(sparsity), steps=config.wide_steps, batch=256, seed=config.seed
        )
    report_wide(config, report, wide)


# ---- five features in two dimensions ----


def report_pentagons(config: Config, report: Report, small: dict[float, superposition.Toy]) -> None:
    """The sparsest features share two dimensions as a pentagon; dense ones do not."""
    report.section("Five features, two dimensions")
    sparsest, densest = small[max(small)], small[min(small)]
    report.claim(
        "pentagon",
        f"at sparsity {max(small)}, share of models whose five features all have 2/5 of a dimension",
        stats.bootstrap(pentagons(sparsest), seed=config.seed),
        at_least=0.75,
        source=SOURCE,
        control=float(pentagons(densest).mean()),
        control_text=f"sparsity {min(small)}",
    )
    report.claim(
        "orthogonal",
        f"at sparsity {min(small)}, share of models that keep two features at right angles and give up three",
        stats.bootstrap(axes_alone(densest), seed=config.seed),
        at_least=0.75,
        source=SOURCE,
        control=float(axes_alone(sparsest).mean()),
        control_text=f"sparsity {max(small)}",
    )
    dedicated = dedicated_loss(max(small), config.importance)
    report.claim(
        "worth-it",
        f"at sparsity {max(small)}, loss of the models over that of two dimensions for the two most important features",
        stats.bootstrap((sparsest.loss / dedicated).numpy(), seed=config.seed),
        at_most=0.75,
        source="target of this report",
        control=float((densest.loss / dedicated_loss(min(small), config.importance)).mean()),
        control_text=f"the same at sparsity {min(small)}",
    )
    corners = sparsest.directions[0].numpy()
    points = pd.DataFrame({"first dimension": corners[:, 0], "second dimension": corners[:, 1], "feature": np.arange(1, 6)})
    report.figure(
        "pentagon",
        figures.scatter(points, "first dimension", "second dimension", by="feature", aspect="equal"),
        caption="What each of five sparse features writes into the two hidden dimensions, in one model.",
        alt="Five points near the corners of a regular pentagon.",
        data=points,
    )


def narrow(config: Config) -> dict[float, superposition.Toy]:
    """The models with five features in two dimensions, by sparsity; all are trained in one go."""
    sparsity = torch.tensor(config.sparsities).repeat_interleave(config.instances)
    toy = superposition.train_toy(
        5,
        2,
        sparsity=sparsity,
        instances=len(sparsity),
        importance=config.importance,
        steps=config.steps,
        batch=256,
        seed=config.seed,
    )
    parts = [each.split(config.instances) for each in (toy.directions, toy.bias, toy.loss)]
    return {each: superposition.Toy(*held) for each, held in zip(config.sparsities, zip(*parts, strict=True), strict=True)}


def pentagons(toy: superposition.Toy) -> np.ndarray:
    """[instance] 1 where every feature is represented and has 2/5 of a dimension."""
    alike = (toy.dimensionality - 0.4).abs() < SLACK
    return (alike & (toy.norms > PRESENT)).all(1).double().numpy()


def axes_alone(toy: superposition.Toy) -> np.ndarray:
    """[instance] 1 where two features are represented, each with a dimension to itself."""
    present = toy.norms > PRESENT
    alone = ((toy.dimensionality - 1).abs() < SLACK) | ~present
    return ((present.sum(1) == 2) & alone.all(1)).double().numpy()


def dedicated_loss(sparsity: float, importance: float) -> float:
    """The loss of giving both dimensions to the two most important features and each of the others its mean.

    A feature's variance is E[x²] − E[x]² = (1 − S)/3 − ((1 − S)/2)².
    """
    variance = (1 - sparsity) / 3 - ((1 - sparsity) / 2) ** 2
    return variance * sum(importance**i for i in range(2, 5))


def report_phases(config: Config, report: Report, small: dict[float, superposition.Toy]) -> None:
    """More features are represented as they grow sparser."""
    rows = []
    for sparsity, toy in small.items():
        count = stats.bootstrap((toy.norms > PRESENT).sum(1).double().numpy(), seed=config.seed)
        rows.append({"sparsity": sparsity} | count.cells("features"))
    table = pd.DataFrame(rows)
    report.table("represented", table, caption=f"Features represented in two dimensions, mean of {config.instances} models.")
    report.figure(
        "represented",
        figures.lines(table, "sparsity", "features", low="low", high="high", ylabel="features represented", ylim=(0, 5.3)),
        data=table,
        caption="Dense features get a dimension each, sparse ones share.",
        alt="The number of represented features rises from 2 to 5 as sparsity grows.",
    )


# ---- two hundred features in twenty dimensions ----


def report_wide(config: Config, report: Report, wide: superposition.Toy) -> None:
    """Features of equal importance settle into opposite pairs at a middle sparsity."""
    report.section("Two hundred features, twenty dimensions")
    halves = [in_pairs(wide.dimensionality[i], wide.norms[i]) for i in range(len(config.wide_sparsities))]
    best = int(np.argmax([each.mean() for each in halves]))
    generator = stats.torch_generator(config.seed, "random directions")
    chance = F.normalize(torch.randn(wide.directions[best].shape, generator=generator), dim=-1) * wide.norms[best][:, None]
    control = superposition.Toy(chance[None], wide.bias[best : best + 1], wide.loss[best : best + 1])
    report.claim(
        "pairs",
        f"share of represented features with half a dimension, at sparsity {config.wide_sparsities[best]}",
        stats.bootstrap(halves[best], seed=config.seed),
        at_least=0.7,
        source=f"{SOURCE}, the geometry of superposition",
        control=float(in_pairs(control.dimensionality[0], control.norms[0]).mean()),
        control_text="random directions of the same lengths",
    )
    parts = [
        pd.DataFrame({"dimensions per feature": wide.dimensionality[i][wide.norms[i] > PRESENT], "sparsity": str(each)})
        for i, each in enumerate(config.wide_sparsities)
    ]
    points = pd.concat(parts, ignore_index=True)
    report.figure(
        "dimensionality",
        figures.histogram(points, "dimensions per feature", by="sparsity", bins=50),
        caption="Dimensions per represented feature: they gather at 1/2, where two opposite features share one.",
        alt="Histograms; at the middle sparsity nearly all features lie at one half.",
        data=points,
    )
    rows = [
        {"sparsity": each, "represented": int((wide.norms[i] > PRESENT).sum()), "with half a dimension": float(halves[i].mean())}
        for i, each in enumerate(config.wide_sparsities)
    ]
    report.table("wide", rows, caption="200 features of equal importance in 20 dimensions, one model at each sparsity.")


def in_pairs(dimensionality: Tensor, norms: Tensor) -> np.ndarray:
    """[represented feature] 1 where its dimensionality is 1/2."""
    return ((dimensionality - 0.5).abs() < SLACK)[norms > PRESENT].double().numpy()


if __name__ == "__main__":
    experiment.main(Config, run)
