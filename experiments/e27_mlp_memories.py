"""What do the neurons of a real language model read and write? (the shipped model's MLPs as memories; Geva et al. 2021, 2022)

Every neuron is a key, which fires on some text, and a value, which promotes some tokens (arXiv:2012.14913, arXiv:2203.14680).
Both sides are scored on held-out Python, whose tokens have known labels, beside examples moved along their documents, random
directions, shuffled labels and an untrained model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pandas as pd
from torch import Tensor

from interp import association, experiment, figures, neuron_pages, rules, stats
from interp.mlp import detectors, memories, steering, subupdates, values
from interp.mlp.census import census, spectrum, summary
from interp.mlp.keys import Triggers, moved, triggers
from interp.mlp.patterns import SHALLOW, patterns
from interp.models.hooked import Model
from interp.models.norms import folded
from interp.report import Report
from interp.stats import Estimate
from interp.superposition import rotation
from interp.text import Corpus, resolve
from interp.text.labelled import LabelledText

ID = "E27"
OURS = "target of this report"
OWN, UNTRAINED, MOVED = "the model", "untrained model", "examples moved along their documents"
RANDOM = "random directions"


@dataclass(frozen=True, kw_only=True)
class Config:
    documents: int = 32  # held-out documents that are read
    top: int = 25  # strongest examples of each neuron
    scored_tokens: int = 6_000  # drawn at random, on which neurons are scored against labels
    prompts: int = 4  # rows of 256 tokens on which sub-updates are taken apart and steering is tried
    targets: int = 16  # tokens that are steered towards
    steered: int = 8  # neurons that are scaled for each
    factor: float = 4.0  # by which they are scaled
    shown: int = 24  # neurons of each layer with a page
    seed: int = 0


QUICK = {"documents": 12, "scored_tokens": 1_500, "prompts": 2, "targets": 12, "shown": 12}


@dataclass(frozen=True)
class Reading:
    """A model, and what fires its neurons, layer by layer."""

    model: Model
    found: list[Triggers]

    @property
    def layers(self) -> range:
        return range(len(self.found))


def run(config: Config, report: Report) -> None:
    model, corpus = Model.load("stdlib-4l"), resolve("stdlib:heldout")
    experiment.source(f"model {model.name}", model.fingerprint)
    experiment.source(f"corpus {corpus.name}", corpus.revision)
    part = Corpus(corpus.name, corpus.revision, lambda: islice(corpus.documents(), config.documents))
    assert model.tokenizer is not None  # the shipped model has one
    text = LabelledText.read(part, model.tokenizer, context=model.n_ctx)
    own, chance = (read(config, one, text) for one in (model, model.untrained(config.seed)))
    report_keys(config, report, own, chance, text)
    report_values(config, report, own, chance, text)
    report_labels(config, report, own, chance, text)
    report_sub_updates(config, report, own, chance, text)
    report_steering(config, report, own.model, text)
    table = report_census(config, report, own, chance)
    report_pages(config, report, own, text, table)


def read(config: Config, model: Model, text: LabelledText) -> Reading:
    """One pass over the text for the triggers of all neurons."""
    with experiment.stage(f"triggers of {model.name} on {len(text.tokens):,} tokens"):
        found = triggers(
            memories.activations(model, text.batches), top=config.top, sampled=config.scored_tokens, seed=config.seed
        )
    return Reading(model, list(found.values()))


# ---- what fires them ----


def report_keys(config: Config, report: Report, own: Reading, chance: Reading, text: LabelledText) -> None:
    """The examples of a neuron share a pattern; the last token alone says less of it than in an untrained model."""
    report.section("What fires them")
    lengths = np.diff(text.first)
    with experiment.stage("patterns"):
        null = Reading(own.model, [moved(found, lengths, seed=config.seed) for found in own.found])
        kinds = {name: best_kinds(one, text) for name, one in ((OWN, own), (MOVED, null), (UNTRAINED, chance))}
    claim_patterns(config, report, kinds)
    table = pd.DataFrame(
        {"of": name, "layer": layer, "kind": kind, "share": float((one[layer] == kind).mean())}
        for name, one in kinds.items()
        for layer in own.layers
        for kind in (*SHALLOW, "context")
    )
    axes = {"ylabel": "share of neurons", "xticks": list(own.layers)}
    report.figure(
        "kinds",
        figures.lines(table.query("of == @OWN"), "layer", "share", by="kind", **axes),
        data=table,
        caption="The kind of each neuron's most significant pattern, by layer. Tokens and n-grams give way to context.",
        alt="Lines over layers: single tokens fall from 0.8 to 0.4, bigrams, previous tokens and context rise.",
    )
    report.text(
        "An untrained model's neurons have patterns too: a random direction of the residual stream tells tokens apart, since "
        "each has an embedding of its own. What training adds is context: n-grams, the token before, regions of the code."
    )


def claim_patterns(config: Config, report: Report, kinds: dict[str, np.ndarray]) -> None:
    """Most neurons have a pattern, many one that the last token does not tell, deeper ones later."""

    def having(what: Callable[[np.ndarray], np.ndarray]) -> dict[str, Estimate]:
        return {name: stats.bootstrap(what(one).ravel(), seed=config.seed) for name, one in kinds.items()}

    claim_share(
        report,
        "patterns",
        f"the {config.top} strongest examples of a neuron share a pattern, for a share of all neurons of",
        having(lambda kind: kind != ""),
        at_least=0.8,
        source="Geva et al. 2021, section 3, where people found one for every key they looked at",
        control=MOVED,
    )
    claim_share(
        report,
        "beyond-token",
        "the most significant pattern says more than which token comes last, for a share of neurons of",
        having(lambda kind: (kind != "") & (kind != "token")),
        at_least=0.25,
    )
    claim_share(
        report,
        "deeper-later",
        "in the later half of the layers the most significant pattern is one of context for more neurons than in the earlier, by",
        {name: deeper_later(config, one) for name, one in kinds.items()},
        at_least=0.02,
        source="Geva et al. 2021, section 3: shallow patterns in lower layers, semantic ones in upper",
    )


def claim_share(
    report: Report,
    slug: str,
    text: str,
    shares: dict[str, Estimate],
    *,
    at_least: float,
    source: str = OURS,
    control: str = UNTRAINED,
) -> None:
    """A share of the model's neurons, beside the same share in a control."""
    report.claim(
        slug,
        text,
        shares[OWN],
        at_least=at_least,
        unit="of neurons",
        source=source,
        control=shares[control],
        control_text=control,
    )


def best_kinds(reading: Reading, text: LabelledText) -> np.ndarray:
    """The kind of the most significant pattern of every neuron, "" for none: [layer neuron]."""
    kinds = np.full((len(reading.found), reading.found[0].value.shape[1]), "", dtype=object)
    for layer, found in enumerate(reading.found):
        best = patterns(found, text).drop_duplicates("neuron")
        kinds[layer, best.neuron] = best.kind
    return kinds


def deeper_later(config: Config, kinds: np.ndarray) -> stats.Estimate:
    """Share of context patterns in the later half of the layers less that in the earlier, with neurons resampled."""
    half, context = len(kinds) // 2, kinds == "context"
    return stats.difference(context[-half:].ravel(), context[:half].ravel(), seed=config.seed)


# ---- what they write ----


def report_values(config: Config, report: Report, own: Reading, chance: Reading, text: LabelledText) -> None:
    """Values say what follows the neuron's strongest example more often than chance, the more so the more confident they are."""
    report.section("What they write")
    tables = {name: agreements(one, text) for name, one in ((OWN, own), (UNTRAINED, chance))}
    claim_share(
        report,
        "agreement",
        "the first token of a value is the next token of its neuron's strongest example more often than of other neurons', by",
        {name: stats.paired_difference(one.agrees, one.chance, seed=config.seed) for name, one in tables.items()},
        at_least=0.005,
        source="Geva et al. 2021, section 4, where up to 3.5 % agree",
    )
    claim_share(
        report,
        "confidence",
        "among the most confident fifth of the values more agree than among the least confident fifth, by",
        {name: confident_gain(config, one) for name, one in tables.items()},
        at_least=0.005,
        source="Geva et al. 2021, section 4",
    )
    curve = pd.concat([values.calibration(one, bins=10).assign(of=name) for name, one in tables.items()], ignore_index=True)
    report.figure(
        "calibration",
        figures.lines(curve, "confidence", "agrees", by="of", xlabel="probability of the value's first token", ylabel="agree"),
        caption="How often values agree with what follows, by confidence, in tenths of the neurons. They are overconfident.",
        alt="A line that rises from 0 to some hundredths as confidence goes to a half; that of the untrained model stays at 0.",
        data=curve,
    )
    by_layer = tables[OWN].groupby("layer")
    means = {name: by_layer[name].mean() for name in ("agrees", "chance", "share", "confidence")}
    medians = {f"{name} (median)": by_layer[name].median() for name in ("rank", "max_rank")}
    caption = "By layer: agreement with what follows the strongest example, by chance, with all examples; ranks in the value."
    report.table("agreement", pd.DataFrame(means | medians), caption=caption)


def agreements(reading: Reading, text: LabelledText) -> pd.DataFrame:
    """`values.agreement` of all layers."""
    found = [values.agreement(values.value_logits(reading.model, layer), reading.found[layer], text) for layer in reading.layers]
    return pd.concat([one.assign(layer=layer) for layer, one in enumerate(found)], ignore_index=True)


def confident_gain(config: Config, table: pd.DataFrame) -> stats.Estimate:
    """Agreement in the most confident fifth less that in the least confident, with neurons resampled."""
    ranked = table.sort_values("confidence", kind="stable").agrees.to_numpy()
    fifth = len(ranked) // 5
    return stats.difference(ranked[-fifth:], ranked[:fifth], seed=config.seed)


# ---- scores against labels ----


def report_labels(config: Config, report: Report, own: Reading, chance: Reading, text: LabelledText) -> None:
    """Single neurons tell token labels, by what they read and by what they write, better than what is random."""
    report.section("Scored against token labels")
    with experiment.stage("score what they read"):
        turned = {RANDOM: rotation(own.model.d_mlp, generator=stats.torch_generator(config.seed, "rotation"))}
        reads = detectors.reading(own.found, text, others={UNTRAINED: chance.found}, turned=turned, seed=config.seed)
    with experiment.stage("score what they write"):
        writes = detectors.writing(own.model, text, others={UNTRAINED: chance.model}, seed=config.seed)
    words = "for a token label, the best neuron of a layer beats the best of as many"
    for slug, others, scored, source in (
        ("reads-random", "random directions by its activations, in F1", reads, RANDOM),
        ("reads-untrained", "untrained neurons by its activations", reads, UNTRAINED),
        ("writes-shuffled", "shuffled over tokens by its value's logits", writes, "shuffled"),
        ("writes-untrained", "untrained neurons by its value's logits", writes, UNTRAINED),
    ):
        claim_gain(config, report, slug, f"{words} {others}, by", scored, source)
    axes = {"ylabel": "F1, mean over labels", "xticks": list(own.layers)}
    for side, scored in (("reads", reads), ("writes", writes)):
        mean = scored.groupby(["layer", "source"], as_index=False).f1.mean()
        report.figure(
            f"{side}-f1",
            figures.lines(mean.replace({"source": {"columns": "neurons"}}), "layer", "f1", by="source", **axes),
            caption=f"What neurons {side[:-1]}: F1 of the best column for a label, chosen on one half and scored on the other.",
            alt="Lines over layers: neurons lie above their controls.",
            data=mean,
        )
        best = scored.query("source == 'columns'").sort_values("f1", ascending=False).drop_duplicates("label")
        columns = ["label", "layer", "neuron", "f1", "f1_low", "f1_high", "precision", "recall", "auroc"]
        table = best.rename(columns={"column": "neuron"}).filter(items=columns).reset_index(drop=True)
        report.table(
            f"{side}-labels", table, caption=f"The neuron that tells each label best by what it {side}, over all layers."
        )


def claim_gain(config: Config, report: Report, slug: str, words: str, scored: pd.DataFrame, source: str) -> None:
    """Mean gain in F1 over labels and layers, with labels resampled; the control is what one control gains over another."""
    other = UNTRAINED if source != UNTRAINED else "shuffled"
    report.claim(
        slug,
        f"{words} (mean over {scored.label.nunique()} labels and all layers)",
        association.gain(scored, source, seed=config.seed),
        at_least=0.05,
        unit="F1",
        source=OURS,
        control=association.gain(scored, source, of=other, seed=config.seed),
        control_text=f"the same gain of the control {other!r}",
    )


# ---- sub-updates ----


def report_sub_updates(config: Config, report: Report, own: Reading, chance: Reading, text: LabelledText) -> None:
    """What single memories add to the logits sums to what the MLP adds; how predictions come of them."""
    report.section("Sub-updates")
    tokens, is_text = prompts(config, text)
    worst = [sum_error(own.model, tokens, layer) for layer in own.layers]
    report.claim(
        "exact",
        "what the memories of a layer add to the logits sums to what its MLP adds, up to",
        max(error for error, _ in worst),
        at_most=1e-5,
        unit="logits",
        source="Geva et al. 2022: an identity",
        control=max(error for _, error in worst),
        control_text="with the final norm's scale of the position before",
    )
    found = subupdates.sub_updates(own.model, tokens, 2)
    row, pos = 0, tokens.shape[1] // 2
    said = "".join(text.vocabulary[token] for token in tokens[row, pos - 8 : pos + 1].tolist())
    caption = f"The memories of layer 2 that add most after {said!r}, by |m|‖v‖, and the tokens each promotes and suppresses."
    report.table("sub-updates", found.table(row, pos, text.vocabulary), caption=caption)
    parts = {name: subupdates.composition(one.model, tokens, is_text) for name, one in ((OWN, own), (UNTRAINED, chance))}
    rows = pd.concat([part.mean("example").table().assign(of=name) for name, part in parts.items()], ignore_index=True)
    axes = {"ylabel": "share of positions", "xticks": list(own.layers)}
    report.figure(
        "composition",
        figures.lines(rows.query("of == @OWN"), "layer", "composition", by="property", **axes),
        caption="Where a layer's prediction comes from. Saturated: the stream before the MLP predicts what the model will.",
        alt="Lines over layers: saturation rises to 0.7; from layer 1 on most predictions stay what they were before the MLP.",
        data=rows,
    )
    caption = "The same, beside the untrained model. Intersects: what the MLP predicts is the first token of an active memory."
    report.table("composition", rows.pivot(index=["of", "property"], columns="layer", values="composition"), caption=caption)


def prompts(config: Config, text: LabelledText) -> tuple[Tensor, Tensor]:
    """Some rows of the text as the model sees them, and where they are text."""
    batch = text.batches[len(text.batches) // 2]
    return batch.tokens[: config.prompts], batch.is_text[: config.prompts]


def sum_error(model: Model, tokens: Tensor, layer: int) -> tuple[float, float]:
    """Largest difference between the summed sub-updates and the MLP's own contribution, and with another position's scale."""
    found, name = subupdates.sub_updates(model, tokens, layer), f"blocks.{layer}.hook_mlp_out"
    unembedding = folded(model, "ln_final", model.W_U.double())
    written = model.run(tokens, read=[name]).activations[name].double() @ unembedding
    errors = []
    for row in range(len(tokens)):
        for pos in range(1, tokens.shape[1], 16):
            summed = found.logits(row, pos, range(len(found.values))).double().sum(0)
            summed += found.bias.double() @ unembedding / found.scale[row, pos]
            errors.append([float((summed - written[row, pos] / found.scale[row, at]).abs().max()) for at in (pos, pos - 1)])
    return max(own for own, _ in errors), max(other for _, other in errors)


def report_steering(config: Config, report: Report, model: Model, text: LabelledText) -> None:
    """Scaling the neurons whose values promote a token promotes it, where it would come; what that costs elsewhere."""
    report.section("Steering")
    tokens, is_text = prompts(config, text)
    scale = {"targets": config.targets, "neurons": config.steered, "factor": config.factor}
    table = steering.steered(model, tokens, is_text, model.n_layers - 1, **scale, seed=config.seed)
    table["target"] = [text.vocabulary[target] for target in table["target"]]
    effects, sides = (table.pivot(index="target", columns="neurons", values=name) for name in ("effect", "side"))
    report.claim(
        "steering",
        f"the {config.steered} last-layer neurons that write a token most, times {config.factor:g}, promote it where it comes by",
        stats.bootstrap(effects["writing it"], seed=config.seed),
        at_least=0.05,
        unit="nats",
        source="Geva et al. 2022",
        control=stats.bootstrap(effects["at random"], seed=config.seed),
        control_text="as many neurons at random",
    )
    cost = stats.bootstrap(sides["writing it"], seed=config.seed)
    report.table(
        "steering",
        table,
        caption=f"Effect: change of the target's log probability where it comes. Side: KL at all other positions, {cost} nats.",
    )


# ---- the census ----


def report_census(config: Config, report: Report, own: Reading, chance: Reading) -> pd.DataFrame:
    """All neurons in numbers; more write along or against what they read than unrelated directions would."""
    report.section("The census")
    tables = {name: counted(one) for name, one in ((OWN, own), (UNTRAINED, chance))}
    claim_share(
        report,
        "in-out",
        "the cosine of key and value lies beyond two standard deviations of unrelated directions, for a share of neurons of",
        {name: stats.bootstrap(one.in_out_z.abs() > 2, seed=config.seed) for name, one in tables.items()},
        at_least=0.06,
        source="1/√d_model; 0.046 for unrelated directions",
    )
    both = pd.concat([one.assign(of=name) for name, one in tables.items()], ignore_index=True)
    report.figure(
        "in-out",
        figures.histogram(both, "in_out_z", by="of", xlabel="cos(key, value) · √d_model", ylabel="neurons"),
        caption="Do neurons write along what they read (right), or erase it (left)?",
        alt="Two histograms around 0; that of the trained model is wider.",
        data=both.filter(items=["of", "layer", "neuron", "in_out_z"]),
    )
    singular = spectrum(own.model).query("matrix == 'value'")
    report.figure(
        "spectrum",
        figures.lines(singular, "component", "value", by="layer", xscale="log", ylabel="singular value of the values"),
        caption="Spectrum of the value vectors of each layer; the data also have that of random weights of the same size.",
        alt="Falling curves, higher for later layers.",
        data=singular,
    )
    report.table("layers", summary(tables[OWN]), caption="By layer: medians and counts. A neuron fires where it is above 0.")
    report.table("census", tables[OWN], caption="Every neuron. interp.mlp.census says what the columns mean.")
    return tables[OWN]


def counted(reading: Reading) -> pd.DataFrame:
    """The census of a model on its own triggers."""
    named = {memories.source(reading.model, layer).name: reading.found[layer] for layer in reading.layers}
    return census(reading.model, named)


def report_pages(config: Config, report: Report, own: Reading, text: LabelledText, table: pd.DataFrame) -> None:
    """Pages of some neurons of every layer, drawn at random."""
    report.section("Neurons one by one")
    draw = stats.generator(config.seed, "neurons shown")
    chosen = {layer: np.sort(draw.permutation(own.model.d_mlp)[: config.shown]) for layer in own.layers}
    with experiment.stage("read the neurons shown"):
        active = {layer: one.numpy() for layer, one in memories.columns(own.model, text.batches, chosen).items()}
    with experiment.stage("find rules for them"):
        found = {layer: text.explain(rules.strongest(one), chosen[layer], seed=config.seed) for layer, one in active.items()}
    f1 = pd.concat(found.values()).groupby("source").f1
    report.claim(
        "rules",
        "on other documents, a short rule over labels and nearby tokens tells a neuron's strongest 2 % of activations with F1",
        stats.bootstrap(f1.get_group("columns"), seed=config.seed),
        at_least=0.2,
        unit="F1",
        source=OURS,
        control=stats.bootstrap(f1.get_group("shuffled"), seed=config.seed),
        control_text="shuffled activations",
    )
    for layer, neurons in chosen.items():
        beside = {"census": table, "explained": found[layer]}
        report.view(neuron_pages.dashboard(own.model, layer, text, own.found[layer], neurons, active[layer], **beside))


if __name__ == "__main__":
    experiment.main(Config, run)
