"""The views of heads in Chromium, offline: heads are filtered and sorted, tokens asked about, by mouse, tap and keyboard."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from windows import DESKTOP, PHONE

from interp.report import Report, write
from interp.report.views import AttentionView, AttributionView

pytestmark = pytest.mark.browser

HOSTILE = "</script><script>alert(1)</script>"
TOKENS = ["BOS", "def", " run", "(", HOSTILE]
SOURCE = ["le", " chat", " noir"]
CLASSES = [["none", "induction", "none"], ["induction", HOSTILE, "none"]]


def attribution() -> AttributionView:
    heads = {"L0H0": np.zeros((2, 5)), "L0H1": np.zeros((2, 5))}
    heads["L0H0"][1, 1] = 2.0
    heads["L0H1"][:, 2] = -3.0
    components = {"embed": np.eye(2, 5, k=2) / 2, "0.attn": heads["L0H0"] + heads["L0H1"], HOSTILE: np.zeros((2, 5))}
    return AttributionView(
        tokens=TOKENS, targets=[(2, "logit of “(”"), (3, "logit of “x”")], groups={"heads": heads, "components": components}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    report = Report("E97", "Heads")
    report.section("Views")
    draw = np.random.default_rng(0)
    patterns = np.tril(draw.gamma(0.3, 1, (2, 3, 5, 5)) + 1e-6)
    scores = {"induction": np.arange(6).reshape(2, 3) / 6, "entropy": 3 - np.arange(6).reshape(2, 3) / 2}
    report.view(AttentionView(tokens=TOKENS, patterns=patterns / patterns.sum(-1, keepdims=True), scores=scores, classes=CLASSES))
    across = np.zeros((1, 2, 5, 3))
    across[0, 0, :, 1], across[0, 1] = 1.0, 1 / 3
    report.view(AttentionView(name="cross", title="Cross-attention", tokens=TOKENS, keys=SOURCE, patterns=across))
    report.view(attribution())
    root = tmp_path_factory.mktemp("heads")
    write(report, root, {}, seconds=1.0)
    return root


@pytest.mark.parametrize(("viewport", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"])
def test_views_fit_their_window_and_are_accessible(visit, viewport, scheme):
    page = visit(viewport=viewport, scheme=scheme, touch=viewport is PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    found = Axe().run(page).response["violations"]
    assert [(fault["id"], fault["nodes"][0]["html"][:120]) for fault in found] == []


def test_heads_are_filtered_by_class_and_sorted_by_score(visit):
    view = visit().locator("#view-attention")

    def names():
        return [text.split()[0] for text in view.locator(".head").all_inner_texts()]

    assert names() == ["L0H0", "L0H1", "L0H2", "L1H0", "L1H1", "L1H2"]
    heads = view.locator("label").filter(has_text=re.compile("^Heads")).locator("select")
    assert heads.locator("option").all_inner_texts()[:3] == ["all 6", "none (3)", "induction (2)"]
    heads.select_option("induction")
    assert names() == ["L0H1", "L1H0"]
    view.get_by_label("Order").select_option("by score")
    assert names() == ["L1H0", "L0H1"]
    view.get_by_label("Score under each head").select_option("entropy")
    assert names() == ["L0H1", "L1H0"]
    heads.select_option("")
    assert len(names()) == 6


def test_a_lock_holds_while_heads_are_sorted(visit):
    view = visit().locator("#view-attention")
    view.locator(".head").nth(3).click()
    assert view.locator(".big h4").inner_text() == "L1H0 · induction (locked)"
    view.get_by_label("Order").select_option("by score")
    view.locator(".head").first.hover()
    assert view.locator(".big h4").inner_text() == "L1H0 · induction (locked)"
    assert view.locator('.head[aria-pressed="true"]').count() == 1


def test_cross_attention_reads_from_either_side(visit):
    view = visit().locator("#view-cross")
    sides = view.locator(".strip")
    sides.first.locator("button.t").nth(1).hover()
    assert view.locator(".readout").inner_text() == "L0H0 def (1) attends to ␣chat (1) 1.00"
    sides.nth(1).locator("button.t").nth(1).hover()
    assert view.get_by_label("A token").input_value() == "from"
    assert "␣chat (1) is attended by BOS (0) 1.00, def (1) 1.00" in view.locator(".readout").inner_text()
    sides.nth(1).locator("button.t").nth(0).click()
    assert view.locator(".readout").inner_text() == "L0H0 le (0) is attended by nothing above 0.005"
    assert view.locator('button.t[aria-pressed="true"]').count() == 1


def test_attributions_are_told_with_their_sign_and_add_up(visit):
    view = visit().locator("#view-attribution")
    assert view.locator(".pick").all_inner_texts()[0].split() == ["L0H1", "−3"]
    assert view.get_by_text("sum −1 nats").count() == 1
    assert "L0H1 brings −3 nats from ␣run (2) to the logit of “x” at 3" in view.locator(".readout").inner_text()
    assert "cold" in (view.locator("button.t").nth(2).get_attribute("class") or "")
    view.locator(".pick").nth(1).click()
    assert "L0H0 brings 2 nats from def (1)" in view.locator(".readout").inner_text()
    view.locator("button.t").nth(4).hover()
    assert "L0H0 brings 0 nats from" in view.locator(".readout").inner_text()
    view.get_by_label("Parts").select_option("components")
    assert [text.split()[0] for text in view.locator(".pick").all_inner_texts()][:2] == ["0.attn", "embed"]


def test_a_target_is_asked_about_by_pressing_it(visit):
    view = visit().locator("#view-attribution")
    assert view.locator("button.t.target").count() == 2
    view.locator("button.t").nth(2).click()
    assert view.get_by_label("Ask about").input_value() == "0"
    assert view.get_by_text("sum −3 nats").count() == 1
    view.locator("button.t").nth(0).click()
    assert view.get_by_label("Ask about").input_value() == "0", "a token that is no target asks nothing"


def test_parts_and_tokens_are_walked_with_the_keyboard(visit):
    page = visit()
    view = page.locator("#view-attribution")
    view.locator(".pick").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert view.locator('.pick[aria-current="true"]').inner_text().split()[0] == "L0H0"
    assert page.evaluate("document.activeElement.getAttribute('aria-current')") == "true"
    view.locator("button.t").first.focus()
    page.keyboard.press("ArrowRight")
    assert "from def (1)" in view.locator(".readout").inner_text()
