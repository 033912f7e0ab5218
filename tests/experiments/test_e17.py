"""E17 at full size, and its parts on cases that are known."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from experiment_cases import assert_claims_hold, module_of
from model_shapes import case_of

from interp.models.hooked import Model
from interp.models.transformer import TransformerConfig, transformer
from interp.report import Report
from interp.stats import torch_generator
from interp.tasks import alignments
from interp.tasks.pairs import Pairs
from interp.tasks.sequences import reversal


@pytest.fixture(scope="module")
def e17() -> ModuleType:
    return module_of("E17")


def drawn(n: int = 6, lengths: tuple[int, int] = (3, 5)) -> Pairs:
    return reversal(n, lengths, 20, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_every_claim_holds_at_full_size_and_every_control_misses_its_target(e17: ModuleType) -> None:
    report = Report("E17", "encoder–decoder")
    e17.run(e17.Config(), report)
    assert {claim.id.partition(".")[2] for claim in report.claims} == {
        *("accuracy", "antidiagonal", "argmax", "needs-the-source", "pointer", "straight", "gradients", "unseen", "parts-sum"),
        *("translations", "alignment", "agreement", "both-ways", "causal"),
    }
    assert_claims_hold(report)


@pytest.fixture(scope="module")
def kinds(e17: ModuleType) -> dict[str, Model]:
    """One small model of each kind; what is known of a model's parts is found once."""
    sizes = {"d_model": 16, "n_heads": 2, "n_layers": 1, "d_mlp": 32, "d_vocab": 3 + e17.SYMBOLS, "n_ctx": e17.LENGTHS[1] + 1}
    own = {"encoder-decoder": {"norm": "post", "tied": True}, "encoder": {}, "decoder": {}}
    return {kind: Model.wrap(transformer(TransformerConfig.of(sizes | more | {"kind": kind}), 0)) for kind, more in own.items()}


@pytest.mark.parametrize("seed", range(20))
def test_claims_that_need_no_training_hold_on_every_seed(e17: ModuleType, kinds: dict[str, Model], seed: int) -> None:
    for model in kinds.values():
        model.bridge.load_state_dict(transformer(model.bridge.config, seed).state_dict())
    report = Report("E17", "encoder–decoder")
    report.section("closed form")
    own, other = alignments.twins(reversal(8, e17.LENGTHS, e17.SYMBOLS, generator=torch_generator(seed, "pairs")))
    e17.report_sums(kinds["encoder-decoder"], own, other, report)
    e17.report_causal(kinds, e17.in_place_pairs(torch_generator(seed, "rows"), 2).source, report)
    assert {claim.id: claim.verdict for claim in report.claims} == {"E17.parts-sum": "PASS", "E17.causal": "PASS"}
    assert all(claim.control is not None and claim.control.value > 1e-2 for claim in report.claims)


def test_the_best_guess_is_that_of_simulation(e17: ModuleType) -> None:
    pairs = drawn(20_000, (4, 4))
    expected = float(e17.best_guess(pairs, 20).mean())
    left = [next(iter(set(range(3, 23)) - set(row[:t]))) for row in pairs.target[:, :4].tolist() for t in range(4)]
    assert (pairs.target[:, :4].flatten() == torch.tensor(left)).double().mean() == pytest.approx(expected, abs=0.005)


def test_words_given_are_held_against_words_wanted(e17: ModuleType) -> None:
    model, pairs = case_of("vaswani").model, drawn()
    found = model.run(pairs.source, **pairs.beside).logits.argmax(-1)
    assert e17.written(model, pairs, found).tolist() == [1] * 6
    assert e17.written(model, pairs, found + 1).tolist() == [0] * 6
    assert e17.Study(model, model, pairs, 0).whole(model, pairs).value == 0


def test_what_source_tokens_bring_stands_in_the_cell_of_who_brings_it_to_whom(e17: ModuleType) -> None:
    model, (own, other) = case_of("vaswani").model, alignments.twins(drawn(12))
    found = e17.brought(model, own, other)
    asked = own.sure.any(-1)
    for scores in found.values():
        assert (scores[~asked] == 0).all() and scores[asked].any()
    contrast, _ = alignments.questions(own, other)
    one = e17.brought(model, own[3:4], other[3:4])
    assert len(contrast) == int(asked.sum())
    torch.testing.assert_close(one["unseen"][0], found["unseen"][3], atol=1e-5, rtol=1e-4)
