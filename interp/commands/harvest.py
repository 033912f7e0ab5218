"""`interp harvest`: run a model over text once and keep its activations in a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from interp.cli import Answer
from interp.experiment import flags
from interp.experiment.progress import EVERY, note


def main(argv: Sequence[str], *, prog: str) -> Answer:
    """Parses the arguments and harvests."""
    return flags.call(harvest, argv, prog=prog)


def harvest(
    *,
    out: Path,
    hooks: tuple[str, ...],
    model: str = "stdlib-4l",
    corpus: str = "stdlib:heldout",
    context: int | None = None,
    batch: int = 8,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    max_tokens: int | None = None,
    device: flags.Device = "auto",
    resume: bool = False,
) -> Answer:
    """Runs a model over text once and stores the activations at some hooks.

    Args:
        out: the store, a new folder
        hooks: TransformerLens's names, such as blocks.2.hook_resid_post
        model: shipped or zoo model, folder, or hub name
        corpus: stdlib, stdlib:heldout, a file, a folder, or hf:org/name
        context: tokens per row; the model's own by default
        batch: rows per run of the model
        dtype: of the stored numbers
        max_tokens: stop after so many tokens
        device: where the model runs
        resume: go on with an interrupted harvest
    """
    from interp import activations
    from interp.models.hooked import Model

    loaded = Model.load(model, device=flags.resolve_device(device))
    store = activations.harvest_to_store(
        loaded, corpus, hooks=hooks, out=out, context=context, batch=batch, dtype=dtype, max_tokens=max_tokens, resume=resume,
        progress=_notes(),
    )  # fmt: skip
    size = store.bytes / 2**20
    return Answer(
        f"{store.rows:,} rows of {len(store.hooks)} hooks, {size:,.1f} MiB\nstore: {out}\nlook at it: interp activations {out}"
    )


def _notes() -> Callable[[int], None]:
    """Says every ten seconds how many tokens are done."""
    import time

    said = time.monotonic()

    def tell(tokens: int) -> None:
        nonlocal said
        if time.monotonic() - said >= EVERY:
            said = time.monotonic()
            note(f"harvest: {tokens:,} tokens")

    return tell
