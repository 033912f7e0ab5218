"""Trains one SAELens autoencoder on exported rows; writes its decoder and where it fires. `recovery.py` runs it, elsewhere.

It imports nothing of ours. SAELens trains as its own `fit` does: Adam, clipping, AuxK where the architecture has it.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import numpy as np
import sae_lens as sl  # pyright: ignore[reportMissingImports]
import torch
from sae_lens.config import SAETrainerConfig  # pyright: ignore[reportMissingImports]
from sae_lens.training.sae_trainer import SAETrainer  # pyright: ignore[reportMissingImports]

BATCH = 1024


def build(architecture: str, d: int, m: int, l0: float, coefficient: float) -> sl.TrainingSAE:
    """The autoencoder at SAELens's defaults; widths, where it wants them, at the shares that SynthSAEBench trains."""
    torch.manual_seed(0)
    size = {"d_in": d, "d_sae": m}
    if architecture == "topk":
        return sl.TopKTrainingSAE(sl.TopKTrainingSAEConfig(**size, k=round(l0)))
    if architecture == "batchtopk":
        return sl.BatchTopKTrainingSAE(sl.BatchTopKTrainingSAEConfig(**size, k=l0))
    if architecture == "matryoshka":
        widths = [m // 32, m // 8, m // 2, m]
        return sl.MatryoshkaBatchTopKTrainingSAE(sl.MatryoshkaBatchTopKTrainingSAEConfig(**size, k=l0, matryoshka_widths=widths))
    if architecture == "jumprelu":
        held = {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": l0, "l0_coefficient": coefficient}
        return sl.JumpReLUTrainingSAE(sl.JumpReLUTrainingSAEConfig(**size, **held))
    if architecture == "standard":
        return sl.StandardTrainingSAE(sl.StandardTrainingSAEConfig(**size, l1_coefficient=coefficient))
    raise SystemExit(f"SAELens has no architecture {architecture!r} here")


@torch.no_grad()
def fires(sae: sl.TrainingSAE, rows: np.ndarray) -> np.ndarray:
    """Where its latents are on, chosen as in training: batch top-k among an eighth of the rows, so its L0 is met exactly."""
    return np.concatenate([(sae.encode(torch.from_numpy(part)) != 0).numpy() for part in np.array_split(rows, 8)])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--architecture", required=True)
    parser.add_argument("--m", type=int, required=True)
    parser.add_argument("--l0", type=float, required=True)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--coefficient", type=float, default=1.0)
    parser.add_argument("--dead-window", type=int, default=1000)
    flags = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    rows = np.load(flags.rows, mmap_mode="c")
    sae = build(flags.architecture, rows.shape[1], flags.m, flags.l0, flags.coefficient)
    config = SAETrainerConfig(
        total_training_samples=len(rows),
        train_batch_size_samples=BATCH,
        lr=flags.learning_rate,
        lr_end=flags.learning_rate,
        dead_feature_window=flags.dead_window,
    )
    trainer = SAETrainer(config, sae, iter(()))
    start = time.process_time()
    for first in range(0, len(rows) - BATCH + 1, BATCH):
        trainer.step(torch.from_numpy(rows[first : first + BATCH]).clone())
        trainer.n_training_steps += 1
    seconds = time.process_time() - start
    on = np.packbits(fires(sae, np.load(flags.held_out)), axis=1)
    np.savez(flags.out, decoder=sae.W_dec.detach().numpy(), fires=on, cpu_seconds=np.array(seconds))


if __name__ == "__main__":
    main()
