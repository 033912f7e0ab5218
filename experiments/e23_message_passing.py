"""Is attention message passing on a graph, and does attention alone say what reaches what?

Masked attention is a graph network (Battaglia et al. 2018, arXiv:1806.01261): every node takes a weighted mean of what its
neighbours send. So L layers carry nothing further than L hops, and graph convolution (Kipf & Welling 2017) and graph attention
(Veličković et al. 2018) are the same layer with other scores. Rollout and flow (Abnar & Zuidema 2020, arXiv:2005.00928) read a
trained model as such a graph; here they stand beside true influence, the Jacobian, and beside what an exchanged token changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from interp import experiment, figures, stats
from interp.association import rank_correlation
from interp.heads import flow
from interp.heads.messages import gathered, hops, masked
from interp.models.hooked import Edit, Model
from interp.models.lens import native_module
from interp.report import Report
from interp.tasks.repeated import repeated_random

ID = "E23"
SOURCE = "closed form"
SLACK = 1e-6
LEAK = -10.0  # added to the scores of pairs that a leaky mask should have closed

Scores = Callable[[Tensor], Tensor]  # node features [node d] -> scores [query key]


@dataclass(frozen=True, kw_only=True)
class Config:
    nodes: int = 16  # on a ring
    chords: int = 2  # edges across the ring
    depths: tuple[int, ...] = (1, 2, 3)  # layers of the random models
    model: str = "induction-2l"  # trained; rollout and flow are tried on it
    rows: int = 32  # texts for it
    length: int = 20  # tokens of a text
    seed: int = 0


QUICK = {"rows": 12, "length": 16}


def run(config: Config, report: Report) -> None:
    generator = stats.torch_generator(config.seed, "graph")
    adjacency = small_world(config.nodes, config.chords, generator)
    report_layers(config, report, adjacency)
    report_special_cases(config, report, adjacency)
    report_balls(config, report, adjacency)
    report_rollout(config, report)


# ---- graphs, and models on them ----


def small_world(nodes: int, chords: int, generator: torch.Generator) -> Bool[Tensor, "node node"]:
    """A ring in which every node also sees itself, with some edges across."""
    place = torch.arange(nodes)
    apart = (place[:, None] - place).abs()
    adjacency = torch.minimum(apart, nodes - apart) <= 1
    for _ in range(chords):
        here = int(torch.randint(nodes, (1,), generator=generator))
        there = (here + int(torch.randint(3, nodes - 2, (1,), generator=generator))) % nodes
        adjacency[here, there] = adjacency[there, here] = True
    return adjacency


def random_model(n_layers: int, seed: int) -> Model:
    """A model that sees both ways, with random weights, in double precision."""
    config = {
        "d_model": 16,
        "d_head": 8,
        "n_heads": 2,
        "n_layers": n_layers,
        "n_ctx": 64,
        "d_vocab": 64,
        "d_mlp": 32,
        "act_fn": "gelu",
        "normalization_type": "LN",
        "attention_dir": "bidirectional",
    }
    return Model.wrap(native_module(config, seed).double(), name="random")


def final(model: Model, stream: Float[Tensor, "node d_model"], edits: list[Edit]) -> Float[Tensor, "node d_model"]:
    """The stream after the last block."""
    last = f"blocks.{model.n_layers - 1}.hook_resid_post"
    return model.run_from(0, stream[None], read=[last], edits=edits).activations[last][0]


def moved(adjacency: Bool[Tensor, "node node"]) -> Bool[Tensor, "node node"]:
    """The graph with one edge taken from node 0 and put elsewhere."""
    other = adjacency.clone()
    other[0, 1], other[0, len(other) // 2] = False, True
    return other


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference."""
    return float((a - b).abs().max())


# ---- the claims ----


def report_layers(config: Config, report: Report, adjacency: Bool[Tensor, "node node"]) -> None:
    """Masked attention equals gathering from neighbours: a random model on a graph, the trained one on all earlier tokens."""
    report.section("A layer of attention is a round of messages")
    report.text(
        "A mask is a graph: position i has an edge to j where i may attend to j. A layer then is one round of messages: every "
        "node asks its neighbours (q·k), weighs what they send (softmax) and adds the mean to what it has. These claims would be "
        "false if attention used anything that no neighbour sent, or knew nodes by their number."
    )
    model = random_model(max(config.depths), config.seed)
    stream, order = random_stream(config, model)
    dense = final(model, stream, masked(model, adjacency))
    report.claim(
        "gather",
        f"{max(config.depths)} layers of masked attention against gathering from neighbours, largest difference",
        apart(dense, gathered(model, stream, adjacency)),
        at_most=SLACK,
        source=SOURCE,
        control=apart(dense, gathered(model, stream, moved(adjacency))),
        control_text="one edge of the graph moved",
    )
    trained, residual = trained_stream(config)
    causal = torch.ones(config.length, config.length).tril() > 0
    ours = final(trained, residual[0], [])
    report.claim(
        "causal",
        f"{config.model} as it is against gathering on the graph of all earlier tokens, largest difference",
        apart(ours, gathered(trained, residual[0], causal)),
        at_most=SLACK,
        source=SOURCE,
        control=apart(ours, gathered(trained, residual[0], moved(causal))),
        control_text="node 0 sees a later token",
    )
    place = model.weight("pos_embed.W_pos")[: config.nodes]
    permuted = final(model, stream[order], masked(model, adjacency[order][:, order]))
    with_places = [final(model, nodes + place, masked(model, graph)) for nodes, graph in
                   ((stream, adjacency), (stream[order], adjacency[order][:, order]))]  # fmt: skip
    report.claim(
        "equivariance",
        "nodes renumbered, along with their edges, give the same outputs renumbered, largest difference",
        apart(permuted, dense[order]),
        at_most=SLACK,
        source=SOURCE,
        control=apart(with_places[1], with_places[0][order]),
        control_text="position embeddings added",
    )


def report_special_cases(config: Config, report: Report, adjacency: Bool[Tensor, "node node"]) -> None:
    """Two graph networks as attention with other scores."""
    generator = stats.torch_generator(config.seed, "features")
    nodes, weight = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((config.nodes, 8), (8, 8)))
    direction = torch.randn(16, generator=generator, dtype=torch.float64)
    convolved = convolution(nodes @ weight, adjacency)
    size = adjacency.sum(1, keepdim=True).double().sqrt()
    as_attention = size * (attention(torch.zeros_like(adjacency, dtype=torch.float64), adjacency) @ (nodes @ weight / size))
    report.claim(
        "gcn",
        "graph convolution against attention with scores 0, nodes scaled by √degree, largest difference",
        apart(convolved, as_attention),
        at_most=SLACK,
        source="Kipf & Welling 2017, eq. 2",
        control=apart(convolved, attention(nodes @ nodes.T, adjacency) @ nodes @ weight),
        control_text="attention with scores h·h",
    )
    sent = nodes @ weight
    scores = F.leaky_relu(sent @ direction[:8, None] + sent @ direction[8:], 0.2)
    gat = graph_attention(sent, direction, adjacency)
    report.claim(
        "gat",
        "graph attention, neighbour by neighbour, against masked attention with its additive scores, largest difference",
        apart(gat, attention(scores, adjacency) @ sent),
        at_most=SLACK,
        source="Veličković et al. 2018, eq. 3",
        control=apart(gat, attention(scores.T, adjacency) @ sent),
        control_text="queries and keys exchanged",
    )


def attention(scores: Float[Tensor, "query key"], adjacency: Bool[Tensor, "query key"]) -> Float[Tensor, "query key"]:
    """Softmax over the neighbours."""
    return scores.masked_fill(~adjacency, -math.inf).softmax(-1)


def convolution(sent: Float[Tensor, "node d"], adjacency: Bool[Tensor, "node node"]) -> Float[Tensor, "node d"]:
    """D^−½ A D^−½ H, edge by edge (Kipf & Welling 2017, eq. 2; A has the node itself)."""
    degree, out = adjacency.sum(1), torch.zeros_like(sent)
    for query, key in adjacency.nonzero().tolist():
        out[query] += sent[key] / (degree[query] * degree[key]).double().sqrt()
    return out


def graph_attention(
    sent: Float[Tensor, "node d"], direction: Float[Tensor, "two_d"], adjacency: Bool[Tensor, "node node"]
) -> Float[Tensor, "node d"]:
    """Σ_j softmax_j(LeakyReLU(a·[h_i ‖ h_j])) h_j, node by node (Veličković et al. 2018, eq. 1–4)."""
    rows = []
    for node, row in enumerate(adjacency):
        near = row.nonzero()[:, 0]
        pairs = torch.cat([sent[node].expand(len(near), -1), sent[near]], -1)
        rows.append(F.leaky_relu(pairs @ direction, 0.2).softmax(0) @ sent[near])
    return torch.stack(rows)


def report_balls(config: Config, report: Report, adjacency: Bool[Tensor, "node node"]) -> None:
    """Influence stops at as many hops as there are layers; through a mask that only damps, it does not."""
    report.section("How far influence reaches")
    distance, tables, inside, outside, leaked = hops(adjacency), [], [], [], []
    for depth in config.depths:
        model = random_model(depth, config.seed)
        stream, _ = random_stream(config, model)
        closed, leaky = (
            flow.influence(model, stream[None], edits=masked(model, adjacency, closed=value)).values[0]
            for value in (-math.inf, LEAK)
        )
        inside.append(closed[distance <= depth].min())
        outside.append(closed[distance > depth].max(initial=0.0))
        leaked.append(leaky[distance > depth].max(initial=0.0))
        for found, mask in ((closed, ""), (leaky, ", leaky mask")):
            tables.append(by_distance(found, distance).assign(layers=f"{depth}{mask}"))
    report.claim(
        "outside",
        f"largest influence from further away than the number of layers ({', '.join(map(str, config.depths))})",
        max(outside),
        at_most=0.0,
        unit="‖∂out/∂in‖",
        source=SOURCE,
        control=min(leaked),
        control_text=f"a mask that adds {LEAK:g} in place of −∞",
    )
    report.claim(
        "inside",
        "smallest influence from within that many hops",
        min(inside),
        at_least=SLACK,
        unit="‖∂out/∂in‖",
        source="target of this report",
        control=max(outside),
        control_text="largest from outside",
    )
    table = pd.concat(tables, ignore_index=True)
    report.table("balls", table, caption="Influence between nodes by the number of hops between them: mean, least and largest.")
    shown = table.query("mean > 0").loc[lambda t: ~t["layers"].isin([f"{depth}, leaky mask" for depth in config.depths[:-1]])]
    shown = shown.sort_values("layers", ascending=False, kind="stable")  # the leaky one below, or it hides the others
    axis = {"yscale": "log", "xlabel": "hops between two nodes", "ylabel": "mean influence ‖∂out/∂in‖"}
    report.figure(
        "balls",
        figures.lines(shown, "hops", "mean", by="layers", title="L layers reach L hops, unless the mask leaks", **axis),
        caption="Mean influence against distance on the graph. A line ends where influence is exactly 0.",
        alt="Falling lines of influence against hops; they end at one, two and three hops; behind a leaky mask one goes on.",
        data=table,
    )


def by_distance(found: Float[np.ndarray, "query key"], distance: np.ndarray) -> pd.DataFrame:
    """Mean, least and largest influence at every number of hops."""
    rows = [(int(hop), found[distance == hop]) for hop in np.unique(distance)]
    return pd.DataFrame([{"hops": hop, "mean": v.mean(), "least": v.min(), "largest": v.max()} for hop, v in rows])


def report_rollout(config: Config, report: Report) -> None:
    """Rank correlation of what attention says with what the Jacobian says, row by row, in the trained model and a random one."""
    report.section("Rollout and flow beside true influence")
    trained, _ = trained_stream(config)
    agreements = {
        name: correlations(config, model) for name, model in (("trained", trained), ("untrained", trained.untrained(config.seed)))
    }
    for slug, method, text in (
        ("rollout", "rollout", f"rollout of {config.model} ranks earlier tokens as their influence does"),
        ("truths", "exchange", "what an exchanged token changes ranks earlier tokens as the Jacobian does"),
    ):
        own, other, third = (agreements["trained"][method + of] for of in ("", " in another text", " in a third text"))
        report.claim(
            slug,
            f"{text}, beyond the same of another text by",
            stats.paired_difference(own, other, seed=config.seed),
            at_least=0.1,
            unit="Spearman ρ",
            source="target of this report",
            control=stats.paired_difference(third, other, seed=config.seed),
            control_text="a third text in the place of the first",
        )
    table = pd.DataFrame(
        {"model": name, "method": method} | stats.bootstrap(values, seed=config.seed).cells("ρ")
        for name, found in agreements.items()
        for method, values in found.items()
    )
    caption = (
        "Spearman ρ with the Jacobian over the earlier tokens of a position, mean over positions, 95 % intervals over texts."
    )
    report.table("agreement", table, caption=caption)
    drawn = table[~table["method"].str.contains("third")]
    drawn = drawn.assign(label=drawn["method"] + " · " + drawn["model"])
    report.figure(
        "agreement",
        figures.bars(
            drawn, "label", "ρ", low="low", high="high", xlabel="Spearman ρ with ‖∂out/∂in‖", title="What tells influence"
        ),
        caption=caption,
        alt="Bars: rollout agrees best of the readings of attention, and more so in the untrained model than in the trained one.",
        data=table,
    )
    report_text(config, report, trained)
    report.text(
        "As a reading of influence, rollout would be refuted if the rollout of another text told as much. It is not; but it "
        "knows attention alone, and in the trained model, where values and norms have learnt to matter, it tells less than in a "
        "random one."
    )


def report_text(config: Config, report: Report, model: Model) -> None:
    """Both readings of one text, token by token."""
    tokens = texts(config, model)[:1]
    readings = {
        "influence": flow.influence(model, stream_of(model, tokens)),
        "rollout": flow.rollout(flow.patterns_of(model, tokens)),
    }
    for name, found in readings.items():
        earlier = np.tril(np.ones(found.values.shape[1:], bool), -1)
        table = replace(found, values=np.where(earlier, found.values, np.nan)).sel(example=0).table()
        report.figure(
            f"text-{name}",
            figures.heatmap(
                table, "key", "query", name, xlabel="earlier position", ylabel="position", title=f"{name} in one text"
            ),
            caption=f"{name.capitalize()} of every earlier position on every later one, in {config.model}.",
            alt=f"A lower triangle of cells, {name} by position.",
            data=table.dropna(),
        )


def correlations(config: Config, model: Model) -> dict[str, np.ndarray]:
    """Agreement with the Jacobian by method, one number per text."""
    tokens = texts(config, model)
    generator = stats.torch_generator(config.seed, "exchanged")
    others = (tokens + torch.randint(1, model.d_vocab, tokens.shape, generator=generator)) % model.d_vocab
    truth = flow.influence(model, stream_of(model, tokens)).values
    patterns = flow.patterns_of(model, tokens)
    methods = {
        "attention of the last layer": patterns[:, -1].mean(1),
        "rollout": flow.rollout(patterns).values,
        "flow": flow.flow(patterns).values,
        "exchange": flow.exchange(model, tokens, others).values,
    }
    for method in ("rollout", "exchange"):
        for rows, text in ((1, "another"), (2, "a third")):
            methods[f"{method} in {text} text"] = np.roll(methods[method], rows, axis=0)
    return {name: agreement(found, truth) for name, found in methods.items()}


def agreement(found: Float[np.ndarray, "example query key"], truth: Float[np.ndarray, "example query key"]) -> np.ndarray:
    """Spearman ρ over the earlier keys of each query that has three or more, mean over queries: one number per example."""
    queries = range(3, truth.shape[1])
    rho = [[rank_correlation(a[query, :query], b[query, :query]) for query in queries] for a, b in zip(found, truth, strict=True)]
    return np.array(rho).mean(1)


# ---- inputs ----


def random_stream(config: Config, model: Model) -> tuple[Float[Tensor, "node d_model"], Tensor]:
    """Random node features, and an order to renumber nodes by."""
    generator = stats.torch_generator(config.seed, "nodes")
    stream = torch.randn(config.nodes, model.d_model, generator=generator, dtype=torch.float64)
    return stream, torch.randperm(config.nodes, generator=generator)


def texts(config: Config, model: Model) -> Tensor:
    """Rows of repeated random tokens."""
    generator = stats.torch_generator(config.seed, "texts")
    return repeated_random(config.rows, config.length, model.d_vocab, generator=generator).tokens


def trained_stream(config: Config) -> tuple[Model, Float[Tensor, "example pos d_model"]]:
    """The trained model in double precision, and what its first block is given."""
    model = Model.load(config.model, dtype=torch.float64)
    experiment.source(f"model {model.name}", model.fingerprint)
    return model, stream_of(model, texts(config, model))


def stream_of(model: Model, tokens: Tensor) -> Float[Tensor, "example pos d_model"]:
    """What the first block is given."""
    first = "blocks.0.hook_resid_pre"
    return model.run(tokens, read=[first]).activations[first]


if __name__ == "__main__":
    experiment.main(Config, run)
