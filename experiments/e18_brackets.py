"""How does an encoder know that brackets balance, and does it count? (Weiss et al. 2021, arXiv:2106.06981, section 5)

A row balances when it has as many ( as ) and no ) comes before its (: two conditions, so two ways to fail. Attention takes means,
so what it can know at a bracket is the *elevation* there, (opened − closed) / brackets so far, and not the depth itself. A model
written by hand keeps it in one dimension, and each condition on an edge of its own. Is it so in models that are trained: is the
elevation there to be read, and do the two failures come by different ways? One model is asked at the start of the row alone, as
is usual; one is asked at every bracket as well, whether the row has failed by then.

False if a linear probe reads less than 0.8 of the elevation's variance, or no more than in an untrained model; or if no head
matters more to one failure than to the other.
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
from interp.tasks.brackets import CLOSE, NO, OPEN, YES, Brackets
from interp.tasks.contrast import Contrast

ID = "E18"
SOURCE = "Weiss et al. 2021, section 5"
ONCE, EVERYWHERE, UNTRAINED = "trained, asked once", "trained, asked at every bracket", "untrained"
MODES = ("number", "dips")
"""The two failures: more of one kind, and a bracket closed before it opens."""


@dataclass(frozen=True, kw_only=True)
class Config:
    length: int = 12  # brackets in a row that the trained models see
    by_hand: int = 10  # … and the model written by hand
    steps: int = 600  # of training
    rows: int = 500  # for probes
    pairs: int = 300  # rows with twins for each failure
    seed: int = 0


QUICK = {"steps": 400, "rows": 300, "pairs": 100}


def run(config: Config, report: Report) -> None:
    with experiment.stage("write the model by hand"):
        program = compile_program(BRACKETS, ("(", ")"), config.by_hand, name="brackets by hand", description="balance")
    report_by_hand(config, report, program)
    with experiment.stage("train an encoder that is asked once"):
        once = trained(config, lambda rows: answers(rows.asked))
    with experiment.stage("train an encoder that is asked at every bracket"):
        everywhere = trained(config, asked_everywhere)
    untrained = once.untrained(stats.torch_seed(config.seed, ID, "untrained"))
    report_accuracy(config, report, once, untrained)
    models = {ONCE: once, EVERYWHERE: everywhere, UNTRAINED: untrained}
    report_elevation(config, report, {"by hand": program.compiled.model} | models)
    report_heads(config, report, once)


def generator(config: Config, *purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(stats.torch_seed(config.seed, ID, *purpose))


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
    every = program.inputs(config.by_hand)
    other = program.compiled.model.untrained(stats.torch_seed(config.seed, ID, "by hand, untrained"))
    report.claim(
        "exact",
        f"rows of {config.by_hand} brackets judged rightly, of all {len(every)}",
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
        contrast = by_hand(program, pairs(mode, config.pairs, config.by_hand, generator(config, "by hand", mode)))
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


def trained(config: Config, ask: Callable[[Brackets], Batch]) -> Model:
    """An encoder of two layers and four heads."""
    shape = {"d_model": 32, "n_heads": 4, "n_layers": 2, "d_mlp": 128, "d_vocab": 5, "positions": "learned"}
    seed = stats.torch_seed(config.seed, ID, "weights")
    module = transformer(TransformerConfig.of({"kind": "encoder", "n_ctx": config.length + 1, **shape}), seed)
    drawn = generator(config, "training")
    batches = (ask(brackets.mixture(128, config.length, generator=drawn)) for _ in range(config.steps))
    fit(Learner(module, schedule=linear_decay(3e-3, 50, config.steps)), batches)
    return Model.wrap(module.eval(), name="brackets")


def asked_everywhere(rows: Brackets) -> Batch:
    """At the start whether the row balances, at every bracket whether the row up to there has not failed."""
    targets = torch.where((rows.depth < 0).cumsum(1) > 0, NO, YES)
    targets[:, 0] = rows.asked.answers
    return Batch(tokens=rows.tokens, targets=targets)


def report_accuracy(config: Config, report: Report, model: Model, untrained: Model) -> None:
    """How often the trained model is right, on rows of both failures and of none."""
    rows = [failing(mode, config.pairs, config.length, generator(config, "accuracy", mode)) for mode in (*MODES, "neither")]
    together = Brackets(torch.cat([each.tokens for each in rows]))
    shares = [stats.bootstrap(right(each, together), seed=config.seed) for each in (model, untrained)]
    report.claim(
        "accuracy",
        "rows judged rightly, a third of them balanced, a third failing in each way alone",
        shares[0],
        at_least=0.98,
        source="the task is finite and regular",
        control=shares[1],
        control_text="the same model untrained",
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
        length = config.by_hand if name == "by hand" else config.length
        drawn = brackets.mixture(config.rows, length, generator=generator(config, "probes"))
        rows += [{"model": name, **found} for found in probed(model, drawn, config.seed)]
    table = pd.DataFrame(rows)
    best = table.loc[table[table.source == "activations"].groupby("model", sort=False).score.idxmax()].set_index("model")
    for slug, name in (("elevation-by-hand", "by hand"), ("elevation-once", ONCE), ("elevation-everywhere", EVERYWHERE)):
        found, control = (best.loc[each] for each in (name, UNTRAINED))
        report.claim(
            slug,
            f"variance of the elevation that a linear probe reads off the model {name} (R², {found.place})",
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
        alt="Horizontal bars: one for the model by hand, lower ones for the trained models and the untrained one.",
    )
    report.text(
        "Where a trained model misses the target, it does not keep the elevation at every bracket. Asked once, it needs to know "
        "only whether any bracket is below 0, and a bracket is seen from both sides; what can be read off it is about as much as "
        "off random weights. Asked at every bracket, it keeps more, but still only what tells a row that has failed from one "
        "that has not."
    )
    report.table("probes", table, caption="All places, beside probes on the position alone and on shuffled labels.")


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
        table = probes.probe(x, labels, groups, controls={"position alone": position}, seed=seed)
        kept = table.loc[:, ["source", "score", "low", "high", "documents"]]
        found += [{"place": place, **row} for row in kept.to_dict("records")]
    return found


def estimate(row: pd.Series) -> stats.Estimate:
    return stats.Estimate(value=row.score, low=row.low, high=row.high, n=int(row.documents))


# ---- two failures, two ways ----


def report_heads(config: Config, report: Report, model: Model) -> None:
    """What each head carries of either failure, and whether heads part the work."""
    report.section("Two failures, two ways")
    drawn = {
        name: carried(model, pairs(mode, 2 * config.pairs, config.length, generator(config, "heads", name)))
        for name, mode in {"number": "number", "dips": "dips", "number again": "number"}.items()
    }
    report.claim(
        "apart",
        "share of the change of answer that a head carries in its own failure above that in the other, the smaller of two heads",
        parting(drawn["number"], drawn["dips"], config.seed),
        at_least=0.1,
        source="target of this report: a double dissociation",
        control=parting(drawn["number"], drawn["number again"], config.seed),
        control_text="two draws of one failure",
    )
    rows = [
        {"failure": mode, "head": f"{layer}.{head}", "share": value}
        for mode in MODES
        for (layer, head), value in np.ndenumerate(drawn[mode].mean(-1))
    ]
    table = pd.DataFrame(rows)
    report.figure(
        "heads",
        figures.heatmap(table, "head", "failure", "share", centre=0, ylabel="the row fails by"),
        data=table,
        caption="Share of the change of answer when one head gets what it has on a row that fails, by the way in which it fails.",
        alt="Heat map with a column for each head and a row for each failure; some columns are dark in one row alone.",
    )
    report.text(
        "What would have shown this false: a probe that reads less than 0.8 of the elevation's variance where a model was said "
        "to count, or no head that matters more to one failure than to the other."
    )


def carried(model: Model, contrast: Contrast) -> np.ndarray:
    """The effect of patching each head, as a share of the mean total effect: [layer head example]."""
    found = patching.sweep(model, contrast, "blocks.*.attn.hook_z", by=("head",), batch=256)
    return found.values / patching.total_effect(model, contrast, batch=256).values.mean()


def parting(first: np.ndarray, second: np.ndarray, seed: int) -> stats.Estimate:
    """How far two heads part two failures, the smaller gap; chosen on one half of the pairs, measured on the other."""
    half = first.shape[-1] // 2
    gaps = []
    for one, other in ((first, second), (second, first)):
        chosen = np.unravel_index((one - other)[..., :half].mean(-1).argmax(), one.shape[:2])
        gaps.append(stats.bootstrap((one - other)[(*chosen, slice(half, None))], seed=seed))
    return min(gaps, key=lambda gap: gap.value)
