"""`interp index`: the index of all reports, rebuilt from what the runs left behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from interp.cli import Answer
from interp.experiment import flags, run


def main(argv: Sequence[str], *, prog: str) -> Answer:
    """Parses the arguments and rebuilds."""
    return flags.call(index, argv, prog=prog)


def index(*, out: Path = flags.REPORTS) -> Answer:
    """Rebuilds the index of all reports.

    Args:
        out: the folder that holds the runs
    """
    return Answer(f"index: {run.update_index(out)}")
