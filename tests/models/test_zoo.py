"""Claims about models trained on demand."""

from dataclasses import replace

import pytest
import torch

from interp.errors import ModelError
from interp.models import zoo
from interp.models.hooked import Model


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path))
    monkeypatch.setitem(zoo.RECIPES, "induction-2l", zoo.Recipe(steps=3, checkpoints=2, batch=4))
    return tmp_path


def test_training_is_a_function_of_the_seed():
    first, again = (zoo.train(zoo.Recipe(steps=2, checkpoints=2)) for _ in range(2))
    other = zoo.train(zoo.Recipe(steps=2, checkpoints=2, seed=1))
    assert first.model.fingerprint == again.model.fingerprint != other.model.fingerprint
    assert first.curve == again.curve


def test_checkpoints_run_from_before_the_first_step_to_the_trained_model():
    seen = []
    result = zoo.train(zoo.Recipe(n_layers=1, steps=4, checkpoints=3), on_step=lambda step, loss: seen.append((step, loss)))
    steps, models = zip(*result.checkpoints, strict=True)
    assert steps == (0, 2, 4)
    assert models[-1].fingerprint == result.model.fingerprint != models[0].fingerprint
    assert seen == list(enumerate(result.curve, start=1))
    assert result.model.n_layers == 1


def test_zoo_models_are_trained_once_and_then_read(small, monkeypatch):
    first = Model.load("induction-2l")
    monkeypatch.setattr(zoo, "train", None)
    assert Model.load("induction-2l").fingerprint == first.fingerprint
    course = zoo.trained("induction-2l")
    assert course.model.fingerprint == first.fingerprint
    assert [step for step, _ in course.checkpoints] == [0, 3] and len(course.curve) == 3


def test_another_recipe_is_another_entry(small, monkeypatch):
    first = zoo.folder("induction-2l")
    monkeypatch.setitem(zoo.RECIPES, "induction-2l", zoo.Recipe(steps=2, checkpoints=2, batch=4))
    assert zoo.folder("induction-2l") != first


def test_training_that_breaks_off_leaves_nothing(small, monkeypatch):
    monkeypatch.setattr(zoo, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        zoo.folder("induction-2l")
    assert list(small.iterdir()) == []


def test_training_needs_steps_and_checkpoints():
    with pytest.raises(ModelError, match="steps=0 and checkpoints=2 must both be 1 or more"):
        zoo.train(zoo.Recipe(steps=0, checkpoints=2))


@pytest.mark.parametrize("recipe", [zoo.FactRecipe(steps=2, batch=8), zoo.TrigramRecipe(steps=2, batch=8)])
def test_models_of_facts_are_a_function_of_their_recipe(recipe):
    first, again = zoo.train(recipe), zoo.train(recipe)
    other = zoo.train(replace(recipe, seed=1))
    assert first.model.fingerprint == again.model.fingerprint != other.model.fingerprint
    assert [step for step, _ in first.checkpoints] == [0, 2] and len(first.curve) == 2


@pytest.mark.parametrize("recipe", [zoo.FactRecipe(batch=64), zoo.TrigramRecipe(batch=64)])
def test_the_curve_tells_the_loss_on_answers_alone(recipe):
    tokens, scored = recipe.rows(torch.Generator().manual_seed(0))
    assert (scored.sum(1) == 1).all()
    answers = recipe.world.answers if isinstance(recipe, zoo.FactRecipe) else recipe.table.answers
    assert torch.isin(tokens[scored], answers).all()


@pytest.mark.slow
def test_two_layers_learn_induction():
    result = zoo.train(zoo.Recipe(steps=500, checkpoints=2))
    assert result.curve[0] > 3.5
    assert torch.tensor(result.curve[-20:]).mean() < 0.05
