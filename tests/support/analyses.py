"""Every public analysis, run on one kind of model and held to a law of its own: what must be true of its numbers on any model.

A function here takes a `Kind`. It returns if the law holds, fails if it does not, and lets the analysis's refusal pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edge_cases import contrast_of, put, shaken
from mlp_cases import batch_of
from model_shapes import OWN
from torch import Tensor

from interp import comparison, probes
from interp.activations import TokenPairs, harvest
from interp.heads import (
    ablation,
    circuits,
    classes,
    composition,
    direct,
    edge_attribution,
    faithfulness,
    flow,
    gradients,
    interchange,
    patching,
    paths,
    patterns,
    qkov,
    scrubbing,
    sources,
    temperature,
)
from interp.heads.graph import Graph
from interp.mlp import editing, keys, knowledge, memories, rerouting, routing, subupdates, tracing, values
from interp.models import changes
from interp.models.hooked import Model
from interp.models.mixtures import mixtures
from interp.models.transformer import TransformerConfig, transformer
from interp.sae import architectures, attribution, splicing, training
from interp.tasks.contrast import Contrast
from interp.tasks.facts import Prompts
from interp.text.packing import TokenBatch

STORIES = Path(__file__).parents[3] / "shared" / "data" / "stories260k"
REAL = "stories260k"
MORE = {
    "additive scores": {"kind": "decoder", "score": "additive"},
    "linear attention": {"kind": "decoder", "mixer": "linear"},
    "delta rule": {"kind": "decoder", "mixer": "delta"},
    "experts": {"kind": "decoder", "mlp": "experts", "experts_per_token": 2},
}
"""Our own modules that model_shapes has not."""


@dataclass(frozen=True)
class Kind:
    """A model and a contrast of two examples for it."""

    model: Model
    contrast: Contrast

    @property
    def beside(self) -> dict[str, Any]:
        return dict(self.contrast.beside)

    @property
    def tokens(self) -> Tensor:
        return self.contrast.clean

    @cached_property
    def logits(self) -> Tensor:
        return self.run().logits

    def run(self, **how):
        return self.model.run(self.tokens, **how, **self.beside)

    def hook(self, *endings: str) -> str:
        """The last hook that ends like this."""
        return next(name for ending in endings for name in reversed(self.model.hooks) if name.endswith(ending))

    @property
    def stacks(self) -> tuple[str | None, ...]:
        """How MLPs are asked for: by stack, where there are two."""
        return memories.STACKS if self.model.kind == "encoder-decoder" else (None,)

    @property
    def written(self) -> str:
        """What the last attention writes."""
        return self.hook("hook_attn_out", "self_attn.hook_out", "attn.hook_out")

    @cached_property
    def total(self) -> np.ndarray:
        return patching.total_effect(self.model, self.contrast).values

    @cached_property
    def prompts(self) -> Prompts:
        """Questions with one subject token each, whose answers are what the model says."""
        subject = torch.zeros_like(self.tokens, dtype=torch.bool)
        subject[:, 2] = True
        last = torch.full((len(self.tokens),), self.tokens.shape[1] - 1)
        return Prompts(self.tokens, subject, last, self.logits[:, -1].argmax(-1))


def kind_of(shape: str) -> Kind:
    """The tiny random model of a shape, every weight shaken so that every part does something; or the real one."""
    if shape == REAL:
        return real()
    if shape in MORE:
        model = Model.wrap(transformer(TransformerConfig(**OWN | MORE[shape]), seed=0), name=shape)
        return Kind(model, contrast_of("decoder"))
    return Kind(shaken(shape), contrast_of(shape))


def real() -> Kind:
    """Two starts of stories and twins of them, and what the model says to each."""
    model = Model.load(str(STORIES))
    tokenizer: Any = model.tokenizer
    starts = ["Once upon a time, there was a little girl named", "One day, a big dog was in the park with his"]
    twins = ["Long ago in a dark wood, there lived an old man", "The sun was hot and they went to the sea to"]
    clean, corrupt = (torch.tensor([[1, *tokenizer.encode(text).ids[:11]] for text in texts]) for texts in (starts, twins))
    answers, wrong = (model.run(tokens).logits[:, -1].argmax(-1) for tokens in (clean, corrupt))
    return Kind(model, Contrast(clean=clean, corrupt=corrupt, answers=answers, wrong=wrong))


def near(found, wanted, *, of=None) -> None:
    """Equal within 1e-3 of the largest value there is."""
    found, wanted = np.asarray(found, dtype=float), np.asarray(wanted, dtype=float)
    scale = np.abs(wanted if of is None else of).max()
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3 * max(float(scale), 1e-6))


# ---- activations ----


def harvested(kind: Kind) -> None:
    """Rows are what the model has at the hook, in every stack."""
    batch = batch_for(kind, kind.tokens, kind.beside.get("decoder_input"))
    for hook in {kind.written, kind.written.replace("decoder_blocks", "encoder_blocks").replace("self_attn", "attn")}:
        (rows,) = harvest(kind.model, [batch], [hook])
        own = side_of(batch, "encoder" if "encoder" in hook else "decoder")
        near(rows.activations[hook], kind.run(read=[hook]).activations[hook].flatten(2)[own.is_text])


def batch_for(kind: Kind, tokens: Tensor, target: Tensor | None) -> TokenBatch | TokenPairs:
    """Rows that are a document each, with their targets for an encoder-decoder."""
    return batch_of(tokens) if target is None else TokenPairs.of(tokens, target)


def side_of(batch: TokenBatch | TokenPairs, stack: str | None) -> TokenBatch:
    """The tokens that a stack reads."""
    return batch if isinstance(batch, TokenBatch) else batch.source if stack == "encoder" else batch.target


def probed(kind: Kind) -> None:
    """A token is read off its embedding without a mistake, and not with shuffled labels."""
    tokens = torch.randint(3, 7, (24, 7), generator=torch.Generator().manual_seed(3))
    hook = kind.hook("hook_embed", "blocks.0.hook_resid_pre")
    (batch,) = harvest(kind.model, [batch_for(kind, tokens, tokens if kind.beside else None)], [hook])
    labels = {"is token 3": (batch.tokens == 3).numpy()}
    table = probes.probe(batch.activations[hook].numpy(), labels, batch.document.numpy(), resamples=20).set_index("source")
    assert table.score["activations"] == 1 and table.score["shuffled labels"] < 0.9


# ---- heads ----


def looked_at(kind: Kind) -> None:
    """Scores are shares of attention, on every kind of attention that the model has."""
    for name in patterns.attentions(kind.model):
        found = patterns.scores(kind.model, kind.tokens, attention=name, kinds=["bos_sink"], **kind.beside)
        assert all((measured.values >= 0).all() and (measured.values <= 1 + 1e-5).all() for measured in found.values())
        assert (patterns.entropy(kind.model, kind.tokens, attention=name, **kind.beside).values >= 0).all()


def classified(kind: Kind) -> None:
    """Every head and kind of target has a probability."""
    tokens = torch.tensor([[3, 4, 5, 3, 4, 5], [6, 7, 6, 7, 6, 7]])
    beside: dict[str, Any] = dict.fromkeys(kind.beside, tokens)
    for name in patterns.attentions(kind.model):
        table = classes.tested(kind.model, tokens, attention=name, **beside)
        assert table.p.between(0, 1).all()


def heated(kind: Kind) -> None:
    """Heads at temperature 1 change nothing, very hot ones attend evenly; in between entropy grows by the scores' variance."""
    for name, looked in patterns.attentions(kind.model).items():
        near(kind.run(edits=temperature.heated(kind.model, 1.0, attention=name)).logits, kind.logits)
        hook = f"{looked.paths[max(looked.paths)]}.hook_pattern"
        hot = kind.run(read=[hook], edits=temperature.heated(kind.model, 1e6, attention=name)).activations[hook]
        visible = looked.sight(kind.tokens, kind.beside).visible.double()
        near(hot, (visible / visible.sum(-1, keepdim=True)).expand(hot.shape))
        around = temperature.entropies(kind.model, kind.tokens, [0.999, 1.001], attention=name, **kind.beside)
        variance = temperature.score_variance(kind.run(read=[hook]).activations[hook].double()).mean(-1)
        near((around.values[1, -1] - around.values[0, -1]) / 0.002, variance.T)


def composed(kind: Kind) -> None:
    """Heads are scored where the graph has an edge between them and nowhere else; eigenvalues copy by −1 to 1."""
    graph, found = Graph.of(kind.model), composition.composition_scores(kind.model, "K", draws=2)
    read = {(edge.source, head) for edge in graph.edges if edge.way == "k" for head in graph.readers[edge.target, "k"].feeds}
    nodes = [name if name in graph.nodes else f"a{name.replace('.', '.h')}" for name in found.coords["from"]]
    np.testing.assert_array_equal(np.isfinite(found.values), [[(early, late) in read for late in nodes] for early in nodes])
    if not kind.beside:
        assert (np.abs(composition.copying_scores(kind.model).values) <= 1 + 1e-6).all()


def read_in_tokens(kind: Kind) -> None:
    """The rank-one parts of a head's OV circuit share out the whole."""
    reading = qkov.Reading(kind.model, "OV")
    near(reading.spectrum(qkov.ov(kind.model, (0, 0))).shares.sum(), 1.0)


def attributed_directly(kind: Kind) -> None:
    """Parts sum to the logit difference."""
    question = direct.Question(kind.contrast.answers, kind.contrast.wrong)
    parts = direct.by_component(kind.model, kind.tokens, question, **kind.beside).values
    near(parts.sum(0), kind.contrast.logit_difference(kind.logits), of=parts)


def attributed_to_sources(kind: Kind) -> None:
    """What a head brings from each token sums to what it writes."""
    question = direct.Question(kind.contrast.answers, kind.contrast.wrong)
    for attention in ("decoder", "cross") if kind.beside else ("self",):
        heads = direct.by_head(kind.model, kind.tokens, question, attention=attention, **kind.beside).values
        sources = direct.by_source(kind.model, kind.tokens, question, attention=attention, **kind.beside).values
        near(sources.sum(2), heads, of=sources)


def ablated(kind: Kind) -> None:
    """A head's own values in its place change nothing; nothing in its place does."""
    hook = kind.hook("attn.hook_z")
    place = ablation.Place(hook, head=0)
    own = kind.run(read=[hook]).activations
    same, gone = (
        kind.run(edits=edits).logits
        for edits in (ablation.replaced(kind.model, [place], own), ablation.zero(kind.model, [place]))
    )
    near(same, kind.logits)
    assert not torch.allclose(gone, kind.logits, atol=1e-4)


def patched(kind: Kind) -> None:
    """A sweep over heads finds what patching a head by hand does."""
    hook = kind.hook("attn.hook_z")
    start, stop = (hook.find("."), hook.find(".", hook.find(".") + 1))
    found = patching.sweep(kind.model, kind.contrast, f"{hook[:start]}.*{hook[stop:]}", by=("head",)).values[-1, 0]
    twin = ablation.corrupted(kind.model, kind.contrast, [hook])[hook]
    by_hand = kind.contrast.logit_difference(kind.run(edits=[put(hook, 0, twin)]).logits)
    near(found, by_hand - kind.contrast.logit_difference(kind.logits))


def interchanged(kind: Kind) -> None:
    """With what the unembedding reads from the source, the logits are the source's."""
    place = ablation.Place(kind.hook("unembed.hook_in"))
    found = interchange.interchanged(kind.model, kind.contrast, place)
    other = kind.contrast.swapped()
    near(found, kind.model.run(other.clean, **dict[str, Any](other.beside)).logits)


def attributed_to_nodes(kind: Kind) -> None:
    """A node's effect is the sum over the edges out of it, to first order: the chain rule."""
    nodes = gradients.attribution(kind.model, kind.contrast)
    edges = edge_attribution.eap(kind.model, kind.contrast)
    sums = sums_by_source(edges, nodes.coords["node"])
    near(sums, nodes.values, of=edges.values)


def integrated(kind: Kind) -> None:
    """The same law along the path between the twins."""
    nodes = gradients.integrated(kind.model, kind.contrast, steps=2)
    edges = edge_attribution.eap_ig(kind.model, kind.contrast, steps=2)
    near(sums_by_source(edges, nodes.coords["node"]), nodes.values, of=edges.values)


def sums_by_source(edges, nodes) -> np.ndarray:
    sources = np.array([name.split("->")[0] for name in edges.coords["edge"]])
    return np.stack([edges.values[sources == node].sum(0) for node in nodes])


def edges_performed(kind: Kind) -> None:
    """With every edge replaced the run is the twin's."""
    graph = Graph.of(kind.model)
    near(paths.effect(kind.model, kind.contrast, Contrast.logit_difference, graph.edges).values, kind.total)


def circuits_judged(kind: Kind) -> None:
    """The whole graph keeps everything, the empty circuit nothing."""
    graph = Graph.of(kind.model)
    one = kind.contrast[:1]
    ready = paths.Ready(kind.model, graph, one)
    effects = edge_attribution.eap(kind.model, one)
    whole = circuits.top(graph, effects, len(graph.edges))
    found = faithfulness.kept(ready, Contrast.logit_difference, [whole, frozenset()])
    near([estimate.value for estimate in found.faithfulness()], [1, 0])


def scrubbed(kind: Kind) -> None:
    """With one input to draw from, the model recomputed edge by edge is the model."""
    one, graph = kind.contrast[:1], Graph.of(kind.model)
    hypothesis: dict[Any, Any] = {edge: lambda contrast: contrast.answers for edge in graph.edges if edge.target == "logits"}
    found = scrubbing.scrub(kind.model, one, Contrast.logit_difference, hypothesis)
    near(found.scrubbed, found.model)


def flowing(kind: Kind) -> None:
    """Rollout shares out 1 among all positions; later tokens that attention hides have no share, and no influence."""
    shares = flow.rollout(flow.patterns_of(kind.model, kind.tokens, **kind.beside)).values
    near(shares.sum(-1), 1.0)
    others = (torch.cat([kind.tokens, *kind.beside.values()], 1) + 1) % 50
    moved = flow.exchange(kind.model, kind.tokens, others, **kind.beside).values
    if kind.model.kind != "encoder":
        own = slice(-moved.shape[1], None)  # positions of the target, or all
        assert not np.triu(shares[:, own, own], 1).any()
        near(np.triu(moved[:, :, own], 1), 0, of=moved)


def hiding(kind: Kind) -> None:
    """A query that sees one key alone hands on that key's value, and its layer moves all that it writes from there."""
    name, looked = list(patterns.attentions(kind.model).items())[-1]
    sight = looked.sight(kind.tokens, kind.beside)
    links = torch.zeros(len(kind.tokens), *sight.visible.shape, dtype=torch.bool)
    links[:, 3], links[:, 3, 2] = True, False
    edits, path = sources.hidden(kind.model, links, attention=name), list(looked.paths.values())[-1]
    z, v, out = (f"{path}.hook_z", f"{path}.hook_v", f"{path}.o.hook_out")
    run = kind.run(read=[z, v, out], edits=edits).activations
    near(run[z][:, 3], run[v][:, 2].repeat_interleave(run[z].shape[2] // run[v].shape[2], 1))
    bias = kind.model.apply(f"{path}.o", torch.zeros_like(run[z][:, 3:4].flatten(-2)))
    moved = sources.moved(kind.model, kind.tokens, attention=name, edits=edits, **kind.beside).values[-1]
    near(moved[3, 2], (run[out][:, 3] - bias[:, 0]).norm(dim=-1))


# ---- MLPs ----


def remembered(kind: Kind) -> None:
    """What an MLP writes is the sum of its memories, each as strongly as it fires."""
    batch = batch_for(kind, kind.tokens, kind.beside.get("decoder_input"))
    for stack in kind.stacks:
        held, made = memories.memories(kind.model, 0, stack=stack), memories.source(kind.model, 0, stack=stack)
        out = f"{memories.require_layer(kind.model, 0, stack=stack)}.hook_mlp_out"
        run = kind.run(read=[made.hook, out]).activations
        near(made.activations(run[made.hook]) @ held.values + (0 if held.bias is None else held.bias), run[out])
        (found,) = list(keys.triggers(memories.activations(kind.model, [batch], stack=stack), top=2).values())[:1]
        assert found.rows == int(side_of(batch, stack).is_text.sum())


def read_out(kind: Kind) -> None:
    """Sub-updates of all memories and the bias sum to the whole one, in the logits."""
    assert torch.isfinite(values.value_logits(kind.model, 0, stack=kind.stacks[-1])).all()
    parts = subupdates.sub_updates(kind.model, kind.tokens, 0, stack=kind.stacks[-1], **kind.beside)
    every = parts.logits(0, -1, range(len(parts.values))).sum(0) + parts.bias @ parts.unembedding / parts.scale[0, -1]
    near(every, parts.total(0, -1))


def traced(kind: Kind) -> None:
    """The residual streams of all layers put back at the last position regain the whole answer."""
    stack = kind.stacks[-1]
    window = 2 * len(memories.layers(kind.model, stack))
    found = tracing.trace(kind.model, kind.prompts, state="hidden", window=window, samples=1, stack=stack, **kind.beside)
    regained = found.clean.values - found.corrupted.values
    near(found.effect.sel(layer=window // 2 - 1, role="last").values, regained, of=1)


def knowing(kind: Kind) -> None:
    """Attributions of a layer's neurons sum to what the layer's activations add, but for the integral's error."""
    for stack in kind.stacks:
        found = knowledge.attribute(kind.model, kind.prompts, layers=[0], steps=64, stack=stack, **kind.beside)
        assert np.abs(found.residual.values).max() < 0.02


def edited(kind: Kind) -> None:
    """After the edit the layer gives the new value for the key."""
    for stack in kind.stacks:
        key = editing.subject_keys(kind.model, 0, [kind.prompts], stack=stack, **kind.beside)[:1]
        block = memories.require_layer(kind.model, 0, stack=stack)
        weight = kind.model.weight(f"{block}.mlp.W_out").float()
        wanted = key @ weight + 0.1
        moment = torch.eye(len(weight), dtype=torch.float64)
        change = editing.rewrite(kind.model, 0, key, wanted, moment, max_relative_norm=10, stack=stack)
        hook, place = f"{block}.hook_mlp_out", -1 if stack == "decoder" else 2
        outs = [
            model.run(kind.tokens, read=[hook], **kind.beside).activations[hook][0, place]
            for model in (kind.model, change.apply(kind.model))
        ]
        near(outs[1] - outs[0], torch.full_like(outs[0], 0.1))


# ---- experts ----


def routed(kind: Kind) -> None:
    """Weights are what the router's rule makes of its logits; the experts' loads have a mean of 1."""
    found = routing.decided(kind.model, kind.tokens, **kind.beside)
    for layer, place in mixtures(kind.model).items():
        near(found.weights[layer], place.weigh(found.logits[layer]))
        assert (found.chosen(layer).sum(-1) == place.per_token).all()
    near(routing.load(routing.usage([found])).groupby("layer").load.mean(), 1.0)


def experts_ablated(kind: Kind) -> None:
    """Silences of single experts sum to the silence of all; the last layer's cost nothing to tokens sent elsewhere."""
    layers = mixtures(kind.model)
    for layer, place in layers.items():

        def written(experts: list[int], layer: str = layer, out: str = place.out) -> Tensor:
            edits = rerouting.silenced(kind.model, layer, experts) if experts else []
            return kind.run(read=[out], edits=edits).activations[out]

        whole, every = written([]), list(range(place.experts))
        near(sum(whole - written([expert]) for expert in every), whole - written(every))
        assert not torch.allclose(whole, written(every), atol=1e-4)
    last = rerouting.effects(kind.model, kind.tokens).others.sel(layer=[*layers][-1]).values
    near(np.nan_to_num(last), 0.0, of=1)


# ---- autoencoders ----


def spliced(kind: Kind) -> None:
    """An autoencoder trains on the kind's activations; spliced in with its error, a change of nothing changes nothing."""
    hook = kind.written
    rows = kind.run(read=[hook]).activations[hook]
    sae, objective = architectures.build("topk", rows.shape[-1], 32, l0=4)
    training.train(sae, [rows.flatten(0, 1)] * 4, steps=4, objective=objective)
    site = splicing.Site(sae, hook)
    near(
        kind.model.run(
            kind.tokens, edits=splicing.splice(site, where=None, error=True, change=lambda codes: codes), **kind.beside
        ).logits,
        kind.logits,
    )
    assert not torch.allclose(
        kind.model.run(kind.tokens, edits=splicing.splice(site, where=None), **kind.beside).logits, kind.logits
    )


def attributed_to_features(kind: Kind) -> None:
    """Features move the metric."""
    hook = kind.written
    rows = kind.run(read=[hook]).activations[hook]
    sae, _ = architectures.build("topk", rows.shape[-1], 32, l0=4)
    metric = attribution.Metric(lambda run: kind.contrast.logit_difference(run.logits))
    found = attribution.by_gradient(kind.model, splicing.Site(sae, hook), kind.tokens, metric, where=None, **kind.beside)
    assert np.isfinite(found.features.values).all() and np.abs(found.features.values).max() > 0


# ---- before and after ----


def compared(kind: Kind) -> None:
    """Held against itself a model differs nowhere; all weights that changed make the model after."""
    units, rows = [comparison.Units(kind.written)], [comparison.Rows(kind.tokens, beside=kind.beside)]
    state = kind.model.state()
    after = kind.model.with_weights({name: 0.9 * weight for name, weight in state.items()}, name="after")
    same, other = (comparison.observed(kind.model, model, rows, units).change for model in (kind.model, after))
    assert (same == 0).all() and (other > 0).any()
    assert (changes.matrices(kind.model, kind.model).change == 0).all()
    changed = [name for name, weight in after.state().items() if not torch.equal(weight, state[name])]
    found = comparison.grafted(kind.model, after, kind.contrast, {"all": changed})
    near(found.effects.values[0], found.whole.values)
    assert np.abs(found.whole.values).max() > 0


ANALYSES: dict[str, Callable[[Kind], None]] = {
    "activations": harvested,
    "probes": probed,
    "attention patterns": looked_at,
    "head classes": classified,
    "head temperature": heated,
    "composition": composed,
    "QK and OV in tokens": read_in_tokens,
    "direct attribution": attributed_directly,
    "… by source token": attributed_to_sources,
    "ablation": ablated,
    "patching": patched,
    "interchange": interchanged,
    "node attribution": attributed_to_nodes,
    "edge attribution": integrated,
    "exact edges": edges_performed,
    "circuits": circuits_judged,
    "scrubbing": scrubbed,
    "attention flow": flowing,
    "knockout of keys": hiding,
    "MLP memories": remembered,
    "MLP read-out": read_out,
    "causal tracing": traced,
    "knowledge neurons": knowing,
    "editing": edited,
    "router decisions": routed,
    "expert ablation": experts_ablated,
    "autoencoders": spliced,
    "feature attribution": attributed_to_features,
    "comparison": compared,
}
"""By the names that docs/kinds.md gives them."""
