"""Every kind of autoencoder there is, small, with random weights: what formats must carry."""

import pytest
import torch

from interp.sae.activation_functions import BatchTopK, Gated, JumpReLU, ReLU, TopK
from interp.sae.autoencoder import SparseAutoencoder
from interp.sae.formats.foreign import AbsTopK, GroupMax, MatchingPursuit

D_IN, D_SAE = 6, 12


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomised(sae, *, scales=True):
    """Random biases and encoder, a decoder that is not tied to it, and (unless told otherwise) a scale to be folded."""
    with torch.no_grad():
        sae.W_enc += 0.3 * numbers(*sae.W_enc.shape, seed=1)
        sae.b_enc.copy_(0.2 * numbers(sae.d_sae, seed=2))
        sae.b_dec.copy_(0.2 * numbers(sae.d_out, seed=3))
        if sae.W_skip is not None:
            sae.W_skip.copy_(numbers(*sae.W_skip.shape, seed=4))
        if scales:
            sae.scale.fill_(0.6)
            sae.scale_out.fill_(0.4 if sae.transcodes else 0.6)
    return sae


def made(activation, **options):
    return randomised(SparseAutoencoder(D_IN, D_SAE, activation=activation, **options))


def gated():
    return Gated(0.3 * numbers(D_SAE, seed=5), 0.2 * numbers(D_SAE, seed=6))


def matching_pursuit():
    sae = SparseAutoencoder(D_IN, D_SAE, activation=ReLU())
    rules = {"residual_threshold": 0.5, "max_iterations": 4, "stop_on_duplicate_support": True}
    sae.activation = MatchingPursuit(sae.W_dec, **rules)
    with torch.no_grad():
        sae.W_enc.copy_(sae.W_dec.T)
        sae.b_dec.copy_(0.2 * numbers(D_IN, seed=3))
    return sae


def crosscoder():
    sae = made(ReLU(), parts={"early": 2, "late": 4})
    sae.scale, sae.scale_out = (torch.tensor([0.5, 0.5, 2.0, 2.0, 2.0, 2.0]) for _ in range(2))
    return sae


def refined():
    sae = made(BatchTopK(3, threshold=0.3), refinement=0.25)
    sae.draft = BatchTopK(3, threshold=0.15)
    return sae


THRESHOLDS = 0.1 + 0.3 * numbers(D_SAE, seed=7).abs()

EVERY = {
    "relu": lambda: made(ReLU()),
    "topk": lambda: made(TopK(3)),
    "batchtopk": lambda: made(BatchTopK(3, threshold=0.3)),
    "jumprelu": lambda: made(JumpReLU(THRESHOLDS)),
    "gated": lambda: made(gated()),
    "abstopk": lambda: made(AbsTopK(3)),
    "groupmax": lambda: made(GroupMax(4)),
    "matching-pursuit": matching_pursuit,
    "relu-transcoder": lambda: made(ReLU(), d_out=4),
    "relu-skip-transcoder": lambda: made(ReLU(), d_out=4, skip=True),
    "jumprelu-transcoder": lambda: made(JumpReLU(THRESHOLDS), d_out=4),
    "jumprelu-skip-transcoder": lambda: made(JumpReLU(THRESHOLDS), d_out=4, skip=True),
    "topk-transcoder": lambda: made(TopK(3), d_out=D_IN),
    "topk-skip-transcoder": lambda: made(TopK(3), d_out=D_IN, skip=True),
    "groupmax-transcoder": lambda: made(GroupMax(4), d_out=D_IN),
    "gated-transcoder": lambda: made(gated(), d_out=4),
    "batchtopk-skip-transcoder": lambda: made(BatchTopK(3, threshold=0.3), d_out=4, skip=True),
    "refined-topk": lambda: made(TopK(3), refinement=0.25),
    "refined-batchtopk": refined,
    "crosscoder": crosscoder,
}

ELSEWHERE = {
    "dictionary_learning": {"relu", "topk", "batchtopk", "jumprelu", "gated", "crosscoder"},
    "sparsify": {"topk", "groupmax", "topk-transcoder", "topk-skip-transcoder", "groupmax-transcoder"},
}
"""What the layouts other than ours have a place for."""

LOADED_BY_SAELENS = set(EVERY) - {
    "groupmax", "topk-transcoder", "topk-skip-transcoder", "groupmax-transcoder", "gated-transcoder", "refined-topk",
    "refined-batchtopk",
}  # fmt: skip


@pytest.fixture(params=EVERY)
def kind(request):
    return request.param


@pytest.fixture
def sae(kind):
    return EVERY[kind]()


@pytest.fixture
def every():
    return EVERY


@pytest.fixture
def elsewhere():
    return ELSEWHERE


@pytest.fixture
def loaded_by_saelens():
    return LOADED_BY_SAELENS


@pytest.fixture
def x():
    return 2 * numbers(40, D_IN, seed=8)
