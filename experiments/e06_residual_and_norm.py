"""What do skip connections and layer norm do for a deep Transformer?

Attention by itself makes tokens alike, layer by layer and doubly exponentially (Dong et al. 2021, arXiv:2103.03404): what is left
of their differences is cubed in every layer. Skips stop that. The norm decides how gradients depend on depth: behind every sum
the last layer's stay as large as they were, before every sublayer they fall as L^(−½) (Xiong et al. 2020, arXiv:2002.04745).
With the norm before, the last stream is a plain sum, so a logit is too, and layer norm itself is a projection and a sphere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp import experiment, figures, stats
from interp.heads.direct import Question, by_component
from interp.models.hooked import Edit, Model
from interp.models.multihead import Attention
from interp.models.parts import Mlp
from interp.models.scores import ScaledDot
from interp.models.transformer import Transformer, TransformerConfig, transformer
from interp.report import Report

ID = "E06"


@dataclass(frozen=True, kw_only=True)
class Config:
    exact_draws: int = 16  # stacks of pure attention, in exact arithmetic
    exact_layers: int = 6
    digits: int = 400  # that arithmetic keeps; a difference of 1e-300 is not rounding there
    stacks: int = 12  # of every kind, in double precision
    layers: int = 16  # of those
    depths: tuple[int, ...] = (2, 4, 8, 16, 32)  # L, for gradients
    models: int = 32  # fresh ones at each depth
    d_model: int = 64
    texts: int = 32  # rows whose logits are taken apart
    seed: int = 0


QUICK = {"exact_draws": 4, "stacks": 4, "models": 16, "texts": 16}

DONG, XIONG, LENS = "Dong et al. 2021, §2", "Xiong et al. 2020, theorem 1", "Elhage et al. 2021, the residual stream"
KINDS = ("attention alone", "with MLPs", "with skips", "with both")
PARTS = ((False, False), (False, True), (True, False), (True, True))  # skips, MLPs


def run(config: Config, report: Report) -> None:
    report_collapse(config, report)
    report_skips(config, report)
    report_gradients(config, report)
    report_sums(config, report, Model.load("stdlib-4l"))
    report_geometry(config, report)
    report.text(
        "What would have shown this false: pure attention that forgets differences at a steady rate (linear in the logarithm); "
        "stacks with skips that collapse; a last layer whose gradient depends on depth otherwise; a logit that is not the sum of "
        "its parts."
    )


# ---- tokens becoming alike ----


def difference(x: Any) -> Any:
    """‖x − 1 mean(x)ᵀ‖ of tokens [pos d], floats or decimals: 0 when all are alike."""
    return size(x - x.sum(0) / len(x))


def size(x: Any) -> Any:
    """‖x‖ = √(‖x‖₁ ‖x‖_∞), the norm of Dong et al. 2021, §2.1."""
    columns, rows = np.abs(x).sum(0).max(), np.abs(x).sum(1).max()
    return (columns * rows) ** (Decimal("0.5") if isinstance(rows, Decimal) else 0.5)


def exact_digits(config: Config, draw: int, *, fixed: bool) -> np.ndarray:
    """−log10 of difference over size after 0 … exact_layers layers of one head with fresh weights, [layer], in decimals.

    fixed: every pattern is that of some unrelated tokens, so attention mixes but does not respond to what it mixes.
    """
    rng = stats.generator(config.seed, ID, "exact", draw)
    tokens, width = 5, 8
    exponential = np.frompyfunc(Decimal.exp, 1, 1)
    with localcontext() as context:
        context.prec = config.digits
        x = decimals(rng.standard_normal((tokens, width)))
        found = [difference(x) / size(x)]
        for _ in range(config.exact_layers):
            q, k, v = (decimals(rng.standard_normal((width, width)) / width**0.5) for _ in range(3))
            asked = decimals(rng.standard_normal((tokens, width))) if fixed else x
            pattern: Any = exponential((asked @ q) @ (asked @ k).T / Decimal(width).sqrt())
            x = pattern / pattern.sum(1, keepdims=True) @ (x @ v)
            found.append(difference(x) / size(x))
        return np.array([-float(Decimal(each).log10()) for each in found])


def decimals(values: np.ndarray) -> Any:
    return np.frompyfunc(Decimal, 1, 1)(values.astype(object))


def growth(digits: np.ndarray) -> np.ndarray:
    """Factor by which digits [draw layer] grow per layer, over the last two layers: 3 if differences are cubed. [draw]"""
    return np.sqrt(digits[:, -1] / digits[:, -3])


def report_collapse(config: Config, report: Report) -> None:
    report.section("Attention alone makes tokens alike")
    names = {"attention": False, "patterns of other tokens": True}
    with experiment.stage("pure attention in exact arithmetic"):
        digits = {
            name: np.stack([exact_digits(config, draw, fixed=fixed) for draw in range(config.exact_draws)])
            for name, fixed in names.items()
        }
    rates = {name: stats.bootstrap(growth(each), seed=config.seed) for name, each in digits.items()}
    report.claim(
        "doubly-exponential",
        "factor by which the number of digits that tokens agree to grows per layer",
        rates["attention"],
        between=(2.7, 3.3),
        source=f"{DONG}: differences are cubed",
        control=rates["patterns of other tokens"],
        control_text="patterns that do not depend on the tokens: linear in the logarithm",
    )
    rows = [
        {"layer": layer, "digits": float(np.median(each[:, layer])), "mixed by": name}
        for name, each in digits.items()
        for layer in range(1, config.exact_layers + 1)
    ]
    table = pd.DataFrame(rows)
    report.figure(
        "collapse",
        figures.lines(
            table,
            "layer",
            "digits",
            by="mixed by",
            yscale="log",
            ylabel="digits that tokens agree to",
            title="Straight on this axis is doubly exponential",
        ),
        data=table,
        caption="−log10 of the differences between tokens, relative to their size, after each layer of pure attention: medians.",
        alt="Attention's curve is straight on a logarithmic axis of digits; that of fixed patterns flattens.",
    )


class Stack(nn.Module):
    """Layers of attention, with or without skips and MLPs, and without norms."""

    def __init__(self, width: int, layers: int, *, skips: bool, mlps: bool, generator: torch.Generator) -> None:
        super().__init__()
        sizes = {"causal": False, "rotary": False, "mixer": None, "generator": generator}
        attentions = [Attention(width, 4, 4, width // 4, score=ScaledDot(), **sizes) for _ in range(layers)]
        self.sublayers = nn.ModuleList(
            part
            for each in attentions
            for part in ((each, Mlp(width, 4 * width, act_fn="relu", generator=generator)) if mlps else (each,))
        )
        self.skips, self.per_layer = skips, 2 if mlps else 1

    def forward(self, x: Tensor) -> Iterator[Tensor]:
        """The stream after every layer."""
        for place, part in enumerate(self.sublayers):
            x = part(x) + x if self.skips else part(x)
            if (place + 1) % self.per_layer == 0:
                yield x


def report_skips(config: Config, report: Report) -> None:
    """The same weights with and without skips and MLPs, in double precision."""
    report.section("Skips keep them apart")
    found = {kind: sizes(config, skips=skips, mlps=mlps) for kind, (skips, mlps) in zip(KINDS, PARTS, strict=True)}
    kept = {kind: stats.bootstrap(each[:, -1, 0] / each[:, 0, 0], seed=config.seed) for kind, each in found.items()}
    report.claim(
        "skips",
        f"differences between tokens after {config.layers} layers of attention with skips, over those before",
        kept["with skips"],
        at_least=1.0,
        source="Dong et al. 2021, on skip connections",
        control=kept["attention alone"],
        control_text="without skips",
    )
    relative = {kind: np.median(each[..., 0] / each[..., 1], axis=0) for kind, each in found.items()}
    rows = [
        {"layer": layer, "difference": max(float(value), 1e-17), "stack": kind}
        for kind, each in relative.items()
        for layer, value in enumerate(each)
    ]
    table = pd.DataFrame(rows)
    powers = {"yscale": "log", "yticks": [1e-16, 1e-12, 1e-8, 1e-4, 1], "yticklabels": ["1e−16", "1e−12", "1e−8", "1e−4", "1"]}
    title, label = "What is left of the differences between tokens", "difference / size"
    report.figure(
        "skips",
        figures.lines(table, "layer", "difference", by="stack", title=title, ylabel=label, **powers),
        data=table,
        caption="Differences between tokens, relative to their size, after each layer: medians. Double precision ends at 1e−16.",
        alt="Attention alone falls to 1e-16 within a few layers; the stacks with skips fall slowly.",
    )
    report.text(
        "Skips carry the differences past every layer, so in absolute terms they never shrink. Relative to the stream they do, "
        "slowly and steadily, because what tokens have in common grows faster. MLPs without skips do not stop the collapse."
    )


def sizes(config: Config, *, skips: bool, mlps: bool) -> np.ndarray:
    """Difference and size of the tokens before the first and after every layer of fresh stacks, [stack layer 2]."""
    stacks = []
    for draw in range(config.stacks):
        generator = drawing(config, "stacks", draw)
        x = torch.randn(1, 16, config.d_model, generator=generator, dtype=torch.float64)
        stack = Stack(config.d_model, config.layers, skips=skips, mlps=mlps, generator=generator).double()
        with torch.no_grad():
            streams = [each[0].numpy() for each in (x, *stack(x))]
        stacks.append([[float(difference(each)), float(size(each))] for each in streams])
    return np.array(stacks)


# ---- gradients over depth ----


def report_gradients(config: Config, report: Report) -> None:
    """The gradient of the last MLP's output matrix at initialisation, over the depth of the model."""
    report.section("Where the norm stands")
    with experiment.stage("gradients of fresh models"):
        norms = {
            norm: np.array([gradient_norms(config, norm, draw) for draw in range(config.models)]) for norm in ("pre", "post")
        }
    slopes = {norm: log_slope(each, config.depths, seed=config.seed) for norm, each in norms.items()}
    for norm, low, high, other in (("pre", -0.6, -0.4, "post"), ("post", -0.1, 0.1, "pre")):
        report.claim(
            f"gradient-{norm}",
            f"{norm}-norm: slope of the logarithm of the last layer's gradient over log L",
            slopes[norm],
            between=(low, high),
            source=XIONG,
            control=slopes[other],
            control_text=f"{other}-norm",
        )
    rows = []
    for norm, each in norms.items():
        for depth, column in zip(config.depths, each.T, strict=True):
            e = stats.bootstrap(column, seed=config.seed)
            value, low, high = np.log2([e.value, e.low, e.high])
            rows.append({"L": depth, "log₂ L": np.log2(depth), "log₂ gradient": value, "low": low, "high": high, "norm": norm})
    table = pd.DataFrame(rows)
    report.figure(
        "gradients",
        figures.lines(
            table,
            "log₂ L",
            "log₂ gradient",
            by="norm",
            low="low",
            high="high",
            xlabel="log₂ L, layers",
            ylabel="log₂ ‖∂loss/∂W_out‖",
            xticks=np.log2(config.depths),
            title="The last layer's gradient before training",
        ),
        data=table,
        caption="Mean Frobenius norm of the gradient of the last MLP's output matrix, 95 % intervals over fresh models.",
        alt="A falling line for norms before sublayers and a flat one for norms after them.",
    )
    report.text(
        "Large gradients in the last layers are why the original Transformer needs its learning rate warmed up. "
        "A norm that stands before the sublayers reads a stream that grows as √L, and divides by that."
    )


def gradient_norms(config: Config, norm: str, draw: int) -> list[float]:
    """‖∂loss/∂W_out‖ of the last layer at every depth, for random tokens and random targets."""
    width, found = config.d_model, []
    sizes = {"kind": "decoder", "d_model": width, "n_heads": 4, "d_mlp": width, "d_vocab": width, "n_ctx": 16, "norm": norm}
    for depth in config.depths:
        module = transformer(TransformerConfig.of(sizes | {"n_layers": depth}), stats.torch_seed(config.seed, ID, "model", draw))
        assert isinstance(module, Transformer)
        tokens, targets = torch.randint(width, (2, 8, 16), generator=drawing(config, "tokens", draw))
        loss = F.cross_entropy(module(tokens).transpose(1, 2), targets)
        (gradient,) = torch.autograd.grad(loss, [module.get_parameter(f"blocks.{depth - 1}.mlp.out.weight")])
        found.append(float(gradient.norm()))
    return found


def log_slope(values: np.ndarray, depths: Sequence[int], *, seed: int) -> stats.Estimate:
    """Least-squares slope of log value [draw depth] on log depth, with its interval over draws."""
    x = np.log(np.asarray(depths, dtype=float))
    x -= x.mean()
    return stats.bootstrap(np.log(values) @ x / (x @ x), seed=seed)


# ---- sums and spheres ----


def report_sums(config: Config, report: Report, model: Model) -> None:
    """A logit is the sum of what all parts wrote, read through the last norm."""
    report.section("A logit is a sum")
    tokens = torch.randint(model.d_vocab, (config.texts, 32), generator=drawing(config, "texts", 0))
    logits = model.run(tokens).logits[:, -1]
    answers = logits.argmax(-1)
    parts = by_component(model, tokens, Question(answers))
    wanted = logits.gather(1, answers[:, None])[:, 0].double().cpu().numpy()
    totals = parts.values.sum(0)
    without = totals - parts.sel(component=f"{model.n_layers - 1}.mlp").values
    report.claim(
        "sum",
        f"largest |logit − sum of its parts| over the logit, {config.texts} rows of the shipped model",
        float(np.abs(totals / wanted - 1).max()),
        at_most=1e-5,
        source=LENS,
        control=float(np.abs(without / wanted - 1).min()),
        control_text="the last MLP left out, at its least",
    )
    estimates = {name: parts.sel(component=name).estimate(seed=config.seed) for name in parts.coords["component"]}
    rows = [{"part": name, "nats": e.value, "low": e.low, "high": e.high} for name, e in estimates.items()]
    report.figure(
        "parts",
        figures.bars(pd.DataFrame(rows), "part", "nats", low="low", high="high", title="What parts write into the top logit"),
        data=rows,
        caption="Mean contribution of every part to the largest logit, rows of random tokens, with 95 % intervals.",
        alt="Bars of contributions; the last layers write most.",
    )


def report_geometry(config: Config, report: Report) -> None:
    """Layer norm before gain and bias: onto the hyperplane at right angles to 1, then onto the sphere of radius √d."""
    report.section("What layer norm is")
    generator = drawing(config, "geometry", 0)
    architecture = {"kind": "decoder", "d_model": config.d_model, "n_heads": 4, "n_layers": 1, "d_mlp": 8, "d_vocab": 50}
    module = transformer(TransformerConfig.of(architecture | {"n_ctx": 32}), stats.torch_seed(config.seed, ID, "geometry"))
    model = Model.wrap(module)
    tokens = torch.randint(50, (config.texts, 32), generator=generator)
    stream = 3 + 5 * torch.randn(config.texts, 32, config.d_model, generator=generator)
    put = [Edit("blocks.0.hook_resid_pre", lambda _: stream)]
    name = "blocks.0.ln1.hook_normalized"
    normed = model.run(tokens, read=[name], edits=put).activations[name].double()
    ones = torch.full((config.d_model,), config.d_model**-0.5, dtype=torch.float64)
    measures = {
        "hyperplane": ("largest |cosine| with the vector of ones", lambda x: (F.normalize(x, dim=-1) @ ones).abs().max()),
        "sphere": ("largest |length / √d − 1|", lambda x: (x.norm(dim=-1) / config.d_model**0.5 - 1).abs().max()),
    }
    for slug, (text, measure) in measures.items():
        report.claim(
            slug,
            f"{text}, of normed streams",
            float(measure(normed)),
            at_most=1e-5,
            source="Brody et al. 2023, arXiv:2305.02582, §3",
            control=float(measure(stream.double())),
            control_text="the streams before the norm",
        )
    report.text(
        "Layer norm takes the mean out, a projection onto the hyperplane at right angles to the vector of ones, and puts what is "
        "left on a sphere of radius √d. What is the same in all dimensions is invisible to every sublayer."
    )


def drawing(config: Config, purpose: str, draw: int) -> torch.Generator:
    return stats.torch_generator(config.seed, ID, purpose, draw)


if __name__ == "__main__":
    experiment.main(Config, run)
