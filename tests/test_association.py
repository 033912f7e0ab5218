"""Exact scores of columns against labels: equal to scikit-learn's, chosen on one half and scored on the other."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import spearmanr
from sklearn.metrics import f1_score, precision_recall_curve, roc_auc_score

from interp import association
from interp.errors import ConfigError

N, DOCUMENTS = 400, 20


@pytest.fixture
def columns():
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(N, 2))
    codes = rng.exponential(size=(N, 2)) * (rng.random((N, 2)) < 0.1)
    signed = rng.integers(-2, 3, size=(N, 1)).astype(float)
    return np.concatenate([dense, codes, signed, np.zeros((N, 1))], axis=1)


@pytest.fixture
def labels(columns):
    rng = np.random.default_rng(1)
    noisy = columns[:, 2] + 0.3 * rng.normal(size=N) > 0.5
    return np.stack([rng.random(N) < 0.3, noisy, columns[:, 4] > 0], axis=1)


@pytest.fixture
def groups():
    return np.repeat(np.arange(DOCUMENTS), N // DOCUMENTS)


def test_auroc_equals_scikit_learns_with_ties_zeros_and_negative_values(columns, labels):
    ours = association.auroc(columns, labels)
    theirs = [[roc_auc_score(label, column) for label in labels.T] for column in columns.T]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    np.testing.assert_allclose(association.auroc(sparse.csr_array(columns), labels), theirs, atol=1e-12)


def test_auroc_of_a_label_that_never_changes_is_not_a_number(columns):
    assert np.isnan(association.auroc(columns, np.ones((N, 1), dtype=bool))).all()


def test_auroc_turns_round_with_the_sign_of_the_column(columns, labels):
    np.testing.assert_allclose(association.auroc(-columns, labels), 1 - association.auroc(columns, labels), atol=1e-12)


def test_best_f1_is_the_best_over_all_thresholds_of_scikit_learn(columns, labels):
    found = association.best_f1(columns, labels)
    for i, column in enumerate(columns.T):
        for j, label in enumerate(labels.T):
            precision, recall, _ = precision_recall_curve(label, column)
            best = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
            assert found.f1[i, j] == pytest.approx(best)
            assert f1_score(label, column >= found.threshold[i, j]) == pytest.approx(best)


def test_documents_are_split_whole_and_in_half(groups):
    half = association.split_documents(groups, seed=0)
    assert half.reshape(DOCUMENTS, -1).std(axis=1).max() == 0 and half.mean() == 0.5
    assert not np.array_equal(half, association.split_documents(groups, seed=1))


def test_the_planted_column_is_found_and_beats_random_columns_and_shuffled_labels(columns, labels, groups):
    random = np.random.default_rng(2).normal(size=columns.shape)
    names = {"chance": labels[:, 0], "noisy": labels[:, 1], "exact": labels[:, 2]}
    table = association.best_columns(columns, names, groups, controls={"random": random}, resamples=100).set_index(
        ["label", "source"]
    )
    assert list(table.index.unique("source")) == ["columns", "random", "shuffled"]
    own = table.loc[("exact", "columns")]
    assert own.column == 4 and own.f1 == own.precision == own.recall == own.auroc == 1
    assert table.loc[("noisy", "columns")].column == 2
    for control in ("random", "shuffled"):
        assert table.loc[("exact", control)].gain_low > 0.2
        assert table.loc[("chance", control)].gain_low < 0.1
        row = table.loc[("noisy", control)]
        assert row.f1_low <= row.f1 <= row.f1_high and row.gain_low <= row.gain <= row.gain_high


def test_the_score_is_taken_on_documents_that_did_not_choose_the_column(groups):
    rng = np.random.default_rng(3)
    noise, label = rng.normal(size=(N, 300)), rng.random(N) < 0.2
    row = association.best_columns(noise, {"label": label}, groups, resamples=20).iloc[0]
    assert row.f1_chosen > row.f1 + 0.03, "the best of 300 random columns looks good only where it was chosen"
    assert abs(row.auroc - 0.5) < 0.12


def test_labels_that_hold_in_one_half_only_are_left_out(columns, groups):
    rare = groups == 0
    table = association.best_columns(columns, {"rare": rare, "common": columns[:, 0] > 0}, groups, resamples=10)
    assert set(table.label) == {"common"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"a": np.zeros(3, bool)}}, r"labels \['a'\] do not have one value for each of 400 rows"),
        ({"labels": {}}, "there are no labels"),
        ({"columns": np.full((N, 1), np.nan)}, "the columns hold 400 non-finite values"),
        ({"columns": np.ones((5, 1))}, "do not fit 5 rows of columns"),
        ({"groups": np.zeros(N, int)}, "1 document cannot be split into a half"),
    ],
)
def test_bad_input_is_refused(columns, groups, change, message):
    arguments = {"columns": columns, "labels": {"a": columns[:, 0] > 0}, "groups": groups} | change
    with pytest.raises(ConfigError, match=message):
        association.best_columns(*arguments.values())


def test_rank_correlation_is_scipys_ties_included_and_does_not_exist_for_constants():
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = rng.integers(0, 6, (2, 40)).astype(float)
        assert association.rank_correlation(a, b) == pytest.approx(spearmanr(a, b)[0])
    assert association.rank_correlation(a, np.exp(a)) == pytest.approx(1.0)
    assert np.isnan(association.rank_correlation(a, np.ones(40)))


def table(**scores):
    return pd.DataFrame(
        {
            "label": label,
            "source": source,
            "column": 3,
            "f1": value,
            "precision": value / 2,
            "recall": 1.0,
            "auroc": 0.5,
            "rate": 0.1,
        }
        for source, values in scores.items()
        for label, value in zip("abc", values, strict=True)
    )


def test_a_gain_is_the_mean_over_labels_and_layers_of_one_score_less_another():
    scored = table(columns=(0.9, 0.5, 0.7), random=(0.4, 0.5, 0.6))
    assert association.gain(scored, "random").value == pytest.approx(0.2)
    assert association.gain(scored, "columns", of="random").value == pytest.approx(-0.2)
    assert association.gain(scored, "random", score="precision").value == pytest.approx(0.1)
    layers = pd.concat([scored, table(columns=(0.1, 0.5, 0.7), random=(0.4, 0.5, 0.6))])
    assert association.gain(layers, "random").value == pytest.approx((0.1 + 0.0 + 0.1) / 3)
    assert association.gain(layers, "random").n == 3


def test_the_table_of_best_columns_is_one_row_per_label_best_first_beside_its_controls():
    wide = association.beside(table(columns=(0.5, 0.9, 0.7), random=(0.4, 0.5, 0.6)), "neuron")
    assert wide.label.tolist() == ["b", "c", "a"]
    assert wide.neuron.tolist() == [0.9, 0.7, 0.5] and wide.random.tolist() == [0.5, 0.6, 0.4]
