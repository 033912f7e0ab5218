"""What do the MLP neurons of a model read and write? (Geva et al. 2021, arXiv:2012.14913)

`interp neurons MODEL …` runs this file as an experiment, so it leaves a run folder and a report like any other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from interp import experiment
from interp.cli import Answer
from interp.commands.run import run_command
from interp.errors import ConfigError, CorpusError, ModelError
from interp.experiment import discovery

if TYPE_CHECKING:
    import pandas as pd

    from interp.mlp.keys import Triggers
    from interp.models.hooked import Model
    from interp.report import Report
    from interp.text.labelled import LabelledText

ID = "NEURONS"
SAMPLED = 2_000  # random tokens on which the distribution of every neuron's activations is shown
Chosen = dict[int, list[int]]  # layer → neurons


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which neurons are shown: one, those for a token, those for a label, or some at random."""

    model: str = "stdlib-4l"  # shipped or zoo model, folder, or hub name
    corpus: str = "stdlib:heldout"  # stdlib, stdlib:heldout, a file, a folder, or hf:org/name
    neuron: str | None = None  # layer and neuron, such as 2.117
    token: str | None = None  # neurons that read or write this token
    label: str | None = None  # neurons whose strongest examples share this token label
    shown: int = 32  # neurons with a page, where more would do
    max_tokens: int = 100_000  # tokens of the corpus that are read
    seed: int = 0


QUICK = {"max_tokens": 20_000}


def main(argv: Sequence[str], *, prog: str) -> Answer:
    """Takes the model as first argument, and the flags of an experiment after it."""
    definition = discovery.Definition(config=Config, run=run, quick=QUICK)
    return run_command(Path(__file__), definition, argv, prog=prog, subject="model")


def run(config: Config, report: Report) -> None:
    """The census of all neurons, what their triggers have in common, and pages of the ones asked for."""
    from interp.mlp import census, keys, memories
    from interp.models.hooked import Model

    model = Model.load(config.model)
    if model.kind == "encoder-decoder":
        raise ModelError(f"{model.name} is an encoder-decoder; this command reads one stack, interp.mlp.memories either of two")
    sources = [memories.source(model, layer) for layer in range(model.n_layers)]
    chosen = asked_for(config, model)
    text = read(config, model)
    experiment.source(f"model {model.name}", model.fingerprint)
    with experiment.stage(f"read {len(text.tokens):,} tokens"):
        found = keys.triggers(memories.activations(model, text.batches), sampled=SAMPLED, seed=config.seed)
    with experiment.stage("count the neurons"):
        table = census.census(model, found)
    layers = [found[each.name] for each in sources]
    report_census(report, table)
    shared = report_patterns(config, report, text, layers)
    chosen = chosen or by_token(config, report, model, text, shared) or by_label(config, shared) or drawn(config, table)
    report_pages(report, model, text, layers, table, chosen)


def asked_for(config: Config, model: Model) -> Chosen:
    """The neuron of --neuron, if there is one. Raises ConfigError for one that cannot be read, and for several ways to choose."""
    from interp.mlp.memories import require_layer, require_neurons

    given = [f"--{name}" for name in ("neuron", "token", "label") if getattr(config, name) is not None]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} choose neurons in different ways; give one of them")
    if config.neuron is None:
        return {}
    match = re.fullmatch(r"(\d+)\.(\d+)", config.neuron)
    if match is None:
        raise ConfigError(f"--neuron {config.neuron} is not a layer and a neuron; give it as 2.117")
    layer, neuron = int(match[1]), int(match[2])
    require_layer(model, layer)
    require_neurons(model, layer, [neuron])
    return {layer: [neuron]}


def read(config: Config, model: Model) -> LabelledText:
    """The text the neurons are read on, labelled: as many documents as hold `max_tokens`."""
    from interp.text import Corpus, resolve
    from interp.text.labelled import LabelledText
    from interp.text.labels import DESCRIPTIONS

    tokenizer = model.tokenizer
    if tokenizer is None:
        raise CorpusError(f"{model.name} has no tokenizer to read text with; give a model with one")
    if config.label is not None and config.label not in DESCRIPTIONS:
        from interp.names import did_you_mean

        near = did_you_mean(config.label, DESCRIPTIONS)
        raise CorpusError(f"no label {config.label!r}{near}; interp.text.labels.DESCRIPTIONS lists all of them")
    ids = [] if config.token is None else tokenizer.encode(config.token).ids
    if config.token is not None and len(ids) != 1:
        shown = f", such as {tokenizer.decode(ids[:1])!r}" if ids else ""
        raise ConfigError(f"{config.token!r} is {len(ids)} tokens of {model.name}; give one token{shown}")
    corpus, documents, tokens = resolve(config.corpus), [], 0
    experiment.source(f"corpus {corpus.name}", corpus.revision)
    for document in corpus.documents():
        if tokens >= config.max_tokens:
            break
        documents.append(document)
        tokens += len(tokenizer.encode(document.text).ids)
    part = Corpus(corpus.name, corpus.revision, lambda: iter(documents))
    return LabelledText.read(part, tokenizer, context=model.n_ctx)


def report_census(report: Report, table: pd.DataFrame) -> None:
    """All neurons in numbers."""
    from interp import figures
    from interp.mlp import census

    report.section("All neurons")
    report.table("layers", census.summary(table), caption="Medians and counts of each layer.")
    report.figure(
        "in-out",
        figures.histogram(table, "in_out_z", by="layer", xlabel="cos(key, value) · √d_model", ylabel="neurons"),
        caption="Does a neuron write along what it reads? Unrelated directions have a standard deviation of 1 here.",
        alt="Histograms of the cosine of key and value, one per layer.",
        data=table.filter(items=["layer", "neuron", "in_out_z"]),
    )
    report.table("census", table, caption="Every neuron. interp.mlp.census says what the columns mean.")


def report_patterns(config: Config, report: Report, text: LabelledText, layers: list[Triggers]) -> pd.DataFrame:
    """What the triggers have in common, beside triggers moved along their documents."""
    import numpy as np
    import pandas as pd

    from interp import stats
    from interp.mlp.keys import moved
    from interp.mlp.patterns import patterns

    report.section("What fires them")
    lengths = np.diff(text.first)
    tables, shares = [], {"found": [], "moved": []}
    for layer, found in enumerate(layers):
        here, null = patterns(found, text), patterns(moved(found, lengths, seed=config.seed), text)
        tables.append(here.assign(layer=layer))
        for name, one in (("found", here), ("moved", null)):
            shares[name].append(np.isin(np.arange(found.value.shape[1]), one.neuron))
    own, null = (stats.bootstrap(np.concatenate(shares[name]).astype(float), seed=config.seed) for name in ("found", "moved"))
    report.claim(
        "patterns",
        "the strongest examples of a neuron share a pattern, for a share of all neurons of",
        own,
        at_least=0.5,
        unit="of neurons",
        source="target of this report",
        control=null,
        control_text="examples moved along their documents",
    )
    table = pd.concat(tables, ignore_index=True)
    columns = ["layer", "neuron", "kind", "pattern", "count", "triggers", "expected", "q"]
    best = table.drop_duplicates(["layer", "neuron"]).filter(items=columns)
    report.table(
        "patterns", best, caption="The most significant pattern of each neuron. interp.mlp.patterns says how it is tested."
    )
    return table


def by_token(config: Config, report: Report, model: Model, text: LabelledText, shared: pd.DataFrame) -> Chosen:
    """Neurons that read the token (their examples end in it) or write it (their value puts it far up)."""
    if config.token is None:
        return {}
    import pandas as pd

    from interp.mlp.steering import writes
    from interp.mlp.values import value_logits

    assert model.tokenizer is not None  # `read` has asked
    (token,) = model.tokenizer.encode(config.token).ids
    ends_in_it = (shared.kind == "token") & (shared.pattern == f'is "{text.vocabulary[token]}"')
    reading = shared.drop(index=shared.index[~ends_in_it]).sort_values("p")
    writing = []
    for layer in range(model.n_layers):
        z = writes(value_logits(model, layer), token).cpu().numpy()
        writing.append(pd.DataFrame({"layer": layer, "neuron": range(len(z)), "z": z}))
    written = pd.concat(writing).sort_values("z", ascending=False, ignore_index=True)
    report.section(f"Neurons for {config.token!r}")
    columns = ["layer", "neuron", "count", "triggers", "expected", "q"]
    if len(reading):
        report.table("reading", reading.filter(items=columns), caption="Neurons whose strongest examples end in the token.")
    report.table("writing", written.head(config.shown), caption="Logit of the token in each value alone, in standard deviations.")
    half = config.shown // 2
    return _grouped(pd.concat([reading.head(config.shown - half), written.head(half)]))


def by_label(config: Config, shared: pd.DataFrame) -> Chosen:
    """Neurons whose strongest examples share the label."""
    if config.label is None:
        return {}
    labels = shared.query("kind in ['class', 'context']")
    sharing = labels.query("pattern == @config.label").sort_values("p")
    if sharing.empty:
        known = sorted(set(labels.pattern))
        raise ConfigError(
            f"no neuron's examples share the label {config.label!r} here; those that are shared: {', '.join(known)}"
        )
    return _grouped(sharing.head(config.shown))


def drawn(config: Config, table: pd.DataFrame) -> Chosen:
    """Some neurons, drawn at random."""
    from interp import stats

    rows = stats.generator(config.seed, "neurons shown").permutation(len(table))[: config.shown]
    return _grouped(table.iloc[sorted(rows)])


def report_pages(
    report: Report, model: Model, text: LabelledText, layers: list[Triggers], table: pd.DataFrame, chosen: Chosen
) -> None:
    """A page for each chosen neuron."""
    from interp import neuron_pages
    from interp.mlp import memories

    report.section("Neurons one by one")
    with experiment.stage("read the neurons shown"):
        active = memories.columns(model, text.batches, chosen)
    for layer, neurons in sorted(chosen.items()):
        values = active[layer].numpy()
        report.view(neuron_pages.dashboard(model, layer, text, layers[layer], neurons, values, census=table))


def _grouped(rows: pd.DataFrame) -> Chosen:
    chosen: Chosen = {}
    for layer, neuron in dict.fromkeys(zip(rows.layer.tolist(), rows.neuron.tolist(), strict=True)):
        chosen.setdefault(int(layer), []).append(int(neuron))
    return chosen
