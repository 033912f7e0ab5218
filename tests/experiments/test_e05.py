"""E05, reduced, and its tasks against slow references."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from experiment_cases import assert_claims_hold, module_of

from interp.models.hooked import Model
from interp.report import Report


@pytest.fixture(scope="module")
def e05() -> ModuleType:
    return module_of("E05")


@pytest.mark.slow
def test_every_claim_holds_and_every_control_misses_its_target(e05: ModuleType) -> None:
    report = Report("E05", "positions")
    e05.run(e05.Config(**e05.QUICK), report)
    assert {claim.id.partition(".")[2] for claim in report.claims} == {
        *("shift", "hand-built-sinusoidal", "hand-built-rotary", "rotary-extrapolates", "learned-does-not", "learned-within"),
        *("unused-rows", "distance-alone", "distance-shipped", "smooth", "equivariant"),
    }
    assert_claims_hold(report)


@pytest.mark.usefixtures("without_figures")
def test_closed_forms_hold_on_every_seed(e05: ModuleType) -> None:
    model = Model.load("stdlib-4l")
    for seed in range(20):
        report, config = (
            Report("E05", "positions"),
            e05.Config(lengths=(4, 200), table=64, rows=4, trained=16, tested=24, seed=seed),
        )
        e05.report_shifts(config, report)
        e05.report_hand_built(config, report)
        e05.report_unused_rows(config, report)
        e05.report_orders(config, report)
        e05.report_shipped(config, report, model)
        assert len(report.claims) == 6
        assert_claims_hold(report)


def test_the_window_task_asks_for_the_shares_of_the_last_tokens(e05: ModuleType) -> None:
    batch = e05.window_mean(e05.Config(window=3), 2, 7, torch.Generator().manual_seed(0))
    for row, targets in zip(batch.tokens.tolist(), batch.targets, strict=True):
        for place in range(7):
            seen = row[max(0, place - 2) : place + 1]
            wanted = [seen.count(symbol) / len(seen) for symbol in range(e05.SYMBOLS)]
            assert targets[place].tolist() == pytest.approx(wanted)


def test_the_copying_task_asks_for_the_token_before(e05: ModuleType) -> None:
    batch = e05.previous_token(e05.Config(), 2, 7, torch.Generator().manual_seed(0))
    assert torch.equal(batch.targets[:, 1:], batch.tokens[:, :-1])
    assert not batch.counted[:, 0].any() and batch.counted[:, 1:].all()


def test_own_scores_are_differences_of_what_the_softmax_gets(e05: ModuleType) -> None:
    model = Model.wrap(e05.fresh(e05.Config(), "rotary"))
    tokens = torch.randint(e05.SYMBOLS, (2, 6), generator=torch.Generator().manual_seed(0))
    scores = model.run(tokens, read=[e05.SCORES]).activations[e05.SCORES].double()
    expected = scores - scores.diagonal(dim1=-2, dim2=-1)[..., None]
    found = e05.own_scores(model, tokens)[:, 0]
    seen = torch.ones(6, 6, dtype=torch.bool).tril()
    torch.testing.assert_close(found[..., seen], expected[..., seen], rtol=1e-4, atol=1e-5)


def test_rows_of_a_table_get_gradients_as_far_as_tokens_stand(e05: ModuleType) -> None:
    config = e05.Config(rows=3, trained=6, tested=10)
    drawn = e05.previous_token(config, 3, 6, torch.Generator().manual_seed(0))
    sizes = e05.gradient_sizes(config, drawn, 6)
    assert (sizes[:6] > 0).all() and not sizes[6:].any()
    assert (e05.gradient_sizes(config, drawn, 10) > 0).all()
