"""Parts add up to the logits, on every kind of model; and a part's direct effect is what freezing everything else shows."""

from typing import Any

import numpy as np
import pytest
import torch
from model_shapes import DECODERS, build, case_of

from interp.errors import ModelError
from interp.heads import direct
from interp.heads.direct import Question

ACROSS = ["t5", "bart", "marian", "vaswani", "vaswani-pre"]
SERVED = [*DECODERS, "encoder", "decoder-post", *ACROSS]


def attentions(case):
    """The attentions that write into what the logits read, and the name of each as a component."""
    return {"decoder": "self_attn", "cross": "cross_attn"} if case.beside else {"self": "attn"}


def asked(case, **more: Any):
    generator = torch.Generator().manual_seed(3)
    answers, wrong = torch.randint(0, 50, (2, len(case.tokens)), generator=generator)
    settings: dict[str, Any] = {"wrong": wrong} | more
    return Question(answers, **settings)


def value(case, question):
    logits = case.run(logits=True).logits.double()[:, question.positions]
    if question.log_probability:
        logits = logits.log_softmax(-1)
    rows = torch.arange(len(logits))
    own = logits[rows, question.answers]
    return (own if question.wrong is None else own - logits[rows, question.wrong]).numpy()


@pytest.mark.parametrize("how", [{}, {"wrong": None}, {"wrong": None, "log_probability": True}, {"positions": 3}])
@pytest.mark.parametrize("shape", SERVED)
def test_components_sum_to_what_is_asked(shape, how):
    case = case_of(shape)
    question = asked(case, **how)
    found = direct.by_component(case.model, case.tokens, question, **case.beside)
    assert found.values.sum(0) == pytest.approx(value(case, question), abs=1e-5)


@pytest.mark.parametrize("shape", SERVED)
def test_sources_sum_to_heads_and_heads_to_the_attention_of_their_layer_but_for_its_bias(shape):
    case = case_of(shape)
    question = asked(case)
    whole = direct.by_component(case.model, case.tokens, question, **case.beside)
    for attention, part in attentions(case).items():
        heads, sources = (
            how(case.model, case.tokens, question, attention=attention, **case.beside)
            for how in (direct.by_head, direct.by_source)
        )
        assert sources.values.sum(2) == pytest.approx(heads.values, abs=1e-6)
        for layer in range(case.model.n_layers):
            if not has_bias(case, f"{layer}.{part}.b_O"):
                assert heads.values[layer].sum(0) == pytest.approx(whole.sel(component=f"{layer}.{part}").values, abs=1e-5)


@pytest.mark.parametrize("shape", [*DECODERS, "decoder-post", *ACROSS])
def test_nothing_comes_from_tokens_after_the_query_but_across(shape):
    case = case_of(shape)
    question = asked(case, positions=2)
    for attention in attentions(case):
        later = direct.by_source(case.model, case.tokens, question, attention=attention, **case.beside).values[:, :, 3:]
        assert (later == 0).all() == (attention != "cross")


def has_bias(case, name):
    stack = "decoder_blocks" if case.beside else "blocks"
    try:
        return bool(case.model.weight(f"{stack}.{name}").any())
    except ModelError:
        return False


@pytest.mark.parametrize("shape", ["native", "gated", "gpt2", "llama", "encoder", "t5", "bart", "vaswani"])
def test_neurons_sum_to_the_mlp_of_their_layer_but_for_its_bias(shape):
    case = case_of(shape)
    question = asked(case)
    whole = direct.by_component(case.model, case.tokens, question, **case.beside)
    neurons = direct.by_neuron(case.model, case.tokens, question, **case.beside)
    for layer in range(2):
        rest = whole.sel(component=f"{layer}.mlp").values - neurons.values[layer].sum(0)
        assert rest == pytest.approx(0, abs=1e-5) or has_bias(case, f"{layer}.mlp.b_out")


def test_in_a_post_norm_model_each_part_is_read_through_every_norm_after_it_each_frozen():
    case = case_of("vaswani")
    question, block = asked(case), "decoder_blocks.1"
    outs = {"cross": f"{block}.cross_attn.o.hook_out", "mlp": f"{block}.hook_mlp_out"}
    norms = [f"{block}.ln2.hook_in", f"{block}.ln3.hook_in"]
    seen = {name: value[:, -1].double() for name, value in case.run(read=[*outs.values(), *norms]).activations.items()}
    found = direct.by_component(case.model, case.tokens, question, **case.beside)
    u = (case.model.W_U[:, question.answers] - case.model.W_U[:, question.wrong]).T.double()

    def through(hook, vector):
        centred, spread = (each - each.mean(-1, keepdim=True) for each in (vector, seen[hook]))
        gain = case.model.bridge.get_submodule(hook.removesuffix(".hook_in")).weight.detach().double()
        return centred / (spread.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain

    mlp, cross = through(norms[1], seen[outs["mlp"]]), through(norms[1], through(norms[0], seen[outs["cross"]]))
    for name, written in (("1.mlp", mlp), ("1.cross_attn", cross)):
        assert found.sel(component=name).values == pytest.approx((written * u).sum(-1).numpy(), rel=1e-4)


def test_the_bias_that_a_translator_adds_to_its_logits_is_a_part():
    model = build("marian")
    model.bridge.original_model.final_logits_bias.add_(torch.arange(50.0))
    case = case_of("marian")
    question = Question(torch.tensor([40, 30]), torch.tensor([10, 10]))
    found = direct.by_component(model, case.tokens, question, **case.beside)
    logits = model.run(case.tokens, **case.beside).logits[:, -1].double()
    assert found.sel(component="unembed bias").values.tolist() == [30, 20]
    assert found.values.sum(0) == pytest.approx((logits[[0, 1], [40, 30]] - logits[:, 10]).numpy(), abs=1e-5)


def test_an_encoder_decoder_s_two_attentions_are_asked_for_by_name():
    case = case_of("t5")
    with pytest.raises(ModelError, match="no attention 'self' writes into.* of t5 read; ask for 'decoder' or 'cross'"):
        direct.by_head(case.model, case.tokens, asked(case), **case.beside)
    with pytest.raises(ModelError, match="needs the decoder's tokens too"):
        direct.by_component(case.model, case.tokens, asked(case))


def test_a_head_s_contribution_is_what_taking_it_out_of_the_last_stream_changes_when_the_scale_is_frozen():
    case = case_of("native")
    model, question = case.model, asked(case)
    heads = direct.by_head(model, case.tokens, question)
    last, hook = "blocks.1.hook_resid_post", "blocks.1.attn.hook_z"
    run = case.run(read=[last, hook])
    final = run.activations[last][:, -1].double()
    z = run.activations[hook][:, -1].double()
    scale = (final - final.mean(-1, keepdim=True)).square().mean(-1, keepdim=True).sqrt()
    gain = model.bridge.ln_final.weight.detach().double()
    u = (model.W_U[:, question.answers] - model.W_U[:, question.wrong]).T.double()
    for head in range(2):
        written = z[:, head] @ model.weight("blocks.1.attn.W_O")[head].double()
        centred = written - written.mean(-1, keepdim=True)
        assert heads.values[1, head] == pytest.approx(((centred * gain / scale) * u).sum(-1).numpy(), rel=1e-3)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("attention-only", "layer 0 of attention-only has no MLP, so there are no neurons; use by_component or by_head"),
        ("mixtral", r"the MLP of layer 0 of mixtral is no single one \(a mixture of experts\); by_component has it whole"),
    ],
)
def test_models_without_plain_mlps_have_no_neurons_to_ask(shape, message):
    case = case_of(shape)
    with pytest.raises(ModelError, match=message):
        direct.by_neuron(case.model, case.tokens, asked(case))


def test_what_a_head_brings_to_a_log_probability_is_what_it_brings_to_the_logit():
    case = case_of("native")
    logit, probability = (asked(case, wrong=None, log_probability=log) for log in (False, True))
    found = [direct.by_source(case.model, case.tokens, question).values for question in (logit, probability)]
    assert found[0] == pytest.approx(found[1])
    assert direct.by_component(case.model, case.tokens, probability).coords["component"][-1] == "softmax"


def test_batches_make_no_difference():
    case = case_of("native")
    whole, cut = (direct.by_head(case.model, case.tokens, asked(case), batch=batch).values for batch in (8, 1))
    assert cut == pytest.approx(whole, abs=1e-6)


def test_a_model_whose_head_does_more_than_norm_and_unembed_is_refused():
    case = case_of("bert")
    with pytest.raises(
        ModelError, match="the logits of bert are more than a norm and an unembedding.*no sum of what its parts write"
    ):
        direct.by_component(case.model, case.tokens, asked(case))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"answers": torch.tensor([3, 77])}, "answers holds the id 77, but the model's vocabulary is 0 to 49"),
        ({"answers": torch.tensor([3])}, r"answers has shape \[1\] for 2 examples; give one token id per example"),
        ({"positions": 9}, "positions do not lie in rows of 7 tokens; give one place per example, or one for all"),
    ],
)
def test_answers_and_places_that_do_not_exist_are_refused(how, message):
    case = case_of("native")
    settings: dict[str, Any] = {"answers": torch.tensor([3, 4])} | how
    question = Question(**settings)
    with pytest.raises(ModelError, match=message):
        direct.by_component(case.model, case.tokens, question)


def test_parts_that_do_not_add_up_are_noticed(monkeypatch):
    case = case_of("native")
    monkeypatch.setattr(direct, "_embedded", lambda model, stream: {"embed": "hook_embed"})
    with pytest.raises(ModelError, match="the parts of native do not add up to its logits"):
        direct.by_component(case.model, case.tokens, asked(case))


def test_answers_that_hardly_differ_are_not_taken_for_parts_that_do_not_add_up():
    model = build("native")
    with torch.no_grad():  # two tokens whose logits are large and all but the same
        model.bridge.unembed.weight.mul_(1e3)
        model.bridge.unembed.weight[7] = model.bridge.unembed.weight[5] * (1 + 1e-6)
    tokens = torch.randint(50, (4, 6), generator=torch.Generator().manual_seed(0))
    question = Question(torch.full((4,), 5), torch.full((4,), 7))
    parts = direct.by_component(model, tokens, question).values.sum(0)
    assert np.abs(parts).max() < 0.1
