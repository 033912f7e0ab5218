"""One step of RowAdam is Adam's, with clipping, on the sphere of unit decoder rows; its state travels whole."""

import math

import pytest
import torch
from torch import nn

from interp.sae import kernels
from interp.sae.activation_functions import JumpReLU, TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.optimizer import RowAdam

D, M, RATE = 7, 12, 0.03


@pytest.fixture(params=["torch", "native"])
def backend(request, monkeypatch):
    if not kernels.BACKENDS[request.param].available():
        pytest.skip(f"no {request.param} kernels here")
    monkeypatch.setenv(kernels.FORCED, request.param)
    return request.param


def autoencoder(seed=0, **shape):
    return SparseAutoencoder(D, M, activation=JumpReLU(0.1 * torch.ones(M)), seed=seed, **shape)


def give_gradients(sae, step):
    """The same gradients for every autoencoder, whatever its weights; returns them by the parameter's name."""
    generator, given = torch.Generator().manual_seed(step), {}
    for name, parameter in sae.named_parameters():
        given[name] = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
        parameter.grad = given[name]
    return given


def taken(optimizer, steps, first=0):
    for step in range(first, first + steps):
        give_gradients(optimizer.sae, step)
        optimizer.step(RATE)


def weights(sae):
    return {name: parameter.detach().clone() for name, parameter in sae.named_parameters()}


def reference(sae, steps, *, unit_decoder, max_norm):
    """The same steps by PyTorch's own Adam, in float64."""
    exact = autoencoder().double() if sae.W_skip is None else autoencoder(d_out=D, skip=True).double()
    exact.load_state_dict(sae.double().state_dict())
    sae.float()
    adam, norms = torch.optim.Adam(exact.parameters(), lr=RATE), []
    for step in range(steps):
        given = give_gradients(exact, step)
        with torch.no_grad():
            if unit_decoder:
                slope = given["W_dec"]
                slope -= (slope * exact.W_dec).sum(1, keepdim=True) * exact.W_dec
            norms.append(float(nn.utils.clip_grad_norm_(exact.parameters(), max_norm)))
            adam.step()
            if unit_decoder:
                exact.W_dec /= exact.W_dec.norm(dim=1, keepdim=True)
    return weights(exact), norms


@pytest.mark.parametrize("shape", [{}, {"d_out": D, "skip": True}], ids=["autoencoder", "skip transcoder"])
@pytest.mark.parametrize("max_norm", [0.5, 1e9])
@pytest.mark.parametrize("unit_decoder", [True, False])
def test_steps_are_those_of_adam_on_clipped_projected_gradients(unit_decoder, max_norm, shape, backend):
    sae = autoencoder(**shape)
    wanted, norms = reference(sae, 4, unit_decoder=unit_decoder, max_norm=max_norm)
    optimizer = RowAdam(sae, unit_decoder=unit_decoder, max_gradient_norm=max_norm)
    for step in range(4):
        give_gradients(sae, step)
        assert optimizer.step(RATE) == pytest.approx(norms[step], rel=1e-5)
    for name, weight in weights(sae).items():
        torch.testing.assert_close(weight.double(), wanted[name], atol=2e-6, rtol=1e-5, msg=name)


def test_decoder_rows_stay_unit_and_gradients_are_freed(backend):
    sae = autoencoder()
    taken(RowAdam(sae), 3)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(M))
    assert all(parameter.grad is None for parameter in sae.parameters())


def test_a_gradient_laid_out_otherwise_gives_the_same_step(backend):
    one, other = autoencoder(), autoencoder()
    given = give_gradients(one, 0)["W_enc"]
    give_gradients(other, 0)
    other.W_enc.grad = given.contiguous()
    assert other.W_enc.grad.stride() != given.stride()
    RowAdam(one).step(RATE)
    RowAdam(other).step(RATE)
    torch.testing.assert_close(one.W_enc, other.W_enc)


def test_parameters_without_a_gradient_stay_as_they_are(backend):
    sae = autoencoder()
    optimizer = RowAdam(sae)
    give_gradients(sae, 0)
    sae.b_enc.grad = None
    before = weights(sae)
    optimizer.step(RATE)
    assert torch.equal(sae.b_enc, before["b_enc"])
    assert not torch.equal(sae.b_dec, before["b_dec"])


def test_an_objective_that_misses_the_decoder_is_our_own_fault():
    with pytest.raises(AssertionError, match="did not reach the decoder"):
        RowAdam(SparseAutoencoder(D, M, activation=TopK(2))).step(RATE)


def test_reset_latents_move_as_if_they_were_new_but_for_the_step_count(backend):
    sae = autoencoder()
    optimizer = RowAdam(sae)
    taken(optimizer, 3)
    optimizer.reset(torch.tensor([2, 5]))
    state = optimizer.state_dict()
    for moments in (state["first"], state["second"]):
        for name, axis in sae.latent_axes().items():
            at = moments[name].movedim(axis, 0)
            assert not at[[2, 5]].any(), name
            assert at[[0, 1, 3, 4]].flatten(1).any(1).all() if at.ndim > 1 else at[[0, 1, 3, 4]].all(), name


def test_renumbering_latents_and_stepping_commute(backend):
    order = torch.randperm(M, generator=torch.Generator().manual_seed(3))
    sae, renumbered = autoencoder(), autoencoder()
    optimizer, other = RowAdam(sae), RowAdam(renumbered)
    taken(optimizer, 2)
    taken(other, 2)
    renumbered.permute(order)
    other.permute(order)
    give_gradients(sae, 9)
    given = give_gradients(renumbered, 9)
    for name, axis in sae.latent_axes().items():
        given[name].copy_(given[name].index_select(axis, order))
    optimizer.step(RATE)
    other.step(RATE)
    sae.permute(order)
    for name, weight in weights(sae).items():
        torch.testing.assert_close(weight, weights(renumbered)[name], msg=name)


def test_a_state_taken_up_goes_on_bit_for_bit(backend):
    through, resumed = autoencoder(), autoencoder()
    optimizer = RowAdam(through)
    taken(optimizer, 3)
    state = {name: kept if name == "steps" else {key: moment.clone() for key, moment in kept.items()}
             for name, kept in optimizer.state_dict().items()}  # fmt: skip
    resumed.load_state_dict(through.state_dict())
    taken(optimizer, 3, first=3)
    again = RowAdam(resumed)
    again.load_state_dict(state)
    taken(again, 3, first=3)
    for name, weight in weights(through).items():
        assert torch.equal(weight, weights(resumed)[name]), name


def test_a_state_of_one_backend_goes_on_under_another(monkeypatch):
    if not kernels.BACKENDS["native"].available():
        pytest.skip("no native kernels here")
    results = []
    for second in ("torch", "native"):
        sae = autoencoder()
        optimizer = RowAdam(sae)
        for name, first in (("native", 0), (second, 2)):
            monkeypatch.setenv(kernels.FORCED, name)
            taken(optimizer, 2, first=first)
        results.append(weights(sae))
    for name, weight in results[0].items():
        torch.testing.assert_close(weight, results[1][name], atol=1e-6, rtol=1e-5, msg=name)


def test_a_gradient_that_is_no_number_moves_nothing(backend):
    sae = autoencoder()
    optimizer = RowAdam(sae)
    before = {name: each.clone() for name, each in sae.state_dict().items()}
    for each in sae.parameters():
        each.grad = torch.ones_like(each)
    sae.b_enc.grad = torch.full((M,), float("nan"))
    assert math.isnan(optimizer.step(RATE))
    assert all(torch.equal(each, before[name]) for name, each in sae.state_dict().items())
    assert optimizer.state_dict()["steps"] == 0 and sae.W_dec.grad is None
