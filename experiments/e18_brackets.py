"""How does an encoder know that brackets balance, and does it count? (Weiss et al. 2021, arXiv:2106.06981, section 5)

A row balances when it has as many ( as ) and no ) comes before its (: two conditions, so two ways to fail. Attention takes means,
so what it can know at a bracket is the *elevation* there, (opened − closed) / brackets so far, and not the depth itself. A model
written by hand keeps it in one dimension, and each condition on an edge of its own. Is it so in models that are trained: is the
elevation there to be read, and do the two failures come by different ways? One model is asked at the start of the row alone, as
is usual; one is asked at every bracket as well, which kind leads there.

False if a linear probe reads less than 0.8 of the elevation's variance off a model that has to count, or no more than off an
untrained one; or if neither a head nor a place in the row matters more to one failure than to the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp import experiment, figures, probes, stats
from interp.heads import patching, paths
from interp.models.batches import Batch, answers
from interp.models.hooked import Model
from interp.models.rasp_circuits import CompiledProgram, compile_program
from interp.models.rasp_programs import BRACKETS
from interp.models.training import Learner, fit, linear_decay
from interp.models.transformer import TransformerConfig, transformer
from interp.report import Report
from interp.tasks import brackets
from interp.tasks.brackets import CLOSE, OPEN, YES, Brackets
from interp.tasks.contrast import Contrast

ID = "E18"
SOURCE = "Weiss et al. 2021, section 5"
BY_HAND, ONCE, EVERYWHERE, UNTRAINED = "by hand", "asked once", "asked at every bracket", "untrained"
SLUGS = {BY_HAND: "by-hand", ONCE: "once", EVERYWHERE: "everywhere"}
MODES = ("number", "dips")
"""The two failures: more of one kind, and a bracket closed before it opens."""


@dataclass(frozen=True, kw_only=True)
class Config:
    length: int = 10  # brackets in a row
    steps: int = 600  # training of the model that is asked once
    counting_steps: int = 2000  # … of the one that is asked at every bracket
    weight_decay: float = 0.5  # of that one
    rows: int = 1000  # for probes
    pairs: int = 300  # rows with twins for each failure
    seed: int = 0


QUICK = {"length": 6, "steps": 150, "counting_steps": 450, "rows": 300, "pairs": 60}


def run(config: Config, report: Report) -> None:
    with experiment.stage("write the model by hand"):
        program = compile_program(BRACKETS, ("(", ")"), config.length, name="brackets by hand", description="balance")
    report_by_hand(config, report, program)
    with experiment.stage("train an encoder that is asked once"):
        once = trained(config, lambda rows: answers(rows.asked), config.steps, 0.0)
    with experiment.stage("train an encoder that is asked at every bracket"):
        everywhere = trained(config, asked_everywhere, config.counting_steps, config.weight_decay)
    untrained = once.untrained(stats.torch_seed(config.seed, ID, "untrained"))
    models = {ONCE: once, EVERYWHERE: everywhere}
    report_accuracy(config, report, models, untrained)
    report_elevation(config, report, {BY_HAND: program.compiled.model, **models, UNTRAINED: untrained})
    report_heads(config, report, models)


# ---- rows ----


def elevation(rows: Brackets) -> Tensor:
    """(opened − closed) / brackets so far, [example bracket]."""
    return rows.depth[:, 1:].double() / torch.arange(1, rows.tokens.shape[1])


def failing(mode: str, n: int, length: int, drawn: torch.Generator) -> Brackets:
    """Rows that fail in one way alone, or balance (mode "neither"); all start with ( and end with ), so that no end tells."""
    draw = {"number": brackets.anything, "dips": brackets.equal, "neither": brackets.balanced}[mode]
    kept: list[Tensor] = []
    while sum(map(len, kept)) < n:
        rows = draw(20 * n, length, generator=drawn)
        alone = {"number": rows.unequal & ~rows.dips, "dips": rows.dips & ~rows.unequal, "neither": ~(rows.unequal | rows.dips)}
        kept.append(rows.tokens[alone[mode] & (rows.tokens[:, 1] == OPEN) & (rows.tokens[:, -1] == CLOSE)])
    return Brackets(torch.cat(kept)[:n])


def pairs(mode: str, n: int, length: int, drawn: torch.Generator) -> Contrast:
    """Rows that balance, each with a row that fails in one way alone."""
    return failing("neither", n, length, drawn).asked.against(failing(mode, n, length, drawn).asked)


# ---- by hand ----


def report_by_hand(config: Config, report: Report, program: CompiledProgram) -> None:
    """Every row is judged rightly; each condition reaches the answer by one edge."""
    report.section("By hand")
    every = program.inputs(config.length)
    other = program.compiled.model.untrained(stats.torch_seed(config.seed, ID, "by hand, untrained"))
    report.claim(
        "exact",
        f"rows of {config.length} brackets judged rightly, of all {len(every)}",
        right_share(program, program.compiled.model),
        at_least=1.0,
        source=SOURCE,
        control=right_share(program, other),
        control_text="the same architecture with random weights",
    )
    nodes = program.plan.nodes
    ways = {"number": f"{nodes['even']}->{nodes['balanced']}", "dips": f"{nodes['dips']}->{nodes['balanced']}"}
    rows = []
    for mode in MODES:
        contrast = by_hand(
            program, pairs(mode, config.pairs, config.length, stats.torch_generator(config.seed, ID, "by hand", mode))
        )
        total = patching.total_effect(program.compiled.model, contrast).values
        found = paths.effects(program.compiled.model, contrast, Contrast.logit_difference, list(ways.values()))
        for meant, edge in ways.items():
            share = stats.ratio(found.sel(edge=edge).values, total, seed=config.seed)
            rows.append({"failure": mode, "condition": meant, "edge": edge, "share": share.value})
    table = pd.DataFrame(rows)
    own = table.failure == table.condition
    report.claim(
        "apart-by-hand",
        "share of the change of answer that passes by the edge of the condition that fails, the smaller of two",
        table.share[own].min(),
        at_least=1 - 1e-4,
        source="closed form",
        control=table.share[~own].max(),
        control_text="by the edge of the other condition, the larger of two",
    )
    report.table("edges", table, caption="What each of the two last edges does to rows that fail in one way alone.")


def right_share(program: CompiledProgram, model: Model) -> float:
    """Share of all rows on which a model says at the last bracket what the program says there."""
    inputs = program.inputs(program.plan.length)
    said = model.run(program.encode(inputs)).logits[:, -1, :2].argmax(-1)
    return float((said == program.expected(inputs)[:, -1, :2].argmax(-1)).double().mean())


def by_hand(program: CompiledProgram, contrast: Contrast) -> Contrast:
    """A contrast as the model written by hand is asked: at the last bracket, in its own words. Tokens are the same."""
    value = program.plan.values[program.plan.program.output].index
    right, wrong = (torch.full((len(contrast),), value(each)) for each in (True, False))
    return Contrast(clean=contrast.clean, corrupt=contrast.corrupt, answers=right, wrong=wrong)


# ---- trained ----


def trained(config: Config, ask: Callable[[Brackets], Batch], steps: int, weight_decay: float) -> Model:
    """An encoder of three layers and four heads."""
    shape = {"d_model": 32, "n_heads": 4, "n_layers": 3, "d_mlp": 128, "d_vocab": 5, "positions": "learned"}
    seed = stats.torch_seed(config.seed, ID, "weights")
    module = transformer(TransformerConfig.of({"kind": "encoder", "n_ctx": config.length + 1, **shape}), seed)
    drawn = stats.torch_generator(config.seed, ID, "training")
    batches = (ask(brackets.mixture(128, config.length, generator=drawn)) for _ in range(steps))
    fit(Learner(module, schedule=linear_decay(3e-3, 50, steps), weight_decay=weight_decay), batches)
    return Model.wrap(module.eval(), name="brackets")


def asked_everywhere(rows: Brackets) -> Batch:
    """At the start whether the row balances; at every bracket which kind leads in the row up to there, or YES for neither."""
    targets = torch.where(rows.depth > 0, OPEN, torch.where(rows.depth < 0, CLOSE, YES))
    targets[:, 0] = rows.asked.answers
    return Batch(tokens=rows.tokens, targets=targets)


def report_accuracy(config: Config, report: Report, models: dict[str, Model], untrained: Model) -> None:
    """How often the trained models are right, on rows of both failures and of none."""
    rows = [
        failing(mode, config.pairs, config.length, stats.torch_generator(config.seed, ID, "accuracy", mode))
        for mode in (*MODES, "neither")
    ]
    together = Brackets(torch.cat([each.tokens for each in rows]))
    for name, model in models.items():
        report.claim(
            f"accuracy-{SLUGS[name]}",
            f"{name}: rows judged rightly, a third of them balanced, a third failing in each way alone",
            stats.bootstrap(right(model, together), seed=config.seed),
            at_least=0.98,
            source="the task is finite and regular",
            control=stats.bootstrap(right(untrained, together), seed=config.seed),
            control_text="the same architecture untrained",
        )


def right(model: Model, rows: Brackets) -> np.ndarray:
    """Whether the answer at the start is right, [example]."""
    return (model.run(rows.tokens).logits[:, 0].argmax(-1) == rows.asked.answers).double().numpy()


# ---- the elevation ----


def report_elevation(config: Config, report: Report, models: dict[str, Model]) -> None:
    """A ridge probe at every place between two parts of every model; the best place counts."""
    report.section("The elevation")
    rows = []
    for name, model in models.items():
        drawn = brackets.mixture(config.rows, config.length, generator=stats.torch_generator(config.seed, ID, "probes"))
        rows += [{"model": name, **found} for found in probed(model, drawn, config.seed)]
    table = pd.DataFrame(rows)
    read = table[table.source == "activations"]
    best = read.loc[read.groupby("model", sort=False).score.idxmax()].set_index("model")
    for name, slug in SLUGS.items():
        found, control = (best.loc[each] for each in (name, UNTRAINED))
        report.claim(
            f"elevation-{slug}",
            f"{name}: share of the elevation's variance that a linear probe reads (R², {found.place})",
            estimate(found),
            at_least=0.95,
            source="target for a model that counts; false below 0.8",
            control=estimate(control),
            control_text=f"the untrained encoder ({control.place})",
        )
    report.figure(
        "elevation",
        figures.bars(best.reset_index(), "model", "score", low="low", high="high", xlabel="R² of the elevation"),
        data=best.reset_index(),
        caption="How much of the elevation a linear probe reads off each model, at its best place, on rows it was not fitted on.",
        alt="Horizontal bars: long for the model by hand and the one asked at every bracket, shorter for the other two.",
    )
    report.text(
        "Asked once, an encoder does not keep the elevation, and need not: it needs to know only whether any bracket is below 0, "
        "and a bracket is seen from both sides. What can be read off it is about as much as off random weights. Asked at every "
        "bracket which kind leads, it has to count, and weight decay makes it count in one way at all places. A probe that may "
        "have a slope of its own at each place tells nothing: it reads over 0.9 off any of the encoders, random weights included."
    )
    report.table(
        "probes", table, caption="All places, beside probes with a slope for each place, on the position, on shuffled labels."
    )
    report_kept(config, report, {name: model for name, model in models.items() if name != BY_HAND}, best.place.to_dict())


def report_kept(config: Config, report: Report, models: dict[str, Model], places: dict[str, str]) -> None:
    """What a model keeps between the elevation and the depth: exploratory."""
    drawn = brackets.mixture(config.rows, config.length, generator=stats.torch_generator(config.seed, ID, "probes"))
    n, length = len(drawn), config.length
    labels = {str(c): (drawn.depth[:, 1:].double() / (torch.arange(1, length + 1) + c)).flatten().numpy() for c in OFFSETS}
    rows = []
    for name, model in models.items():
        x = model.run(drawn.tokens, read=[places[name]]).activations[places[name]][:, 1:].flatten(0, 1).double().numpy()
        table = probes.probe(x, labels, np.repeat(np.arange(n), length), seed=config.seed)
        for row in table.loc[table.source == "activations"].to_dict("records"):
            rows.append({"model": name, "c": int(row["label"]), "R²": row["score"], "low": row["low"], "high": row["high"]})
    table = pd.DataFrame(rows)
    axes = {"xlabel": "c, in depth / (i + c) at bracket i", "ylabel": "R² of a linear probe", "ylim": (0.5, 1)}
    report.figure(
        "kept",
        figures.lines(table, "c", "R²", by="model", low="low", high="high", **axes),
        data=table,
        caption="What is kept, from the elevation (c = 0) to nearly the depth (large c), at each model's best place. A head that "
        "looks evenly at all brackets so far, and c times as much at <cls>, writes depth / (i + c).",
        alt="The line of the model asked at every bracket lies highest and peaks at a small c; the others lie lower throughout.",
    )


OFFSETS = (0, 1, 2, 3, 5, 8, 13, 21)


def probed(model: Model, rows: Brackets, seed: int) -> list[dict]:
    """R² of the elevation at every residual stream, with its controls."""
    labels = {"elevation": elevation(rows).flatten().numpy()}
    n, length = len(rows), rows.tokens.shape[1] - 1
    groups, position = np.repeat(np.arange(n), length), np.tile(np.eye(length), (n, 1))
    places = [f"blocks.{layer}.hook_resid_{part}" for layer in range(model.n_layers) for part in ("mid", "post")]
    seen = model.run(rows.tokens, read=places).activations
    found = []
    for place in places:
        x = seen[place][:, 1:].flatten(0, 1).double().numpy()
        by_place = (position[:, :, None] * x[:, None]).reshape(len(x), -1)
        controls = {"a slope for each place": by_place, "position alone": position}
        table = probes.probe(x, labels, groups, controls=controls, seed=seed)
        kept = table.loc[:, ["source", "score", "low", "high", "documents"]]
        found += [{"place": place, **row} for row in kept.to_dict("records")]
    return found


def estimate(row: pd.Series) -> stats.Estimate:
    return stats.Estimate(value=row.score, low=row.low, high=row.high, n=int(row.documents))


# ---- two failures, two ways ----


def report_heads(config: Config, report: Report, models: dict[str, Model]) -> None:
    """What heads, and what places in the row, carry of either failure, and whether they part the work."""
    report.section("Two failures, two ways")
    for carrier in CARRIERS:
        rows = []
        for name, model in models.items():
            drawn = {purpose: shares(config, model, carrier, purpose, mode) for purpose, mode in DRAWN.items()}
            report.claim(
                f"apart-{carrier}s-{SLUGS[name]}",
                f"{name}: share of the change of answer that a {carrier} carries in its own failure above that in the other, the "
                f"smaller of two {carrier}s",
                parting(drawn["number"], drawn["dips"], config.seed),
                at_least=0.1,
                source="target of this report: a double dissociation",
                control=parting(drawn["number"], drawn["number again"], config.seed),
                control_text="two draws of one failure",
            )
            rows += [
                {"row": f"{name}: {mode}", "layer": layer, carrier: index, "share": value}
                for mode in MODES
                for (layer, index), value in np.ndenumerate(drawn[mode].mean(-1))
            ]
        figure_shares(report, pd.DataFrame(rows), carrier)
    report.text(
        "Heads need not part the work: a model that is asked at every bracket can bring both failures to the start by one head, "
        "since either is a bracket at which the wrong kind leads. By place they part: number is told at the last bracket, a dip "
        "where it happens. What would have shown this false: a probe that reads less than 0.8 of the elevation's variance where "
        "a model has to count, or failures that part neither by head nor by place."
    )


def figure_shares(report: Report, table: pd.DataFrame, carrier: str) -> None:
    if carrier == "head":
        shown, where = table.assign(head=table.layer.astype(str) + "." + table["head"].astype(str)), ""
    else:
        shown, where = table.loc[table.layer == 1], " Place 0 is <cls>; what is patched is the stream after the second layer."
    report.figure(
        f"{carrier}s",
        figures.heatmap(shown, carrier, "row", "share", centre=0, ylabel=""),
        data=table,
        caption=f"Share of the change of answer when one {carrier} gets what it has on a row that fails, by the way in which the "
        f"row fails.{where}",
        alt=f"Heat map with a column for each {carrier} and two rows for each model; some columns are dark in one row alone.",
    )


CARRIERS = {"head": ("blocks.*.attn.hook_z", "head"), "place": ("blocks.*.hook_resid_post", "pos")}
"""What is patched: hooks, and the axis of which one part at a time is."""


DRAWN = {"number": "number", "dips": "dips", "number again": "number"}
"""Draws of pairs, and the way in which they fail."""


def shares(config: Config, model: Model, carrier: str, purpose: str, mode: str) -> np.ndarray:
    """The effect of patching each head or place, as a share of the mean total effect: [layer part example]."""
    drawn = stats.torch_generator(config.seed, ID, "heads", purpose)
    contrast = pairs(mode, 2 * config.pairs, config.length, drawn)
    hooks, axis = CARRIERS[carrier]
    found = patching.sweep(model, contrast, hooks, by=(axis,), batch=256)
    return found.values / patching.total_effect(model, contrast, batch=256).values.mean()


def parting(first: np.ndarray, second: np.ndarray, seed: int) -> stats.Estimate:
    """How far two parts part two failures, the smaller gap; chosen on one half of the pairs, measured on the other."""
    half = first.shape[-1] // 2
    gaps = []
    for one, other in ((first, second), (second, first)):
        chosen = np.unravel_index((one - other)[..., :half].mean(-1).argmax(), one.shape[:2])
        gaps.append(stats.bootstrap((one - other)[(*chosen, slice(half, None))], seed=seed))
    return min(gaps, key=lambda gap: gap.value)
