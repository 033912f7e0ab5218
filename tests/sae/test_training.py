"""The loop recovers planted features, follows the dense reference, keeps dead latents alive, and stops with a reason."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from interp.errors import TrainingError
from interp.sae import feeds, objectives, training
from interp.sae.activation_functions import TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.learner import Run
from interp.sae.recovery import recovery
from interp.sae.synthetic import planted


def autoencoder(d_in=16, d_sae=32, k=2, seed=0):
    return SparseAutoencoder(d_in, d_sae, activation=TopK(k), seed=seed)


def stream(count=30, rows=128, d=16, n=32):
    return list(planted(n, d, commonest=0.1, rarest=0.02).batches(rows, count))


def loss_of(sae, rows, dead):
    return objectives.Reconstruction()(sae, rows, rows, objectives.Moment(0.0, dead, 0.0)).loss


def test_planted_features_are_recovered_and_a_random_dictionary_has_not_found_them():
    truth = planted(64, 32, commonest=0.05, rarest=0.02)
    sae = autoencoder(32, 64, k=3)
    history = training.train(sae, truth.batches(512, 400), steps=400)
    mmcs, found = recovery(sae.W_dec, truth.dictionary)
    control, _ = recovery(autoencoder(32, 64, seed=9).W_dec, truth.dictionary)
    assert mmcs > 0.9 and found > 0.85 and control < 0.6
    assert history.last["fvu"] < 0.15 < history.rows[0]["fvu"]


@pytest.mark.slow
def test_95_of_100_of_512_features_in_64_dimensions_are_found_within_two_million_tokens():
    truth = planted(512, 64)
    sae = autoencoder(64, 512, k=3)
    training.train(sae, truth.batches(1024, 1953), steps=1953)
    assert recovery(sae.W_dec, truth.dictionary)[1] >= 0.95


def test_training_is_the_same_every_time_and_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second = autoencoder(), autoencoder()
    for sae in (first, second):
        training.train(sae, stream(), steps=30)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


class Dense(objectives.Reconstruction):
    """The same loss through dense matrices and autograd alone."""

    def __call__(self, sae, inputs, targets, moment):
        codes = sae.activation((inputs - sae.b_dec) @ sae.W_enc + sae.b_enc)
        error = targets - codes @ sae.W_dec - sae.b_dec
        loss = error.square().sum(-1).mean()
        if moment.dead.any():
            loss = loss + objectives.AUX_WEIGHT * objectives.auxk(sae, inputs, error.detach(), moment.dead)
        return objectives.Outcome(loss, error.detach(), (codes != 0).sum(0))


def test_the_sparse_objective_trains_like_the_dense_reference():
    runs = {}
    for objective in (objectives.Reconstruction(), Dense()):
        sae = autoencoder()
        runs[type(objective)] = training.train(
            sae, stream(60), steps=60, objective=objective, dead_after=500, log_every=20
        ).table()
    sparse, dense = runs.values()
    assert sparse.loss.to_numpy() == pytest.approx(dense.loss.to_numpy(), rel=1e-3)
    assert sparse.l0.to_numpy() == pytest.approx(dense.l0.to_numpy(), rel=1e-2)


def test_auxk_reaches_the_encoder_of_latents_whose_pre_activations_are_all_negative():
    sae = autoencoder()
    with torch.no_grad():
        sae.b_enc[:4] = -50.0
    dead = torch.arange(32) < 4
    rows = stream(1)[0]
    loss = loss_of(sae, rows, dead)
    gradient, bias = torch.autograd.grad(loss, [sae.W_enc, sae.b_enc])
    assert (gradient[:, :4].norm(dim=0) > 0).all() and (bias[:4] != 0).all()
    without = torch.autograd.grad(loss_of(sae, rows, torch.zeros_like(dead)), [sae.W_enc])[0]
    assert (without[:, :4] == 0).all()


def test_auxk_leaves_the_decoder_bias_to_the_main_loss():
    sae = autoencoder()
    with torch.no_grad():
        sae.b_dec.add_(1.0)
    rows = stream(1)[0]
    gradients = [
        torch.autograd.grad(loss_of(sae, rows, dead), [sae.b_dec])[0]
        for dead in (torch.zeros(32, dtype=torch.bool), torch.arange(32) < 4)
    ]
    torch.testing.assert_close(*gradients)


def test_latents_buried_at_the_start_come_back_to_life():
    rows = stream(300)
    dead = {}
    for dead_after in (1_000, 10**9):
        sae = autoencoder()
        with torch.no_grad():
            sae.b_enc[:16] = -0.5
        training.train(sae, rows, steps=300, dead_after=dead_after)
        dead[dead_after] = float((sae.encode(torch.cat(rows[:20])) == 0).all(0).float().mean())
    assert dead[1_000] < 0.2 and dead[10**9] > 0.4


def test_dead_latents_are_counted_in_tokens():
    sae = autoencoder()
    with torch.no_grad():
        sae.b_enc[:8] = -1e6
    rows = stream(10, rows=100)
    history = training.train(sae, rows, steps=10, dead_after=500, log_every=1, learning_rate=1e-9)
    dead = history.table().dead.to_numpy()
    assert (dead[:4] == 0).all() and (dead[4:] >= 0.25).all()


def test_the_input_scale_makes_offset_and_unit_of_the_data_irrelevant():
    fvu = []
    for factor, offset in ((1.0, 0.0), (100.0, 500.0)):
        sae = autoencoder()
        history = training.train(sae, [factor * rows + offset for rows in stream()], steps=30)
        fvu.append(history.last["fvu"])
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(32))
    assert fvu[1] == pytest.approx(fvu[0], rel=0.02)


def test_history_is_json_and_progress_sees_every_row():
    seen = []
    history = training.train(
        autoencoder(), stream(25), steps=25, log_every=10, progress=lambda run, row: seen.append({"run": run} | row)
    )
    assert json.loads(json.dumps([{"run": "sae"} | row for row in history.rows])) == seen
    assert [row["step"] for row in seen] == [10, 20, 25]
    assert history.last["tokens"] == 25 * 128 and 0 < history.last["l0"] <= 2
    spent = {"tokens_per_second", "seconds_left"}
    assert (
        set(history.last) == {"step", "tokens", "dead", "learning_rate", "sparsity", "loss", "fvu", "l0", "gradient_norm"} | spent
    )
    left = [row["seconds_left"] * row["tokens_per_second"] for row in seen]
    assert left == pytest.approx([15 * 128, 5 * 128, 0])


def test_activation_batches_give_the_rows_of_their_hook():
    rows = stream()
    first, second = autoencoder(), autoencoder()
    training.train(first, rows, steps=30)
    training.train(second, [SimpleNamespace(activations={"a": x, "b": -x}) for x in rows], steps=30, hook="a")
    assert torch.equal(first.W_enc, second.W_enc)
    with pytest.raises(TrainingError, match="hook 'c' is not in these activations, which hold a, b; pass hook= one of them"):
        training.train(autoencoder(), [SimpleNamespace(activations={"a": rows[0], "b": rows[0]})], steps=1, hook="c")


def test_sorting_latents_by_how_often_they_fire_only_renumbers_them():
    rows = stream()
    sorted_, plain = autoencoder(), autoencoder()
    training.train(sorted_, rows, steps=30, objective=objectives.Reconstruction(resort_every=10))
    training.train(plain, rows, steps=30)
    torch.testing.assert_close(sorted_(rows[0]), plain(rows[0]), rtol=1e-3, atol=1e-4)
    fired = [(sae.encode(torch.cat(rows[20:])) > 0).sum(0) for sae in (sorted_, plain)]
    assert (fired[0][:8].double().mean() > 1.5 * fired[0][-8:].double().mean()) and sorted(fired[0]) == sorted(fired[1])


def test_runs_that_read_different_hooks_share_a_stream():
    rows = stream()
    batches = [SimpleNamespace(activations={"a": x, "b": -3 * x}) for x in rows]
    runs = {name: Run(sae=autoencoder(), hook=name) for name in ("a", "b")}
    training.train_many(runs, batches, steps=30)
    for name, factor in (("a", 1), ("b", -3)):
        alone = autoencoder()
        training.train(alone, [factor * x for x in rows], steps=30)
        assert torch.equal(runs[name].sae.W_enc, alone.W_enc)
    assert not torch.equal(runs["a"].sae.W_enc, runs["b"].sae.W_enc)


def test_each_batch_is_read_once_for_a_whole_sweep(monkeypatch):
    read = []
    rows = feeds.Feed.rows
    monkeypatch.setattr(feeds.Feed, "rows", lambda self, batch, index: read.append(index) or rows(self, batch, index))
    training.train_many({f"k={k}": Run(sae=autoencoder(k=k)) for k in (1, 2, 4)}, stream(), steps=30)
    assert read == list(range(30))


def test_a_transcoder_finds_what_is_written_for_planted_features():
    truth = planted(64, 32, commonest=0.05, rarest=0.02)
    turned = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0))).Q[:, :24]
    sae = SparseAutoencoder(32, 64, activation=TopK(3), d_out=24)
    control = recovery(sae.W_dec, F.normalize(truth.dictionary @ turned, dim=1))[0]
    history = training.train(sae, [(x, x @ turned) for x in truth.batches(512, 400)], steps=400)
    assert recovery(sae.W_dec, F.normalize(truth.dictionary @ turned, dim=1))[0] > 0.85 > 0.65 > control
    assert history.last["fvu"] < 0.3


def test_a_crosscoder_reads_its_hooks_side_by_side():
    batches = [SimpleNamespace(activations={"early": x, "late": 50 * x.flip(1)}) for x in stream(60)]
    sae = SparseAutoencoder(32, 32, activation=TopK(2), parts={"early": 16, "late": 16})
    history = training.train(sae, batches, steps=60, hook=("early", "late"))
    early, late = sae.W_dec.detach().split(16, dim=1)
    assert history.last["fvu"] < 0.5
    assert float(F.cosine_similarity(early, late.flip(1), dim=1).mean()) > 0.6


@pytest.mark.parametrize(
    ("batches", "steps", "message"),
    [
        ([], 3, "the stream of activations is empty"),
        (stream(2), 3, "the stream ended after 2 of 3 batches; pass steps=2, or a longer stream"),
        (stream(2), 0, "steps=0, .* train nothing; use 1 or more of each"),
        ([torch.zeros(9, 5)], 1, r"batch 0 of shape \(9, 5\).* d_in=16"),
        ([torch.zeros(2, 3, 16)], 1, r"batch 0 has shape \(2, 3, 16\); training wants rows"),
        ([stream(1)[0], torch.full((4, 16), float("inf"))], 2, "batch 1 holds 64 non-finite values of 64"),
        ([torch.zeros(4, 16, dtype=torch.int64)], 1, "torch.int64"),
    ],
)
def test_a_stream_that_cannot_be_trained_on_is_refused(batches, steps, message):
    with pytest.raises(TrainingError, match=message):
        training.train(autoencoder(), batches, steps=steps)


def test_a_loss_that_is_no_number_stops_before_the_weights_are_touched():
    class Broken(objectives.Reconstruction):
        def __call__(self, sae, inputs, targets, moment):
            outcome = super().__call__(sae, inputs, targets, moment)
            return objectives.Outcome(outcome.loss * float("nan"), outcome.error, outcome.fired)

    sae = autoencoder()
    before = F.normalize(sae.W_dec.detach().clone(), dim=1)
    with pytest.raises(TrainingError, match=r"the loss of sae became nan at batch 0 \(token 0\); lower learning_rate"):
        training.train(sae, stream(2), steps=2, objective=Broken())
    torch.testing.assert_close(sae.W_dec.detach(), before)
