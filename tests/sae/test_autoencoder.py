"""The network: shapes, exact rewritings of its weights, and what it refuses."""

import pytest
import torch

from interp.errors import TrainingError
from interp.sae.activation_functions import BatchTopK, Gated, JumpReLU, ReLU, TopK
from interp.sae.autoencoder import ENCODER_START, SparseAutoencoder


@pytest.fixture
def sae():
    sae = SparseAutoencoder(8, 24, activation=TopK(4), seed=1)
    with torch.no_grad():
        sae.b_enc.uniform_(-0.01, 0.01, generator=torch.Generator().manual_seed(0))
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(0))
        sae.scale.fill_(0.2)
        sae.scale_out.fill_(0.2)
    return sae


@pytest.fixture
def x():
    return 3 * torch.randn(5, 7, 8, generator=torch.Generator().manual_seed(2))


def test_codes_have_at_most_k_positive_entries_over_any_batch_shape(sae, x):
    codes = sae.encode(x)
    assert codes.shape == (5, 7, 24)
    assert (codes >= 0).all() and (codes > 0).sum(-1).max() == 4
    torch.testing.assert_close(sae.encode(x[0]), codes[0])


def test_fewer_than_k_positive_pre_activations_give_fewer_codes():
    codes = TopK(3)(torch.tensor([[-1.0, 2.0, -3.0, -4.0]]))
    assert codes.tolist() == [[0.0, 2.0, 0.0, 0.0]]


def test_folding_the_scale_changes_neither_codes_nor_reconstructions(sae, x):
    folded = sae.folded()
    assert float(folded.scale) == 1 and float(sae.scale) == pytest.approx(0.2)
    torch.testing.assert_close(folded.encode(x), sae.encode(x))
    torch.testing.assert_close(folded(x), sae(x))


M = 24


def vector(seed, size=M):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


SHAPES = {
    "topk": (lambda: TopK(4), {}),
    "topk, refined": (lambda: TopK(4), {"refinement": 0.25}),
    "topk skip transcoder": (lambda: TopK(4), {"d_out": 6, "skip": True}),
    "batchtopk, refined": (lambda: BatchTopK(4, threshold=0.02), {"refinement": 0.25}),
    "relu crosscoder": (ReLU, {"parts": {"early": 3, "late": 5}}),
    "jumprelu": (lambda: JumpReLU(vector(0).abs() / 10), {}),
    "gated": (lambda: Gated(vector(0), vector(1) / 10), {}),
}


@pytest.fixture(params=SHAPES)
def trained(request):
    """Autoencoders of every shape, with nothing left at the value it starts with."""
    activation, shape = SHAPES[request.param]
    sae = SparseAutoencoder(8, M, activation=activation(), seed=1, **shape)
    with torch.no_grad():
        sae.W_dec.mul_(1 + vector(2).abs()[:, None])
        sae.b_enc.copy_(vector(3) / 50)
        sae.b_dec.copy_(vector(4, sae.d_out))
        if sae.W_skip is not None:
            sae.W_skip.copy_(vector(5, sae.W_skip.numel()).view_as(sae.W_skip))
        sae.scale = 0.2 + vector(6, 8).abs() if len(sae.parts) > 1 else torch.tensor(0.2)
        sae.scale_out = torch.tensor(0.3) if sae.transcodes else sae.scale.clone()
    return sae


def test_folding_is_exact_for_every_architecture(trained, x):
    folded = trained.folded()
    assert (folded.scale == 1).all() and (folded.scale_out == 1).all()
    torch.testing.assert_close(folded.encode(x), trained.encode(x))
    torch.testing.assert_close(folded(x), trained(x))


def test_renumbering_latents_moves_their_codes_and_keeps_reconstructions(trained, x):
    codes, reconstruction = trained.encode(x), trained(x)
    order = torch.randperm(M, generator=torch.Generator().manual_seed(7))
    trained.permute(order)
    torch.testing.assert_close(trained.encode(x), codes[..., order])
    torch.testing.assert_close(trained(x), reconstruction)


def test_latent_axes_name_every_tensor_that_has_one_entry_per_latent(trained):
    state, axes = trained.state_dict(), trained.latent_axes()
    assert set(axes) == {name for name, tensor in state.items() if M in tensor.shape}
    assert all(state[name].shape[axis] == M for name, axis in axes.items())


def test_decoder_lengths_can_be_absorbed_by_the_codes(trained, x):
    codes, reconstruction, lengths = trained.encode(x), trained(x), trained.W_dec.norm(dim=1)
    if isinstance(trained.activation, TopK) or trained.refinement:
        with pytest.raises(TrainingError):
            trained.absorb_decoder_norms()
        return
    trained.absorb_decoder_norms()
    torch.testing.assert_close(trained.W_dec.norm(dim=1), torch.ones(M))
    torch.testing.assert_close(trained.encode(x), codes * lengths)
    torch.testing.assert_close(trained(x), reconstruction)


def test_refined_codes_are_those_of_one_step_towards_what_the_first_codes_missed(x):
    plain = SparseAutoencoder(8, M, activation=TopK(4), seed=1)
    refined = SparseAutoencoder(8, M, activation=TopK(4), refinement=0.25, seed=1)
    with torch.no_grad():
        for sae in (plain, refined):
            sae.b_dec.copy_(vector(4, 8))
            sae.b_enc.copy_(vector(3) / 50)
    pre = (x - plain.b_dec) @ plain.W_enc + plain.b_enc
    step = 0.25 * (x - plain(x)) @ plain.W_enc
    torch.testing.assert_close(refined.encode(x).flatten(0, 1), TopK(4)((pre + step).flatten(0, 1)))
    assert not torch.allclose(refined.encode(x), plain.encode(x))


def test_pruning_drops_the_latents_without_which_the_rest_reconstructs_almost_as_well(x):
    sae = SparseAutoencoder(8, M, activation=TopK(4), seed=1)
    with torch.no_grad():
        sae.W_dec.mul_(0.5 + vector(2).abs()[:, None])
    codes = 8 * sae.encode(x)
    pruned = sae.pruned(x, codes, threshold=0.5)
    wanted = codes.clone()
    for place in codes.nonzero().tolist():
        without = codes.clone()
        without[tuple(place)] = 0
        missing = (x - sae.decode(without))[tuple(place[:-1])]
        if missing @ sae.W_dec[place[-1]] <= 0.5:
            wanted[tuple(place)] = 0
    torch.testing.assert_close(pruned, wanted)
    assert 0 < (pruned != 0).sum() < (codes != 0).sum()


def test_pruning_works_in_the_units_of_the_input(x):
    sae = SparseAutoencoder(8, M, activation=TopK(4), seed=1)
    with torch.no_grad():
        sae.scale.fill_(0.2)
        sae.scale_out.fill_(0.2)
    folded = sae.folded()
    torch.testing.assert_close(folded.pruned(x, folded.encode(x), threshold=0.5), sae.pruned(x, sae.encode(x), threshold=0.5))


def test_the_lengths_of_a_decoder_row_in_its_parts_make_up_its_length():
    sae = SparseAutoencoder(8, M, activation=ReLU(), parts={"early": 3, "late": 5})
    assert sae.part_norms().shape == (M, 2)
    torch.testing.assert_close(sae.part_norms().square().sum(1), torch.ones(M))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"activation": ReLU(), "refinement": 0.25}, r"refinement=0.25 needs TopK or BatchTopK, not ReLU\(\)"),
        ({"activation": TopK(2), "refinement": 0.25, "d_out": 8}, "which a transcoder does not; use refinement=0"),
        ({"activation": TopK(2), "skip": True}, "skip=True would let an autoencoder copy its input; pass d_out="),
        ({"activation": TopK(2), "parts": {"a": 3, "b": 4}}, r"the parts a=3 \+ b=4 do not add up to d_out=8"),
        ({"activation": BatchTopK(25)}, "k=25 is more than d_sae=24 latents; use k of at most 24"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(TrainingError, match=message):
        SparseAutoencoder(8, M, **shape)


def test_the_decoder_starts_with_unit_rows_tied_to_the_encoder():
    sae = SparseAutoencoder(8, 24, activation=TopK(4))
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(24))
    torch.testing.assert_close(sae.W_enc, ENCODER_START * sae.W_dec.T)
    assert sae.W_enc.T.is_contiguous(), "latent by latent in memory, or each step pays for a transposition"


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(5)
    first = SparseAutoencoder(8, 24, activation=TopK(4), seed=3)
    torch.manual_seed(6)
    second = SparseAutoencoder(8, 24, activation=TopK(4), seed=3)
    other = SparseAutoencoder(8, 24, activation=TopK(4), seed=4)
    assert torch.equal(first.W_dec, second.W_dec) and not torch.equal(first.W_dec, other.W_dec)


def test_more_active_latents_than_there_are_is_refused():
    with pytest.raises(TrainingError, match="k=9 is more than d_sae=8 latents; use k of at most 8"):
        SparseAutoencoder(4, 8, activation=TopK(9))
    with pytest.raises(TrainingError, match="k=0 leaves no active latent"):
        TopK(0)


def test_activations_of_another_size_are_refused(sae):
    with pytest.raises(
        TrainingError, match=r"shape \(3, 5\).*d_in=8; use activations of a hook with 8 dimensions, or build .* d_in=5"
    ):
        sae.encode(torch.zeros(3, 5))


def test_the_untrained_control_shares_scale_and_mean_but_no_direction():
    sae = SparseAutoencoder(16, 64, activation=TopK(4), seed=0)
    with torch.no_grad():
        sae.scale.fill_(0.25)
        sae.scale_out.fill_(0.25)
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(1))
    random = sae.untrained(seed=1)
    assert torch.equal(random.b_dec, sae.b_dec)
    assert random.scale == sae.scale
    assert (random.encode(torch.ones(3, 16)) != 0).sum(1).max() <= 4
    assert (random.W_dec @ sae.W_dec.T).abs().max() < 0.95
