"""Attributions add up, do not depend on batching, and agree with what ablation does: exactly where the model is linear."""

import numpy as np
import pytest
import torch
from edge_cases import shaken
from model_shapes import case_of
from spliced_cases import made, most_of, tiny_model, tiny_tokens

from interp.errors import ConfigError, HookError
from interp.models.hooked import Model
from interp.sae import attribution, splicing
from interp.sae.activation_functions import ReLU, TopK
from interp.sae.attribution import Metric
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.splicing import Site

EARLY, MLP_IN, MLP_OUT, LAST = (
    "blocks.0.hook_resid_post", "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"
)  # fmt: skip
PROMPTS = [
    "left = Quorn(mud, zip)\nright = Quorn(mud,",
    "def add(first, second):\n    return first +",
    "import os\nimport sys\n\npath = os.path",
    "for index in range(10):\n    print(index",
    "class Node:\n    def __init__(self, value):\n        self.value =",
    "try:\n    open(name)\nexcept OSError as error:\n    raise",
    "x = [1, 2, 3]\ny = [4, 5, 6]\nz =",
    "if value is None:\n    return None\nelse:\n    return",
]


@pytest.fixture(scope="module")
def model():
    return tiny_model(2.0)


@pytest.fixture(scope="module")
def tokens():
    return tiny_tokens()


@pytest.fixture(scope="module")
def where(tokens):
    return most_of(tokens)


def along(direction, hook=LAST):
    """The sum over positions of the activation along a direction: linear in the residual stream."""
    return Metric(lambda run: (run.activations[hook] @ direction).sum(1), (hook,))


DIRECTION = torch.randn(16, generator=torch.Generator().manual_seed(4))
LOGITS = Metric(lambda run: run.logits[:, -1, 3] - run.logits[:, -1, 5])
LINEAR = {
    "autoencoder": lambda: Site(made(), MLP_OUT),
    "transcoder": lambda: Site(made(d_out=16), MLP_IN, MLP_OUT),
    "skip transcoder": lambda: Site(made(d_out=16, skip=True), MLP_IN, MLP_OUT),
}


@pytest.mark.parametrize("kind", LINEAR)
def test_where_the_rest_is_linear_attributions_are_the_effects_of_ablation(model, tokens, where, kind):
    site, metric = LINEAR[kind](), along(DIRECTION)
    found = attribution.by_gradient(model, site, tokens, metric, where=where)
    np.testing.assert_allclose(found.residual.values, 0, atol=1e-3 * np.abs(found.metric.values).max())
    every = torch.arange(40).expand(3, -1)
    effects = attribution.ablation_effects(model, site, tokens, metric, every, where=where)
    assert effects.abs().max() > 1, "nothing is proved by features that do nothing"
    np.testing.assert_allclose(found.features.values, effects.numpy(), rtol=1e-3, atol=1e-3 * float(effects.abs().max()))


def test_integrated_gradients_are_complete_and_one_gradient_is_not(model, tokens, where):
    site = Site(made(), EARLY)
    first = attribution.by_gradient(model, site, tokens, LOGITS, where=where)
    misses = [
        np.abs(attribution.by_integrated_gradients(model, site, tokens, LOGITS, where=where, steps=steps).residual.values).max()
        for steps in (8, 256)
    ]
    assert np.abs(first.residual.values).max() > 20 * misses[1]
    assert misses[1] < misses[0] / 4 and misses[1] < 0.02 * np.abs(first.metric.values).max()


def test_bias_features_rest_and_residual_make_up_the_metric(model, tokens, where):
    site = Site(made(), EARLY)
    found = attribution.by_gradient(model, site, tokens, LOGITS, where=where)
    bias = splicing.splice(site, where=where, change=torch.zeros_like)
    run = model.run(tokens, edits=bias)
    start = (run.logits[:, -1, 3] - run.logits[:, -1, 5]).double().numpy()
    whole = start + found.features.values.sum(1) + found.rest.values + found.residual.values
    np.testing.assert_allclose(whole, found.metric.values, rtol=1e-4, atol=1e-4)
    assert (found.rest.values != 0).all()


def test_an_example_s_attribution_does_not_depend_on_the_others(model, tokens, where):
    site = Site(made(), EARLY)
    together = attribution.by_integrated_gradients(model, site, tokens, LOGITS, where=where, steps=3)
    for row in range(3):
        part = slice(row, row + 1)
        alone = attribution.by_integrated_gradients(model, site, tokens[part], LOGITS, where=where[part], steps=3)
        np.testing.assert_allclose(alone.features.values[0], together.features.values[row], rtol=1e-3, atol=1e-3)


def test_what_is_not_marked_gets_no_share(model, tokens):
    site, one = Site(made(), EARLY), torch.zeros_like(tokens, dtype=torch.bool)
    one[:, 4] = True
    found = attribution.by_gradient(model, site, tokens, LOGITS, where=one)
    codes = site.encode(model.run(tokens, read=[EARLY]).activations[EARLY], one)
    shared = found.features.values != 0
    assert shared.sum() > 4 and (shared <= (codes != 0).numpy()).all()


def test_effects_of_features_on_later_features_are_virtual_weights_where_nothing_lies_between(model, tokens):
    where, targets = torch.ones_like(tokens, dtype=torch.bool), [0, 7, 21]
    upstream, downstream = Site(made(), MLP_OUT), Site(made(ReLU(), seed=9), LAST)
    found = attribution.feature_effects(model, upstream, downstream, tokens, targets, where=where)
    assert found.dims == ("example", "target", "latent") and found.values.shape == (3, 3, 40)
    weights = attribution.virtual_weights(upstream, downstream, range(40), targets).double()
    run = model.run(tokens, read=[MLP_OUT, LAST])
    sources = upstream.sae.encode(run.activations[MLP_OUT]).double()
    on = (downstream.sae.encode(run.activations[LAST])[..., targets] > 0).double()
    expected = torch.einsum("eps,ept,st->ets", sources, on, weights)
    np.testing.assert_allclose(found.values, expected.detach().numpy(), rtol=1e-3, atol=1e-4)
    assert np.abs(found.values).max() > 0.1


def test_effects_on_a_later_feature_are_what_ablation_does_to_its_code(model, tokens):
    where = torch.ones_like(tokens, dtype=torch.bool)
    upstream, downstream = Site(made(), MLP_OUT), Site(made(ReLU(), seed=9), LAST)
    with torch.no_grad():
        downstream.sae.b_enc.fill_(100.0)  # every later feature fires with and without the earlier one: the code is linear
    found = attribution.feature_effects(model, upstream, downstream, tokens, [7], where=where).values[:, 0]
    metric = attribution.codes_of(downstream, 7, where=where)
    effects = attribution.ablation_effects(model, upstream, tokens, metric, torch.arange(40).expand(3, -1), where=where)
    np.testing.assert_allclose(found, effects.numpy(), atol=2e-3 * float(effects.abs().max()))


@pytest.fixture(scope="module")
def shipped():
    """The shipped model, prompts, and random directions around the mean activation as an autoencoder."""
    model = Model.load("stdlib-4l")
    tokenizer = model.tokenizer
    assert tokenizer is not None and tokenizer.bos_id is not None
    ids = [[tokenizer.bos_id, *tokenizer.encode(text).ids] for text in PROMPTS]
    length = min(map(len, ids))
    tokens = torch.tensor([[row[0], *row[1 - length :]] for row in ids])
    where = torch.ones_like(tokens, dtype=torch.bool)
    where[:, 0] = False
    hook = "blocks.2.hook_resid_post"
    sae = SparseAutoencoder(192, 768, activation=TopK(16), seed=0)
    with torch.no_grad():
        sae.b_dec.copy_(model.run(tokens, read=[hook]).activations[hook][where].mean(0))
        sae.W_enc.mul_(10)
    best = model.run(tokens).logits[:, -1].argmax(-1)
    metric = Metric(lambda run: run.logits[torch.arange(len(best)), -1, best] - run.logits[:, -1].mean(-1))
    return model, Site(sae, hook), tokens, metric, where


def test_in_the_shipped_model_attributions_rank_features_as_ablation_does_and_shuffled_ones_do_not(shipped):
    model, site, tokens, metric, where = shipped
    found = attribution.by_gradient(model, site, tokens, metric, where=where)
    check = attribution.intervention_check(model, site, tokens, metric, found, where=where, n=10)
    assert set(check.groupby(["example", "source"]).size()) == {10} and not check.duplicated(["example", "latent"]).any()
    assert attribution.agreement(check).low > 0.9
    for source in ("attributed", "random"):
        assert attribution.agreement(check.query(f"source == {source!r}")).low > 0.6, source
    shuffled = check.assign(
        attribution=check.groupby("example").attribution.transform(lambda v: v.sample(frac=1, random_state=0).values)
    )
    assert attribution.agreement(shuffled).high < 0.4
    size = check.effect.abs().groupby(check.source).mean()
    assert size["attributed"] > 4 * size["random"], "the features that are named matter more than others that are active"


def test_integrated_gradients_explain_the_shipped_model_s_logit(shipped):
    model, site, tokens, metric, where = shipped
    found = attribution.by_integrated_gradients(model, site, tokens, metric, where=where, steps=16)
    assert np.abs(found.residual.values).max() < 0.01 * np.abs(found.metric.values).min()


@pytest.mark.parametrize("shape", ["t5", "vaswani-pre"])
@pytest.mark.parametrize(("stack", "positions"), [("encoder", 7), ("decoder", 5)])
@pytest.mark.parametrize("marked", [False, True])
def test_in_both_stacks_of_an_encoder_decoder_attributions_are_effects_where_the_rest_is_linear(shape, stack, positions, marked):
    case, site = case_of(shape), Site(made(), f"{stack}_blocks.1.hook_mlp_out")
    where = torch.ones(2, positions, dtype=torch.bool) if marked else None
    if where is not None:
        where[1, 3:] = False
    metric = along(DIRECTION, f"{stack}_blocks.1.hook_resid_post")
    found = attribution.by_gradient(case.model, site, case.tokens, metric, where=where, **case.beside)
    check = attribution.intervention_check(case.model, site, case.tokens, metric, found, where=where, n=5, **case.beside)
    assert len(check) >= 10
    np.testing.assert_allclose(check.attribution, check.effect, rtol=1e-3, atol=1e-4)


def test_what_source_features_add_to_a_target_feature_is_complete_along_the_path():
    model, inputs = shaken("vaswani-pre"), case_of("vaswani-pre")
    early, late = (
        Site(made(ReLU(), seed=seed), f"{stack}_blocks.1.hook_resid_post") for seed, stack in ((1, "encoder"), (5, "decoder"))
    )
    metric = attribution.codes_of(late, 3, where=None)
    coarse, fine = (
        attribution.by_integrated_gradients(model, early, inputs.tokens, metric, where=None, steps=steps, **inputs.beside)
        for steps in (1, 64)
    )
    assert np.abs(fine.features.values).max() > 0.1
    assert np.abs(fine.residual.values).max() < 0.1 * np.abs(coarse.residual.values).max()


def test_metrics_and_paths_that_make_no_sense_are_refused(model, tokens, where):
    site = Site(made(), EARLY)
    with pytest.raises(ConfigError, match=r"the metric gave shape \(3, 20\) for 3 examples; give one number per example"):
        attribution.by_gradient(model, site, tokens, Metric(lambda run: run.logits[:, -1]), where=where)
    with pytest.raises(ConfigError, match="steps=0 is no path; use at least 1"):
        attribution.by_integrated_gradients(model, site, tokens, LOGITS, where=where, steps=0)
    with pytest.raises(HookError, match="comes after everything that is read"):
        attribution.by_gradient(model, Site(made(), LAST), tokens, along(DIRECTION, EARLY), where=where)
    with pytest.raises(HookError, match="no position is marked"):
        attribution.by_gradient(model, site, tokens, LOGITS, where=torch.zeros_like(where))
    with pytest.raises(ConfigError, match=r"latents \[40\] are not among the 40"):
        attribution.codes_of(site, 40, where=where)
    other = Site(SparseAutoencoder(8, 16, activation=TopK(2)), LAST)
    with pytest.raises(ConfigError, match="written with 16 dimensions and blocks.1.hook_resid_post is read with 8"):
        attribution.virtual_weights(site, other, [0], [0])


def test_agreement_needs_features_to_rank(model, tokens, where):
    site = Site(made(), EARLY)
    found = attribution.by_gradient(model, site, tokens, LOGITS, where=where)
    check = attribution.intervention_check(model, site, tokens, LOGITS, found, where=where, n=1)
    with pytest.raises(ConfigError, match="no example has three features"):
        attribution.agreement(check.query("source == 'attributed'"))
