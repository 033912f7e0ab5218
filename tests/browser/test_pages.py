"""The pages in Chromium, offline: they ask for nothing, fail at nothing, fit a phone, and do what they promise."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from windows import DESKTOP, PHONE

from interp import figures
from interp.report import AttentionView, Example, Feature, FeatureDashboard, Report, Rule, TokenView, rebuild_index, write
from interp.stats import Estimate

pytestmark = pytest.mark.browser

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\u202e"
TOKENS = ["def", " run", "(", "self", ")", ":", "\n", "    ", "return", HOSTILE]


def dashboard() -> FeatureDashboard:

    def examples(i: int) -> list[Example]:
        peak = np.where(np.arange(10) == i % 10, 4.0, 0.5)
        kept = Example(token_ids=range(10), activations=peak, document="email/parser.py", position=40)
        weak = Example(token_ids=[0, 1, 2], activations=[0.0, 4.0, 2.0], focus=2, document="b.py", group="Quantile 4 of 4")
        return [kept, weak, Example(token_ids=[i % 10, 2], activations=[0, 0], document="a.py", group="Random negatives")]

    features = [
        Feature(
            id=3 * i,
            density=0.001 * (64 - i),
            examples=examples(i),
            histogram=([5, 2, 1], [0.0, 1.0, 2.0, 3.0]),
            boosted=[(i % 10, 2.0)],
            suppressed=[(1, -1.0)],
            neighbours={"decoder cosine": [(3 * ((i + 5) % 64), 0.4), (9999, 0.1)]},
            labels=[("keyword" if i % 2 else "in docstring", 0.9), (HOSTILE, 0.5)],
            attribution=[("L1H3", 0.7), (HOSTILE, 0.4)],
            metrics={"held-out F1": i / 64},
            rule=rule(i) if i % 4 == 1 else None,
            explanation=HOSTILE if i == 7 else None,
        )
        for i in range(64)
    ]
    return FeatureDashboard(
        features=features,
        vocabulary=TOKENS,
        tokens_scanned=1_000_000,
        dead=9,
        label_score="AUROC",
        attribution_score="cosine (chance 0.41)",
    )


def rule(i: int) -> Rule:
    text = HOSTILE if i == 61 else f'token is "{TOKENS[i % 9]}" and in call'
    return Rule(text=text, precision=i / 64, recall=0.5, null_precision=0.012, null_recall=0.3)


def large_dashboard() -> FeatureDashboard:
    """More features than fit in a page; each has one example, of its own token."""
    features = [
        Feature(id=i, density=0.001, examples=[Example(token_ids=[i % 10, 2], activations=[3.0, 0.0], document=f"{i}.py")])
        for i in range(4100)
    ]
    return FeatureDashboard(features=features, vocabulary=TOKENS, tokens_scanned=99, dead=0, total=5000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A reports folder with one run and its index; words that would run as script stand wherever words may stand."""
    root = tmp_path_factory.mktemp("reports")
    report = Report("E99", f"What does it do? {HOSTILE}", quick=True)
    control = Estimate(0.2, 0.1, 0.3, 30)
    report.claim("high", "It is high", Estimate(0.9, 0.8, 0.95, 30), at_least=0.7, unit="share", source=HOSTILE, control=control)
    report.claim("low", "It is low", Estimate(0.9, 0.8, 0.95, 30), at_most=0.7, unit="share")
    report.not_run("big", "It is big", "needs a GPU")
    report.section("Numbers")
    table = pd.DataFrame({"head": [f"L{i}H{i}" for i in range(12)], "score": np.linspace(0, 1, 12), HOSTILE: ["x" * 300] * 12})
    report.table(
        "wide", table.assign(**{f"column {i}": 1.5 for i in range(12)}), caption="A wide table. " + "It has much to say. " * 6
    )
    report.figure("line", figures.lines(table.assign(i=range(12)), "i", "score"), caption="A line", alt="It rises", data=table)
    patterns = np.tril(np.random.default_rng(1).gamma(0.3, 1, (4, 6, 10, 10)) + 1e-6)
    patterns /= patterns.sum(-1, keepdims=True)
    scores = np.arange(24).reshape(4, 6) / 24
    report.view(AttentionView(tokens=TOKENS, patterns=patterns, scores={"induction": scores, "previous": 1 - scores}))
    report.view(
        TokenView(tokens=TOKENS, values={"loss": np.linspace(0, 5, 10), "keyword": [1, *[0] * 9]}, units={"loss": "nats"})
    )
    report.section("Features")
    report.view(dashboard())
    write(report, root / "E99" / "1", {"command": "interp run E99 " + "x" * 400, HOSTILE: HOSTILE}, seconds=3.0)
    large = Report("E98", "Many features")
    large.view(large_dashboard())
    write(large, root / "E98" / "1", {}, seconds=1.0)
    rebuild_index(root)
    return root


@pytest.fixture
def first_page() -> str:
    return "E99/1/report.html"


@pytest.mark.parametrize(("viewport", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"])
@pytest.mark.parametrize("path", ["E99/1/report.html", "index.html"])
def test_pages_fit_their_window_and_are_accessible(visit, path, viewport, scheme):
    page = visit(path, viewport=viewport, scheme=scheme, touch=viewport is PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    found = Axe().run(page).response["violations"]
    assert [(fault["id"], fault["nodes"][0]["html"][:120]) for fault in found] == []


def test_a_wide_table_s_caption_is_read_without_scrolling_and_stays_when_the_table_is(visit):
    page = visit(viewport=PHONE, touch=True)
    table = page.get_by_role("region", name="A wide table.")
    assert table.evaluate("region => region.scrollWidth > 2 * region.clientWidth")
    for scrolled in (0, 400):
        table.evaluate("(region, by) => { region.scrollLeft = by; }", scrolled)
        box = table.locator("caption span").first.bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]


def test_hostile_words_stay_words(visit):
    page = visit()
    assert page.locator("img").count() == 1
    assert page.locator("script").count() == 4, "our own, and the data of three views"
    assert page.locator("h1").inner_text().endswith("<img src=x onerror=alert(1)>‹U+202E›")


def test_a_claim_reads_without_javascript(browser, folder):
    context = browser.new_context(offline=True, java_script_enabled=False, viewport=DESKTOP)
    page = context.new_page()
    page.goto((folder / "E99/1/report.html").as_uri())
    assert page.locator("#E99\\.high .badge").inner_text().endswith("PASS")
    assert page.get_by_text("Browsing needs JavaScript").count() == 3
    assert page.locator("img").evaluate("image => image.complete && image.naturalWidth > 100")
    context.close()


def test_features_are_found_by_id_token_label_and_metric(visit):
    page = visit()
    view = page.locator("#view-feature")
    search, found = view.get_by_role("searchbox"), view.locator(".pick")
    for words, count in {
        "": 64,
        "21": 1,
        "#21": 1,
        "keyword": 32,
        "label:docstring": 32,
        "token:return": 6,
        "rule:call": 15,
        'rule:"def" call': 2,
        "rule:docstring": 0,
        "ruleprecision>0.5": 8,
        "f1>=0.5": 32,
    }.items():
        search.fill(words)
        assert found.count() == count, words
    search.fill("density<0.0025 keyword")
    assert [row.split()[0] for row in found.all_inner_texts()] == ["189"]
    assert view.locator(".heading").inner_text() == "Feature 189"
    search.fill("nothing like it")
    assert view.get_by_role("status").inner_text() == "No feature matches “nothing like it”."


def test_a_rule_is_told_with_its_scores_and_those_of_a_shuffled_feature(visit):
    page = visit()
    page.evaluate("location.hash = '#feature=39'")
    page.wait_for_function("document.querySelector('#view-feature .heading').textContent === 'Feature 39'")
    view = page.locator("#view-feature")
    assert view.locator(".rule .words").inner_text() == f'Fires where token is "{TOKENS[13 % 9]}" and in call'
    scores = view.locator(".rule .scores").inner_text()
    assert scores == "on other documents: precision 20 % (shuffled 1.2 %) · recall 50 % (shuffled 30 %)"
    assert view.get_by_text("Heads, by cosine (chance 0.41)").count() == 1
    page.evaluate("location.hash = '#feature=42'")
    page.wait_for_function("document.querySelector('#view-feature .heading').textContent === 'Feature 42'")
    assert view.locator(".rule").count() == 0


@pytest.mark.parametrize(("viewport", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"])
def test_a_feature_with_a_rule_fits_and_is_accessible(visit, viewport, scheme):
    page = visit("E99/1/report.html", viewport=viewport, scheme=scheme, touch=viewport is PHONE)
    page.evaluate("location.hash = '#feature=183'")
    page.wait_for_function("document.querySelector('#view-feature .heading').textContent === 'Feature 183'")
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    found = Axe().run(page).response["violations"]
    assert [(fault["id"], fault["nodes"][0]["html"][:120]) for fault in found] == []


def test_thousands_of_features_are_read_from_files_beside_the_page(visit):
    page = visit("E98/1/report.html")
    view = page.locator("#view-feature")
    view.locator(".example").wait_for()
    assert view.get_by_text("4,100 of 5,000 features shown").count() == 1
    assert page.locator("head script").count() == 1, "one file, that of the feature shown"
    page.evaluate("location.hash = '#feature=255'")
    view.get_by_text("255.py").wait_for()
    page.keyboard.press("j")
    view.get_by_text("256.py").wait_for()
    assert view.locator(".strip .peak").inner_text() == "↵"
    assert page.locator("head script").count() == 2
    view.get_by_role("searchbox").fill("token:return")
    assert view.get_by_role("status").inner_text().endswith("of 410 found of 4100")
    page.evaluate("location.hash = '#feature=4099'")
    page.reload()
    view.get_by_text("4099.py").wait_for()


def test_walking_fast_ends_at_the_last_feature(visit):
    page = visit("E98/1/report.html")
    view = page.locator("#view-feature")
    page.evaluate("location.hash = '#feature=250'")
    view.get_by_text("250.py").wait_for()
    for _ in range(10):
        page.keyboard.press("j")
    view.get_by_text("260.py").wait_for()
    page.wait_for_timeout(200)
    assert page.locator("#view-feature .heading").inner_text() == "Feature 260"


def test_a_file_that_was_not_kept_is_named(browser, folder, tmp_path):
    lonely = tmp_path / "report.html"
    lonely.write_bytes((folder / "E98/1/report.html").read_bytes())
    context = browser.new_context(offline=True, viewport=DESKTOP)
    page = context.new_page()
    page.goto(lonely.as_uri())
    message = page.locator("#view-feature").get_by_role("alert")
    message.wait_for()
    assert message.inner_text() == "shards/feature-000.js is missing: keep the folder “shards” beside this page."
    context.close()


def test_features_sort_by_any_metric(visit):
    view = visit().locator("#view-feature")
    view.get_by_role("combobox").select_option("held-out F1")
    assert view.locator(".pick").first.inner_text().split()[0] == "189"
    view.get_by_role("combobox").select_option("rule precision")
    assert view.locator(".pick").first.inner_text().split()[0] == "183"
    view.get_by_role("combobox").select_option("id")
    assert view.locator(".pick").first.inner_text().split()[0] == "0"


def test_keys_walk_the_features_and_leave_a_permalink(visit):
    page = visit()
    heading = page.locator("#view-feature .heading")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert heading.inner_text() == "Feature 3"
    assert page.evaluate("location.hash") == "#feature=3"
    page.keyboard.press("/")
    page.keyboard.type("j")
    assert page.locator("#view-feature input").input_value() == "j", "keys typed into the search are letters"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.tagName") == "BODY"


def test_a_permalink_opens_its_feature_and_a_neighbour_leads_on(visit):
    page = visit("E99/1/report.html")
    page.evaluate("location.hash = '#feature=30'")
    heading = page.locator("#view-feature .heading")
    page.wait_for_function("document.querySelector('#view-feature .heading').textContent === 'Feature 30'")
    page.reload()
    page.wait_for_function("document.querySelector('#view-feature .heading')?.textContent === 'Feature 30'")
    page.locator("#view-feature .go").first.click()
    assert (heading.inner_text(), page.evaluate("location.hash")) == ("Feature 45", "#feature=45")


def test_one_feature_is_in_the_page_with_its_examples_and_the_sampling_is_told(visit):
    view = visit().locator("#view-feature")
    assert view.locator(".example").count() == 3
    assert view.locator(".strip .peak").count() == 2
    weak = view.locator(".example").nth(1)
    assert weak.locator(".peak").inner_text() == TOKENS[2], "the token it was chosen for, not the strongest"
    assert re.search(r"here 2\S* · max 4\b", weak.inner_text())
    assert view.get_by_text("64 features shown · 1,000,000 tokens scanned · 9 dead").count() == 1


@pytest.mark.parametrize("way", ["click", "tap", "keyboard"])
def test_a_head_can_be_looked_at_and_locked(visit, way):
    page = visit(viewport=PHONE if way == "tap" else DESKTOP, touch=way == "tap")
    view = page.locator("#view-attention")
    first, second, name = view.locator(".head").nth(1), view.locator(".head").nth(8), view.locator(".big h4")
    assert name.inner_text() == "L3H5", "the best by the first score"
    if way == "keyboard":
        first.focus()
        assert name.inner_text() == "L0H1"
        page.keyboard.press("Enter")
    else:
        first.click() if way == "click" else first.tap()
    assert name.inner_text() == "L0H1 (locked)"
    second.focus()
    assert name.inner_text() == "L0H1 (locked)"
    assert [first.get_attribute("aria-pressed"), second.get_attribute("aria-pressed")] == ["true", "false"]
    first.click()
    second.focus()
    assert name.inner_text() == "L1H2"


def test_attention_values_are_told_on_hover_and_focus(visit):
    page = visit()
    view = page.locator("#view-attention")
    view.locator("button.t").nth(4).hover()
    assert "L3H5 ) (4) attends to" in view.locator(".readout").inner_text()
    view.locator("button.t").first.focus()
    page.keyboard.press("ArrowRight")
    assert "␣run (1) attends to" in view.locator(".readout").inner_text()
    view.locator(".big canvas").hover()
    assert "attends to" in view.locator(".readout").inner_text()
    view.get_by_label("A token").select_option("is attended by")
    assert "is attended by" in view.locator(".readout").inner_text()


def test_token_values_are_told_with_their_unit(visit):
    view = visit().locator("#view-tokens")
    view.locator("button.t").nth(9).hover()
    assert view.locator(".readout").inner_text().endswith("token 9 · loss 5 nats · keyword 0")


def test_tables_sort_by_a_heading(visit):
    page = visit()
    table = page.locator("#table-wide table")
    score = table.get_by_role("columnheader", name="score")
    score.get_by_role("button").click()
    score.get_by_role("button").click()
    assert score.get_attribute("aria-sort") == "descending"
    assert table.locator("tbody tr").first.inner_text().startswith("L11H11")


def test_the_index_leads_to_the_report(visit):
    page = visit("index.html")
    page.get_by_role("link", name="What does it do?").click()
    page.wait_for_url("**/report.html")
    assert page.get_by_role("heading", level=1).inner_text().startswith("What does it do?")


def test_a_csv_can_be_downloaded_from_the_single_file(visit):
    page = visit()
    with page.expect_download() as download:
        page.locator("#figure-line .download").click()
    assert download.value.suggested_filename == "figure-line.csv"
    assert Path(download.value.path()).read_text().startswith("head,score,")


def test_a_notebook_s_frame_shows_the_view(browser):
    context = browser.new_context(offline=True, viewport=DESKTOP)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.set_content(dashboard()._repr_html_())
    frame = page.frame_locator("iframe")
    frame.locator(".pick").nth(2).click()
    assert frame.locator(".heading").inner_text() == "Feature 6"
    assert faults == []
    context.close()
