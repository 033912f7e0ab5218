"""Claims about what experts are for: what was planted is found, what was not is not, and every null is what it says."""

from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from interp.errors import ConfigError
from interp.mlp.routing import Decisions
from interp.mlp.specialists import _dealt, _drawn_together, agreement, information, taken, together

ROWS, EXPERTS = 1200, 4


def made(chosen, *, tokens=None, document=None):
    """Decisions of layers whose experts are written down: layer → [row expert], any numbers above 0 for those chosen."""
    weights = {layer: torch.as_tensor(np.asarray(values, dtype=np.float32)) for layer, values in chosen.items()}
    rows = torch.arange(len(next(iter(weights.values()))))
    tokens = rows % 7 if tokens is None else torch.as_tensor(tokens)
    document = rows // 40 if document is None else torch.as_tensor(document)
    return Decisions(weights, weights, tokens, document, rows)


def drawn(rng, k=1, rows=ROWS):
    """Random experts, k for each row."""
    chosen = np.zeros((rows, EXPERTS))
    np.put_along_axis(chosen, rng.random((rows, EXPERTS)).argsort(1)[:, :k], 1.0, axis=1)
    return chosen


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# ---- tokens ----


def test_the_token_that_an_expert_takes_is_found_and_no_other(rng):
    tokens = rng.integers(0, 20, ROWS)
    chosen = drawn(rng)
    chosen[tokens == 7] = [1, 0, 0, 0]
    table = taken(made({"mlp": chosen}, tokens=tokens))
    first = table.iloc[0]
    assert (first.expert, first.token, first["rows"], first["count"]) == (0, 7, (tokens == 7).sum(), (tokens == 7).sum())
    assert first.p == pytest.approx(1 / 201)
    assert 2 < first.lift_low < first.lift < first.lift_high
    assert first.lift == pytest.approx(first["count"] / first.expected)
    assert (table.p[1:] > 0.05).all()


def test_random_choices_make_no_finding(rng):
    least = [taken(made({"mlp": drawn(rng)}, tokens=rng.integers(0, 20, ROWS)), shuffles=60).p.min() for _ in range(12)]
    assert np.mean(np.array(least) <= 0.05) <= 0.25


def test_a_document_that_goes_to_an_expert_does_not_make_its_tokens_the_experts(rng):
    """Token 0 comes in the first documents only, and these go to expert 2 whatever the token."""
    document = np.arange(ROWS) // 40
    tokens = np.where(document < 6, rng.integers(0, 2, ROWS) * 5, rng.integers(1, 20, ROWS))
    chosen = np.where((document < 6)[:, None], [0, 0, 1.0, 0], drawn(rng))
    table = taken(made({"mlp": chosen}, tokens=tokens, document=document))
    assert 0 not in table[(table.expert == 2) & (table.p <= 0.05)].token.tolist()
    one = taken(made({"mlp": chosen}, tokens=tokens, document=np.zeros(ROWS, int)))  # the trap, if documents are forgotten
    assert one[(one.expert == 2) & (one.p <= 0.05)].token.iloc[0] == 0


def test_choices_are_dealt_out_within_their_documents(rng):
    document = rng.integers(0, 9, 60)
    first, second = _dealt(document, 2, seed=0)
    for order in (first, second):
        assert sorted(order) == [*range(60)] and (document[order] == document).all()
    assert (first != second).any() and (first != np.arange(60)).any()


def test_rare_tokens_are_left_out_and_nothing_but_rare_ones_is_refused(rng):
    tokens = np.arange(ROWS)
    tokens[:5] = 0
    table = taken(made({"mlp": drawn(rng)}, tokens=tokens))
    assert set(table.token) <= {0}
    with pytest.raises(ConfigError, match=r"^no token comes 6 times; give more text, or a smaller at_least$"):
        taken(made({"mlp": drawn(rng)}, tokens=tokens), at_least=6)


# ---- labels and layers ----


def test_information_is_that_of_sklearn_for_one_expert_per_token(rng):
    chosen, label = drawn(rng), rng.integers(0, 5, ROWS)
    chosen[label == 2] = [0, 1, 0, 0]
    row = information(made({"mlp": chosen}), {"label": label}).iloc[0]
    assert row.information == pytest.approx(normalized_mutual_info_score(label, chosen.argmax(1)), abs=1e-9)
    assert row.shuffled < 0.1 * row.information
    assert row.p == pytest.approx(1 / 21)


@pytest.mark.parametrize("k", [1, 2])
def test_an_unrelated_label_tells_no_more_than_a_shuffled_one(rng, k):
    table = information(made({"mlp": drawn(rng, k)}), {"names": rng.integers(0, 50, ROWS).astype(str), "one": np.zeros(ROWS)})
    assert table.p[0] > 0.05 and table.information[0] == pytest.approx(table.shuffled[0], rel=0.25)
    assert (table.information[1], table.p[1]) == (0, 1)


def test_several_experts_count_in_equal_parts(rng):
    """Two of four experts for each label: half of the expert's entropy is the label's."""
    label = rng.permutation(np.arange(ROWS) % 2)
    chosen = np.where(label[:, None] == 0, [3.0, 1, 0, 0], [0, 0, 1, 1])
    row = information(made({"mlp": chosen}), {"label": label}).iloc[0]
    assert row.information == pytest.approx(2 * np.log(2) / (np.log(2) + np.log(4)))


def test_layers_that_choose_alike_agree_and_others_do_not(rng):
    chosen = drawn(rng)
    table = agreement(made({"first": chosen, "renamed": chosen[:, [2, 0, 3, 1]], "other": drawn(rng)}))
    assert table[["layer", "other"]].to_numpy().tolist() == [["first", "renamed"], ["first", "other"], ["renamed", "other"]]
    assert table.information[0] == pytest.approx(1)
    assert table.p[0] == pytest.approx(1 / 21) and (table.p[1:] > 0.05).all()


# ---- pairs ----


@pytest.mark.parametrize(("rates", "k"), [([0.9, 0.5, 0.3, 0.2, 0.1], 2), ([0.8, 0.8, 0.6, 0.5, 0.3], 3), ([1.0] * 3, 3)])
def test_independent_draws_have_their_rates_and_their_pairs(rates, k):
    found = _drawn_together(np.array(rates), k)
    theta = np.sqrt(np.ones(len(rates)))
    for _ in range(20000):  # the same law by listing every set
        sets = {chosen: np.prod(theta[list(chosen)]) for chosen in combinations(range(len(rates)), k)}
        total = sum(sets.values())
        single = np.array([sum(p for chosen, p in sets.items() if e in chosen) / total for e in range(len(rates))])
        if np.abs(single - rates).max() < 1e-9:
            break
        theta = theta * rates / single
    for e, f in combinations(range(len(rates)), 2):
        assert found[e, f] == pytest.approx(sum(p for chosen, p in sets.items() if {e, f} <= {*chosen}) / total, abs=1e-6)


def test_experts_chosen_together_by_chance_have_a_lift_of_one(rng):
    table = together(made({"mlp": drawn(rng, 2)}))
    assert len(table) == 6 and table.share.sum() == pytest.approx(1)
    assert ((table.lift_low < 1) & (table.lift_high > 1)).sum() >= 5
    share = drawn(rng, 2).mean(0)
    assert table.lift.mean() == pytest.approx(1, abs=0.05)
    assert (table.share / (share[table.expert] * share[table.other])).mean() < 0.75  # the product of shares expects too many


def test_pairs_that_were_planted_stand_out(rng):
    chosen = np.where(rng.random(ROWS)[:, None] < 0.5, [1.0, 1, 0, 0], [0, 0, 1.0, 1])
    table = together(made({"mlp": chosen})).set_index(["expert", "other"])
    assert table.lift[0, 1] > 2.5 and table.lift_low[0, 1] > 2
    assert table.lift[0, 2] == 0


# ---- bad input ----


def test_what_cannot_be_asked_is_refused(rng):
    found = made({"mlp": drawn(rng)})
    with pytest.raises(ConfigError, match=r"^labels \['short'\] do not have one value for each of 1200 rows$"):
        information(found, {"short": np.zeros(3)})
    with pytest.raises(ConfigError, match=r"^there are no labels; give one$"):
        information(found, {})
    with pytest.raises(ConfigError, match=r"^1 layer of experts has no other to agree with; give a model with two or more$"):
        agreement(found)
    with pytest.raises(ConfigError, match=r"^mlp has one expert for a token, so no two are chosen together$"):
        together(found)
