"""Scores follow their definitions, do not depend on batching, and loss recovered knows its two ends."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from spliced_cases import tiny_model
from torch.nn import functional as F

from interp.errors import HookError, TrainingError
from interp.models.hooked import Edit
from interp.sae import evaluation
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.text.packing import TokenBatch

HOOK = "blocks.0.hook_resid_post"


@pytest.fixture
def sae():
    return SparseAutoencoder(16, 40, activation=TopK(4), seed=1)


@pytest.fixture
def x():
    return 2 * torch.randn(500, 16, generator=torch.Generator().manual_seed(0)) + 3


class Perfect(SparseAutoencoder):
    def forward(self, x):
        return x


class Nothing(SparseAutoencoder):
    def forward(self, x):
        return torch.zeros_like(x)


def test_scores_equal_their_definitions(sae, x):
    scores = evaluation.evaluate(sae, [x])
    codes, guess, x64 = sae.encode(x).detach(), sae(x).detach().double(), x.double()
    spread = x64.square().sum() - len(x) * x64.mean(0).square().sum()
    assert scores.tokens == 500
    assert scores.l0.value == pytest.approx(float((codes != 0).sum() / 500))
    assert scores.fvu.value == pytest.approx(float((x64 - guess).square().sum() / spread))
    assert scores.explained_variance.value == 1 - scores.fvu.value
    assert scores.l2_ratio.value == pytest.approx(float((guess.norm(dim=1) / x64.norm(dim=1)).mean()))
    assert scores.bias.value == pytest.approx(float(guess.square().sum() / (guess * x64).sum()))
    np.testing.assert_allclose(scores.density, (codes != 0).double().mean(0))
    assert scores.dead == np.mean(scores.density == 0)


def test_scores_and_intervals_do_not_depend_on_how_the_stream_is_cut(sae, x):
    whole = evaluation.evaluate(sae, [x])
    parts = evaluation.evaluate(sae, x.split([1, 7, 92, 400]))
    assert parts.l0 == whole.l0 and parts.dead == whole.dead
    for one, other in ((parts.fvu, whole.fvu), (parts.bias, whole.bias), (parts.l2_ratio, whole.l2_ratio)):
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), rel=1e-6)


def test_the_ratio_is_of_sums_and_not_the_mean_of_batches(sae, x):
    loud = torch.cat([x, 30 * x[:50]])
    parts = [x, 30 * x[:50]]
    mean = np.mean([evaluation.evaluate(sae, [part]).fvu.value for part in parts])
    assert evaluation.evaluate(sae, parts).fvu.value == pytest.approx(evaluation.evaluate(sae, [loud]).fvu.value, rel=1e-6)
    assert abs(mean - evaluation.evaluate(sae, [loud]).fvu.value) > 0.01


def test_a_constant_added_to_the_reconstruction_costs_variance(sae, x):
    before = evaluation.evaluate(sae, [x]).fvu.value
    sae.b_dec.data += x.mean(0)
    centred = evaluation.evaluate(sae, [x]).fvu.value
    sae.decode = lambda codes: SparseAutoencoder.decode(sae, codes) + 5
    assert evaluation.evaluate(sae, [x]).fvu.value > before > centred


def test_negative_codes_count_as_active(sae, x):
    codes = sae.encode(x)
    sae.encode = lambda rows: -codes
    assert evaluation.evaluate(sae, [x]).l0.value == 4


def test_folded_scales_change_no_score(sae, x):
    sae.scale, sae.scale_out = torch.tensor(0.25), torch.tensor(0.25)
    one, other = evaluation.evaluate(sae, [x]), evaluation.evaluate(sae.folded(), [x])
    assert one.l0 == other.l0 and one.fvu.value == pytest.approx(other.fvu.value, rel=1e-5)


def documents(x, document):
    return SimpleNamespace(activations={"h": x}, document=document)


def test_intervals_resample_documents_where_they_are_known(sae):
    generator = torch.Generator().manual_seed(0)
    loudness = torch.randn(20, generator=generator).exp().repeat_interleave(100)  # what the rows of a document share
    x = torch.randn(2000, 16, generator=generator) * loudness[:, None]
    of_documents = evaluation.evaluate(sae, [documents(x, torch.arange(2000) // 100)])
    of_rows = evaluation.evaluate(sae, [documents(x, torch.arange(2000))])
    assert (of_documents.fvu.n, of_rows.fvu.n) == (20, evaluation.UNITS)
    assert of_documents.fvu.value == pytest.approx(of_rows.fvu.value)
    assert of_documents.bias.low < of_documents.bias.value < of_documents.bias.high


def test_intervals_cover_the_truth_about_as_often_as_they_say(sae):
    generator = torch.Generator().manual_seed(1)

    def stream(n):
        there = torch.randn(n, 1, 1, generator=generator).exp()  # every document has a loudness of its own
        return (torch.randn(n, 20, 16, generator=generator) * there).reshape(-1, 16)

    truth = evaluation.evaluate(sae, [stream(5_000)])
    hits, errors = 0, []
    for _ in range(25):
        found = evaluation.evaluate(sae, [documents(stream(60), torch.arange(1200) // 20)])
        hits += found.l2_ratio.low <= truth.l2_ratio.value <= found.l2_ratio.high
        errors.append((found.density - truth.density) / found.density_error)
    assert 20 <= hits <= 25
    assert np.std(errors) == pytest.approx(1, abs=0.15)


def test_activations_that_never_vary_have_no_share_of_variance(sae):
    scores = evaluation.evaluate(sae, [torch.ones(4, 16)])
    assert np.isnan(scores.fvu.value) and np.isfinite(scores.l2_ratio.value)


def test_a_transcoder_is_scored_against_its_targets(x):
    transcoder = SparseAutoencoder(16, 40, d_out=6, skip=True, activation=TopK(4), seed=1)
    assert transcoder.W_skip is not None
    torch.nn.init.normal_(transcoder.W_skip, generator=torch.Generator().manual_seed(2))
    targets = (x @ transcoder.W_skip).detach()
    made = transcoder(x).detach()
    scores = evaluation.evaluate(transcoder, zip(x.split(100), targets.split(100), strict=True))
    error = (targets - made).double().square().sum()
    assert scores.fvu.value == pytest.approx(float(error / (targets - targets.mean(0)).double().square().sum()), rel=1e-5)
    batch = SimpleNamespace(activations={"in": x, "out": targets}, document=torch.arange(500) // 50)
    assert evaluation.evaluate(transcoder, [batch], hook="in", target="out").fvu.value == pytest.approx(scores.fvu.value)
    with pytest.raises(TrainingError, match=r"targets of shape \(500, 16\) do not fit reconstructions of shape \(500, 6\)"):
        evaluation.evaluate(transcoder, [x])


def test_a_crosscoder_is_scored_part_by_part(x):
    crosscoder = SparseAutoencoder(16, 40, activation=TopK(4), parts={"early": 4, "late": 12}, seed=1)
    scores = evaluation.evaluate(crosscoder, [x])
    misses = (x - crosscoder(x).detach()).double().square().sum(0)
    spread = (x - x.mean(0)).double().square().sum(0)
    assert scores.parts["early"].value == pytest.approx(float(misses[:4].sum() / spread[:4].sum()), rel=1e-5)
    assert scores.parts["late"].value == pytest.approx(float(misses[4:].sum() / spread[4:].sum()), rel=1e-5)
    assert scores.fvu.value == pytest.approx(float(misses.sum() / spread.sum()), rel=1e-5)


def test_an_empty_stream_and_rows_of_another_size_are_refused(sae):
    with pytest.raises(TrainingError, match="there are no activations to evaluate on"):
        evaluation.evaluate(sae, [])
    with pytest.raises(TrainingError, match="d_in=16"):
        evaluation.evaluate(sae, [torch.zeros(3, 4)])


@pytest.fixture(scope="module")
def model():
    return tiny_model(4.0)


@pytest.fixture(scope="module")
def batches(model):
    tokens = torch.randint(1, 20, (4, 12), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0
    for position in range(1, 12):  # what the model itself would say, so that harming it costs loss
        tokens[:, position] = model.run(tokens, logits=True).logits[:, position - 1, 1:].argmax(-1) + 1
    is_text = torch.ones_like(tokens, dtype=torch.bool)
    is_text[:, 0] = False
    is_text[3, 8:] = False
    where = torch.where(is_text, torch.arange(12), -1)
    document = torch.where(is_text, torch.arange(4)[:, None], -1)
    padding = torch.zeros_like(is_text)
    padding[3, 8:] = True
    whole = TokenBatch(tokens, document, where, where, where, is_text, padding)
    return [whole]


def test_a_perfect_autoencoder_recovers_all_and_an_empty_one_nothing(model, batches):
    perfect = evaluation.loss_recovered(model, Perfect(16, 8, activation=TopK(1)), HOOK, batches)
    nothing = evaluation.loss_recovered(model, Nothing(16, 8, activation=TopK(1)), HOOK, batches)
    assert perfect.tokens == 3 * 11 + 7
    for estimate in (perfect.ce, perfect.kl):
        assert estimate.value == pytest.approx(1, abs=1e-5) and estimate.n == 4
    for estimate in (nothing.ce, nothing.kl):
        assert estimate.value == pytest.approx(0, abs=1e-9)
    assert set(perfect.losses) == {"original", "autoencoder", "mean", "zero"}
    assert perfect.losses["original"] == pytest.approx(perfect.losses["autoencoder"], abs=1e-5) and perfect.losses["zero"] > 0.5
    assert perfect.kl_mean.value < 0.9


def test_bos_and_padding_keep_their_activations(model, batches):
    (batch,) = batches
    nothing = evaluation.loss_recovered(model, Nothing(16, 8, activation=TopK(1)), HOOK, batches)

    def silence(activation):
        return activation * ~batch.is_text[..., None]

    logits = model.run(batch.tokens, edits=[Edit(HOOK, silence)]).logits[:, :-1][batch.is_text[:, 1:]]
    loss = F.cross_entropy(logits.double(), batch.tokens[:, 1:][batch.is_text[:, 1:]])
    assert nothing.losses["zero"] == pytest.approx(float(loss), rel=1e-6)
    everywhere = model.run(batch.tokens, edits=[Edit(HOOK, torch.zeros_like)]).logits[:, :-1][batch.is_text[:, 1:]]
    assert not torch.allclose(everywhere, logits, atol=1e-3), "a silent BOS would show"


class Block(SparseAutoencoder):
    """Reads several activations and writes the given ones: what a perfect transcoder or crosscoder would write."""

    held: torch.Tensor

    def forward(self, x):
        return self.held


def test_a_perfect_transcoder_recovers_all_and_one_that_writes_the_wrong_rows_does_not(model, batches):
    (batch,) = batches
    read, write = "blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out"
    transcoder = Block(16, 8, d_out=16, activation=TopK(1))
    transcoder.held = model.run(batch.tokens, read=[write]).activations[write][batch.is_text]
    assert evaluation.loss_recovered(model, transcoder, read, batches, target=write).ce.value == pytest.approx(1, abs=1e-5)
    transcoder.held = transcoder.held.flip(0)
    assert evaluation.loss_recovered(model, transcoder, read, batches, target=write).ce.value < 0.9


def test_a_crosscoder_replaces_all_its_hooks_at_once(model, batches):
    hooks = [HOOK, "blocks.1.attn.hook_z"]
    perfect = evaluation.loss_recovered(model, Perfect(32, 8, activation=TopK(1)), hooks, batches)
    nothing = evaluation.loss_recovered(model, Nothing(32, 8, activation=TopK(1)), hooks, batches)
    assert (perfect.ce.value, nothing.ce.value) == (pytest.approx(1, abs=1e-5), pytest.approx(0, abs=1e-9))
    with pytest.raises(
        HookError, match="reconstructions of size 16 do not fit blocks.0.hook_resid_post, blocks.1.attn.hook_z of size 32"
    ):
        evaluation.loss_recovered(model, Perfect(16, 8, activation=TopK(1)), HOOK, batches, target=hooks)


def test_an_unknown_hook_is_refused(model, batches):
    with pytest.raises(HookError):
        evaluation.loss_recovered(model, Perfect(16, 8, activation=TopK(1)), "blocks.0.hook_resid_pots", batches)
