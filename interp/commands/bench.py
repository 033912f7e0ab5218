"""`interp bench sae`: how fast autoencoders train on this machine."""

from __future__ import annotations

import dataclasses
import json as json_
from collections.abc import Sequence
from typing import Literal

from tyro.conf import Positional

from interp.cli import Answer
from interp.experiment import flags


def main(argv: Sequence[str], *, prog: str) -> Answer:
    """Parses the arguments and measures."""
    return flags.call(bench, argv, prog=prog)


def bench(
    what: Positional[Literal["sae"]],
    *,
    arch: str = "topk",
    d: int = 512,
    m: int = 8192,
    k: float = 32,
    batch: int = 4096,
    steps: int = 20,
    threads: int = 1,
    seed: int = 0,
    json: bool = False,
) -> Answer:
    """Trains an autoencoder for some steps on drawn rows: tokens per CPU-second, peak memory of the process, the loss reached.

    INTERP_KERNELS=torch measures without the compiled kernels.

    Args:
        what: what to measure
        arch: the architecture, as for train-sae
        d: size of the rows
        m: latents
        k: active latents per row
        batch: rows per step
        steps: steps that are measured; two more come before
        threads: threads of PyTorch
        seed: for rows and weights
        json: print one line of JSON
    """
    import torch

    from interp.sae import bench as room

    torch.set_num_threads(threads)
    rows = room.batches(d, m=m, batch=batch, seed=seed)
    figures = dataclasses.asdict(room.measure(arch, rows, m=m, k=k, steps=steps, seed=seed))
    if json:
        return Answer(json_.dumps(figures))
    return Answer("\n".join(f"{name:<22} {value}" for name, value in figures.items()))
