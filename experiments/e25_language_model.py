"""What can be seen inside a real language model, and does it beat chance? (the shipped model, end to end)

The model that comes with the package reads Python's standard library. Python's own `tokenize` and `ast` say what each token
of that text is, so heads, neurons and autoencoder features can be scored against known properties on held-out modules, beside
random directions, an untrained model and shuffled labels.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from interp import association, experiment, figures, head_pages, neuron_pages, pages, probes, rules, stats
from interp.activations import ActivationBatch, ActivationStore, harvest, harvest_to_store, summary
from interp.heads import ablation, patterns
from interp.heads.induction import copy_loss
from interp.mlp.keys import triggers
from interp.models.hooked import Edit, Model
from interp.models.reading import card, token_losses
from interp.report import Report, TokenView
from interp.sae import evaluation, features, training
from interp.sae.absorption import absorption
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.batches import epochs
from interp.sae.finding import telling
from interp.superposition import rotation
from interp.tasks import repeated
from interp.text import resolve
from interp.text.labelled import LabelledText

ID = "E25"
SHIPPED = "stdlib-4l"
OURS = "target of this report"
RANDOM, AGAIN, UNTRAINED = "random directions", "other random directions", "untrained model"
KINDS = ("previous_token", "induction", "duplicate_token", "bos_sink")
FAMILIES = ("keyword", "operator", "name", "string", "comment", "number", "self", "builtin", "attribute")  # with special cases
ROWS = 1024  # in a training batch of the autoencoder
EXCERPT = ("queue.py", 1084, 96)  # a held-out document, its first token shown, and how many: three methods of Queue


@dataclass(frozen=True, kw_only=True)
class Config:
    layer: int = 2  # whose output the autoencoder reads, and whose neurons are scored
    tokens: int = 400_000  # of the training side of the corpus, harvested for the autoencoder
    d_sae: int = 1536
    k: int = 16  # active features per token
    steps: int = 1200  # training steps of the autoencoder
    prompts: int = 64  # rows of repeated random tokens
    spliced: int = 6  # held-out batches of 16 rows on which the loss recovered is measured
    neuron_tokens: int = 12_000  # held-out tokens on which neurons and probes are scored
    shown: int = 384  # features in the dashboard
    seed: int = 0

    @property
    def hook(self) -> str:
        return f"blocks.{self.layer}.hook_resid_post"

    @property
    def neurons(self) -> str:
        return f"blocks.{self.layer}.mlp.hook_post"


QUICK = {"tokens": 200_000, "d_sae": 1024, "steps": 600, "prompts": 32, "spliced": 3, "shown": 192}


@dataclass(frozen=True)
class Study:
    """The shipped model, an untrained one of its shape, and held-out text."""

    config: Config
    model: Model
    untrained: Model
    text: LabelledText

    @cached_property
    def seen(self) -> tuple[list[ActivationBatch], list[ActivationBatch]]:
        """What the model makes of the text at both hooks, and what the untrained one does."""
        with experiment.stage("read the held-out text"):
            hooks = [self.config.hook, self.config.neurons]
            own, chance = (list(harvest(one, self.text.batches, hooks)) for one in (self.model, self.untrained))
        return own, chance


def run(config: Config, report: Report) -> None:
    model, corpus = Model.load(SHIPPED), resolve("stdlib:heldout")
    experiment.source(f"model {model.name}", model.fingerprint)
    experiment.source(f"corpus {corpus.name}", corpus.revision)
    assert model.tokenizer is not None  # the shipped model has one
    text = LabelledText.read(corpus, model.tokenizer, context=model.n_ctx)
    study = Study(config, model, model.untrained(config.seed), text)
    report_model(study, report)
    report_training(report)
    report_heads(study, report)
    report_one_text(study, report)
    with tempfile.TemporaryDirectory() as folder:
        own, chance = (cached(config, one, Path(folder) / one.name) for one in (model, study.untrained))
        report_cache(study, report, own)
        with experiment.stage("train the autoencoders"):
            sae, control = (trained(config, store) for store in (own, chance))
    report_neurons(study, report)
    report_autoencoder(study, report, sae)
    report_features(study, report, sae, control)


# ---- the model ----


def report_model(study: Study, report: Report) -> None:
    """It predicts held-out modules as well as its card says, far better than pairs of tokens do."""
    report.section("The model")
    model, text, stated = study.model, study.text, card(SHIPPED)
    with experiment.stage("held-out loss"):
        losses, documents = token_losses(model, text.batches)
        chance = float(token_losses(study.untrained, text.batches[:4])[0].mean())
    loss, bigram = stats.bootstrap(losses, groups=documents, seed=study.config.seed), stated["loss"]["bigram"]
    report.claim(
        "loss-as-stated",
        "the shipped weights give the held-out loss that their card states, to within",
        abs(loss.value - stated["loss"]["heldout"]),
        at_most=0.005,
        unit="nats/token",
        source="its card",
        control=abs(chance - stated["loss"]["heldout"]),
        control_text="untrained model",
    )
    report.claim(
        "beats-bigram",
        "on held-out modules the model saves, against a bigram model of the same tokens,",
        stats.Estimate(bigram - loss.value, bigram - loss.high, bigram - loss.low, loss.n),
        at_least=1.4,
        unit="nats/token",
        source=OURS,
        control=bigram - chance,
        control_text="untrained model",
    )
    known = {"uniform": float(np.log(model.d_vocab)), "unigram": stated["loss"]["unigram"], "bigram": bigram, "model": loss.value}
    per_byte = np.log(2) * stated["corpus"]["bytes_per_token"]
    rows = [{"predictor": name, "nats per token": nats, "bits per byte": nats / per_byte} for name, nats in known.items()]
    report.table("losses", rows, caption=f"On {len(losses):,} tokens of {loss.n} held-out documents.")


def report_training(report: Report) -> None:
    """The phase change in which the shipped model learnt to copy, from the curve on its card."""
    curve = [point for point in card(SHIPPED)["curve"] if point["step"] > 0]
    tables = {
        "nats": {"held-out text": "heldout", "copies of random tokens": "copy_loss"},
        "attention": {"prefix matching": "prefix", "previous token": "previous"},
    }
    losses, scores = (
        pd.DataFrame({"step": p["step"], "of": of, value: float(np.max(p[key]))} for p in curve for of, key in names.items())
        for value, names in tables.items()
    )
    axes = {"xscale": "log", "xlabel": "training step"}
    report.figure(
        "training",
        figures.lines(losses, "step", "nats", by="of", **axes, ylabel="nats per token"),
        caption="Loss along training. Copies of random segments become predictable within some two hundred steps.",
        alt="The loss on held-out text falls smoothly; the loss on copies stays flat, then drops from 7.5 to 1.",
        data=losses,
    )
    report.figure(
        "heads-along-training",
        figures.lines(scores, "step", "attention", by="of", **axes),
        caption="The best score of any head along training: previous-token attention comes first, then prefix matching.",
        alt="Two curves rise: previous-token attention gradually and then to 1, prefix matching abruptly to 0.8.",
        data=scores,
    )


# ---- attention heads ----


def report_heads(study: Study, report: Report) -> None:
    """Some heads attend to the token before, some to what followed earlier matches; copying needs the latter."""
    report.section("Attention heads")
    config, model = study.config, study.model
    draws = (stats.torch_generator(config.seed, purpose) for purpose in ("choose heads", "measure heads"))
    choosing, measuring = (repeated.repeated_random(config.prompts, 160, model.d_vocab, generator=draw) for draw in draws)
    chosen = patterns.scores(model, choosing.tokens, kinds=KINDS)
    found, chance = (patterns.scores(one, measuring.tokens, kinds=KINDS) for one in (model, study.untrained))
    for slug, where, kind in (
        ("prefix-matching", "after earlier matches of the token", "induction"),
        ("previous-token", "just before", "previous_token"),
    ):
        layer, head = chosen[kind].mean("example").top(1)[0]
        at, other = chance[kind].mean("example").top(1)[0]
        report.claim(
            slug,
            f"the best head (L{layer}H{head}) attends to the tokens {where}",
            found[kind].sel(layer=layer, head=head).estimate(seed=config.seed),
            at_least=0.4,
            unit="attention",
            source=OURS,
            control=chance[kind].sel(layer=at, head=other).estimate(seed=config.seed),
            control_text="best head of the untrained model",
        )
    claim_ablation(config, report, model, choosing, measuring, chosen["induction"].mean("example").top())
    table = pd.concat([found[kind].mean("example").table().set_index(["layer", "head"]) for kind in KINDS], axis=1).reset_index()
    report.table("heads", table, caption=f"Mean attention of every head on {config.prompts} rows of repeated random tokens.")
    report.figure(
        "prefix-matching",
        figures.heatmap(table, "head", "layer", "induction", xlabel="head", ylabel="layer"),
        caption="Prefix matching: attention to the tokens after all earlier matches.",
        alt="A grid of layers and heads; a few heads of the later layers stand out.",
        data=table,
    )


def claim_ablation(
    config: Config, report: Report, model: Model, choosing: repeated.Repeated, measuring: repeated.Repeated, ranked: list
) -> None:
    """Without its two best induction heads the model copies worse than without two other heads."""
    draw = stats.generator(config.seed, "other heads").choice(np.arange(2, len(ranked)), 2, replace=False)
    groups = {"none": [], "induction": ranked[:2], "others": [ranked[place] for place in draw]}
    means = ablation.mean_outputs(model, choosing.tokens, positions=choosing.predicts_copy)
    losses = {name: copy_loss(model, measuring, ablation.replaced(model, heads, means)) for name, heads in groups.items()}
    names = {name: " and ".join(f"L{layer}H{head}" for layer, head in heads) for name, heads in groups.items()}
    report.claim(
        "induction-needed",
        f"on copies, mean-ablating {names['induction']} (prefix matching) costs more than {names['others']} (random heads), by",
        stats.paired_difference(losses["induction"], losses["others"], seed=config.seed),
        at_least=0.1,
        unit="nats/token",
        source=OURS,
        control=stats.paired_difference(losses["others"], losses["none"], seed=config.seed),
        control_text="what ablating the other two costs",
    )


def report_one_text(study: Study, report: Report) -> None:
    """One stretch of held-out code: every head's attention, and every token's loss beside its labels."""
    report.section("One stretch of code")
    model, text = study.model, study.text
    name, start, length = EXCERPT
    first = int(text.first[text.names.index(name)]) + start
    rows = slice(first, first + length)
    tokens = torch.from_numpy(np.concatenate([text.batches[0].tokens[0, :1], text.tokens[rows]]))[None]  # BOS first
    shown = [text.vocabulary[token] for token in tokens[0].tolist()]
    report.view(replace(head_pages.attention_view(model, tokens, shown), title=f"Attention in {name}"))
    values = {"loss": F.cross_entropy(model.run(tokens).logits[0, :-1], tokens[0, 1:], reduction="none").numpy()}
    values |= {label: text.labels[label][rows].astype(float) for label in ("name_seen", "keyword", "docstring", "in_call")}
    report.view(TokenView(title="Loss and labels", tokens=shown[1:], values=values, units={"loss": "nats"}))


# ---- cached activations ----


def cached(config: Config, model: Model, folder: Path) -> ActivationStore:
    """The residual stream of the training text in a store on disk."""
    with experiment.stage(f"harvest {config.tokens:,} tokens of {model.name}"):
        how = {"max_tokens": config.tokens, "dtype": "float16", "batch": 32}
        return harvest_to_store(model, "stdlib", hooks=[config.hook], out=folder, **how)


def report_cache(study: Study, report: Report, store: ActivationStore) -> None:
    """What is cached is what the model computes: put back, it gives the model's own predictions."""
    report.section("Cached activations")
    config, model, tokens = study.config, study.model, study.text.batches[0].tokens
    kept = model.run(tokens, read=[config.hook]).activations[config.hook]
    logits = model.run(tokens).logits
    back, elsewhere = ([Edit(config.hook, lambda _, value=value: value)] for value in (kept, kept.roll(1, 0)))
    own, rolled = (float((model.run(tokens, edits=edits).logits - logits).abs().max()) for edits in (back, elsewhere))
    report.claim(
        "cache-exact",
        "activations from a run that stopped there, put back into a whole run, move its logits by at most",
        own,
        at_most=1e-5,
        unit="logits",
        source="by construction",
        control=rolled,
        control_text="put back into other rows",
    )
    size = f"{store.rows:,} tokens of training text at {config.hook}, {store.bytes / 2**20:.0f} MiB in half precision"
    report.table("cache", summary(store, config.hook).overview, caption=f"{size}.")


# ---- neurons ----


def report_neurons(study: Study, report: Report) -> None:
    """Single neurons tell what a token is better than directions of no particular basis do."""
    report.section("MLP neurons")
    config, text = study.config, study.text
    active, chance = (columns(seen, config.neurons) for seen in study.seen)
    with experiment.stage("score the neurons"):
        some = np.sort(stats.generator(config.seed, "neuron rows").choice(len(active), config.neuron_tokens, replace=False))
        turns = {name: stats.torch_generator(config.seed, "rotation", name) for name in (RANDOM, AGAIN)}
        turned = {name: active[some] @ rotation(active.shape[1], generator=turn) for name, turn in turns.items()}
        controls = turned | {UNTRAINED: chance[some]}
        labels = {name: values[some] for name, values in text.common_labels().items()}
        scored = association.best_columns(active[some], labels, text.document[some], controls=controls, seed=config.seed)
    report_told(config, report, "neuron", f"the best neuron of layer {config.layer}", scored)
    own = scored.query("source == 'columns'").sort_values("f1", ascending=False)
    shown = own.column.unique()[:64]
    values = active[:, shown.tolist()].numpy()
    beside = {"best": own, "explained": text.explain(rules.strongest(values), shown, seed=config.seed)}
    found = triggers(study.seen[0], top=12)[config.neurons]
    report.view(neuron_pages.dashboard(study.model, config.layer, text, found, shown, values, **beside))


def columns(seen: list[ActivationBatch], hook: str) -> Tensor:
    """Activations at one hook on every token of the text."""
    return torch.cat([batch.activations[hook] for batch in seen])


def report_told(config: Config, report: Report, noun: str, best: str, scored: pd.DataFrame) -> None:
    """F1 of the best column for each label, beside its controls; the claims' control is what a second random draw gains."""
    rivals = {RANDOM: "random directions, in F1", UNTRAINED: f"{noun}s of the untrained model"}
    for source, others in rivals.items():
        report.claim(
            f"{noun}s-{source.split()[0]}",
            f"for a token label, {best} beats the best of as many {others}, by (mean over {scored.label.nunique()} labels)",
            association.gain(scored, source, seed=config.seed),
            at_least=0.05,
            unit="F1",
            source=OURS,
            control=association.gain(scored, source, of=AGAIN, seed=config.seed),
            control_text="another draw of random directions, by",
        )
    table = association.beside(scored, noun)
    sources = [noun, *scored.source.unique()[1:]]
    long = table.melt("label", sources, var_name="columns", value_name="F1")
    report.figure(
        f"{noun}-f1",
        figures.histogram(long, "F1", by="columns", bins=20, xlabel="F1 of the best column for a label", ylabel="labels"),
        caption=f"How well the best {noun} tells a label, over all labels, beside the controls.",
        alt=f"Histograms of F1: {noun}s reach higher than the controls.",
        data=long,
    )
    caption = f"The best {noun} for each label, chosen on half of the documents, scored on the others; F1 of controls beside."
    report.table(f"{noun}-labels", table, caption=caption)


# ---- the autoencoder ----


def trained(config: Config, store: ActivationStore) -> SparseAutoencoder:
    """A TopK autoencoder of the stored residual stream."""
    d_in = store.header.shapes[config.hook][-1]
    sae = SparseAutoencoder(d_in, config.d_sae, activation=TopK(config.k), seed=config.seed)
    steps = experiment.progress(range(config.steps), f"autoencoder with {config.d_sae} features")
    batches = (rows for rows, _ in zip(epochs(store, config.hook, rows=ROWS, seed=config.seed), steps, strict=False))
    training.train(sae, batches, steps=config.steps)
    return sae


def report_autoencoder(study: Study, report: Report, sae: SparseAutoencoder) -> None:
    """A few features per token, put in place of the residual stream, keep what the model predicts."""
    config, model, text = study.config, study.model, study.text
    report.section("Sparse autoencoder")
    both = {"trained": sae, "random directions": sae.untrained(config.seed + 1)}
    with experiment.stage("loss recovered"):
        part = text.batches[:: max(1, len(text.batches) // config.spliced)]
        kept = {name: evaluation.loss_recovered(model, one, config.hook, part, seed=config.seed) for name, one in both.items()}
    report.claim(
        "loss-recovered",
        f"{config.k} of {config.d_sae} features per token, in place of the residual stream, recover of the loss",
        kept["trained"].ce,
        at_least=0.9,
        unit="of what zero ablation costs",
        source=OURS,
        control=kept["random directions"].ce,
        control_text="random directions",
    )
    rows = []
    for name, one in both.items():
        quality, recovered = evaluation.evaluate(one, study.seen[0], hook=config.hook), kept[name]
        shares = {"CE recovered": recovered.ce.value, "KL recovered": recovered.kl.value, "by the mean": recovered.ce_mean.value}
        code = {"L0": quality.l0.value, "FVU": quality.fvu.value, "dead": quality.dead, "L2 ratio": quality.l2_ratio.value}
        rows.append({"features": name} | code | shares)
    caption = "On held-out text. Recovered: share of the cross-entropy and KL divergence that zero ablation costs."
    report.table("quality", rows, caption=caption)


def report_features(study: Study, report: Report, sae: SparseAutoencoder, control: SparseAutoencoder) -> None:
    """Single features tell what a token is better than random directions and an untrained model's features do."""
    config, text = study.config, study.text
    report.section("What its features know")
    with experiment.stage("score the features"):
        here, there = (columns(seen, config.hook) for seen in study.seen)
        own = features.codes(sae, here)
        others = {
            RANDOM: features.codes(sae.untrained(config.seed + 1), here),
            AGAIN: features.codes(sae.untrained(config.seed + 2), here),
            UNTRAINED: features.codes(control, there),
        }
        scored = association.best_columns(own, text.common_labels(), text.document, controls=others, seed=config.seed)
    report_told(config, report, "feature", "the best feature", scored)
    report_families(study, report, sae, {"features": own} | {name: others[name] for name in (RANDOM, UNTRAINED)})
    best = scored.query("source == 'columns'")
    shown = telling(own, best, config.shown, seed=config.seed)
    with experiment.stage("read the features"):
        kinds = {"top": 10, "per_quantile": 3, "negatives": 3}
        book = features.collect(sae, study.seen[0], hook=config.hook, features=shown, **kinds, seed=config.seed)
    with experiment.stage("explain the features"):
        explained, random = (text.explain(codes[:, shown], shown, seed=config.seed) for codes in (own, others[RANDOM]))
    claim_rules(config, report, explained, random)
    report.view(pages.feature_dashboard(study.model, sae, config.hook, text, own, book, best, explained))


def report_families(study: Study, report: Report, sae: SparseAutoencoder, codes: dict[str, sparse.csc_array]) -> None:
    """How well a few features tell labels that have special cases, and how much of these labels features of the cases swallow."""
    config, text, here = study.config, study.text, columns(study.seen[0], study.config.hook)
    with experiment.stage("probe few features"):
        some = np.sort(stats.generator(config.seed, "probe rows").choice(len(here), config.neuron_tokens, replace=False))
        labels, groups = {name: text.labels[name][some] for name in FAMILIES}, text.document[some]
        own, *controls = ((name, found[some].toarray()) for name, found in codes.items())
        probed = probes.probe(own[1], labels, groups, k=5, controls=dict(controls), seed=config.seed, resamples=10)
        directions = sae.W_dec.detach().numpy()
        absorbed = absorption(here[some].numpy(), codes["features"][some], directions, labels, groups, seed=config.seed)
    wide = probed.pivot(index="label", columns="source", values="score").rename(columns={"activations": "features"})
    caption = "AUROC of logistic probes on 5 features of the autoencoder, on other documents, beside the same probes on controls."
    report.table("sparse-probes", wide.reset_index(), caption=caption)
    caption = (
        "Absorption: the share of a label told not by its own features but by more special ones; full: where these alone fire."
    )
    report.table("absorption", absorbed.drop(columns="main", errors="ignore"), caption=caption)


def claim_rules(config: Config, report: Report, explained: pd.DataFrame, random: pd.DataFrame) -> None:
    """Short rules say when features fire, and not only on the documents they were searched on."""
    how = {"score": "precision", "by": "column", "seed": config.seed}
    own, control = (association.gain(one, "shuffled", **how) for one in (explained, random))
    report.claim(
        "features-rules",
        f"on other documents the rules of {explained.column.nunique()} features are right more often than shuffled ones', by",
        own,
        at_least=0.3,
        unit="precision",
        source=OURS,
        control=control,
        control_text="rules of random directions",
    )
    caption = "When features fire, as rules over token labels and nearby tokens, scored on documents they were not searched on."
    report.table("feature-rules", explained.query("source == 'columns'").drop(columns="source"), caption=caption)


if __name__ == "__main__":
    experiment.main(Config, run)
