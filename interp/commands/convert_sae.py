"""`interp convert-sae SRC DST --to LAYOUT`: an autoencoder's files in another library's layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from interp.cli import Answer
from interp.experiment import flags


def main(argv: Sequence[str], *, prog: str) -> Answer:
    """Parses the arguments and converts."""
    return flags.call(convert_sae, argv, prog=prog)


def convert_sae(
    source: Positional[Path],
    target: Positional[Path],
    *,
    to: Literal["saelens", "dictionary_learning", "sparsify"] = "saelens",
    input_scale: float | None = None,
) -> Answer:
    """Reads an autoencoder in the layout of any of these libraries and writes it in that of one.

    Args:
        source: the folder of an autoencoder; its layout is recognised
        target: the folder to write, made if missing
        to: the layout to write; saelens is our own too and takes every architecture
        input_scale: what inputs were multiplied by in training, for SAELens files that want it and do not hold it
    """
    from interp.sae import formats

    before = formats.layout_of(source)
    sae = formats.load(formats.convert(source, target, layout=to, input_scale=input_scale)).sae
    what = f"{type(sae.activation).__name__} with {sae.d_sae:,} latents, {sae.d_in} dimensions"
    return Answer(f"{what}{f' to {sae.d_out}' if sae.transcodes else ''}: {before} to {to}\nwritten: {target}")
