"""Pattern scores: targets against a slow obvious reference, heads with known patterns, both nulls, every kind of attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_shapes import SHAPES, case_of

from interp.errors import ConfigError, ModelError
from interp.heads import patterns
from interp.heads.targets import KINDS, Sight
from interp.models.hooked import Model

CAUSAL = ("previous_token", "current_token", "same_token", "duplicate_token", "induction", "bos_sink")
ROWS = torch.tensor([[0, 3, 1, 3, 3, 2, 1, 3], [0, 1, 1, 1, 2, 2, 1, 0]])
SOURCE = torch.tensor([[3, 1, 2, 3, 4, 1], [1, 1, 2, 0, 5, 2]])
SIGHTS = {
    "causal": Sight.of(ROWS),
    "both ways": Sight.of(ROWS, causal=False),
    "cross": Sight(ROWS, SOURCE, causal=False, across=True),
}


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


def slow_targets(kind: str, sight: Sight, row: int, query: int) -> set[int]:
    """The definition of each kind, one query at a time."""
    own, keys = sight.queries[row].tolist(), sight.keys[row].tolist()
    seen = range(query + 1) if sight.causal else range(len(keys))
    others = [key for key in seen if sight.across or key != query]
    matches = {key for key in others if keys[key] == own[query]}
    return {
        "previous_token": {query - 1} & set(seen),
        "current_token": {query} & set(seen),
        "next_token": {query + 1} & set(seen),
        "same_token": {key for key in seen if keys[key] == own[query]},
        "duplicate_token": matches,
        "induction": {key + 1 for key in matches} & set(others),
        "bos_sink": {0} & set(others),
    }[kind]


@pytest.mark.parametrize(("way", "kind"), [(way, kind) for kind, each in KINDS.items() for way in each.ways])
def test_targets_agree_with_the_slow_definition(way: str, kind: str) -> None:
    sight = SIGHTS[way]
    found = KINDS[kind].targets(sight)
    for row in range(2):
        for query in range(8):
            assert set(found[row, query].nonzero().flatten().tolist()) == slow_targets(kind, sight, row, query)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_tokens_and_no_others_change_when_tokens_do(kind: str) -> None:
    one, other = (Sight(tokens, tokens, causal=False) for tokens in (ROWS, ROWS.flip(1)))
    changed = bool((KINDS[kind].targets(one) != KINDS[kind].targets(other)).any())
    assert changed == KINDS[kind].of_tokens


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_head_that_attends_only_to_the_targets_scores_one_and_one_that_avoids_them_zero(kind: str) -> None:
    tokens = repeated()
    target = KINDS[kind].targets(Sight.of(tokens)).float()
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
    assert tuple(small) == CAUSAL
    for kind in CAUSAL:
        assert small[kind].dims == ("layer", "head", "example")
        assert small[kind].values.shape == (3, 2, 6)
        np.testing.assert_allclose(small[kind].values, large[kind].values, rtol=1e-5)
    pattern = model.run(tokens, read=["blocks.1.attn.hook_pattern"]).activations["blocks.1.attn.hook_pattern"]
    target = KINDS["induction"].targets(Sight.of(tokens)).float()
    slow = torch.stack([(pattern[i] * target[i]).sum((1, 2)) / target[i].any(-1).sum() for i in range(6)], dim=1)
    np.testing.assert_allclose(patterns.induction_scores(model, tokens).values[1], slow, rtol=1e-5)


def test_uniform_scores_are_what_even_attention_gets() -> None:
    found = patterns.uniform_scores(torch.tensor([[0, 1, 2]]), kinds=["bos_sink", "previous_token"])
    assert found["bos_sink"].values == pytest.approx([(1 / 2 + 1 / 3) / 2])
    assert found["previous_token"].values == pytest.approx([(1 / 2 + 1 / 3) / 2])
    assert found["bos_sink"].dims == ("example",)
    both = patterns.uniform_scores(Sight.of(torch.tensor([[0, 1, 2]]), causal=False), kinds=["next_token"])
    assert both["next_token"].values == pytest.approx([1 / 3])


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


def test_a_distance_profile_is_the_mean_of_the_diagonals(model: Model) -> None:
    tokens = repeated()
    found = patterns.distance_profile(model, tokens, batch=4)
    pattern = model.run(tokens, read=["blocks.2.attn.hook_pattern"]).activations["blocks.2.attn.hook_pattern"]
    assert found.dims == ("layer", "head", "distance", "example")
    for distance in (0, 1, 5, 16):
        diagonal = pattern.diagonal(-distance, 2, 3).mean(-1).T
        np.testing.assert_allclose(found.sel(layer=2, distance=distance).values, diagonal, rtol=1e-5)
    score = patterns.scores(model, tokens, kinds=["previous_token"])["previous_token"].values
    np.testing.assert_allclose(found.sel(distance=1).values, score, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_attention_of_every_kind_of_model_is_scored(shape: str) -> None:
    case = case_of(shape)
    tokens = torch.cat([case.tokens, case.tokens], 1)
    beside = {"decoder_input": case.tokens} if case.beside else {}
    names = {"encoder", "decoder", "cross"} if case.model.kind == "encoder-decoder" else {"self"}
    found = patterns.attentions(case.model)
    assert set(found) == names
    for name, looked in found.items():
        kinds = ["same_token", "bos_sink"]
        scores = patterns.scores(case.model, tokens, attention=name, kinds=kinds, **beside)
        even = patterns.uniform_scores(looked.sight(tokens, beside), kinds=kinds)
        for kind in kinds:
            assert scores[kind].values.shape == (case.model.n_layers, case.model.n_heads, 2)
            assert scores[kind].values.mean() == pytest.approx(even[kind].values.mean(), rel=0.5), "near chance, untrained"
        profile = patterns.distance_profile(case.model, tokens, attention=name, **beside)
        distances = profile.coords["distance"]
        lengths = [len(each[0]) for each in (looked.sight(tokens, beside).queries, looked.sight(tokens, beside).keys)]
        assert (distances[0], distances[-1]) == (0 if looked.causal else 1 - lengths[1], lengths[0] - 1)
        looks = "both ways" if name in ("encoder", "cross") or case.model.kind == "encoder" else "back"
        assert looked.causal == (looks == "back")


def test_source_tokens_that_a_copy_goes_on_with_are_found_across(model: Model) -> None:
    case = case_of("t5")
    source = case.tokens
    decoder = torch.cat([torch.zeros(2, 1, dtype=torch.long), source[:, :-1]], 1)
    sight = patterns.attention_of(case.model, "cross").sight(source, {"decoder_input": decoder})
    assert KINDS["induction"].targets(sight)[:, torch.arange(1, 7), torch.arange(1, 7)].all(), "token t follows where t−1 stands"


def test_an_unknown_kind_or_attention_names_those_there_are(model: Model) -> None:
    with pytest.raises(ConfigError, match=r"no pattern kind 'inducton'; there are previous_token, current_token"):
        patterns.scores(model, repeated(), kinds=["inducton"])
    with pytest.raises(ConfigError, match="self attention has no targets of kind next_token; use previous_token"):
        patterns.scores(model, repeated(), kinds=["next_token"])
    with pytest.raises(ConfigError, match="native has no attention 'cross'; it has self"):
        patterns.scores(model, repeated(), attention="cross")


def test_a_decoder_without_its_tokens_is_refused() -> None:
    case = case_of("t5")
    with pytest.raises(ModelError, match="cross attention is of the decoder's tokens: give decoder_input=…"):
        patterns.scores(case.model, case.tokens, attention="cross")


def test_a_row_without_any_target_is_refused(model: Model) -> None:
    with pytest.raises(ModelError, match="no query of row 0 has a target of kind 'induction'; give tokens that do"):
        patterns.induction_scores(model, torch.arange(8)[None])
