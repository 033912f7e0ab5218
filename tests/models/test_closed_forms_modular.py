"""Nine squared neurons add modulo p exactly, and so does no other arrangement of their phases."""

from __future__ import annotations

import pytest
import torch

from interp.errors import ConfigError
from interp.models.closed_forms_modular import QuadraticMlp, adder, drawn, grid
from interp.models.hooked import Edit, Model

P = 13
TOKENS = torch.cartesian_prod(torch.arange(P), torch.arange(P))


@pytest.mark.parametrize("frequency", [1, 5, 6])
def test_nine_neurons_give_the_wave_of_the_sum_and_nothing_else(frequency: int) -> None:
    left = TOKENS.sum(1)[:, None] - torch.arange(P)
    expected = 4.5 * torch.cos(2 * torch.pi * frequency / P * left)
    torch.testing.assert_close(adder(P, frequency, grid()).run(TOKENS).logits, expected, atol=1e-4, rtol=0)


def test_the_largest_logit_is_that_of_the_sum_for_a_modulus_that_is_no_prime_too() -> None:
    tokens = torch.cartesian_prod(torch.arange(15), torch.arange(15))
    assert torch.equal(adder(15, 4, grid()).run(tokens).logits.argmax(1), tokens.sum(1) % 15)


def test_nine_random_phases_do_not_add() -> None:
    logits = adder(P, 5, drawn(9, generator=torch.Generator().manual_seed(0))).run(TOKENS).logits
    assert (logits.argmax(1) == TOKENS.sum(1) % P).double().mean() < 0.6


@pytest.mark.parametrize(("p", "frequency"), [(15, 5), (13, 13), (1, 1), (13, 0)])
def test_a_frequency_at_which_sums_share_an_angle_is_refused(p: int, frequency: int) -> None:
    with pytest.raises(ConfigError, match=rf"frequency={frequency} does not tell all sums modulo p={p} apart; use one that has"):
        adder(p, frequency, grid())


def test_a_neuron_can_be_read_and_silenced() -> None:
    model = adder(P, 5, grid())
    run = model.run(TOKENS, read=["hook_pre", "hook_post"], logits=True)
    torch.testing.assert_close(run.activations["hook_pre"].square(), run.activations["hook_post"])

    def silence(value: torch.Tensor) -> torch.Tensor:
        value[:, 3] = 0.0
        return value

    lost = run.logits - model.run(TOKENS, edits=[Edit("hook_post", silence)]).logits
    own = run.activations["hook_post"][:, 3:4] * model.bridge.out.weight[:, 3].detach()
    torch.testing.assert_close(lost, own, atol=1e-5, rtol=0)


def test_a_fresh_one_depends_on_its_generator_alone() -> None:
    one, same, other = (QuadraticMlp(P, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    logits = [Model.wrap(each.eval()).run(TOKENS).logits for each in (one, same, other)]
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])
