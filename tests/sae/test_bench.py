"""The benchmark measures the real training loop, and what it says can be believed."""

import json

import pytest
import torch

from interp import cli
from interp.errors import ConfigError
from interp.sae import bench, kernels
from interp.sae.objectives import Outcome, Reconstruction
from interp.sae.training import train

D, M, K = 16, 256, 4


@pytest.fixture(scope="module")
def rows():
    return bench.batches(D, m=M, batch=256, count=3)


def test_the_same_seed_draws_the_same_rows(rows):
    again = bench.batches(D, m=M, batch=256, count=3)
    assert all(map(torch.equal, rows, again))
    assert not torch.equal(rows[0], bench.batches(D, m=M, batch=256, count=1, seed=1)[0])


@pytest.mark.parametrize("name", ["topk", "matryoshka", "jumprelu"])
def test_a_training_is_measured_for_every_architecture(name, rows):
    speed = bench.measure(name, rows, m=M, k=K, steps=4)
    assert speed.tokens_per_cpu_second == pytest.approx(1e3 * 256 / speed.cpu_ms, rel=0.02)
    assert speed.kernels == kernels.backend(rows[0])
    assert speed.peak_mb > 50
    assert 0 < speed.fvu < 1.5


def test_only_the_steps_asked_for_are_timed(rows, monkeypatch):
    """A step that takes a second of CPU time more is seen, and the slow first ones are not."""
    clock, steps = [0.0], []

    def slow(sae, stream, **settings):
        def ticking():
            for batch in stream:
                clock[0] += 10.0 if len(steps) < bench.WARMUP + bench.CALIBRATION // 256 else 1.0
                steps.append(0)
                yield batch

        return train(sae, ticking(), **settings)

    monkeypatch.setattr(bench.time, "process_time", lambda: clock[0])
    monkeypatch.setattr(bench, "train", slow)
    assert bench.measure("topk", rows, m=M, k=K, steps=5).cpu_ms == 1000


def test_a_median_wants_two_steps(rows):
    with pytest.raises(ConfigError, match="steps=1 gives no median; use 2 or more"):
        bench.measure("topk", rows, m=M, k=K, steps=1)


class Dense(Reconstruction):
    """The TopK objective through dense matrices and autograd alone."""

    def __call__(self, sae, inputs, targets, moment):
        codes = sae.activation((inputs - sae.b_dec) @ sae.W_enc + sae.b_enc)
        error = targets - codes @ sae.W_dec - sae.b_dec
        return Outcome(error.square().sum(1).mean(), error.detach(), (codes != 0).sum(0))


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_sixty_sparse_steps_reach_the_loss_of_sixty_dense_ones_within_one_per_cent(backend, monkeypatch):
    if not kernels.BACKENDS[backend].available():
        pytest.skip(f"no {backend} kernels here")
    monkeypatch.setenv(kernels.FORCED, backend)
    stream, fvu = bench.batches(32, m=2048, batch=256), []
    for objective in (Reconstruction(), Dense()):
        sae, _ = bench.build("topk", 32, 2048, l0=8)
        history = train(sae, (stream[step % 4] for step in range(60)), steps=60, objective=objective, dead_after=10**9)
        fvu.append(history.last["fvu"])
    assert fvu[0] == pytest.approx(fvu[1], rel=0.01)


def test_the_command_prints_one_line_of_json(capsys):
    threads = torch.get_num_threads()
    try:
        assert cli.main(["bench", "sae", "--d", "16", "--m", "64", "--k", "2", "--batch", "64", "--steps", "2", "--json"]) == 0
    finally:
        torch.set_num_threads(threads)
    figures = json.loads(capsys.readouterr().out)
    assert {"tokens_per_cpu_second", "peak_mb", "loss"} <= figures.keys()
