"""What gradient attribution costs, in forward passes of the same batch, beside TransformerLens's own, in one run.

A GPT-2-shaped model of 4 layers × 8 heads, random weights, CPU time of this process, medians of interleaved runs, one thread:

    python benchmarks/attribution.py [--repeats 5] [--json FILE]

Prints a table of measurements with their targets and exits with code 1 when one is missed. The two libraries' results are
compared before they are timed: TransformerLens denoises, so it is held against the swapped contrast.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rows import Row, show

LAYERS, HEADS, WIDTH, VOCABULARY = 4, 8, 256, 5000
EXAMPLES, LENGTH = 8, 48
ANSWER, WRONG = 7, 9
"""The same question of every example, which is all that TransformerLens can ask of several."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each kind; the median counts")
    parser.add_argument("--json", type=Path, help="also write the table here, one JSON object per line")
    options = parser.parse_args()
    return show(timings(options.repeats), options.json)


def timings(repeats: int) -> list[Row]:
    """Medians of CPU time over that of a forward pass, and how far the two libraries' results are apart."""
    import torch

    from interp.heads import edge_attribution, gradients

    torch.set_num_threads(1)
    model, contrast = _model(), _contrast()
    swapped = contrast.swapped()
    runs: dict[str, Callable[[], Any]] = {
        "forward": lambda: model.run(contrast.clean),
        "nodes": lambda: gradients.attribution(model, swapped),
        "AtP*": lambda: gradients.dropped(model, swapped, parts=("z", "mlp", "q", "k", "v")),
        "edges": lambda: edge_attribution.eap(model, swapped),
        "edges, 5 steps": lambda: edge_attribution.eap_ig(model, swapped),
        "lens nodes": lambda: _lens(model, contrast, "node"),
        "lens edges": lambda: _lens(model, contrast, "edge"),
    }
    first = {name: _timed(run) for name, run in runs.items()}  # warms up; and once is enough for what takes hundreds of forwards
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            taken[name].append(first[name][0] if name == "lens edges" else _timed(run)[0])
    seconds = {name: statistics.median(times) for name, times in taken.items()}
    return _table(seconds, {name: result for name, (_, result) in first.items()})


def _table(seconds: dict[str, float], results: dict[str, Any]) -> list[Row]:
    cost = {name: taken / seconds["forward"] for name, taken in seconds.items()}
    nodes, edges = results["nodes"].mean("example"), results["edges"].mean("example")
    apart = {
        "nodes": _apart(nodes.values, nodes.coords["node"], results["lens nodes"].node_scores, _name),
        "edges": _apart(
            edges.values, edges.coords["edge"], results["lens edges"].edge_scores, lambda e: "->".join(map(_name, e))
        ),
    }
    unit, difference = "forwards", "largest difference of the two, over the largest effect"
    return [
        Row(f"forward pass, {EXAMPLES} × {LENGTH} tokens", seconds["forward"], "s CPU"),
        Row("attribution of all nodes", cost["nodes"], unit, "≤ 3.5", cost["nodes"] <= 3.5),
        Row("the same in TransformerLens", cost["lens nodes"], unit),
        Row(difference, apart["nodes"], "", "≤ 1e-4", apart["nodes"] <= 1e-4),
        Row(f"attribution of all {len(edges.values):,} edges", cost["edges"], unit, "≤ 10", cost["edges"] <= 10),
        Row("the same in TransformerLens", cost["lens edges"], unit),
        Row(difference, apart["edges"], "", "≤ 1e-4", apart["edges"] <= 1e-4),
        Row("AtP* of heads, queries, keys, values and MLPs", cost["AtP*"], unit),
        Row("integrated gradients of all edges, 5 steps", cost["edges, 5 steps"], unit),
    ]


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def _apart(ours: Any, names: Any, theirs: dict[Any, float], name_of: Callable[[Any], str]) -> float:
    """TransformerLens keeps positions apart; here they are summed."""
    summed = dict.fromkeys(names, 0.0)
    for item, score in theirs.items():
        summed[name_of(item)] += score
    return max(abs(own - summed[name]) for own, name in zip(ours, names, strict=True)) / max(abs(ours))


def _name(node: Any) -> str:
    if node.kind in ("q_input", "k_input", "v_input"):
        return f"a{node.layer}.h{node.head}<{node.kind[0]}>"
    fixed = {"embed": "input", "logits": "logits", "attn_head_out": f"a{node.layer}.h{node.head}"}
    return fixed.get(node.kind, f"m{node.layer}")


def _lens(model: Any, contrast: Any, granularity: Any) -> Any:
    """TransformerLens's attribution, which takes the examples one by one and a scalar of their logits."""
    from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

    def metric(logits: Any) -> Any:
        return logits[0, -1, ANSWER] - logits[0, -1, WRONG]

    config = EdgeAttributionConfig(granularity=granularity)
    return attribution_patch(model.bridge, contrast.clean, contrast.corrupt, metric, config)


def _model() -> Any:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from interp.models.hooked import Model

    shape = GPT2Config(n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH, n_positions=LENGTH, vocab_size=VOCABULARY)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Model.wrap(GPT2LMHeadModel(shape).eval(), name="gpt2-random")


def _contrast() -> Any:
    import torch

    from interp.tasks.contrast import Contrast

    clean, corrupt = torch.randint(VOCABULARY, (2, EXAMPLES, LENGTH), generator=torch.Generator().manual_seed(0))
    same = [torch.full((EXAMPLES,), token) for token in (ANSWER, WRONG)]
    return Contrast(clean=clean, corrupt=corrupt, answers=same[0], wrong=same[1])


if __name__ == "__main__":
    sys.exit(main())
