"""Which edges of a model carry what it does on some inputs, and do they carry it alone? (Conmy et al. 2023, arXiv:2304.14997)

`interp circuit MODEL …` runs this file as an experiment, so it leaves a run folder and a report like any other. The circuit is
found on one half of the inputs, by edge attribution, and held to the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from interp import experiment
from interp.cli import Answer
from interp.commands.pairs import LEAST
from interp.commands.run import run_command
from interp.errors import ConfigError, ModelError
from interp.experiment import discovery

if TYPE_CHECKING:
    import pandas as pd

    from interp.commands.pairs import Pairs
    from interp.heads.circuits import Circuit
    from interp.heads.faithfulness import Curve
    from interp.heads.graph import Graph
    from interp.heads.paths import Ready
    from interp.measurement import Measurement
    from interp.models.hooked import Model
    from interp.report import Report
    from interp.tasks.contrast import Contrast, Metric

ID = "CIRCUIT"
SHOWN = 300  # edges in the drawing and the table, where a circuit has more
TRIED = 60  # edges of a circuit up to which each is taken out by itself


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the model is asked, how edges are attributed, and how many make the circuit."""

    model: str = "stdlib-4l"  # shipped or zoo model, folder, or hub name
    task: Literal["repeated", "moved"] = "repeated"  # tokens seen before: the twin has others there, or the match elsewhere
    pairs: Path | None = None  # … or pairs of one's own: JSON lines of clean, corrupt, answer, wrong
    method: Literal["eap-ig", "eap", "exact"] = "eap-ig"  # how edges are attributed; exact runs each by itself
    choose: Literal["greedy", "top"] = "greedy"  # grown from the logits, or the strongest wherever they are
    edges: int | None = None  # in the circuit; by default the fewest of the curve that reach --at-least
    steps: int = 5  # along the path of eap-ig
    examples: int = 48  # inputs of the task; half of them find the circuit, half judge it
    length: int = 32  # tokens of an input of the task
    random: int = 8  # random circuits of the same size
    at_least: float = 0.8  # faithfulness
    seed: int = 0


QUICK = {"examples": 24, "random": 4}


def main(argv: Sequence[str], *, prog: str) -> Answer:
    """Takes the model as first argument, and the flags of an experiment after it."""
    definition = discovery.Definition(config=Config, run=run, quick=QUICK)
    return run_command(Path(__file__), definition, argv, prog=prog, subject="model")


def run(config: Config, report: Report) -> None:
    """The circuit, what it keeps, its curve beside random ones, its edges, a drawing, and files for other programs."""
    from interp.commands import pairs
    from interp.heads.graph import Graph
    from interp.heads.paths import Ready
    from interp.models.hooked import Model
    from interp.tasks.contrast import Contrast

    check(config)
    model = Model.load(config.model)
    if model.kind != "decoder":
        raise ModelError(
            f"{model.name} is an {model.kind}; this command asks decoders for the next token, see interp.heads.circuits"
        )
    experiment.source(f"model {model.name}", model.fingerprint)
    if config.pairs is None:
        asked = pairs.TASKS[config.task](model, config.examples, config.length, seed=config.seed)
    else:
        asked = pairs.read(config.pairs, model)
    found_on, judged_on = asked.contrast[0::2], asked.contrast[1::2]
    graph, metric = Graph.of(model), Contrast.logit_difference
    if config.edges is not None and not 1 <= config.edges <= len(graph.edges):
        raise ConfigError(f"--edges {config.edges}: {model.name} has {len(graph.edges)} edges, give 1 to {len(graph.edges)}")
    with experiment.stage(f"attribute {len(graph.edges):,} edges by {config.method}"):
        effects = attributed(config, model, found_on, metric)
    with experiment.stage("choose the circuit"):
        n = config.edges if config.edges is not None else size(config, Ready(model, graph, found_on), metric, effects)
        circuit = chosen(config, graph, effects, n)
    ready = Ready(model, graph, judged_on)
    with experiment.stage(f"judge the circuit of {len(circuit)} edges"):
        report_circuit(config, report, ready, metric, circuit)
        table = edge_table(config, ready, metric, circuit, effects)
    with experiment.stage("judge circuits of growing size"):
        report_curve(config, report, ready, metric, effects)
    report_edges(config, report, model, graph, asked, table)


def check(config: Config) -> None:
    """Raises ConfigError for numbers that are out of range."""
    least = {"examples": LEAST, "random": 2, "steps": 1, "length": 16}
    given = {name: getattr(config, name) for name in least}
    faults = [f"--{name} {value}: give {least[name]} or more" for name, value in given.items() if value < least[name]]
    if faults:
        raise ConfigError("; ".join(faults))


def attributed(config: Config, model: Model, contrast: Contrast, metric: Metric) -> Measurement:
    """The effect of every edge, by the method asked for."""
    from interp.heads import edge_attribution, paths

    if config.method == "exact":
        return paths.effects(model, contrast, metric)
    if config.method == "eap":
        return edge_attribution.eap(model, contrast, metric)
    return edge_attribution.eap_ig(model, contrast, metric, steps=config.steps)


def chosen(config: Config, graph: Graph, effects: Measurement, n: int) -> Circuit:
    """The circuit of `n` edges."""
    from interp.heads import circuits

    return (circuits.greedy if config.choose == "greedy" else circuits.top)(graph, effects, n)


def size(config: Config, ready: Ready, metric: Metric, effects: Measurement) -> int:
    """The fewest edges of the curve's sizes that are faithful enough on the inputs that the circuit is found on."""
    from interp.heads import faithfulness

    curve = faithfulness.curve(ready, metric, lambda n: chosen(config, ready.graph, effects, n))
    estimates = zip(curve.sizes, curve.kept.faithfulness(seed=config.seed), strict=True)
    return min((n for n, f in estimates if n and f.low >= config.at_least), default=len(ready.graph.edges))


def report_circuit(config: Config, report: Report, ready: Ready, metric: Metric, circuit: Circuit) -> None:
    """Whether the circuit keeps what the model does, and whether what lies outside of it does not."""
    from interp import stats
    from interp.heads import circuits, faithfulness

    generator = stats.generator(config.seed, "random circuits")
    drawn = [circuits.drawn(ready.graph, len(circuit), generator) for _ in range(config.random)]
    kept = faithfulness.kept(ready, metric, [circuit, *drawn])
    own, *others = kept.faithfulness(seed=config.seed)
    share = len(circuit) / len(ready.graph.edges)
    report.claim(
        "faithful",
        f"{len(circuit)} of {len(ready.graph.edges):,} edges ({share:.1%}) keep this share of the logit difference that all keep",
        own,
        at_least=config.at_least,
        source="target of this report",
        control=stats.bootstrap([each.value for each in others], seed=config.seed),
        control_text=f"{len(drawn)} random circuits of as many edges",
    )
    without = faithfulness.completeness(ready, metric, circuit, seed=config.seed)
    complement = f"{without.value:.2f} [{without.low:.2f}, {without.high:.2f}]"
    report.text(
        f"Completeness, 1 − f of all other edges: **{complement}**. Near 1, nothing outside of the circuit can do the same; "
        "where it is lower, there are other ways, which the circuit does not name. Every edge outside of it carries what it "
        "carries on the corrupted input; the inputs that judge the circuit are not those that found it."
    )


def report_curve(config: Config, report: Report, ready: Ready, metric: Metric, effects: Measurement) -> None:
    """Faithfulness against the share of edges kept, and the areas that go with it, beside random circuits."""
    import pandas as pd

    from interp import figures
    from interp.heads import faithfulness

    curve = faithfulness.curve(ready, metric, lambda n: chosen(config, ready.graph, effects, n))
    noise = faithfulness.curve(ready, metric, growing(config, ready.graph))
    curves = {config.method: curve, "random": noise}
    report.section("Circuits of growing size")
    table = pd.concat([points(each, config).assign(**{"edges by": name}) for name, each in curves.items()], ignore_index=True)
    report.figure(
        "curve",
        figures.lines(
            table, "share", "f", by="edges by", low="low", high="high", xscale="log", xlabel="share of edges kept",
            ylabel="faithfulness f", title="What circuits of growing size keep",
        ),
        caption="f = 1: the circuit does what the model does; 0: no more than on corrupted inputs. 95 % intervals over examples.",
        alt="Faithfulness against the share of edges: it rises early for attributed edges, and late for random ones.",
        data=table,
    )  # fmt: skip
    areas = [
        {"edges by": name, "area": what} | e.cells()
        for name, each in curves.items()
        for what, e in (("CPR", each.cpr(seed=config.seed)), ("CMD", each.cmd(seed=config.seed)))
    ]
    report.table(
        "areas", areas, caption="Areas over the share of edges: CPR = ∫ f (1 is good), CMD = ∫ |1 − f| (0 is best); MIB."
    )


def growing(config: Config, graph: Graph) -> Callable[[int], Circuit]:
    """Random circuits of which every larger one holds the smaller ones."""
    from interp import stats
    from interp.heads import circuits

    return lambda n: circuits.drawn(graph, n, stats.generator(config.seed, "random curve"))


def points(curve: Curve, config: Config) -> pd.DataFrame:
    """One row for every size of circuit."""
    import pandas as pd

    estimates = curve.kept.faithfulness(seed=config.seed)
    rows = zip(curve.shares, curve.sizes, estimates, strict=True)
    return pd.DataFrame([{"share": share, "edges": n} | f.cells("f") for share, n, f in rows])


def edge_table(config: Config, ready: Ready, metric: Metric, circuit: Circuit, effects: Measurement) -> pd.DataFrame:
    """The edges of the circuit, strongest first: what each brings, and for small circuits what is lost without it."""
    import pandas as pd

    from interp import stats
    from interp.heads import circuits, faithfulness

    edges = [edge for edge in circuits.ranked(ready.graph, effects) if edge in circuit]
    rows = []
    for edge in edges:
        brings = stats.bootstrap(-effects.sel(edge=str(edge)).values, seed=config.seed)
        rows.append({"edge": str(edge)} | brings.cells("brings"))
    table = pd.DataFrame(rows)
    if len(edges) <= TRIED:
        shares = faithfulness.minimality(ready, metric, circuit).mean("example")
        table = table.merge(shares.table().rename(columns={"share of f": "lost without it"}), on="edge")
    return table


def report_edges(config: Config, report: Report, model: Model, graph: Graph, asked: Pairs, table: pd.DataFrame) -> None:
    """The edges as a drawing, as a table, and as files."""
    from interp.heads import circuit_files, circuits
    from interp.report import CircuitView

    brings = dict(zip(table["edge"], table["brings"].astype(float), strict=True))
    drawn = [(*link, brings[edge]) for edge in table["edge"].head(SHOWN) for link in circuits.links(graph, edge)]
    report.section("The circuit")
    caption = (
        "What an edge brings: the logit difference with it, less that with it corrupted, as attributed. Heads read by q, k, v."
    )
    report.view(CircuitView(caption=caption, rows=circuits.levels(graph), edges=drawn, unit="logits"))
    report.table(
        "edges",
        table,
        caption="Edges of the circuit. Brings: as attributed, 95 % intervals over examples. Lost without it: of f, by trying.",
    )
    found = circuit_files.Found(
        model=model.name, fingerprint=model.fingerprint, method=config.method, unit="logits", edges=brings
    )
    report.file("circuit.json", circuit_files.to_json(found), caption="to read back with interp.heads.circuit_files.from_json")
    report.file("circuit.dot", circuit_files.to_dot(graph, found), caption="for Graphviz")
    traced = circuit_files.to_circuit_tracer(graph, found, slug=f"{report.experiment.lower()}-{config.seed}", tokens=asked.shown)
    report.file("circuit-tracer.json", traced, caption="for circuit-tracer's and Neuronpedia's graph page")
