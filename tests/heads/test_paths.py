"""Replaced edges, against TransformerLens's own tool, against nothing but forward passes, and against activation patching."""

import random
from dataclasses import replace
from functools import cache
from itertools import product

import pytest
import torch
import transformers
from edge_cases import contrast_of, logits_by_freezing, put, shaken
from model_shapes import SHAPES
from transformer_lens.patching import get_act_patch_direct_path

from interp.errors import ConfigError, ModelError
from interp.heads import paths
from interp.heads.graph import Graph
from interp.heads.paths import Ready
from interp.models.hooked import Model
from interp.tasks.contrast import Contrast


@cache
def ready_of(shape):
    model = shaken(shape)
    return Ready(model, Graph.of(model), contrast_of(shape))


def logits(shape, contrast, **how):
    return shaken(shape).run(contrast.clean, **contrast.beside, **how).logits


def written(shape, contrast, hook):
    return shaken(shape).run(contrast.clean, read=[hook], **contrast.beside).activations[hook]


def close(value, wanted, tolerance=1e-5):
    torch.testing.assert_close(value, wanted, rtol=0, atol=tolerance * max(1.0, float(wanted.abs().max())))


# ---- laws ----


@pytest.mark.parametrize("shape", SHAPES)
def test_no_edge_replaced_is_the_clean_run_bit_for_bit_and_every_edge_the_corrupted_one(shape):
    ready, contrast = ready_of(shape), contrast_of(shape)
    assert torch.equal(ready.logits([]), logits(shape, contrast))
    close(ready.logits(ready.graph.edges), logits(shape, contrast.swapped()))


@pytest.mark.parametrize("shape", SHAPES)
def test_some_edges_at_a_time_equal_freezing_everything_else_by_hand(shape):
    ready, contrast = ready_of(shape), contrast_of(shape)
    clean = ready.logits([])
    choose = random.Random(0).sample
    for edges in (choose(ready.graph.edges, 1), choose(ready.graph.edges, 8)):
        replaced = ready.logits(edges)
        assert not torch.equal(replaced, clean)
        close(replaced, logits_by_freezing(ready.model, ready.graph, contrast, edges))


@pytest.mark.parametrize("shape", ["native", "neox", "mixtral", "bert", "t5", "vaswani"])
def test_all_edges_from_a_node_are_its_activation_patched(shape):
    ready, contrast = ready_of(shape), contrast_of(shape)
    for node in list(ready.graph.writers)[1:4]:
        writer = ready.graph.writers[node]
        patch = put(writer.hook, writer.head, written(shape, contrast.swapped(), writer.hook))
        close(ready.logits(ready.graph.out_of(node)), logits(shape, contrast, edits=[patch]))


@pytest.mark.parametrize("shape", ["native", "neox", "mixtral", "bert", "t5", "vaswani"])
def test_all_edges_into_a_reader_are_its_input_patched(shape):
    ready, contrast = ready_of(shape), contrast_of(shape)
    for target, way in [*ready.graph.readers][-4:-1]:
        reader = ready.graph.readers[target, way]
        edges = [edge for edge in ready.graph.edges if (edge.target, edge.way) == (target, way)]
        patch = put(reader.way.hook, reader.head, written(shape, contrast.swapped(), reader.way.hook))
        close(ready.logits(edges), logits(shape, contrast, edits=[patch]))


def test_without_a_final_norm_effects_on_the_logits_add_up():
    config = {"d_model": 16, "d_head": 8, "n_heads": 2, "n_layers": 2, "n_ctx": 16, "d_vocab": 50, "d_mlp": 32, "act_fn": "gelu"}
    model, contrast = Model.native(config | {"normalization_type": None}, seed=0), contrast_of("native")
    edges = [edge for edge in Graph.of(model).edges if edge.target == "logits"]
    each = paths.effects(model, contrast, Contrast.logit_difference, edges)
    together = paths.effect(model, contrast, Contrast.logit_difference, edges)
    assert each.dims == ("edge", "example") and list(each.coords["edge"]) == [str(edge) for edge in edges]
    assert together.values == pytest.approx(each.values.sum(0), abs=1e-5)
    twins = contrast.swapped()
    change = twins.logit_difference(model.run(contrast.corrupt).logits) - contrast.logit_difference(
        model.run(contrast.clean).logits
    )
    assert together.values == pytest.approx(change.numpy(), abs=1e-5)


# ---- against TransformerLens ----


def test_edges_between_heads_equal_transformer_lens_on_all_queries_keys_and_values():
    sizes = {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 16, "vocab_size": 50, "initializer_range": 0.4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Model.wrap(transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval())
    contrast = contrast_of("gpt2")
    graph = Graph.of(model)
    edges = [edge for edge in graph.edges if edge.way and edge.source.startswith("a")]
    ours = paths.effects(model, contrast.swapped(), Contrast.logit_difference, edges).mean("example")
    bridge, base = model.bridge, contrast.logit_difference(model.run(contrast.corrupt).logits).mean().item()
    clean, corrupt = (bridge.run_with_cache(tokens)[1] for tokens in (contrast.clean, contrast.corrupt))

    def metric(logits):
        return contrast.logit_difference(logits).mean()

    theirs = {}
    for way in ("q", "k", "v"):
        for layer, head in product((0, 1), (0, 1)):
            table = get_act_patch_direct_path(bridge, contrast.corrupt, clean, corrupt, metric, layer, head, way, verbose=False)
            for to, other in product(range(layer + 1, 3), (0, 1)):
                theirs[f"a{layer}.h{head}->a{to}.h{other}<{way}>"] = float(table[to, other]) - base
    assert set(theirs) == {str(edge) for edge in edges} and len(theirs) == 36
    assert max(map(abs, theirs.values())) > 0.1
    assert [theirs[edge] for edge in ours.coords["edge"]] == pytest.approx(list(ours.values), abs=1e-5)


# ---- effects ----


@pytest.mark.parametrize("shape", ["gpt2", "llama", "t5"])
def test_edges_measured_side_by_side_are_what_each_gives_alone_however_they_are_packed(shape):
    ready, contrast = ready_of(shape), contrast_of(shape)
    edges = random.Random(1).sample(ready.graph.edges, 12)
    few = paths.effects(ready.model, contrast, Contrast.logit_difference, edges, batch=1)
    many = paths.effects(ready.model, contrast, Contrast.logit_difference, edges, batch=64)
    plain = contrast.logit_difference(logits(shape, contrast))
    alone = torch.stack([contrast.logit_difference(ready.logits([edge])) - plain for edge in edges])
    assert few.values == pytest.approx(alone.numpy(), abs=2e-5)
    assert many.values == pytest.approx(alone.numpy(), abs=2e-5)


def test_all_edges_are_measured_when_none_are_named():
    measured = paths.effects(shaken("attention-only"), contrast_of("attention-only"), Contrast.log_probability)
    graph = Graph.of(shaken("attention-only"))
    assert list(measured.coords["edge"]) == [str(edge) for edge in graph.edges]
    assert (abs(measured.values).max(1) > 0).mean() > 0.9


def test_a_set_of_edges_is_replaced_together():
    ready, contrast = ready_of("gpt2"), contrast_of("gpt2")
    edges = ["a0.h1->a1.h0<k>", "a0.h1->a1.h1<v>", "m0->logits"]
    together = paths.effect(ready.model, contrast, Contrast.answer_logit, edges)
    expected = contrast.answer_logit(ready.logits(edges)) - contrast.answer_logit(ready.logits([]))
    assert together.dims == ("example",)
    assert together.values == pytest.approx(expected.numpy(), abs=2e-5)


def test_a_mask_goes_with_the_rows():
    model, contrast = shaken("bert"), contrast_of("bert")
    mask = torch.ones_like(contrast.clean)
    mask[0, 5:] = 0
    masked = Contrast(
        clean=contrast.clean,
        corrupt=contrast.corrupt,
        answers=contrast.answers,
        wrong=contrast.wrong,
        positions=0,
        beside={"attention_mask": mask},
    )
    edges = ["input->a1.h0<v>", "a0.h0->m1"]
    measured = paths.effects(model, masked, Contrast.logit_difference, edges)
    graph = Graph.of(model)
    plain = masked.logit_difference(model.run(masked.clean, attention_mask=mask).logits)
    for edge in edges:
        slow = masked.logit_difference(logits_by_freezing(model, graph, masked, [graph.edge(edge)])) - plain
        assert measured.sel(edge=edge).values == pytest.approx(slow.numpy(), abs=2e-5)


# ---- what is put in, and where ----


@pytest.mark.parametrize(("replacement", "node"), [("zero", "a0.h1"), ("zero", "m0"), ("mean", "a0.h1"), ("mean", "m0")])
def test_zero_and_mean_replacements_are_the_ablations_of_those_names(replacement, node):
    model, contrast = shaken("gpt2"), contrast_of("gpt2")
    graph = Graph.of(model)
    writer = graph.writers[node]
    corrupted = written("gpt2", contrast.swapped(), writer.hook)
    value = torch.zeros_like(corrupted) if replacement == "zero" else corrupted.mean(0, keepdim=True).expand_as(corrupted)
    ablated = logits("gpt2", contrast, edits=[put(writer.hook, writer.head, value)])
    for batch in (1, 64):  # the mean is over all examples, not those of one run
        replaced = paths.run_with(model, graph, contrast, graph.out_of(node), replacement=replacement, batch=batch)
        close(replaced, ablated)


@pytest.mark.parametrize("positions", [2, -1, torch.tensor([4, 1])])
def test_at_one_position_only_what_was_written_there_is_replaced(positions):
    model, contrast = shaken("gpt2"), contrast_of("gpt2")
    graph = Graph.of(model)
    places = torch.as_tensor(positions).expand(2) % 7
    z, other = (written("gpt2", twin, "blocks.0.attn.hook_z") for twin in (contrast, contrast.swapped()))
    z[torch.arange(2), places] = other[torch.arange(2), places]
    patched = logits("gpt2", contrast, edits=[put("blocks.0.attn.hook_z", 1, z)])
    close(paths.run_with(model, graph, contrast, graph.out_of("a0.h1"), positions=positions), patched)


# ---- refusals ----


def test_edges_and_positions_that_do_not_exist_are_refused():
    ready, contrast = ready_of("gpt2"), contrast_of("gpt2")
    with pytest.raises(ModelError, match=r"m0 does not read what m1 writes"):
        ready.logits(["m1->m0"])
    with pytest.raises(ModelError, match=r"no node 'a0\.h5' writes"):
        paths.effects(ready.model, contrast, Contrast.answer_logit, ["a0.h5->m0"])
    for replacement in ("corrupt", "zero", "mean"):
        with pytest.raises(ModelError, match=r"answers holds the id 50, but the model's vocabulary is 0 to 49"):
            misfit = replace(contrast, answers=torch.tensor([3, 50]))
            paths.effects(ready.model, misfit, Contrast.answer_logit, replacement=replacement)
    with pytest.raises(ConfigError, match=r"positions do not lie in rows of 7 tokens; give one place per example"):
        paths.run_with(ready.model, ready.graph, contrast, [], positions=7)


def test_metrics_that_cannot_be_attributed_are_refused():
    ready = ready_of("gpt2")
    with pytest.raises(ConfigError, match=r"the metric gave shape \[\] for 2 examples; give one number per example"):
        ready.effects(lambda asked, logits: asked.logit_difference(logits).mean(), [["m0->m1"]])
    with pytest.raises(ConfigError, match=r"the metric is the same on clean and corrupted inputs in every example"):
        ready.effects(lambda asked, logits: 0 * asked.answer_logit(logits), [["m0->m1"]])


def test_a_replacement_that_is_unknown_is_refused():
    ready = ready_of("gpt2")
    with pytest.raises(ConfigError, match=r"no replacement 'noise'; one of corrupt, zero, mean"):
        Ready(ready.model, ready.graph, contrast_of("gpt2"), replacement="noise")
