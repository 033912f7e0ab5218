"""E17, and its measures on patterns and pairs that are known."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from experiment_cases import assert_claims_hold, module_of
from model_shapes import case_of

from interp.models.hooked import Model
from interp.models.transformer import TransformerConfig, transformer
from interp.report import Report
from interp.tasks.pairs import Pairs
from interp.tasks.sequences import reversal


@pytest.fixture(scope="module")
def e17() -> ModuleType:
    return module_of("E17")


def drawn(n: int = 6, lengths: tuple[int, int] = (3, 5)) -> Pairs:
    return reversal(n, lengths, 20, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_every_claim_holds_and_every_control_misses_its_target(e17: ModuleType) -> None:
    report = Report("E17", "encoder–decoder")
    e17.run(e17.Config(steps=450, translation_steps=260, mask_steps=150, rows=60), report)
    assert {claim.id.partition(".")[2] for claim in report.claims} == {
        *("accuracy", "antidiagonal", "argmax", "needs-the-source", "pointer"),
        *("translations", "alignment", "agreement", "both-ways", "causal"),
    }
    assert_claims_hold(report)


def test_measures_of_attention_are_those_of_patterns_that_are_known(e17: ModuleType) -> None:
    pairs = drawn()
    perfect = pairs.sure.double()
    assert e17.on_links(perfect, pairs) == pytest.approx(np.ones(6)) and e17.hits(perfect, pairs).tolist() == [1] * 6
    even = (pairs.attention_mask[:, None] / pairs.attention_mask.sum(1)[:, None, None]).expand_as(perfect)
    assert e17.on_links(even, pairs) == pytest.approx(1 / pairs.attention_mask.sum(1).numpy())
    wrong = pairs.sure.roll(1, 2).double()
    assert e17.on_links(wrong, pairs).tolist() == e17.hits(wrong, pairs).tolist() == [0] * 6
    assert e17.alignment_errors(perfect, pairs, seed=0).value == 0
    assert e17.alignment_errors(wrong, pairs, seed=0).value == 1


def test_the_best_guess_is_that_of_simulation(e17: ModuleType) -> None:
    pairs = drawn(20_000, (4, 4))
    expected = float(e17.best_guess(pairs, 20).mean())
    left = [next(iter(set(range(3, 23)) - set(row[:t]))) for row in pairs.target[:, :4].tolist() for t in range(4)]
    assert (pairs.target[:, :4].flatten() == torch.tensor(left)).double().mean() == pytest.approx(expected, abs=0.005)
    config = e17.Config(length=4)
    assert e17.guess_ahead(config) == pytest.approx((1 / 19 + 1 / 18) / 2)


def test_a_pointer_takes_all_attention_and_leaves_other_rows(e17: ModuleType) -> None:
    pairs = drawn(2)
    pattern = torch.rand(2, 3, *pairs.sure.shape[1:], generator=torch.Generator().manual_seed(1))
    found = e17.pointed(pattern, pairs.sure)
    rows = pairs.sure.any(-1)
    assert torch.equal(found.transpose(1, 2)[rows], pairs.sure[rows][:, None].float().expand(-1, 3, -1))
    assert torch.equal(found.transpose(1, 2)[~rows], pattern.transpose(1, 2)[~rows])


def test_influence_is_causal_exactly_where_the_mask_is(e17: ModuleType) -> None:
    tokens = torch.randint(3, 23, (3, 6), generator=torch.Generator().manual_seed(0))
    sizes = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_mlp": 40, "d_vocab": 50, "n_ctx": 32}
    for kind, leaks in (("decoder", False), ("encoder", True)):
        model = Model.wrap(transformer(TransformerConfig.of(sizes | {"kind": kind}), 0))
        matrix = e17.influence(model, tokens)
        assert bool(matrix.triu(1).any()) == leaks and (matrix.tril() + (1 - torch.ones(6, 6).tril()) > 0).all()


def test_words_given_are_held_against_words_wanted(e17: ModuleType) -> None:
    model, pairs = case_of("vaswani").model, drawn()
    found = model.run(pairs.source, **pairs.beside).logits.argmax(-1)
    assert e17.written(model, pairs, found).tolist() == [1] * 6
    assert e17.written(model, pairs, found + 1).tolist() == [0] * 6
    assert e17.whole(model, pairs).tolist() == [0] * 6
