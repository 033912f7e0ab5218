"""`interp circuit`: a report with a circuit that holds on other inputs, files that read back, and bad input in one line."""

from __future__ import annotations

import csv
import json
import re

import pytest
import torch

from interp import cli
from interp.commands import pairs
from interp.errors import ConfigError
from interp.experiment.run import finished_runs
from interp.heads import circuit_files
from interp.heads.graph import Graph
from interp.models.hooked import Model


def interp(*argv, capsys):
    """Exit code, stdout and stderr of `interp circuit` with these arguments."""
    code = cli.main(["circuit", *map(str, argv)])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture(scope="module")
def model():
    return Model.load("stdlib-4l")


@pytest.fixture(scope="module")
def words(model):
    """Words that are one token each, with the space before them."""
    found = [token for i in range(400, model.d_vocab) if re.fullmatch(r" [a-z]{3,9}", token := model.tokenizer.decode([i]))]
    return [word for word in found if len(model.tokenizer.encode(word).ids) == 1]


def written(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def copied(words, n):
    """Pairs about a word that stood after another before: a b c d a …, beside the same with another b."""
    rows = [words[7 * i : 7 * i + 7] for i in range(n)]
    return [
        {"clean": a + b + c + d + e + a, "corrupt": a + other + c + d + e + a, "answer": b, "wrong": other}
        for a, b, c, d, e, other, _ in rows
    ]


@pytest.mark.slow
def test_the_circuit_of_finding_keeps_what_random_ones_lose_and_its_files_read_back(tmp_path, capsys):
    small = ("--task", "moved", "--examples", "16", "--length", "24", "--random", "4", "--edges", "8")
    code, out, _ = interp("induction-2l", *small, "--out", tmp_path, capsys=capsys)
    assert (code, "CIRCUIT.faithful" in out) == (0, True)
    (folder,) = finished_runs(tmp_path)
    (claim,) = json.loads((folder / "result.json").read_text())["claims"]
    assert claim["control"] < 0.2 < 0.8 < claim["low"]
    model = Model.load("induction-2l")
    found = circuit_files.from_json((folder / "data" / "circuit.json").read_text())
    graph = Graph.of(model)
    assert len(found.circuit(graph)) == 8 and found.fingerprint == model.fingerprint
    edges = list(csv.DictReader((folder / "data" / "edges.csv").open()))
    assert {edge["edge"]: float(edge["brings"]) for edge in edges} == pytest.approx(dict(found.edges))
    curve = list(csv.DictReader((folder / "data" / "figure-curve.csv").open()))
    assert [float(row["f"]) for row in curve if row["share"] == "1.0"] == pytest.approx([1, 1])
    areas = {
        (row["edges by"], row["area"]): float(row["value"]) for row in csv.DictReader((folder / "data" / "areas.csv").open())
    }
    assert areas["eap-ig", "CPR"] > areas["random", "CPR"] + 0.2 and areas["eap-ig", "CMD"] < areas["random", "CMD"] - 0.2
    traced = json.loads((folder / "data" / "circuit-tracer.json").read_text())
    assert len(traced["metadata"]["prompt_tokens"]) == 24
    assert 'data-view="circuit"' in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_pairs_of_one_s_own_are_asked_about(tmp_path, capsys, words):
    path = written(tmp_path / "pairs.jsonl", copied(words, 16))
    small = ("--pairs", path, "--method", "eap", "--random", "2", "--edges", "100")
    code, out, _ = interp("stdlib-4l", *small, "--out", tmp_path, capsys=capsys)
    assert code in (0, 1) and "100 of 927 edges" in out
    (folder,) = finished_runs(tmp_path)
    (claim,) = json.loads((folder / "result.json").read_text())["claims"]
    assert claim["value"] > claim["control"] + 0.3


def test_pairs_of_different_lengths_are_asked_at_their_own_last_token(tmp_path, model, words):
    records = copied(words, 9)
    records[0]["clean"], records[0]["corrupt"] = (words[-1] + records[0][side] for side in ("clean", "corrupt"))
    read = pairs.read(written(tmp_path / "pairs.jsonl", records), model).contrast
    assert torch.as_tensor(read.positions).tolist() == [7] + [6] * 8
    rows = [[model.tokenizer.decode([token]) for token in row] for row in read.clean.tolist()]
    assert rows[0][-1] == records[0]["clean"][-len(rows[0][-1]) :] and rows[1][6] == rows[1][7]
    assert model.tokenizer.decode([int(read.answers[3])]) == records[3]["answer"]


def test_the_twin_repeats_as_the_clean_row_does_with_other_tokens(model):
    contrast = pairs.repeated(model, 8, 24, seed=0).contrast
    assert (contrast.clean[:, 0] == contrast.corrupt[:, 0]).all()
    assert (contrast.clean[:, 1:] != contrast.corrupt[:, 1:]).all()
    same = contrast.clean[:, :, None] == contrast.clean[:, None, :]
    assert (same == (contrast.corrupt[:, :, None] == contrast.corrupt[:, None, :])).all()
    for row, answer in zip(contrast.clean, contrast.answers, strict=True):
        earlier = (row[:-1] == row[-1]).nonzero()[:, 0]
        assert len(earlier) and (row[earlier + 1] == answer).all()


def test_a_moved_token_has_changed_places_with_another_and_nothing_else_is_touched(model):
    contrast = pairs.moved(model, 32, 24, seed=0).contrast
    assert ((contrast.clean != contrast.corrupt).sum(1) == 2).all()
    columns = [each for each in (contrast.clean, contrast.corrupt, contrast.answers, contrast.wrong) if each is not None]
    assert (contrast.clean[:, -1] == contrast.corrupt[:, -1]).all() and (contrast.answers != contrast.wrong).all()
    for row, twin, answer, wrong in zip(*columns, strict=True):
        for tokens, following in ((row, answer), (twin, wrong)):
            (earlier,) = (tokens[:-1] == tokens[-1]).nonzero()[:, 0].tolist()
            assert earlier > 0 and tokens[earlier + 1] == following


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "line 9: no JSON"),
        ('{"clean": "a"}', "line 9: no text 'corrupt', 'answer', 'wrong'; a pair has clean, corrupt, answer, wrong"),
        ('["a"]', "line 9: no text 'clean'"),
        (
            '{"clean": "x y z", "corrupt": "x", "answer": "a", "wrong": "b"}',
            r"line 9: clean is \d tokens and corrupt 1; give twins",
        ),
        (
            '{"clean": "x", "corrupt": "y", "answer": "return return", "wrong": "b"}',
            r"line 9: answer 'return return' is 2 tokens",
        ),
        ('{"clean": "x", "corrupt": "x", "answer": "a", "wrong": "b"}', "line 9: clean and corrupt are the same"),
        ('{"clean": "x", "corrupt": "y", "answer": "b", "wrong": "b"}', "line 9: answer and wrong are both 'b'"),
        ('{"clean": "", "corrupt": "", "answer": "a", "wrong": "b"}', "line 9: clean is 0 tokens; give 1 to"),
    ],
)
def test_a_line_that_is_no_pair_is_named(line, fault, tmp_path, model, words):
    path = written(tmp_path / "pairs.jsonl", copied(words, 8))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ConfigError, match=fault):
        pairs.read(path, model)


def test_too_few_pairs_are_refused(tmp_path, model, words):
    with pytest.raises(ConfigError, match="has 3 pairs; give 8 or more, half to find a circuit, half to judge it"):
        pairs.read(written(tmp_path / "pairs.jsonl", copied(words, 3)), model)


@pytest.mark.parametrize(
    ("argv", "fault"),
    [
        ([], "usage: interp circuit MODEL"),
        (["stdlib-4"], r"stdlib-4.*did you mean stdlib-4l"),
        (["stdlib-4l", "--edges", "0"], "--edges 0: stdlib-4l has 927 edges, give 1 to 927"),
        (["stdlib-4l", "--examples", "4", "--random", "1"], "--examples 4: give 8 or more; --random 1: give 2 or more"),
        (["stdlib-4l", "--pairs", "nowhere.jsonl"], "cannot read --pairs nowhere.jsonl: No such file"),
        (["stdlib-4l", "--method", "magic"], "magic"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(argv, fault, tmp_path, capsys):
    out = ["--out", str(tmp_path)] if argv else []
    code, said, err = interp(*argv, *out, capsys=capsys)
    assert (code, said) == (2, "")
    assert err.count("\n") == 1 and re.search(fault, err), err


@pytest.mark.parametrize(
    ("shape", "fault"), [("bert", "is an encoder; this command asks decoders"), ("llama", "has no tokenizer")]
)
def test_models_that_cannot_be_asked_are_refused_with_the_reason(shape, fault, tmp_path, capsys, words):
    from model_shapes import case_of

    case_of(shape).model.save(tmp_path / shape)
    path = written(tmp_path / "pairs.jsonl", copied(words, 8))
    code, _, err = interp(tmp_path / shape, "--pairs", path, "--out", tmp_path, capsys=capsys)
    assert code == 2 and fault in err, err


def test_a_model_that_does_nothing_on_the_task_is_told_so(tmp_path, capsys):
    from model_shapes import case_of

    case_of("gated").model.save(tmp_path / "gated")
    code, _, err = interp(tmp_path / "gated", "--length", "16", "--edges", "5", "--out", tmp_path, capsys=capsys)
    assert code == 2 and "with all edges the metric is" in err and "there is nothing to keep" in err, err
