"""Claims about courses of training: a curve has half fallen once, curves are those of the weights kept."""

import numpy as np
import pytest
from model_shapes import case_of

from interp.errors import TrainingError
from interp.models.courses import Curves, crossing, half_fallen, measured, place_in_fall, steepest_share


@pytest.mark.parametrize(
    ("curve", "step"), [([4, 4, 0, 0], 15), ([0, 8, 8, 4, 0], 30), ([4, 0, 3, 0], 20 + 10 / 3), ([1, 1, 1, 1], 30), ([0, 1], 10)]
)
def test_a_curve_is_half_fallen_when_it_is_so_for_the_last_time(curve, step):
    assert half_fallen(10.0 * np.arange(len(curve)), np.array(curve, dtype=float)) == pytest.approx(step)


@pytest.mark.parametrize("scale", [0.1, 7.0])
def test_half_fallen_does_not_depend_on_the_scale_of_values_and_follows_that_of_steps(scale):
    steps, curve = np.arange(5.0), np.array([3.0, 3.5, 2.0, 0.5, 0.4])
    assert half_fallen(steps, scale * curve + 1) == pytest.approx(half_fallen(steps, curve))
    assert half_fallen(scale * steps, curve) == pytest.approx(scale * half_fallen(steps, curve))


def test_one_value_is_no_curve():
    with pytest.raises(TrainingError, match="a curve of one value cannot fall; measure it at more steps"):
        half_fallen(np.arange(1.0), np.zeros(1))


def test_which_falls_first_is_told_with_an_interval_over_examples():
    early = np.repeat([[4.0, 0.0, 0.0, 0.0, 0.0]], 20, 0)
    late = np.array([[4.0, 4.0, 4.0, 4.0 * (i % 2), 0.0] for i in range(20)])
    curves = Curves(10.0 * np.arange(5), {"early": early, "late": late, "one": early[:1]})
    found = curves.ratio_of_falls("early", "late")
    assert found.value == pytest.approx(5 / 30) and found.low < found.value < found.high and found.n == 20
    assert curves.ratio_of_falls("late", "late").value == 1
    with pytest.raises(TrainingError, match="one has 1 examples and late 20; compare curves of the same examples"):
        curves.ratio_of_falls("one", "late")


def test_a_table_has_means_under_the_names_asked_for():
    table = Curves(np.array([0.0, 5.0]), {"a": np.array([[1.0, 2.0], [3.0, 4.0]]), "b": np.zeros((1, 2))}).table(
        {"a": "A"}, "loss", "model"
    )
    assert table.to_dict("list") == {"step": [0.0, 5.0], "loss": [2.0, 3.0], "model": ["A", "A"]}


def test_curves_are_those_of_the_weights_kept():
    model = case_of("decoder").model
    kept = {name: tensor.clone() for name, tensor in model.bridge.state_dict().items()}
    states = {5: kept, 0: {name: 0 * tensor for name, tensor in kept.items()}}
    curves = measured(model, states, lambda each: {"size": each.W_E.norm(dim=1).detach().double().numpy()})
    assert curves.steps.tolist() == [0, 5] and not curves.values["size"][:, 0].any()
    np.testing.assert_allclose(curves.values["size"][:, 1], model.W_E.norm(dim=1).detach().numpy(), rtol=1e-6)


# ---- phase changes, in planted curves ----

STEPS = np.linspace(0, 100, 101)
SUDDEN = 4 - 4 / (1 + np.exp(-(STEPS - 60)))  # falls from 4 to 0 around step 60


def test_a_curve_crosses_between_two_checkpoints():
    assert crossing(np.array([0.0, 10, 20]), np.array([5.0, 5, 1]), 0.25) == pytest.approx(12.5)
    assert crossing(np.array([0.0, 10]), np.array([0.0, 2]), 0.5) == pytest.approx(5)


def test_crossing_does_not_depend_on_scale_or_sign():
    assert crossing(STEPS, SUDDEN, 0.3) == pytest.approx(crossing(STEPS, 7 - 3 * SUDDEN, 0.3))


def test_a_score_that_rises_with_the_fall_lies_inside_it_and_others_outside():
    assert place_in_fall(STEPS, SUDDEN, -SUDDEN) == pytest.approx(0.5, abs=0.01)
    assert place_in_fall(STEPS, SUDDEN, 1 / (1 + np.exp(-(STEPS - 90)))) > 1
    assert place_in_fall(STEPS, SUDDEN, STEPS) < 0


def test_a_sudden_fall_is_steep_and_an_even_one_is_not():
    assert steepest_share(STEPS, SUDDEN, window=15) > 0.95
    assert steepest_share(STEPS, 4 - STEPS / 25, window=15) == pytest.approx(0.15)


def test_a_curve_that_ends_where_it_began_is_refused():
    with pytest.raises(TrainingError, match="a curve of 3 steps ends at 2, where it began; give one that changes"):
        crossing(np.arange(3.0), np.array([2.0, 5.0, 2.0]), 0.5)
