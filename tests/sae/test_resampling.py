"""Resampling gives dead latents new weights, forgets what the optimizer knew of them, and they live."""

import pytest
import torch
from torch.nn import functional as F

from interp.errors import TrainingError
from interp.sae import objectives
from interp.sae.activation_functions import JumpReLU, ReLU, TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.feeds import Rows
from interp.sae.learner import Learner, Run
from interp.sae.resampling import ENCODER_SHARE, Resampling, resample
from interp.sae.synthetic import planted
from interp.sae.training import train

D, M = 16, 32


def rows(n, d=D, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def buried(activation, count=16, depth=5.0, **shape):
    """An autoencoder whose first latents never fire."""
    sae = SparseAutoencoder(D, M, activation=activation, **shape)
    with torch.no_grad():
        sae.b_enc[:count] = -depth
    return sae, torch.arange(M) < count


def test_dead_latents_take_the_directions_of_badly_reconstructed_rows_and_live_ones_are_left_alone():
    sae, dead = buried(TopK(2))
    before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    error = rows(20, seed=1)
    error[5:] = 0
    renewed = resample(sae, rows(20), error, dead, seed=0)
    assert renewed.tolist() == [0, 1, 2, 3, 4]
    cosines = F.normalize(error[:5], dim=1) @ sae.W_dec[:5].T
    assert sorted(cosines.argmax(0).tolist()) == [0, 1, 2, 3, 4]
    torch.testing.assert_close(cosines.amax(0), torch.ones(5))
    live = before["W_enc"][:, 16:].norm(dim=0).mean()
    torch.testing.assert_close(sae.W_enc[:, :5], ENCODER_SHARE * live * sae.W_dec[:5].T)
    assert (sae.b_enc[:5] == 0).all()
    for name, axis in sae.latent_axes().items():
        rest = torch.arange(5, M)
        assert torch.equal(sae.state_dict()[name].index_select(axis, rest), before[name].index_select(axis, rest))


def test_rows_with_larger_errors_are_taken_more_often():
    error = rows(2)
    error = F.normalize(error, dim=1) * torch.tensor([[2.0], [1.0]])
    taken = []
    for seed in range(200):
        sae, dead = buried(TopK(2), count=1)
        resample(sae, rows(2), error, dead, seed=seed)
        taken.append(float(sae.W_dec[0].detach() @ F.normalize(error[0], dim=0)) > 0.99)
    assert sum(taken) / 200 == pytest.approx(16 / 17, abs=0.05)


def test_a_transcoder_reads_the_input_and_writes_the_error():
    sae, dead = buried(TopK(2), count=1, d_out=8)
    inputs, error = rows(1), rows(1, 8, seed=1)
    resample(sae, inputs, error, dead, seed=0)
    torch.testing.assert_close(sae.W_dec[0], F.normalize(error[0], dim=0))
    torch.testing.assert_close(F.normalize(sae.W_enc[:, 0], dim=0), F.normalize(inputs[0], dim=0))


def test_a_resampled_threshold_is_the_mean_of_the_live_ones():
    sae, dead = buried(JumpReLU(torch.cat([torch.full((16,), 100.0), torch.full((16,), 0.25)])))
    resample(sae, rows(50), rows(50, seed=1), dead, seed=0)
    torch.testing.assert_close(sae.state_dict()["activation.log_threshold"].exp(), torch.full((M,), 0.25))


def test_nothing_happens_without_dead_latents_or_without_errors():
    sae, dead = buried(TopK(2))
    before = sae.W_dec.clone()
    assert len(resample(sae, rows(9), rows(9), torch.zeros_like(dead), seed=0)) == 0
    assert len(resample(sae, rows(9), torch.zeros(9, D), dead, seed=0)) == 0
    assert torch.equal(sae.W_dec, before)


def test_the_optimizer_forgets_what_it_knew_of_resampled_latents_which_are_dead_no_longer():
    forgotten = []
    sae, _ = buried(TopK(2))
    learner = Learner("a", Run(sae=sae, dead_after=100, resampling=Resampling(every=2)), 10)
    learner.optimizer.reset = lambda latents: forgotten.append(latents.tolist())
    x = rows(64)
    for step in range(2):
        learner.step(Rows(x, x, x.square().sum().double(), x.sum(0)), step)
    assert forgotten and set(range(16)) <= set(forgotten[0])
    assert learner.report(2)["dead"] == 0


@pytest.mark.parametrize("activation", [ReLU(), JumpReLU(torch.full((M,), 0.05))], ids=["relu", "jumprelu"])
def test_resampled_latents_fire_and_others_stay_dead(activation, monkeypatch):
    monkeypatch.setattr(objectives, "AUX_WEIGHT", 0.0)
    objective = objectives.Lasso(sparsity=0.1) if isinstance(activation, ReLU) else objectives.Jump(sparsity=0.01, target_l0=2.0)
    batches = list(planted(M, D, commonest=0.1, rarest=0.02).batches(128, 300))
    dead = {}
    for resampling in (Resampling(every=15), None):
        sae, _ = buried(activation)
        history = train(sae, batches, steps=300, objective=objective, resampling=resampling, dead_after=1000)
        dead[resampling] = (history.last["dead"], history.last["fvu"])
    (with_it, fvu), (without, worse) = dead.values()
    assert with_it < 0.25 and without >= 0.5 and fvu < worse


def test_resampling_stops_before_the_end():
    due = [step + 1 for step in range(100) if Resampling(every=20).due(step, 100)]
    assert due == [20, 40, 60, 80]
    with pytest.raises(TrainingError, match=r"every=0, until=0.8: use 1 step or more, and a share above 0 and up to 1"):
        Resampling(every=0)
