"""What do positional encodings let a head do, and which of them reach past the rows it was trained on?

Sinusoids (Vaswani et al. 2017, arXiv:1706.03762, §3.5) and rotary positions (Su et al. 2021, arXiv:2104.09864) turn a step of k
tokens into one and the same rotation wherever it is taken, so a head written down by hand looks one token back at every length.
Learned vectors have rows, and rows that no training token stood in stay as they were drawn. Models with one head learn to repeat
the token before, on rows of 32; they are tested on rows of 64. A learned table that must average over a window becomes smooth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from interp import experiment, figures, stats
from interp.heads.positions import beyond_distance, by_distance, power_by_frequency, shift_errors
from interp.models.batches import Batch
from interp.models.closed_forms import previous_token_head, with_positions
from interp.models.hooked import Model
from interp.models.positions import shift, sinusoids
from interp.models.training import Learner, fit, linear_decay
from interp.models.transformer import Transformer, TransformerConfig, transformer
from interp.report import Report

ID = "E05"


@dataclass(frozen=True, kw_only=True)
class Config:
    trained: int = 32  # tokens in a row, in training
    tested: int = 64  # … in testing
    table: int = 128  # positions over which the shift of sinusoids is held against the formula
    lengths: tuple[int, ...] = (4, 32, 128, 512, 2048)  # rows that the hand-built heads get
    window: int = 8  # tokens that the averaging model must average over
    steps: int = 400  # training of each model
    rows: int = 200  # rows in testing
    seed: int = 0


QUICK = {"lengths": (4, 32, 512), "steps": 200, "rows": 100}

Kind = Literal["sinusoidal", "learned", "rotary", "none"]
Form = Literal["sinusoidal", "rotary"]
KINDS: tuple[Kind, ...] = ("sinusoidal", "learned", "rotary", "none")
VASWANI, SU, TARGET = "Vaswani et al. 2017, §3.5", "Su et al. 2021, §3.4.1", "target of this report"
SYMBOLS, WIDTH = 16, 64
SCORES = "blocks.0.attn.hook_attn_scores"


def run(config: Config, report: Report) -> None:
    report_shifts(config, report)
    report_hand_built(config, report)
    with experiment.stage("train one model for every kind of positions"):
        models: dict[Kind, Model] = {kind: train(config, kind, previous_token) for kind in KINDS}
    report_lengths(config, report, models)
    report_unused_rows(config, report)
    report_distance(config, report, models)
    report_shipped(config, report, Model.load("stdlib-4l"))
    with experiment.stage("train a model that averages over a window"):
        averaging = train(config, "learned", window_mean)
    report_waves(config, report, models["learned"], averaging)
    report_orders(config, report)
    report.text(
        "What would have shown this false: a shift of the sinusoids that depends on the position; a hand-built head that misses; "
        "scores under rotary positions that tell more than the distance, where all tokens are alike; a gradient in a row of the "
        "table that no token stood in; learned positions that go on past it."
    )


# ---- tasks and models ----

Draw = Callable[[Config, int, int, torch.Generator], Batch]
"""(config, rows, length, generator) -> rows and what is asked of them."""


def previous_token(config: Config, rows: int, length: int, generator: torch.Generator) -> Batch:
    """Every position is asked for the token before it; the first is asked for nothing."""
    tokens = torch.randint(SYMBOLS, (rows, length), generator=generator)
    counted = torch.ones_like(tokens, dtype=torch.bool)
    counted[:, 0] = False
    return Batch(tokens=tokens, targets=tokens.roll(1, 1), counted=counted)


def window_mean(config: Config, rows: int, length: int, generator: torch.Generator) -> Batch:
    """Every position is asked how frequent each token is among the last `window` up to itself."""
    tokens = torch.randint(SYMBOLS, (rows, length), generator=generator)
    counts = F.one_hot(tokens, SYMBOLS).float().cumsum(1)
    counts[:, config.window :] -= counts[:, : -config.window].clone()
    return Batch(tokens=tokens, targets=counts / counts.sum(-1, keepdim=True))


def fresh(config: Config, kind: Kind, *, sees: Literal["decoder", "encoder"] = "decoder") -> Transformer:
    """An untrained model with one head; its learned table has a row for every position of the longer rows."""
    architecture = TransformerConfig(
        kind=sees, positions=kind, d_model=WIDTH, n_heads=1, n_layers=1, d_mlp=WIDTH, d_vocab=SYMBOLS, n_ctx=config.tested
    )
    made = transformer(architecture, stats.torch_seed(config.seed, ID, "weights"))
    assert isinstance(made, Transformer)
    return made


def train(config: Config, kind: Kind, draw: Draw) -> Model:
    """A model trained on rows of `trained` tokens."""
    generator = drawing(config, draw.__name__)

    def batches() -> Iterator[Batch]:
        for _ in range(config.steps):
            yield draw(config, 64, config.trained, generator)

    learner = Learner(fresh(config, kind), schedule=linear_decay(3e-3, 50, config.steps))
    fit(learner, batches())
    return Model.wrap(learner.module, name=f"{kind} positions")


def drawing(config: Config, purpose: str) -> torch.Generator:
    return stats.torch_generator(config.seed, ID, purpose)


# ---- closed forms ----


def report_shifts(config: Config, report: Report) -> None:
    report.section("A step is a rotation")
    table = sinusoids(config.table, WIDTH)
    norm = table.norm(dim=1).mean()
    random = F.normalize(torch.randn(table.shape, generator=drawing(config, "random table")), dim=1) * norm
    errors = {"sinusoids": shift_errors(table, shift), "random vectors": shift_errors(random, shift)}
    report.claim(
        "shift",
        f"largest |PE(p + k) − M_k PE(p)| over all p and k in a table of {config.table} positions",
        float(errors["sinusoids"].values.max()),
        at_most=1e-5,
        source=VASWANI,
        control=float(errors["random vectors"].values.min()),
        control_text="random vectors of the same length, at their best k",
    )
    near = sinusoids(config.trained, WIDTH)
    products = (near @ near.T / norm**2).numpy()
    places = np.indices(products.shape).reshape(2, -1)
    cells = pd.DataFrame({"position p": places[0], "position q": places[1], "cosine": products.ravel()})
    report.figure(
        "products",
        figures.heatmap(cells, "position q", "position p", "cosine", title="PE(p)·PE(q) is a function of p − q"),
        data=cells,
        caption="Cosines between the sinusoids of positions: the same along every diagonal, falling off from the main one.",
        alt="A heatmap with a bright diagonal and stripes parallel to it.",
    )


def report_hand_built(config: Config, report: Report) -> None:
    """Heads that were never trained look one token back, on rows of any length."""
    report.section("A head written down by hand")
    longest = max(config.lengths)
    table = sinusoids(longest, WIDTH)
    shuffled = table[torch.randperm(longest, generator=drawing(config, "shuffled table"))]
    heads: dict[str, tuple[Form, Tensor]] = {
        "sinusoidal": ("sinusoidal", table),
        "rotary": ("rotary", table),
        "sinusoids in another order": ("sinusoidal", shuffled),
    }
    right = {
        name: [hand_built_accuracy(config, kind, placed, length) for length in config.lengths]
        for name, (kind, placed) in heads.items()
    }
    for kind, source in (("sinusoidal", VASWANI), ("rotary", SU)):
        report.claim(
            f"hand-built-{kind}",
            f"{kind}: share of tokens before that the head writes, on the worst of {', '.join(map(str, config.lengths))} tokens",
            min(right[kind]),
            at_least=1.0,
            source=source,
            control=min(right["sinusoids in another order"]),
            control_text="the same head reading the sinusoids in another order",
        )
    report.table(
        "hand-built",
        pd.DataFrame({"tokens in a row": config.lengths} | right),
        caption="Share of positions where the head writes the token before.",
    )


def hand_built_accuracy(config: Config, kind: Form, table: Tensor, length: int) -> float:
    head = previous_token_head(kind, SYMBOLS, WIDTH)
    tokens = torch.randint(SYMBOLS, (2, length), generator=drawing(config, "hand-built"))
    written = head(with_positions(tokens, SYMBOLS, table))[:, 1:, :SYMBOLS].argmax(-1)
    return float((written == tokens[:, :-1]).double().mean())


# ---- trained models ----


def report_lengths(config: Config, report: Report, models: dict[Kind, Model]) -> None:
    """Who is right past the last position that training had."""
    report.section("Past the length of training")
    test = previous_token(config, config.rows, config.tested, drawing(config, "test"))
    right = {kind: (model.run(test.tokens).logits.argmax(-1) == test.targets).double() for kind, model in models.items()}
    past = {kind: stats.bootstrap(each[:, config.trained :].mean(1).numpy(), seed=config.seed) for kind, each in right.items()}
    text = (
        f"positions {config.trained} to {config.tested - 1} where the token before is given, after training on {config.trained}"
    )
    report.claim(
        "rotary-extrapolates",
        f"rotary: share of {text}",
        past["rotary"],
        at_least=0.95,
        source=TARGET,
        control=past["learned"],
        control_text="learned positions",
    )
    report.claim(
        "learned-does-not",
        f"learned: share of {text}",
        past["learned"],
        at_most=0.25,
        source=f"{TARGET}; guessing reaches {1 / SYMBOLS:.2f}",
        control=past["rotary"],
        control_text="rotary positions",
    )
    within = {kind: each[:, 1 : config.trained].mean(1).numpy() for kind, each in right.items()}
    report.claim(
        "learned-within",
        f"learned: the same for positions 1 to {config.trained - 1}",
        stats.bootstrap(within["learned"], seed=config.seed),
        at_least=0.95,
        source=TARGET,
        control=stats.bootstrap(within["none"], seed=config.seed),
        control_text="no positions",
    )
    rows = [
        {"position": place, "right": float(each[:, place].mean()), "positions": kind}
        for kind, each in right.items()
        for place in range(1, config.tested)
    ]
    table = pd.DataFrame(rows)
    title = f"Trained on {config.trained} tokens, tested on {config.tested}"
    report.figure(
        "lengths",
        figures.lines(table, "position", "right", by="positions", ylabel="share right", ylim=(0, 1.05), title=title),
        data=table,
        caption="Share of rows where a position is given the token before it.",
        alt=f"All but the model without positions are right up to position {config.trained - 1}; past it only rotary ones are.",
    )
    report.text(
        "Sinusoids *could* go on: a head that is right at every length exists, and stands above. Training finds another one that "
        "agrees with it on the rows it saw. What a form allows and what training finds are two questions."
    )


def report_unused_rows(config: Config, report: Report) -> None:
    """The gradient of the learned table, row by row, on rows of the training length."""
    drawn = previous_token(config, config.rows, config.trained, drawing(config, "gradients"))
    sizes = {length: gradient_sizes(config, drawn, length) for length in (config.trained, config.tested)}
    short, long = sizes[config.trained], sizes[config.tested]
    report.claim(
        "unused-rows",
        f"largest gradient of the learned vectors {config.trained} to {config.tested - 1}, on rows of {config.trained} tokens",
        float(short[config.trained :].max()),
        equals=0.0,
        source="no token stands there",
        control=float(long[config.trained :].max()),
        control_text=f"on rows of {config.tested} tokens",
    )
    rows = [
        {"position": place, "gradient": float(size), "rows of": f"{length} tokens"}
        for length, each in sizes.items()
        for place, size in enumerate(each)
    ]
    table = pd.DataFrame(rows)
    title = "Vectors that no token stands on get no gradient"
    report.figure(
        "gradients",
        figures.lines(table, "position", "gradient", by="rows of", ylabel="largest |gradient|", title=title),
        data=table,
        caption="Largest gradient of the loss in each learned vector, before training, on rows of two lengths.",
        alt=f"On rows of {config.trained} tokens the gradient is zero from position {config.trained} on.",
    )


def gradient_sizes(config: Config, drawn: Batch, length: int) -> Tensor:
    """Largest |gradient| of each row of the learned table, [pos], when the rows of tokens are repeated up to `length`."""
    module = fresh(config, "learned")
    tokens = drawn.tokens.repeat(1, -(-length // drawn.tokens.shape[1]))[:, :length]
    F.cross_entropy(module(tokens)[:, 1:].transpose(1, 2), tokens[:, :-1]).backward()
    assert module.pos_embed is not None and module.pos_embed.weight.grad is not None
    return module.pos_embed.weight.grad.abs().amax(1)


def report_distance(config: Config, report: Report, models: dict[Kind, Model]) -> None:
    """Scores of rows in which every token is the same, so that positions are all that tells keys apart."""
    report.section("Scores and distance")
    alike = torch.arange(SYMBOLS)[:, None].expand(-1, config.tested)
    scores = {kind: models[kind].run(alike, read=[SCORES]).activations[SCORES][:, 0] for kind in KINDS[:3]}
    beyond = {kind: beyond_distance(each).max().item() for kind, each in scores.items()}
    report.claim(
        "distance-alone",
        "rotary: largest difference between two scores at one distance, as a share of the range of scores",
        beyond["rotary"],
        at_most=1e-4,
        source=SU,
        control=beyond["sinusoidal"],
        control_text="trained with sinusoids",
    )
    rows = [
        {"distance": distance, "score": float(value), "positions": kind}
        for kind, each in scores.items()
        for distance, value in enumerate(by_distance(each.double()).mean(0)[: config.trained])
    ]
    table = pd.DataFrame(rows)
    report.figure(
        "distance",
        figures.lines(table, "distance", "score", by="positions", xlabel="tokens back", title="Near tokens score highest"),
        data=table,
        caption="Mean attention score of a key against how far it lies behind its query, in rows of one repeated token.",
        alt="Each curve is highest at a distance of no token or one, and lower and uneven behind that.",
    )
    report.text(
        "A head may look at its own token too: which that is, the rest of the model knows, and can take out again. A mean over a "
        "distance says nothing of its spread: for learned vectors and for sinusoids, two pairs at one distance score differently."
    )


def report_shipped(config: Config, report: Report, model: Model) -> None:
    """The same in a real language model with rotary positions: what distance alone says to each of its heads."""
    report.section("Distance in the heads of a language model")
    experiment.source(f"model {model.name}", model.fingerprint)
    drawn = torch.randint(model.d_vocab, (SYMBOLS, config.tested), generator=drawing(config, "tokens of the shipped model"))
    alike, mixed = (own_scores(model, tokens) for tokens in (drawn[:, :1].expand_as(drawn), drawn))
    report.claim(
        "distance-shipped",
        f"{model.name}, rows of one repeated token: the same share, the most over its {alike.shape[1] * alike.shape[2]} heads",
        beyond_distance(alike).max().item(),
        at_most=1e-4,
        source=SU,
        control=beyond_distance(mixed).min().item(),
        control_text="rows of random tokens, the least",
    )
    profile = by_distance(alike).mean(0)[..., : config.trained // 2]
    layer, head, distance = np.indices(profile.shape).reshape(3, -1)
    columns = {"layer": layer, "head": head, "tokens back": distance, "score": profile.numpy().ravel()}
    table, looking_back = pd.DataFrame(columns), int(profile[..., 1].amax(1).argmax())
    report.figure(
        "shipped",
        figures.lines(
            table.query(f"layer == {looking_back}"), "tokens back", "score", by="head", title=f"Heads of layer {looking_back}"
        ),
        data=table,
        caption="Mean score of a key by how far back it lies, over that of the query's own token, in rows of one repeated token: "
        "the layer that looks one token back the most. The data has all layers.",
        alt="Two heads have their highest scores one token back and far lower ones behind it; the others change slowly.",
    )


def own_scores(model: Model, tokens: Tensor) -> Tensor:
    """Scores over that of the query's own token, ln p_ij − ln p_ii, of every head: [row layer head query key]."""
    hooks = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.n_layers)]
    read = model.run(tokens, read=hooks).activations
    log = torch.stack([read[hook] for hook in hooks], 1).double().log()
    return log - log.diagonal(dim1=-2, dim2=-1)[..., None]


def report_waves(config: Config, report: Report, copying: Model, averaging: Model) -> None:
    """Fourier content of learned tables: as smooth as what a head must do."""
    report.section("Waves in a learned table")
    cut = config.trained // config.window
    tables = {
        f"averages over {config.window} tokens": averaging.W_pos[: config.trained],
        "gives the token before": copying.W_pos[: config.trained],
        "untrained": fresh(config, "learned").W_pos[: config.trained].detach(),
    }
    slow = {name: slow_share(table, cut, seed=config.seed) for name, table in tables.items()}
    names = list(tables)
    report.claim(
        "smooth",
        f"share of a table's power at periods of {config.window} tokens or longer, in a model that averages over {config.window}",
        slow[names[0]],
        at_least=0.35,
        source=TARGET,
        control=slow[names[1]],
        control_text="a model that gives the token before",
    )
    parts = [power_by_frequency(table).table().assign(model=name) for name, table in tables.items()]
    found = pd.concat(parts, ignore_index=True)
    report.figure(
        "waves",
        figures.lines(found, "frequency", "share", by="model", xlabel=f"turns in {config.trained} positions", ylim=(0, None)),
        data=found,
        caption="Share of a learned table's power at each frequency. To look at one token, all frequencies are needed alike.",
        alt="The averaging model's table has its power at low frequencies; the other two are flat.",
    )


def slow_share(table: Tensor, cut: int, *, seed: int) -> stats.Estimate:
    """Share of power in the first `cut` frequencies, with its interval over the dimensions of the table."""
    columns = [power_by_frequency(column[:, None]).values for column in table.T]
    power = table.double().var(0, correction=0).numpy()
    low = np.array([column[:cut].sum() for column in columns])
    return stats.ratio(low * power, power, seed=seed)


def report_orders(config: Config, report: Report) -> None:
    """Without positions (and without a mask) a row is a set."""
    report.section("Without positions")
    generator = drawing(config, "orders")
    tokens = torch.randint(SYMBOLS, (config.rows, config.trained), generator=generator)
    order = torch.randperm(config.trained, generator=generator)
    moved = {}
    for kind in ("none", "sinusoidal"):
        model = Model.wrap(fresh(config, kind, sees="encoder"))
        before, after = model.run(tokens).logits, model.run(tokens[:, order]).logits
        moved[kind] = float((after - before[:, order]).abs().max() / before.abs().max())
    report.claim(
        "equivariant",
        "an encoder without positions: largest change of a logit in a row put in another order, over the largest logit",
        moved["none"],
        at_most=1e-5,
        source="attention and MLPs treat positions alike",
        control=moved["sinusoidal"],
        control_text="with sinusoids",
    )
    report.text(
        "An encoder without positions gives every token the same logits in whatever order the row comes: it sees a bag. The "
        "decoder without positions above does better early in a row, where the mask leaves few tokens to choose from."
    )


if __name__ == "__main__":
    experiment.main(Config, run)
