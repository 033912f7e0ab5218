"""Who is given the gift? Does a small model know it by name movers, S-inhibition and duplicate tokens? (Wang et al. 2022)

"Ada and Ben went to the park so Ben gave a gift to" — Ada. Models of three layers of attention learn sentences like this one.
Their heads are then sorted into roles by path patching from the logits backwards, as in GPT-2 small; each role is held
against what such heads were published to attend to, knocked out, and the circuit is judged with all other edges replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import pandas as pd
import torch

from interp import experiment, figures, stats
from interp.heads import circuits, edge_attribution, faithfulness, paths
from interp.heads.graph import Edge, Graph
from interp.models import zoo
from interp.models.hooked import Model
from interp.report import Report
from interp.tasks import names
from interp.tasks.contrast import Contrast

ID = "E29"
WANG = "Wang et al. 2022, arXiv:2211.00593"
OTHER, FIRST, AGAIN, LAST = range(4)  # where IO, S, S again and the last token stand, in `Sentences.places`
ROLES = {
    "name movers": "write into the logits",
    "S-inhibition": "write into the name movers' queries",
    "duplicate tokens": "write into the S-inhibition heads' values",
}
LOOKS = {"name movers": (LAST, OTHER), "S-inhibition": (LAST, AGAIN), "duplicate tokens": (AGAIN, FIRST)}
"""From where to where heads of a role attend."""
PLACES = ("IO", "S1", "S2", "END")
PUBLISHED = {"name movers": "0.59 from END to IO", "S-inhibition": "0.51 from END to S2", "duplicate tokens": "S2 to S1"}


@dataclass(frozen=True, kw_only=True)
class Config:
    seeds: int = 3  # models
    steps: int = zoo.NamesRecipe.steps  # of training
    examples: int = 96  # sentences on which a model is looked at
    share: float = 0.8  # of all effects on a reader: a role is the fewest heads that have this much
    edges: int = 20  # in the circuit, of 193
    seed: int = 0


QUICK = {"seeds": 2, "steps": 500, "examples": 48}


def run(config: Config, report: Report) -> None:
    seeds = range(config.seed, config.seed + config.seeds)
    studies = [Study.of(config, seed) for seed in experiment.progress(seeds, "models")]
    report_behaviour(config, report, studies)
    report_roles(config, report, studies)
    report_knock_out(config, report, studies)
    with experiment.stage("judge the circuits"):
        report_circuit(config, report, studies)


# ---- one model ----


@dataclass(frozen=True)
class Study:
    """A trained model, sentences, and what path patching finds."""

    config: Config
    seed: int
    model: Model
    told: names.Sentences

    @classmethod
    def of(cls, config: Config, seed: int) -> Study:
        model = zoo.train(replace(zoo.NamesRecipe(), seed=seed, steps=config.steps)).model
        generator = stats.torch_generator(seed, "sentences")
        return cls(config, seed, model, names.sentences(config.examples, generator=generator))

    @cached_property
    def contrast(self) -> Contrast:
        return names.contrast(self.told)

    @cached_property
    def graph(self) -> Graph:
        return Graph.of(self.model)

    @cached_property
    def ready(self) -> paths.Ready:
        return paths.Ready(self.model, self.graph, self.contrast)

    @cached_property
    def exact(self) -> dict[Edge, float]:
        """The effect of every edge by itself, mean over sentences."""
        values = self.ready.effects(Contrast.logit_difference, [[edge] for edge in self.graph.edges])
        return dict(zip(self.graph.edges, values.mean(1).tolist(), strict=True))

    @cached_property
    def roles(self) -> dict[str, dict[str, float]]:
        """The heads of every role with the loss of logit difference when what they hand on is the twin's."""
        movers = self.fewest(self.senders([("logits", "")]))
        inhibitors = self.fewest(self.senders([(head, "q") for head in movers]))
        duplicates = self.fewest(self.senders([(head, "v") for head in inhibitors]))
        return dict(zip(ROLES, (movers, inhibitors, duplicates), strict=True))

    def senders(self, readers: list[tuple[str, str]]) -> dict[str, float]:
        """What every head that writes to these readers is worth there: the loss when its edges to all of them are replaced."""
        edges: dict[str, list[Edge]] = {}
        for edge in self.graph.edges:
            if "input" not in edge.source and any(edge.target == name and edge.way == (way or edge.way) for name, way in readers):
                edges.setdefault(edge.source, []).append(edge)
        if not edges:
            return {}
        losses = -self.ready.effects(Contrast.logit_difference, list(edges.values())).mean(1)
        return dict(zip(edges, losses.tolist(), strict=True))

    def fewest(self, losses: dict[str, float]) -> dict[str, float]:
        """The heads of the largest losses that together have the share asked for of all that is lost."""
        kept: dict[str, float] = {}
        whole = sum(max(loss, 0.0) for loss in losses.values())
        for head, loss in sorted(losses.items(), key=lambda each: -each[1]):
            if sum(kept.values()) < self.config.share * whole:
                kept[head] = loss
        return kept

    @cached_property
    def patterns(self) -> torch.Tensor:
        """Attention on the clean sentences: [layer, head, example, query, key]."""
        hooks = [f"blocks.{layer}.attn.hook_pattern" for layer in range(self.model.n_layers)]
        held = self.model.run(self.contrast.clean, read=hooks).activations
        return torch.stack([held[hook].transpose(0, 1) for hook in hooks])

    def attention(self, heads: dict[str, float], look: tuple[int, int]) -> float:
        """Mean attention of heads from one named place to another, weighted by what they are worth; 0 where there are none."""
        if not heads:
            return 0.0
        rows, (query, key) = torch.arange(len(self.told)), look
        places = self.told.places
        paid = [float(self.patterns[at][rows, places[:, query], places[:, key]].mean()) for at in map(place, heads)]
        return float(np.average(paid, weights=list(heads.values())))

    def others(self, role: str) -> dict[str, float]:
        """All heads outside of a role, alike: the control."""
        heads = [name for name in self.graph.writers if name != "input"]
        return {name: 1.0 for name in heads if name not in self.roles[role]}

    def difference(self, edges: list[Edge]) -> float:
        """The logit difference with these edges replaced by the twin's."""
        return float(self.contrast.logit_difference(self.ready.logits(edges)).mean())


def place(head: str) -> tuple[int, int]:
    """Layer and number of "a1.h0"."""
    layer, _, number = head[1:].partition(".h")
    return int(layer), int(number)


def over(studies: list[Study], each: Callable[[Study], float], seed: int) -> stats.Estimate:
    """A number of every model, mean and interval over models."""
    return stats.bootstrap([each(study) for study in studies], seed=seed)


# ---- what the models do ----


def report_behaviour(config: Config, report: Report, studies: list[Study]) -> None:
    """They answer right, by a wide margin, and not on twins."""
    report.section("Do they know who it is?")

    def right(study: Study, twins: bool = False) -> float:
        asked = study.contrast.swapped() if twins else study.contrast
        logits = study.model.run(asked.clean).logits
        return float((study.contrast.logit_difference(logits) > 0).double().mean())

    def margin(study: Study, twins: bool = False) -> float:
        asked = study.contrast.swapped() if twins else study.contrast
        return float(study.contrast.logit_difference(study.model.run(asked.clean).logits).mean())

    report.claim(
        "accuracy",
        "share of sentences in which IO is likelier than S",
        over(studies, right, config.seed),
        at_least=0.99,
        source=f"{WANG}: 0.993",
        control=over(studies, partial(right, twins=True), config.seed),
        control_text="a third person gives",
    )
    report.claim(
        "difference",
        "logit of IO less that of S",
        over(studies, margin, config.seed),
        at_least=3.56,
        source=f"{WANG}: 3.56",
        control=over(studies, partial(margin, twins=True), config.seed),
        control_text="a third person gives",
        unit="nats",
    )
    rows = [
        {"model": number, "sentences": sentences, "right": right(study, twins), "logit difference": margin(study, twins)}
        for number, study in enumerate(studies)
        for sentences, twins in (("a named person gives", False), ("a third person gives", True))
    ]
    caption = "Share of sentences in which IO is likelier than S, and by how much, in every model."
    report.table("behaviour", pd.DataFrame(rows), caption=caption)


# ---- roles ----


def report_roles(config: Config, report: Report, studies: list[Study]) -> None:
    """Heads by role, from the logits backwards, and where they attend."""
    report.section("Roles, found by path patching")
    report.text(
        "In the twin a third person gives, so nothing tells IO from S. From the logits backwards, what one head hands to a kind "
        "of reader is replaced by the twin's, and what is lost of the logit difference counts. "
        + " ".join(
            f"{role.capitalize()}: the fewest heads that {what}, with {config.share:.0%} of all losses."
            for role, what in ROLES.items()
        )
    )
    rows = [
        {
            "model": study.seed,
            "role": role,
            "head": head,
            "lost": loss,
            "attends there": study.attention({head: 1.0}, LOOKS[role]),
        }
        | {f"END to {name}": study.attention({head: 1.0}, (LAST, at)) for at, name in enumerate(PLACES)}
        for study in studies
        for role, heads in study.roles.items()
        for head, loss in heads.items()
    ]
    report.table(
        "roles",
        rows,
        caption="Heads by role: what is lost of the logit difference, attention to where the role looks, and from END.",
    )
    for role, look in LOOKS.items():
        report.claim(
            role.lower().replace(" ", "-"),
            f"{role}: attention from {PLACES[look[0]]} to {PLACES[look[1]]}, weighted",
            over(studies, lambda study, role=role, look=look: study.attention(study.roles[role], look), config.seed),
            at_least=0.5,
            source=f"{WANG}: {PUBLISHED[role]}",
            control=over(studies, lambda study, role=role, look=look: study.attention(study.others(role), look), config.seed),
            control_text="mean of all other heads",
        )
    first = studies[0]
    cells = [
        {"layer": f"layer {place(edge.source)[0]}", "head": place(edge.source)[1], "effect": effect}
        for edge, effect in first.exact.items()
        if edge.target == "logits" and edge.source != "input"
    ]
    table = pd.DataFrame(cells)
    report.figure(
        "direct",
        figures.heatmap(table, "head", "layer", "effect", centre=0.0, ylabel=""),
        caption="Change of the logit difference, in nats, when what a head writes into the logits is the twin's. First model.",
        alt="A few heads of the last layer hold nearly all.",
        data=table,
    )


# ---- knock-outs ----


def report_knock_out(config: Config, report: Report, studies: list[Study]) -> None:
    """Each role replaced as a whole; and whether others step in for the name movers."""
    report.section("Knocking roles out")
    rows = []
    for study in studies:
        whole, none = study.difference([]), study.difference(list(study.graph.edges))
        for role in ROLES:
            edges = [edge for edge in study.graph.edges if edge.source in study.roles[role]]
            rows.append({"model": str(study.seed), "role": role, "left": (study.difference(edges) - none) / (whole - none)})
    table = pd.DataFrame(rows)
    report.figure(
        "left",
        figures.scatter(table, "left", "role", by="model", xlabel="share of the logit difference that is left", ylabel=""),
        caption="What is left of the logit difference, above that of the twins, when what a role's heads write is the twin's.",
        alt="All three roles leave much less than the whole.",
        data=table,
    )
    found = [compensation(study) for study in studies]
    report.claim(
        "compensation",
        "share of the name movers' direct loss that other heads make up when they are set to the mean",
        stats.bootstrap([made for made, _ in found], seed=config.seed),
        at_least=0.5,
        source=f"{WANG}: backup name movers",
        control=stats.bootstrap([control for _, control in found], seed=config.seed),
        control_text="as many heads without a role set to the mean, relative to the same loss",
    )


def compensation(study: Study) -> tuple[float, float]:
    """1 − (loss of logit difference / direct loss) with the name movers' writing set to its mean; and the same of idle heads.

    The direct loss is that of their edges to the logits alone. The heads that come later see the difference, those beside do not:
    only what a later layer does can make it up.
    """
    ready = paths.Ready(study.model, study.graph, study.contrast, replacement="mean")
    busy = {head for heads in study.roles.values() for head in heads}
    idle = [name for name in study.graph.writers if name != "input" and name not in busy][: len(study.roles["name movers"])]
    sets = []
    for heads in (list(study.roles["name movers"]), idle):
        out = [edge for edge in study.graph.edges if edge.source in heads]
        sets += [out, [edge for edge in out if edge.target == "logits"]]
    whole, straight, idle_whole, idle_straight = ready.effects(Contrast.logit_difference, sets).mean(1)
    return 1 - whole / straight, (idle_straight - idle_whole) / straight


# ---- the circuit ----


def report_circuit(config: Config, report: Report, studies: list[Study]) -> None:
    """A few edges, chosen by EAP-IG, keep the behaviour when all others are replaced."""
    report.section("A circuit of a few edges")
    rows = []
    for study in studies:
        effects = edge_attribution.eap_ig(study.model, study.contrast)
        generator = stats.generator(study.seed, "random circuits")
        sizes = [size for size in (5, 10, 20, 40, 80, len(study.graph.edges)) if size != config.edges] + [config.edges]
        chosen = [circuits.greedy(study.graph, effects, size) for size in sorted(sizes)]
        random = [circuits.drawn(study.graph, size, generator) for size in sorted(sizes)]
        kept = faithfulness.kept(study.ready, Contrast.logit_difference, [*chosen, *random]).faithfulness(seed=config.seed)
        for at, found in enumerate(kept):
            by = "EAP-IG" if at < len(sizes) else "random"
            rows.append(
                {"model": study.seed, "edges": sorted(sizes)[at % len(sizes)], "chosen by": by, "faithfulness": found.value}
            )
    table = pd.DataFrame(rows)
    own, random = (
        table.loc[(table.edges == config.edges) & (table["chosen by"] == by), "faithfulness"].to_numpy()
        for by in ("EAP-IG", "random")
    )
    report.claim(
        "faithfulness",
        f"faithfulness of {config.edges} of {len(studies[0].graph.edges)} edges",
        stats.bootstrap(own, seed=config.seed),
        at_least=0.87,
        source=f"{WANG}: 0.87",
        control=stats.bootstrap(random, seed=config.seed),
        control_text="as many edges grown at random",
    )
    curve = table.pivot_table(index=["edges", "chosen by"], values="faithfulness").reset_index()
    report.figure(
        "faithfulness",
        figures.lines(curve, "edges", "faithfulness", by="chosen by", xscale="log", xlabel="edges kept"),
        caption="What is left of the logit difference when all other edges carry the twin's values, mean over models.",
        alt="Chosen edges reach 1 with a tenth of all; random ones stay near 0 until most edges are kept.",
        data=curve,
    )
    report.text(
        "The account would be false if the heads that write the answer attended elsewhere than to IO, if no head told them whom "
        "to leave out, or if as many random edges did as well. The models answer as they should; a claim that misses its target "
        "says that they do so by other heads than GPT-2's, and is kept: three layers need not do what twelve do."
    )


if __name__ == "__main__":
    experiment.main(Config, run)
