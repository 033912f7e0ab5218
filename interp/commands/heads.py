"""What do the attention heads of a model look for, and what do they write? (Elhage et al. 2021; Olsson et al. 2022)

`interp heads MODEL …` runs this file as an experiment, so it leaves a run folder and a report like any other. What a kind of
model cannot be asked is said in the report, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from interp import experiment
from interp.cli import Answer
from interp.commands.run import run_command
from interp.errors import ConfigError, ModelError
from interp.experiment import discovery

if TYPE_CHECKING:
    import pandas as pd

    from interp.commands.inputs import Inputs
    from interp.heads.patterns import Attention
    from interp.models.hooked import Model
    from interp.report import Report

ID = "HEADS"
TARGET = "target of this report"
KEYS = ("attention", "layer", "head")


@dataclass(frozen=True, kw_only=True)
class Config:
    """On what the heads are looked at: repeated random tokens give the scores; one text is there to browse."""

    model: str = "stdlib-4l"  # shipped or zoo model, folder, or hub name
    text: str | None = None  # the text to browse
    corpus: str | None = None  # … or where an excerpt is taken from: stdlib, a file, a folder, or hf:org/name
    prompts: Literal["repeated"] | None = None  # … or repeated random tokens, as for models without a tokenizer
    rows: int = 48  # rows of repeated random tokens the scores are measured on
    length: int = 96  # tokens of a row, and of the text shown
    detailed: int = 4  # heads whose circuits are read in tokens
    asked: int = 4  # tokens of the text whose logits are attributed
    seed: int = 0


QUICK = {"rows": 16, "length": 64}


def main(argv: Sequence[str], *, prog: str) -> Answer:
    """Takes the model as first argument, and the flags of an experiment after it."""
    definition = discovery.Definition(config=Config, run=run, quick=QUICK)
    return run_command(Path(__file__), definition, argv, prog=prog, subject="model")


def run(config: Config, report: Report) -> None:
    """Classes of all heads beside an untrained model, their weights, what they cost to lose, and one text to browse."""
    from interp.commands import inputs
    from interp.heads.patterns import attentions
    from interp.models.hooked import Model

    check(config)
    model = Model.load(config.model)
    experiment.source(f"model {model.name}", model.fingerprint)
    known = attentions(model)
    prompts = inputs.repeated(model, config.rows, config.length, seed=config.seed)
    text = prompts.row(0) if config.prompts else inputs.text(model, config.text, config.corpus, length=config.length)
    text = prompts.row(0) if text is None else text
    control = untrained(model, config.seed)
    classed = report_classes(config, report, model, control, known, prompts)
    with experiment.stage("take heads out"):
        report_ablation(config, report, model, known, prompts, classed)
    with experiment.stage("read the weights"):
        served(report, "In the weights", lambda: report_weights(config, report, model, control, classed))
    report.section("One text")
    for name in known:
        report.view(attention_on(model, text, name, classed[name]))
    served(report, "What each token brings", lambda: report_attribution(config, report, model, text))


def served(report: Report, title: str, part: Callable[[], None]) -> None:
    """A section of the report, or why this model cannot have it."""
    report.section(title)
    try:
        part()
    except ModelError as error:
        report.text(f"Not for this model: {error}.")


def check(config: Config) -> None:
    """Raises ConfigError for several texts, and for numbers that leave nothing to measure."""
    given = [f"--{name}" for name in ("text", "corpus", "prompts") if getattr(config, name) is not None]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} name different texts to look at; give one of them")
    least = {"rows": 2, "length": 8, "detailed": 0, "asked": 1}
    for name, low in least.items():
        if getattr(config, name) < low:
            raise ConfigError(f"--{name} {getattr(config, name)} is too few; give {low} or more")


def untrained(model: Model, seed: int) -> Model | None:
    """The control, where the model is one that can be built again."""
    try:
        return model.untrained(seed)
    except ModelError:
        return None


# ---- attention ----


def report_classes(
    config: Config, report: Report, model: Model, control: Model | None, known: dict[str, Attention], prompts: Inputs
) -> dict[str, pd.DataFrame]:
    """What each head attends to, if it is a kind that is known; and how often an untrained model's heads seem to."""
    import numpy as np
    import pandas as pd

    from interp import stats
    from interp.heads.classes import NONE, classes, tested
    from interp.heads.targets import KINDS

    report.section("What the heads attend to")
    found, shares = {}, {"own": [], "chance": []}
    for name in known:
        for which, one in (("own", model), ("chance", control)):
            if one is None:
                continue
            with experiment.stage(f"attention of {one.name}"):
                scored = tested(one, prompts.tokens, attention=name, special=prompts.special, seed=config.seed, **prompts.beside)
            table = classes(scored)
            shares[which] += (table["class"] != NONE).tolist()
            if which == "own":
                found[name] = completed(one, table, scored, name, prompts)
    own, *chance = (stats.bootstrap(np.array(each, dtype=float), seed=config.seed) for each in shares.values() if each)
    report.claim(
        "classes",
        "heads attend to a kind of token that is known, clearly more than chance, for a share of all heads of",
        own,
        at_least=0.2,
        unit="of heads",
        source=TARGET,
        control=chance[0] if chance else None,
        control_text="an untrained model" if chance else "",
    )
    report.text(in_words(found))
    table = pd.concat([table.assign(attention=name) for name, table in found.items()], ignore_index=True)
    report.table(
        "classes",
        table.filter(items=[*KEYS, "class", "also", "kind", "score", "low", "high", "null", "excess", "p", "entropy"]),
        caption="Every head on repeated random tokens: its class; its best kind with the score, its interval and its null "
        "(targets of shuffled tokens, or even attention); p after Holm's rule. interp.heads.classes says how it is tested.",
    )
    report.table("scores", table.filter(items=[*KEYS, *KINDS]), caption="Attention that reaches the targets of every kind.")
    for name, looked in known.items():
        report_profile(report, model, looked, prompts, found[name])
    return found


def completed(model: Model, table: pd.DataFrame, scored: pd.DataFrame, name: str, prompts: Inputs) -> pd.DataFrame:
    """A table of classes with the score of every kind and the entropy of every head, in nats."""
    from interp.heads.patterns import entropy

    spread = entropy(model, prompts.tokens, attention=name, **prompts.beside).mean("example").table()
    wide = scored.pivot(index=["layer", "head"], columns="kind", values="score").reset_index()
    return table.merge(spread, on=["layer", "head"]).merge(wide, on=["layer", "head"])


def in_words(found: dict[str, pd.DataFrame]) -> str:
    """How many heads have which class."""
    lines = []
    for name, table in found.items():
        counts = table["class"].str.replace("_", " ").value_counts().to_dict()
        said = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        lines.append(f"- {name} attention, {len(table)} heads: {said}")
    return "A head without a class (none) may still matter: see what it costs to lose.\n\n" + "\n".join(lines)


def report_profile(report: Report, model: Model, looked: Attention, prompts: Inputs, table: pd.DataFrame) -> None:
    """Where the clearest head of each class looks, by distance."""
    import pandas as pd

    from interp import figures
    from interp.heads.patterns import distance_profile

    profile = distance_profile(model, prompts.tokens, attention=looked.name, special=prompts.special, **prompts.beside)
    clearest = table.sort_values("excess", ascending=False).drop_duplicates("class")
    series = []
    for row in clearest.to_dict("records"):
        one = profile.sel(layer=row["layer"], head=row["head"]).mean("example").table()
        series.append(one.assign(head=f"L{row['layer']}H{row['head']} {row['class'].replace('_', ' ')}"))
    data = pd.concat(series).dropna()
    report.figure(
        f"profile-{looked.name}",
        figures.lines(data, "distance", "profile", by="head", xlabel="tokens from query back to key", ylabel="attention"),
        caption=f"{looked.name.capitalize()} attention by distance: the clearest head of each class, on repeated random tokens.",
        alt="Lines of attention over distance, one for the clearest head of each class",
        data=data,
    )


def attention_on(model: Model, text: Inputs, name: str, table: pd.DataFrame) -> Any:
    """The view of one attention on the text."""
    from interp import head_pages
    from interp.heads.targets import KINDS

    heads = table.sort_values(["layer", "head"])
    grid = (heads.layer.nunique(), -1)
    columns = [*(kind for kind in KINDS if kind in heads), "entropy"]
    scores = {column.replace("_", " "): heads[column].to_numpy().reshape(grid) for column in columns}
    decoder = text.beside.get("decoder_input")
    queries, keys = text.shown, None
    if decoder is not None and name != "encoder":
        queries = ("start ", *text.shown[:-1])
        keys = text.shown if name == "cross" else None
    return head_pages.attention_view(
        model, text.tokens, queries, attention=name, keys=keys, scores=scores, classes=heads, **text.beside
    )


# ---- taking heads out ----


def report_ablation(
    config: Config, report: Report, model: Model, known: dict[str, Attention], prompts: Inputs, classed: dict[str, pd.DataFrame]
) -> None:
    """What predictions lose when a head writes its mean. Half of the prompts choose the costliest head, the rest measure it."""
    import numpy as np
    import pandas as pd

    from interp import head_pages, stats

    report.section("What heads cost to lose")
    costs, names, rows = [], [], []
    for name, looked in known.items():
        effect = head_pages.costs(model, looked, prompts.tokens, seed=config.seed, **prompts.beside)
        costs.append(effect.values.reshape(-1, len(prompts.tokens)))
        for layer, head in [(layer, head) for layer in looked.paths for head in range(effect.values.shape[1])]:
            cost = effect.sel(layer=layer, head=head).estimate(seed=config.seed)
            names.append((name, layer, head))
            rows.append({"attention": name, "layer": layer, "head": head} | cost.cells("cost"))
    cost = np.concatenate(costs)
    half = cost.shape[1] // 2
    first = int(cost[:, :half].mean(1).argmax())
    others = np.delete(cost, first, axis=0).mean(0)
    report.claim(
        "ablation",
        "the head that costs most to lose costs more, on other prompts, than the mean of all others, by",
        stats.paired_difference(cost[first, half:], others[half:], seed=config.seed),
        at_least=0.0,
        unit="nats",
        source=TARGET,
        control=stats.paired_difference(cost[len(cost) // 2, half:], others[half:], seed=config.seed),
        control_text="the head in the middle of the list",
    )
    words = pd.concat([table.assign(attention=name).filter(items=[*KEYS, "class"]) for name, table in classed.items()])
    table = pd.DataFrame(rows).merge(words, on=list(KEYS))
    report.table(
        "ablation",
        table.sort_values("cost", ascending=False, ignore_index=True),
        caption="KL from the whole model's prediction to that with the head's mean in its place, at one token of each prompt.",
    )


# ---- weights ----


def report_weights(config: Config, report: Report, model: Model, control: Model | None, classed: dict[str, pd.DataFrame]) -> None:
    """Copying and matching of every head, who reads whom, and the strongest circuits in tokens."""
    from interp import head_pages
    from interp.commands import inputs
    from interp.heads.classes import NONE

    table = head_pages.circuits(model, seed=config.seed)
    heads = classed["self"]
    report.table(
        "circuits",
        table.merge(heads.filter(items=["layer", "head", "class"])),
        caption="Copying: Σ Re λ / Σ |λ| of W_E W_OV W_U. Matching: of W_E W_QK W_Eᵀ. p: against heads with Gaussian weights, "
        "by Holm's rule. Ranks: how many singular directions share the circuit.",
    )
    if model.n_layers > 1:
        report_partners(report, model, control, heads)
        report_composition(report, model)
    known = heads.drop(index=heads.index[heads["class"] == NONE]).sort_values("excess", ascending=False).head(config.detailed)
    if len(known):
        chosen = list(known.filter(items=["layer", "head"]).itertuples(index=False, name=None))
        report.table(
            "directions",
            head_pages.directions(model, chosen, inputs.vocabulary(model)),
            caption="Singular directions of circuits: a “+” token that is read raises the “+” tokens written (OV), or is a query "
            "that attends to them (QK). The share is of the sum of squares.",
        )


def report_partners(report: Report, model: Model, control: Model | None, heads: pd.DataFrame) -> None:
    """Through which earlier head every key reads, and whether that makes the induction heads in the weights too."""
    from interp import head_pages

    table = head_pages.partners(model).merge(heads.filter(items=["layer", "head", "class"]))
    inducing = table.drop(index=table.index[table["class"] != "induction"])
    if len(inducing):
        chance = None if control is None else head_pages.partners(control).merge(inducing.filter(items=["layer", "head"]))
        report.claim(
            "partners",
            "through one earlier head, the key of every head classed induction matches the token before: least over these heads",
            float(inducing.matching.min()),
            at_least=0.5,
            source="Elhage et al. 2021",
            control=None if chance is None else float(chance.matching.max()),
            control_text="most of the same heads in an untrained model" if chance is not None else "",
        )
    report.table(
        "partners",
        table,
        caption="Matching of each head's QK circuit when its key reads what its best partner wrote; alone; by chance.",
    )


def report_composition(report: Report, model: Model) -> None:
    """The pairs of heads that compose most, in each way."""
    import pandas as pd

    from interp.heads.composition import composition_scores

    ways: tuple[Literal["Q", "K", "V"], ...] = ("Q", "K", "V")
    tables = [composition_scores(model, way).table().set_axis(["from", "to", "score"], axis=1).assign(way=way) for way in ways]
    top = pd.concat([table.sort_values("score", ascending=False).head(8) for table in tables], ignore_index=True)
    top = top.drop(index=top.index[top.score == float("-inf")]).filter(items=["way", "from", "to", "score"])
    report.table("composition", top, caption="Pairs that compose most: Frobenius ratio, less its mean over random matrices.")


# ---- direct attribution ----


def report_attribution(config: Config, report: Report, model: Model, text: Inputs) -> None:
    """What every token brings to some logits of the text, straight through each head."""
    import numpy as np

    from interp import head_pages

    last = text.tokens.shape[1] - 2
    places = np.linspace(min(1, last), last, config.asked).round().astype(int)
    report.view(head_pages.attribution_view(model, text.tokens, text.shown, places=sorted(set(places.tolist()))))
