"""How many heads can be taken out of a trained model before it does its work worse? (Michel et al. 2019, arXiv:1905.10650)

Heads are silenced (their output set to zero, ξ_h = 0) one after the other, in an order chosen on some examples and measured on
others, with no further training. Two orders: *greedy* silences next the head whose loss grows least, all tried anew after every
one; *gradient* ranks once, by I_h = E_x |∂L(x)/∂ξ_h|, divided by the layer's norm (their section 4.1). Michel et al. could take
20 % of the heads out of a translation model and 40 % out of BERT without noticeable harm. A head that can go is not idle by
proof: another may do the same, and the share says how many are *jointly* dispensable.

Two models: one that learnt to copy random tokens that repeat (that of E08), judged by its accuracy on copied tokens, and the
shipped language model, judged by its accuracy on the next token of held-out Python modules. Controls: random orders; the
gradient order of an untrained model, for which the trained weights do not matter; and the untrained model itself, from which
every head can go, for it has nothing to lose. If every head were necessary, the first one out would cost more than a point.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp import experiment, figures, stats
from interp.heads import ablation
from interp.heads.ablation import Head
from interp.models import zoo
from interp.models.hooked import Model
from interp.report import Report
from interp.tasks.repeated import repeated_random
from interp.text.corpora import resolve

ID = "E04"
POINT = 0.01  # of accuracy, the harm that counts as none
MICHEL = "Michel et al. 2019, section 4: 20 % of a translation model's heads, 40 % of BERT's"


@dataclass(frozen=True, kw_only=True)
class Config:
    steps: int = zoo.Recipe.steps  # training of the copying model
    prompts: int = 64  # of repeated tokens, to measure on; half as many to choose on
    modules: int = 32  # held-out modules: a quarter to choose on, the others to measure
    length: int = 128  # tokens of each module
    furthest: int = 12  # heads taken out of the language model
    random_orders: int = 3
    seed: int = 0


QUICK = {"steps": 1000, "prompts": 32, "modules": 16, "length": 48, "furthest": 6, "random_orders": 2}


@dataclass(frozen=True)
class Examples:
    """Rows of tokens, and those among them whose prediction is asked."""

    tokens: Int[Tensor, "example pos"]
    asked: Bool[Tensor, "example pos"]


@dataclass(frozen=True)
class Subject:
    """A model, what it is asked, and how many heads are taken out at most."""

    name: str
    work: str
    model: Model
    untrained: Model
    choosing: Examples
    measuring: Examples
    furthest: int

    @property
    def heads(self) -> list[Head]:
        return list(np.ndindex(self.model.n_layers, self.model.n_heads))


def run(config: Config, report: Report) -> None:
    for subject in (copying(config), language(config)):
        experiment.source(f"model {subject.name}", subject.model.fingerprint)
        report_pruning(config, report, subject)


def copying(config: Config) -> Subject:
    """The model of E08, on the tokens that an earlier copy determines."""
    with experiment.stage("train the copying model"):
        model = zoo.train(zoo.Recipe(seed=config.seed, steps=config.steps, checkpoints=1)).model

    def examples(n: int, purpose: str) -> Examples:
        generator = stats.torch_generator(config.seed, ID, purpose)
        drawn = repeated_random(n, model.n_ctx, model.d_vocab, generator=generator)
        return Examples(drawn.tokens, drawn.is_copy)

    untrained = model.untrained(stats.torch_seed(config.seed, "untrained"))
    choosing, measuring = examples(config.prompts // 2, "choose heads"), examples(config.prompts, "measure heads")
    furthest = model.n_layers * model.n_heads
    return Subject("copying model", "copied tokens", model, untrained, choosing, measuring, furthest)


def language(config: Config) -> Subject:
    """The shipped model, on the first tokens of held-out modules; a module serves for choosing or for measuring."""
    model, corpus = Model.load("stdlib-4l"), resolve("stdlib:heldout")
    experiment.source(f"corpus {corpus.name}", corpus.revision)
    assert model.tokenizer is not None  # the shipped model has one
    encoded = (model.tokenizer.encode(document.text).ids for document in corpus)
    rows = [[model.tokenizer.bos_id, *ids[: config.length]] for ids in encoded if len(ids) >= config.length]
    order = stats.generator(config.seed, ID, "modules").permutation(len(rows))[: config.modules]
    tokens = torch.tensor([rows[row] for row in order])
    choosing, measuring = (
        Examples(part, torch.ones_like(part, dtype=torch.bool))
        for part in (tokens[: len(tokens) // 4], tokens[len(tokens) // 4 :])
    )
    untrained = model.untrained(stats.torch_seed(config.seed, "untrained"))
    return Subject("language model", "tokens of held-out modules", model, untrained, choosing, measuring, config.furthest)


# ---- orders ----


def greedy(subject: Subject) -> list[Head]:
    """Heads in the order in which the loss on the examples for choosing grows least, every head left tried after each."""
    gone: list[Head] = []
    while len(gone) < subject.furthest:
        left = [head for head in subject.heads if head not in gone]
        gone.append(min(left, key=lambda head: nats(subject.model, subject.choosing, [*gone, head]).mean()))
    return gone


def by_gradient(model: Model, on: Examples) -> list[Head]:
    """Heads by importance, least first: I_h = E_x |∂L(x)/∂ξ_h| with ξ_h = 1 in front of what h writes, over its layer's norm.

    ∂L/∂ξ_h = Σ z_h · ∂L/∂z_h, over positions and dimensions.
    """
    hooks = [f"blocks.{layer}.attn.hook_z" for layer in range(model.n_layers)]
    run = model.run(on.tokens, read=hooks, logits=True, grad=True)
    loss = row_means(-answers(run.logits.log_softmax(-1), on), on)
    slopes = torch.autograd.grad(loss.sum(), [run.activations[hook] for hook in hooks])
    found = [torch.einsum("bphd,bphd->bh", run.activations[hook], slope) for hook, slope in zip(hooks, slopes, strict=True)]
    importance = torch.stack([slope.detach().abs().mean(0) for slope in found])  # layer head
    importance = importance / importance.norm(dim=1, keepdim=True)
    ranked = importance.flatten().argsort(stable=True).tolist()
    return [divmod(place, model.n_heads) for place in ranked]


def random_order(subject: Subject, *purpose: str | int, seed: int) -> list[Head]:
    """Heads in an order of chance."""
    return [subject.heads[place] for place in stats.generator(seed, ID, *purpose).permutation(len(subject.heads))]


# ---- what is measured ----


def answers(values: Tensor, on: Examples) -> Tensor:
    """The value of every row's next token: [example pos-1]."""
    return values[:, :-1].gather(2, on.tokens[:, 1:, None])[..., 0]


def row_means(values: Tensor, on: Examples) -> Tensor:
    """Mean over the tokens of each row that are asked."""
    asked = on.asked[:, 1:].to(values)
    return (values * asked).sum(1) / asked.sum(1)


def nats(model: Model, on: Examples, heads: Iterable[Head]) -> np.ndarray:
    """Loss of every example without the heads."""
    return ablation.loss(model, on.tokens, edits=ablation.zero(model, heads), predicted=on.asked).values


def accuracy(model: Model, on: Examples, heads: Iterable[Head]) -> np.ndarray:
    """Share of every example's tokens that are predicted right without the heads."""
    edits, right = ablation.zero(model, heads), []
    for tokens, asked in zip(on.tokens.split(32), on.asked.split(32), strict=True):
        part = Examples(tokens, asked)
        guessed = model.run(tokens, edits=edits).logits[:, :-1].argmax(-1)
        right.append(row_means((guessed == tokens[:, 1:]).double(), part))
    return torch.cat(right).numpy()


def curve(subject: Subject, order: Sequence[Head]) -> np.ndarray:
    """Accuracy on the examples for measuring after 0, 1, 2 … heads of an order: [removed example]."""
    return np.stack([accuracy(subject.model, subject.measuring, order[:n]) for n in range(subject.furthest + 1)])


def removable(curve: np.ndarray, n_heads: int) -> float:
    """Share of the heads that go before the mean accuracy is a point lower than with all of them.

    curve: accuracy [removed example].
    """
    lost = curve.mean(1)[0] - curve.mean(1) >= POINT
    return float((lost.argmax() if lost.any() else len(lost)) - 1) / n_heads


def share(curve: np.ndarray, n_heads: int, *, seed: int) -> stats.Estimate:
    """`removable`, with its interval over examples."""

    return stats.resampled(curve.shape[1], lambda rows: removable(curve[:, rows], n_heads), seed=seed)


# ---- the report ----


def report_pruning(config: Config, report: Report, subject: Subject) -> None:
    """Some heads can go at almost no cost, in a well-chosen order and not in one of chance."""
    report.section(f"The {subject.name}: {len(subject.heads)} heads")
    with experiment.stage(f"prune the {subject.name}"):
        orders = {"greedy": greedy(subject), "gradient": by_gradient(subject.model, subject.choosing)}
        orders["gradient, untrained"] = by_gradient(subject.untrained, subject.choosing)
        curves = {name: curve(subject, order) for name, order in orders.items()}
        chance = [curve(subject, random_order(subject, "order", draw, seed=config.seed)) for draw in range(config.random_orders)]
    slug, n_heads = subject.name.split()[0], len(subject.heads)
    for name in ("greedy", "gradient"):
        report.claim(
            f"{slug}-{name}",
            f"{subject.name}, {name} order: share of the heads that go at less than a point of accuracy on {subject.work}",
            share(curves[name], n_heads, seed=config.seed),
            at_least=0.2,
            source=MICHEL,
            control=float(np.mean([removable(one, n_heads) for one in chance])),
            control_text="random orders, on average",
        )
    curves["random, mean of orders"] = np.mean(chance, axis=0)
    report_curves(report, subject, curves, seed=config.seed)
    report_orders(report, subject, orders)


def report_curves(report: Report, subject: Subject, curves: dict[str, np.ndarray], *, seed: int) -> None:
    """Accuracy lost over heads removed, for every order."""
    slug, rows = subject.name.split()[0], []
    for name, values in curves.items():
        for removed, row in enumerate(values):
            lost = stats.bootstrap(100 * (values[0] - row), resamples=500, seed=seed)
            rows.append({"order": name, "removed": removed, "accuracy": float(row.mean())} | lost.cells("lost"))
    table = pd.DataFrame(rows)
    whole = 100 * curves["greedy"][0].mean()
    report.figure(
        f"{slug}-pruned",
        figures.lines(
            table,
            "removed",
            "lost",
            by="order",
            low="low",
            high="high",
            xlabel="heads removed",
            ylabel="points of accuracy lost",
            title=f"The {subject.name}, pruned",
            xlim=(-0.5, 1.6 * subject.furthest),  # room for the legend
        ),
        data=table,
        caption=f"What is lost of {whole:.1f} % accuracy on {subject.work} as {len(subject.heads)} heads are silenced one after "
        "the other: mean and 95 % interval over examples that chose no order. Heads count as dispensable up to the first loss "
        "of a point. 'gradient, untrained': the order that an untrained model's gradients give.",
        alt="Little is lost with the first heads of the greedy order, and more with the first heads of random ones",
    )


def report_orders(report: Report, subject: Subject, orders: dict[str, list[Head]]) -> None:
    """Which head goes when, what each costs alone, and what the untrained model has to lose."""

    def ask(model: Model, heads: Sequence[Head]) -> float:
        return float(accuracy(model, subject.measuring, heads).mean())

    whole = ask(subject.model, [])
    first = orders["greedy"] + [head for head in subject.heads if head not in orders["greedy"]]
    rows = [
        {
            "head": f"{head[0]}.{head[1]}",
            "greedy place": orders["greedy"].index(head) + 1 if head in orders["greedy"] else None,
            "gradient place": orders["gradient"].index(head) + 1,
            "cost alone, points": round(100 * (whole - ask(subject.model, [head])), 2),
        }
        for head in first
    ]
    report.table(
        f"{subject.name.split()[0]}-orders",
        pd.DataFrame(rows).convert_dtypes(),
        caption="The place of each head in both orders, and what it costs to silence it alone.",
    )
    typical = np.median([row["cost alone, points"] for row in rows])
    own, without = (100 * ask(subject.untrained, heads) for heads in ([], subject.heads))
    report.text(
        f"Silenced alone, a head of the {subject.name} costs {typical:.1f} points in the median; costs of heads that do "
        f"different work add up. The same model untrained is right on {own:.1f} % of the tokens with all heads and on "
        f"{without:.1f} % with none: every head of it can go, so the share tells something only where there is accuracy to lose."
    )


if __name__ == "__main__":
    experiment.main(Config, run)
