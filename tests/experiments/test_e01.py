"""E01 at nearly full size: claims hold, controls miss, closed forms agree with slow references."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from experiment_cases import assert_claims_hold, module_of

from interp.report import Report


@pytest.fixture(scope="module")
def e01() -> ModuleType:
    return module_of("E01")


def test_every_claim_holds_and_every_control_misses_its_target(e01: ModuleType) -> None:
    report = Report("E01", "temperature")
    e01.run(e01.Config(lookups=200, prompts=16), report)
    assert len(report.claims) == 7
    assert_claims_hold(report)


def test_softmax_and_entropy_are_those_of_torch(e01: ModuleType) -> None:
    scores = np.random.default_rng(0).standard_normal((4, 9))
    weights = e01.softmax(scores, 0.3)
    np.testing.assert_allclose(weights, torch.softmax(torch.tensor(scores) / 0.3, -1).numpy())
    expected = torch.distributions.Categorical(probs=torch.tensor(weights)).entropy().numpy()
    np.testing.assert_allclose(e01.entropy(weights), expected, rtol=1e-6)


def test_heating_divides_the_scores_of_the_heads_named_and_of_no_other(e01: ModuleType) -> None:
    q = torch.randn(2, 3, 4, 5)
    (edit,) = e01.heated([1, 2], 4.0)
    after = edit.apply(q.clone())
    torch.testing.assert_close(after[:, :, 1:3], q[:, :, 1:3] / 4)
    assert torch.equal(after[:, :, [0, 3]], q[:, :, [0, 3]])
