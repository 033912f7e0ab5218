"""Recovery of planted features: ours against SAELens, on the same rows, with the same budget and the same measures.

    python benchmarks/recovery.py --out DIR [--peer-python PYTHON] [--seeds 3] [--steps 976]

Exports the rows of `synth-sae-bench-1k` (SynthSAEBench-16k scaled to a CPU), trains our architectures on them here and SAELens's
in the environment of PYTHON, and prints a table. What DIR holds already is not trained again, so an interrupted comparison goes
on. One thread; a run of a million rows takes 10 to 15 CPU-seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor

from interp.sae.architectures import build
from interp.sae.planted_files import export
from interp.sae.recovery import directions
from interp.sae.schedules import default_learning_rate
from interp.sae.synthetic import preset
from interp.sae.training import train

PRESET, M, L0, BATCH = "synth-sae-bench-1k", 256, 5.0, 1024
TEST_BATCHES = 16
ADAPTER = Path(__file__).with_name("recovery_saelens.py")
OURS = ("matryoshka", "lista-matryoshka", "batchtopk", "topk", "jumprelu", "relu")
THEIRS = {
    "3e-4": ("matryoshka", "batchtopk", "topk", "jumprelu", "standard"),
    "3e-3": ("matryoshka", "batchtopk", "jumprelu"),
    "1e-2": ("matryoshka", "batchtopk", "topk", "jumprelu", "standard"),
}
"""By learning rate: SAELens's default, with its other defaults, and higher ones, with what else suits so few rows."""

SPARSITY = {"standard": {"coefficient": 5.0}}
"""SAELens's ReLU has no target for L0: this gives about 2.6 active latents, its default of 1 more than 16."""

TUNED = {"dead-window": 100}
"""Steps after which SAELens revives latents, away from its default rate: at 1000, its default, it never comes to that here."""


def rows_of(folder: Path) -> Tensor:
    return torch.from_numpy(np.load(folder / "rows.npy", mmap_mode="c"))


def train_ours(name: str, seed: int, folder: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """One of our architectures at twice the default learning rate."""
    rows = rows_of(folder / "train")
    sae, objective = build(name, rows.shape[1], M, l0=L0, seed=seed)
    start, steps = time.process_time(), len(rows) // BATCH
    rate = 2 * default_learning_rate(rows.shape[1])
    train(sae, (part.clone() for part in rows.split(BATCH)), steps=steps, objective=objective, learning_rate=rate)
    seconds = time.process_time() - start
    with torch.no_grad():
        fires = torch.cat([sae.encode(part) != 0 for part in rows_of(folder / "test").split(BATCH)])
    return sae.W_dec.detach().numpy(), np.packbits(fires.numpy(), axis=1), seconds


def train_theirs(python: str | None, name: str, rate: str, folder: Path, out: Path) -> None:
    """One of SAELens's architectures, in its own environment."""
    flags = {"rows": folder / "train/rows.npy", "held-out": folder / "test/rows.npy", "out": out, "architecture": name}
    flags |= {"m": M, "l0": L0, "learning-rate": rate} | ({} if rate == "3e-4" else TUNED | SPARSITY.get(name, {}))
    command = [str(python), str(ADAPTER), *(text for key, value in flags.items() for text in (f"--{key}", str(value)))]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def score(result: dict[str, np.ndarray], truth: Tensor, codes: sparse.csr_matrix) -> dict[str, float]:
    """Directions against the true ones, and when latents fire against when the features that they stand for are on."""
    found = directions(torch.from_numpy(result["decoder"]), truth)
    fires = np.unpackbits(result["fires"], axis=1)[:, :M].astype(bool)
    on = np.asarray((codes[:, found.stands_for.numpy()] > 0).todense())
    hits, fired, there = (fires & on).sum(0), fires.sum(0), on.sum(0)
    return {
        "f1": float((2 * hits / np.maximum(fired + there, 1)).mean()),
        "mcc": found.mcc.value,
        "uniqueness": found.uniqueness.value,
        "precision": float((hits / np.maximum(fired, 1)).mean()),
        "recall": float((hits / np.maximum(there, 1)).mean()),
        "l0": float(fires.sum(1).mean()),
        "dead": int((fired == 0).sum()),
        "cpu_seconds": float(result["cpu_seconds"]),
    }


def results(seed: int, folder: Path, steps: int, python: str | None) -> list[dict[str, object]]:
    """Every run of one seed."""
    truth = preset(PRESET, seed=seed)
    if not (folder / "test/codes.npz").exists():
        export(truth, folder / "train", rows=BATCH, count=steps)
        export(truth, folder / "test", rows=BATCH, count=TEST_BATCHES, seed=1)
    codes = sparse.load_npz(folder / "test/codes.npz").tocsc()
    lines: list[dict[str, object]] = []
    for name in OURS:
        out = folder / f"ours-{name}.npz"
        if not out.exists():
            decoder, fires, seconds = train_ours(name, seed, folder)
            np.savez(out, decoder=decoder, fires=fires, cpu_seconds=seconds)
        lines.append(
            {
                "library": "ours",
                "architecture": name,
                "rate": "2x",
                "seed": seed,
                **score(dict(np.load(out)), truth.dictionary, codes),
            }
        )
    for rate, name in [(rate, name) for rate, names in THEIRS.items() for name in names] if python else []:
        out = folder / f"{name}-{rate}.npz"
        if not out.exists():
            train_theirs(python, name, rate, folder, out)
        lines.append(
            {
                "library": "SAELens",
                "architecture": name,
                "rate": rate,
                "seed": seed,
                **score(dict(np.load(out)), truth.dictionary, codes),
            }
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where rows and results are kept")
    parser.add_argument("--peer-python", help="the Python of an environment with sae-lens; without it only ours are trained")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=976, help="batches of 1024 rows")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    lines = [line for seed in range(flags.seeds) for line in results(seed, flags.out / str(seed), flags.steps, flags.peer_python)]
    table = pd.DataFrame(lines)
    table.to_json(flags.out / "recovery.json", orient="records", indent=1)
    means = table.drop(columns="seed").pivot_table(index=["library", "architecture", "rate"], sort=False)
    print(json.dumps({"preset": PRESET, "m": M, "l0": L0, "rows": flags.steps * BATCH, "seeds": flags.seeds}))
    print(means.sort_values("f1", ascending=False).round(3).to_string())


if __name__ == "__main__":
    main()
