"""E20, reduced, and its measures on rows and answers that are known."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from experiment_cases import assert_claims_hold, module_of

from interp.report import Report


@pytest.fixture(scope="module")
def e20() -> ModuleType:
    return module_of("E20")


@pytest.mark.slow
def test_claims_hold_and_controls_miss_their_targets_though_sinusoids_come_late_to_the_law(e20: ModuleType) -> None:
    report = Report("E20", "expressiveness")
    e20.run(e20.Config(**e20.QUICK), report)
    assert {claim.id.partition(".")[2] for claim in report.claims} == {
        *(
            "influence",
            "influence-sinusoids",
            "influence-fast-waves",
            "parity",
            "first",
            "unsure",
            "sure",
            "majority-carries-over",
            "parity-does-not",
        ),
    }
    assert_claims_hold(report, but=("influence-sinusoids",))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_written_by_hand_does_what_is_claimed_on_every_seed(e20: ModuleType, seed: int) -> None:
    report, config = Report("E20", "expressiveness"), e20.Config(written=(2, 20, 100), rows=16, seed=seed)
    found = [e20.recognised(config, name, length) for name in ("PARITY", "FIRST") for length in config.written]
    e20.claim_recognisers(config, report, pd.concat(found))
    assert_claims_hold(report)


def test_fast_waves_are_those_that_turn_within_the_shortest_row(e20: ModuleType) -> None:
    config = e20.Config(lengths=(8, 16))
    said = {positions: e20.fresh(config, positions, 0) for positions in ("none", "sinusoidal", "fast")}
    rows = torch.tensor([[2, 0, 1, 1, 0]])
    slow = e20.encoder(config, "sinusoidal", longest=16, draw=0).eval()
    period = 2 * torch.pi * 10000 ** (torch.arange(16) / 16)
    slow.pos_embed.weight[:, (period > 8).repeat_interleave(2)] = 0
    with torch.no_grad():
        torch.testing.assert_close(said["fast"](rows), slow(rows)[:, 0].double())
    assert not torch.allclose(said["fast"](rows), said["sinusoidal"](rows))
    assert not torch.allclose(said["fast"](rows), said["none"](rows))


def test_twins_differ_in_one_bit_and_never_in_the_first_token(e20: ModuleType) -> None:
    rows, twins = e20.one_token_apart(e20.Config(pairs=50), 7, 0)
    assert ((rows != twins).sum(1) == 1).all() and torch.equal(rows[:, 0], twins[:, 0])
    rows, twins = e20.one_token_apart(e20.Config(pairs=50), 7, 0, at=1)
    assert (rows[:, 1] != twins[:, 1]).all()


def test_a_mean_of_bits_has_an_influence_of_one_nth_and_slope_minus_one(e20: ModuleType) -> None:
    lengths = (4, 16, 64)

    def mean(tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, 1:].double().mean(1)

    found = [e20.influence(mean, e20.one_token_apart(e20.Config(), length, 0)) for length in lengths]
    assert found == pytest.approx([1 / 4, 1 / 16, 1 / 64])
    assert e20.slope(np.array([found, found]), lengths, seed=0).value == pytest.approx(-1)


def test_a_coin_has_a_cross_entropy_of_one_bit(e20: ModuleType) -> None:
    assert e20.cross_entropy(torch.zeros(4), torch.tensor([0, 1, 1, 0])) == pytest.approx(1)
    assert e20.cross_entropy(torch.tensor([-50.0, 50.0]), torch.tensor([0, 1])) == pytest.approx(0)


def test_what_is_written_by_hand_is_right_and_surer_behind_a_norm_and_without_attention_it_guesses(e20: ModuleType) -> None:
    table = e20.recognised(e20.Config(rows=20), "FIRST", 16)
    assert (table["right"] == 1).all() and (table["right without attention"] < 0.9).all()
    assert list(table["entropy"]) == sorted(table["entropy"], reverse=True)
