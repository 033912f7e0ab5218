"""Planted data are what their description says."""

import pytest
import torch

from interp.errors import ConfigError
from interp.sae.synthetic import planted


def test_rows_are_the_codes_times_the_dictionary_at_the_stated_rates():
    truth = planted(40, 12, commonest=0.2, rarest=0.01)
    x, codes = truth.sample(20_000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(x, codes @ truth.dictionary)
    torch.testing.assert_close((codes > 0).float().mean(0), truth.probability, atol=0.012, rtol=0)
    assert truth.probability[0] == pytest.approx(0.2) and truth.probability[-1] == pytest.approx(0.01)
    assert codes[codes > 0].min() >= 0.5 and codes.max() < 1.5
    torch.testing.assert_close(truth.dictionary.norm(dim=1), torch.ones(40))


def test_noise_has_the_stated_norm():
    truth = planted(5, 400, commonest=1e-6, rarest=1e-6, noise=2.0)
    x, _ = truth.sample(100, torch.Generator().manual_seed(0))
    assert float(x.norm(dim=1).mean()) == pytest.approx(2.0, rel=0.02)


def test_the_same_seed_gives_the_same_rows_and_the_dictionary_has_its_own_seed():
    truth = planted(8, 4)
    first, second, other = (list(truth.batches(5, 3, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)) and len(first) == 3
    assert not torch.equal(torch.cat(first), torch.cat(other))
    assert not torch.equal(truth.dictionary, planted(8, 4, seed=1).dictionary)


def test_probabilities_out_of_order_are_refused():
    with pytest.raises(ConfigError, match="firing probabilities from 0.1 down to 0.2"):
        planted(4, 2, commonest=0.1, rarest=0.2)
