"""Settings of the whole process that make training and sweeps faster on a CPU. Each is given back.

Must not know: what is computed.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of settings in glibc's malloc.h."""

KEEP = ((MMAP_THRESHOLD, 1 << 30), (TRIM_THRESHOLD, (1 << 31) - 1))
SETTLED = ((MMAP_THRESHOLD, 32 << 20), (TRIM_THRESHOLD, 64 << 20))
"""Where glibc's own adjustment ends in a process that has freed large blocks. What it was cannot be asked."""


@contextmanager
def fast(device: torch.device) -> Iterator[None]:
    """All that there is for this device."""
    with fast_float32(device), kept_memory(device):
        yield


@contextmanager
def fast_float32(device: torch.device) -> Iterator[None]:
    """Takes the faster float32 matrix products on a CPU where they are as accurate; restores the setting afterwards.

    On AVX-512 machines "medium" goes through oneDNN, about twice as fast as the default there and equally exact.
    """
    before = torch.get_float32_matmul_precision()
    if device.type == "cpu" and _medium_is_float32():
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Keeps freed memory for the next step; returns it to the system afterwards. Acts on a CPU under glibc.

    Gradients are as large as the weights and live for one step. As blocks of their own they would be mapped, zeroed and unmapped
    by the system every time: a third of the time of a step with 19 million weights in each matrix. A sweep's large batches lose
    as much.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if device.type == "cpu" and sys.platform == "linux" else None
    if mallopt is None:
        yield
        return
    for setting in KEEP:
        mallopt(*setting)
    try:
        yield
    finally:
        for setting in SETTLED:
            mallopt(*setting)
        ctypes.CDLL(None).malloc_trim(0)


@cache
def _medium_is_float32() -> bool:
    """Whether PyTorch's "medium" float32 products keep float32 accuracy on this CPU (oneDNN may also round to bfloat16)."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=generator, dtype=torch.float64)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        error = (a.float() @ b.float()).double() - a @ b
    finally:
        torch.set_float32_matmul_precision(before)
    return float(error.abs().max()) < 1e-3
