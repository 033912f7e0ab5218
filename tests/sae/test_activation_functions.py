"""Each activation equals its formula, acts alike on rows and on entries, and can be rescaled exactly."""

import pytest
import torch

from interp.errors import TrainingError
from interp.sae.activation_functions import ADAPTATION, BatchTopK, Gated, JumpReLU, ReLU, TopK

M = 12


def vector(seed):
    return torch.randn(M, generator=torch.Generator().manual_seed(seed))


ELEMENTWISE = {
    "relu": ReLU(),
    "jumprelu": JumpReLU(vector(1).abs()),
    "batchtopk": BatchTopK(3, threshold=0.4),
    "gated": Gated(vector(2), vector(3)),
}


@pytest.fixture
def pre():
    return torch.randn(30, M, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_entries_become_what_they_would_become_in_their_row(name, pre):
    activation = ELEMENTWISE[name]
    rows, latents = torch.tensor([3, 3, 0, 29, 7]), torch.tensor([0, 11, 4, 4, 8])
    torch.testing.assert_close(activation(pre[rows, latents], latents), activation(pre)[rows, latents])


@pytest.mark.parametrize("name", [*ELEMENTWISE, "topk"])
@pytest.mark.parametrize("factor", [0.3, 5.0])
def test_rescaling_commutes_with_the_activation(name, factor, pre):
    activation = ELEMENTWISE.get(name, TopK(3))
    torch.testing.assert_close(activation.rescaled(factor)(factor * pre), factor * activation(pre))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_latents_can_be_rescaled_one_by_one(name, pre):
    activation, factor = ELEMENTWISE[name], vector(4).abs() + 0.1
    torch.testing.assert_close(activation.rescaled(factor)(factor * pre), factor * activation(pre))


def test_topk_cannot_be_rescaled_latent_by_latent():
    with pytest.raises(TrainingError, match="TopK compares latents with each other"):
        TopK(3).rescaled(vector(4).abs() + 0.1)


def test_a_threshold_is_exceeded_strictly():
    threshold = torch.tensor([0.5, 1.0])
    pre = torch.tensor([[0.5, 1.0], [0.50001, 1.00001]])
    assert ((JumpReLU(threshold)(pre) > 0) == torch.tensor([[False, False], [True, True]])).all()
    assert ((BatchTopK(1, threshold=0.5)(pre) > 0) == torch.tensor([[False, True], [True, True]])).all()


def test_a_gated_latent_equals_the_two_paths_of_the_paper():
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(5))
    weight = torch.randn(5, M, generator=torch.Generator().manual_seed(6))
    b_gate, b_mag, r_mag = vector(7), vector(8), vector(9)
    paper = (x @ weight + b_gate > 0) * (x @ (weight * r_mag.exp()) + b_mag).relu()
    torch.testing.assert_close(Gated(r_mag, b_mag - r_mag.exp() * b_gate)(x @ weight + b_gate), paper)


def test_a_jumprelu_with_threshold_zero_is_a_relu(pre):
    torch.testing.assert_close(JumpReLU(torch.zeros(M))(pre), pre.relu())


def test_the_codes_of_a_row_do_not_depend_on_the_rows_beside_it(pre):
    activation = BatchTopK(3, threshold=0.4)
    torch.testing.assert_close(activation(pre[:1]), activation(pre)[:1])


def test_the_running_threshold_starts_at_the_first_value_and_follows_slowly():
    activation = BatchTopK(3)
    activation.observe(torch.tensor(2.0))
    assert activation.threshold == 2.0
    activation.observe(torch.tensor(1.0))
    assert float(activation.threshold) == pytest.approx(2.0 - ADAPTATION)
    assert "threshold" in activation.state_dict()


@pytest.mark.parametrize("activation", [TopK, BatchTopK])
def test_fewer_than_one_active_latent_is_refused(activation):
    with pytest.raises(TrainingError, match="k=0 leaves no active latent; use k of 1 or more"):
        activation(0)
