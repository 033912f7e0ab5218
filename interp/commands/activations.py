"""`interp activations STORE`: what is in a store of activations, whether it is whole, and what the activations look like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from interp.cli import Answer
from interp.experiment import flags

if TYPE_CHECKING:
    import pandas as pd


def main(argv: Sequence[str], *, prog: str) -> Answer:
    """Parses the arguments and looks."""
    return flags.call(activations, argv, prog=prog)


def activations(
    store: Positional[Path], *, hook: str | None = None, verify: bool = False, unfinished: bool = False, components: int = 10
) -> Answer:
    """What a store holds, and a summary of its activations: norms, outlier dimensions, PCA spectrum, cosine to the mean.

    Args:
        store: the folder of the store
        hook: the hook to summarise; all of them by default
        verify: also read every shard again and compare its checksum
        unfinished: also open a store whose harvest has not come to its end
        components: how many principal components to list
    """
    from interp import activations as room

    opened = room.ActivationStore.open(store, hook=hook, unfinished=unfinished)
    parts = [room.contents(opened).to_string(index=False, header=False)]
    if verify:
        parts.append(f"verified: {opened.verify():,} bytes as they were written")
    for name in opened.hooks if hook is None else (hook,):
        summary = room.summary(opened, name)
        outliers = summary.dimensions.query("outlier")
        parts += [f"{name}\n{_lines(summary.overview, header=False)}"]
        parts += [_lines(summary.spectrum.head(components))]
        parts += [_lines(outliers)] if len(outliers) else []
    return Answer("\n\n".join(parts))


def _lines(table: pd.DataFrame, *, header: bool = True) -> str:
    return table.map(lambda cell: _number(cell) if isinstance(cell, float) else cell).to_string(index=False, header=header)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"
