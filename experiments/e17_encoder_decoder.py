"""Where does a translator look, and does it need to? (Vaswani et al. 2017, arXiv:1706.03762; Bahdanau 2015, arXiv:1409.0473)

An encoder–decoder as in the paper (post-LN, sinusoids, tied embeddings, one block in each stack) learns to write rows of symbols
in reverse. The alignment is known: target position t comes from source position length − 1 − t, so cross-attention should lie
on the antidiagonal. That it looks there is one claim; that it reads there is another, tested by taking cross-attention out, by
pointing it one place off, and by asking of every source token what it brings to a logit: straight, by gradients, and by what is
lost when it is not seen. A second model translates a small English into a small Spanish, whose alignment is known word for
word, crossings and agreement included. A third and a fourth differ in nothing but the mask: one sees both ways, one only back.

False if cross-attention is diagonal or diffuse, if the model can do without it, if a pointer set elsewhere does not move what
is written, if most comes from another token than the one that attention shows, or if a causal model answers from what it
cannot see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from interp import experiment, figures, stats
from interp.heads import direct, flow, sources
from interp.models import zoo
from interp.models.batches import Batch
from interp.models.generation import greedy
from interp.models.hooked import Edit, Model
from interp.models.training import Learner, fit, linear_decay
from interp.models.transformer import TransformerConfig, transformer
from interp.report import Report
from interp.tasks import alignments, translation
from interp.tasks.pairs import FIRST, START, STOP, Pairs
from interp.tasks.sequences import reversal

ID = "E17"


@dataclass(frozen=True, kw_only=True)
class Config:
    steps: int = 450  # training of the model that reverses
    translation_steps: int = 250  # … of the one that translates
    mask_steps: int = 150  # … of the encoder and of the decoder that are compared
    rows: int = 400  # sources that nothing was trained on
    attributed: int = 60  # of them, those whose tokens are attributed one by one
    seed: int = 0


QUICK = {"rows": 200}

VASWANI, BAHDANAU = "Vaswani et al. 2017", "Bahdanau et al. 2015"
CROSS, SELF = "decoder_blocks.0.cross_attn.hook_z", "decoder_blocks.0.self_attn.hook_z"
PATTERN = "decoder_blocks.0.cross_attn.hook_pattern"
SYMBOLS, LENGTHS = 12, (4, 8)  # of rows to be reversed
WAYS = {"straight": "straight to the logit", "gradients": "by gradients", "unseen": "lost if not seen"}


def run(config: Config, report: Report) -> None:
    report_reversal(config, report)
    report_translation(config, report)
    report_masks(config, report)


@dataclass(frozen=True)
class Study:
    """A trained model, the same untrained, and pairs that it was not trained on."""

    model: Model
    untrained: Model
    pairs: Pairs
    seed: int

    def both(self, measure: Callable[[Model, Pairs], Any]) -> dict[Model, Any]:
        """The same of both models."""
        return {model: measure(model, self.pairs) for model in (self.model, self.untrained)}

    def estimate(self, values: Tensor, each: Tensor | None = None) -> stats.Estimate:
        """The mean over examples, or with `each` the ratio of sums."""
        per = torch.ones(len(values)) if each is None else each
        return stats.ratio(values.double().numpy(), per.double().numpy(), seed=self.seed)

    def whole(self, model: Model, pairs: Pairs) -> stats.Estimate:
        """How often the model writes the whole target by itself."""
        longest = pairs.target.shape[1]
        found = greedy(model, pairs.source, start=START, stop=STOP, longest=longest, attention_mask=pairs.attention_mask)
        found = F.pad(found, (0, longest - found.shape[1]), value=STOP)
        return self.estimate(((found == pairs.target) | ~pairs.counted).all(1))

    def claim(self, report: Report, slug: str, text: str, source: str, found: dict[Model, Any], **target: Any) -> None:
        """A claim about the model, beside the same of the untrained one."""
        control, which = found[self.untrained], "the same model untrained"
        report.claim(slug, text, found[self.model], source=source, control=control, control_text=which, **target)


def study(config: Config, task: Any, **how: Any) -> Study:
    recipe = zoo.PairsRecipe(task=task, seed=config.seed, batch=32, symbols=SYMBOLS, lengths=LENGTHS, **how)
    with experiment.stage(f"train on {task}"):
        model = zoo.train(recipe).model
    pairs = recipe.pairs(config.rows, stats.torch_generator(config.seed, ID, task))
    return Study(model, model.untrained(stats.torch_seed(config.seed, ID, "untrained")), pairs, config.seed)


def looking(model: Model, pairs: Pairs) -> Tensor:
    """Cross-attention averaged over heads, [example target source]."""
    return model.run(pairs.source, **dict[str, Any](pairs.beside), read=[PATTERN]).activations[PATTERN].mean(1)


def written(model: Model, pairs: Pairs, wanted: Tensor, edits: Sequence[Edit] = ()) -> Tensor:
    """Share of target tokens with links that are `wanted` [example target] when all before them are given, [example]."""
    rows = pairs.sure.any(-1)
    found = model.run(pairs.source, **dict[str, Any](pairs.beside), edits=edits).logits.argmax(-1)
    return ((found == wanted) & rows).sum(1).double() / rows.sum(1)


def brought(model: Model, own: Pairs, other: Pairs) -> dict[str, Tensor]:
    """What each source token brings to every linked target token against its twin's, by way, [example target source]."""
    contrast, where = alignments.questions(own, other)
    scores = {way: torch.zeros(own.sure.shape, dtype=torch.float64) for way in WAYS}
    found = sources.brought(model, contrast, attention="cross", batch=512)
    for way, cells in scores.items():
        cells[where] = torch.from_numpy(found.sel(way=way).values.T)
    return scores


def report_reversal(config: Config, report: Report) -> None:
    report.section("A row in reverse")
    known = study(config, "reversal", steps=config.steps, learning_rate=6e-3)
    pairs = known.pairs
    text = "rows written in reverse without a mistake, by greedy decoding"
    known.claim(report, "accuracy", text, "1.000 on this task", known.both(known.whole), at_least=1.0)
    patterns, source = known.both(looking), f"the alignment of {BAHDANAU}, fig. 3, where it is known"
    for slug, text, least, measure in (
        ("antidiagonal", "cross-attention that lies on the antidiagonal", 0.7, alignments.on_links),
        ("argmax", "target tokens that attend most to the source token they come from", 0.95, alignments.hits),
    ):
        found = {model: known.estimate(measure(pattern, pairs)) for model, pattern in patterns.items()}
        known.claim(report, slug, text, source, found, at_least=least)
    longest, length = pairs.attention_mask.sum(1) == LENGTHS[1], LENGTHS[1]
    heatmap(
        report,
        "antidiagonal",
        patterns[known.model][longest][:, :length, :length].mean(0),
        ("position in the target", "position in the source", "attention"),
        caption=f"Cross-attention, mean over heads and over {int(longest.sum())} rows of {length} symbols: what is written at "
        "position t is read at the t-th place from the end.",
        alt="Heat map of cross-attention: dark cells run from the upper right to the lower left corner.",
    )
    report_need(known, report)
    report_pointer(known, report)
    own, other = alignments.twins(pairs[: config.attributed])
    report_sources(known, own, other, report)
    report_sums(known.model, own, other, report)


def report_need(known: Study, report: Report) -> None:
    """What is left when the decoder cannot look at the source, or not at its own words."""
    report.section("Without looking")
    cases, pairs = {"whole model": []}, known.pairs
    for how, change in (("off", lambda z: z.mean(0, keepdim=True).expand_as(z)), ("zero", torch.zeros_like)):
        cases |= {f"{name} {how}": [Edit(hook, change)] for name, hook in (("cross-attention", CROSS), ("self-attention", SELF))}
    shares = {name: known.estimate(written(known.model, pairs, pairs.target, edits)) for name, edits in cases.items()}
    guessed = known.estimate(best_guess(pairs, SYMBOLS))
    report.claim(
        "needs-the-source",
        f"symbols right with cross-attention off; the best guess of a reader of the target alone is right {guessed.value:.3f}",
        shares["cross-attention off"],
        at_most=1.5 * guessed.value,
        source=f"{BAHDANAU}: the decoder reads the source through attention alone; at most one and a half times the best guess",
        control=shares["self-attention off"],
        control_text="the decoder's self-attention off instead",
    )
    shares["best guess without the source"] = guessed
    report.table(
        "need",
        [{"case": name} | found.cells("symbols right") for name, found in shares.items()],
        caption="Share of symbols right, the symbols before them given. Off: z at each position is its mean over all rows. Zero "
        "takes out of post-norm streams what norms count on, too.",
    )


def best_guess(pairs: Pairs, symbols: int) -> Tensor:
    """How often the best guess is right that knows the target so far, [example]: at position t one of symbols − t is to come."""
    rows = pairs.sure.any(-1)
    return (rows / (symbols - torch.arange(rows.shape[1], dtype=torch.float64))).sum(1) / rows.sum(1)


def report_pointer(known: Study, report: Report) -> None:
    """Cross-attention set by hand: on the antidiagonal, and one place off to either side."""
    pairs = known.pairs
    on, back = torch.zeros_like(pairs.sure), torch.zeros_like(pairs.sure)
    on[:, :, :-1], back[:, :, 1:] = pairs.sure[:, :, 1:], pairs.sure[:, :, :-1]
    back &= pairs.attention_mask[:, None] == 1
    shares, own = {}, {}
    for name, links in {"the right symbol": pairs.sure, "the symbol before it": on, "the symbol after it": back}.items():
        there = replace(pairs, sure=links, possible=links)
        wanted = (links * pairs.source[:, None]).sum(-1)
        edits = sources.pointed(known.model, links, attention="cross")
        shares[name] = known.estimate(written(known.model, there, wanted, edits))
        own[name] = known.estimate(written(known.model, there, wanted))
    report.claim(
        "pointer",
        "with all attention put on the symbol before the right one, that symbol is written",
        shares["the symbol before it"],
        at_least=0.8,
        source="an intervention: the pattern decides what is written, or it explains nothing",
        control=own["the symbol before it"],
        control_text="the model's own pattern",
    )
    report.table(
        "pointer",
        [{"pointer at": name} | found.cells("is written") for name, found in shares.items()],
        caption="Share of target tokens that are the symbol pointed at. The symbol after it has just been written, and the model "
        "has learned that none is written twice.",
    )


def report_sources(known: Study, own: Pairs, other: Pairs, report: Report) -> None:
    """Whether the symbol that a written one is a copy of brings most to it, by three ways of asking."""
    report.section("What each source symbol brings")
    scores = {model: brought(model, own, other) for model in (known.model, known.untrained)}
    anything = own.sure.any(-1)[:, :, None] & (own.attention_mask[:, None] == 1)
    rows = []
    for way, named in WAYS.items():
        text = f"written symbols to which the symbol they come from brings most ({named})"
        source = "what attention shows, asked otherwise, with the same target"
        most = {model: known.estimate(alignments.hits(found[way], own)) for model, found in scores.items()}
        known.claim(report, way, text, source, most, at_least=0.95)
        for which, cells in (("its source", own.sure), ("another symbol", anything & ~own.sure)):
            nats = known.estimate((scores[known.model][way] * cells).sum((1, 2)), cells.sum((1, 2)))
            rows.append({"way": named, "from": which} | nats.cells("nats"))
    report.table(
        "sources",
        rows,
        caption="What one source symbol brings to the logit difference from another row's symbol, mean. Straight: attention × "
        "value, through the norms that follow, each scale as it is. Gradients: integrated from the other row's embeddings. Not "
        "seen: what is lost when cross-attention cannot look there.",
    )
    length = int(own.attention_mask[0].sum())
    heatmap(
        report,
        "unseen",
        scores[known.model]["unseen"][0, :length, :length],
        ("symbol written at", "source symbol hidden", "nats"),
        caption="Nats of logit difference lost when cross-attention does not see one source symbol, in one row.",
        alt="Heat map of losses: large ones from the upper right to the lower left corner, elsewhere next to nothing.",
    )


def report_sums(model: Model, own: Pairs, other: Pairs, report: Report) -> None:
    """What cross-attention brings from every token, and what all other parts bring, is the logit difference."""
    contrast = alignments.questions(own, other)[0]
    question, given = direct.Question(contrast.answers, contrast.wrong, contrast.positions), dict[str, Any](contrast.beside)
    asked = (model, contrast.clean, question)
    tokens = direct.by_source(*asked, attention="cross", **given).values.sum((0, 1))
    rest = direct.by_component(*asked, **given).values.sum(0) - direct.by_head(*asked, attention="cross", **given).values.sum(
        (0, 1)
    )
    wanted = contrast.logit_difference(model.run(contrast.clean, **given).logits).double().numpy()
    report.claim(
        "parts-sum",
        "source by source, cross-attention and all other parts add up to the logit difference, but for at most",
        float(np.abs(tokens.sum(0) + rest - wanted).max()),
        at_most=1e-4,
        unit="nats",
        source="exact, with every norm's scale as it is",
        control=float(np.abs(tokens.sum(0) - tokens.max(0) + rest - wanted).max()),
        control_text="without the token that brings most",
    )


def report_translation(config: Config, report: Report) -> None:
    report.section("A small English into a small Spanish")
    known = study(config, "translation", steps=config.translation_steps)
    pairs = known.pairs
    text = "sentences translated without a mistake, by greedy decoding"
    source = f"the grammar is finite and regular; {VASWANI}'s model should have it whole"
    known.claim(report, "translations", text, source, known.both(known.whole), at_least=0.98)
    source = "0.25, a common figure for statistical aligners [M]; measure of Och & Ney 2003"
    text = "alignment error rate of linking every Spanish word to the English word it attends to most"
    patterns = known.both(looking)
    rates = {model: known.estimate(*alignments.errors(pattern, pairs)) for model, pattern in patterns.items()}
    known.claim(report, "alignment", text, source, rates, at_most=0.25)
    report_alignments(config, known, report)
    report_agreement(config, known.model, report)
    report_sentence(patterns[known.model], pairs, report)


def report_alignments(config: Config, known: Study, report: Report) -> None:
    """Alignment error rates of attention, of what it moves, and of attributions; beside those against other sentences."""
    model, (own, other) = known.model, alignments.twins(known.pairs[: config.attributed])
    moved = sources.moved(model, own.source, attention="cross", **dict[str, Any](own.beside)).sel(layer=0).values
    ways = {"attention": looking(model, own), "attention × value": torch.from_numpy(moved).permute(2, 0, 1)}
    null = alignments.shuffled(own, generator=stats.torch_generator(config.seed, ID, "shuffle"))
    ways |= {WAYS[way]: scores for way, scores in brought(model, own, other).items()}
    rows = []
    for name, scores in ways.items():
        rate, chance = (known.estimate(*alignments.errors(scores, each)) for each in (own, null))
        rows.append({"linked by": name} | rate.cells("AER") | {"against other sentences": chance.value})
    report.table(
        "alignment",
        rows,
        caption="Alignment error rate of linking every Spanish word to the English word with the highest score: 0 is perfect. A "
        "noun is a possible link of what agrees with it. Attention × value: the length of what is moved (Kobayashi et al. 2020).",
    )


def report_agreement(config: Config, model: Model, report: Report) -> None:
    """Which source words tell the article's gender: encoder outputs of the twin sentence put in, one kind of word at a time."""
    contrast = translation.agreement_contrast(config.rows, generator=stats.torch_generator(config.seed, ID, "agreement"))
    hook = "encoder_blocks.0.hook_out"
    given = dict[str, Any](contrast.beside)
    twins = model.run(contrast.corrupt, **given, read=[hook]).activations[hook]
    clean, corrupt = (
        contrast.logit_difference(model.run(tokens, **given).logits) for tokens in (contrast.clean, contrast.corrupt)
    )
    noun = contrast.clean != contrast.corrupt
    article = torch.arange(noun.shape[1]).expand_as(noun) == 0
    words = {"the noun": noun, "its article": article, "both": noun | article, "all other words": ~(noun | article)}
    shares = {}
    for name, chosen in words.items():
        edit = Edit(hook, lambda value, chosen=chosen: torch.where(chosen[:, :, None], twins, value))
        patched = contrast.logit_difference(model.run(contrast.clean, **given, edits=[edit]).logits)
        moved, gap = ((clean - after).double().numpy() for after in (patched, corrupt))
        shares[name] = stats.ratio(moved, gap, seed=config.seed)
    report.claim(
        "agreement",
        "share of the logit difference el − la (los − las, …) that goes over with noun and article of the twin sentence",
        shares["both"],
        at_least=0.9,
        source="the grammar: the subject's noun alone tells the gender of its article",
        control=shares["all other words"],
        control_text="all other words from the twin sentence",
    )
    report.table(
        "agreement",
        [{"from the twin": name} | found.cells("share of the difference") for name, found in shares.items()],
        caption="Encoder outputs exchanged with those of a sentence whose subject has the other gender.",
    )


def report_sentence(pattern: Tensor, pairs: Pairs, report: Report) -> None:
    """The attention of one sentence with crossing links, drawn."""
    n = translation.LONGEST
    row = int((pairs.attention_mask.sum(1) == n).long().argmax())
    labels = [
        [f"{place + 1} {translation.VOCABULARY[token]}" for place, token in enumerate(tokens[row, :n].tolist())]
        for tokens in (pairs.target, pairs.source)
    ]
    heatmap(
        report,
        "sentence",
        pattern[row, :n],
        ("Spanish", "English", "attention"),
        *labels,
        caption="Cross-attention of one sentence, mean over heads: links cross where the adjective follows its noun.",
        alt="Heat map of attention between Spanish and English words, mostly near the diagonal, crossing at adjectives.",
    )


def report_masks(config: Config, report: Report) -> None:
    """The same task, the same weights at first, and two masks: what lies ahead cannot be answered from behind."""
    report.section("One mask, two kinds of model")
    kinds = ("encoder", "decoder")
    with experiment.stage("train an encoder and a decoder"):
        models = {kind: in_place(config, kind) for kind in kinds}
    pairs = in_place_pairs(stats.torch_generator(config.seed, ID, "masks"), config.rows)
    ahead = torch.arange(LENGTHS[1]) < LENGTHS[1] // 2
    right = {kind: models[kind].run(pairs.source).logits.argmax(-1) == pairs.target[:, :-1] for kind in kinds}
    halves = {"first, from ahead": ahead, "second, from behind": ~ahead}
    found = {
        (kind, name): stats.bootstrap(hit[:, half].double().mean(1).numpy(), seed=config.seed)
        for kind, hit in right.items()
        for name, half in halves.items()
    }
    report.claim(
        "both-ways",
        "an encoder that reverses rows in place: symbols right in the first half, which come from the second",
        found["encoder", "first, from ahead"],
        at_least=0.95,
        source=f"{VASWANI}, §3.2.3: encoders see both ways",
        control=found["decoder", "first, from ahead"],
        control_text="the same with a causal mask",
    )
    report.table(
        "masks",
        [{"kind": kind, "half of the row": half} | each.cells("symbols right") for (kind, half), each in found.items()],
        caption="Reversal in place. What lies ahead of a decoder can only be guessed.",
    )
    changes = report_causal(models, pairs.source[:8], report)
    for kind, change in changes.items():
        heatmap(
            report,
            f"influence-{kind}",
            change,
            ("stream seen at", "token changed", "change"),
            caption=f"Largest change ‖Δx‖ of the {kind}'s last residual stream when one token is another.",
            alt=f"Heat map of influence in the {kind}, "
            + ("empty above the diagonal" if kind == "decoder" else "filled everywhere"),
        )


def report_causal(models: dict[str, Model], tokens: Tensor, report: Report) -> dict[str, Tensor]:
    """Claims that a mask hides what is ahead; returns what changes, and where, when one token is another."""
    others = FIRST + (tokens - FIRST + 1) % SYMBOLS
    kinds = ("encoder", "decoder")
    changes = {kind: torch.from_numpy(flow.exchange(models[kind], tokens, others).values).amax(0) for kind in kinds}
    report.claim(
        "causal",
        "largest change ‖Δx‖ of a decoder's last residual stream when a later token is another",
        float(changes["decoder"].triu(1).max()),
        at_most=0.0,
        source="the mask, exactly",
        control=float(changes["encoder"].triu(1).max()),
        control_text="an encoder",
    )
    return changes


def in_place(config: Config, kind: Any) -> Model:
    """A model that is to write at position t the symbol at length − 1 − t."""
    sizes: dict[str, Any] = {"d_model": 64, "n_heads": 2, "n_layers": 1, "d_mlp": 128, "n_ctx": LENGTHS[1]}
    module = transformer(TransformerConfig(kind=kind, norm="pre", d_vocab=FIRST + SYMBOLS, **sizes), config.seed)
    drawn = stats.torch_generator(config.seed, ID, "in place")
    batches = (in_place_pairs(drawn, 32) for _ in range(config.mask_steps))
    schedule = linear_decay(5e-3, 20, config.mask_steps)
    fit(Learner(module, schedule=schedule), (Batch(tokens=each.source, targets=each.target[:, :-1]) for each in batches))
    return Model.wrap(module, name=f"{kind} that reverses in place")


def in_place_pairs(drawn: torch.Generator, n: int) -> Pairs:
    return reversal(n, (LENGTHS[1], LENGTHS[1]), SYMBOLS, generator=drawn)


def heatmap(
    report: Report, slug: str, values: Tensor, named: tuple[str, str, str], *labels: Sequence[str], caption: str, alt: str
) -> None:
    """A matrix as a figure. named: what its rows, columns and numbers are. labels: of rows and columns, if not numbers."""
    row, column, value = named
    index = pd.MultiIndex.from_product(labels or [range(size) for size in values.shape], names=[row, column])
    table = pd.DataFrame({value: values.flatten().numpy()}, index=index).reset_index()
    report.figure(slug, figures.heatmap(table, column, row, value), data=table, caption=caption, alt=alt)


if __name__ == "__main__":
    experiment.main(Config, run)
