"""What do the neurons of a real language model read and write? (the shipped model's MLPs as memories; Geva et al. 2021, 2022)

Every neuron is a key, which fires on some text, and a value, which promotes some tokens (arXiv:2012.14913, arXiv:2203.14680).
Both sides are scored on held-out Python, whose tokens have known labels, beside examples moved along their documents, random
directions, shuffled labels and an untrained model.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp import association, experiment, figures, neuron_pages, rules, stats
from interp.mlp import memories, subupdates, values
from interp.mlp.census import census, spectrum, summary
from interp.mlp.keys import Triggers, moved, triggers
from interp.mlp.patterns import SHALLOW, patterns
from interp.models.hooked import Model
from interp.models.norms import folded
from interp.report import Report
from interp.text import Corpus, resolve
from interp.text.labelled import LabelledText

ID = "E27"
OURS = "target of this report"
OWN, UNTRAINED, MOVED = "the model", "untrained model", "examples moved along their documents"


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
    has, beyond = ({name: check(one).astype(float) for name, one in kinds.items()} for check in (lambda k: k != "", beyond_token))
    report.claim(
        "patterns",
        f"the {config.top} strongest examples of a neuron share a pattern, for a share of all neurons of",
        stats.bootstrap(has[OWN].ravel(), seed=config.seed),
        at_least=0.8,
        unit="of neurons",
        source="Geva et al. 2021, section 3, where people found one for every key they looked at",
        control=stats.bootstrap(has[MOVED].ravel(), seed=config.seed),
        control_text=MOVED,
    )
    report.claim(
        "beyond-token",
        "the most significant pattern says more than which token comes last, for a share of neurons of",
        stats.bootstrap(beyond[OWN].ravel(), seed=config.seed),
        at_least=0.25,
        unit="of neurons",
        source=OURS,
        control=stats.bootstrap(beyond[UNTRAINED].ravel(), seed=config.seed),
        control_text=UNTRAINED,
    )
    report.claim(
        "deeper-later",
        "in the later half of the layers the most significant pattern is one of context for more neurons than in the earlier, by",
        deeper_later(config, kinds[OWN]),
        at_least=0.02,
        unit="of neurons",
        source="Geva et al. 2021, section 3: shallow patterns in lower layers, semantic ones in upper",
        control=deeper_later(config, kinds[UNTRAINED]),
        control_text=UNTRAINED,
    )
    rows = [
        {"of": name, "layer": layer, "kind": kind, "share": float((one[layer] == kind).mean())}
        for name, one in kinds.items()
        for layer in own.layers
        for kind in (*SHALLOW, "context")
    ]
    report.figure(
        "kinds",
        figures.lines(
            pd.DataFrame(rows).query("of == @OWN"),
            "layer",
            "share",
            by="kind",
            ylabel="share of neurons",
            xticks=list(own.layers),
        ),
        caption="The kind of each neuron's most significant pattern, by layer. Tokens and n-grams give way to context.",
        alt="Lines over layers: single tokens fall from 0.8 to 0.4, bigrams, previous tokens and context rise.",
        data=rows,
    )
    report.text(
        "An untrained model's neurons have patterns too: a random direction of the residual stream tells tokens apart, since "
        "each has an embedding of its own. What training adds is context: n-grams, the token before, regions of the code."
    )


def best_kinds(reading: Reading, text: LabelledText) -> np.ndarray:
    """The kind of the most significant pattern of every neuron, "" for none: [layer neuron]."""
    kinds = np.full((len(reading.found), reading.found[0].value.shape[1]), "", dtype=object)
    for layer, found in enumerate(reading.found):
        best = patterns(found, text).drop_duplicates("neuron")
        kinds[layer, best.neuron] = best.kind
    return kinds


def beyond_token(kinds: np.ndarray) -> np.ndarray:
    """Whether a pattern is anything but the last token."""
    return (kinds != "") & (kinds != "token")


def deeper_later(config: Config, kinds: np.ndarray) -> stats.Estimate:
    """Share of context patterns in the later half of the layers less that in the earlier, with neurons resampled."""
    half = len(kinds) // 2
    signs = np.repeat([-1.0, 1.0], [half * kinds.shape[1], half * kinds.shape[1]])
    return stats.bootstrap(2 * signs * (np.concatenate([*kinds[:half], *kinds[-half:]]) == "context"), seed=config.seed)


# ---- what they write ----


def report_values(config: Config, report: Report, own: Reading, chance: Reading, text: LabelledText) -> None:
    """Values say what follows the neuron's strongest example more often than chance, the more so the more confident they are."""
    report.section("What they write")
    tables = {name: agreements(one, text) for name, one in ((OWN, own), (UNTRAINED, chance))}
    gains = {name: stats.paired_difference(one.agrees, one.chance, seed=config.seed) for name, one in tables.items()}
    report.claim(
        "agreement",
        "the first token of a value is the next token of its neuron's strongest example more often than of other neurons', by",
        gains[OWN],
        at_least=0.005,
        unit="of neurons",
        source="Geva et al. 2021, section 4, where up to 3.5 % agree",
        control=gains[UNTRAINED],
        control_text=UNTRAINED,
    )
    report.claim(
        "confidence",
        "among the most confident fifth of the values more agree than among the least confident fifth, by",
        confident_gain(config, tables[OWN]),
        at_least=0.005,
        unit="of neurons",
        source="Geva et al. 2021, section 4",
        control=confident_gain(config, tables[UNTRAINED]),
        control_text=UNTRAINED,
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
    return stats.bootstrap(2 * np.concatenate([-ranked[:fifth], ranked[-fifth:]]), seed=config.seed)


# ---- scores against labels ----


def report_labels(config: Config, report: Report, own: Reading, chance: Reading, text: LabelledText) -> None:
    """Single neurons tell token labels, by what they read and by what they write, better than what is random."""
    report.section("Scored against token labels")
    with experiment.stage("score what they read"):
        reads = scored_reading(config, own, chance, text)
    with experiment.stage("score what they write"):
        writes = scored_writing(config, own, chance, text)
    words = "for a token label, the best neuron of a layer beats the best of as many"
    claim_gain(
        config, report, "reads-random", f"{words} random directions by its activations, in F1, by", reads, "random directions"
    )
    claim_gain(config, report, "reads-untrained", f"{words} untrained neurons by its activations, by", reads, UNTRAINED)
    claim_gain(config, report, "writes-shuffled", f"{words} shuffled over tokens by its value's logits, by", writes, "shuffled")
    claim_gain(config, report, "writes-untrained", f"{words} untrained neurons by its value's logits, by", writes, UNTRAINED)
    for side, scored in (("reads", reads), ("writes", writes)):
        mean = scored.groupby(["layer", "source"], as_index=False).f1.mean()
        report.figure(
            f"{side}-f1",
            figures.lines(
                mean.replace({"source": {"columns": "neurons"}}),
                "layer",
                "f1",
                by="source",
                ylabel="F1, mean over labels",
                xticks=list(own.layers),
            ),
            caption=f"What neurons {side[:-1]}: F1 of the best column for a label, chosen on one half and scored on the other.",
            alt="Lines over layers: neurons lie above their controls.",
            data=mean,
        )
        best = scored.query("source == 'columns'").sort_values("f1", ascending=False).drop_duplicates("label")
        columns = ["label", "layer", "column", "f1", "f1_low", "f1_high", "precision", "recall", "auroc"]
        caption = f"The neuron that tells each label best by what it {side}, over all layers."
        report.table(
            f"{side}-labels",
            best.filter(items=columns).rename(columns={"column": "neuron"}).reset_index(drop=True),
            caption=caption,
        )


def scored_reading(config: Config, own: Reading, chance: Reading, text: LabelledText) -> pd.DataFrame:
    """Activations as columns, on the sample of tokens: `association.best_columns` of every layer."""
    parts = []
    for layer in own.layers:
        here, there = (one.found[layer] for one in (own, chance))
        rows = text.first[here.sample_document.numpy()] + here.sample_position.numpy()  # both models drew the same tokens
        labels = {name: one[rows] for name, one in text.common_labels().items()}
        controls = {
            "random directions": here.sample_value @ rotation(config, here.sample_value.shape[1]),
            UNTRAINED: there.sample_value,
        }
        found = association.best_columns(
            here.sample_value, labels, text.document[rows], controls=controls, seed=config.seed, resamples=50
        )
        parts.append(found.assign(layer=layer))
    return pd.concat(parts, ignore_index=True)


def scored_writing(config: Config, own: Reading, chance: Reading, text: LabelledText) -> pd.DataFrame:
    """Value logits as columns, on the tokens of the vocabulary: a label holds for a token that mostly has it in the text."""
    seen = np.bincount(text.tokens, minlength=len(text.vocabulary))
    known = np.flatnonzero(seen >= 5)
    holds = {
        name: 2 * np.bincount(text.tokens, one, minlength=len(seen))[known] > seen[known]
        for name, one in text.common_labels().items()
    }
    labels = {name: one for name, one in holds.items() if one.sum() >= 8}
    parts = []
    for layer in own.layers:
        here, there = (values.value_logits(one.model, layer).T[known].numpy() for one in (own, chance))
        found = association.best_columns(here, labels, known, controls={UNTRAINED: there}, seed=config.seed, resamples=50)
        parts.append(found.assign(layer=layer))
    return pd.concat(parts, ignore_index=True)


def rotation(config: Config, size: int) -> Tensor:
    """A random rotation: its columns are directions of no particular basis."""
    generator = torch.Generator().manual_seed(stats.torch_seed(config.seed, "rotation"))
    return torch.linalg.qr(torch.randn(size, size, generator=generator)).Q


def claim_gain(config: Config, report: Report, slug: str, words: str, scored: pd.DataFrame, source: str) -> None:
    """Mean gain in F1 over labels and layers, with labels resampled; the control is what one control gains over another."""
    f1 = scored.pivot_table(index="label", columns="source", values="f1")
    other = UNTRAINED if source != UNTRAINED else "shuffled"
    report.claim(
        slug,
        f"{words} (mean over {len(f1)} labels and all layers)",
        stats.paired_difference(f1["columns"], f1[source], seed=config.seed),
        at_least=0.05,
        unit="F1",
        source=OURS,
        control=stats.paired_difference(f1[other], f1[source], seed=config.seed),
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
    report.table(
        "sub-updates",
        found.table(row, pos, text.vocabulary),
        caption=f"The memories of layer 2 that add most after {said!r}, by |m|‖v‖, and the tokens each promotes and suppresses.",
    )
    parts = {name: subupdates.composition(one.model, tokens, is_text) for name, one in ((OWN, own), (UNTRAINED, chance))}
    rows = pd.concat([part.mean("example").table().assign(of=name) for name, part in parts.items()], ignore_index=True)
    report.figure(
        "composition",
        figures.lines(
            rows.query("of == @OWN"), "layer", "composition", by="property", ylabel="share of positions", xticks=list(own.layers)
        ),
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
    layer = model.n_layers - 1
    logits = values.value_logits(model, layer)
    follows, counts = torch.full_like(tokens, -1), torch.bincount(tokens[:, 1:][is_text[:, 1:]])
    follows[:, :-1] = torch.where(is_text[:, 1:], tokens[:, 1:], -1)
    rows = []
    for target in counts.argsort(descending=True, stable=True)[: config.targets].tolist():
        writing = (logits[:, target] / logits.std(dim=1)).topk(config.steered).indices.tolist()
        draw = stats.generator(config.seed, "other neurons", target).choice(len(logits), config.steered, replace=False).tolist()
        meant = follows == target
        for kind, neurons in (("writing it", writing), ("at random", draw)):
            edits = subupdates.scaled(model, [(layer, neuron) for neuron in neurons], config.factor)
            done = subupdates.steering(model, tokens, edits, target=target, meant=meant, others=is_text & ~meant)
            effect = {"effect": float(done.effect.mean()), "side": float(done.side.mean()), "places": int(meant.sum())}
            rows.append({"target": text.vocabulary[target], "neurons": kind} | effect)
    table = pd.DataFrame(rows)
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
    along = {
        name: stats.bootstrap((one.in_out_z.abs() > 2).to_numpy(dtype=float), seed=config.seed) for name, one in tables.items()
    }
    report.claim(
        "in-out",
        "the cosine of key and value lies beyond two standard deviations of unrelated directions, for a share of neurons of",
        along[OWN],
        at_least=0.06,
        unit="of neurons",
        source="1/√d_model; 0.046 for unrelated directions",
        control=along[UNTRAINED],
        control_text=UNTRAINED,
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
        known = rules.conditions(text.tokens, text.document, text.labels, text.vocabulary)
        found = {
            layer: rules.explain(rules.strongest(one), known, text.document, seed=config.seed) for layer, one in active.items()
        }
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
        explained = found[layer].assign(column=neurons[found[layer].column])
        report.view(
            neuron_pages.dashboard(
                own.model, layer, text, own.found[layer], neurons, active[layer], census=table, explained=explained
            )
        )


if __name__ == "__main__":
    experiment.main(Config, run)
