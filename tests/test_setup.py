"""A clone and a wheel both work: what is imported is declared, what is declared is pinned, and set-up happens once."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def pins(python):
    """The versions of constraints.txt that hold under one Python."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    found = {}
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            assert canonicalize_name(requirement.name) not in found, f"{requirement.name} is pinned twice"
            found[canonicalize_name(requirement.name)] = requirement
    return found


def declared():
    return [Requirement(each) for each in importlib.metadata.requires("interp") or []]


def test_everything_that_is_imported_is_declared():
    declarations = {canonicalize_name(each.name) for each in declared()}
    homes = importlib.metadata.packages_distributions()
    undeclared = set()
    for path in [*(ROOT / "interp").rglob("*.py"), *(ROOT / "experiments").glob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for name in names:
                top = str(name).split(".")[0]
                if top in sys.stdlib_module_names or top not in homes:
                    continue
                if not declarations & {canonicalize_name(home) for home in homes[top]} | ({"interp"} & set(homes[top])):
                    undeclared.add(f"{path.relative_to(ROOT)} imports {top}")
    assert sorted(undeclared) == []


@pytest.mark.parametrize("python", PYTHONS)
def test_every_declared_package_is_pinned_to_a_version_that_fits(python):
    versions = pins(python)
    for requirement in declared():
        pin = versions[canonicalize_name(requirement.name)]
        (exact,) = pin.specifier
        assert exact.operator == "==" and requirement.specifier.contains(exact.version), (str(requirement), str(pin))


def test_the_pins_say_nothing_of_one_machine():
    text = (ROOT / "constraints.txt").read_text()
    assert "torch==2.13.0\n" in text
    assert not re.search(r"https?:|file:|@|\+|--|/", text)


@pytest.fixture
def make(tmp_path):
    """`make -n` in a folder with the Makefile and a virtual environment that is up to date."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    for stamp in ("", "-dev", "-docs"):
        (tmp_path / ".venv" / f".installed{stamp}").touch()

    def go(*arguments):
        return subprocess.run(["make", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)

    return go, tmp_path


@pytest.mark.parametrize("target", ["report", "test", "lint", "docs", "bench"])
def test_a_second_make_installs_nothing(make, target):
    go, _ = make
    done = go("-n", target)
    assert done.returncode == 0 and ".venv/bin/" in done.stdout
    assert "pip install" not in done.stdout


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt"])
def test_new_requirements_are_installed(make, file):
    go, folder = make
    later = (folder / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(folder / file, (later, later))
    assert "pip install" in go("-n", "report").stdout
    assert '".[dev]"' in go("-n", "test").stdout


def test_an_old_python_is_refused_in_words(make):
    go, folder = make
    shutil.rmtree(folder / ".venv")
    fake = folder / "python2"
    fake.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'import sys; sys.version_info = (3, 9); exec(sys.argv[1])' \"$2\"\n")
    fake.chmod(0o755)
    done = go("report", f"PYTHON={fake}")
    assert done.returncode == 2
    assert "interp needs Python 3.10 or newer" in done.stderr and "is 3.9" in done.stderr


def test_ci_can_be_run():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)


@pytest.mark.slow
def test_an_installed_wheel_runs_experiments(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("interp-*.whl")
    site = tmp_path / "site"
    shutil.unpack_archive(wheel, site, "zip")
    assert {path.name for path in (ROOT / "experiments").glob("e*.py")} == {
        path.name for path in (site / "interp" / "experiments").glob("*.py")
    }
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def interp(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "interp", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    listed = interp("list")
    assert listed.returncode == 0 and "E02" in listed.stdout, listed.stderr
    tiny = ["--widths", "16", "32", "--blocks", "5", "--pairs", "20", "--queries", "20", "--keys", "8"]
    done = interp("run", "E02", "--quick", *tiny)
    assert done.returncode in (0, 1), done.stderr
    manifest = json.loads(next(tmp_path.glob("reports/*/*/manifest.json")).read_text())
    assert Path(manifest["script"]).is_relative_to(site) and manifest["git"] is None
    looked = interp("doctor")
    assert looked.returncode == 0, looked.stdout
