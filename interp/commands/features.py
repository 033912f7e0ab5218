"""What do the features of this autoencoder respond to and write? (Bricken et al. 2023, "Towards Monosemanticity")

`interp features SAE …` runs this file as an experiment, so it leaves a run folder and a report like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from interp import experiment
from interp.cli import Answer
from interp.commands.run import run_command
from interp.errors import ConfigError
from interp.experiment import discovery
from interp.experiment.flags import Device

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

    from interp.commands.autoencoders import Subject
    from interp.report import Report
    from interp.text.labelled import LabelledText

ID = "FEATURES"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which autoencoder is read, on what, and which of its features are shown."""

    sae: Path = Path("sae")  # its folder, in the layout of SAELens, dictionary_learning or sparsify
    feature: tuple[int, ...] = ()  # these features
    label: str | None = None  # those that tell this token label best
    token: str | None = None  # those that fire most on this token
    prompt: str | None = None  # those most active on this text
    shown: int = 128  # how many, where more would do; without a choice, the best for every label and others at random
    model: str | None = None  # the one it was trained on by default
    hook: tuple[str, ...] = ()  # what it reads; as its metadata say by default
    target: str | None = None  # what it writes, if that is another hook
    corpus: str = "stdlib:heldout"  # the text that examples are taken from
    max_tokens: int = 60_000  # of the corpus
    at_least: float = 0.1  # precision that rules must gain over shuffled ones
    device: Device = "auto"
    seed: int = 0


QUICK = {"max_tokens": 15_000, "shown": 32}


def main(argv: Sequence[str], *, prog: str) -> Answer:
    """Takes the autoencoder as first argument, and the flags of an experiment after it."""
    definition = discovery.Definition(config=Config, run=run, quick=QUICK)
    return run_command(Path(__file__), definition, argv, prog=prog, subject="sae")


def run(config: Config, report: Report) -> None:
    """Rules for the features asked for, and a page of each."""
    from interp import association, pages
    from interp.commands.autoencoders import opened
    from interp.sae import features, formats

    asked = [name for name in ("feature", "label", "token", "prompt") if getattr(config, name)]
    if len(asked) > 1:
        raise ConfigError(f"--{' and --'.join(asked)} choose features in different ways; give one of them")
    subject = opened(
        formats.load(config.sae), config.sae, model=config.model, hook=config.hook, target=config.target, corpus=config.corpus,
        max_tokens=config.max_tokens, device=config.device,
    )  # fmt: skip
    if subject.warning:
        report.text(subject.warning)
    text, sae = subject.text, subject.sae
    with experiment.stage("read the features"):
        codes = features.codes(sae, subject.rows)
        labels = text.common_labels()
        best = association.best_columns(codes, labels, text.document, seed=config.seed).query("source == 'columns'")
        shown = chosen(config, subject, codes, best)
        book = features.collect(
            sae, subject.seen, hook=subject.hooks, features=shown, top=10, per_quantile=3, negatives=3, seed=config.seed
        )
    with experiment.stage("explain the features"):
        explained = text.explain(codes[:, shown], shown, seed=config.seed)
    claim_rules(config, report, explained)
    site = subject.target or " + ".join(subject.hooks)
    report.view(pages.feature_dashboard(subject.model, sae, site, text, codes, book, best, explained))


def chosen(config: Config, subject: Subject, codes: sparse.csc_array, best: pd.DataFrame) -> np.ndarray:
    """The features asked for, in ascending order. Raises ConfigError for what does not exist."""
    if config.feature:
        outside = [feature for feature in config.feature if not 0 <= feature < subject.sae.d_sae]
        if outside:
            raise ConfigError(f"--feature {outside[0]} is outside of 0 to {subject.sae.d_sae - 1}")
        return np.unique(config.feature)
    if config.label is not None:
        strength = by_label(config.label, subject.text, codes)
    elif config.token is not None:
        strength = by_token(config.token, subject.text, codes)
    elif config.prompt is not None:
        strength = by_prompt(config.prompt, subject)
    else:
        from interp.sae.finding import telling

        return telling(codes, best, config.shown, seed=config.seed)
    order = np.argsort(-strength, kind="stable")[: config.shown]
    return np.sort(order[strength[order] > 0])


def by_label(label: str, text: LabelledText, codes: sparse.csc_array) -> np.ndarray:
    """How well each feature tells a label: AUROC less that of chance."""
    from interp.association import auroc
    from interp.names import did_you_mean

    if label not in text.labels:
        raise ConfigError(f"no label {label!r}{did_you_mean(label, text.labels)}; interp.text.labels.DESCRIPTIONS lists them")
    truth = text.labels[label] > 0
    if not 0 < truth.mean() < 1:
        raise ConfigError(
            f"the label {label!r} holds nowhere, or everywhere, in this text; give more --max-tokens or another label"
        )
    return np.nan_to_num(auroc(codes, truth[:, None])[:, 0]) - 0.5


def by_token(token: str, text: LabelledText, codes: sparse.csc_array) -> np.ndarray:
    """How often each feature fires on a token, less how often it fires at all."""
    there = np.isin(text.tokens, [number for number, shown in enumerate(text.vocabulary) if shown == token])
    if not there.any():
        raise ConfigError(f"the token {token!r} is not in this text; write it as reports show tokens, or read more --max-tokens")
    fires = codes.astype(bool).astype(float)
    return fires.T @ (there / there.sum() - 1 / len(there))


def by_prompt(prompt: str, subject: Subject) -> np.ndarray:
    """The highest code of each feature on a text of one's own."""
    from interp.activations import harvest
    from interp.commands.autoencoders import rows_of_all
    from interp.sae.features import codes
    from interp.text import pack, resolve

    model = subject.model
    assert model.tokenizer is not None  # `opened` asks for one
    packed = pack(resolve([prompt]), model.tokenizer, context=model.n_ctx, batch=1)
    rows = rows_of_all(list(harvest(model, packed, subject.hooks)), subject.hooks)
    return codes(subject.sae, rows).max(0).toarray().ravel()


def claim_rules(config: Config, report: Report, explained: pd.DataFrame) -> None:
    """Short rules say when features fire, on documents they were not searched on."""
    from interp import stats

    precision = explained.pivot(index="column", columns="source", values="precision")
    report.claim(
        "rules",
        f"on other documents the rules of {len(precision)} features are right more often than shuffled ones', by",
        stats.bootstrap(precision["columns"] - precision["shuffled"], seed=config.seed),
        at_least=config.at_least,
        unit="precision",
        source="target of this report",
        control=stats.bootstrap(precision["shuffled"], seed=config.seed),
        control_text="precision of the shuffled ones",
    )
    ours = explained.query("source == 'columns'").drop(columns="source").sort_values("f1", ascending=False, ignore_index=True)
    report.table("rules", ours, caption="When features fire, as rules over token labels and nearby tokens.")
