"""E25 in reduced form: on a few held-out documents, with a small autoencoder, everything but the stated loss still holds."""

import io

import pandas as pd
import pytest
from experiment_cases import module_of

from interp.models.hooked import Model
from interp.report import Report
from interp.text import resolve
from interp.text.corpora import Corpus
from interp.text.labelled import LabelledText

NAMES = {"queue.py", "cmd.py", "modulefinder.py", "json/__init__.py", "operator.py", "email/iterators.py"}


@pytest.fixture(scope="module")
def e25():
    return module_of("E25")


@pytest.fixture(scope="module")
def report(e25, tmp_path_factory):
    config = e25.Config(tokens=30_000, d_sae=384, steps=150, prompts=8, spliced=2, neuron_tokens=4_000, shown=40)
    model = Model.load("stdlib-4l")
    untrained = model.untrained(0)
    assert model.tokenizer is not None
    documents = tuple(document for document in resolve("stdlib:heldout").documents() if document.name in NAMES)
    text = LabelledText.read(Corpus("some", "", lambda: iter(documents)), model.tokenizer, context=model.n_ctx)
    report = Report("E25", "reduced")
    study = e25.Study(config, model, untrained, text)
    e25.report_training(report)
    e25.report_heads(study, report)
    e25.report_one_text(study, report)
    folder = tmp_path_factory.mktemp("stores")
    stores = [e25.cached(config, one, folder / one.name) for one in (model, untrained)]
    e25.report_cache(study, report, stores[0])
    sae, control = (e25.trained(config, store) for store in stores)
    e25.report_neurons(study, report)
    e25.report_autoencoder(study, report, sae)
    e25.report_features(study, report, sae, control)
    return report


@pytest.mark.slow
@pytest.mark.parametrize(
    "slug",
    [
        "prefix-matching",
        "previous-token",
        "induction-needed",
        "cache-exact",
        "neurons-random",
        "features-random",
        "features-untrained",
        "features-rules",
    ],
)
def test_the_claim_holds_in_reduced_form_and_its_control_stays_away(report, slug):
    claim = next(claim for claim in report.claims if claim.id == f"E25.{slug}")
    assert claim.verdict == "PASS", claim
    assert not claim.target.holds(*claim.control.ends), "the control would pass, too"


@pytest.mark.slow
def test_a_small_autoencoder_recovers_most_of_the_loss_and_random_directions_do_not(report):
    claim = next(claim for claim in report.claims if claim.id == "E25.loss-recovered")
    assert claim.measured.value > 0.8
    assert claim.control.value < 0.6


@pytest.mark.slow
def test_probes_on_a_few_features_stand_beside_their_controls_and_beat_shuffled_labels(report):
    tables = {block.name: block for block in report.blocks("table")}
    scores = pd.read_csv(io.StringIO(tables["sparse-probes"].csv)).set_index("label").mean()
    assert set(scores.index) == {"features", "random directions", "untrained model", "shuffled labels"}
    assert scores["features"] > 0.7 and abs(scores["shuffled labels"] - 0.5) < 0.05
    assert tables["absorption"].n_rows >= 4


@pytest.mark.slow
def test_there_is_an_attention_view_a_token_view_and_a_dashboard_of_neurons_and_of_features(report):
    views = {block.view.name: block.view for block in report.blocks("view")}
    assert {"attention-self", "tokens", "layer-2", "feature"} <= set(views)
    assert len(views["feature"].features) == 40
    assert all(feature.examples for feature in views["feature"].features if feature.density > 0)
    for name in ("layer-2", "feature"):
        assert sum(feature.rule is not None for feature in views[name].features) > len(views[name].features) / 2
