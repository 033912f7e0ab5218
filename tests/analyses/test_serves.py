"""Every analysis on every kind of model gives right numbers or refuses in words; docs/kinds.md says which.

`INTERP_WRITE_DOCS=1 pytest tests/analyses/test_serves.py` writes the table anew.
"""

import os
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from analyses import ANALYSES, MORE, REAL, STORIES, kind_of
from model_shapes import SHAPES

from interp.errors import InterpError
from interp.heads import direct, edge_attribution, gradients, patching, paths

PAGE = Path(__file__).parents[2] / "docs" / "kinds.md"
KINDS = [*SHAPES, *MORE]


@cache
def refusals(shape):
    """The analyses that refuse this kind, and why. An analysis that crashes, or whose law does not hold, fails here."""
    kind, found = kind_of(shape), {}
    for name, analysis in ANALYSES.items():
        try:
            analysis(kind)
        except InterpError as error:
            found[name] = reason(str(error), kind.model.name)
    return found


def reason(message, name):
    """The first clause of a refusal, for any model of the kind."""
    clause = re.split(r";| \(did you mean", message)[0]
    return re.sub(rf"(?<![-\w]){re.escape(name)}(?![-\w])", "the model", clause, count=1)


@pytest.mark.parametrize("shape", KINDS)
def test_every_analysis_keeps_its_law_or_refuses_in_words(shape):
    for name, why in refusals(shape).items():
        assert len(why.split()) >= 5, (name, why)


@pytest.mark.skipif(not STORIES.is_dir(), reason="no ../shared/data/stories260k")
def test_a_real_language_model_is_served_by_all_but_what_needs_experts():
    assert refusals(REAL).keys() == {"router decisions", "expert ablation"}


def test_the_table_in_the_docs_is_what_was_found():
    why = {name: {shape: refusals(shape)[name] for shape in KINDS if name in refusals(shape)} for name in ANALYSES}
    reasons = list(dict.fromkeys(each for refused in why.values() for each in refused.values()))
    rows = ["| analysis | what must hold | refused by |", "|---|---|---|"]
    for name, analysis in ANALYSES.items():
        groups = [
            f"{', '.join(shape for shape in KINDS if why[name].get(shape) == each)} [{number}]"
            for number, each in enumerate(reasons, 1)
            if each in why[name].values()
        ]
        rows.append(f"| {name} | {analysis.__doc__} | {'; '.join(groups) or '–'} |")
    notes = [f"{number}. {each[0].upper()}{each[1:]}." for number, each in enumerate(reasons, 1)]
    compare("table", "\n".join([*rows, "", *notes]))


def test_every_kind_is_explained_in_the_docs():
    explained = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.M)
    assert sorted(explained) == sorted([*KINDS, REAL])


def compare(mark, made):
    """What stands between the marks of the page is what was made."""
    text = PAGE.read_text()
    marked = re.compile(rf"(<!-- {mark} -->\n)(.*?)(<!-- /{mark} -->)", re.S)
    if os.environ.get("INTERP_WRITE_DOCS") == "1":
        PAGE.write_text(marked.sub(lambda found: f"{found[1]}{made}\n{found[3]}", text))
    assert marked.search(PAGE.read_text())[2].rstrip("\n") == made  # pyright: ignore[reportOptionalSubscript]


@pytest.mark.parametrize(
    ("analysis", "module", "function"),
    [
        ("direct attribution", direct, "by_component"),
        ("… by source token", direct, "by_source"),
        ("patching", patching, "sweep"),
        ("node attribution", gradients, "attribution"),
        ("edge attribution", edge_attribution, "eap_ig"),
        ("exact edges", paths, "effect"),
    ],
)
def test_numbers_that_are_a_twentieth_off_break_the_law(analysis, module, function, monkeypatch):
    right = getattr(module, function)

    def wrong(*args, **options):
        found = right(*args, **options)
        return replace(found, values=1.05 * found.values)

    monkeypatch.setattr(module, function, wrong)
    with pytest.raises(AssertionError):
        ANALYSES[analysis](kind_of("native"))
