"""A label told by its own latent is not absorbed; one whose latent falls silent under a special one is, by as much as it does."""

import numpy as np
import pytest
from scipy import sparse

from interp.errors import ConfigError
from interp.sae.absorption import absorption

N, DOCUMENTS, D = 4000, 40, 12


@pytest.fixture(scope="module")
def world():
    """A general feature on 40 % of the rows, a special one on half of those, and others, along the axes of space."""
    rng = np.random.default_rng(0)
    general = rng.random(N) < 0.4
    special = general & (rng.random(N) < 0.5)
    others = rng.random((N, D - 2)) * (rng.random((N, D - 2)) < 0.2)
    x = np.concatenate([np.stack([general, special], axis=1) * 1.0, others], axis=1)
    return x + 0.01 * rng.normal(size=x.shape), general, special, others, np.repeat(np.arange(DOCUMENTS), N // DOCUMENTS)


def measured(world, own, special, *, writes_general=1.0, scale=1.0):
    """Absorption when these are the codes of the general and the special latent, and the special one writes both directions."""
    x, general, _, others, groups = world
    codes = np.concatenate([np.stack([own, special], axis=1) / scale, others], axis=1)
    decoder = np.eye(D)
    decoder[1, 0] = writes_general
    table = absorption(x, sparse.csc_array(codes), decoder * scale, {"general": general}, groups)
    assert len(table) == 1
    return table.iloc[0]


@pytest.fixture(scope="module")
def part(world):
    """A few of the general rows: too few for a latent of their own to count among the general ones."""
    return world[1] & (np.random.default_rng(1).random(N) < 0.04)


def test_a_label_with_its_own_latent_is_not_absorbed(world):
    _, general, special, _, _ = world
    row = measured(world, general * 1.0, special * 1.0, writes_general=0.0)
    assert row.main[0] == 0 and row.absorption == 0 and row.full == 0
    assert row.probe_f1 > 0.99 and row.main_f1 > 0.99 and row.tokens > 700


def test_absorption_is_the_share_of_tokens_whose_own_latent_fell_silent(world, part):
    general = world[1]
    row = measured(world, (general & ~part) * 1.0, part * 1.0)
    assert row.main == (0,)
    assert row.absorption == pytest.approx(part.sum() / general.sum(), abs=0.015) == row.full
    assert row.absorption_low < row.absorption < row.absorption_high


def test_partial_absorption_is_the_missing_part(world, part):
    general = world[1]
    row = measured(world, general - 0.5 * part, part * 0.5)
    assert row.absorption == pytest.approx(0.5 * part.sum() / general.sum(), abs=0.01) and row.full == 0


def test_a_special_latent_that_writes_too_much_absorbs_no_more_than_is_missing(world, part):
    exact, twice = (measured(world, world[1] - 0.5 * part, part * size) for size in (0.5, 1.0))
    assert twice.absorption == pytest.approx(exact.absorption, abs=0.003)


def test_a_latent_split_by_a_common_special_case_is_two_main_latents_and_absorbs_nothing(world):
    _, general, special, _, _ = world
    row = measured(world, (general & ~special) * 1.0, special * 1.0)
    assert set(row.main) == {0, 1} and row.absorption == 0 and row.main_f1 > 0.99


def test_longer_decoder_rows_with_smaller_codes_change_nothing(world, part):
    own, special = (world[1] & ~part) * 1.0, part * 1.0
    one, other = (measured(world, own, special, scale=scale) for scale in (1.0, 7.0))
    assert one.absorption > 0.01
    assert (one.absorption, one.full, one.main) == (pytest.approx(other.absorption), other.full, other.main)


def test_an_aligned_latent_that_does_not_fire_absorbs_nothing(world):
    assert measured(world, world[1] * 1.0, np.zeros(N)).absorption == 0


def test_labels_without_enough_tokens_are_left_out(world):
    x, general, _, others, groups = world
    codes = sparse.csc_array(np.concatenate([general[:, None], general[:, None], others], axis=1) * 1.0)
    assert len(absorption(x, codes, np.eye(D), {"never": np.zeros(N, bool)}, groups)) == 0


def test_rows_that_do_not_fit_are_refused(world):
    x, general, _, _, groups = world
    with pytest.raises(ConfigError, match=r"codes \(3, 12\), .* do not fit; give the codes and labels of the same rows"):
        absorption(x, sparse.csc_array(np.ones((3, D))), np.eye(D), {"general": general}, groups)
