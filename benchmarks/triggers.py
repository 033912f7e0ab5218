"""What a pass for the triggers of all neurons costs, against the bare forward pass on the same tokens, and what memory it takes.

The shipped model on its training text, CPU time of this process, one thread:

    python benchmarks/triggers.py [--tokens 100000] [--json FILE]

Prints a table of measurements with their targets and exits with code 1 when one is missed. Peak memory is taken in fresh
processes, on a quarter of the tokens and on all of them.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rows import Row, show

MODEL, CONTEXT, BATCH = "stdlib-4l", 256, 16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=100_000, help="tokens of text in the timed passes")
    parser.add_argument("--json", type=Path, help="also write the table here, one JSON object per line")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak is not None:
        print(peak_of_a_pass(options.peak))
        return 0
    rows = [*memory(options.tokens), *timings(options.tokens)]  # a child's peak counts what its parent held when it started
    return show(rows, options.json)


def memory(tokens: int) -> list[Row]:
    """Peak memory of a pass over a quarter of the tokens, and over all."""
    counts = (tokens // 4, tokens)
    peaks = [float(_child(str(n))) for n in counts]
    ratio = peaks[1] / peaks[0]
    return [
        *(Row(f"peak memory, pass over {n:,} tokens", peak, "MiB") for n, peak in zip(counts, peaks, strict=True)),
        Row("peak memory, 4 n over n tokens", ratio, "", "1 ± 0.05", abs(ratio - 1) <= 0.05),
    ]


def _child(tokens: str) -> str:
    # Large blocks go back to the system when freed; else the peak says more of the allocator's mood than of what is held.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    command = [sys.executable, __file__, "--peak", tokens]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def timings(tokens: int) -> list[Row]:
    """CPU time of both kinds of pass, batch by batch in turn, so that both meet the same machine."""
    import torch

    from interp.mlp.keys import TriggerStream
    from interp.mlp.memories import activations
    from interp.models.hooked import Model

    torch.set_num_threads(1)
    model, stream = Model.load(MODEL), TriggerStream()
    bare = triggers = 0.0
    seen = 0
    for number, batch in enumerate(batches(model, tokens)):
        start = time.process_time()
        with torch.no_grad():
            model.bridge(batch.tokens)
        middle = time.process_time()
        for one in activations(model, [batch]):
            stream.update(one)
        end = time.process_time()
        seen += int(batch.is_text.sum())
        if number:  # the first batch warms up
            bare, triggers = bare + middle - start, triggers + end - middle
    start = time.process_time()
    neurons = sum(found.value.shape[1] for found in stream.compute().values())
    triggers += time.process_time() - start
    return [
        Row(f"bare forward, {seen:,} tokens", bare, "s CPU"),
        Row(f"triggers of {neurons:,} neurons, the same tokens", triggers, "s CPU"),
        Row("triggers over bare forward", triggers / bare, "", "≤ 1.5", triggers <= 1.5 * bare),
    ]


def batches(model: Any, tokens: int) -> Iterator[Any]:
    """Batches of the training text, as many as hold so many tokens."""
    from interp.text import resolve
    from interp.text.packing import pack

    packed = pack(resolve("stdlib").documents(), model.tokenizer, context=CONTEXT, batch=BATCH)
    return islice(packed, max(2, tokens // (CONTEXT * BATCH)))


def peak_of_a_pass(tokens: int) -> float:
    """MiB that this process needed at most."""
    import torch

    from interp.mlp.keys import triggers
    from interp.mlp.memories import activations
    from interp.models.hooked import Model

    torch.set_num_threads(1)
    model = Model.load(MODEL)
    triggers(activations(model, batches(model, tokens)))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
