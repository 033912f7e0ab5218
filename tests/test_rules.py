"""Rules: planted ones are found as they were planted, random columns get nothing, and the words say what the rule does."""

import time

import numpy as np
import pytest
from scipy import sparse

from interp import rules
from interp.errors import ConfigError

VOCABULARY = [*"abcdefghij", "(", ")", "\n", '"']
OPEN, CLOSE = 10, 11
DOCUMENTS, LENGTH = 20, 200


@pytest.fixture(scope="module")
def text():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, len(VOCABULARY), DOCUMENTS * LENGTH)
    groups = np.repeat(np.arange(DOCUMENTS), LENGTH)
    labels = {
        "in_call": rng.random(len(tokens)) < 0.4,
        "keyword": rng.random(len(tokens)) < 0.1,
        "indent_depth": rng.integers(0, 5, len(tokens)),
    }
    return tokens, groups, labels


@pytest.fixture(scope="module")
def known(text):
    tokens, groups, labels = text
    return rules.conditions(tokens, groups, labels, VOCABULARY)


def before(values, distance, groups):
    """What stood `distance` rows earlier in the same document; -1 where nothing did."""
    moved = np.roll(values, distance)
    return np.where(np.roll(groups, distance) == groups, moved, -1)


@pytest.fixture(scope="module")
def planted(text):
    tokens, groups, labels = text
    call, keyword, depth = labels["in_call"], labels["keyword"], labels["indent_depth"]
    return {
        "keyword": keyword,
        'token is "("': tokens == OPEN,
        'token is "(" and in call': (tokens == OPEN) & call,
        'token is "(" and not in call': (tokens == OPEN) & ~call,
        'previous token is "a"': before(tokens, 1, groups) == 0,
        'token 3 before is ")" and keyword': (before(tokens, 3, groups) == CLOSE) & keyword,
        'next token is "\\n"': before(tokens, -1, groups) == 12,
        'token is "\\"" or "a"': (tokens == 13) | (tokens == 0),
        "keyword and indent depth ≥ 3": keyword & (depth >= 3),
        '(token is "(" and in call) or (previous token is "b" and in call)': ((tokens == OPEN) | (before(tokens, 1, groups) == 1))
        & call,
    }


def words(text):
    """A rule without regard to order."""
    bare = (part[1:-1] if part.startswith("(") else part for part in text.split(" or "))
    return {frozenset(part.split(" and ")) for part in bare}


def test_planted_rules_are_found_exactly(text, known, planted):
    table = rules.explain(np.stack(list(planted.values()), axis=1), known, text[1], resamples=20)
    own = table[table.source == "columns"]
    assert [words(found) for found in own.rule] == [words(rule) for rule in planted]
    assert (own.f1 == 1).all() and (own.precision_low == 1).all() and (own.recall_low == 1).all()
    assert own.conditions.tolist() == [1, 1, 2, 2, 1, 2, 1, 2, 2, 4]
    null = table[table.source == "shuffled"]
    assert null.f1.max() < 0.5 * own.f1.min()


def test_a_rule_holds_where_its_words_say(text, known, planted):
    found = rules.find(np.stack(list(planted.values()), axis=1), known)
    for rule, truth in zip(found, planted.values(), strict=True):
        np.testing.assert_array_equal(rule.holds(known), truth)


def test_random_columns_get_rules_no_better_than_their_null(text, known):
    rng = np.random.default_rng(5)
    random = rng.random((len(text[0]), 40)) < 0.03
    table = rules.explain(random, known, text[1], resamples=20)
    precision = table.pivot(index="column", columns="source", values="precision")
    gain = precision["columns"] - precision["shuffled"]
    assert abs(gain.mean()) < 2.5 * gain.std() / np.sqrt(40)
    assert precision["columns"].mean() < 0.06, "about the rate at which they fire"


def test_a_noisy_column_keeps_its_rule_and_pays_for_the_noise_in_precision(text, known):
    tokens, groups, _ = text
    rng = np.random.default_rng(1)
    noisy = ((tokens == OPEN) & (rng.random(len(tokens)) < 0.8)) | (rng.random(len(tokens)) < 0.01)
    own = rules.explain(noisy[:, None], known, groups).iloc[0]
    assert own.rule == 'token is "("'
    right = (noisy & (tokens == OPEN)).sum()
    assert own.precision == pytest.approx(right / (tokens == OPEN).sum(), abs=0.06)
    assert own.precision_low < own.precision < own.precision_high and own.recall_low < own.recall < own.recall_high


def test_rules_are_scored_on_documents_they_were_not_searched_on(text, known):
    tokens, groups, _ = text
    half = rules.split_documents(groups, seed=0)
    table = rules.explain(((tokens == OPEN) & half)[:, None], known, groups)
    assert table.rule[0] == 'token is "("' and table.precision[0] == 0


def test_a_column_that_hardly_fires_gets_no_rule(text, known):
    rare = np.zeros((len(text[0]), 2))
    rare[:: len(rare) // 6, 0] = 1
    table = rules.explain(rare, known, text[1])
    assert (table.rule == "").all() and (table.conditions == 0).all() and (table.precision == 0).all()


def test_sparse_and_dense_columns_of_any_size_and_sign_give_one_table(text, known, planted):
    dense = np.stack(list(planted.values())[:3], axis=1) * np.array([1.0, -2.0, 0.5])
    one, other = (rules.explain(columns, known, text[1], resamples=5) for columns in (dense, sparse.csc_array(dense)))
    assert one.equals(other)


def test_neighbours_do_not_cross_documents(text, known):
    tokens, groups, _ = text
    place = known.names.index(rules.Condition("previous token", VOCABULARY[tokens[LENGTH - 1]]))
    column = known.matrix[:, [place]].toarray()[:, 0]
    assert column[LENGTH] == 0 and column[1:LENGTH].sum() == (tokens[: LENGTH - 1] == tokens[LENGTH - 1]).sum()


def test_conditions_that_are_met_too_rarely_are_left_out(text):
    tokens, groups, labels = text
    some = rules.conditions(tokens, groups, labels, VOCABULARY, least=500)
    assert 0 < len(some.names) < 20 and some.matrix.sum(0).min() >= 500
    assert rules.Condition("", "in call") in some.names and rules.Condition("", "indent depth ≥ 1") in some.names


def test_dense_columns_fire_on_their_strongest_rows_above_zero():
    columns = np.stack([np.arange(100.0), -np.arange(100.0), np.r_[np.zeros(99), 1.0]], axis=1)
    fires = rules.strongest(columns, share=0.05).toarray()
    assert fires.sum(0).tolist() == [5, 0, 1] and fires[95:, 0].all() and fires[99, 2]


def test_a_column_costs_milliseconds(text, known):
    many = sparse.csc_array(np.random.default_rng(2).random((len(text[0]), 200)) < 0.02)
    start = time.process_time()
    rules.find(many, known)
    assert time.process_time() - start < 200 * 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"keyword": np.zeros(3, bool)}}, "keyword do not have one value for each of 4000 tokens"),
        (
            {"labels": {}, "least": 10_000},
            "no label and no token is met in 10000 of 4000 rows; give more text or a smaller least",
        ),
    ],
)
def test_conditions_refuse_what_does_not_fit(text, change, message):
    tokens, groups, labels = text
    with pytest.raises(ConfigError, match=message):
        rules.conditions(tokens, groups, **({"labels": labels, "vocabulary": VOCABULARY} | change))


def test_columns_of_other_rows_are_refused(text, known):
    with pytest.raises(ConfigError, match="3 rows of columns, 4000 of conditions and 4000 of groups; they must be the same rows"):
        rules.explain(np.ones((3, 1)), known, text[1])
