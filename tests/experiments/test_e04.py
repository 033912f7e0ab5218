"""E04 in a reduced form that still asserts, and its parts where the answer is known."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from experiment_cases import module_of

from interp.heads import ablation
from interp.models.hooked import Edit, Model
from interp.report import Report


@pytest.fixture(scope="module")
def e04() -> ModuleType:
    return module_of("E04")


@pytest.fixture(scope="module")
def subject(e04: ModuleType):
    """An untrained model in which heads (0, 1), (1, 0) and (1, 3) write nothing."""
    shape = {"d_model": 16, "d_head": 4, "n_heads": 4, "n_layers": 2, "n_ctx": 12, "d_vocab": 10, "attn_only": True}
    model = Model.native(shape | {"act_fn": "gelu", "normalization_type": "LN"}, seed=0)
    with torch.no_grad():
        for layer, head in ((0, 1), (1, 0), (1, 3)):
            model.weight(f"blocks.{layer}.attn.W_V")[head] = 0
            model.weight(f"blocks.{layer}.attn.b_V")[head] = 0
    tokens = torch.randint(10, (6, 12), generator=torch.Generator().manual_seed(0))
    asked = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    on = e04.Examples(tokens, asked)
    return e04.Subject("model", "tokens", model, model, on, on, 8)


IDLE = {(0, 1), (1, 0), (1, 3)}


def test_idle_heads_go_first_in_the_gradient_order_and_cost_nothing(e04: ModuleType, subject) -> None:
    order = e04.by_gradient(subject.model, subject.choosing)
    assert set(order[:3]) == IDLE and sorted(order) == subject.heads
    np.testing.assert_allclose(e04.nats(subject.model, subject.choosing, IDLE), e04.nats(subject.model, subject.choosing, []))
    assert np.array_equal(e04.curve(subject, order)[3], e04.curve(subject, order)[0])


def test_every_step_of_the_greedy_order_is_the_best_there_is(e04: ModuleType, subject) -> None:
    order = e04.greedy(subject)
    assert sorted(order) == subject.heads
    for n in range(7):
        costs = {head: e04.nats(subject.model, subject.choosing, [*order[:n], head]).mean() for head in order[n:]}
        assert costs[order[n]] == pytest.approx(min(costs.values()))


def test_importance_is_the_slope_of_the_loss_in_a_factor_before_the_head(e04: ModuleType, subject) -> None:
    model, on, small = subject.model, subject.choosing, 1e-2

    def scaled(head: tuple[int, int], factor: float) -> np.ndarray:
        def scale(z: torch.Tensor) -> torch.Tensor:
            z[:, :, head[1]] *= factor
            return z

        return ablation.loss(model, on.tokens, edits=[Edit(f"blocks.{head[0]}.attn.hook_z", scale)], predicted=on.asked).values

    slope = {head: np.abs(scaled(head, 1 + small) - scaled(head, 1 - small)).mean() / (2 * small) for head in subject.heads}
    norm = {layer: sum(slope[head] ** 2 for head in subject.heads if head[0] == layer) ** 0.5 for layer in (0, 1)}
    importance = {head: value / norm[head[0]] for head, value in slope.items()}
    order = e04.by_gradient(model, on)
    needed = [head for head in order if head not in IDLE]
    assert needed == sorted(needed, key=lambda head: importance[head])


def test_accuracy_is_the_share_of_the_asked_tokens_that_are_most_likely(e04: ModuleType, subject) -> None:
    on = subject.measuring
    guessed = subject.model.run(on.tokens).logits.argmax(-1)
    expected = [
        np.mean([float(guess[place] == row[place + 1]) for place in range(11) if asked[place + 1]])
        for guess, row, asked in zip(guessed, on.tokens, on.asked, strict=True)
    ]
    assert e04.accuracy(subject.model, on, []) == pytest.approx(expected)


def test_heads_go_until_the_first_that_costs_a_point(e04: ModuleType) -> None:
    curve = np.array([[0.9, 0.7], [0.9, 0.69], [0.9, 0.68], [0.9, 0.7], [0.1, 0.1]])  # mean: .8, .795, .79, .8, .1
    assert e04.removable(curve[:2], 8) == 1 / 8, "as far as was looked"
    assert e04.removable(curve, 8) == 1 / 8, "a point lost is a point lost, whatever comes after"
    assert e04.removable(curve[[0, 4]], 8) == 0
    found = e04.share(np.repeat(curve, 5, axis=1), 8, seed=0)
    assert found.value == 1 / 8 and found.low <= found.value <= found.high and found.n == 10


@pytest.fixture(scope="module")
def report(e04: ModuleType) -> Report:
    report = Report("E04", "redundancy")
    config = e04.Config(steps=500, prompts=16, modules=8, length=24, furthest=2, random_orders=2)
    e04.run(config, report)
    return report


@pytest.mark.slow
def test_in_reduced_form_heads_of_the_copying_model_can_go_and_their_order_matters(report: Report) -> None:
    claims = {claim.id.removeprefix("E04."): claim for claim in report.claims}
    assert set(claims) == {f"{model}-{order}" for model in ("copying", "language") for order in ("greedy", "gradient")}
    greedy = claims["copying-greedy"]
    assert greedy.verdict == "PASS"
    assert greedy.control is not None and greedy.target is not None and not greedy.target.holds(*greedy.control.ends)


@pytest.mark.slow
def test_the_report_draws_every_order_and_says_what_an_untrained_model_has_to_lose(report: Report) -> None:
    figures = {figure.name: figure for figure in report.blocks("figure")}
    assert list(figures) == ["copying-pruned", "language-pruned"]
    assert figures["copying-pruned"].data.n_rows == 4 * 9 and figures["language-pruned"].data.n_rows == 4 * 3
    said = [str(block.paragraphs) for block in report.blocks("text")]
    assert len(said) == 2 and all("The same model untrained is right on" in text for text in said)
