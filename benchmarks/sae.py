"""CPU time per training step and peak memory of autoencoders, ours beside other libraries', on the same rows.

    python benchmarks/sae.py [--sizes s,m,l] [--arch topk,batchtopk] [--rounds 3] [--steps 6] [--json FILE]
                             [--peer sparsify=PYTHON] [--peer sae_lens=PYTHON] [--peer dictionary_learning=PYTHON]

PYTHON is the interpreter of an environment that has the library (`pip install eai-sparsify`, `sae-lens`, `dictionary-learning`).
Every figure is the median over rounds of a process of its own, one thread, taken in turn: whatever slows the machine slows all.
Ours is measured twice, with compiled kernels and with PyTorch's alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SIZES = {"s": (128, 1024, 32, 4096), "m": (512, 8192, 32, 4096), "l": (768, 24576, 32, 2048)}
"""d, m, k and rows per batch."""

PEERS = {
    "sparsify": {"topk"},
    "sae_lens": {"topk", "batchtopk", "matryoshka", "relu", "jumprelu"},
    "dictionary_learning": {"topk", "batchtopk", "matryoshka", "relu", "jumprelu", "gated"},
}
HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="m")
    parser.add_argument("--arch", default="topk")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help=f"one of {', '.join(PEERS)}")
    parser.add_argument("--json", type=Path, help="also append every figure here, one JSON object per line")
    parser.add_argument("--ours", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        print(_ours(**json.loads(options.ours)))
        return 0
    peers = dict(each.split("=", 1) for each in options.peer)
    if unknown := set(peers) - set(PEERS):
        parser.error(f"--peer {', '.join(sorted(unknown))}: use {', '.join(PEERS)}")
    for size in options.sizes.split(","):
        for arch in options.arch.split(","):
            compare(size, arch, peers, rounds=options.rounds, steps=options.steps, out=options.json)
    return 0


def compare(size: str, arch: str, peers: dict[str, str], *, rounds: int, steps: int, out: Path | None) -> None:
    """Measures all that have the architecture, in turn, and prints a line for each."""
    d, m, k, batch = SIZES[size]
    with tempfile.TemporaryDirectory() as folder:
        rows = str(Path(folder) / "rows.npy")
        _draw(rows, d, m, batch)
        commands = _commands(rows, arch, m, k, steps, {name: python for name, python in peers.items() if arch in PEERS[name]})
        measured = [(name, _figures(command, kernels)) for _ in range(rounds) for name, (command, kernels) in commands.items()]
    print(f"{arch}, d {d}, m {m}, k {k}, {batch} rows, {rounds} rounds of {steps} steps")
    ours = statistics.median(each["cpu_ms"] for name, each in measured if name == "ours, compiled")
    for name in commands:
        cpu = statistics.median(each["cpu_ms"] for other, each in measured if other == name)
        peak = max(each["peak_mb"] for other, each in measured if other == name)
        print(f"  {name:<28} {cpu:9.1f} CPU-ms per step {cpu / ours:7.2f} × ours {peak:7d} MB at most", flush=True)
        if out is not None:
            with out.open("a") as file:
                file.write(json.dumps({"size": size, "arch": arch, "name": name, "cpu_ms": cpu, "peak_mb": peak}) + "\n")


def _commands(rows: str, arch: str, m: int, k: int, steps: int, peers: dict[str, str]) -> dict[str, tuple[list[str], str]]:
    own = [sys.executable, __file__, "--ours", json.dumps({"rows": rows, "arch": arch, "m": m, "k": k, "steps": steps})]
    flags = ["--rows", rows, "--arch", arch, "--m", str(m), "--k", str(k), "--steps", str(steps)]
    commands = {"ours, compiled": (own, "native"), "ours, PyTorch": (own, "torch")}
    return commands | {name: ([python, str(HERE / "sae_peers.py"), name, *flags], "") for name, python in peers.items()}


def _figures(command: list[str], kernels: str) -> dict:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "INTERP_KERNELS": kernels}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _draw(path: str, d: int, m: int, batch: int) -> None:
    code = "import sys, numpy, torch; from interp.sae import bench; d, m, batch = map(int, sys.argv[2:])\n"
    code += "numpy.save(sys.argv[1], torch.stack(bench.batches(d, m=m, batch=batch)).numpy())"
    subprocess.run([sys.executable, "-c", code, path, *map(str, (d, m, batch))], check=True)


def _ours(rows: str, arch: str, m: int, k: int, steps: int) -> str:
    import numpy as np
    import torch

    from interp.sae import bench

    torch.set_num_threads(1)
    speed = bench.measure(arch, list(torch.from_numpy(np.load(rows))), m=m, k=k, steps=steps)
    return json.dumps(dataclasses.asdict(speed))


if __name__ == "__main__":
    sys.exit(main())
