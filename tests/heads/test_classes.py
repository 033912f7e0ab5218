"""Classes of heads: found where they were planted, absent by chance, and held to the rule that is stated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model_shapes import case_of
from scipy import stats as distributions

from interp import stats
from interp.errors import ConfigError
from interp.heads import classes, patterns
from interp.heads.targets import KINDS, Sight
from interp.models.hooked import Model
from interp.tasks.repeated import repeated_random

CONFIG = {"d_model": 16, "d_head": 4, "n_heads": 3, "n_layers": 2, "n_ctx": 32, "d_vocab": 40, "attn_only": True}


def prompts(n: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(stats.torch_seed(0, "prompts"))
    return repeated_random(n, 32, 40, generator=generator).tokens


@pytest.fixture(scope="module")
def random_model() -> Model:
    return Model.native(CONFIG | {"act_fn": "gelu", "normalization_type": "LN"}, seed=0)


def planted(monkeypatch: pytest.MonkeyPatch, share: float, kind: str) -> Model:
    """A model of one layer whose head 0 gives a share of its attention to one kind, the rest evenly; head 1 is even."""
    model = Model.native(CONFIG | {"n_layers": 1, "n_heads": 2, "act_fn": "gelu", "normalization_type": None}, seed=0)

    def layers(one, tokens, looked, batch, beside):
        sight = Sight.of(tokens)
        even = sight.visible / sight.visible.sum(1, keepdim=True)
        target = KINDS[kind].targets(sight).float()
        own = torch.where(target.any(-1, keepdim=True), target / target.sum(-1, keepdim=True).clamp_min(1), even)
        yield [torch.stack([share * own + (1 - share) * even, even.expand_as(own)], 1)], sight, slice(None)

    monkeypatch.setattr(patterns, "_patterns", layers)
    return model


@pytest.mark.parametrize("kind", ["previous_token", "induction", "bos_sink", "current_token"])
def test_a_planted_head_gets_its_class_and_an_even_one_none(monkeypatch, kind):
    found = classes.classes(classes.tested(planted(monkeypatch, 0.6, kind), prompts()))
    assert found["class"].tolist() == [kind, "none"]
    assert found.score[0] > 0.5 and found.low[0] <= found.score[0] <= found.high[0]


def test_a_trace_of_attention_makes_no_class_however_sure_it_is(monkeypatch):
    table = classes.tested(planted(monkeypatch, 0.05, "induction"), prompts(30))
    row = table.query("kind == 'induction' and head == 0").iloc[0]
    assert 0.03 < row.excess < classes.LEAST and row.p == 1.0
    least = classes.tested(planted(monkeypatch, 0.05, "induction"), prompts(30), least=0.0)
    assert least.query("kind == 'induction' and head == 0").p.iloc[0] < 1e-4


def test_an_untrained_model_has_no_classes(random_model):
    found = classes.classes(classes.tested(random_model, prompts()))
    assert found["class"].tolist() == ["none"] * 6


@pytest.mark.parametrize("shape", ["bert", "t5"])
def test_other_kinds_of_models_are_classed_by_attention(shape):
    model = case_of(shape).model
    beside: dict[str, Any] = {} if shape == "bert" else {"decoder_input": prompts()}
    for name, looked in patterns.attentions(model).items():
        table = classes.tested(model, prompts(), attention=name, **beside)
        assert set(table.kind) == set(looked.kinds)
        assert len(classes.classes(table)) == 4


def test_holm_s_rule_is_that_of_its_definition():
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(classes.holm(p), [0.03, 0.06, 0.06, 0.02])
    level = 0.05
    by_steps, order = np.zeros(4, bool), np.argsort(p)
    for step, place in enumerate(order):  # reject while p ≤ level / (tests left)
        if p[place] > level / (4 - step):
            break
        by_steps[place] = True
    np.testing.assert_array_equal(classes.holm(p) <= level, by_steps)


def test_the_chance_of_any_false_class_is_held():
    """Over families of 40 true nulls, at most the level's share has a rejection."""
    draw = np.random.default_rng(0)
    families = [classes.holm(distributions.norm.sf(draw.normal(size=40))).min() <= 0.05 for _ in range(400)]
    assert np.mean(families) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_p_is_that_of_a_one_sided_t_test():
    values = np.random.default_rng(1).normal(0.3, 0.2, 20)
    _, expected = distributions.ttest_1samp(values, 0.1, alternative="greater")
    assert classes._above(values, 0.1) == pytest.approx(expected)
    assert [classes._above(np.full(5, value), 0.1) for value in (0.5, 0.1)] == [0.0, 1.0]


def test_intervals_of_many_rows_are_those_of_each_alone():
    values = np.random.default_rng(2).random((3, 7))
    alone = [stats.bootstrap(row, seed=5) for row in values]
    np.testing.assert_allclose(classes._intervals(values, 5), [[each.low for each in alone], [each.high for each in alone]])


def test_one_example_is_refused(random_model):
    with pytest.raises(ConfigError, match="1 example says nothing about chance; give at least 2, better 16"):
        classes.tested(random_model, prompts(1))
