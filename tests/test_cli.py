"""The command line answers, or says in one line what is wrong; it starts fast; every command has a help."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from toy_experiment import TOY

from interp import cli
from interp.errors import StoreError

HEAVY = {"torch", "transformers", "transformer_lens", "matplotlib", "pandas", "sklearn", "scipy", "numpy", "tyro", "yaml"}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The path of a toy experiment; the current folder is an empty one."""
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "e90_toy_sum.py"
    script.write_text(TOY)
    return script


def interp(*argv, capsys):
    """Exit code, stdout and stderr of `interp` with these arguments."""
    code = cli.main([str(each) for each in argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def one_line(text):
    return text.startswith("interp: ") and text.count("\n") == 1 and "Traceback" not in text


@pytest.mark.parametrize(
    "code", ["import interp", "import sys; sys.argv = ['interp', '--help']; from interp.cli import main; main()"]
)
def test_starting_is_fast_and_loads_nothing_heavy(code):
    """CPU time, so that a busy machine does not fail it; the fastest of three."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        check = f"import sys\n{code}\nheavy = {HEAVY!r} & set(sys.modules)\nassert not heavy, heavy"
        subprocess.run([sys.executable, "-c", check], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5, seconds


def test_help_names_every_command(capsys):
    for argv in ([], ["--help"], ["help"]):
        code, out, _ = interp(*argv, capsys=capsys)
        assert code == 0
        assert all(re.search(rf"^  {name} ", out, re.MULTILINE) for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_help(name, capsys):
    try:
        assert cli.main([name, "--help"]) == 0
    except SystemExit as end:
        assert end.code == 0
    assert f"interp {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "fault"),
    [
        (["rnu"], r"unknown command 'rnu' \(did you mean run\?\)"),
        (["--hlep"], r"unknown flag '--hlep'"),
        (["run"], r"usage: interp run EXPERIMENT"),
        (["run", "--quick", "E02"], r"name the experiment before its flags"),
        (["run", "no_such_thing"], r"no experiment 'no_such_thing'"),
        (["list", "--uot", "x"], r"unknown flag --uot \(did you mean --out\?\)"),
        (["show"], r"interp show --help"),
        (["show", "."], r"holds no finished run"),
        (["show", "E02", "--out", "nowhere"], r"E02 has no finished run in nowhere"),
        (["index", "--out", "nowhere"], r"no reports folder nowhere"),
        (["rerun", "E02", "--out", "nowhere"], r"E02 has no finished run in nowhere"),
        (["harvest", "--out", "store"], r"--hooks"),
        (["harvest", "--out", "store", "--hooks", "blocks.0.hook_rezid_pre"], r"blocks.0.hook_resid_pre"),
        (["harvest", "--out", "store", "--hooks", "blocks.0.hook_resid_pre", "--model", "stdlib-4"], r"stdlib-4"),
        (["harvest", "--out", "store", "--hooks", "blocks.0.hook_resid_pre", "--corpus", "nowhere.txt"], r"nowhere.txt"),
        (["activations", "nowhere"], r"nowhere is not an activation store"),
        (["probe"], r"usage: interp probe STORE"),
        (["probe", "nowhere"], r"nowhere is not an activation store"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(argv, fault, capsys, toy):
    code, out, err = interp(*argv, capsys=capsys)
    assert (code, out) == (2, "")
    assert one_line(err) and re.search(fault, err), err


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ([], 0, "1 PASS, 1 NOT RUN"),
        (["--addend", "3"], 1, "1 FAIL, 1 NOT RUN"),
    ],
)
def test_running_prints_the_claims_and_the_report_and_its_code_follows_them(flags, code, said, capsys, toy):
    got, out, _ = interp("run", toy, *flags, capsys=capsys)
    assert got == code
    assert said in out and "E90.sum" in out
    assert Path(out.splitlines()[-1].removeprefix("report: ")).is_file()


def test_a_mistake_inside_an_experiment_is_one_line(capsys, toy):
    code, _, err = interp("run", toy, "--kind", "mistake", capsys=capsys)
    assert code == 2 and err.endswith("interp: no such model; use another\n")


def test_a_full_disk_is_one_line(capsys, toy):
    code, _, err = interp("run", toy, "--kind", "full", capsys=capsys)
    assert code == 2 and "Traceback" not in err
    assert "cannot go on writing: [Errno 28] No space left on device: 'somewhere'; make room" in err


def test_a_crash_has_a_traceback_and_a_code_of_its_own(capsys, toy):
    code, out, err = interp("run", toy, "--kind", "crash", capsys=capsys)
    assert (code, out) == (3, "")
    assert "RuntimeError: the toy broke" in err and "Traceback" in err


def test_an_interruption_is_one_line(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert cli.answered(interrupted) == 130
    assert one_line(capsys.readouterr().err)


def test_an_error_of_several_lines_is_printed_as_one(capsys):
    def broken():
        raise StoreError("half a store;\n   verify it")

    assert cli.answered(broken) == 2
    assert capsys.readouterr().err == "interp: half a store; verify it\n"


def test_a_script_takes_the_same_flags_and_gives_the_same_run(toy, tmp_path, capsys):
    script = [sys.executable, str(toy), "--quick", "--seed", "2", "--out"]
    done = subprocess.run([*script, "a"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    code, out, _ = interp("run", toy, "--quick", "--seed", "2", "--out", "b", capsys=capsys)
    assert code == 0
    results = [json.loads(next(tmp_path.glob(f"{place}/*/*/result.json")).read_text()) for place in "ab"]
    names = [next(tmp_path.glob(f"{place}/*/*/result.json")).parent.name for place in "ab"]
    assert names[0] == names[1]
    assert results[0]["claims"] == results[1]["claims"]
    assert done.stdout.splitlines()[0] == out.splitlines()[0]


def test_show_compare_and_index_read_what_runs_left(toy, capsys):
    interp("run", toy, capsys=capsys)
    interp("run", toy, "--addend", "3", capsys=capsys)
    good, bad = sorted(Path("reports/e90_toy_sum").iterdir(), key=lambda folder: "FAIL" in (folder / "result.json").read_text())
    code, out, _ = interp("show", bad, capsys=capsys)
    assert code == 0 and "FAIL" in out and re.search(r"run again +interp rerun reports/e90_toy_sum", out)
    code, out, _ = interp("compare", good, bad, capsys=capsys)
    assert code == 0
    assert re.search(r"addend: 2 \| 3", out)
    assert re.search(r"≠ E90\.sum +PASS 4  \|  FAIL 5", out)
    Path("reports/index.html").unlink()
    code, out, _ = interp("index", capsys=capsys)
    assert code == 0 and Path("reports/index.html").is_file()


def test_list_shows_all_that_ship(capsys, toy):
    code, out, _ = interp("list", capsys=capsys)
    assert code == 0 and "E02" in out and "Why are attention scores divided" in out


def test_report_goes_on_after_a_crash_and_says_so(toy, tmp_path, monkeypatch, capsys):
    from interp.experiment import discovery

    scripts = tmp_path / "scripts"
    scripts.mkdir()
    crash = TOY.replace('kind: Literal["sum"', 'kind: Literal["crash", "sum"').replace('] = "sum"', '] = "crash"')
    (scripts / "e90_crash.py").write_text(crash)
    (scripts / "e91_fail.py").write_text(TOY.replace("E90", "E91").replace("addend: int = 2", "addend: int = 3"))
    site = tmp_path / "site"
    site.mkdir()
    site.joinpath("sitecustomize.py").write_text(
        f"import pathlib\nfrom interp.experiment import discovery\ndiscovery.folder = lambda: pathlib.Path({str(scripts)!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setattr(discovery, "folder", lambda: scripts)
    code, out, err = interp("report", capsys=capsys)
    assert code == 1
    assert re.search(r"E90 .* DID NOT FINISH \(exit code 3", out)
    assert re.search(r"E91 .* 1 FAIL, 1 NOT RUN", out)
    assert "1 of 2 experiments finished" in out
    assert out.splitlines()[-1] == f"index: {tmp_path / 'reports' / 'index.html'}"
    assert "[2/2] E91" in err


def test_rerun_repeats_a_run_and_compares(toy, tmp_path, monkeypatch, capsys):
    from interp.experiment import discovery

    monkeypatch.setattr(discovery, "folder", lambda: tmp_path)
    interp("run", "E90", "--quick", "--seed", "5", capsys=capsys)
    (folder,) = Path("reports/e90_toy_sum").iterdir()
    written = (folder / "manifest.json").stat().st_mtime_ns
    code, out, _ = interp("rerun", folder, capsys=capsys)
    assert code == 0
    assert re.search(r"  E90\.sum +PASS 4  \|  PASS 4", out)
    assert (folder / "manifest.json").stat().st_mtime_ns > written
    (folder / "manifest.json").unlink()
    code, _, err = interp("rerun", folder, capsys=capsys)
    assert code == 2 and "has no manifest" in err


def test_doctor_looks_at_everything(capsys, toy):
    _, out, _ = interp("doctor", capsys=capsys)
    for name in ("python", "packages", "device", "kernels", "shipped model", "experiments", "chromium", "hub cache", "disk"):
        assert re.search(rf"^(ok|!!)  ?{name}", out, re.MULTILINE), name


@pytest.mark.slow
def test_activations_are_harvested_summarised_and_probed(capsys, toy, tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(8):
        (texts / f"part{number}.py").write_text("".join(f"def f{i}(x):\n    return g(x, [{i}, {number}])\n\n" for i in range(20)))
    hook = "blocks.1.hook_resid_post"
    code, out, err = interp("harvest", "--out", "store", "--hooks", hook, "--corpus", texts, "--device", "cpu", capsys=capsys)
    assert code == 0, err
    rows = int(out.split()[0].replace(",", ""))
    assert rows > 1000
    code, out, _ = interp("activations", "store", "--verify", capsys=capsys)
    assert code == 0
    assert hook in out and f"{rows:,}" in out and "verified" in out and "participation ratio" in out
    code, out, err = interp("probe", "store", "--labels", "in_call", "bracket_depth", "--max-rows", "2000", capsys=capsys)
    assert code in (0, 1), err
    assert "PROBE.probe-in-call" in out and "PROBE.probe-bracket-depth" in out
    (texts / "part0.py").write_text("x = 1\n")
    code, _, err = interp("probe", "store", capsys=capsys)
    assert code == 2 and one_line(err) and "was harvested from" in err and "harvest it again" in err


def test_a_reader_that_stops_early_is_no_fault():
    command = f"{sys.executable} -m interp harvest --help | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: interp harvest")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_autoencoders_are_trained_scored_read_and_converted(capsys, toy, tmp_path):
    few = ("--corpus", "stdlib:heldout", "--max-tokens", "16000", "--device", "cpu", "--out", "reports")
    hook = ("--hook", "blocks.1.hook_resid_post", "--corpus", "stdlib:heldout", "--device", "cpu")
    size = ("--d-sae", "256", "--tokens", "12800", "--batch", "256", "--l0", "8")
    code, out, err = interp("train-sae", "--out", "sae", *hook, *size, "--arch", "topk", "batchtopk", capsys=capsys)
    assert code == 0, err
    assert re.search(r"^topk +12,?800 +0\.\d+ +8", out, re.M) and "saved: sae/{topk,batchtopk}" in out
    code, out, err = interp("eval-sae", "sae/topk", *few, "--spliced", "1", "--probed", "1500", capsys=capsys)
    assert code in (0, 1), err
    assert "SAE.explained" in out and "SAE.loss-recovered" in out and "SAE.features-labels" in out
    (page,) = Path("reports/eval_sae").glob("*/report.html")
    assert "trained on this very corpus" in page.read_text(encoding="utf-8")
    code, out, err = interp("features", "sae/batchtopk", *few, "--token", "(", "--shown", "6", capsys=capsys)
    assert code in (0, 1), err
    assert "FEATURES.rules" in out and "the rules of 6 features" in out
    code, out, err = interp("convert-sae", "sae/topk", "theirs", "--to", "sparsify", capsys=capsys)
    assert code == 0 and (tmp_path / "theirs" / "sae.safetensors").exists(), err


@pytest.mark.slow
def test_planted_features_are_trained_on_and_scored_against_their_dictionary(capsys, toy):
    size = ("--d-sae", "64", "--tokens", "102400", "--l0", "2", "--device", "cpu")
    code, out, err = interp("train-sae", "--out", "sae", "--synthetic", "tiny", *size, capsys=capsys)
    assert code == 0 and "mmcs" in out and "found" in out, err
    code, out, err = interp("eval-sae", "sae", "--device", "cpu", "--quick", capsys=capsys)
    assert code == 0, err
    assert re.search(r"PASS +SAE\.mmcs +0\.9", out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say what to read: --hook blocks.2.hook_resid_post, or --store, or --synthetic"),
        (("--synthetic", "smal"), "there is no preset 'smal' (did you mean small?)"),
        (("--synthetic", "tiny", "--hook", "x"), "--synthetic makes its own rows; leave out --hook, --target and --store"),
        (
            ("--synthetic", "tiny", "--tokens", "9"),
            "--tokens 9 is less than one batch of 1024; give more tokens or a smaller --batch",
        ),
        (("--synthetic", "tiny", "--l0", "2", "2"), "asked for twice; give every value once"),
        (("--synthetic", "tiny", "--arch", "topkk"), "no architecture is called 'topkk' (did you mean topk?)"),
        (("--hook", "a", "b", "--target", "c"), "a transcoder reads one hook, and --hook names 2"),
        (("--synthetic", "tiny", "--track", "paper"), "invalid choice 'paper'"),
    ],
)
def test_a_training_that_cannot_be_is_refused_before_it_starts(arguments, said, capsys, toy):
    code, _, err = interp("train-sae", "--out", "sae", "--device", "cpu", *arguments, capsys=capsys)
    assert code == 2 and one_line(err) and said in err
    assert not Path("sae").exists()
