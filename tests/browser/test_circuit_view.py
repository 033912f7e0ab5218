"""The drawing of a circuit in Chromium: fits, can be read without a mouse, and shows what the slider and the list say."""

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from windows import DESKTOP, PHONE

from interp.report import CircuitView, Report, write

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)>"
ROWS = {"input": 0} | {f"a0.h{head}": 1 for head in range(12)} | {"a1.h0": 2, "a1.h1": 2, HOSTILE: 3, "logits": 4}
EDGES = [
    ("a0.h3", "a1.h0", "k", 2.0),
    ("input", "a0.h3", "v", -1.0),
    ("a1.h0", "logits", "", 4.0),
    ("input", "a1.h0", "q", 0.5),
    ("input", HOSTILE, "", 0.25),
    *((f"a0.h{head}", "logits", "", 0.125) for head in range(12)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("circuit")
    report = Report("E99", "Which edges?")
    report.section("The circuit")
    report.view(CircuitView(title=f"Circuit {HOSTILE}", rows=ROWS, edges=EDGES, unit="logits"))
    write(report, root, {}, seconds=1.0)
    return root


@pytest.mark.parametrize(("viewport", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"])
def test_the_drawing_fits_its_window_and_is_accessible(visit, viewport, scheme):
    page = visit(viewport=viewport, scheme=scheme, touch=viewport is PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    boxes = page.locator(".stage .node rect").evaluate_all("all => all.map((box) => box.getBoundingClientRect().toJSON())")
    assert len(boxes) == len(ROWS) - 1, "a1.h1 has no edge"
    assert all(box["left"] >= 0 and box["right"] <= viewport["width"] for box in boxes)
    for i, one in enumerate(boxes):
        for other in boxes[i + 1 :]:
            apart = one["right"] <= other["left"] or other["right"] <= one["left"]
            assert apart or one["bottom"] <= other["top"] or other["bottom"] <= one["top"], "no node covers another"
    found = Axe().run(page).response["violations"]
    assert [(fault["id"], fault["nodes"][0]["html"][:120]) for fault in found] == []


def test_inputs_stand_below_and_logits_above(visit):
    page = visit()
    height = {
        name: page.locator(".stage .node", has=page.get_by_text(name, exact=True)).bounding_box()["y"]
        for name in ("input", "a0.h3", "a1.h0", "logits")
    }
    assert height["input"] > height["a0.h3"] > height["a1.h0"] > height["logits"]


def test_the_slider_keeps_the_strongest_edges(visit):
    page = visit()
    view = page.locator("#view-circuit")
    assert view.locator(".pick").count() == view.locator("path.edge").count() == len(EDGES)
    view.get_by_label("Strongest edges").fill("3")
    assert view.locator(".pick .about").all_inner_texts() == ["a1.h0 → logits", "a0.h3 → a1.h0 k", "input → a0.h3 v"]
    assert view.locator("path.edge").count() == 3 and view.locator("path.edge.down").count() == 1
    assert view.locator("output").inner_text() == "3 of 17, each at least 1"
    assert view.locator(".node.loose").count() == len(ROWS) - 1 - 4


def test_edges_can_be_walked_and_locked_with_the_keyboard(visit):
    page = visit()
    view = page.locator("#view-circuit")
    view.locator(".pick").first.focus()
    assert view.locator(".readout").inner_text() == "a1.h0 → logits 4 logits"
    page.keyboard.press("ArrowDown")
    assert view.locator(".readout").inner_text() == "a0.h3 → a1.h0 k 2 logits"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert view.locator(".readout").inner_text() == "input → a0.h3 v −1 logits (locked)"
    assert view.locator(".pick").nth(2).get_attribute("aria-pressed") == "true"
    assert view.locator("path.edge.on").get_attribute("class") == "edge down on"
    assert view.locator(".pick[tabindex='0']").count() == 1, "one stop for the tab key"


def test_an_edge_tells_its_weight_under_the_pointer(visit):
    page = visit()
    view = page.locator("#view-circuit")
    view.locator("path.near").nth(1).dispatch_event("pointerenter")
    assert view.locator(".readout").inner_text() == "a0.h3 → a1.h0 k 2 logits"
    assert view.locator(".node.on").all_text_contents() == ["a0.h3", "a1.h0"]


@pytest.mark.parametrize("way", ["click", "select"])
def test_one_node_s_edges_can_be_seen_alone(visit, way):
    view = visit().locator("#view-circuit")
    if way == "click":
        view.locator(".node", has_text="a1.h0").click()
    else:
        view.get_by_role("combobox").select_option("a1.h0")
    assert view.locator(".pick .about").all_inner_texts() == ["a1.h0 → logits", "a0.h3 → a1.h0 k", "input → a1.h0 q"]
    view.get_by_role("combobox").select_option("all nodes")
    assert view.locator(".pick").count() == len(EDGES)


def test_hostile_names_stay_names(visit):
    page = visit()
    assert page.locator("img").count() == 0
    assert page.locator(".stage .node text", has_text="onerror").count() == 1
