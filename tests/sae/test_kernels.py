"""Sparse algebra gives the dense results and the dense gradients, on every backend."""

import os
import subprocess
import sys

import pytest
import torch

from interp.errors import ConfigError
from interp.sae import kernels, native, rounding, torch_kernels
from interp.sae.kernels import Support

D_IN, D_SAE, ROWS, K = 6, 40, 7, 3
PER_LATENT = torch.linspace(-1, 2, D_SAE)

SELECTIONS = {
    "topk": lambda rows, weight, bias: kernels.select_topk(rows, weight, bias, K),
    "above a number": lambda rows, weight, bias: kernels.select_above(rows, weight, bias, 1.0),
    "above a number per latent": lambda rows, weight, bias: kernels.select_above(rows, weight, bias, PER_LATENT),
    "batch topk": lambda rows, weight, bias: kernels.select_batch_topk(rows, weight, bias, K),
}


@pytest.fixture(params=["torch", "native"])
def backend(request, monkeypatch):
    if not kernels.BACKENDS[request.param].available():
        pytest.skip(f"no {request.param} kernels here")
    monkeypatch.setenv(kernels.FORCED, request.param)
    return request.param


def drawn(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(ROWS, D_IN), (D_SAE, D_IN), (D_SAE,), (D_IN,), (D_SAE, D_IN)]
    x, encoder, b_enc, b_in, decoder = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [tensor.to(dtype).requires_grad_() for tensor in (x, encoder.T, b_enc, b_in, decoder)]


def randn(*shape, seed=2):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def chosen(select, x, encoder, b_enc, b_in):
    return select(x, encoder, b_enc - b_in @ encoder)


def sparse(select, x, encoder, b_enc, b_in, decoder):
    support = chosen(select, x, encoder, b_enc, b_in)
    return kernels.decode(kernels.preactivations(x, encoder, b_enc, b_in, support).relu(), support, decoder)


def dense(support, x, encoder, b_enc, b_in, decoder):
    mask = torch.zeros(ROWS, D_SAE, dtype=x.dtype)
    mask[support.rows, support.latents] = 1
    return (mask * ((x - b_in) @ encoder + b_enc)).relu() @ decoder


def ragged(dtype=torch.float32):
    """A support with empty rows, silent latents, and rows of different lengths."""
    counts = torch.tensor([2, 0, 5, 1, 4, 0, 3])
    pointers = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    generator = torch.Generator().manual_seed(1)
    latents = torch.randint(D_SAE, (15,), generator=generator)
    return Support(pointers, latents, torch.randn(15, generator=generator).to(dtype), D_SAE)


@pytest.mark.parametrize("select", SELECTIONS.values(), ids=SELECTIONS)
def test_gradients_pass_the_finite_difference_check(select):
    assert torch.autograd.gradcheck(lambda *tensors: sparse(select, *tensors), drawn())


@pytest.mark.parametrize("select", SELECTIONS.values(), ids=SELECTIONS)
def test_output_and_every_gradient_equal_a_dense_float64_reference_to_1e_5(select, backend):
    ours, exact = drawn(torch.float32), drawn()
    support = chosen(select, *(tensor.detach() for tensor in ours[:4]))
    got, wanted = sparse(select, *ours), dense(support, *exact)
    torch.testing.assert_close(got.double(), wanted, atol=1e-5, rtol=1e-5)
    got_slopes = torch.autograd.grad(got.square().sum(), ours)
    for one, other in zip(got_slopes, torch.autograd.grad(wanted.square().sum(), exact), strict=True):
        assert (one.double() - other).norm() < 1e-5 * other.norm()


def test_without_an_input_bias_nothing_is_taken_off_the_rows(backend):
    x, encoder, b_enc, b_in, _ = drawn(torch.float32)
    support = kernels.select_topk(x, encoder, b_enc, K)
    ours = kernels.preactivations(x, encoder, b_enc, None, support)
    theirs = kernels.preactivations(x, encoder, b_enc, torch.zeros_like(b_in), support)
    for one, other in zip(
        torch.autograd.grad(ours.square().sum(), (x, encoder, b_enc)),
        torch.autograd.grad(theirs.square().sum(), (x, encoder, b_enc)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_what_is_decoded_onto_a_base_is_added_to_it(backend):
    support, weight, base = ragged(), randn(D_SAE, 5).requires_grad_(), randn(7, 5, seed=4).requires_grad_()
    onto = kernels.decode(-support.values, support, weight, base=base)
    torch.testing.assert_close(onto, base - kernels.decode(support.values, support, weight))
    slope = randn(7, 5, seed=5)
    g_weight, g_base = torch.autograd.grad(onto, [weight, base], slope)
    assert torch.equal(g_base, slope)
    torch.testing.assert_close(g_weight, -support.gather_rows(support.values, slope))


def test_the_mean_square_has_the_gradient_of_its_formula():
    error = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(kernels.mean_square, error)
    torch.testing.assert_close(kernels.mean_square(error), error.square().sum(1).mean())


@pytest.mark.parametrize("d_sae", [48, 2051, 4096])
@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["mostly positive", "all negative"])
def test_topk_chooses_what_a_sort_of_exact_products_chooses(d_sae, sign, backend):
    x, weight = randn(40, 24), randn(d_sae, 24)
    bias = randn(d_sae) if sign > 0 else torch.full((d_sae,), -30.0)
    values, latents = kernels.kernels_for(x).topk(x, weight, bias, 5)
    exact = x.double() @ weight.T.double() + bias.double()
    torch.testing.assert_close(values.double(), exact.gather(1, latents), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(values.sort().values.double(), exact.topk(5).values.flip(1), atol=1e-4, rtol=1e-5)
    assert all(len(set(row.tolist())) == 5 for row in latents)


def test_readings_that_mislead_do_not_change_the_choice(backend, monkeypatch):
    """Latents that differ by little more than bfloat16 rounds away; without the allowance for doubt the wrong ones are taken."""
    monkeypatch.setattr(rounding, "_has_instructions", lambda: True)
    weight, bias = 1 + 1e-2 * randn(2048, 64), torch.zeros(2048)
    x = randn(20, 64)
    x -= x.mean(1, keepdim=True)  # what latents have in common it does not see
    exact = (x.double() @ weight.T.double()).topk(4).values.flip(1)
    values, _ = kernels.kernels_for(x).topk(x, weight, bias, 4)
    torch.testing.assert_close(values.sort().values.double(), exact, atol=1e-5, rtol=0)
    monkeypatch.setattr(rounding, "doubt", lambda rows, weight: 1e-9 * rows.length)
    monkeypatch.setattr(rounding, "PART", 0.0)
    misled, _ = kernels.kernels_for(x).topk(x, weight, bias, 4)
    assert (misled.sort().values.double() - exact).abs().max() > 1e-4


@pytest.mark.parametrize("bits", [0x7FC00000, -0x400000], ids=["positive", "negative"])
def test_numbers_that_are_none_are_always_chosen(bits, backend):
    x, weight, bias = randn(4, 8), randn(4096, 8), torch.zeros(4096)
    bias[9:10] = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
    assert bias.isnan().sum() == 1
    for support in (kernels.select_topk(x, weight.T, bias, 3), kernels.select_above(x, weight.T, bias, 1e9)):
        assert ((support.latents == 9) & support.values.isnan()).sum() == 4
    assert kernels.select_topk(torch.full_like(x, torch.nan), weight.T, bias, 3).values.isnan().all()


@pytest.mark.parametrize("infinite", [1, 5])
def test_infinite_pre_activations_are_the_largest(infinite, backend):
    x, weight, bias = randn(4, 8), randn(4096, 8), torch.zeros(4096)
    bias[11 : 11 + infinite] = torch.inf
    bias[20] = -torch.inf
    support = kernels.select_topk(x, weight.T, bias, 3)
    assert support.values.isinf().view(4, 3).sum(1).tolist() == 4 * [min(3, infinite)]
    assert not (support.latents == 20).any()


def test_select_above_finds_all_entries_above_and_no_others(backend):
    x, weight, bias = randn(30, 8), randn(2100, 8), randn(2100)
    pre, threshold = x @ weight.T + bias, randn(2100, seed=3).abs() * 4 + 4
    support = kernels.select_above(x, weight.T, bias, threshold)
    found = torch.zeros_like(pre, dtype=torch.bool)
    found[support.rows, support.latents] = True
    clear = (pre - threshold).abs() > 1e-4
    assert found.sum() > 30
    assert torch.equal(found[clear], (pre > threshold)[clear])


@pytest.mark.parametrize("k", [0.5, 3, 8])
def test_batch_topk_takes_the_largest_positive_values_wherever_they_lie(k, backend):
    x, weight = randn(30, 8), randn(64, 8)
    x[:3] *= 20  # these rows own far more than 2k of the largest
    bias = randn(64)
    pre = x @ weight.T + bias
    support = kernels.select_batch_topk(x, weight.T, bias, k)
    wanted = pre.flatten().topk(round(k * 30)).values
    torch.testing.assert_close(support.values.sort(descending=True).values, wanted, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(support.values, pre[support.rows, support.latents], atol=1e-4, rtol=1e-5)


def test_batch_topk_takes_positive_values_only(backend):
    x, weight, bias = randn(30, 8), randn(64, 8), torch.full((64,), -6.0)
    support = kernels.select_batch_topk(x, weight.T, bias, 20)
    assert len(support.values) == ((x @ weight.T + bias) > 0).sum() > 0


def test_rows_are_encoded_alike_in_chunks_and_at_once(backend, monkeypatch):
    tensors = [tensor.detach() for tensor in drawn(torch.float32)]
    whole = sparse(SELECTIONS["topk"], *tensors)
    monkeypatch.setattr(torch_kernels, "BUFFER", {"cpu": 4 * D_SAE * 2})
    monkeypatch.setattr(native, "BUFFER", 1)
    torch.testing.assert_close(sparse(SELECTIONS["topk"], *tensors), whole)


def test_sums_over_a_ragged_support_are_the_dense_sums(backend):
    support, rows, centre = ragged(), randn(7, 33), randn(33)
    matrix = torch.zeros(7, D_SAE).index_put_((support.rows, support.latents), support.values, accumulate=True)
    torch.testing.assert_close(support.total(support.values), matrix.sum(0))
    torch.testing.assert_close(support.gather_rows(support.values, rows), matrix.T @ rows, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        support.gather_rows(support.values, rows, centre), matrix.T @ (rows - centre), atol=1e-5, rtol=1e-5
    )
    weight = randn(D_SAE, 33)
    torch.testing.assert_close(kernels.decode(support.values, support, weight), matrix @ weight, atol=1e-5, rtol=1e-5)


def test_keeping_entries_keeps_their_rows(backend):
    support = ragged()
    mask = support.values > 0
    kept = support.keep(mask)
    assert torch.equal(kept.rows, support.rows[mask])
    assert torch.equal(kept.latents, support.latents[mask])
    assert torch.equal(kept.values, support.values[mask])
    assert len(kept.pointers) == len(support.pointers)


def test_a_support_without_entries_decodes_to_zero(backend):
    x, encoder, b_enc, b_in, decoder = drawn(torch.float32)
    support = kernels.select_above(x, encoder, b_enc, 1e9)
    values = kernels.preactivations(x, encoder, b_enc, b_in, support)
    out = kernels.decode(values, support, decoder)
    assert out.shape == x.shape and not out.any()
    assert not any(slope.any() for slope in torch.autograd.grad(out.sum(), [encoder, b_enc, b_in, decoder]))


def test_the_fastest_backend_that_serves_a_tensor_is_taken(monkeypatch):
    monkeypatch.delenv(kernels.FORCED, raising=False)
    assert kernels.backend(torch.zeros(1, dtype=torch.float64)) == "torch"
    assert kernels.backend(torch.zeros(1)) == ("native" if native.available() else "torch")
    monkeypatch.setenv(kernels.FORCED, "torch")
    assert kernels.backend(torch.zeros(1)) == "torch"


def test_kernels_that_are_unknown_or_not_to_be_had_are_refused(monkeypatch):
    monkeypatch.setenv(kernels.FORCED, "fortran")
    with pytest.raises(ConfigError, match="INTERP_KERNELS=fortran names no kernels; use one of native, triton, torch, or unset"):
        kernels.backend(torch.zeros(1))
    monkeypatch.setenv(kernels.FORCED, "native")
    monkeypatch.setattr(native, "available", lambda: False)
    with pytest.raises(ConfigError, match="INTERP_KERNELS=native asks for kernels that are not to be had here; unset it"):
        kernels.backend(torch.zeros(1))


TRITON = """
import torch
from interp.sae import torch_kernels, triton_kernels

triton_kernels.WIDTH = 16
mask = torch.rand(9, 40) < 0.2
mask[3] = False
pointers = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0))
latents = mask.nonzero()[:, 1]
values, rows, weight, centre = torch.randn(len(latents)), torch.randn(9, 33), torch.randn(40, 33), torch.randn(33)
transposed = torch_kernels.transpose(pointers, latents, 40)
for name, arguments in {
    "combine": (values, pointers, latents, weight),
    "dots": (rows, weight, pointers, latents),
    "gather": (values, transposed, rows, centre),
}.items():
    torch.testing.assert_close(getattr(triton_kernels, name)(*arguments), getattr(torch_kernels, name)(*arguments))
print("equal")
"""


def test_triton_programs_compute_the_same_in_their_interpreter():
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", TRITON], capture_output=True, text=True, env=environment)
    assert done.stdout == "equal\n", done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("select", SELECTIONS.values(), ids=SELECTIONS)
def test_on_cuda_output_and_gradients_equal_the_dense_reference(select):
    ours, exact = [tensor.detach().cuda().requires_grad_() for tensor in drawn(torch.float32)], drawn()
    support = chosen(select, *(tensor.detach() for tensor in ours[:4]))
    here = Support(support.pointers.cpu(), support.latents.cpu(), support.values.cpu(), D_SAE)
    got, wanted = sparse(select, *ours), dense(here, *exact)
    torch.testing.assert_close(got.double().cpu(), wanted, atol=1e-4, rtol=1e-4)
    got_slopes = torch.autograd.grad(got.square().sum(), ours)
    for one, other in zip(got_slopes, torch.autograd.grad(wanted.square().sum(), exact), strict=True):
        assert (one.double().cpu() - other).norm() < 1e-5 * other.norm()
