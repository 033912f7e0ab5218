"""Training takes settings of the process, and gives them back."""

import ctypes
import platform
import resource

import pytest
import torch

from interp import process

CPU = torch.device("cpu")
STEPS = 12


def test_the_fast_matmul_setting_is_given_back():
    before = torch.get_float32_matmul_precision()
    with pytest.raises(RuntimeError), process.fast_float32(CPU):
        raise RuntimeError
    assert torch.get_float32_matmul_precision() == before


def test_fast_products_are_as_exact_as_float32():
    a, b = torch.randn(2, 300, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with process.fast(CPU):
        product = a.float() @ b.float()
    assert (product.double() - a @ b).abs().max() < 1e-3


@pytest.fixture
def small_pages():
    """Without transparent huge pages, of which one fault supplies 512 pages, or not, as memory allows."""
    prctl, disable = ctypes.CDLL(None).prctl, 41
    prctl(disable, 1, 0, 0, 0)
    yield
    prctl(disable, 0, 0, 0, 0)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_large_blocks_are_mapped_once_and_not_at_every_step(small_pages):
    def faults():
        """Pages that the system had to supply for blocks that live for one step."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(STEPS):
            torch.empty(64 << 20, dtype=torch.uint8).fill_(1)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    pages = STEPS * (64 << 20) // resource.getpagesize()
    with process.kept_memory(CPU):
        faults()
        assert faults() < 0.25 * pages, "a block or two may find no room that was kept"
    assert faults() > 0.9 * pages


def test_other_devices_leave_the_process_alone(monkeypatch):
    monkeypatch.setattr(process.ctypes, "CDLL", lambda name: pytest.fail("malloc was touched"))
    before = torch.get_float32_matmul_precision()
    with process.fast(torch.device("meta")):
        assert torch.get_float32_matmul_precision() == before
