"""A crosscoder tells shared features from those of one part, whatever the units of the parts."""

import pytest
import torch
from torch.nn import functional as F

from interp.errors import TrainingError
from interp.sae import crosscoders, training
from interp.sae.architectures import build
from interp.sae.synthetic import planted

D, N, L0, STEPS, ROWS = 20, 40, 2.0, 300, 384


@pytest.fixture(scope="module")
def two_models():
    """Activations of two models side by side (the second in larger units), their directions, and who has which feature."""
    truth, generator = planted(N, D, commonest=0.08, rarest=0.03), torch.Generator().manual_seed(4)
    owner = ["shared", "base", "tuned"] * (N // 3) + ["shared"] * (N % 3)
    base, tuned = (F.normalize(torch.randn(N, D, generator=generator), dim=1) for _ in range(2))
    base = base * torch.tensor([who != "tuned" for who in owner])[:, None]
    tuned = tuned * torch.tensor([who != "base" for who in owner])[:, None]
    codes = [truth.sample(ROWS, generator)[1] for _ in range(STEPS)]
    return [torch.cat([c @ base, 50 * c @ tuned], 1) for c in codes], F.normalize(torch.cat([base, tuned], 1), dim=1), owner


@pytest.fixture(scope="module")
def crosscoder(two_models):
    sae, objective = build("relu-weighted", 2 * D, N, l0=L0, parts={"base": D, "tuned": D})
    training.train(sae, two_models[0], steps=STEPS, objective=objective, dead_after=2000)
    return sae


def test_shared_features_and_those_of_one_model_are_told_apart(crosscoder, two_models):
    _, truth, owner = two_models
    best, latents = (truth @ crosscoder.W_dec.T).max(1)
    assert (best > 0.9).double().mean() > 0.6
    belongs = crosscoders.belonging(crosscoder, margin=0.2).belongs[latents.numpy()]
    right = [one == other for one, other, cosine in zip(belongs, owner, best.tolist(), strict=True) if cosine > 0.9]
    assert sum(right) / len(right) > 0.9


def test_random_directions_belong_to_nobody(crosscoder):
    assert not set(crosscoders.belonging(crosscoder.untrained(1)).belongs) & {"base", "tuned"}


def test_the_units_of_a_part_do_not_matter(crosscoder, two_models):
    rows = torch.cat(two_models[0][:20]) * crosscoder.scale
    spread = {name: float(part.var(0).sum()) for name, part in crosscoders.split(crosscoder, rows).items()}
    assert spread["base"] == pytest.approx(spread["tuned"], rel=0.05) == pytest.approx(0.5, rel=0.05)


def test_relative_norms_are_shares(crosscoder):
    shares = crosscoders.relative_norms(crosscoder)
    assert shares.shape == (N, 2)
    torch.testing.assert_close(shares.sum(1), torch.ones(N))


def test_latents_between_two_parts_are_mixed():
    sae, _ = build("relu", 4, 3, l0=1, parts={"base": 2, "tuned": 2})
    with torch.no_grad():
        sae.W_dec.copy_(torch.tensor([[3.0, 4, 0, 0], [3, 4, 4, 3], [3, 0, 0, 1]]))
    table = crosscoders.belonging(sae)
    assert table.columns.tolist() == ["latent", "base", "tuned", "belongs"]
    assert table.belongs.tolist() == ["base", "shared", "mixed"]
    assert table.base.tolist() == [1.0, 0.5, 0.75]


def test_one_part_has_nothing_to_compare():
    sae, _ = build("relu", D, N, l0=L0)
    with pytest.raises(TrainingError, match="an autoencoder with one part has nothing to compare; build it with parts="):
        crosscoders.relative_norms(sae)
