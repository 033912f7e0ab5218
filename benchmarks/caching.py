"""What caching costs, against a plain Hugging Face forward and TransformerLens's `run_with_cache`, in one run.

GPT-2-small shape, random weights, batches of 8 × 128 tokens, CPU time of this process, medians of interleaved runs, one thread:

    python benchmarks/caching.py [--repeats 7] [--json FILE]

Prints a table of measurements with their targets and exits with code 1 when one is missed. Peak memory is taken in fresh
processes.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rows import Row, show

BATCH, CONTEXT = 8, 128
MIDDLE, LAST = "blocks.5.hook_resid_post", "blocks.11.hook_resid_post"
PER_HARVEST = 2
"""Token batches in one timed harvest; each fills a shard, so every batch pays for a commit."""
MEMORY_BATCHES = 24
MEMORY_SHARD = 16 << 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="timed runs of each kind; the median counts")
    parser.add_argument("--json", type=Path, help="also write the table here, one JSON object per line")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak is not None:
        print(_peak_of_a_harvest(options.peak))
        return 0
    rows = [*memory(), *timings(options.repeats)]  # memory first: a child's peak counts what its parent held when it started
    return show(rows, options.json)


def memory() -> list[Row]:
    """Peak memory of a harvest of n tokens, and of 4 n."""
    peaks = []
    for batches in (MEMORY_BATCHES, 4 * MEMORY_BATCHES):
        command = [sys.executable, __file__, "--peak", str(batches)]
        peaks.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    ratio = peaks[1] / peaks[0]
    n = MEMORY_BATCHES * BATCH * CONTEXT
    return [
        Row(f"peak memory, harvest of {n:,} tokens to disk", peaks[0], "MiB"),
        Row(f"peak memory, harvest of {4 * n:,} tokens to disk", peaks[1], "MiB"),
        Row("peak memory, 4 n over n tokens", ratio, "", "1 ± 0.05", abs(ratio - 1) <= 0.05),
    ]


def timings(repeats: int) -> list[Row]:
    """Medians of CPU time, each run in turn."""
    import torch

    torch.set_num_threads(1)
    plain, model = _gpt2(), _model()
    tokens = _token_batch(0).tokens
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        stores = (Path(folder) / str(i) for i in range(10**6))
        seconds = _medians(
            {
                "plain": lambda: plain(tokens),
                "bare": lambda: [_stopped(plain, tokens) for _ in range(PER_HARVEST)],
                "last": lambda: model.run(tokens, read=[LAST]),
                "middle": lambda: model.run(tokens, read=[MIDDLE]),
                "harvest": lambda: _to_disk(model, next(stores), PER_HARVEST, MIDDLE, shard_bytes=1),
                "lens all": lambda: model.bridge.run_with_cache(tokens),
                "lens last": lambda: model.bridge.run_with_cache(tokens, names_filter=LAST),
                "lens middle": lambda: model.bridge.run_with_cache(tokens, names_filter=MIDDLE, stop_at_layer=6),
            },
            repeats,
        )
    return _table(seconds)


def _table(seconds: dict[str, float]) -> list[Row]:
    plain, rate = seconds["plain"], seconds["bare"] / seconds["harvest"]
    last, middle = seconds["last"] / plain, seconds["middle"] / plain
    unit = "× plain forward"
    return [
        Row("plain Hugging Face forward, 8 × 128 tokens", plain, "s CPU"),
        Row("one hook at the last layer", last, unit, "≤ 1.02", last <= 1.02),
        Row("one hook at a middle layer (block 5 of 12)", middle, unit, "≤ 0.40", middle <= 0.40),
        Row("bare forward stopped after block 5", seconds["bare"] / PER_HARVEST / plain, unit),
        Row("harvest of that hook to disk", rate, "× bare stopped rate", "≥ 0.9", rate >= 0.9),
        Row("run_with_cache, everything", seconds["lens all"] / plain, unit),
        Row("run_with_cache, one name at the last layer", seconds["lens last"] / plain, unit),
        Row("run_with_cache, block 5, stop_at_layer=6", seconds["lens middle"] / plain, unit),
    ]


def _medians(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if turn:  # the first turn warms up
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def _gpt2() -> Any:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config()).eval()


def _model() -> Any:
    from interp.models.hooked import Model

    return Model.wrap(_gpt2(), name="gpt2-random")


def _token_batch(index: int) -> Any:
    """A BOS and 127 tokens of text in each row, as `text.pack` gives them."""
    import torch

    from interp.text.packing import TokenBatch

    tokens = torch.randint(1000, 50_000, (BATCH, CONTEXT), generator=torch.Generator().manual_seed(index))
    position = torch.arange(CONTEXT).expand(BATCH, -1) - 1
    is_text = position >= 0
    document = torch.where(is_text, torch.arange(index * BATCH, (index + 1) * BATCH)[:, None], -1)
    return TokenBatch(tokens, document, position, position, position + 1, is_text, torch.zeros_like(is_text))


def _to_disk(model: Any, path: Path, batches: int, hook: str, *, shard_bytes: int) -> None:
    from interp.activations import ActivationStore, Header, harvest

    stream: Iterable[Any] = (_token_batch(i) for i in range(batches))
    header = Header(model=model.name, model_fingerprint=model.fingerprint, hooks=(hook,), context=CONTEXT)
    ActivationStore.write(path, harvest(model, stream, [hook]), header, shard_bytes=shard_bytes)


class _Stop(Exception):
    pass


def _stopped(plain: Any, tokens: Any) -> Any:
    """The output of block 5, by a raw torch hook that ends the forward there."""
    found = []

    def stop(module: Any, inputs: Any, output: Any) -> None:
        found.append(output)
        raise _Stop

    handle = plain.transformer.h[5].register_forward_hook(stop)
    try:
        plain(tokens)
    except _Stop:
        pass
    finally:
        handle.remove()
    return found[0]


def _peak_of_a_harvest(batches: int) -> float:
    """MiB that this process needed at most. It harvests the first block's output: as much memory as any other's, in less time."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        _to_disk(_model(), Path(folder) / "store", batches, "blocks.0.hook_resid_post", shard_bytes=MEMORY_SHARD)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
