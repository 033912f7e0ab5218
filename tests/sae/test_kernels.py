"""Sparse algebra gives the dense results and the dense gradients."""

import pytest
import torch

from interp.sae import kernels

D_IN, D_SAE, ROWS, K = 6, 10, 7, 3


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    shapes = [(ROWS, D_IN), (D_SAE, D_IN), (D_SAE,), (D_IN,), (D_SAE, D_IN)]
    x, encoder, b_enc, b_dec, decoder = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [tensor.requires_grad_() for tensor in (x, encoder.T, b_enc, b_dec, decoder)]


def sparse(x, encoder, b_enc, b_dec, decoder, k=K):
    values, support = kernels.encode(x, encoder, b_enc, b_dec, k)
    return kernels.decode(values, support, decoder) + b_dec


def dense(x, encoder, b_enc, b_dec, decoder, k=K):
    pre = ((x - b_dec) @ encoder + b_enc).relu()
    values, indices = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, indices, values) @ decoder + b_dec


def test_gradients_pass_the_finite_difference_check(tensors):
    assert torch.autograd.gradcheck(sparse, tensors)


def test_output_and_every_gradient_equal_the_dense_reference(tensors):
    ours, theirs = sparse(*tensors), dense(*tensors)
    torch.testing.assert_close(ours, theirs)
    ours_grad = torch.autograd.grad(ours.square().sum(), tensors)
    theirs_grad = torch.autograd.grad(theirs.square().sum(), tensors)
    for one, other in zip(ours_grad, theirs_grad, strict=True):
        torch.testing.assert_close(one, other)


def test_rows_are_encoded_alike_in_chunks_and_at_once(tensors, monkeypatch):
    whole = sparse(*tensors)
    monkeypatch.setattr(kernels, "CHUNK", 2)
    torch.testing.assert_close(sparse(*tensors), whole)


def test_rows_with_fewer_than_k_positive_pre_activations_use_fewer_latents(tensors):
    x, encoder, b_enc, b_dec, _ = tensors
    values, support = kernels.encode(x, encoder, b_enc - 100, b_dec, K)
    assert (values == 0).all()
    (gradient,) = torch.autograd.grad(values.sum(), [b_enc])
    assert (gradient == 0).all()
    assert support.indices.shape == (ROWS, K)


def test_the_fast_matmul_setting_is_given_back():
    before = torch.get_float32_matmul_precision()
    with pytest.raises(RuntimeError), kernels.fast_float32(torch.device("cpu")):
        raise RuntimeError
    assert torch.get_float32_matmul_precision() == before
