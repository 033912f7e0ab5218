"""Trains the language model that ships with the package, on Python's standard library, and writes everything it ships.

    python -m interp.models.pretrain --out DIR      # about an hour on one core

then copy `DIR/shipped/` over `interp/models/shipped/` and `DIR/heldout.jsonl.gz` over the one in `interp/text/`.

The recipe: Muon for the matrices inside the blocks, AdamW for embeddings, unembedding and vectors; warm-up, then linear
decay to nothing; bfloat16 matrix products. A share of the rows are *repeats*: a segment of random or of real tokens copied
again and again at random distances, with random lengths, because natural text alone teaches hardly any prefix matching
on tokens that have never stood together. In rows of random tokens only the copies count in the loss: the rest is noise.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from interp.models.lens import native_module
from interp.models.training import fast_logits
from interp.text import stdlib
from interp.text.tokenizer import train_byte_level_bpe

ARCHITECTURE = {
    "d_model": 192,
    "d_head": 32,
    "n_heads": 6,
    "n_layers": 4,
    "n_ctx": 256,
    "d_vocab": 2048,
    "d_mlp": 768,
    "act_fn": "gelu",
    "normalization_type": "LN",
    "positional_embedding_type": "rotary",
    "rotary_dim": 32,
}
IGNORED = -100
"""Target that counts for nothing in the loss (`torch.nn.functional.cross_entropy`'s default)."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the shipped model was trained."""

    steps: int = 4400
    batch: int = 32
    learning_rate: float = 6e-3
    warmup: int = 150
    weight_decay: float = 0.05
    repeat_share: float = 0.25  # share of rows with repeated segments
    seed: int = 0
    threads: int = 1


def corpus(out: Path) -> tuple[Int[Tensor, "train"], Int[Tensor, "heldout"], dict]:
    """Token streams of the training and the held-out documents (each document led by BOS), and what is recorded of them.

    Writes `out/shipped/tokenizer.json` and `out/heldout.jsonl.gz`.
    """
    modules = list(stdlib.installed(held_out=False))
    documents = list(stdlib.installed(held_out=False, tests=True))
    held_out = list(stdlib.installed(held_out=True))
    tokenizer = train_byte_level_bpe((document.text for document in modules), ARCHITECTURE["d_vocab"])
    tokenizer.save(str(out / "shipped" / "tokenizer.json"))
    lines = "".join(json.dumps(asdict(document)) + "\n" for document in held_out)
    (out / "heldout.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))

    def stream(texts: list[stdlib.Document]) -> Tensor:
        encoded = tokenizer.encode_batch([document.text for document in texts])
        return torch.tensor([token for one in encoded for token in (0, *one.ids)])

    train_stream, test_stream = stream(documents), stream(held_out)
    facts = {
        "python": platform.python_version(),
        "documents": len(documents),
        "documents_heldout": len(held_out),
        "sha256": stdlib.corpus_hash(documents),
        "sha256_heldout": stdlib.corpus_hash(held_out),
        "tokens": len(train_stream),
        "tokens_heldout": len(test_stream),
        "bytes_per_token": round(sum(len(d.text.encode()) for d in held_out) / len(test_stream), 4),
    }
    return train_stream, test_stream, facts


def repeats(rows: Int[Tensor, "row pos"], is_random: list[bool], generator: torch.Generator) -> Int[Tensor, "row pos"]:
    """Writes repeated segments into `rows` in place; returns the targets, with what cannot be foreseen ignored.

    Each row gets one segment of 8 to 80 tokens, copied to the end of the row with gaps of 0 to 24 tokens between copies.
    The first token of a copy is never a target; in a random row nothing but copies is.
    """
    length = rows.shape[1]
    targets = rows.clone()

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    for row, target, random in zip(rows, targets, is_random, strict=True):
        if random:
            target[:] = IGNORED
        size = draw(8, 80)
        start = draw(1, length - 2 * size)
        segment = row[start : start + size].clone()
        copy = start + size + draw(0, 24)
        while copy < length:
            end = min(copy + size, length)
            row[copy:end] = segment[: end - copy]
            target[copy:end] = row[copy:end]
            target[copy] = IGNORED
            if not random and end < length:
                target[end] = IGNORED
            copy = end + draw(0, 24)
    return targets


def batch(stream: Int[Tensor, "token"], recipe: Recipe, step: int) -> tuple[Int[Tensor, "row pos"], Int[Tensor, "row pos"]]:
    """Rows of one training step with their targets; a function of the recipe's seed and the step alone."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    context = ARCHITECTURE["n_ctx"]
    starts = torch.randint(0, len(stream) - context, (recipe.batch,), generator=generator)
    rows = stream[starts[:, None] + torch.arange(-1, context - 1)]
    chosen = torch.rand(recipe.batch, generator=generator) < recipe.repeat_share
    is_random = chosen & (torch.rand(recipe.batch, generator=generator) < 0.6)
    noise = torch.randint(1, ARCHITECTURE["d_vocab"], rows.shape, generator=generator)
    rows = torch.where(is_random[:, None], noise, rows)
    rows[:, 0] = 0
    targets = rows.clone()
    if chosen.any():
        repeated = rows[chosen]
        targets[chosen] = repeats(repeated, is_random[chosen].tolist(), generator)
        rows[chosen] = repeated
    return rows, targets


def held_out_rows(stream: Int[Tensor, "token"], context: int) -> Int[Tensor, "row pos"]:
    """The stream cut into rows of BOS and `context - 1` tokens; the rest of the last row is dropped."""
    body = stream[: len(stream) // (context - 1) * (context - 1)].view(-1, context - 1)
    return torch.cat([torch.zeros(len(body), 1, dtype=torch.long), body], dim=1)


def loss_of(logits: Float[Tensor, "row pos vocab"], targets: Int[Tensor, "row pos"]) -> Float[Tensor, ""]:
    """Mean next-token cross-entropy in nats over the targets that count."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten())


@torch.no_grad()
def evaluate(module: nn.Module, rows: Int[Tensor, "row pos"]) -> float:
    """Held-out loss in nats per token, float32."""
    losses = [
        loss_of(fast_logits(module, part), part.masked_fill(part == 0, IGNORED)) * (part[:, 1:] != 0).sum()
        for part in rows.split(32)
    ]
    return float(sum(losses) / (rows[:, 1:] != 0).sum())


@torch.no_grad()
def head_scores(module: Any, seed: int) -> dict[str, Any]:
    """Mean attention of every head to the previous token and, on the second copy of random segments of random length and
    offset, to the token that followed the same token before (prefix matching); and the loss on those copies."""
    generator = torch.Generator().manual_seed(seed)
    context = ARCHITECTURE["n_ctx"]
    rows = torch.randint(1, ARCHITECTURE["d_vocab"], (24, context), generator=generator)
    rows[:, 0] = 0
    matches = torch.zeros(24, context, context)
    for index, row in enumerate(rows):
        size = int(torch.randint(20, 100, (), generator=generator))
        first = int(torch.randint(1, context - 2 * size, (), generator=generator))
        second = int(torch.randint(first + size, context - size + 1, (), generator=generator))
        row[second : second + size] = row[first : first + size]
        matches[index, range(second, second + size - 1), range(first + 1, first + size)] = 1
    residual, prefix, previous = module.tok_embed(rows), [], []
    for block in module.layers:
        attended, pattern = block.attn(block.ln1(residual))
        prefix.append(((pattern * matches[:, None]).sum((0, 2, 3)) / matches.sum()).tolist())
        previous.append(pattern.diagonal(-1, 2, 3)[:, :, 1:].mean((0, 2)).tolist())
        residual = residual + attended
        residual = residual + block.mlp(block.ln2(residual))
    logits = module.head(module.ln_out(residual)).log_softmax(-1)
    picked = -logits[:, :-1].gather(2, rows[:, 1:, None])[..., 0]
    is_copy = matches.any(2)[:, :-1]
    return {"prefix": prefix, "previous": previous, "copy_loss": float((picked * is_copy).sum() / is_copy.sum())}


def bigram_loss(train: Int[Tensor, "train"], rows: Int[Tensor, "row pos"]) -> tuple[float, float]:
    """Held-out loss of the unigram (add-one) and of the bigram model of the same tokens, nats per token.

    The bigram backs off by Witten–Bell interpolation: p(w|h) = (c(h, w) + T(h) p(w)) / (c(h) + T(h)), T(h) the number of
    different tokens seen after h (Witten & Bell 1991).
    """
    size = ARCHITECTURE["d_vocab"]
    unigram = (torch.bincount(train, minlength=size) + 1).double()
    unigram /= unigram.sum()
    pairs = torch.bincount(train[:-1] * size + train[1:], minlength=size * size).view(size, size).double()
    kinds = (pairs > 0).sum(1, keepdim=True).double().clamp(min=1)
    bigram = (pairs + kinds * unigram) / (pairs.sum(1, keepdim=True) + kinds)
    target, before = rows[:, 1:], rows[:, :-1]
    counts = target != 0
    alone, after = (float(-p[counts].log().mean()) for p in (unigram[target], bigram[before, target]))
    return alone, after


def optimizers(module: Any, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon (Jordan 2024; its rate matched to AdamW's as in arXiv:2502.16982) for the blocks' matrices, AdamW for the rest."""
    matrices = [p for layer in module.layers for p in layer.parameters() if p.ndim == 2]
    inside = {id(p) for p in matrices}
    others = [p for p in module.parameters() if id(p) not in inside]
    muon = torch.optim.Muon(matrices, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(others, lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True)
    return [muon, adam]


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up over `warmup` steps, then linear decay to nothing at the last step."""
    return recipe.learning_rate * min((step + 1) / recipe.warmup, (recipe.steps - step) / (recipe.steps - recipe.warmup))


def save(module: nn.Module, path: Path) -> None:
    """The weights in half precision, as they ship."""
    save_file({name: tensor.half().contiguous() for name, tensor in module.state_dict().items()}, path)


def train(module: nn.Module, recipe: Recipe, out: Path, note: Callable[[str], None]) -> None:
    """Trains `module` in place and writes `out/shipped/{weights.safetensors, tokenizer.json, card.json}`, `out/heldout.jsonl.gz`
    and, at log-spaced steps, `out/checkpoints/step_N.safetensors` for phase-change plots.

    The card's curve holds, at the same steps: the loss on the first 96 held-out rows, a running mean of the training loss, CPU
    seconds, and every head's scores.

    note: told each point of the curve as a line of text.
    """
    torch.set_num_threads(recipe.threads)
    shipped, checkpoints = out / "shipped", out / "checkpoints"
    for folder in (shipped, checkpoints):
        folder.mkdir(parents=True, exist_ok=True)
    stream, held_out, facts = corpus(out)
    rows = held_out_rows(held_out, ARCHITECTURE["n_ctx"])
    steppers, curve, start = optimizers(module, recipe), [], time.process_time()
    train_loss = None
    for step in range(recipe.steps + 1):
        if step in watched_steps(recipe):
            save(module, checkpoints / f"step_{step:05d}.safetensors")
            seconds = round(time.process_time() - start)
            point = {"step": step, "heldout": evaluate(module, rows[:96]), "train": train_loss, "cpu_seconds": seconds}
            curve.append(_rounded(point | head_scores(module, seed=1)))
            best = max(score for layer in curve[-1]["prefix"] for score in layer)
            note(f"step {step}: held-out {point['heldout']:.3f}, best prefix matching {best:.2f}, {seconds} CPU-s")
        if step < recipe.steps:
            loss = training_step(module, steppers, stream, recipe, step)
            train_loss = loss if train_loss is None else 0.98 * train_loss + 0.02 * loss

    save(module, shipped / "weights.safetensors")
    # The stated loss is that of the weights as shipped, rounded to half precision.
    module.load_state_dict({name: tensor.half().float() for name, tensor in module.state_dict().items()})
    unigram, bigram = bigram_loss(stream, rows)
    card = {
        "architecture": ARCHITECTURE,
        "recipe": asdict(recipe),
        "corpus": facts,
        "parameters": sum(p.numel() for p in module.parameters()),
        "torch": torch.__version__,
        "weights_sha256": hashlib.sha256((shipped / "weights.safetensors").read_bytes()).hexdigest(),
        "loss": {"heldout": evaluate(module, rows), "bigram": bigram, "unigram": unigram},
        "curve": curve,
    }
    (shipped / "card.json").write_text(json.dumps(card) + "\n")


def watched_steps(recipe: Recipe) -> set[int]:
    """Where the curve and a checkpoint are taken: at the start, the end, and 37 steps from 32 on, evenly spaced in logarithm."""
    return {0, recipe.steps} | {round(32 * (recipe.steps / 32) ** (i / 36)) for i in range(37)}


def training_step(
    module: nn.Module, steppers: list[torch.optim.Optimizer], stream: Int[Tensor, "token"], recipe: Recipe, step: int
) -> float:
    """One update of every optimiser; returns the loss before it."""
    inputs, targets = batch(stream, recipe, step)
    with torch.autocast("cpu", torch.bfloat16):
        logits = fast_logits(module, inputs)
    loss = loss_of(logits, targets)
    module.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    for stepper in steppers:
        for group in stepper.param_groups:
            group["lr"] = learning_rate(step, recipe)
        stepper.step()
    return loss.item()


def _rounded(value: Any) -> Any:
    """Numbers to four places, all the way down: the curve is for plots, and ships."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    """Command line: the recipe's fields as flags, and where to write."""
    parser = argparse.ArgumentParser(description="Train the language model that ships with interp.")
    parser.add_argument("--out", type=Path, required=True)
    for field in fields(Recipe):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    flags = vars(parser.parse_args())
    out = flags.pop("out")
    recipe = Recipe(**flags)

    def note(line: str) -> None:
        sys.stderr.write(line + "\n")

    train(native_module(ARCHITECTURE, recipe.seed), recipe, out, note)


if __name__ == "__main__":
    main()
