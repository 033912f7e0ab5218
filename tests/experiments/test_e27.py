"""E27 in reduced form: on a few held-out documents the claims hold, and their controls would not pass."""

import pytest
from experiment_cases import module_of

from interp.models.hooked import Model
from interp.report import Report
from interp.text import resolve
from interp.text.labelled import LabelledText

NAMES = {"queue.py", "cmd.py", "modulefinder.py"}


@pytest.fixture(scope="module")
def report():
    e27 = module_of("E27")
    config = e27.Config(scored_tokens=500, prompts=1, targets=8, shown=3)
    model = Model.load("stdlib-4l")
    assert model.tokenizer is not None
    documents = [document for document in resolve("stdlib:heldout").documents() if document.name in NAMES]
    text = LabelledText.read(resolve(documents), model.tokenizer, context=model.n_ctx)
    own, chance = (e27.read(config, one, text) for one in (model, model.untrained(0)))
    report = Report("E27", "reduced")
    e27.report_keys(config, report, own, chance, text)
    e27.report_values(config, report, own, chance, text)
    e27.report_labels(config, report, own, chance, text)
    e27.report_sub_updates(config, report, own, chance, text)
    e27.report_steering(config, report, model, text)
    table = e27.report_census(config, report, own, chance)
    e27.report_pages(config, report, own, text, table)
    return report


@pytest.mark.slow
@pytest.mark.parametrize("slug", ["patterns", "beyond-token", "deeper-later", "writes-untrained", "exact", "in-out"])
def test_the_claim_holds_in_reduced_form_and_its_control_stays_away(report, slug):
    claim = next(claim for claim in report.claims if claim.id == f"E27.{slug}")
    assert claim.verdict == "PASS", claim
    assert not claim.target.holds(*claim.control.ends), "the control would pass, too"


@pytest.mark.slow
@pytest.mark.parametrize("slug", ["agreement", "reads-random", "reads-untrained", "steering", "rules"])
def test_on_little_text_the_value_is_still_above_its_control(report, slug):
    claim = next(claim for claim in report.claims if claim.id == f"E27.{slug}")
    assert claim.measured.value > 2 * abs(claim.control.value)


@pytest.mark.slow
def test_every_layer_has_its_neurons(report):
    views = [block.view for block in report.blocks("view")]
    assert [view.name for view in views] == [f"layer-{layer}" for layer in range(4)]
    assert all(len(view.features) == 3 and all(feature.examples for feature in view.features) for view in views)
