"""What a sweep over all heads costs, in forward passes of the same batch, against TransformerLens's own, in one run.

12 layers × 8 heads of GPT-2's architecture, random weights, 8 prompts of 16 tokens, CPU time of this process, one thread. The
unit is a forward of TransformerLens's bridge around the same model, timed right before and after each sweep; medians:

    python benchmarks/patching.py [--repeats 3] [--width 512] [--json FILE]

Prints a table of measurements with their targets and exits with code 1 when one is missed. Both sweeps put what each head
hands to the output projection in the clean run into the corrupted run, at all positions; their results are compared. Resumed
at the patched block, 8 heads in each of 12 layers are 8 · 13 / 2 = 52 forwards of one batch; what is below is won by running
several heads as rows of one pass, and the more the smaller the model is.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rows import Row, show

BATCH, CONTEXT, VOCABULARY = 8, 16, 1000
UNITS = 4
"""Forwards timed before and after each sweep."""
HOOKS = "blocks.*.attn.hook_z"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each kind; the median counts")
    parser.add_argument("--width", type=int, default=512, help="d_model")
    parser.add_argument("--json", type=Path, help="also write the table here, one JSON object per line")
    options = parser.parse_args()
    return show(rows(options.repeats, options.width), options.json)


def rows(repeats: int, width: int) -> list[Row]:
    """What each sweep costs, and how far the two results are apart."""
    os.environ["TQDM_DISABLE"] = "1"
    import torch

    from interp.heads import patching
    from interp.models.hooked import Model

    torch.set_num_threads(1)
    plain, contrast, model = _gpt2(width), _contrast(), Model.wrap(_gpt2(width), name="gpt2-random")
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(contrast.corrupt)
        runs = {
            "ours": lambda: patching.sweep(model, contrast, HOOKS, by=("head",)),
            "lens": lambda: _lens(model, contrast, cache),
            "plain": lambda: plain(contrast.clean),
        }
        cost, results = _in_forwards(runs, lambda: model.bridge(contrast.clean), repeats)
        before = float(contrast.logit_difference(model.run(contrast.clean).logits).mean())
    found = results["ours"].mean("example").values
    apart = float(abs(found - (results["lens"].numpy() - before)).max())
    unit = "forwards"
    return [
        Row("sweep of 12 × 8 heads, all positions", cost["ours"], unit, "≤ 48", cost["ours"] <= 48),
        Row("TransformerLens, get_act_patch_attn_head_out_all_pos", cost["lens"], unit),
        Row("ours over TransformerLens", cost["ours"] / cost["lens"], ""),
        Row("a Hugging Face forward without TransformerLens", cost["plain"], unit),
        Row("largest effect of a head", float(abs(found).max()), "logits"),
        Row("largest difference from TransformerLens", apart, "logits", "≤ 1e-5", apart <= 1e-5),
    ]


def _in_forwards(
    runs: dict[str, Callable[[], Any]], forward: Callable[[], Any], repeats: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """CPU time of each run over that of a forward, medians; and what the runs gave."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    results: dict[str, Any] = {}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            units = [_seconds(forward) for _ in range(UNITS)]
            start = time.process_time()
            results[name] = run()
            spent = time.process_time() - start
            units += [_seconds(forward) for _ in range(UNITS)]
            if turn:  # the first turn warms up
                taken[name].append(spent / statistics.median(units))
    return {name: statistics.median(values) for name, values in taken.items()}, results


def _seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _gpt2(width: int) -> Any:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(n_embd=width, n_layer=12, n_head=8, n_positions=CONTEXT, vocab_size=VOCABULARY)
        return GPT2LMHeadModel(config).eval()


def _contrast() -> Any:
    """Random tokens and twins that differ from the middle on; the corrupted run goes on, as in TransformerLens."""
    import torch

    from interp.tasks.contrast import Contrast

    generator = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(VOCABULARY, (2, BATCH, CONTEXT), generator=generator)
    corrupt[:, : CONTEXT // 2] = clean[:, : CONTEXT // 2]
    answers, wrong = torch.randint(VOCABULARY, (2, BATCH), generator=generator)
    return Contrast(clean=clean, corrupt=corrupt, answers=answers, wrong=wrong).swapped()


def _lens(model: Any, contrast: Any, cache: Any) -> Any:
    from transformer_lens.patching import get_act_patch_attn_head_out_all_pos

    def metric(logits: Any) -> Any:
        return contrast.logit_difference(logits).mean()

    return get_act_patch_attn_head_out_all_pos(model.bridge, contrast.clean, cache, metric)


if __name__ == "__main__":
    sys.exit(main())
