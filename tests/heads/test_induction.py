"""The induction circuit, found where it was written by hand, and absent where it was not."""

import numpy as np
import pytest

from interp import stats
from interp.errors import ModelError
from interp.heads import induction
from interp.heads.composition import composition_scores
from interp.heads.induction import Circuit, label
from interp.models import compiled, zoo
from interp.models.hooked import Model
from interp.models.lens import native_module
from interp.tasks.repeated import repeated_random


@pytest.fixture(scope="module")
def by_hand() -> Model:
    return compiled.induction().model


def rows(model: Model, purpose: str = "rows"):
    generator = stats.torch_generator(0, purpose)
    return repeated_random(16, model.n_ctx, model.d_vocab, generator=generator, periods=(2, 3), noise=1)


def test_the_circuit_written_by_hand_is_found(by_hand):
    found = induction.find(by_hand, rows(by_hand))
    assert found.previous[0] == 0 and {layer for layer, _ in found.induction} == {1}
    assert (1, 0) in found.induction
    assert induction.best_prefix(by_hand, rows(by_hand, "choose"), rows(by_hand)).low > 0.99


def test_its_heads_meet_in_the_key_and_others_do_not(by_hand):
    circuit = Circuit((0, 0), [(1, 0)])
    ways = circuit.composition(by_hand)
    assert ways["K"] > 0.1 + max(ways["Q"], ways["V"])
    assert ways["K"] > 0.1 + Circuit((0, 1), [(1, 0)]).composition(by_hand)["K"]


def test_only_the_pair_that_composes_most_by_the_key_has_a_lead(by_hand):
    random = by_hand.untrained(0)
    scores = composition_scores(random, "K")
    ranked = [[(int(name[0]), int(name[2])) for name in pair] for pair in scores.top(3)]
    leads = [Circuit(early, [late]).key_lead(random) for early, late in ranked]
    assert leads[0] > 0 > leads[1] > leads[2]
    first, second = (float(scores.sel(**{"from": label(early), "to": label(late)}).values) for early, late in ranked[:2])
    assert leads[0] == pytest.approx(first - second)


def test_the_gain_removed_is_extra_loss_over_what_is_saved_against_an_even_guess():
    whole = np.array([0.0, 1.0, 2.0])
    found = induction.gain_removed(whole, (whole + np.log(48)) / 2, 49)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_one_layer_is_refused():
    small = Model.wrap(native_module(zoo.Recipe(n_layers=1).architecture, 0), name="one layer")
    with pytest.raises(ModelError, match="one layer has 1 layer; the circuit takes two, so give a model with at least 2"):
        induction.find(small, rows(small))
