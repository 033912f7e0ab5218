"""One training step after another of another library's autoencoder, timed: runs in that library's own environment.

    PYTHON benchmarks/sae_peers.py LIBRARY --rows FILE.npy --arch topk --m 8192 --k 32 --steps 10

LIBRARY: sparsify (eai-sparsify), sae_lens or dictionary_learning; each does per step what its trainer does, at its defaults.
FILE holds batches [batch row d] in float32. Prints one line of JSON: CPU time per step and peak memory of the process.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import itertools
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

WARMUP = 2
os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
Step = Callable[[Any], None]


def load(name: str) -> Any:
    """A module of the library's environment, which is not the one that this file is checked in."""
    return importlib.import_module(name)


def sparsify(arch: str, d: int, m: int, k: int) -> Step:
    torch, library = load("torch"), load("sparsify")
    torch.set_float32_matmul_precision("high")  # as its Trainer.fit does
    sae = library.SparseCoder(d, library.SparseCoderConfig(activation=arch, num_latents=m, k=k))
    signs = load("sparsify.sign_sgd").SignSGD(sae.parameters(), lr=5e-3 / (m / 2**14) ** 0.5)
    optimizer = load("schedulefree").ScheduleFreeWrapper(signs, momentum=0.95)
    optimizer.train()
    since_fired = torch.zeros(m, dtype=torch.long)

    def step(x: Any) -> None:
        sae.set_decoder_norm_to_unit_norm()
        out = sae(x=x, y=x, dead_mask=None, total_variance=(x - x.mean(0)).pow(2).sum())
        fired = torch.zeros(m, dtype=torch.bool)
        fired[out.latent_indices.flatten()] = True
        out.fvu.add(out.multi_topk_fvu / 8).backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        since_fired.add_(len(x))
        since_fired[fired] = 0

    return step


def sae_lens(arch: str, d: int, m: int, k: int) -> Step:
    library, training = load("sae_lens"), load("sae_lens.training.sae_trainer")
    name = {
        "topk": "TopK",
        "batchtopk": "BatchTopK",
        "matryoshka": "MatryoshkaBatchTopK",
        "relu": "Standard",
        "jumprelu": "JumpReLU",
    }[arch]
    own = {
        "topk": {"k": k},
        "batchtopk": {"k": k},
        "matryoshka": {"k": k, "matryoshka_widths": [m // 16, m // 4, m]},
        "relu": {"l1_coefficient": 1.0},
        "jumprelu": {"l0_coefficient": 1.0},
    }[arch]
    sae = getattr(library, f"{name}TrainingSAE")(getattr(library, f"{name}TrainingSAEConfig")(d_in=d, d_sae=m, **own))
    config = load("sae_lens.config").SAETrainerConfig(
        total_training_samples=10**9, train_batch_size_samples=4096, lr=3e-4, lr_end=3e-4
    )
    trainer = training.SAETrainer(config, sae, iter(()))

    def step(x: Any) -> None:
        trainer.step(x)
        trainer.n_training_steps += 1

    return step


def dictionary_learning(arch: str, d: int, m: int, k: int) -> Step:
    module, name, own = {
        "topk": ("top_k", "TopKTrainer", {"k": k}),
        "batchtopk": ("batch_top_k", "BatchTopKTrainer", {"k": k}),
        "matryoshka": (
            "matryoshka_batch_top_k",
            "MatryoshkaBatchTopKTrainer",
            {"k": k, "group_fractions": [1 / 16, 3 / 16, 3 / 4]},
        ),
        "relu": ("standard", "StandardTrainer", {"l1_penalty": 0.1}),
        "jumprelu": ("jumprelu", "JumpReluTrainer", {"target_l0": float(k)}),
        "gated": ("gdm", "GatedSAETrainer", {}),
    }[arch]
    trainer_class = getattr(load(f"dictionary_learning.trainers.{module}"), name)
    trainer = trainer_class(steps=10**5, activation_dim=d, dict_size=m, layer=0, lm_name="none", device="cpu", **own)
    number = itertools.count()
    return lambda x: trainer.update(next(number), x)


LIBRARIES = {"sparsify": sparsify, "sae_lens": sae_lens, "dictionary_learning": dictionary_learning}
PACKAGES = {"sparsify": "eai-sparsify", "sae_lens": "sae-lens", "dictionary_learning": "dictionary-learning"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--arch", default="topk")
    for name in ("m", "k", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    numpy, torch = load("numpy"), load("torch")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batches = torch.from_numpy(numpy.load(options.rows))
    step = LIBRARIES[options.library](options.arch, batches.shape[2], options.m, options.k)
    times = []
    for index in range(WARMUP + options.steps):
        before = time.process_time()
        step(batches[index % len(batches)])
        times.append(time.process_time() - before)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    version = importlib.metadata.version(PACKAGES[options.library])
    figures = {"cpu_ms": round(1e3 * statistics.median(times[WARMUP:]), 2), "peak_mb": peak, "version": version}
    print(json.dumps({"library": options.library, "arch": options.arch} | figures))


if __name__ == "__main__":
    main()
