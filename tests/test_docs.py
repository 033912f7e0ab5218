"""The documentation names only what exists, and its examples run and print what they say."""

import contextlib
import importlib
import io
import re
from pathlib import Path

import pytest

from interp.cli import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
TEXT = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES if "_build" not in page.parts}
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.S)
NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")


def resolves(name):
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        return all((found := getattr(found, part, None)) is not None for part in parts[cut:])
    return False


@pytest.mark.parametrize("page", TEXT)
def test_names_of_the_package_exist(page):
    names = set(re.findall(r"\binterp(?:\.[A-Za-z_]\w*)+", TEXT[page]))
    assert [name for name in sorted(names) if not resolves(name)] == []


@pytest.mark.parametrize("page", TEXT)
def test_files_and_folders_that_are_named_exist(page):
    named = set(re.findall(r"`((?:interp|experiments|tests|docs|benchmarks|\.ci)/[\w./-]*)`", TEXT[page]))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", TEXT)
def test_commands_and_make_targets_exist(page):
    shown = "\n".join(
        re.findall(r"`([^`\n]+)`", TEXT[page]) + [code for kind, code in BLOCK.findall(TEXT[page]) if kind == "console"]
    )
    commands = set(re.findall(r"(?:^|\$ )interp ([a-z-]+)", shown, re.M))
    targets = set(re.findall(r"(?:^|\$ )make ([a-z]+)", shown, re.M))
    makefile = (ROOT / "Makefile").read_text()
    assert commands <= set(COMMANDS)
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.M)] == []


@pytest.mark.parametrize("page", TEXT)
def test_links_between_pages_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXT[page])
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_the_annotated_tree_of_the_readme_is_the_tree_there_is():
    tree = next(code for kind, code in BLOCK.findall(TEXT["README.md"]) if kind == "text" and code.startswith("interp/"))
    above: list[str] = []
    for line in tree.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        above[depth:] = [name.rstrip("/")]
        assert ROOT.joinpath(*above).exists(), line


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md", "docs/heads.md", "docs/compiled.md"])
def test_examples_run_and_print_what_they_say(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    blocks, names, compared = BLOCK.findall(TEXT[page]), {}, 0
    for place, (kind, code) in enumerate(blocks):
        if kind != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"{page}, block {place}", "exec"), names)
        if place + 1 < len(blocks) and blocks[place + 1][0] == "text":
            same_but_for_rounding(printed.getvalue(), blocks[place + 1][1])
            compared += 1
    assert compared


def same_but_for_rounding(printed, shown):
    """Words must be equal; numbers may differ by 0.03 or 5 %, as they do between machines."""
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    got, expected = ([float(n.replace(",", "")) for n in NUMBER.findall(text)] for text in (printed, shown))
    assert got == pytest.approx(expected, rel=0.05, abs=0.03)
