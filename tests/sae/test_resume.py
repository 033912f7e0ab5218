"""A training that was stopped ends with the bits of one that was not, wherever and however often it stopped."""

import itertools
import json

import pytest
import torch

from interp.errors import StoreError, TrainingError
from interp.sae import objectives, training
from interp.sae.activation_functions import BatchTopK, ReLU, TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.learner import Learner, Run
from interp.sae.resampling import Resampling
from interp.sae.schedules import Schedule
from interp.sae.synthetic import planted
from interp.sae.training import train, train_many

D, M, STEPS = 16, 32, 60
TRUTH = planted(M, D, commonest=0.1, rarest=0.02)
SPENT = ("tokens_per_second", "seconds_left")


@pytest.fixture(scope="module", autouse=True)
def short_head():
    """Scales measured on the first batch alone, so that a stop can come right after it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "CALIBRATION", 1)
        yield


def stream(start):
    return TRUTH.batches(64, STEPS, start=start)


def sweep(learning_rate=None):
    """Autoencoders with all that a trainer remembers: dead latents, resampling, a controller, sorted latents, a threshold."""

    def sae(activation, seed=0):
        network = SparseAutoencoder(D, M, activation=activation, seed=seed)
        with torch.no_grad():
            network.b_enc[:8] = -1.0
        return network

    return {
        "topk": Run(sae=sae(TopK(2)), dead_after=500, learning_rate=learning_rate),
        "relu": Run(
            sae=sae(ReLU(), 1),
            objective=objectives.Lasso(target_l0=3.0, unit_decoder=False),
            dead_after=300,
            resampling=Resampling(every=9),
        ),
        "matryoshka": Run(
            sae=sae(BatchTopK(2), 2),
            objective=objectives.Reconstruction(widths=(8, 16), k_start=4, resort_every=11),
            schedule=Schedule(decay=0.2),
        ),
    }


def until(batches, stop):
    """The stream, cut off by an error, as a harvest may be."""
    yield from itertools.islice(batches, stop)
    raise ConnectionError("the harvest broke off")


def stopped(folder, stops, *, steps=STEPS, every=1):
    """The sweep, interrupted after each of these steps."""
    for stop in stops:
        with pytest.raises(ConnectionError):
            train_many(
                sweep(),
                lambda start, stop=stop: until(stream(start), stop - start),
                steps=steps,
                directory=folder,
                checkpoint_every=every,
                log_every=7,
                resume=True,
            )
        assert (folder / f"checkpoint-{stop // every * every:08d}.json").exists()
    runs = sweep()
    histories = train_many(runs, stream, steps=steps, directory=folder, log_every=7, resume=True)
    return runs, histories


@pytest.fixture(scope="module")
def whole():
    runs = sweep()
    return runs, train_many(runs, stream, steps=STEPS, log_every=7)


def rows_of(histories):
    return {
        name: [{key: value for key, value in row.items() if key not in SPENT} for row in history.rows]
        for name, history in histories.items()
    }


def assert_equal(got, expected):
    for name, run in expected[0].items():
        state = got[0][name].sae.state_dict()
        assert all(torch.equal(state[key], value) for key, value in run.sae.state_dict().items()), name
    assert rows_of(got[1]) == rows_of(expected[1])


def test_the_sweep_really_has_something_to_remember(whole):
    runs, histories = whole
    assert max(row["dead"] for row in histories["relu"].rows) > 0
    assert len({row["sparsity"] for row in histories["relu"].rows[2:]}) > 1
    assert not torch.equal(runs["topk"].sae.W_enc, sweep()["topk"].sae.W_enc)


def test_stops_in_the_middle_of_everything_change_no_bit(whole, tmp_path):
    assert_equal(stopped(tmp_path, [1, 10, 13, 30, 59]), whole)


def test_steps_after_the_last_checkpoint_are_taken_and_logged_again(whole, tmp_path):
    assert_equal(stopped(tmp_path, [29], every=8), whole)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    expected = {(name, row["step"], row["loss"]) for name, history in whole[1].items() for row in history.rows}
    assert {(row["run"], row["step"], row["loss"]) for row in log} == expected and len(log) == len(expected)


@pytest.mark.slow
def test_twenty_random_stops_change_no_bit(whole, tmp_path):
    for stop in torch.randperm(STEPS - 1, generator=torch.Generator().manual_seed(4))[:20].tolist():
        assert_equal(stopped(tmp_path / str(stop), [stop + 1], every=stop + 1), whole)


def test_an_autoencoder_trains_to_the_same_bits_in_a_sweep_and_alone(whole):
    alone = sweep()["topk"]
    train(alone.sae, stream(0), steps=STEPS, dead_after=500)
    assert torch.equal(alone.sae.W_enc, whole[0]["topk"].sae.W_enc)


def test_a_finished_training_is_resumed_to_its_end_without_reading_a_batch(whole, tmp_path):
    stopped(tmp_path, [])
    runs = sweep()
    histories = train_many(runs, lambda start: until(stream(start), 0), steps=STEPS, directory=tmp_path, resume=True)
    assert_equal((runs, histories), whole)


def test_a_plain_iterable_is_resumed_by_reading_what_came_before(tmp_path):
    batches = list(stream(0))
    whole, again = (SparseAutoencoder(D, M, activation=TopK(2)) for _ in range(2))
    train(whole, batches, steps=STEPS)
    with pytest.raises(ConnectionError):
        train(again, until(batches, 20), steps=STEPS, directory=tmp_path, checkpoint_every=20)
    train(again, iter(batches), steps=STEPS, directory=tmp_path, resume=True)
    assert torch.equal(whole.W_dec, again.W_dec)


def test_another_stream_is_noticed(tmp_path):
    with pytest.raises(ConnectionError):
        train_many(sweep(), until(stream(0), 20), steps=STEPS, directory=tmp_path, checkpoint_every=20)
    other = list(TRUTH.batches(64, STEPS, seed=1))
    with pytest.raises(
        TrainingError, match="batch 19 is not the one that was trained on; pass the same stream, with the same seed"
    ):
        train_many(sweep(), other, steps=STEPS, directory=tmp_path, resume=True)
    with pytest.raises(TrainingError, match="the stream ends before the place where training stopped"):
        train_many(sweep(), other[:5], steps=STEPS, directory=tmp_path, resume=True)


def test_a_checkpoint_of_another_training_is_refused_naming_every_setting_that_differs(tmp_path):
    train_many(sweep(), stream, steps=STEPS, directory=tmp_path)
    others = sweep(learning_rate=0.5)
    others["relu"] = Run(sae=SparseAutoencoder(D, M, activation=ReLU()), objective=objectives.Lasso(target_l0=4.0))
    with pytest.raises(StoreError) as error:
        train_many(others, stream, steps=99, directory=tmp_path, resume=True)
    for difference in (
        "runs.relu.dead_after 300 in the checkpoint, 20000 now",
        "runs.relu.objective.target_l0 3.0 in the checkpoint, 4.0 now",
        "runs.relu.resampling {'class': 'Resampling', 'every': 9, 'until': 0.8} in the checkpoint, None now",
        "runs.topk.learning_rate None in the checkpoint, 0.5 now",
        "steps 60 in the checkpoint, 99 now",
    ):
        assert difference in str(error.value)
    assert "matryoshka" not in str(error.value)
    with pytest.raises(StoreError, match=r"runs\.topk .*, 'nothing' now"):
        train_many({"relu": sweep()["relu"]}, stream, steps=STEPS, directory=tmp_path, resume=True)


def test_another_shape_is_named(tmp_path):
    def one(d_sae, k):
        return SparseAutoencoder(D, d_sae, activation=TopK(k))

    train(one(32, 2), stream, steps=3, directory=tmp_path)
    with pytest.raises(StoreError, match=r"sae\.activation\.k 2 in the checkpoint, 3 now; .*sae\.d_sae 32 .*, 48 now"):
        train(one(48, 3), stream, steps=3, directory=tmp_path, resume=True)


def test_a_folder_that_holds_a_training_is_not_begun_anew(tmp_path):
    sae = SparseAutoencoder(D, M, activation=TopK(2))
    train(sae, stream, steps=3, directory=tmp_path)
    with pytest.raises(StoreError, match="holds a training at step 3; pass resume=True, or choose another directory"):
        train(sae, stream, steps=3, directory=tmp_path)


def test_a_batch_that_is_not_finite_costs_nothing_that_was_saved(whole, tmp_path):
    def broken(start):
        for index, rows in enumerate(stream(start), start=start):
            yield rows if index != 33 else rows * float("nan")

    with pytest.raises(TrainingError, match="batch 33 holds 1024 non-finite values of 1024"):
        train_many(sweep(), broken, steps=STEPS, directory=tmp_path, checkpoint_every=11, log_every=7)
    assert_equal(stopped(tmp_path, []), whole)


def test_a_state_of_another_make_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ConnectionError):
        train_many(sweep(), until(stream(0), 2), steps=STEPS, directory=tmp_path, checkpoint_every=1)
    state = Learner.state
    monkeypatch.setattr(Learner, "state", lambda self: {key: value for key, value in state(self).items() if key != "tokens"})
    with pytest.raises(ConnectionError):
        train_many(
            sweep(), lambda start: until(stream(start), 2), steps=STEPS, directory=tmp_path, checkpoint_every=1, resume=True
        )
    with pytest.raises(StoreError, match=r"step 3 in .* holds another state than this version writes \('tokens'\)"):
        train_many(sweep(), stream, steps=STEPS, directory=tmp_path, resume=True)
