"""Where does a translator look, and does it need to? (Vaswani et al. 2017, arXiv:1706.03762; Bahdanau 2015, arXiv:1409.0473)

An encoder–decoder as in the paper (post-LN, sinusoids, tied embeddings, one block in each stack) learns to write rows of symbols
in reverse. The alignment is known: target position t comes from source position length − 1 − t, so cross-attention should lie
on the antidiagonal. That it looks there is one claim; that it reads there is another, tested by taking cross-attention out, and
by pointing it one place off. A second model translates a small English into a small Spanish, whose alignment is known word for
word, crossings and agreement included. A third and a fourth differ in nothing but the mask: one sees both ways, one only back.

False if cross-attention is diagonal or diffuse, if the model can do without it, if a pointer set elsewhere does not move what
is written, or if a causal model answers from tokens that it cannot see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from interp import experiment, figures, stats
from interp.models import zoo
from interp.models.batches import Batch
from interp.models.generation import greedy
from interp.models.hooked import Edit, Model
from interp.models.training import Learner, fit, linear_decay
from interp.models.transformer import TransformerConfig, transformer
from interp.report import Report
from interp.tasks import translation
from interp.tasks.pairs import FIRST, START, STOP, Pairs, alignment_error
from interp.tasks.sequences import reversal

ID = "E17"


@dataclass(frozen=True, kw_only=True)
class Config:
    steps: int = 800  # training of the model that reverses
    translation_steps: int = 500  # … of the one that translates
    mask_steps: int = 300  # … of the encoder and of the decoder that are compared
    rows: int = 400  # sources that nothing was trained on
    length: int = 10  # of the rows that the encoder and the decoder reverse in place
    seed: int = 0


QUICK = {"translation_steps": 400, "mask_steps": 250, "rows": 200}

VASWANI, BAHDANAU = "Vaswani et al. 2017", "Bahdanau et al. 2015"
CROSS = "decoder_blocks.0.cross_attn"
SELF = "decoder_blocks.0.self_attn"


def run(config: Config, report: Report) -> None:
    report_reversal(config, report)
    report_translation(config, report)
    report_masks(config, report)


# ---- what is measured ----


def looking(model: Model, pairs: Pairs) -> Tensor:
    """Cross-attention averaged over heads, [example target source]."""
    name = f"{CROSS}.hook_pattern"
    return model.run(pairs.source, **beside(pairs), read=[name]).activations[name].mean(1)


def on_links(pattern: Tensor, pairs: Pairs) -> np.ndarray:
    """Attention that reaches the sure links, [example], averaged over the target tokens that have any."""
    rows = pairs.sure.any(-1)
    return (((pattern * pairs.sure).sum(-1) * rows).sum(1) / rows.sum(1)).double().numpy()


def hits(pattern: Tensor, pairs: Pairs) -> np.ndarray:
    """Share of target tokens whose most attended source token is the one they come from, [example]."""
    rows = pairs.sure.any(-1)
    right = pairs.sure.gather(2, pattern.argmax(-1, keepdim=True))[:, :, 0]
    return ((right & rows).sum(1) / rows.sum(1)).double().numpy()


def written(model: Model, pairs: Pairs, wanted: Tensor, edits: Sequence[Edit] = ()) -> np.ndarray:
    """Share of target tokens, STOP aside, that are `wanted` [example target] when all before them are given, [example]."""
    rows = pairs.sure.any(-1)
    found = model.run(pairs.source, **beside(pairs), edits=edits).logits.argmax(-1)
    return (((found == wanted) & rows).sum(1) / rows.sum(1)).double().numpy()


def whole(model: Model, pairs: Pairs) -> np.ndarray:
    """Whether the model writes the whole target by itself, [example]."""
    longest = pairs.target.shape[1]
    found = greedy(model, pairs.source, start=START, stop=STOP, longest=longest, attention_mask=pairs.attention_mask)
    found = F.pad(found, (0, longest - found.shape[1]), value=STOP)
    return ((found == pairs.target) | ~pairs.counted).all(1).double().numpy()


def alignment_errors(pattern: Tensor, pairs: Pairs, *, seed: int) -> stats.Estimate:
    """Alignment error rate of linking every target token to its most attended source token."""
    links = F.one_hot(pattern.argmax(-1), pattern.shape[-1]).bool()
    misses, links_ = alignment_error(links, pairs)
    return stats.ratio(misses.numpy(), links_.numpy(), seed=seed)


def beside(pairs: Pairs) -> dict[str, Any]:
    """What the model is given with the source."""
    return dict(pairs.beside)


def shuffled(pairs: Pairs, seed: int) -> Pairs:
    """The same pairs, each with the alignment of another: a null for any score against an alignment."""
    other = torch.from_numpy(stats.generator(seed, ID, "shuffle").permutation(len(pairs)))
    sure, possible = pairs.sure[other], pairs.possible[other]
    return Pairs(source=pairs.source, target=pairs.target, sure=sure, possible=possible)


# ---- reversal ----


def report_reversal(config: Config, report: Report) -> None:
    report.section("A row in reverse")
    recipe = zoo.PairsRecipe(task="reversal", seed=config.seed, steps=config.steps)
    with experiment.stage("train on reversal"):
        model = zoo.train(recipe).model
    untrained = model.untrained(stats.torch_seed(config.seed, ID, "untrained"))
    pairs = recipe.pairs(config.rows, generator(config, "reversal"))
    pattern, blank = looking(model, pairs), looking(untrained, pairs)
    report.claim(
        "accuracy",
        "rows written in reverse without a mistake, by greedy decoding",
        stats.bootstrap(whole(model, pairs), seed=config.seed),
        at_least=1.0,
        source="1.000 on this task",
        control=stats.bootstrap(whole(untrained, pairs), seed=config.seed),
        control_text="the same model untrained",
    )
    for slug, text, measure, least in (
        ("antidiagonal", "cross-attention that lies on the antidiagonal", on_links, 0.7),
        ("argmax", "target tokens that attend most to the source token they come from", hits, 0.95),
    ):
        report.claim(
            slug,
            text,
            stats.bootstrap(measure(pattern, pairs), seed=config.seed),
            at_least=least,
            source=f"the alignment of {BAHDANAU}, fig. 3, where it is known",
            control=stats.bootstrap(measure(blank, pairs), seed=config.seed),
            control_text="the same model untrained",
        )
    report_antidiagonal(pattern, pairs, recipe.lengths[1], report)
    report_need(config, model, pairs, recipe, report)
    report_pointer(config, model, pairs, report)


def report_antidiagonal(pattern: Tensor, pairs: Pairs, length: int, report: Report) -> None:
    """Mean cross-attention over the longest rows, drawn."""
    longest = pairs.attention_mask.sum(1) == length
    mean = pattern[longest][:, :length, :length].mean(0)
    places = pd.MultiIndex.from_product([range(length), range(length)], names=["target", "source"])
    table = pd.DataFrame({"attention": mean.flatten().numpy()}, index=places).reset_index()
    report.figure(
        "antidiagonal",
        figures.heatmap(table, "source", "target", "attention", xlabel="position in the source", ylabel="position in the target"),
        data=table,
        caption=f"Cross-attention, mean over heads and over {int(longest.sum())} rows of {length} symbols: what is written at "
        "position t is read at the t-th place from the end.",
        alt="Heat map of cross-attention: dark cells run from the upper right to the lower left corner.",
    )


def report_need(config: Config, model: Model, pairs: Pairs, recipe: zoo.PairsRecipe, report: Report) -> None:
    """What is left when the decoder cannot look at the source, or not at its own words."""
    report.section("Without looking")
    cases = {
        "whole model": [],
        "cross-attention off": [Edit(f"{CROSS}.hook_z", everywhere_alike)],
        "self-attention off": [Edit(f"{SELF}.hook_z", everywhere_alike)],
        "cross-attention zero": [Edit(f"{CROSS}.hook_z", torch.zeros_like)],
        "self-attention zero": [Edit(f"{SELF}.hook_z", torch.zeros_like)],
    }
    shares = {
        name: stats.bootstrap(written(model, pairs, pairs.target, edits), seed=config.seed) for name, edits in cases.items()
    }
    chance = best_guess(pairs, recipe.symbols).mean()
    report.claim(
        "needs-the-source",
        f"symbols right with cross-attention off; the best guess of a reader of the target alone is right {chance:.3f}",
        shares["cross-attention off"],
        at_most=1.5 * chance,
        source=f"{BAHDANAU}: the decoder reads the source through attention alone; at most one and a half times the best guess",
        control=shares["self-attention off"],
        control_text="the decoder's self-attention off instead",
    )
    rows = [{"case": name, "symbols right": e.value, "low": e.low, "high": e.high} for name, e in shares.items()]
    rows.append({"case": "best guess without the source", "symbols right": chance, "low": chance, "high": chance})
    report.table(
        "need",
        rows,
        caption="Share of symbols right, the symbols before them given. Off: z at each position is its mean over all rows. Zero "
        "takes out of post-norm streams what norms count on, too.",
    )


def everywhere_alike(z: Tensor) -> Tensor:
    """The mean over rows, for every row: what a head writes at a position, whatever the row is."""
    return z.mean(0, keepdim=True).expand_as(z)


def best_guess(pairs: Pairs, symbols: int) -> np.ndarray:
    """How often the best guess is right that knows the target so far and not the source, [example].

    Symbols do not repeat in a row, so at position t one of symbols − t is to come.
    """
    rows = pairs.sure.any(-1)
    each = 1 / (symbols - torch.arange(rows.shape[1], dtype=torch.float64))
    return ((each * rows).sum(1) / rows.sum(1)).numpy()


def report_pointer(config: Config, model: Model, pairs: Pairs, report: Report) -> None:
    """Cross-attention set by hand: on the antidiagonal, and one place off to either side."""
    on, back = torch.zeros_like(pairs.sure), torch.zeros_like(pairs.sure)
    on[:, :, :-1], back[:, :, 1:] = pairs.sure[:, :, 1:], pairs.sure[:, :, :-1]
    back &= pairs.attention_mask[:, None] == 1
    shares, own = {}, {}
    for name, links in {"the right symbol": pairs.sure, "the symbol before it": on, "the symbol after it": back}.items():
        there = Pairs(source=pairs.source, target=pairs.target, sure=links, possible=links)
        wanted = (links * pairs.source[:, None]).sum(-1)
        edit = Edit(f"{CROSS}.hook_pattern", lambda pattern, links=links: pointed(pattern, links))
        shares[name] = stats.bootstrap(written(model, there, wanted, [edit]), seed=config.seed)
        own[name] = stats.bootstrap(written(model, there, wanted), seed=config.seed)
    report.claim(
        "pointer",
        "with all attention put on the symbol before the right one, that symbol is written",
        shares["the symbol before it"],
        at_least=0.8,
        source="an intervention: the pattern decides what is written, or it explains nothing",
        control=own["the symbol before it"],
        control_text="the model's own pattern",
    )
    table = [{"pointer at": name, "is written": e.value, "low": e.low, "high": e.high} for name, e in shares.items()]
    report.table(
        "pointer",
        table,
        caption="Share of target tokens that are the symbol pointed at. The symbol after it has just been written, and the model "
        "has learned that none is written twice.",
    )


def pointed(pattern: Tensor, links: Tensor) -> Tensor:
    """All attention of every head on the links [example target source]; rows without a link are left as they are."""
    return torch.where(links.any(-1)[:, None, :, None], links[:, None].to(pattern), pattern)


# ---- translation ----


def report_translation(config: Config, report: Report) -> None:
    report.section("A small English into a small Spanish")
    recipe = zoo.PairsRecipe(task="translation", seed=config.seed, steps=config.translation_steps)
    with experiment.stage("train on translation"):
        model = zoo.train(recipe).model
    untrained = model.untrained(stats.torch_seed(config.seed, ID, "untrained"))
    pairs = recipe.pairs(config.rows, generator(config, "translation"))
    report.claim(
        "translations",
        "sentences translated without a mistake, by greedy decoding",
        stats.bootstrap(whole(model, pairs), seed=config.seed),
        at_least=0.98,
        source=f"the grammar is finite and regular; {VASWANI}'s model should have it whole",
        control=stats.bootstrap(whole(untrained, pairs), seed=config.seed),
        control_text="the same model untrained",
    )
    pattern = looking(model, pairs)
    errors = {
        "trained": alignment_errors(pattern, pairs, seed=config.seed),
        "trained, against the alignment of other sentences": alignment_errors(
            pattern, shuffled(pairs, config.seed), seed=config.seed
        ),
        "untrained": alignment_errors(looking(untrained, pairs), pairs, seed=config.seed),
    }
    report.claim(
        "alignment",
        "alignment error rate of linking every Spanish word to the English word it attends to most",
        errors["trained"],
        at_most=0.25,
        source="0.25, a common figure for statistical aligners [M]; measure of Och & Ney 2003",
        control=errors["untrained"],
        control_text="the same model untrained",
    )
    rows = [{"pattern": name, "AER": e.value, "low": e.low, "high": e.high} for name, e in errors.items()]
    report.table(
        "alignment", rows, caption="Alignment error rate: 0 is perfect. A noun is a possible link of what agrees with it."
    )
    report_agreement(config, model, report)
    report_sentence(pattern, pairs, report)


def report_agreement(config: Config, model: Model, report: Report) -> None:
    """Which source words tell the article's gender: encoder outputs of the twin sentence put in, one kind of word at a time."""
    drawn = generator(config, "agreement")
    contrast = translation.agreement_contrast(config.rows, generator=drawn)
    hook = "encoder_blocks.0.hook_out"
    given: dict[str, Any] = dict(contrast.beside)
    twins = model.run(contrast.corrupt, **given, read=[hook]).activations[hook]
    clean, corrupt = (
        contrast.logit_difference(model.run(tokens, **given).logits) for tokens in (contrast.clean, contrast.corrupt)
    )
    noun = contrast.clean != contrast.corrupt
    article = torch.zeros_like(noun)
    article[:, 0] = True
    gaps = (clean - corrupt).double().numpy()
    shares = {}
    for name, chosen in {"the noun": noun, "its article": article, "all other words": ~(noun | article)}.items():
        edit = Edit(hook, lambda value, chosen=chosen: torch.where(chosen[:, :, None], twins, value))
        patched = contrast.logit_difference(model.run(contrast.clean, **given, edits=[edit]).logits)
        shares[name] = stats.ratio((clean - patched).double().numpy(), gaps, seed=config.seed)
    both = Edit(hook, lambda value: torch.where((noun | article)[:, :, None], twins, value))
    linked = contrast.logit_difference(model.run(contrast.clean, **given, edits=[both]).logits)
    report.claim(
        "agreement",
        "share of the logit difference el − la (los − las, …) that goes over with noun and article of the twin sentence",
        stats.ratio((clean - linked).double().numpy(), gaps, seed=config.seed),
        at_least=0.9,
        source="the grammar: the subject's noun alone tells the gender of its article",
        control=shares["all other words"],
        control_text="all other words from the twin sentence",
    )
    rows = [
        {"from the twin": name, "share of the difference": e.value, "low": e.low, "high": e.high} for name, e in shares.items()
    ]
    report.table(
        "agreement", rows, caption="Encoder outputs exchanged with those of a sentence whose subject has the other gender."
    )


def report_sentence(pattern: Tensor, pairs: Pairs, report: Report) -> None:
    """The attention of one sentence with crossing links, drawn."""
    length = pairs.attention_mask.sum(1)
    row = int((length == translation.LONGEST).long().argmax())
    source = [translation.VOCABULARY[token] for token in pairs.source[row].tolist()]
    target = [translation.VOCABULARY[token] for token in pairs.target[row, :-1].tolist()]
    table = pd.DataFrame(
        [
            {"English": f"{j + 1} {english}", "Spanish": f"{i + 1} {spanish}", "attention": float(pattern[row, i, j])}
            for i, spanish in enumerate(target)
            for j, english in enumerate(source)
        ]
    )
    report.figure(
        "sentence",
        figures.heatmap(table, "English", "Spanish", "attention", xlabel="", ylabel=""),
        data=table,
        caption="Cross-attention of one sentence, mean over heads: links cross where the adjective follows its noun.",
        alt="Heat map of attention between Spanish and English words, mostly near the diagonal, crossing at adjectives.",
    )


# ---- masks ----


def report_masks(config: Config, report: Report) -> None:
    """The same task, the same weights at first, and two masks: what lies ahead cannot be answered from behind."""
    report.section("One mask, two kinds of model")
    kinds = ("encoder", "decoder")
    with experiment.stage("train an encoder and a decoder"):
        models = {kind: in_place(config, kind) for kind in kinds}
    pairs = in_place_pairs(config, generator(config, "masks"), config.rows)
    ahead = torch.arange(config.length) < config.length // 2
    right = {kind: models[kind].run(pairs.source).logits.argmax(-1) == pairs.target[:, :-1] for kind in kinds}
    first, second = (
        {kind: stats.bootstrap(right[kind][:, half].double().mean(1).numpy(), seed=config.seed) for kind in kinds}
        for half in (ahead, ~ahead)
    )
    report.claim(
        "both-ways",
        "an encoder that reverses rows in place: symbols right in the first half, which come from the second",
        first["encoder"],
        at_least=0.95,
        source=f"{VASWANI}, §3.2.3: encoders see both ways",
        control=first["decoder"],
        control_text="the same with a causal mask",
    )
    leak = influence(models["decoder"], pairs.source[:8])
    report.claim(
        "causal",
        "largest change of a decoder's logits when a later token is another",
        float(leak.triu(1).max()),
        at_most=0.0,
        source="the mask, exactly",
        control=float(influence(models["encoder"], pairs.source[:8]).triu(1).max()),
        control_text="an encoder",
    )
    rows = [
        {
            "kind": kind,
            "half of the row": half,
            "symbols right": found[kind].value,
            "low": found[kind].low,
            "high": found[kind].high,
        }
        for kind in kinds
        for half, found in (("first, from ahead", first), ("second, from behind", second))
    ]
    report.table(
        "masks", rows, caption=f"Reversal in place; a guess at what lies ahead is right {guess_ahead(config):.3f} of the time."
    )
    for kind in kinds:
        report_influence(influence(models[kind], pairs.source[:8]), kind, report)


def in_place(config: Config, kind: Any) -> Model:
    """A model that is to write at position t the symbol at length − 1 − t."""
    sizes: dict[str, Any] = {
        "d_model": 64,
        "n_heads": 2,
        "n_layers": 1,
        "d_mlp": 128,
        "d_vocab": FIRST + 20,
        "n_ctx": config.length,
    }
    module = transformer(TransformerConfig(kind=kind, norm="pre", **sizes), config.seed)
    drawn = generator(config, "in place")
    batches = (in_place_pairs(config, drawn, 64) for _ in range(config.mask_steps))
    schedule = linear_decay(3e-3, 50, config.mask_steps)
    fit(Learner(module, schedule=schedule), (Batch(tokens=each.source, targets=each.target[:, :-1]) for each in batches))
    return Model.wrap(module, name=f"{kind} that reverses in place")


def in_place_pairs(config: Config, drawn: torch.Generator, n: int) -> Pairs:
    return reversal(n, (config.length, config.length), 20, generator=drawn)


def guess_ahead(config: Config) -> float:
    """How often the best guess is right at positions whose answer lies ahead: one of the symbols that have not stood yet."""
    return float(np.mean([1 / (20 - 1 - t) for t in range(config.length // 2)]))


def influence(model: Model, tokens: Tensor) -> Tensor:
    """Largest change of any logit at position i when the token at position j is another, [i j]."""
    before = model.run(tokens).logits
    columns = []
    for j in range(tokens.shape[1]):
        changed = tokens.clone()
        changed[:, j] = FIRST + (changed[:, j] - FIRST + 1) % 20
        columns.append((model.run(changed).logits - before).abs().amax((0, 2)))
    return torch.stack(columns, 1)


def report_influence(matrix: Tensor, kind: str, report: Report) -> None:
    length = len(matrix)
    places = pd.MultiIndex.from_product([range(length), range(length)], names=["changed at", "seen at"])
    table = pd.DataFrame({"change": matrix.T.flatten().numpy()}, index=places).reset_index()
    report.figure(
        f"influence-{kind}",
        figures.heatmap(table, "changed at", "seen at", "change", xlabel="token changed", ylabel="logits seen at"),
        data=table,
        caption=f"Largest change of any logit of the {kind} when one token is another.",
        alt=f"Heat map of influence in the {kind}: " + ("empty above the diagonal" if kind == "decoder" else "filled everywhere"),
    )


def generator(config: Config, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(stats.torch_seed(config.seed, ID, purpose))


if __name__ == "__main__":
    experiment.main(Config, run)
