"""The page is one file that needs nothing, and runs nothing from its data."""

import base64
import hashlib
import html
import json
import re
from collections import Counter

import html5lib
import pytest

from interp.errors import ReportError
from interp.report import Feature, FeatureDashboard
from interp.report import html as pages
from interp.report.report import Report
from interp.report.text import visible

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</ScRiPt ><script >alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</textarea><img src=x onerror=alert(1)>",
    "<!--<script>",
    "--><img src=x onerror=alert(1)>",
    "<![CDATA[<script>alert(1)</script>]]>",
    "]]><svg onload=alert(1)>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<iframe src=https://example.org>",
    "<object data=javascript:alert(1)>",
    "<embed src=javascript:alert(1)>",
    "<base href=https://example.org/>",
    "<meta http-equiv=refresh content='0;url=https://example.org'>",
    "<link rel=stylesheet href=https://example.org/x.css>",
    "<a href=javascript:alert(1)>x</a>",
    "<form action=https://example.org><button>x</button></form>",
    "<details open ontoggle=alert(1)>",
    "<math><mi xlink:href=javascript:alert(1)>x</mi></math>",
    "<template><script>alert(1)</script></template>",
    "<noscript><img src=x onerror=alert(1)></noscript>",
    "<table><td><script>alert(1)</script>",
    "</table><script>alert(1)</script>",
    "</select></option><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' onfocus='alert(1)' autofocus='",
    '" autofocus onfocus=alert(1) x="',
    "`onmouseover=alert(1)`",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "${alert(1)}",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\u202e<script>\u2066alert(1)\u2028\u2029",
    "\x00<scr\x00ipt>alert(1)\r</script>\x1b\ufeff",
]


def page(report: Report, provenance=None) -> str:
    return pages.report_page(report, seconds=12.3, provenance=provenance or {"command": "x"})


def tree(text: str):
    return html5lib.parse(text, namespaceHTMLElements=False)


def elements(text: str) -> Counter:
    """How often each element occurs, but for the marks of report.text, which words may well ask for."""
    tags = (node.tag for node in tree(text).iter() if isinstance(node.tag, str))
    return Counter(tag for tag in tags if tag not in {"code", "strong", "em"})


@pytest.fixture(scope="module")
def harmless(report_about) -> Counter:
    return elements(page(report_about("harmless"), {"harmless": "harmless"}))


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_words_in_every_field_add_no_element_and_no_handler(report_about, harmless, words):
    text = page(report_about(words), {words: words})
    assert elements(text) == harmless
    for node in tree(text).iter():
        attributes = {str(name).lower(): value for name, value in node.attrib.items()}
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert not attributes.get("href", "").lower().startswith(("javascript", "http"))
    assert html.escape(visible(words), quote=False) in html.escape(html.unescape(text), quote=False), "and they can still be read"


def test_there_are_forty_of_them():
    assert len(set(HOSTILE)) == 40


def test_one_script_runs_and_it_is_ours(report_about):
    text = page(report_about("</script><script>alert(1)</script>"))
    scripts = re.findall(r"<script(.*?)>", text)
    assert Counter(scripts) == {"": 1, ' type="application/json"': 3}


@pytest.mark.parametrize("kind", ["report", "index", "view"])
def test_the_policy_allows_exactly_the_page_s_own_style_and_script(report_about, kind):
    report = report_about("x")
    text = {
        "report": lambda: page(report),
        "index": lambda: pages.index_page([], []),
        "view": lambda: pages.view_page(report.blocks("view")[0].view),
    }[kind]()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    (script,), (style,) = (re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S) for tag in ("script", "style"))
    hashes = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (script, style)]
    assert html.unescape(policy) == (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def test_only_a_page_with_files_beside_it_may_load_scripts_and_only_by_its_own():
    features = [Feature(id=i, density=0.0) for i in range(4097)]
    large = FeatureDashboard(features=features, vocabulary=[], tokens_scanned=1, dead=0)
    report = Report("E1", "t")
    report.view(large)
    assert re.search(r"script-src 'sha256-[^']*' 'strict-dynamic'; style-src", html.unescape(page(report)))
    assert "strict-dynamic" not in page(Report("E1", "t"))
    with pytest.raises(ReportError, match="the view 'feature' is too large for one page; show fewer of its parts"):
        large._repr_html_()


def test_nothing_is_fetched_from_anywhere(report_about):
    text = page(report_about("https://example.org/x"))
    for node in tree(text).iter():
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            if name in node.attrib:
                assert node.attrib[name].startswith(("data:", "#")), f"{node.tag} {name}={node.attrib[name][:60]}"
    assert not re.search(r"url\(|@import|\bfetch\(|XMLHttpRequest|innerHTML|insertAdjacentHTML|document\.write|eval\(", text)


def test_the_csv_beside_a_figure_and_a_table_is_in_the_page_whole(report_about):
    report = report_about('a,b\n"c"')
    text = page(report)
    links = [base64.b64decode(link).decode() for link in re.findall(r'href="data:text/csv;base64,([^"]*)"', text)]
    assert links == [report.blocks("table")[0].csv, report.blocks("figure")[0].data.csv]


def test_a_csv_too_long_for_a_link_is_linked_in_the_run_folder():
    report = Report("E1", "t")
    report.table("long", [{"text": "x" * 2_000_000}])
    assert 'href="data/long.csv"' in page(report)


def test_claims_read_without_a_script(report_about):
    text = page(report_about("plain"))
    (body,) = (" ".join("".join(node.itertext()).split()) for node in tree(text).iter("body"))
    for words in (
        "1 of 2 claims hold, 1 not run",
        "0.90 plain [0.85, 0.95]",
        "≥ 0.80",
        "E99.held",
        "reason plain",
        "quick run",
        "12 s",
    ):
        assert words in body


def test_every_image_has_words_and_every_table_a_caption(report_about):
    parsed = tree(page(report_about("words")))
    assert [node.attrib["alt"] for node in parsed.iter("img")] == ["words"]
    assert all(table.find("caption") is not None for table in parsed.iter("table"))
    assert all("scope" in node.attrib for node in parsed.iter("th"))
    levels = [int(node.tag[1]) for node in parsed.iter() if isinstance(node.tag, str) and re.fullmatch("h[1-6]", node.tag)]
    assert levels[0] == 1 and all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))


def test_the_page_is_the_same_bytes_each_time(report_about):
    assert page(report_about("x")) == page(report_about("x"))


def test_a_notebook_shows_the_view_alone_in_a_frame_that_can_reach_nothing(report_about):
    view = report_about('"><script>alert(1)</script>').blocks("view")[0].view
    shown = view._repr_html_()
    parsed = html5lib.parseFragment(shown, namespaceHTMLElements=False)
    (frame,) = list(parsed)
    assert frame.tag == "iframe" and frame.attrib["sandbox"] == "allow-scripts allow-downloads"
    assert frame.attrib["srcdoc"] == pages.view_page(view)


def test_payloads_in_the_page_are_json(report_about):
    text = page(report_about("x"))
    for found in re.findall(r'<script type="application/json">(.*?)</script>', text, re.S):
        assert set(json.loads(found)) == {"payload"}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (12.4, "12 s"), (200, "3 min 20 s"), (3900, "1 h 5 min"), (59.7, "1 min 0 s")]
)
def test_durations_read_well(seconds, text):
    assert pages.duration(seconds) == text
