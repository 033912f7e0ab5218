"""Probes find what is planted, on documents they were not fitted on, and their controls find nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from interp import probes
from interp.errors import ConfigError

N, D, DOCUMENTS = 1200, 12, 30


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D)).astype(np.float32)
    labels = {
        "direction": x @ rng.normal(size=D) > 0,
        "axis": x[:, 3] > 1,
        "depth": np.round(3 * x[:, 5]).astype(np.int64),
        "noise": rng.random(N) < 0.5,
        "constant": np.ones(N, bool),
    }
    return x, labels, rng.permutation(np.repeat(np.arange(DOCUMENTS), N // DOCUMENTS))


def test_planted_labels_are_read_and_shuffled_or_random_ones_are_not(data):
    x, labels, groups = data
    random = np.random.default_rng(1).normal(size=x.shape)
    table = probes.probe(x, labels, groups, controls={"random": random}, resamples=50).set_index(["label", "source"])
    assert set(table.index.unique("label")) == {"direction", "axis", "depth", "noise"}
    assert set(table.index.unique("source")) == {"activations", "random", probes.SHUFFLED}
    for label, metric, chance in (("direction", "AUROC", 0.5), ("axis", "AUROC", 0.5), ("depth", "R²", 0.0)):
        own = table.loc[(label, "activations")]
        assert own.metric == metric and own.score > 0.95 and own.low <= own.score <= own.high and own.documents == 9
        for control in ("random", probes.SHUFFLED):
            assert table.loc[(label, control)].score == pytest.approx(chance, abs=0.12)
    assert table.loc[("noise", "activations")].score == pytest.approx(0.5, abs=0.12)


def test_a_k_sparse_probe_reads_an_axis_with_one_column_and_a_spread_direction_only_in_part(data):
    x, labels, groups = data
    table = probes.probe(x, labels, groups, k=1, resamples=20)
    score = table[table.source == "activations"].set_index("label").score
    assert score["axis"] > 0.99 and score["depth"] > 0.95 and score["direction"] < 0.95
    assert set(table.probe) == {"logistic, 1 columns", "ridge, 1 columns"}


def test_columns_of_a_k_sparse_probe_are_chosen_on_training_documents_alone(data):
    rng = np.random.default_rng(5)
    noise, label = rng.normal(size=(300, 2000)), rng.random(300) < 0.5
    table = probes.probe(noise, {"label": label}, np.arange(300) % 20, k=10, resamples=20)
    assert table[table.source == "activations"].score.item() == pytest.approx(0.5, abs=0.17)


class FakeStore:
    def __init__(self, x, groups):
        self.x, self.groups = x, groups

    def batches(self, hooks, *, rows, seed):
        for part in np.split(np.arange(len(self.x)), 4):
            ids = torch.from_numpy(part)
            yield SimpleNamespace(
                activations={hooks: torch.from_numpy(self.x[part])},
                tokens=ids % 50,
                document=torch.from_numpy(self.groups[part]),
                position=ids,
            )


def test_a_store_is_probed_on_a_bounded_sample_with_token_identity_beside_it(data):
    x, labels, groups = data
    token = np.arange(N) % 50 < 10
    table = probes.probe_store(
        FakeStore(x, groups),
        "hook",
        lambda _, position: {"axis": labels["axis"][position], "token": token[position]},
        max_rows=900,
    ).set_index(["label", "source"])
    assert set(table["rows"]) == {900}
    assert table.loc[("axis", "activations")].score > 0.95 > 0.7 > table.loc[("axis", "token identity")].score
    assert table.loc[("token", "token identity")].score > 0.8


def test_a_report_gets_the_table_and_a_claim_per_label(data):
    x, labels, groups = data
    table = probes.probe(x, {"axis": labels["axis"], "noise": labels["noise"]}, groups, resamples=20)
    claims, tables = {}, {}
    report = SimpleNamespace(
        table=lambda name, table, caption: tables.update({name: table}),
        claim=lambda slug, text, estimate, **target: claims.update({slug: (estimate, target)}),
    )
    probes.fill_report(report, table, hook="h")
    assert tables["probes"] is table
    assert claims["probe-axis"][0].low > 0.2 and claims["probe-noise"][0].low < 0.05
    assert claims["probe-axis"][1]["at_least"] == 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {}}, "there are no labels to probe for"),
        ({"labels": {"a": np.ones(3, bool)}}, "a has 3 rows and the activations have 1200"),
        ({"k": 13}, "k=13 columns cannot be chosen from 12; use 1 to 12, or 0 for all"),
        ({"x": np.full((N, D), np.inf)}, "activations hold 14400 non-finite values"),
        ({"groups": np.zeros(N, int)}, "1 document cannot be split"),
    ],
)
def test_bad_input_is_refused(data, change, message):
    x, labels, groups = data
    arguments = {"x": x, "labels": {"axis": labels["axis"]}, "groups": groups} | change
    with pytest.raises(ConfigError, match=message):
        probes.probe(arguments.pop("x"), arguments.pop("labels"), arguments.pop("groups"), **arguments)


def test_a_gain_is_the_difference_of_scores_and_is_paired_by_document():
    rng = np.random.default_rng(7)
    groups = np.repeat(np.arange(40), 60)
    hard = rng.uniform(0.2, 6.0, size=40)[groups]  # some documents are much harder to read than others
    truth = rng.normal(size=len(groups))
    x = (truth + hard * rng.normal(size=len(groups)))[:, None]
    nearly = x + 0.1 * rng.normal(size=x.shape)
    table = probes.probe(x, {"label": truth > 0}, groups, controls={"nearly": nearly}, resamples=300).set_index("source")
    own, other = table.loc["activations"], table.loc["nearly"]
    assert other.gain == pytest.approx(own.score - other.score)
    assert other.gain_low <= other.gain <= other.gain_high
    assert other.gain_high - other.gain_low < 0.3 * (own.high - own.low)
