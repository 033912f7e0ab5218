"""What do probes read off stored activations beyond token identity and chance? (Gurnee et al. 2023, arXiv:2305.01610)

`interp probe STORE …` runs this file as an experiment, so it leaves a run folder and a report like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from interp import experiment
from interp.cli import Answer
from interp.commands.run import run_command
from interp.errors import StoreError
from interp.experiment import discovery

if TYPE_CHECKING:
    from interp.report import Report

ID = "PROBE"
LABELS = ("docstring", "string", "comment", "in_call", "name_seen", "bracket_depth", "indent_depth")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which activations are probed, and for what."""

    store: Path = Path("activations")  # a finished store
    hook: str | None = None  # the hook to probe; the store's first one by default
    labels: tuple[str, ...] = LABELS  # token labels of Python source
    k: int = 0  # columns of a k-sparse probe; 0 probes all columns
    max_rows: int = 20_000  # tokens, drawn at random from the store
    at_least: float = 0.05  # what activations must gain over the best control
    seed: int = 0


QUICK = {"max_rows": 5_000}


def main(argv: Sequence[str], *, prog: str) -> Answer:
    """Takes the store as first argument, and the flags of an experiment after it."""
    definition = discovery.Definition(config=Config, run=run, quick=QUICK)
    return run_command(Path(__file__), definition, argv, prog=prog, subject="store")


def run(config: Config, report: Report) -> None:
    """Probes for every label, with their controls, as claims and a table."""
    from interp import probes
    from interp.activations import ActivationStore
    from interp.models.hooked import Model
    from interp.text import resolve
    from interp.text.label_table import LabelTable

    store = ActivationStore.open(config.store, hook=config.hook)
    hook, header = config.hook or store.hooks[0], store.header
    model = Model.load(header.model)
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise StoreError(f"{header.model} has no tokenizer here, and without one the tokens of {config.store} have no labels")
    ActivationStore.open(config.store, model=model, tokenizer=tokenizer)
    corpus = resolve(header.corpus)
    if corpus.revision != header.corpus_revision:
        raise StoreError(
            f"{config.store} was harvested from {header.corpus} at {header.corpus_revision[:12]}, and it is at "
            f"{corpus.revision[:12]} now, so its tokens cannot be labelled; harvest it again"
        )
    experiment.source(f"model {header.model}", header.model_fingerprint)
    experiment.source(f"corpus {header.corpus}", header.corpus_revision)
    with experiment.stage("label the tokens"):
        table = LabelTable.build(corpus.up_to(store.rows, tokenizer), tokenizer, names=config.labels)
    with experiment.stage("fit the probes"):
        found = probes.probe_store(store, hook, table.rows, k=config.k, max_rows=config.max_rows, seed=config.seed)
    probes.fill_report(report, found, hook=hook, at_least=config.at_least)
