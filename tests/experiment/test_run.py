"""A run leaves a whole folder or none; its exit code follows its claims; the same settings are the same run."""

import hashlib
import json
import os

import pytest

from interp.errors import ModelError, ReportError
from interp.experiment import discovery, flags, manifest, run


@pytest.fixture
def execute(toy, tmp_path):
    definition = discovery.load(toy)

    def go(*argv):
        request = flags.parse(toy, definition, ["--out", str(tmp_path / "reports"), *argv], prog="x")
        return run.execute(discovery.read(toy.path), definition, request, command=["interp", "run", "E90", *argv])

    return go


def test_a_run_leaves_what_is_promised(execute, tmp_path):
    folder = execute("--quick", "--seed", "3").folder
    assert folder.parent == tmp_path / "reports" / "e90_toy_sum"
    assert folder.name.startswith("quick-seed3-")
    assert {"config.yaml", "result.json", "manifest.json", "report.html", "data"} <= {path.name for path in folder.iterdir()}
    assert (tmp_path / "reports" / "index.html").is_file()
    assert not list(folder.parent.glob(f"*{run.UNFINISHED}"))


def test_the_manifest_says_what_ran(execute):
    folder = execute("--seed", "3").folder
    record = manifest.read(folder)
    assert record is not None
    assert (record["schema"], record["experiment"], record["seed"], record["quick"]) == (1, "E90", 3, False)
    assert record["command"] == "interp run E90 --seed 3"
    assert record["config"]["optimiser"] == {"learning_rate": 0.001, "steps": 100}
    assert record["sources"] == {"model toy": "abc123"}
    assert [each["stage"] for each in record["stages"]] == ["add"]
    assert record["peak_memory_bytes"] > 2**20
    assert {"interp", "torch", "transformer-lens", "numpy"} <= set(record["packages"])
    for name, digest in record["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert {"config.yaml", "result.json", "report.html", "data/sizes.csv"} == set(record["files"])


def test_the_result_keeps_its_contract(execute):
    result = json.loads((execute().folder / "result.json").read_text())
    assert (result["schema"], result["experiment"], result["title"]) == (1, "E90", "Does two plus two make four? (Peano 1889)")
    assert {(claim["id"], claim["verdict"]) for claim in result["claims"]} == {("E90.sum", "PASS"), ("E90.product", "NOT RUN")}
    needed = {"id", "text", "value", "low", "high", "target", "unit", "source", "verdict"}
    assert all(needed <= set(claim) for claim in result["claims"])


def test_the_exit_code_follows_the_claims(execute):
    assert execute().code == 0
    assert execute("--addend", "3").code == 1


def test_resume_keeps_a_finished_run_and_only_that(execute, toy):
    first = execute()
    written = (first.folder / "manifest.json").stat().st_mtime_ns
    assert execute("--resume").kept
    assert (first.folder / "manifest.json").stat().st_mtime_ns == written
    assert not execute("--resume", "--seed", "1").kept
    toy.path.write_text(toy.path.read_text() + "# changed\n")
    assert not execute("--resume").kept


def test_resume_starts_again_where_the_manifest_is_missing(execute):
    folder = execute().folder
    (folder / "manifest.json").unlink()
    assert not execute("--resume").kept
    assert (folder / "manifest.json").is_file()


def test_a_crash_leaves_no_manifest_and_costs_no_finished_run(execute, toy):
    good = execute().folder
    toy.path.write_text(toy.path.read_text().replace("total = 2 + config.addend", "raise KeyError(1)"))
    broken = discovery.load(toy)
    request = flags.parse(toy, broken, ["--out", str(good.parent.parent)], prog="x")
    with pytest.raises(KeyError):
        run.execute(toy, broken, request, command=[])
    assert manifest.read(good) is not None
    left = good.with_name(good.name + run.UNFINISHED)
    assert [path.name for path in left.iterdir()] == ["config.yaml"]
    assert run.finished_runs(good.parent.parent) == [good]


def test_what_the_experiment_raises_passes_through(execute):
    with pytest.raises(ModelError, match="no such model"):
        execute("--kind", "mistake")


def test_a_folder_that_cannot_be_made_is_one_line(execute, tmp_path):
    (tmp_path / "reports").write_text("in the way")
    with pytest.raises(ReportError, match=r"cannot write a run to .*: Not a directory; choose another folder with --out"):
        execute()


def test_a_broken_manifest_is_no_manifest(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    assert manifest.read(tmp_path) is None
    (tmp_path / "manifest.json").write_text('{"schema": 99}')
    assert manifest.read(tmp_path) is None


def test_the_commit_and_its_changes_are_told_apart(tmp_path):
    def git(*arguments):
        quiet = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        import subprocess

        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True, env=quiet
        )

    assert manifest.git(tmp_path) is None
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "one")
    clean = manifest.git(tmp_path)
    assert clean is not None and clean["dirty"] is None and len(clean["commit"]) == 40
    states = []
    for text in ("2", "3"):
        (tmp_path / "b").write_text(text)
        states.append(manifest.git(tmp_path))
    assert states[0]["dirty"] and states[0]["dirty"] != states[1]["dirty"]


@pytest.mark.parametrize(
    ("requirement", "name"), [("torch>=2.6", "torch"), ('pyright[nodejs]>=1; extra == "dev"', "pyright"), ("einops", "einops")]
)
def test_requirements_are_known_by_name(requirement, name):
    assert manifest.requirement_name(requirement) == name
