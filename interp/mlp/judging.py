"""What an edit, or silencing neurons, does to a model of a world of facts: to the fact that was meant, and to the rest.

The scores of edits are those of Meng et al. 2022 (arXiv:2202.05262, section 3.3), efficacy, paraphrase and specificity, over a
whole world, so that no fact is left unasked; those of neurons are the relative changes of Dai et al. 2022 (2104.08696).

Must not know: how edits are made, figures, reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.mlp import knowledge, recall
from interp.models.hooked import Model
from interp.tasks.facts import World


def worded(model: Model, world: World, facts: Int[Tensor, "fact 2"], wanted: Int[Tensor, " fact"], ways: Sequence[int]) -> float:
    """Share of (fact, way of asking) that are answered with the wanted objects."""
    right = [recall.is_first(model, world.prompts(facts, way).asking(wanted)) for way in ways]
    return float(torch.stack(right).float().mean())


def edit_scores(
    before: Model,
    after: Model,
    world: World,
    fact: Int[Tensor, "2"],
    wanted: Int[Tensor, ""],
    *,
    asked: Sequence[int],
    unasked: Sequence[int],
) -> dict[str, float]:
    """Shares of what should be so after one fact was edited to have another object.

    success, paraphrase: of the ways of asking that the edit was made with, and of others, answered with the wanted object.
    specificity: of other people's facts whose first choice is what it was; neighbours: of those among them with the object that
    the edited fact had. same person: of the same person's other facts. NaN for a share of none.
    """
    one, new = fact[None], wanted[None]
    prompts = world.prompts(world.facts, asked[0])
    stays = (recall.last_logits(before, prompts).argmax(-1) == recall.last_logits(after, prompts).argmax(-1)).cpu().float()
    elsewhere = world.facts[:, 0] != fact[0]
    had = world.answers[world.facts[:, 0], world.facts[:, 1]] == world.answers[fact[0], fact[1]]
    return {
        "success": worded(after, world, one, new, asked),
        "paraphrase": worded(after, world, one, new, unasked),
        "specificity": float(stays[elsewhere].mean()),
        "neighbours": float(stays[elsewhere & had].mean()),
        "same person": float(stays[~elsewhere & world.but(fact)].mean()),
    }


def neuron_scores(
    model: Model,
    world: World,
    neurons: Mapping[int, Sequence[knowledge.Neuron]],
    known: Bool[Tensor, " fact"],
    *,
    layer: int,
    generator: torch.Generator,
) -> pd.DataFrame:
    """Relative change of P(answer) when the neurons of a fact are silenced or doubled: one row per fact.

    neurons: of each fact, by its number. "own": of that fact. "others": mean over other people's facts that are `known`.
    "own, random": as many neurons of `layer`, drawn from `generator`, in place of its own.
    """
    rows, prompts, people = [], world.prompts(world.facts, 0), world.facts[:, 0]
    for fact, found in neurons.items():
        random = [(layer, int(neuron)) for neuron in torch.randperm(model.d_mlp, generator=generator)[: len(found)]]
        others = (known & (people != people[fact])).numpy()
        row: dict[str, float] = {"fact": fact, "neurons": len(found)}
        for name, factor in (("silenced", 0.0), ("doubled", 2.0)):
            change = knowledge.relative_change(model, prompts, found, factor=factor).values
            row[f"own, {name}"], row[f"others, {name}"] = change[fact], change[others].mean()
            row[f"own, random {name}"] = knowledge.relative_change(model, prompts, random, factor=factor).values[fact]
        rows.append(row)
    return pd.DataFrame(rows)
