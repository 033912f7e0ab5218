"""What can be seen inside a real language model, and does it beat chance? (the shipped model, end to end)

The model that comes with the package reads Python's standard library. Python's own `tokenize` and `ast` say what each token
of that text is, so heads, neurons and autoencoder features can be scored against known properties on held-out modules, beside
random directions, an untrained model and shuffled labels.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from interp import association, experiment, figures, neuron_pages, pages, probes, rules, stats
from interp.activations import ActivationBatch, ActivationStore, harvest, harvest_to_store, summary
from interp.heads import ablation, patterns
from interp.measurement import Measurement
from interp.mlp.keys import triggers
from interp.models.hooked import SHIPPED, Edit, Model
from interp.report import AttentionView, Report, TokenView
from interp.sae import evaluation, features, training
from interp.sae.absorption import absorption
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.batches import epochs
from interp.tasks import repeated
from interp.text import resolve
from interp.text.labelled import LabelledText
from interp.text.packing import TokenBatch

ID = "E25"
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


def run(config: Config, report: Report) -> None:
    model = Model.load("stdlib-4l")
    untrained = model.untrained(config.seed)
    corpus = resolve("stdlib:heldout")
    experiment.source(f"model {model.name}", model.fingerprint)
    experiment.source(f"corpus {corpus.name}", corpus.revision)
    assert model.tokenizer is not None  # the shipped model has one
    text = LabelledText.read(corpus, model.tokenizer, context=model.n_ctx)
    report_model(config, report, model, untrained, text)
    report_training(report)
    report_heads(config, report, model, untrained)
    report_one_text(report, model, text)
    with tempfile.TemporaryDirectory() as folder:
        own, chance = (cached(config, one, Path(folder) / name) for name, one in (("own", model), ("chance", untrained)))
        report_cache(config, report, model, own, text)
        with experiment.stage("train the autoencoders"):
            (sae, history), (control, _) = (trained(config, store) for store in (own, chance))
    with experiment.stage("read the held-out text"):
        seen, unseeing = (list(harvest(one, text.batches, [config.hook, config.neurons])) for one in (model, untrained))
    report_neurons(config, report, model, text, seen, unseeing)
    report_autoencoder(config, report, model, sae, history, text, seen)
    report_features(config, report, model, sae, control, text, seen, unseeing)


# ---- the model ----


def report_model(config: Config, report: Report, model: Model, untrained: Model, text: LabelledText) -> None:
    """It predicts held-out modules as well as its card says, far better than pairs of tokens do."""
    report.section("The model")
    stated = card()
    with experiment.stage("held-out loss"):
        losses, documents = token_losses(model, text.batches)
        chance = float(token_losses(untrained, text.batches[:4])[0].mean())
    loss, bigram = stats.bootstrap(losses, groups=documents, seed=config.seed), stated["loss"]["bigram"]
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


def token_losses(model: Model, batches: list[TokenBatch]) -> tuple[np.ndarray, np.ndarray]:
    """Loss in nats of every text token, and its document."""
    losses, documents = [], []
    for batch in batches:
        counts = batch.is_text[:, 1:]
        logits = model.run(batch.tokens).logits[:, :-1]
        losses.append(F.cross_entropy(logits[counts], batch.tokens[:, 1:][counts], reduction="none"))
        documents.append(batch.document[:, 1:][counts])
    return torch.cat(losses).numpy(), torch.cat(documents).numpy()


def card() -> dict:
    """What the training script wrote about the shipped model."""
    return json.loads((SHIPPED["stdlib-4l"] / "card.json").read_text())


def report_training(report: Report) -> None:
    """The phase change in which the shipped model learnt to copy, from the curve on its card."""
    curve = [point for point in card()["curve"] if point["step"] > 0]
    names = {"heldout": "held-out text", "copy_loss": "copies of random tokens"}
    losses = [{"step": p["step"], "on": name, "nats": p[key]} for p in curve for key, name in names.items()]
    names = {"prefix": "prefix matching", "previous": "previous token"}
    scores = [
        {"step": p["step"], "score": name, "attention": max(map(max, p[key]))} for p in curve for key, name in names.items()
    ]
    report.figure(
        "training",
        figures.lines(
            pd.DataFrame(losses), "step", "nats", by="on", xscale="log", xlabel="training step", ylabel="nats per token"
        ),
        caption="Loss along training. Copies of random segments become predictable within some two hundred steps.",
        alt="The loss on held-out text falls smoothly; the loss on copies stays flat, then drops from 7.5 to 1.",
        data=losses,
    )
    report.figure(
        "heads-along-training",
        figures.lines(pd.DataFrame(scores), "step", "attention", by="score", xscale="log", xlabel="training step"),
        caption="The best score of any head along training: previous-token attention comes first, then prefix matching.",
        alt="Two curves rise: previous-token attention gradually and then to 1, prefix matching abruptly to 0.8.",
        data=scores,
    )


# ---- attention heads ----


def report_heads(config: Config, report: Report, model: Model, untrained: Model) -> None:
    """Some heads attend to the token before, some to what followed earlier matches; copying needs the latter."""
    report.section("Attention heads")
    choosing, measuring = (drawn(config, purpose, model.d_vocab) for purpose in ("choose heads", "measure heads"))
    chosen = patterns.scores(model, choosing.tokens, kinds=KINDS)
    found, chance = (patterns.scores(one, measuring.tokens, kinds=KINDS) for one in (model, untrained))
    claim_head(
        config,
        report,
        "prefix-matching",
        "after earlier matches of the token",
        *(s["induction"] for s in (chosen, found, chance)),
    )
    claim_head(config, report, "previous-token", "just before", *(s["previous_token"] for s in (chosen, found, chance)))
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


def drawn(config: Config, purpose: str, d_vocab: int) -> repeated.Repeated:
    """Rows of repeated random tokens for one purpose."""
    generator = torch.Generator().manual_seed(stats.torch_seed(config.seed, purpose))
    return repeated.repeated_random(config.prompts, 160, d_vocab, generator=generator)


def claim_head(
    config: Config, report: Report, slug: str, where: str, chosen: Measurement, found: Measurement, chance: Measurement
) -> None:
    """The best head, chosen on other prompts, attends there; so does no head of the untrained model."""
    layer, head = chosen.mean("example").top(1)[0]
    other = dict(zip(("layer", "head"), chance.mean("example").top(1)[0], strict=True))
    report.claim(
        slug,
        f"the best head (L{layer}H{head}) attends to the tokens {where}",
        found.sel(layer=layer, head=head).estimate(seed=config.seed),
        at_least=0.4,
        unit="attention",
        source=OURS,
        control=chance.sel(**other).estimate(seed=config.seed),
        control_text="best head of the untrained model",
    )


def claim_ablation(
    config: Config, report: Report, model: Model, choosing: repeated.Repeated, measuring: repeated.Repeated, ranked: list
) -> None:
    """Without its two best induction heads the model copies worse than without two other heads."""
    draw = stats.generator(config.seed, "other heads").choice(np.arange(2, len(ranked)), 2, replace=False)
    groups = {"none": [], "induction": ranked[:2], "others": [ranked[place] for place in draw]}
    means = ablation.mean_outputs(model, choosing.tokens, positions=choosing.predicts_copy)
    losses = {
        name: ablation.loss(
            model, measuring.tokens, edits=ablation.replaced(model, heads, means), predicted=measuring.is_copy
        ).values
        for name, heads in groups.items()
    }
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


def report_one_text(report: Report, model: Model, text: LabelledText) -> None:
    """One stretch of held-out code: every head's attention, and every token's loss beside its labels."""
    report.section("One stretch of code")
    first = int(text.first[text.names.index(EXCERPT[0])])
    rows = slice(first + EXCERPT[1], first + EXCERPT[1] + EXCERPT[2])
    tokens = torch.from_numpy(np.concatenate([text.batches[0].tokens[0, :1], text.tokens[rows]]))[None]  # BOS first
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.n_layers)]
    seen = model.run(tokens, read=names, logits=True)
    shown = [text.vocabulary[token] for token in tokens[0].tolist()]
    patterns_seen = torch.stack([seen.activations[name][0] for name in names]).numpy()
    report.view(AttentionView(title=f"Attention in {EXCERPT[0]}", tokens=shown, patterns=patterns_seen))
    values = {"loss": F.cross_entropy(seen.logits[0, :-1], tokens[0, 1:], reduction="none").numpy()}
    values |= {name: text.labels[name][rows].astype(float) for name in ("name_seen", "keyword", "docstring", "in_call")}
    report.view(TokenView(title="Loss and labels", tokens=shown[1:], values=values, units={"loss": "nats"}))


# ---- cached activations ----


def cached(config: Config, model: Model, folder: Path) -> ActivationStore:
    """The residual stream of the training text in a store on disk."""
    with experiment.stage(f"harvest {config.tokens:,} tokens of {model.name}"):
        return harvest_to_store(
            model, "stdlib", hooks=[config.hook], out=folder, max_tokens=config.tokens, dtype="float16", batch=32
        )


def report_cache(config: Config, report: Report, model: Model, store: ActivationStore, text: LabelledText) -> None:
    """What is cached is what the model computes: put back, it gives the model's own predictions."""
    report.section("Cached activations")
    tokens = text.batches[0].tokens
    kept = model.run(tokens, read=[config.hook]).activations[config.hook]
    logits = [
        model.run(tokens, edits=edits).logits
        for edits in ([], [Edit(config.hook, lambda _: kept)], [Edit(config.hook, lambda _: kept.roll(1, 0))])
    ]
    own, rolled = (float((changed - logits[0]).abs().max()) for changed in logits[1:])
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
    looked = summary(store, config.hook)
    size = f"{store.rows:,} tokens of training text at {config.hook}, {store.bytes / 2**20:.0f} MiB in half precision"
    report.table("cache", looked.overview, caption=f"{size}.")
    spectrum = looked.spectrum
    report.figure(
        "spectrum",
        figures.lines(spectrum, "component", "share", xscale="log", yscale="log", xlabel="principal component"),
        caption="Spectrum of the cached residual stream: share of the variance along each principal component.",
        alt="A falling curve on logarithmic axes.",
        data=spectrum,
    )


# ---- neurons ----


def report_neurons(
    config: Config,
    report: Report,
    model: Model,
    text: LabelledText,
    seen: list[ActivationBatch],
    unseeing: list[ActivationBatch],
) -> None:
    """Single neurons tell what a token is better than directions of no particular basis do."""
    report.section("MLP neurons")
    with experiment.stage("score the neurons"):
        active, chance = columns(seen, config.neurons), columns(unseeing, config.neurons)
        some = np.sort(stats.generator(config.seed, "neuron rows").choice(len(active), config.neuron_tokens, replace=False))
        turned = {name: active[some] @ rotation(config, active.shape[1], name) for name in (RANDOM, AGAIN)}
        controls = turned | {UNTRAINED: chance[some]}
        labels = {name: values[some] for name, values in text.common_labels().items()}
        scored = association.best_columns(active[some], labels, text.document[some], controls=controls, seed=config.seed)
    words = f"for a token label, the best neuron of layer {config.layer} beats the best of as many"
    claim_gain(config, report, "neurons-random", f"{words} random directions, in F1, by", scored, RANDOM)
    claim_gain(config, report, "neurons-untrained", f"{words} neurons of the untrained model, by", scored, UNTRAINED)
    report_labels(report, "neuron", scored)
    own = scored.query("source == 'columns'").sort_values("f1", ascending=False)
    shown = own.column.unique()[:64]
    values = active[:, shown.tolist()].numpy()
    explained = explain(config, text, rules.strongest(values), shown)
    found = triggers(seen, top=12)[config.neurons]
    report.view(neuron_pages.dashboard(model, config.layer, text, found, shown, values, best=own, explained=explained))


def explain(config: Config, text: LabelledText, fires: sparse.csc_array, columns: np.ndarray) -> pd.DataFrame:
    """Rules over labels and nearby tokens for some columns, named by their numbers."""
    known = rules.conditions(text.tokens, text.document, text.labels, text.vocabulary)
    found = rules.explain(fires, known, text.document, seed=config.seed)
    return found.assign(column=columns[found.column])


def columns(seen: list[ActivationBatch], hook: str) -> Tensor:
    """Activations at one hook on every token of the text."""
    return torch.cat([batch.activations[hook] for batch in seen])


def rotation(config: Config, size: int, purpose: str) -> Tensor:
    """A random rotation: its columns are directions of no particular basis."""
    generator = torch.Generator().manual_seed(stats.torch_seed(config.seed, "rotation", purpose))
    return torch.linalg.qr(torch.randn(size, size, generator=generator)).Q


def claim_gain(config: Config, report: Report, slug: str, words: str, scored: pd.DataFrame, source: str) -> None:
    """Mean gain in F1 over the labels, which are resampled; the control is what a second draw of random directions gains."""
    f1 = scored.pivot(index="label", columns="source", values="f1")
    gain, random = (f1[name].to_numpy() - f1[source].to_numpy() for name in ("columns", AGAIN))
    report.claim(
        slug,
        f"{words} (mean over {len(gain)} labels)",
        stats.bootstrap(gain, seed=config.seed),
        at_least=0.05,
        unit="F1",
        source=OURS,
        control=stats.bootstrap(random, seed=config.seed),
        control_text="another draw of random directions, by",
    )


def report_labels(report: Report, noun: str, scored: pd.DataFrame) -> None:
    """F1 of the best column for each label, beside its controls."""
    wide = scored.pivot(index="label", columns="source", values="f1").rename(columns={"columns": noun})
    own = scored[scored.source == "columns"].set_index("label")[["column", "precision", "recall", "auroc", "rate"]]
    table = own.join(wide).sort_values(noun, ascending=False).reset_index()
    long = table.melt("label", wide.columns.tolist(), var_name="columns", value_name="F1")
    report.figure(
        f"{noun}-f1",
        figures.histogram(long, "F1", by="columns", bins=20, xlabel="F1 of the best column for a label", ylabel="labels"),
        caption=f"How well the best {noun} tells a label, over all labels, beside the controls.",
        alt=f"Histograms of F1: {noun}s reach higher than the controls.",
        data=long,
    )
    caption = (
        f"The best {noun} for each label, chosen on half of the documents and scored on the others; F1 of the controls beside."
    )
    report.table(f"{noun}-labels", table, caption=caption)


# ---- the autoencoder ----


def trained(config: Config, store: ActivationStore) -> tuple[SparseAutoencoder, training.History]:
    """A TopK autoencoder of the stored residual stream."""
    d_in = store.header.shapes[config.hook][-1]
    sae = SparseAutoencoder(d_in, config.d_sae, activation=TopK(config.k), seed=config.seed)
    steps = experiment.progress(range(config.steps), f"autoencoder with {config.d_sae} features")
    batches = (rows for rows, _ in zip(epochs(store, config.hook, rows=ROWS, seed=config.seed), steps, strict=False))
    return sae, training.train(sae, batches, steps=config.steps)


def report_autoencoder(
    config: Config,
    report: Report,
    model: Model,
    sae: SparseAutoencoder,
    history: training.History,
    text: LabelledText,
    seen: list[ActivationBatch],
) -> None:
    """A few features per token, put in place of the residual stream, keep what the model predicts."""
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
        quality, recovered = evaluation.evaluate(one, seen, hook=config.hook), kept[name]
        shares = {"CE recovered": recovered.ce.value, "KL recovered": recovered.kl.value, "by the mean": recovered.ce_mean.value}
        rows.append(
            {"features": name, "L0": quality.l0.value, "FVU": quality.fvu.value}
            | {"dead": quality.dead, "L2 ratio": quality.l2_ratio.value}
            | shares
        )
    size = f"{kept['trained'].tokens:,} tokens"
    caption = f"On held-out text. Recovered: share of the cross-entropy and KL divergence that zero ablation costs, on {size}."
    report.table("quality", rows, caption=caption)
    curve = history.table()
    report.figure(
        "sae-training",
        figures.lines(curve, "tokens", "fvu", yscale="log", ylabel="variance not explained"),
        caption="Training of the autoencoder: share of the variance that it does not explain.",
        alt="A falling curve.",
        data=curve,
    )


def report_features(
    config: Config,
    report: Report,
    model: Model,
    sae: SparseAutoencoder,
    control: SparseAutoencoder,
    text: LabelledText,
    seen: list[ActivationBatch],
    unseeing: list[ActivationBatch],
) -> None:
    """Single features tell what a token is better than random directions and an untrained model's features do."""
    report.section("What its features know")
    with experiment.stage("score the features"):
        here = columns(seen, config.hook)
        own = features.codes(sae, here)
        others = {
            RANDOM: features.codes(sae.untrained(config.seed + 1), here),
            AGAIN: features.codes(sae.untrained(config.seed + 2), here),
            UNTRAINED: features.codes(control, columns(unseeing, config.hook)),
        }
        scored = association.best_columns(own, text.common_labels(), text.document, controls=others, seed=config.seed)
    words = "for a token label, the best feature beats the best of as many"
    claim_gain(config, report, "features-random", f"{words} random directions, in F1, by", scored, RANDOM)
    claim_gain(config, report, "features-untrained", f"{words} features of the untrained model, by", scored, UNTRAINED)
    report_labels(report, "feature", scored)
    report_families(config, report, text, here, sae, own, {name: others[name] for name in (RANDOM, UNTRAINED)})
    best = scored.query("source == 'columns'")
    alive = np.setdiff1d(np.flatnonzero(np.diff(own.indptr)), best.column)
    others_shown = stats.generator(config.seed, "features shown").permutation(alive)
    shown = np.sort(np.concatenate([best.column.unique(), others_shown])[: config.shown])
    with experiment.stage("read the features"):
        book = features.collect(
            sae, seen, hook=config.hook, features=shown, top=10, per_quantile=3, negatives=3, seed=config.seed
        )
    with experiment.stage("explain the features"):
        explained = explain(config, text, own[:, shown], shown)
        random = explain(config, text, others[RANDOM][:, shown], shown)
    claim_rules(config, report, explained, random)
    report.view(pages.feature_dashboard(model, sae, config.hook, text, own, book, best, explained))


def report_families(
    config: Config,
    report: Report,
    text: LabelledText,
    here: Tensor,
    sae: SparseAutoencoder,
    own: sparse.csc_array,
    controls: dict[str, sparse.csc_array],
) -> None:
    """How well a few features tell labels that have special cases, and how much of these labels features of the cases swallow."""
    with experiment.stage("probe few features"):
        some = np.sort(stats.generator(config.seed, "probe rows").choice(len(here), config.neuron_tokens, replace=False))
        labels, groups = {name: text.labels[name][some] for name in FAMILIES}, text.document[some]
        dense = {name: codes[some].toarray() for name, codes in controls.items()}
        probed = probes.probe(own[some].toarray(), labels, groups, k=5, controls=dense, seed=config.seed, resamples=10)
        directions = sae.W_dec.detach().numpy()
        absorbed = absorption(here[some].numpy(), own[some], directions, labels, groups, seed=config.seed)
    wide = probed.pivot(index="label", columns="source", values="score").rename(columns={"activations": "features"})
    caption = "AUROC of logistic probes on 5 features of the autoencoder, on other documents, beside the same probes on controls."
    report.table("sparse-probes", wide.reset_index(), caption=caption)
    caption = (
        "Absorption: where a label holds, the share of it that is told not by its own features but by more special ones; "
        "full: the share of tokens on which its own features are silent and one other tells it."
    )
    report.table("absorption", absorbed.drop(columns="main", errors="ignore"), caption=caption)


def claim_rules(config: Config, report: Report, explained: pd.DataFrame, random: pd.DataFrame) -> None:
    """Short rules say when features fire, and not only on the documents they were searched on."""

    def gain(found: pd.DataFrame) -> stats.Estimate:
        precision = found.pivot(index="column", columns="source", values="precision")
        return stats.bootstrap(precision["columns"] - precision["shuffled"], seed=config.seed)

    report.claim(
        "features-rules",
        f"on other documents the rules of {explained.column.nunique()} features are right more often than shuffled ones', by",
        gain(explained),
        at_least=0.3,
        unit="precision",
        source=OURS,
        control=gain(random),
        control_text="rules of random directions",
    )
    caption = "When features fire, as rules over token labels and nearby tokens, scored on documents they were not searched on."
    report.table("feature-rules", explained.query("source == 'columns'").drop(columns="source"), caption=caption)


if __name__ == "__main__":
    experiment.main(Config, run)
