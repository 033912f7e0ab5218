"""`interp rerun RUN`: the same experiment with the same settings again, held against what it found before."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tyro.conf import Positional

from interp.cli import Answer
from interp.commands.compare import claims_table
from interp.commands.ledger import find_run
from interp.errors import ConfigError
from interp.experiment import discovery, flags, manifest, run


def main(argv: Sequence[str], *, prog: str) -> Answer:
    """Parses the arguments and runs again."""
    return flags.call(rerun, argv, prog=prog)


def rerun(target: Positional[str], *, out: Path | None = None) -> Answer:
    """Runs again with the settings of a finished run, and says how the claims compare.

    Args:
        target: a run folder, or an experiment (its newest run)
        out: where the new run goes; the place of the old one when it is not given
    """
    folder = find_run(target, out or flags.REPORTS)
    record, before = manifest.read(folder), run.read_result(folder)
    if record is None:
        raise ConfigError(f"{folder} has no manifest, so it is not known how it was made; start it with `interp run`")
    experiment = discovery.find(record["script"] if Path(record["script"]).is_file() else record["experiment"])
    place = folder.parent.parent if out is None else out
    argv = ["--config", str(folder / "config.yaml"), "--out", str(place), *(["--quick"] if record["quick"] else [])]
    definition = discovery.load(experiment)
    request = flags.parse(experiment, definition, argv, prog="interp rerun")
    outcome = run.execute(experiment, definition, request, command=sys.argv)
    table = claims_table(before, outcome.result)
    return Answer(
        "\n".join([f"{experiment.id}  before | now", *table, "", f"report: {outcome.folder / 'report.html'}"]), outcome.code
    )
