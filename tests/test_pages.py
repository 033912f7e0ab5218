"""Feature pages say of a direction what the model does with it, wherever in the model it lies."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from interp import pages
from interp.activations import harvest
from interp.models.hooked import Model
from interp.models.norms import folded
from interp.sae import features
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.text.labelled import LabelledText
from interp.text.packing import TokenBatch

CONFIG = {"d_model": 16, "d_head": 8, "n_heads": 2, "n_layers": 2, "n_ctx": 12, "d_vocab": 20, "d_mlp": 32, "act_fn": "gelu"}


@pytest.fixture(scope="module")
def model():
    return Model.native(CONFIG, seed=0)


@pytest.fixture(scope="module")
def text():
    tokens = torch.randint(0, 20, (6, 12), generator=torch.Generator().manual_seed(0))
    document, position = torch.arange(6)[:, None].expand(6, 12), torch.arange(12).expand(6, 12)
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    batch = TokenBatch(tokens, document, position, position, position, everywhere, ~everywhere)
    flat = tokens.flatten().numpy()
    return LabelledText(
        [batch], flat, document.flatten().numpy(), position.flatten().numpy(), {"even": flat % 2 == 0, "seven": flat == 7},
        np.arange(0, 73, 12), tuple(f"{i}.py" for i in range(6)), [f"t{i}" for i in range(20)],
    )  # fmt: skip


def explained(n):
    rows = [
        {"column": column, "source": source, "rule": rule, "precision": 0.9 - 0.8 * (source == "shuffled"), "recall": 0.5}
        for column, rule in zip(range(n), ["even", "", *["t"] * n], strict=False)
        for source in ("columns", "shuffled")
    ]
    return pd.DataFrame(rows)


def dashboard(model, text, hook, d_in=16):
    sae = SparseAutoencoder(d_in, 24, activation=TopK(3), seed=1)
    seen = list(harvest(model, text.batches, [hook]))
    codes = features.codes(sae, torch.cat([batch.activations[hook] for batch in seen]))
    book = features.collect(sae, seen, features=[0, 1, 5], top=3, per_quantile=1, negatives=2)
    best = pd.DataFrame([{"label": "even", "column": 5, "f1": 0.7}])
    return sae, pages.feature_dashboard(model, sae, hook, text, sparse.csc_array(codes), book, best, explained(6))


def test_a_page_has_examples_rules_beside_their_null_heads_and_what_the_feature_is_best_for(model, text):
    _, shown = dashboard(model, text, "blocks.1.hook_resid_post")
    first, second, best = shown.features
    assert first.rule is not None
    assert (first.rule.text, first.rule.precision, first.rule.null_precision) == ("even", 0.9, pytest.approx(0.1))
    assert second.rule is None
    assert best.explanation == "The best of all features for even." and best.metrics == {"F1": 0.7}
    assert {example.group for example in first.examples} >= {"Top activations", "Random negatives"}
    assert {name for name, _ in first.attribution} == {"L0H0", "L0H1", "L1H0", "L1H1"}
    assert shown.total == 24 and shown.tokens_scanned == 72
    assert "chance 0.71" in shown.attribution_score
    assert len(shown.payload()) > 100


@pytest.mark.parametrize(
    ("hook", "heads"),
    [
        ("blocks.1.hook_resid_pre", {"L0H0", "L0H1"}),
        ("blocks.0.hook_resid_pre", set()),
        ("blocks.1.hook_attn_out", {"L1H0", "L1H1"}),
        ("blocks.1.attn.hook_z", {"L1H0", "L1H1"}),
        ("blocks.0.hook_mlp_out", set()),
    ],
)
def test_only_heads_that_write_into_the_hook_are_named(model, text, hook, heads):
    _, shown = dashboard(model, text, hook)
    assert {name for name, _ in shown.features[0].attribution} == heads


def test_directions_of_head_outputs_reach_the_logits_through_w_o(model, text):
    sae, shown = dashboard(model, text, "blocks.1.attn.hook_z")
    written = torch.einsum("hd,hdm->m", sae.W_dec.detach()[0].view(2, 8), model.weight("blocks.1.attn.W_O").detach())
    effect = features.logit_effects(written[None], folded(model, "ln_final", model.W_U))[0]
    assert shown.features[0].boosted[0] == (effect.argmax(), pytest.approx(effect.max()))


def test_directions_outside_the_residual_stream_have_no_logit_effects(model, text):
    _, shown = dashboard(model, text, "blocks.0.mlp.hook_post", d_in=32)
    assert shown.features[0].boosted == [] and shown.features[0].attribution == []


def test_places_that_are_none_give_no_example(text):
    values = np.arange(72, dtype=np.float32)
    found = pages.examples(text, values, np.array([2, -1]), np.array([3, 0]), "group")
    (example,) = found
    assert (example.document, example.position, example.focus) == ("2.py", 0, 3)
    assert list(example.activations) == list(range(24, 36))


def test_the_directions_of_a_crosscoder_are_no_place_in_the_residual_stream():
    model, directions = Model.load("stdlib-4l"), torch.ones(2, 384)
    both = "blocks.2.hook_resid_post + blocks.3.hook_resid_post"
    assert pages._in_residual(model, both, directions) is None
    assert pages._in_residual(model, "blocks.2.hook_resid_post", directions[:, :192]) is not None
