"""How fast autoencoders train here: CPU time of the real training loop, peak memory, and the loss it came to.

Must not know: models, text, other libraries.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from interp.errors import ConfigError
from interp.sae import kernels
from interp.sae.architectures import build
from interp.sae.feeds import CALIBRATION
from interp.sae.training import train
from interp.stats import torch_generator

WARMUP = 2
"""Steps before the clock starts: they fill caches, and compile the kernels where that was never done."""


@dataclass(frozen=True)
class Speed:
    """One training, measured."""

    arch: str
    d: int
    m: int
    k: float
    batch: int
    steps: int
    threads: int
    kernels: str  # which of `kernels.BACKENDS`
    cpu_ms: float  # CPU time of this process per step, median
    tokens_per_cpu_second: int
    peak_mb: int  # of this process, all its life
    fvu: float  # over the last half of the steps
    loss: float
    dead: float


def measure(
    arch: str,
    batches: Sequence[Float[Tensor, "row d"]],
    *,
    m: int,
    k: float,
    steps: int,
    learning_rate: float | None = None,
    seed: int = 0,
) -> Speed:
    """Trains one autoencoder of an architecture on the batches, over and over, with all that training does: clipping, dead
    latents, logs. Only the steps themselves are timed.

    Raises ConfigError for fewer than 2 steps, an unknown architecture or a k that cannot be.
    """
    if steps < 2:
        raise ConfigError(f"steps={steps} gives no median; use 2 or more")
    (rows, d), stamps = batches[0].shape, []
    warmup = WARMUP + -(-CALIBRATION // rows)  # training reads its first batches at once, to measure the scales
    sae, objective = build(arch, d, m, l0=k, seed=seed)

    def stamped() -> Iterator[Tensor]:
        for step in range(warmup + steps):
            stamps.append(time.process_time())
            yield batches[step % len(batches)]
        stamps.append(time.process_time())

    history = train(
        sae, stamped(), steps=warmup + steps, objective=objective, learning_rate=learning_rate, log_every=(warmup + steps) // 2
    )
    each = [after - before for before, after in zip(stamps[warmup:], stamps[warmup + 1 :], strict=False)]
    median = statistics.median(each)
    return Speed(
        arch=arch,
        d=d,
        m=m,
        k=k,
        batch=rows,
        steps=steps,
        threads=torch.get_num_threads(),
        kernels=kernels.backend(sae.W_dec),
        cpu_ms=round(1e3 * median, 2),
        tokens_per_cpu_second=round(rows / median),
        peak_mb=peak_memory() >> 20,
        fvu=round(history.last["fvu"], 5),
        loss=round(history.last["loss"], 5),
        dead=round(history.last["dead"], 5),
    )


@torch.no_grad()
def batches(d: int, *, m: int, batch: int, count: int = 4, seed: int = 0) -> list[Float[Tensor, "row d"]]:
    """Rows to train on: each the sum of 32 of max(m / 4, 2 d) random directions, drawn more often the lower their number, with
    weights from 0.5 to 1.5, and a little noise."""
    generator = torch_generator(seed, "benchmark")
    n = max(m // 4, 2 * d)
    directions = F.normalize(torch.randn(n, d, generator=generator), dim=1)
    often = torch.arange(1, n + 1, dtype=torch.float64) ** -0.5
    rows = []
    for _ in range(count):
        drawn = torch.multinomial(often, 32 * batch, replacement=True, generator=generator).view(batch, 32)
        weights = torch.rand(batch, 32, generator=generator) + 0.5
        clean = F.embedding_bag(drawn, directions, mode="sum", per_sample_weights=weights)
        rows.append(clean + 0.02 * torch.randn(batch, d, generator=generator))
    return rows


def peak_memory() -> int:
    """Bytes of memory that this process has held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
