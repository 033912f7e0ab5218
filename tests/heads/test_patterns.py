"""Pattern scores: targets against a slow obvious reference, heads with known patterns, both nulls."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.errors import ConfigError, ModelError
from interp.heads import patterns
from interp.models.hooked import Model


@pytest.fixture(scope="module")
def model() -> Model:
    config = {
        "d_model": 16,
        "d_head": 4,
        "n_heads": 2,
        "n_layers": 3,
        "n_ctx": 24,
        "d_vocab": 12,
        "attn_only": True,
        "act_fn": "gelu",
        "normalization_type": None,
    }
    return Model.native(config, seed=0)


def repeated(examples: int = 6, half: int = 8, d_vocab: int = 12) -> torch.Tensor:
    first = torch.randint(1, d_vocab, (examples, half), generator=torch.Generator().manual_seed(0))
    return torch.cat([torch.zeros(examples, 1, dtype=torch.long), first, first], dim=1)


def slow_targets(kind: str, row: list[int], query: int) -> set[int]:
    """The definition of each kind, one query at a time."""
    earlier = range(query)
    return {
        "previous_token": {query - 1} if query else set(),
        "same_token": {key for key in range(query + 1) if row[key] == row[query]},
        "duplicate_token": {key for key in earlier if row[key] == row[query]},
        "induction": {key + 1 for key in earlier if row[key] == row[query] and key + 1 < query},
        "bos_sink": {0} if query else set(),
    }[kind]


@pytest.mark.parametrize("kind", patterns.KINDS)
def test_targets_agree_with_the_slow_definition(kind: str) -> None:
    tokens = torch.tensor([[0, 3, 1, 3, 3, 2, 1, 3], [0, 1, 1, 1, 2, 2, 1, 0]])
    found = patterns.KINDS[kind](tokens)
    for i, row in enumerate(tokens.tolist()):
        for query in range(len(row)):
            assert set(found[i, query].nonzero().flatten().tolist()) == slow_targets(kind, row, query)


@pytest.mark.parametrize("kind", patterns.KINDS)
def test_a_head_that_attends_only_to_the_targets_scores_one_and_one_that_avoids_them_zero(kind: str) -> None:
    tokens = repeated()
    target = patterns.KINDS[kind](tokens).float()
    heads = torch.stack([target / target.sum(-1, keepdim=True).clamp_min(1), (1 - target) / tokens.shape[1]], dim=1)
    found = patterns.targeted(heads, tokens, kind)
    assert found[:, 0] == pytest.approx(torch.ones(len(tokens)))
    assert (found[:, 1] == 0).all()


def test_induction_sums_over_all_earlier_matches() -> None:
    tokens = torch.tensor([[5, 1, 5, 2, 5]])  # the last query matches twice: keys 1 and 3
    pattern = torch.zeros(1, 1, 5, 5)
    pattern[0, 0, 4] = torch.tensor([0.1, 0.4, 0.0, 0.3, 0.2])
    pattern[0, 0, 2] = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0])
    assert float(patterns.targeted(pattern, tokens, "induction")) == pytest.approx((0.4 + 0.3 + 0.5) / 2)


def test_special_tokens_are_no_queries() -> None:
    tokens = torch.tensor([[0, 1, 2, 0, 3]])
    pattern = torch.zeros(1, 1, 5, 5)
    pattern[0, 0, 3, 2] = 1.0  # only the query at the second 0 looks at its previous token
    assert float(patterns.targeted(pattern, tokens, "previous_token")) == pytest.approx(1 / 4)
    assert float(patterns.targeted(pattern, tokens, "previous_token", special=[0])) == 0.0


def test_scores_do_not_depend_on_the_batch_and_match_the_full_pattern(model: Model) -> None:
    tokens = repeated()
    small, large = patterns.scores(model, tokens, batch=2), patterns.scores(model, tokens, batch=100)
    for kind in patterns.KINDS:
        assert small[kind].dims == ("layer", "head", "example")
        assert small[kind].values.shape == (3, 2, 6)
        np.testing.assert_allclose(small[kind].values, large[kind].values, rtol=1e-5)
    pattern = model.run(tokens, read=["blocks.1.attn.hook_pattern"]).activations["blocks.1.attn.hook_pattern"]
    target = patterns.induction(tokens).float()
    slow = torch.stack([(pattern[i] * target[i]).sum((1, 2)) / target[i].any(-1).sum() for i in range(6)], dim=1)
    np.testing.assert_allclose(patterns.induction_scores(model, tokens).values[1], slow, rtol=1e-5)


def test_uniform_scores_are_what_even_attention_gets() -> None:
    found = patterns.uniform_scores(torch.tensor([[0, 1, 2]]), kinds=["bos_sink", "previous_token"])
    assert found["bos_sink"].values == pytest.approx([(1 / 2 + 1 / 3) / 2])
    assert found["previous_token"].values == pytest.approx([(1 / 2 + 1 / 3) / 2])
    assert found["bos_sink"].dims == ("example",)


def test_shuffled_targets_keep_tokens_but_not_the_score_of_a_real_pattern(model: Model) -> None:
    tokens = repeated(examples=40)
    real = patterns.scores(model, tokens, kinds=["same_token"])["same_token"].values
    null = patterns.shuffled_scores(model, tokens, kinds=["same_token"], seed=1)["same_token"].values
    assert null.shape == real.shape
    assert not np.allclose(null, real)
    np.testing.assert_array_equal(
        null, patterns.shuffled_scores(model, tokens, kinds=["same_token"], seed=1)["same_token"].values
    )


def test_entropy_of_the_untrained_model_is_near_that_of_even_attention(model: Model) -> None:
    tokens = repeated()
    even = np.log(np.arange(1, tokens.shape[1] + 1)).mean()
    found = patterns.entropy(model, tokens)
    assert found.unit == "nats"
    assert (found.values <= even + 1e-5).all()
    assert found.values.mean() == pytest.approx(even, rel=0.1)


def test_an_unknown_kind_names_those_there_are(model: Model) -> None:
    with pytest.raises(ConfigError, match=r"no pattern kind 'inducton'; there are previous_token, same_token"):
        patterns.scores(model, repeated(), kinds=["inducton"])


def test_a_row_without_any_target_is_refused(model: Model) -> None:
    with pytest.raises(ModelError, match="no query of row 0 has a target of kind 'induction'; give tokens that do"):
        patterns.induction_scores(model, torch.arange(8)[None])
