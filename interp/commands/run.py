"""`interp run NAME_OR_ID …`: one experiment, with flags from its settings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from interp.cli import Answer
from interp.commands.ledger import ledger
from interp.errors import ConfigError
from interp.experiment import discovery, flags
from interp.experiment.discovery import Definition, Experiment
from interp.experiment.run import execute


def main(argv: Sequence[str], *, prog: str) -> Answer:
    """Runs the experiment that the first argument names."""
    if not argv or argv[0] in ("-h", "--help"):
        usage = f"usage: {prog} EXPERIMENT [flags]: an ID or name that `interp list` shows, or a script"
        if argv:
            return Answer(f"{usage}\n`{prog} EXPERIMENT --help` lists the flags of an experiment.")
        raise ConfigError(usage)
    if argv[0].startswith("-"):
        raise ConfigError(f"name the experiment before its flags: {prog} EXPERIMENT {' '.join(argv)}")
    experiment = discovery.find(argv[0])
    return run_experiment(experiment, discovery.load(experiment), argv[1:], prog=f"{prog} {argv[0]}")


def run_command(module: Path, definition: Definition, argv: Sequence[str], *, prog: str, subject: str) -> Answer:
    """Runs a command that is an experiment about one thing, as `interp probe STORE …` is: `subject` is the setting that its first
    argument gives.
    """
    if not argv:
        raise ConfigError(f"usage: {prog} {subject.upper()} [flags]; `{prog} --help` lists the flags")
    arguments = list(argv) if argv[0].startswith("-") else [f"--{subject}", *argv]
    return run_experiment(discovery.read(module), definition, arguments, prog=prog)


def run_experiment(experiment: Experiment, definition: Definition, argv: Sequence[str], *, prog: str) -> Answer:
    """Runs with the flags in `argv`, and answers with the claims and where the report is."""
    request = flags.parse(experiment, definition, argv, prog=prog)
    outcome = execute(experiment, definition, request, command=sys.argv)
    kept = ["Finished already with these settings: kept as it is (--resume)."] if outcome.kept else []
    return Answer("\n".join([ledger(outcome.result), *kept, f"report: {outcome.folder / 'report.html'}"]), outcome.code)
