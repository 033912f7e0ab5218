"""`interp neurons`: a report on all neurons, with pages for the ones asked for; bad input in one line."""

from __future__ import annotations

import json
import re

import pytest

from interp import cli
from interp.experiment.run import finished_runs

SMALL = ("--max-tokens", "6000", "--shown", "4")


def interp(*argv, capsys):
    """Exit code, stdout and stderr of `interp neurons` with these arguments."""
    code = cli.main(["neurons", *argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def titles(folder):
    """Headings of the report."""
    return re.findall(r"<h[23][^>]*>([^<]+)", (folder / "report.html").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_one_neuron_gets_a_page_beside_the_census_of_all(tmp_path, capsys):
    code, out, _ = interp("stdlib-4l", "--neuron", "2.117", *SMALL, "--out", str(tmp_path), capsys=capsys)
    assert (code, "NEURONS.patterns" in out) == (0, True)
    (folder,) = finished_runs(tmp_path)
    census = (folder / "data" / "census.csv").read_text().splitlines()
    assert len(census) == 1 + 4 * 768
    said = "\n".join(titles(folder))
    assert "Neurons of layer 2" in said and "Neurons of layer 1" not in said
    (claim,) = json.loads((folder / "result.json").read_text())["claims"]
    assert claim["control"] < 0.02 < claim["low"]


@pytest.mark.slow
def test_neurons_are_found_by_the_token_they_read_or_write(tmp_path, capsys):
    code, _, _ = interp("stdlib-4l", "--token", " return", *SMALL, "--out", str(tmp_path), capsys=capsys)
    assert code == 0
    (folder,) = finished_runs(tmp_path)
    writing = (folder / "data" / "writing.csv").read_text().splitlines()
    assert writing[0] == "layer,neuron,z"
    assert float(writing[1].split(",")[2]) > 3


@pytest.mark.parametrize(
    ("argv", "fault"),
    [
        ([], "usage: interp neurons MODEL"),
        (["induction-0l"], r"induction-0l.*did you mean induction-"),
        (["stdlib-4l", "--neuron", "117"], "--neuron 117 is not a layer and a neuron; give it as 2.117"),
        (["stdlib-4l", "--neuron", "4.1"], "no layer 4 in stdlib-4l; layers are 0 to 3"),
        (["stdlib-4l", "--neuron", "1.768"], "no neuron 1.768 in stdlib-4l; neurons of a layer are 0 to 767"),
        (["stdlib-4l", "--neuron", "1.2", "--label", "comma"], "--neuron and --label choose neurons in different ways; give one"),
        (["stdlib-4l", "--label", "docstrin"], r"no label 'docstrin' \(did you mean docstring"),
        (["stdlib-4l", "--token", "return return"], "'return return' is 2 tokens of stdlib-4l; give one token, such as 'return'"),
        (["stdlib-4l", "--corpus", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(argv, fault, tmp_path, capsys):
    out = ["--out", str(tmp_path)] if argv else []
    code, said, err = interp(*argv, *out, capsys=capsys)
    assert (code, said) == (2, "")
    assert err.count("\n") == 1 and re.search(fault, err), err


def test_a_model_of_two_stacks_is_refused_with_the_reason(tmp_path, capsys):
    from model_shapes import case_of

    case_of("t5").model.save(tmp_path / "t5")
    code, _, err = interp(str(tmp_path / "t5"), "--out", str(tmp_path), capsys=capsys)
    assert code == 2 and "is an encoder-decoder; this command reads one stack" in err, err
