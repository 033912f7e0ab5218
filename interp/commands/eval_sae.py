"""How good is this autoencoder, beside as many random directions? (as in SAEBench, Karvonen et al. 2025, arXiv:2503.09532)

`interp eval-sae SAE …` runs this file as an experiment, so it leaves a run folder and a report like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp import experiment
from interp.cli import Answer
from interp.commands.run import run_command
from interp.experiment import discovery
from interp.experiment.flags import Device

if TYPE_CHECKING:
    from interp.commands.autoencoders import Subject
    from interp.report import Report
    from interp.sae.autoencoder import SparseAutoencoder
    from interp.sae.synthetic import Planted
    from interp.stats import Estimate

ID = "SAE"
RANDOM = "random directions"
OURS = "what random directions reach, and --at-least more"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which autoencoder is scored, and on what."""

    sae: Path = Path("sae")  # its folder, in the layout of SAELens, dictionary_learning or sparsify
    model: str | None = None  # the one it was trained on by default
    hook: tuple[str, ...] = ()  # what it reads; as its metadata say by default
    target: str | None = None  # what it writes, if that is another hook
    corpus: str = "stdlib:heldout"  # text it was not trained on
    max_tokens: int = 60_000  # of the corpus
    spliced: int = 6  # batches of 16 rows on which the loss recovered is measured
    probed: int = 12_000  # tokens on which few features are probed
    at_least: float = 0.05  # what it must gain over random directions, in every share and score
    device: Device = "auto"
    seed: int = 0


QUICK = {"max_tokens": 15_000, "spliced": 2, "probed": 4_000}


def main(argv: Sequence[str], *, prog: str) -> Answer:
    """Takes the autoencoder as first argument, and the flags of an experiment after it."""
    definition = discovery.Definition(config=Config, run=run, quick=QUICK)
    return run_command(Path(__file__), definition, argv, prog=prog, subject="sae")


def run(config: Config, report: Report) -> None:
    """Against the dictionary it was planted with, if there is one; else as a code, in its model, and against labels."""
    from interp.commands.autoencoders import opened
    from interp.sae import formats
    from interp.sae.synthetic import preset

    saved = formats.load(config.sae)
    planted = saved.metadata.get("synthetic_preset")
    if planted is not None:
        sae = saved.sae.to(config.device)
        report_recovery(config, report, sae, preset(planted, seed=int(saved.metadata.get("synthetic_seed", 0))).to(config.device))
        return
    subject = opened(
        saved, config.sae, model=config.model, hook=config.hook, target=config.target, corpus=config.corpus,
        max_tokens=config.max_tokens, device=config.device,
    )  # fmt: skip
    if subject.warning:
        report.text(subject.warning)
    random = subject.sae.untrained(config.seed + 1)
    report_code(config, report, subject, random)
    report_splice(config, report, subject, random)
    report_labels(config, report, subject, random)


def claim_gain(config: Config, report: Report, slug: str, text: str, ours: Estimate, control: Estimate, unit: str = "") -> None:
    """A claim that ours is more than the control, by --at-least or more, the whole interval long."""
    report.claim(
        slug, text, ours, at_least=control.value + config.at_least, unit=unit, source=OURS, control=control, control_text=RANDOM
    )


# ---- against a known dictionary ----


def report_recovery(config: Config, report: Report, sae: SparseAutoencoder, truth: Planted) -> None:
    """How much of the planted dictionary it found, and whether its codes fire when the true ones do."""
    from interp.sae import recovery

    rows, found = [], {}
    for name, one in (("trained", sae), (RANDOM, sae.untrained(config.seed + 1))):
        directions = recovery.directions(one.W_dec, truth.dictionary, seed=config.seed)
        samples = (truth.draw(4096, truth.generator(config.seed, -1 - index)) for index in range(-(-config.max_tokens // 4096)))
        firing = recovery.firing(one, samples, directions.stands_for, features=len(truth.dictionary), seed=config.seed)
        found[name] = {
            "MMCS": directions.mmcs,
            "found": directions.found,
            "MCC": directions.mcc,
            "uniqueness": directions.uniqueness,
            "F1": firing.f1,
            "precision": firing.precision,
            "recall": firing.recall,
            "recall of true features": firing.feature_recall,
        }
        rows.append({"features": name} | {key: value.value for key, value in found[name].items()} | {"dead": firing.dead})
    for slug, key, text in (
        ("mmcs", "MMCS", "mean over true features of the best cosine with a decoder row"),
        ("mcc", "MCC", "mean |cosine| of the best one-to-one matching"),
        ("f1", "F1", "mean over latents of the F1 of firing with the feature each stands for"),
    ):
        claim_gain(config, report, slug, text, found["trained"][key], found[RANDOM][key])
    report.table("recovery", rows, caption=f"Against {len(truth.dictionary):,} planted features; rows it was not trained on.")


# ---- on a model ----


def report_code(config: Config, report: Report, subject: Subject, random: SparseAutoencoder) -> None:
    """How few numbers say how much of the activations."""
    import numpy as np
    import pandas as pd

    from interp import figures
    from interp.sae import evaluation

    report.section("As a code")
    both = {"trained": subject.sae, RANDOM: random}
    with experiment.stage("score the code"):
        quality = {
            name: evaluation.evaluate(one, subject.seen, hook=subject.hooks, target=subject.target, seed=config.seed)
            for name, one in both.items()
        }
    ours, control = quality["trained"], quality[RANDOM]
    claim_gain(
        config, report, "explained", f"{ours.l0.value:.1f} active latents per token explain of the variance",
        ours.explained_variance, control.explained_variance,
    )  # fmt: skip
    measures = ("l0", "fvu", "l2_ratio", "bias")
    rows = [
        {"features": name, "measure": measure} | value.cells()
        for name, each in quality.items()
        for measure, value in ({key: getattr(each, key) for key in measures} | each.parts).items()
        if measure not in ("all", *subject.hooks[: len(subject.hooks) == 1])
    ]
    caption = f"On {ours.tokens:,} held-out tokens, with intervals over documents; {ours.dead:.1%} of the latents never fired."
    report.table("code", rows, caption=caption)
    density = pd.DataFrame({"log10 density": np.log10(np.maximum(ours.density, 0.1 / ours.tokens))})
    report.figure(
        "density",
        figures.histogram(density, "log10 density", xlabel="log10 of the share of tokens a latent fires on", ylabel="latents"),
        caption="How often latents fire; those that never did stand at the left.",
        alt="A histogram over powers of ten.",
        data=density,
    )


def report_splice(config: Config, report: Report, subject: Subject, random: SparseAutoencoder) -> None:
    """What the model still predicts when it reads the reconstruction."""
    from interp.sae import evaluation

    report.section("In its model")
    batches = subject.text.batches[:: max(1, len(subject.text.batches) // config.spliced)]
    with experiment.stage("loss recovered"):
        kept = {
            name: evaluation.loss_recovered(subject.model, one, subject.hooks, batches, target=subject.target, seed=config.seed)
            for name, one in (("trained", subject.sae), (RANDOM, random))
        }
    ours = kept["trained"]
    text = "the reconstruction in place of the activation recovers of the loss that zero ablation costs"
    claim_gain(config, report, "loss-recovered", text, ours.ce, kept[RANDOM].ce)
    shares = {name: (each.ce.value, each.kl.value, each.losses["autoencoder"]) for name, each in kept.items()}
    shares["mean activation"] = (ours.ce_mean.value, ours.kl_mean.value, ours.losses["mean"])
    shares["the model itself"] = (1.0, 1.0, ours.losses["original"])
    rows = [{"in place": name, "CE recovered": ce, "KL recovered": kl, "loss": nats} for name, (ce, kl, nats) in shares.items()]
    report.table("spliced", rows, caption=f"On {ours.tokens:,} predicted tokens, loss in nats; BOS and padding are left alone.")


def report_labels(config: Config, report: Report, subject: Subject, random: SparseAutoencoder) -> None:
    """Whether single features, or few, tell the labels of Python source."""
    import numpy as np

    from interp import association, probes, stats
    from interp.sae import features
    from interp.sae.absorption import absorption

    report.section("What its features know")
    text, rows = subject.text, subject.rows
    labels = text.common_labels()
    if len(labels) < 2:
        report.not_run("features-labels", "single features tell token labels", "this text is not Python source")
        return
    with experiment.stage("score the features"):
        own, control = (features.codes(one, rows) for one in (subject.sae, random))
        scored = association.best_columns(own, labels, text.document, controls={RANDOM: control}, seed=config.seed)
    f1 = {source: table.set_index("label").f1 for source, table in scored.groupby("source")}
    ours, chance = (stats.bootstrap(f1[source], seed=config.seed) for source in ("columns", RANDOM))
    claim_gain(config, report, "features-labels", f"F1 of the best feature for a label (mean of {ours.n})", ours, chance, "F1")
    best = scored[scored.source == "columns"].drop(columns=["source", "gain", "gain_low", "gain_high"], errors="ignore")
    beside = best.assign(**{RANDOM: f1[RANDOM].loc[best.label].to_numpy()}).sort_values("f1", ascending=False, ignore_index=True)
    report.table(
        "labels", beside, caption="The best feature for each label, chosen on half of the documents, scored on the others."
    )
    with experiment.stage("probe few features"):
        some = np.sort(stats.generator(config.seed, "probe rows").permutation(len(rows))[: config.probed])
        few = {name: labels[name][some] for name in sorted(labels, key=lambda name: -f1["columns"].get(name, 0.0))[:12]}
        groups = text.document[some]
        columns: dict[str, Any] = {RANDOM: control[some].toarray()}
        probed = probes.probe(own[some].toarray(), few, groups, k=5, controls=columns, seed=config.seed, resamples=100)
    wide = probed.pivot(index="label", columns="source", values="score").rename(columns={"activations": "features"})
    report.table(
        "sparse-probes", wide.reset_index(), caption="AUROC of probes on the 5 features that differ most, other documents."
    )
    if subject.target is None:
        directions = subject.sae.W_dec.detach().cpu().numpy()
        absorbed = absorption(rows[some].cpu().numpy(), own[some], directions, few, groups, seed=config.seed)
        caption = "Absorption: the share of a label that its own features miss and more special ones tell."
        report.table("absorption", absorbed.drop(columns="main", errors="ignore"), caption=caption)
