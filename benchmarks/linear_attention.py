"""How time and memory of attention grow with the length of the row: softmax, and the forms of linear attention, in one run.

One row, one head of width 64, causal, a forward without gradient; CPU time of this process, one thread, medians of runs taken in
turn:

    python benchmarks/linear_attention.py [--repeats 5] [--lengths 1024 2048 4096 8192] [--json FILE]

Prints a table of measurements with their targets and exits with code 1 when one is missed. Slopes are of log time on log length,
by least squares over all lengths: 1 for time that grows as the length, 2 for its square. Memory is what a process holds at its
peak beyond one that only draws queries, keys and values. All forms of one kind give the same; their largest difference is
in the table.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from rows import Row, show

WIDTH = 64
CHUNK = 64
SOFTMAX, SDPA = "softmax, all pairs", "softmax, PyTorch's fused kernel"
PARALLEL, CHUNKED, RECURRENT = "linear, all pairs (hooked)", "linear, in chunks", "linear, token by token"
DELTA_PARALLEL, DELTA_CHUNKED = "delta rule, all pairs (hooked)", "delta rule, in chunks"
LINEAR_TIME = (CHUNKED, RECURRENT, DELTA_CHUNKED)
"""Forms whose time must grow as the length."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each form at each length; the median counts")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192], help="tokens in a row")
    parser.add_argument("--json", type=Path, help="also write the table here, one JSON object per line")
    options = parser.parse_args()
    return show([*memory(max(options.lengths)), *timings(options.lengths, options.repeats)], options.json)


def timings(lengths: list[int], repeats: int) -> list[Row]:
    """How time grows, what it is at the longest row, and how far forms of one kind are apart."""
    seconds = {length: _medians(length, repeats) for length in lengths}
    longest = seconds[max(lengths)]
    rows = []
    for form in longest:
        slope = _slope(lengths, [seconds[length][form] for length in lengths])
        target, held = ("≤ 1.15", slope <= 1.15) if form in LINEAR_TIME else ("", None)
        rows.append(Row(f"slope of log time: {form}", slope, "", target, held))
    rows += [
        Row(f"time at {max(lengths):,} tokens: {form}", taken / longest[CHUNKED], "of chunks") for form, taken in longest.items()
    ]
    first = next((length for length in lengths if seconds[length][CHUNKED] < seconds[length][SOFTMAX]), float("nan"))
    rows.append(Row("shortest row on which chunks are faster than softmax", first, "tokens"))
    apart = _apart(min(lengths))
    return [*rows, Row("largest difference between forms of one kind", apart, "", "≤ 1e-5", apart <= 1e-5)]


def memory(length: int) -> list[Row]:
    """Peak memory of every form in a process of its own, beyond that of a process that attends to nothing."""
    forms = list(_forms())
    nothing, *peaks = (_alone(_peak, form, length) for form in (None, *forms))
    return [Row(f"memory at {length:,} tokens: {form}", peak - nothing, "MiB") for form, peak in zip(forms, peaks, strict=True)]


def _alone(measure: Callable[..., float], *args: Any) -> float:
    """What a function gives in a process forked off for it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(measure, *args).result()


def _peak(form: str | None, length: int) -> float:
    """Most that this process has held after attending in one form, in MiB."""
    qkv = _drawn(length)
    if form is not None:
        _forms()[form](*qkv)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _medians(length: int, repeats: int) -> dict[str, float]:
    """CPU seconds of every form; the first of its runs warms up."""
    forms, qkv = _forms(), _drawn(length)
    taken: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(repeats + 1):
        for form, attend in forms.items():
            start = time.process_time()
            attend(*qkv)
            taken[form].append(time.process_time() - start)
    return {form: statistics.median(each[1:]) for form, each in taken.items()}


def _slope(lengths: list[int], seconds: list[float]) -> float:
    import numpy as np

    return float(np.polyfit(np.log(lengths), np.log(seconds), 1)[0])


def _apart(length: int) -> float:
    found = {form: attend(*_drawn(length)) for form, attend in _forms().items()}
    same = [(SOFTMAX, SDPA), (PARALLEL, CHUNKED), (PARALLEL, RECURRENT), (DELTA_PARALLEL, DELTA_CHUNKED)]
    return max(float((found[one] - found[other]).abs().max()) for one, other in same)


def _drawn(length: int) -> Any:
    """Queries, keys and values, [1 pos 1 d_head] each."""
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    return torch.randn(3, 1, length, 1, WIDTH, generator=torch.Generator().manual_seed(0)).unbind()


def _forms() -> dict[str, Callable[..., Any]]:
    """Every form of attention as a function of queries, keys and values."""
    import torch

    from interp.models.linear_attention import DeltaRule, EluPlusOne, LinearAttention, UnitRelu, delta_rule, linear_attention
    from interp.models.scores import ScaledDot

    phi, unit = EluPlusOne(), UnitRelu()
    parallel = LinearAttention(phi)
    rule = DeltaRule(1, WIDTH, unit, generator=torch.Generator().manual_seed(0))

    def softmax(q: Any, k: Any, v: Any) -> Any:
        seen = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).tril()
        scores = ScaledDot()(q, k).masked_fill(~seen, torch.finfo(q.dtype).min)
        return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)

    def fused(*qkv: Any) -> Any:
        by_head = (each.transpose(1, 2) for each in qkv)
        return torch.nn.functional.scaled_dot_product_attention(*by_head, is_causal=True).transpose(1, 2)

    return {
        SOFTMAX: softmax,
        SDPA: fused,
        PARALLEL: lambda q, k, v: parallel(q, k, v, causal=True, seen=None),
        CHUNKED: lambda q, k, v: linear_attention(phi(q), phi(k), v, chunk=CHUNK),
        RECURRENT: lambda q, k, v: linear_attention(phi(q), phi(k), v, chunk=1),
        DELTA_PARALLEL: lambda q, k, v: rule(q, k, v, causal=True, seen=None),
        DELTA_CHUNKED: lambda q, k, v: delta_rule(unit(q), unit(k), v, rule.rates(k), chunk=CHUNK)[0],
    }


if __name__ == "__main__":
    sys.exit(main())
