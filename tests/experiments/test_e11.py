"""E11 in its quick form, and its parts on cases that are known."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from experiment_cases import assert_claims_hold, module_of

from interp.report import Report
from interp.tasks.modular import additions

P = 7


@pytest.fixture(scope="module")
def e11() -> ModuleType:
    return module_of("E11")


@pytest.fixture(scope="module")
def wave() -> torch.Tensor:
    """Logits [a b c] of one frequency, 2."""
    a, b, c = torch.arange(P)[:, None, None], torch.arange(P)[:, None], torch.arange(P)
    return 5 * torch.cos(2 * torch.pi * 2 / P * (a + b - c))


@pytest.fixture(scope="module")
def brief(e11: ModuleType) -> object:
    return e11.trained(e11.Config(p=P, share=0.6, d_model=16, n_heads=2, d_mlp=8, steps=4, checkpoints=3))


def test_losses_and_right_answers_are_those_of_the_examples(e11: ModuleType, wave: torch.Tensor) -> None:
    some = additions(P)[torch.tensor([0, 10, 20])]
    assert e11.right(wave, some).tolist() == [1, 1, 1]
    assert e11.right(-wave, some).tolist() == [0, 0, 0]
    expected = float((wave[0, 0].double() - 5).logsumexp(0))
    np.testing.assert_allclose(e11.losses(wave, some), [expected] * 3, rtol=1e-5)


def test_embeddings_with_all_frequencies_change_nothing(e11: ModuleType, brief) -> None:
    torch.testing.assert_close(e11.with_frequencies(brief, range(1, P // 2 + 1)), brief.logits)
    assert not torch.allclose(e11.with_frequencies(brief, [1]), brief.logits, atol=1e-3)


def test_a_study_has_keys_and_as_many_others(brief) -> None:
    assert brief.keys and set(brief.keys).isdisjoint(brief.others)
    assert sorted(brief.course.states) == [0, 2, 4]


def test_measures_of_the_last_weights_are_those_of_the_trained_model(e11: ModuleType, brief) -> None:
    found = e11.measures(brief, brief.model.with_weights(brief.course.states[4], name="last"))
    np.testing.assert_allclose(found["test"], e11.losses(brief.logits, brief.test), rtol=1e-5)
    np.testing.assert_allclose(found["explained"], [e11.fourier.explained(brief.logits, brief.keys)], rtol=1e-5)
    assert found["unevenly"] > found["explained"] and len(found["excluded"]) == len(brief.train)


def test_a_shuffled_table_asks_other_answers_of_the_same_sums(e11: ModuleType, brief) -> None:
    other = e11.trained(brief.config, shuffled=True)
    assert torch.equal(other.train.tokens, brief.train.tokens)
    assert not torch.equal(other.train.answers, brief.train.answers)


@pytest.mark.slow
def test_claims_hold_and_controls_miss_their_targets(e11: ModuleType) -> None:
    report = Report("E11", "grokking")
    e11.run(e11.Config(**e11.QUICK | {"checkpoints": 12}), report)
    assert {claim.id.partition(".")[2] for claim in report.claims} == {
        *("test", "by-heart", "before", "frequencies", "restricted", "excluded", "explained", "neurons", "phases"),
        *("keys-suffice", "keys-needed"),
    }
    assert_claims_hold(report)
