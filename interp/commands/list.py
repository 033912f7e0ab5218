"""`interp list`: the experiments there are, and how their newest runs ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from interp.cli import Answer
from interp.commands.ledger import counts
from interp.experiment import discovery, flags, run


def main(argv: Sequence[str], *, prog: str) -> Answer:
    """Parses the arguments and lists."""
    return flags.call(list_experiments, argv, prog=prog)


def list_experiments(*, out: Path = flags.REPORTS) -> Answer:
    """All experiments: ID, name, the question each asks, and the verdicts of its newest run.

    Args:
        out: the folder that holds the runs
    """
    found = discovery.discover()
    width = max((len(experiment.name) for experiment in found), default=0)
    lines = []
    for experiment in found:
        runs = run.finished_runs(out, experiment.name)
        newest = f"  [{counts(run.read_result(runs[-1]))}]" if runs else ""
        lines.append(f"{experiment.id:<5} {experiment.name:<{width}}  {experiment.title}{newest}")
    return Answer("\n".join(lines) or f"no experiments in {discovery.folder()}")
