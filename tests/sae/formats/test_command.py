"""`interp convert-sae` converts, and says in one line what it cannot do."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from interp import cli
from interp.commands import convert_sae
from interp.sae import formats

FIXTURES = Path(__file__).parent.parent / "fixtures"


def convert(*arguments):
    return convert_sae.main([str(each) for each in arguments], prog="interp convert-sae")


def test_a_library_s_file_is_converted_to_another_library_s(tmp_path):
    source, target = FIXTURES / "sparsify" / "topk", tmp_path / "x"
    said = convert(source, target, "--to", "dictionary_learning")
    assert said.text == f"TopK with 12 latents, 6 dimensions: sparsify to dictionary_learning\nwritten: {target}"
    expected = load_file(f"{source}.safetensors")
    torch.testing.assert_close(formats.load(target).sae(expected["x"]), expected["output"])


def test_a_transcoder_says_both_sizes_and_an_input_scale_is_folded(tmp_path):
    assert "6 dimensions to 4: saelens to saelens" in convert(FIXTURES / "saelens" / "transcoder", tmp_path / "x").text
    for name in ("cfg.json", "sae_weights.safetensors"):
        (tmp_path / name).write_bytes((FIXTURES / "saelens" / "unfolded_checkpoint" / name).read_bytes())
    convert(tmp_path, tmp_path / "folded", "--input-scale", "0.37")
    expected = load_file(FIXTURES / "saelens" / "unfolded_checkpoint.safetensors")
    torch.testing.assert_close(formats.load(tmp_path / "folded").sae(expected["x"]), expected["output"])


@pytest.mark.parametrize(
    ("source", "to", "message"),
    [
        ("saelens/transcoder", "sparsify", "sparsify has no place for activation ReLU"),
        ("nowhere", "saelens", "holds no autoencoder"),
    ],
)
def test_what_cannot_be_converted_is_one_line_and_exit_code_2(tmp_path, capsys, source, to, message):
    assert cli.main(["convert-sae", str(FIXTURES / source), str(tmp_path / "x"), "--to", to]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
