"""`interp show RUN_OR_EXPERIMENT`: what a run found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tyro.conf import Positional

from interp.cli import Answer
from interp.commands.ledger import find_run, ledger
from interp.experiment import flags, manifest, run


def main(argv: Sequence[str], *, prog: str) -> Answer:
    """Parses the arguments and shows."""
    return flags.call(show, argv, prog=prog)


def show(target: Positional[str], *, out: Path = flags.REPORTS) -> Answer:
    """The claims of a run, and what it ran with.

    Args:
        target: a run folder, or an experiment (its newest run)
        out: the folder that holds the runs
    """
    folder = find_run(target, out)
    record = manifest.read(folder)
    rows = {} if record is None else manifest.rows(record)
    width = max(map(len, rows), default=0)
    facts = [f"{name:<{width}}  {value}" for name, value in rows.items()]
    return Answer("\n".join([ledger(run.read_result(folder)), f"report: {folder / 'report.html'}", "", *facts]).rstrip())
