"""Planted data are what their description says, at every scale, and the same from wherever a stream is taken up."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from interp.errors import ConfigError, StoreError
from interp.sae import planted_files
from interp.sae.synthetic import PRESETS, Forest, benchmark_like, planted, preset


def codes_of(truth, rows=20_000, seed=0):
    return truth.sample(rows, truth.generator(seed, 0))


def test_rows_are_the_codes_times_the_dictionary_at_the_stated_rates():
    truth = planted(40, 12, commonest=0.2, rarest=0.01)
    x, codes = codes_of(truth)
    torch.testing.assert_close(x, codes @ truth.dictionary)
    torch.testing.assert_close((codes > 0).float().mean(0), truth.probability, atol=0.012, rtol=0)
    assert truth.probability[0] == pytest.approx(0.2) and truth.probability[-1] == pytest.approx(0.01)
    assert codes[codes > 0].min() >= 0.5 and codes.max() < 1.5
    torch.testing.assert_close(truth.dictionary.norm(dim=1), torch.ones(40))


def test_features_of_a_flat_instance_fire_apart():
    fires = (codes_of(planted(6, 4, commonest=0.3, rarest=0.3))[1] > 0).double()
    correlation = torch.corrcoef(fires.T) - torch.eye(6)
    assert correlation.abs().max() < 0.03  # 4 standard errors
    counts = fires.sum(1)
    assert float(counts.var()) == pytest.approx(6 * 0.3 * 0.7, rel=0.05)


def test_noise_has_the_stated_norm_and_the_bias_is_added():
    truth = planted(5, 400, commonest=1e-6, rarest=1e-6, noise=2.0)
    assert float(codes_of(truth, 100)[0].norm(dim=1).mean()) == pytest.approx(2.0, rel=0.02)
    biased = benchmark_like(128, 16)
    x, codes = codes_of(biased, 50)
    torch.testing.assert_close(x, codes @ biased.dictionary + biased.bias)
    assert float(biased.bias.norm()) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["tiny", "synth-sae-bench-1k"])
def test_a_stream_taken_up_anywhere_is_the_same_stream(name):
    truth = preset(name)
    whole, rest, other = (list(truth.batches(5, 4, seed=seed, start=start)) for seed, start in ((1, 0), (1, 2), (2, 0)))
    assert len(whole) == 4 and len(rest) == 2
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], rest, strict=True))
    assert not torch.equal(whole[0], whole[1]) and not torch.equal(whole[0], other[0])


def test_the_dictionary_has_its_own_seed():
    assert not torch.equal(planted(8, 4).dictionary, planted(8, 4, seed=1).dictionary)


def test_a_child_fires_only_under_its_parent_and_one_of_siblings_at_most():
    truth = benchmark_like(256, 32)
    forest = truth.forest
    assert forest is not None
    _, codes = codes_of(truth, 4000)
    fires = codes > 0
    assert forest.starts == (0, 2, 10, 42, 170)
    for level in range(forest.depth):
        first = forest.starts[level]
        for place, children in enumerate(forest.children(level)):
            under = fires[:, children].sum(1)
            assert under.max() <= 1
            assert (under <= fires[:, first + place]).all()
    assert fires[:, forest.starts[1] : forest.starts[-1]].sum() > 1000


def test_a_child_is_as_large_as_its_parent_makes_it():
    truth = benchmark_like(128, 16)
    _, codes = codes_of(truth)
    assert truth.forest is not None
    children = truth.forest.children(0)[0]
    both = codes[:, children[0]] > 0
    share = codes[both, children[0]] / (codes[both, 0] / truth.magnitude[0])
    assert float(share.mean()) == pytest.approx(float(truth.magnitude[children[0]]), rel=0.05)
    plain = torch.corrcoef(torch.stack([codes[both, 0], codes[both, children[0]]]))[0, 1]
    assert plain > 0.05


def test_shared_factors_make_features_fire_together_without_changing_how_often():
    truth = benchmark_like(512, 16)
    factor = torch.zeros(512, 25)
    factor[-8:, 0] = 0.8
    together = replace(truth, probability=torch.full_like(truth.probability, 0.3), factor=factor, forest=Forest(1, 2, 1))
    fires = (codes_of(together)[1][:, -16:] > 0).double()
    correlation = torch.corrcoef(fires.T)
    torch.testing.assert_close(fires.mean(0), torch.full((16,), 0.3).double(), atol=0.02, rtol=0)
    assert (correlation[8:, 8:] > 0.3).all()
    assert (correlation[:8, :8] - torch.eye(8)).abs().max() < 0.04


def test_the_scaled_benchmark_has_the_published_statistics():
    truth = preset("synth-sae-bench-1k")
    n, d = truth.dictionary.shape
    _, codes = codes_of(truth, 4000)
    assert 6 < float((codes > 0).sum(1).float().mean()) < 8.5
    torch.testing.assert_close(truth.dictionary.T @ truth.dictionary, n / d * torch.eye(d), atol=0.01, rtol=0)
    torch.testing.assert_close(truth.dictionary.norm(dim=1), torch.ones(n))
    assert float(truth.magnitude[0]) == 5 and float(truth.magnitude[-1]) == 4
    assert float(truth.spread.mean()) == pytest.approx(0.58, abs=0.05)
    assert truth.factor is not None
    assert float(truth.factor.square().sum(1).mean()) == pytest.approx(0.25, abs=0.03)


@pytest.mark.slow
def test_the_benchmark_at_full_size_has_the_published_l0():
    truth = preset("synth-sae-bench-16k")
    _, codes = truth.draw(512, truth.generator(0, 0))
    assert truth.dictionary.shape == (16384, 768)
    assert len(codes.row) / 512 == pytest.approx(34, abs=2)
    assert int((codes.feature < 4096).sum()) / 512 == pytest.approx(25, abs=1.5)


def test_entries_and_matrix_of_codes_agree():
    truth = preset("tiny")
    _, codes = truth.draw(100, truth.generator(0, 0))
    assert (codes.row.diff() >= 0).all()
    dense = codes.dense(100, 64)
    assert torch.equal(dense, codes_of(truth, 100)[1]) and int((dense > 0).sum()) == len(codes.row)


def test_what_cannot_be_planted_is_refused():
    with pytest.raises(ConfigError, match="firing probabilities from 0.1 down to 0.2"):
        planted(4, 2, commonest=0.1, rarest=0.2)
    with pytest.raises(ConfigError, match=r"there is no preset 'smal' \(did you mean small\?\); presets are tiny, small"):
        preset("smal")
    with pytest.raises(ConfigError, match="n=100 features are fewer than 128"):
        benchmark_like(100, 16)
    assert "medium" in PRESETS


def test_a_saved_instance_gives_the_same_rows(tmp_path):
    for name in ("tiny", "synth-sae-bench-1k"):
        truth = preset(name)
        again = planted_files.load(planted_files.save(truth, tmp_path / name / "truth.safetensors"))
        assert torch.equal(next(truth.batches(9, 1)), next(again.batches(9, 1)))
        assert again.forest == truth.forest


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    path = planted_files.save(preset("tiny"), tmp_path / "truth.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(StoreError, match="is no planted instance"):
        planted_files.load(path)
    with pytest.raises(StoreError, match="cannot be read"):
        planted_files.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        planted_files.save(preset("tiny"), tmp_path / "file" / "truth.safetensors")


def test_exported_arrays_are_the_stream_and_its_codes(tmp_path):
    truth = preset("tiny")
    folder = planted_files.export(truth, tmp_path / "out", rows=50, count=3, seed=4)
    rows, dictionary = np.load(folder / "rows.npy"), np.load(folder / "dictionary.npy")
    codes = sparse.load_npz(folder / "codes.npz")
    assert codes.shape == (150, 64)
    np.testing.assert_array_equal(rows, torch.cat(list(truth.batches(50, 3, seed=4))).numpy())
    np.testing.assert_allclose(codes @ dictionary, rows, atol=1e-5)
